"""Check a hospital's archive of evidence offline, with Python 3.11 and `cryptography`, and nothing of securepfl.

Take it from where securepfl is published, never from the archive, and run: python -I verify_evidence.py --help
Exit code 0: all that was asked for holds; 1: something does not; 2: something to mend here."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # no file beside this one takes a library's place
import argparse, base64, hashlib, json, math, re, struct, zlib
from collections import Counter
from typing import Any

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
except ImportError:
    sys.exit(print("verify_evidence: first do `pip install 'cryptography>=50'`", file=sys.stderr) or 2)

KINDS = "session declared-session reservation settlement reduction expert-release audit withdrawal".split()
LINE, HEADING = b"securepfl ledger signature 1securepfl ledger line, schema 1\n", "# Privacy evidence\n\n"
NEXT, OWNER = "\n## What an attacker can gain\n", ("site", "data_set", "simulation", "seeded")


def need(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len(dict(pairs)) == len(pairs), "it says one thing twice, and readers differ in which they take")
    return dict(pairs)


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive in the one form that securepfl writes: sorted, stored, with nothing beside them."""
    files, entries, at = dict[str, bytes](), [b""], 0
    while data[at : at + 4] == b"PK\3\4" and len(data) >= at + 30 and len(files) < 1000:
        size, length = struct.unpack_from("<IH", data, at + 22)
        start, name = at + 30 + length, data[at + 30 : at + 30 + length].decode("latin-1")
        file = data[start : start + size]
        about = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(file), size, size, length, 0)
        entries.append(b"PK\1\2\x14\3" + about + struct.pack("<3H2I", 0, 0, 0, 0o100644 << 16, at) + name.encode())
        plain = re.fullmatch(r"[A-Za-z_]+\.(md|jsonl?|py)|models/\d+\.md", name) and name > max(files, default="")
        need(plain and data[at + 4 : at + 30] == about, "it is packed in a way that securepfl never packs")
        files[name], at = file, start + size
    end = struct.pack("<4H2IH", 0, 0, len(files), len(files), sum(map(len, entries)), at, 0)
    need(files and data[at:] == b"".join([*entries, b"PK\5\6", end]), "it is no archive of evidence, or not whole")
    return files


def delta_of(epsilon: float, mu: float) -> float:
    """Of Gaussian sums over all units, in which one moves the mean by mu deviations (Balle and Wang 2018)."""
    near, far = ((epsilon / mu + half) / 2**0.5 for half in (-mu / 2, mu / 2))
    without = math.exp(epsilon) * math.erfc(far) if far < 20 else math.exp(-near * near) / far / math.pi**0.5
    return (math.erfc(near) - without) / 2


