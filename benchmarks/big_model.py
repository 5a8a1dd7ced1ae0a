"""What a big model takes in memory: the peak of every party at every step of an encrypted round, beside the model.

    python benchmarks/big_model.py [--parameters 100000000] [--scheme tenseal] [--hospitals 4] [--contributions 3]

Each party is a process of its own: the hospitals that encrypt and seal a contribution, one after the other; the hub,
with its folder, that takes them and answers; a hospital that opens and decrypts its answer. Nobody trains: an update is
drawn at random, in place of what training would leave in double precision. What is printed is the peak of the resident
memory within each step (VmHWM, which is reset before it), all of it and what the step adds to where it began, over the
model in single precision (4 bytes a parameter).
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import numpy as np

Result = TypeVar("Result")
SEAT = "alder"
"""The hospital whose answer is opened."""


class Step(msgspec.Struct):
    """One step of one party: seconds, and resident bytes before it and at its peak."""

    party: str
    step: str
    seconds: float
    before: int
    peak: int


class Words(msgspec.Struct):
    """What the processes are told. The keys serve this measurement alone."""

    federation: Any
    root_key: bytes
    ring_keys: list[bytes]
    privates: dict[str, bytes]
    hub: bytes
    contributions: int


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise click.ClickException(f"/proc/self/status has no {name}: this measures on Linux alone")
    return int(found[1]) * 1024


class Watch:
    """Measures the steps of one party."""

    def __init__(self, party: str) -> None:
        self.party, self.steps = party, list[Step]()

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """What `work` gives, measured."""
        Path("/proc/self/clear_refs").write_text("5")
        before, started = resident("VmRSS"), time.perf_counter()
        result = work()
        self.steps.append(Step(self.party, name, time.perf_counter() - started, before, resident("VmHWM")))
        return result


class Parties:
    """The parties of the words in `folder`, as each process makes them."""

    def __init__(self, folder: Path) -> None:
        from securepfl.crypto.keys.identity import Identity  # noqa: PLC0415
        from securepfl.crypto.keys.keys import FederationKey, Keyring  # noqa: PLC0415
        from securepfl.settings.federation import Federation  # noqa: PLC0415

        words = msgspec.msgpack.decode((folder / "words").read_bytes(), type=Words)
        self.folder, self.contributions = folder, words.contributions
        self.federation = msgspec.convert(words.federation, Federation)
        self.hub = Identity.from_private_bytes("hub", words.hub)
        people = {name: Identity.from_private_bytes(name, private) for name, private in words.privates.items()}
        self.public = {name: identity.public for name, identity in people.items()}
        self.key = FederationKey(0, words.root_key, *words.ring_keys)
        self.keyrings = {
            name: Keyring(identity, self.key, self.hub.public, self.public, {}) for name, identity in people.items()
        }

    def coordinator(self) -> Any:
        """The hub's, on its folder."""
        from securepfl.coordinator.coordinator import Coordinator  # noqa: PLC0415

        return Coordinator(
            self.federation,
            self.hub,
            self.public,
            key_commitment=self.key.commitment,
            folder=self.folder / "hub",
            run=bytes(16),
        )

    def session(self, name: str) -> Any:
        """A hospital's, in the run."""
        from securepfl.client.round import Session  # noqa: PLC0415

        return Session.of(self.federation, self.keyrings[name], None).joining(bytes(16))

    def channel(self) -> Any:
        """How updates travel."""
        from securepfl.protocol.channels import SumChannel  # noqa: PLC0415

        return SumChannel.open(self.federation, self.key)["update"]


def contribute(parties: Parties, name: str, watch: Watch) -> None:
    """A hospital's way out: an update in, a sealed message out."""
    from securepfl.client.contributing import signed_contribution  # noqa: PLC0415
    from securepfl.protocol.channels import round_context  # noqa: PLC0415
    from securepfl.protocol.messages import NONCE_BYTES, Contribution  # noqa: PLC0415
    from securepfl.randomness import RandomStream, fresh_key  # noqa: PLC0415

    session, channel = parties.session(name), parties.channel()
    size = parties.federation.shape.shared
    draw = np.random.default_rng(sum(name.encode()))
    values = watch.step("has an update", lambda: np.clip(draw.standard_normal(size) * 1e-3, -0.4, 0.4))
    context = round_context(session.digest, "update", 1)
    encoded = watch.step("encrypts", lambda: channel.encode(values, name, context, RandomStream(fresh_key())))
    body = Contribution(
        update=encoded.data,
        personal=None,
        sketch=None,
        neighbours={},
        head="0" * 64,
        nonce=bytes(NONCE_BYTES),
        state="0" * 64,
        masks=None,
        stands=b"",
    )
    del encoded

    def sealed() -> bytes:
        class Place:
            number = 1

        Place.session = session  # type: ignore[attr-defined]
        message: bytes = session.message(1, signed_contribution(Place, body))  # type: ignore[arg-type]
        return message

    (parties.folder / f"from-{name}").write_bytes(watch.step("seals", sealed))


def coordinate(parties: Parties, watch: Watch) -> None:
    """The hub's round."""
    coordinator = parties.coordinator()
    coordinator.invite()
    for name in parties.federation.roster[: parties.contributions]:
        message = watch.step(f"has {name}'s message", (parties.folder / f"from-{name}").read_bytes)
        watch.step(f"takes {name}'s", lambda message=message: coordinator.receive(message))
        del message
    answers = watch.step("adds, seals and stores", coordinator.close)
    for name in parties.federation.roster[:2]:
        answer = watch.step(f"has {name}'s answer", lambda name=name: answers[name])
        (parties.folder / f"to-{name}").write_bytes(answer)
        del answer
    coordinator.stop()


