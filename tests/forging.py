"""What dishonest parties make: messages of their own, well signed and sealed, and what an honest receiver opens."""

from dataclasses import replace

import msgspec

from securepfl.client.round import Round
from securepfl.coordinator.answering import Answering
from securepfl.crypto.messages.envelope import Header, Kind, open_message, seal_message
from securepfl.protocol.channels import run_digest
from securepfl.protocol.messages import (
    Body,
    Contribution,
    decode,
    encode,
)
from securepfl.protocol.standing import digests_of, parts_of, sign_parts

BODIES = {form.kind: form for form in Body.__subclasses__() if hasattr(form, "kind")}


def opened_by_hospital(client, message):
    """(round, body) of a message of the coordinator's to a hospital."""
    return Round.open(client.session, message, BODIES[Header.from_bytes(message).kind], client.state)


def opened_by_coordinator(coordinator, message):
    """The body of a hospital's message in the open round."""
    kind = Header.from_bytes(message).kind
    _, data = open_message(
        message,
        coordinator.identity,
        coordinator.hospitals,
        kinds=(kind,),
        federation_digest=coordinator.rules.base,
        run=coordinator.rules.run,
        round=(coordinator.open_round or coordinator.answered).number,
        max_bytes=10**7,
    )
    return decode(data, BODIES[kind])


def to_hospital(coordinator, name: str, body: Body, number=None, signer=None, **header) -> bytes:
    """The coordinator's message to hospital `name`, in the open round; or `signer`'s, who is somebody else."""
    signer = signer or coordinator.identity
    receiver = coordinator.hospitals[name]
    place = Header(
        kind=body.kind,
        federation_digest=coordinator.rules.base,
        run=coordinator.rules.run,
        round=coordinator.open_round.number if number is None else number,
        attempt=0,
        sender=signer.public.fingerprint,
        receiver=receiver.fingerprint,
    )
    return seal_message(replace(place, **header), encode(body), signer, receiver)


def to_coordinator(client, body: Body | bytes, kind: Kind | None = None, run: bytes | None = None) -> bytes:
    """A hospital's message in the round that it takes next, of its run or `run`; bytes are sealed as they are. A
    contribution is signed anew: a dishonest hospital stands by whatever it sends.
    """
    keyring = client.session.keyring
    if isinstance(body, Contribution):
        body = stood_by(client, body, client.session.run if run is None else run)
    header = Header(
        kind=body.kind if kind is None else kind,
        federation_digest=client.session.base,
        run=client.session.run if run is None else run,
        round=client.round + 1,
        attempt=0,
        sender=keyring.identity.public.fingerprint,
        receiver=keyring.coordinator.fingerprint,
    )
    data = body if isinstance(body, bytes) else encode(body)
    return seal_message(header, data, keyring.identity, keyring.coordinator)


def stood_by(client, body: Contribution, run: bytes) -> Contribution:
    """The contribution with the client's signature over its parts in the round that it takes next."""
    digests = digests_of(parts_of(body), b"" if body.masks is None else body.masks.commitments)
    identity, digest = client.session.keyring.identity, run_digest(client.session.base, run)
    return msgspec.structs.replace(body, stands=sign_parts(identity, digest, client.round + 1, digests))


def falsify_answers(patch, **changes) -> None:
    """From here on the coordinator answers everybody with some fields replaced."""
    honest = Answering.answer
    patch.setattr(Answering, "answer", lambda self, *asked: msgspec.structs.replace(honest(self, *asked), **changes))


def sum_of(scheme, layout, updates, weights=None, off=0) -> bytes:
    """The sum that hospitals would be answered over `updates`, with its first word `off` by so much."""
    wire, total = scheme.wire(layout), scheme.total(layout)
    weights = [1] * len(updates) if weights is None else weights
    for update, weight in zip(updates, weights, strict=True):
        total._take(*wire.read_contribution(update), weight)  # past the checks of how many there are
    carried, words = total._summed(None)
    words[0] = (int(words[0]) + off) % wire.modulus
    return wire.answer(weights, carried, words)