def read_ledger(data: bytes) -> dict[str, Any]:
    """What a ledger says once its chain, its signatures and its epsilon are checked."""
    hashes, lines, last, counts = ["0" * 64], list[Any](), dict[str, Any](), Counter[tuple[float, float, str]]()
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        lines.append(line := json.loads(raw[: 2**20], object_pairs_hook=once))
        need(line["kind"] in KINDS, f"ledger line {number} is of a kind that is new to this script; take a newer one")
        last = line if "session" in line["kind"] else last
        need(last and line["previous"] == hashes[-1], f"ledger line {number} does not continue the one before")
        line |= {name: last[name] for name in ("run", "data_set", "budget", "public_key")}
        need(all(line[name] == lines[0][name] for name in OWNER), "its ledger mixes hospitals or data sets")
        signed = raw.replace(b'"signature":"%s",' % line["signature"].encode(), b"", 1)
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(last["public_key"]))
        key.verify(bytes.fromhex(line["signature"]), LINE + signed)
        hashes.append(hashlib.sha256(raw).hexdigest())
    reserved = once([(line["id"], line["release"]) for line in lines if line["kind"] == "reservation"])
    counted = reserved | {line["id"]: line["actual"] for line in lines if "actual" in line}
    need(counted.keys() == reserved.keys() > set(), "its ledger reserves nothing, or settles what was not reserved")
    for one in counted.values():
        noise, rate = (one["noise_multiplier"], one["sample_rate"]) if one["mechanism"] == "gaussian" else (1.0, 0.0)
        need(type(n := one["steps"]) is int and n >= 0 <= rate <= 1 and noise > 0, "its ledger holds no real release")
        counts[noise, rate, json.dumps(one | {"steps": 1, "tail": 0})] += n
    facts = {line["run"]: line["facts"] for line in lines if line.get("facts")}
    units = {part["unit"] for one in [*counted.values(), *facts.values()] for part in one.get("candidate", [one])}
    exact, kinds, tests, many, sure = all(rate == 1 for _, rate, _ in counts), sorted((+counts).items()), [1e-9], 0, 0.0
    mu = math.sqrt(math.fsum(n / noise**2 for (noise, rate, _), n in kinds if rate == 1)) or 1e-9
    for (noise, rate, _), n in kinds:  # in half of all draws a unit is in int(sure) of these many steps or more
        many, sure = many + n * math.ceil(rate), sure + n * rate
        tests += [int(sure) / noise / many**0.5] if int(sure) else []  # what a test on their sum shows then
    # Of a mixture a budget holds: the largest, as one that was lowered bounds nothing that was before.
    most, delta = (max(line["budget"][name] for line in lines) for name in ("epsilon", "delta"))
    spent, mixed = (line["epsilon"], line["budget"]["delta"]), len(kinds) > 1 and not exact
    for e, d in {spent, holds := (most, 2 * delta) if mixed else spent}:
        need(0 <= e < math.inf and 0 < d < 1, "its ledger states an epsilon or delta that is none")
        least = max(delta_of(e, mu), *(delta_of(e + math.log(2), mean) / 2 for mean in tests))
        need(least <= d * 1.001, f"its ledger spent more than the epsilon that it states, {e:.6g}")
    need(f"{line['site']}{line['data_set']}{line['time']}".isprintable(), "its ledger has a name that hides something")
    need(units in ({"record"}, {"patient"}), "its ledger counts by several units")
    told = {name: line[name] for name in (*OWNER, "epsilon", "time", "budget")} | {"holds": holds, "hashes": hashes[1:]}
    told |= {"unit": units.pop(), "mu": mu if exact else None, "mixed": mixed, "facts": facts}
    told |= {"reduced": sum(counted[id_] != reserved[id_] for id_ in counted), "keys": [o["public_key"] for o in lines]}
    of = {kind: [(n, o["run"]) for n, o in enumerate(lines, 1) if o["kind"] == kind] for kind in KINDS}
    return told | {"released": of["expert-release"], "withdrawn": len(of["withdrawal"])}


def words(told: dict[str, Any]) -> str:
    """What a ledger's figures mean: README.md begins with it."""
    unit, budget, (epsilon, delta), mu = told["unit"], told["budget"], told["holds"], told["mu"]
    said: str = "**A simulation: it shows what settings cost, and nothing about any hospital.** " * told["simulation"]
    said += "**Its noise was seeded and can be made again: it protects nobody.** " * told["seeded"]
    said += f"By line {len(told['hashes'])} of its ledger ({told['time']}), {told['site']} had spent epsilon "
    said += f"{told['epsilon']:.6g} of {budget['epsilon']:g} at delta {budget['delta']:g}, counted for one {unit} of "
    said += f"data set {told['data_set']}. "
    said += f"{told['reduced']} releases count for less than was reserved, on its word. " * bool(told["reduced"])
    said += f"{told['withdrawn']} withdrawals of consent stand in it. " * bool(told["withdrawn"])
    said += f"As its kinds of release vary, what holds is epsilon {epsilon:g} at delta {delta:g}. " * told["mixed"]
    said += f"An attacker who knows all but whether one {unit}'s data or zeros in their place are in, and thinks both "
    wrong = (1 - delta) / (1 + math.exp(min(epsilon, 700)))  # limits on being right are rounded up
    said += f"as likely, guesses right with probability {math.ceil(1e4 - 1e4 * wrong) / 1e4:.4f} at most"
    said += f" ({math.ceil(5e3 * math.erfc(-mu / 8**0.5)) / 1e4:.4f} by the noise on its lines)" if mu else ""
    return said + "; 0.5 is a mere guess.\n"