def apply(parties: Parties, watch: Watch) -> None:
    """A hospital's way in: a sealed answer in, the mean update out."""
    from securepfl.crypto.messages.envelope import Kind, open_message  # noqa: PLC0415
    from securepfl.protocol.bounds import SumBound  # noqa: PLC0415
    from securepfl.protocol.channels import round_context  # noqa: PLC0415
    from securepfl.protocol.messages import Answer, decode  # noqa: PLC0415

    session, channel = parties.session(SEAT), parties.channel()
    size = parties.federation.shape.shared
    message = watch.step("has the answer", (parties.folder / f"to-{SEAT}").read_bytes)

    def opened() -> Answer:
        _, data = open_message(
            message,
            session.keyring.identity,
            [session.keyring.coordinator],
            kinds=(Kind.ANSWER,),
            federation_digest=session.base,
            run=session.run,
            round=1,
            max_bytes=session.most_bytes,
        )
        return decode(data, Answer)

    body = watch.step("opens it", opened)
    bound = SumBound.over(parties.federation, body.survivors, round_=1, values=size, largest=1.0)
    weights, context = dict.fromkeys(body.survivors, 1), round_context(session.digest, "update", 1)
    mean = watch.step("decrypts it", lambda: channel.mean(body.aggregate, weights, context, size, bound=bound))
    expected = np.zeros(1000)
    for name in body.survivors:
        draw = np.random.default_rng(sum(name.encode()))
        expected += np.clip(draw.standard_normal(1000) * 1e-3, -0.4, 0.4)
    if np.abs(mean[:1000] - expected / len(weights)).max() > 2e-3:
        raise click.ClickException("the mean is not that of the updates")


def words_of(parameters: int, scheme: str, hospitals: int, contributions: int) -> Words:
    """A federation of one dense model, and keys for it."""
    from torch import nn  # noqa: PLC0415

    from securepfl.crypto.keys.identity import Identity  # noqa: PLC0415
    from securepfl.crypto.keys.keys import FederationKey  # noqa: PLC0415
    from securepfl.settings.federation import Federation  # noqa: PLC0415

    names = (SEAT, "birch", "cedar", "damson", "elm", "fir", "gean", "hazel")[:hospitals]
    tables = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": scheme}, "coupling": {"strength": 0.0}}
    tables |= {"similarity": {"every": 0}, "privacy": {"epsilon": 4.0, "budget": 10.0}}
    bound = Federation.from_mapping(tables).bound(names, lambda: nn.Linear(8, 1), units=400)
    if bound.shape is None:
        raise click.ClickException("the federation is not bound")
    shape = msgspec.structs.replace(bound.shape, shared=parameters)
    key = FederationKey.generate(encrypted=bound.scheme.encrypted)
    return Words(
        federation=msgspec.to_builtins(msgspec.structs.replace(bound, shape=shape)),
        root_key=bytes(key.root_key),
        ring_keys=[bytes(ring) for ring in (key.he_key, key.similarity_he_key) if ring],
        privates={name: bytes(Identity.generate(name).to_private_bytes()) for name in names},
        hub=bytes(Identity.generate("hub").to_private_bytes()),
        contributions=contributions,
    )


def measured(folder: Path, *party: str) -> list[Step]:
    """One party's steps, in a process of its own."""
    command = [sys.executable, __file__, "--party", ":".join(party), "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603
    if done.returncode:
        raise click.ClickException(f"{' '.join(party)} failed")
    return msgspec.json.decode(done.stdout, type=list[Step])


def show(steps: list[Step], parameters: int) -> None:
    """A line a step."""
    size = 4 * parameters
    print(f"{parameters:,} parameters, {size / 1e6:,.0f} MB in single precision; peaks over that\n")
    print("| party | step | seconds | peak | more than before |\n|---|---|---|---|---|")
    for its in steps:
        peak, more = its.peak / size, (its.peak - its.before) / size
        print(f"| {its.party} | {its.step} | {its.seconds:.1f} | {peak:.2f} | {more:.2f} |")


@click.command()
@click.option("--parameters", default=100_000_000, show_default=True)
@click.option("--scheme", default="tenseal", show_default=True)
@click.option("--hospitals", default=4, show_default=True, type=click.IntRange(3, 8))
@click.option("--contributions", default=3, show_default=True, type=click.IntRange(3, 8))
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--party", hidden=True)
def main(
    parameters: int, scheme: str, hospitals: int, contributions: int, folder: Path | None, party: str | None
) -> None:
    """Measure every party."""
    if party is not None and folder is not None:
        role, _, name = party.partition(":")
        watch, parties = Watch(party.replace(":", " ")), Parties(folder)
        if role == "hospital":
            contribute(parties, name, watch)
        elif role == "hub":
            coordinate(parties, watch)
        else:
            apply(parties, watch)
        sys.stdout.buffer.write(msgspec.json.encode(watch.steps))
        return
    with tempfile.TemporaryDirectory(prefix="big_model_") as made:
        words = words_of(parameters, scheme, hospitals, contributions)
        (Path(made) / "words").write_bytes(msgspec.msgpack.encode(words))
        names = sorted(words.privates)[:contributions]
        steps = [its for name in names for its in measured(Path(made), "hospital", name)]
        steps += measured(Path(made), "hub") + measured(Path(made), "receiver")
    show(steps[: len(steps)], parameters)


if __name__ == "__main__":
    main()
