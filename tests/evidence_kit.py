"""A real federation's run, its archives in hostile hands, and a stranger who checks them without securepfl."""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import cffi
import cryptography
import msgspec
from enrolled import PASSPHRASE, World

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.privacy.ledger.lines import decode_line, encode_line, signed_message
from securepfl.protocol.rounds import drive
from securepfl.report.evidence import verify_evidence
from securepfl.report.evidence.archive import archive_of
from securepfl.report.evidence.verify_evidence import HEADING, NEXT, read_ledger, unpack, words
from securepfl.runtime.opening import open_client
from securepfl.runtime.own_result import write_own

SCRIPT = Path(verify_evidence.__file__)


def whole_run(world: World) -> None:
    """All rounds of a world's federation, and what each hospital writes at their end."""
    opened = {
        name: open_client(
            world.config,
            world.data(name),
            world.folder(name),
            PASSPHRASE,
            world.out(name),
            ledgers=ledgers_of(world, name),
            device="cpu",
        )
        for name in world.names
    }
    clients = {name: its.client for name, its in opened.items()}
    hub, federation = world.holdings("hub"), clients[world.names[0]].federation
    people, commitment = hub.epoch().hospitals, hub.epoch().commitment
    coordinator = Coordinator(federation.without_budgets(), hub.identity, people, key_commitment=commitment)
    while coordinator.closed < federation.rounds:
        drive(coordinator, Carrier(clients))
    for name, its in opened.items():
        write_own(its, world.out(name))
        its.client.close()
    (world.root / "heads.json").write_text(json.dumps(dict(coordinator.heads)))
    coordinator.stop()


@dataclass
class Carrier:
    """Brings messages to the clients."""

    clients: dict

    def ask(self, name: str, message: bytes) -> bytes:
        return self.clients[name].handle(message)


def ledgers_of(world: World, name: str) -> Path:
    return world.root / f"{name}-ledgers"


@dataclass
class Stranger:
    """Somebody with Python, cryptography and the script, and no securepfl. `folder` is theirs."""

    folder: Path
    script: Path = field(init=False)

    def __post_init__(self) -> None:
        self.script = self.folder / "verify_evidence.py"
        self.script.write_bytes(SCRIPT.read_bytes())
        libraries = self.folder / "libraries"
        libraries.mkdir()
        for package in (cryptography, cffi):
            path = Path(package.__file__).parent
            (libraries / path.name).symlink_to(path)
        for path in Path(cffi.__file__).parents[1].glob("_cffi_backend*.so"):
            (libraries / path.name).symlink_to(path)
        self.before = f"import sys; sys.path.append({str(libraries)!r}); "

    def runs(self, code: str, *words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-I", "-S", "-c", self.before + code, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)

    def checks_all(self, *cases: tuple) -> list["Said"]:
        """What the script does with each (archive, words ...), run as a program, one after the other in one process."""
        asked = []
        for number, (archive, *options) in enumerate(cases):
            path = self.folder / f"archive-{number}.zip"
            path.write_bytes(archive)
            asked.append([str(self.script), str(path), *map(str, options)])
        done = self.runs(_EACH, json.dumps(asked))
        assert done.returncode == 0, done.stderr
        return [Said(*one) for one in json.loads(done.stdout)]

    def checks(self, archive: bytes, *words: object) -> "Said":
        return self.checks_all((archive, *words))[0]

    def refuses_all(self, *cases: tuple) -> list[str]:
        """What the script says of archives that it refuses: a line each."""
        found = self.checks_all(*cases)
        for said in found:
            assert (said.code, said.out) == (1, ""), said
            assert said.err.count("\n") == 1 and said.err.startswith("verify_evidence: "), said
        return [said.err for said in found]

    def refuses(self, archive: bytes, *words: object) -> str:
        return self.refuses_all((archive, *words))[0]


@dataclass(frozen=True)
class Said:
    """A program's end: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


_EACH = """
import contextlib, io, json, runpy
found = []
for words in json.loads(sys.argv[1]):
    sys.argv, out, err, code = words, io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    found.append([code, out.getvalue(), err.getvalue()])
assert "securepfl" not in sys.modules
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Opened:
    """An archive taken apart, to be put together again by whoever signs."""

    files: dict[str, bytes]

    @classmethod
    def of(cls, archive: bytes) -> "Opened":
        return cls(unpack(archive))

    @property
    def manifest(self) -> dict:
        return json.loads(self.files["manifest.json"])

    def signed(self, identity, *, without: str = "", **changed: bytes) -> bytes:
        """All of it, with files changed (`README`, `ledger`, ... without their endings), `without` those whose names
        begin so, signed by `identity`.
        """
        ends = {Path(name).stem: name for name in self.files} | {"ledger": "ledger.jsonl"}
        left = ("manifest.json", "signature.json", *([without] if without else []))
        files = {n: data for n, data in self.files.items() if not n.startswith(left)}
        files |= {ends[stem]: data for stem, data in changed.items()}
        return archive_of(files, self.manifest["run"], identity)

    def told_anew(self, identity, ledger: bytes, **options) -> bytes:
        """With another ledger, and a README that says of it what the script would."""
        rest = self.files["README.md"].decode().partition(NEXT)[2]
        readme = f"{HEADING}{words(read_ledger(ledger))}{NEXT}{rest}".encode()
        return self.signed(identity, ledger=ledger, README=readme, **options)


def written_again(ledger: bytes, identity, change) -> bytes:
    """The ledger after `change` (line -> its new fields), chained and signed anew by who has the key."""
    signer, previous, made = LedgerSigner(identity, trusting=True), "0" * 64, []
    for index, raw in enumerate(ledger.removesuffix(b"\n").split(b"\n")):
        line = decode_line(raw)
        line = msgspec.structs.replace(line, index=index, previous=previous, **change(line))
        line = msgspec.structs.replace(line, signature=signer.sign(signed_message(line)).hex())
        made.append(encode_line(line))
        previous = hashlib.sha256(made[-1]).hexdigest()
    return b"\n".join(made) + b"\n"