def check(data: bytes, keys: set[str], heads: dict[str, Any] | None) -> str:
    files = unpack(data)
    sealed, form = files.pop("manifest.json"), r'\A\{\n "identity": "([0-9a-f]+)",\n "signature": "([0-9a-f]+)"\n\}\n\Z'
    need(sheet := re.findall(form, files.pop("signature.json").decode()), "signature.json holds more than a signature")
    identity, signature = map(bytes.fromhex, sheet[0])
    at, message = 1 + identity[0], b"securepfl signature 1\0\0\0\x0aevidence 1" + hashlib.sha256(sealed).digest()
    ed25519.Ed25519PublicKey.from_public_bytes(identity[at : at + 32]).verify(signature[:64], message)
    mldsa.MLDSA65PublicKey.from_public_bytes(identity[at + 32 : at + 1984]).verify(signature[64:], message)
    digest = base64.b32encode(hashlib.sha256(b"securepfl identity 1" + identity).digest()[:20]).decode()
    signer, key = "-".join(re.findall("....", digest)), identity[at:][:32].hex()
    need(not keys or keys & {signer.lower(), key}, f"it is signed by {signer}, ledger key {key}: by no --key")
    manifest = json.loads(sealed[: 2**20], object_pairs_hook=once)
    found = {name: hashlib.sha256(its).hexdigest() for name, its in files.items()} | {"signature.json": signer}
    need(not (wrong := sorted(dict(found.items() ^ manifest["files"].items()))), f"not as it was signed: {wrong}")
    told = read_ledger(files["ledger.jsonl"])
    need(identity[1:at].decode() == told["site"], "its ledger is another hospital's")
    ours = {*told["keys"]} <= {key, *keys} and told["keys"][-1] == key
    need(told["simulation"] or ours, "its ledger has other signers; give --key for each, and sign by the last")
    named = told["facts"][manifest["run"]]["settings"] if manifest["run"] in told["facts"] else None
    need(named == found["settings.json"], "settings.json is not what its ledger names")
    need(files["README.md"].decode().startswith(HEADING + words(told) + NEXT), "README.md says other than its ledger")
    cards = sorted(f"models/{n}.md" for n, run in told["released"] if run == manifest["run"])
    need(cards == [name for name in files if "/" in name], "a model has no card, or a card no model")
    stated = heads and (heads["heads"] if isinstance(heads.get("schema"), int) else heads).get(told["site"])
    seen = {stated} if isinstance(stated, str) else {*(stated or ())}
    need(seen or heads is None, "--heads says nothing of its ledger")
    need(seen <= {*told["hashes"]}, "--heads: others saw lines that its ledger lacks")
    said = "" if keys else "THE SIGNER IS NOT VERIFIED: without --key, anybody could have made this archive.\n"
    said += f"Signed by {told['site']}, fingerprint {signer}, ledger key {key}.\n{words(told)}All files and lines hold"
    said += ". " if told["mu"] else "; epsilon is the ledger's own word: `securepfl audit verify` computes it. "
    said += f"By --heads none is missing up to line {max(map(told['hashes'].index, seen)) + 1}; l" if seen else "L"
    same = hashlib.sha256(open(__file__, "rb").read()).hexdigest() == found["verify_evidence.py"]
    return said + f"ines cut off at the end do not show.\nThe archive holds {'this' if same else 'ANOTHER'} script."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check a hospital's archive of evidence, offline.")
    parser.add_argument("archive", type=argparse.FileType("rb"))
    parser.add_argument("--key", action="append", default=[], help="the hospital's fingerprint or ledger key: ask it")
    parser.add_argument("--heads", type=argparse.FileType("rb"), help="what others saw of its ledger (heads.json)")
    about, code = (asked := parser.parse_args()).heads, 2
    try:
        heads = dict(json.load(asked.heads, object_pairs_hook=once)) if asked.heads else None
        about, code = asked.archive, 1
        shown = check(asked.archive.read(2**26), {*map(str.lower, asked.key)}, heads)
        print(shown.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8"))
    except Exception as error:
        known = {InvalidSignature: "a signature does not hold", KeyError: f"it lacks {error}"}
        told = known.get(type(error), str(error) or repr(error))
        sys.exit(print(f"verify_evidence: {about.name}: {told}", file=sys.stderr) or code)
