"""A hospital that can be killed: a process that forks one process a life, so that a restart costs no import.

    python killed_party.py CONTROL FOLDER SETTINGS < PASSPHRASE

It loads the keys of FOLDER once. For each word on the socket CONTROL (a JSON object: `epoch`, `folder`, `ledgers`),
which brings a life's own socket with it, it forks a Client that answers requests there, and says its process id and,
once it is dead, its exit status. Requests and replies are frames: one byte, a length, bytes.
"""

import json
import os
import socket
import struct
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from parties import MODEL, federation_of, rows_of

from securepfl.client.client import Client
from securepfl.crypto.keys.holdings import Holdings
from securepfl.crypto.keys.keystore import passphrase_bytes
from securepfl.errors import SecurePFLError
from securepfl.settings.federation import Federation
from securepfl.storage.keys import load_holdings

FRAME = struct.Struct(">cI")
NUMBER = struct.Struct(">i")
READY, DONE, REFUSED = b"r", b"d", b"x"
VERBS = {"contribute": b"C", "sign_survivors": b"A", "reveal": b"R", "apply": b"P", "report": b"?"}


def send(link: socket.socket, kind: bytes, body: bytes = b"") -> None:
    link.sendall(FRAME.pack(kind, len(body)) + body)


def receive(link: socket.socket) -> tuple[bytes, bytes]:
    """One frame; EOFError where the other side is gone."""
    kind, size = FRAME.unpack(_exactly(link, FRAME.size))
    return kind, _exactly(link, size)


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            raise EOFError(f"{len(data)} of {size} bytes")
        data += part
    return data


def report(client: Client) -> bytes:
    told = {"round": client.round, "sat_out": client.sat_out, "spent": client.ledger.spent()}
    return json.dumps(told | {"affords_run": client.affords_run}).encode()


def answer(client: Client, kind: bytes, body: bytes) -> bytes:
    if kind == VERBS["report"]:
        return report(client)
    verb = next(name for name, letter in VERBS.items() if letter == kind)
    return getattr(client, verb)(body) or b""


def live(link: socket.socket, federation: Federation, holdings: Holdings, words: dict) -> None:
    """One life: until it is killed, or the other side hangs up."""
    keyring, name = holdings.keyring(words["epoch"]), holdings.identity.name
    folder, ledgers = Path(words["folder"]), Path(words["ledgers"])
    try:
        client = Client(federation, name, MODEL, rows_of(name), keyring, folder, ledgers=ledgers, device="cpu")
    except SecurePFLError as error:
        return send(link, REFUSED, str(error).encode())
    send(link, READY, report(client))
    while True:
        try:
            kind, body = receive(link)
        except EOFError:
            return client.close()
        try:
            reply = answer(client, kind, body)
        except SecurePFLError as error:
            send(link, REFUSED, str(error).encode())
        else:
            send(link, DONE, reply)


def live_and_exit(link: socket.socket, federation: Federation, holdings: Holdings, words: dict) -> None:
    """A forked process must not go on where its parent was."""
    status = 1
    try:
        live(link, federation, holdings, words)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


def warm_up(federation: Federation, holdings: Holdings) -> None:
    """One Client elsewhere, so that no life pays for what is loaded at first use: its time is the hospital's own."""
    keyring, name = holdings.keyring(), holdings.identity.name
    with TemporaryDirectory() as folder:
        Client(federation, name, MODEL, rows_of(name), keyring, Path(folder), device="cpu").close()


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    federation = federation_of(**json.loads(sys.argv[3]))
    holdings = load_holdings(Path(sys.argv[2]), passphrase_bytes(sys.stdin.readline().strip()))
    warm_up(federation, holdings)
    while True:
        words, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
        if not words:
            return
        link = socket.socket(fileno=descriptors[0])
        life = os.fork()
        if life == 0:
            control.close()
            live_and_exit(link, federation, holdings, json.loads(words))
        link.close()
        control.send(NUMBER.pack(life))
        control.send(NUMBER.pack(os.waitpid(life, 0)[1]))


if __name__ == "__main__":
    main()
