"""What hostile messages may cost in memory.

Declared: bytes longer than any genuine message are refused without a copy; bytes that no enrolled party signed cost
COPIES times the bound on a message (Layouts.most_bytes); what an enrolled party signed, decoded, EXPANSION times. FIXED
covers keys, tracebacks and the error's text.

Peaks are tracemalloc's: every Python object, every numpy array and msgspec's buffers count there to the byte, and
nothing of what ran before, as the resident set would show. What is reserved and never touched doesn't count there, so
huge declared lengths are read once more in a process with hardly any address space left.
"""

import subprocess
import sys
import textwrap
import tracemalloc

import msgspec
import pytest
from fuzz.mutator import Mutator
from fuzz.stage import Stage

from securepfl.crypto.messages.envelope import Kind, longest
from securepfl.errors import SecurePFLError

COPIES, EXPANSION, FIXED = 6, 26, 2**18
"""A list of two-letter names takes 3 bytes each as MessagePack, and 67 as Python strings: some 22 times."""

HUGE = [
    header + length + b"\x00" * 8
    for header, length in [
        (b"\xdd", b"\xff\xff\xff\xff"),
        (b"\xdd", b"\x05\xf5\xe1\x00"),
        (b"\xdf", b"\xff\xff\xff\xff"),
        (b"\xc6", b"\xff\xff\xff\xff"),
        (b"\xdb", b"\x7f\xff\xff\xff"),
        (b"\xc9", b"\xff\xff\xff\xff\x01"),
        (b"\xdc", b"\xff\xff"),
    ]
]
"""Arrays, maps, bytes, text and extensions that declare far more than follows."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    stage = Stage.open(tmp_path_factory.mktemp("memory"), similarity={"every": 1, "beside_masks": True})
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def targets(stage):
    """Two receivers: a hospital before the invitation, a coordinator before a contribution."""
    walk = stage.round()
    found = {}
    for target in walk:
        found[target.kind] = target
        if target.kind == Kind.CONTRIBUTION:
            break
    return found


def peak(deliver, message):
    """Bytes allocated at most while `message` is refused."""
    tracemalloc.start()
    try:
        deliver(message)
        raise AssertionError("not refused")
    except SecurePFLError:
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bytes_beyond_the_bound_are_refused_without_a_copy(stage, targets):
    most = longest(stage.coordinator.rules.most_bytes)
    target = targets[Kind.CONTRIBUTION]
    for size in (most + 1, 10 * most, 100 * most):
        for start in (target.message, b""):
            hostile = start + bytes(size - len(start))
            assert peak(target.deliver, hostile) < 2**14
    assert peak(stage.clients["alder"].apply, bytes(100 * most)) < 2**14


def test_unsigned_bytes_cost_a_few_copies_of_the_bound(stage, targets, record_property, capsys):
    most, target = stage.coordinator.rules.most_bytes, targets[Kind.CONTRIBUTION]
    mutator, head = Mutator(1), target.header.to_bytes()
    full = head + target.receiver.seal(mutator.random.randbytes(most), info=head)
    altered = target.message[:-1] + bytes((target.message[-1] ^ 1,))
    messages = [full, head + bytes(most), altered, target.forged(mutator)]
    messages += [mutator.message(target.message, [target.message], target.genuine)[1] for _ in range(200)]
    figures = [peak(target.deliver, message) for message in messages]
    said(capsys, record_property, "unsigned bytes", figures, most, COPIES)
    assert max(figures) <= COPIES * most + FIXED


def stuffed(most):
    """MessagePack of just below the bound that decodes to as much as possible, or nests as deep as possible."""
    names = [f"{index % 90 + 33:c}{index // 90 % 90 + 33:c}" for index in range(most // 3 - 20)]
    many = {f"{index:x}": b"" for index in range(most // 8)}
    bodies = [{name: names} for name in ("survivors", "roster", "neighbours")]
    bodies += [{name: many} for name in ("nonces", "signatures", "products")]
    bodies += [
        {"update": bytes(most - 100)},
        {"blobs": [b""] * (most // 2 - 100)},
        {"masks": {"blobs": [b""] * (most // 3)}},
    ]
    deep = [b"\x81\xa1x" + nest * ((most - 10) // len(nest)) for nest in (b"\x91", b"\x81\xa1a")]
    fields = (b"neighbours", b"survivors", b"blobs", b"nonces", b"masks", b"update", b"roster", b"surprise")
    named = [bytes((0x81, 0xA0 + len(name))) + name for name in fields]
    return [
        *map(msgspec.msgpack.encode, bodies),
        *deep,
        *(start + b"\x91" * 10_000 for start in named),
        *(start + huge for start in named for huge in HUGE),
        *HUGE,
    ]


def test_signed_bodies_cost_a_bounded_multiple_of_the_bound(stage, targets, record_property, capsys):
    most, figures = stage.coordinator.rules.most_bytes, []
    for kind, target in targets.items():
        for body in stuffed(most):
            assert len(body) <= most, f"{kind}: beyond the bound, so not read at all"
            figures.append(peak(target.deliver, target.sealed(body)))
    said(capsys, record_property, "signed bodies", figures, most, EXPANSION)
    assert max(figures) <= EXPANSION * most + FIXED
    assert max(figures) > 10 * most, "nothing was decoded: the figures say nothing"


def said(capsys, record_property, what, figures, most, factor):
    line = f"{what}: peak {max(figures)} bytes of {factor} x {most} + {FIXED} declared ({len(figures)} messages)"
    record_property(what, line)
    with capsys.disabled():
        print(f"\n{line}")


SCRIPT = """
import re, resource, sys
from pathlib import Path
from securepfl.protocol import messages
from securepfl.errors import MessageError

size = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))
kinds = [getattr(messages, name) for name in
         ("Invitation", "Contribution", "Decline", "Survivors", "Agreement", "Unmask", "Reveal", "Answer")]
read = 0
for line in sys.stdin:
    for kind in kinds:
        for field in (None, *kind.__struct_fields__):
            start = b"" if field is None else bytes((0x81, 0xA0 + len(field))) + field.encode()
            try:
                messages.decode(start + bytes.fromhex(line), kind)
            except MessageError:
                read += 1
try:
    bytearray(2**27)
except MemoryError:
    print(read)
"""


def test_huge_declared_lengths_reserve_nothing():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        input="\n".join(huge.hex() for huge in HUGE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 30 * len(HUGE), "every one refused, and the limit was in force"
