"""A coordinator that can be killed: a process that forks one process a life, so that a restart costs no import.

    python killed_coordinator.py CONTROL FOLDER < WORDS

Its identity is made here and never leaves. It says its public identity on the socket CONTROL. For each socket that
comes there it forks a Coordinator on FOLDER that answers requests on it, and says its process id and, once it is dead,
its exit status. WORDS, requests and replies are MessagePack; requests and replies are frames: a length, bytes.
"""

import os
import socket
import struct
import sys
import traceback
from pathlib import Path

import msgspec

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.errors import MessageError
from securepfl.settings.federation import Federation

FRAME = struct.Struct(">I")
NUMBER = struct.Struct(">i")
STEPS = ("owed", "invite", "fix_survivors", "unmask", "close", "settle")
"""Requests that give messages; the others are "receive" and "report"."""


class Words(msgspec.Struct):
    """What the nursery is told: it learns no key."""

    federation: Federation
    hospitals: list[bytes]
    key_commitment: bytes


def send(link: socket.socket, body: object) -> None:
    data = msgspec.msgpack.encode(body)
    link.sendall(FRAME.pack(len(data)) + data)


def receive(link: socket.socket):
    """One frame; EOFError where the other side is gone."""
    (size,) = FRAME.unpack(_exactly(link, FRAME.size))
    return msgspec.msgpack.decode(_exactly(link, size))


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += part
    return data


def answer(coordinator: Coordinator, verb: str, body: bytes):
    if verb in STEPS:
        return dict(getattr(coordinator, verb)())
    if verb == "receive":
        return coordinator.receive(body)
    current = coordinator.open_round
    return {
        "run": coordinator.rules.run,
        "closed": coordinator.closed,
        "over": coordinator.over,
        "ended": coordinator.ended,
        "settled": coordinator.settled,
        "open": None if current is None else current.number,
        "salt": None if current is None else current.salt,
        "evidence": len(coordinator.evidence),
        "parts": coordinator.parts,
    }


def live(link: socket.socket, identity: Identity, words: Words, folder: Path) -> None:
    """One life: until it is killed, or the other side hangs up."""
    hospitals = {public.name: public for public in map(PublicIdentity.from_bytes, words.hospitals)}
    coordinator = Coordinator(words.federation, identity, hospitals, key_commitment=words.key_commitment, folder=folder)
    send(link, "ready")
    while True:
        try:
            verb, body = receive(link)
        except EOFError:
            return coordinator.stop()
        try:
            send(link, [answer(coordinator, verb, body), ""])
        except MessageError as error:
            send(link, [None, str(error)])


def main() -> None:
    control, folder = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    identity = Identity.generate("coordinator")
    control.send(identity.public.to_bytes())
    words = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Words)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 16, 1)
        if not data:
            return
        link = socket.socket(fileno=descriptors[0])
        life = os.fork()
        if life == 0:
            control.close()
            live_and_exit(link, identity, words, folder)
        link.close()
        control.send(NUMBER.pack(life))
        control.send(NUMBER.pack(os.waitpid(life, 0)[1]))


def live_and_exit(link: socket.socket, identity: Identity, words: Words, folder: Path) -> None:
    """A forked process must not go on where its parent was."""
    status = 1
    try:
        live(link, identity, words, folder)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


if __name__ == "__main__":
    main()
