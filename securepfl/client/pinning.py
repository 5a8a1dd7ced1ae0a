"""Which answer a hospital has begun to decrypt in an attempt at a round: noted before, so that it decrypts no other.

The note is a small file beside the state, so that the state, with all of a model in it, is not written once more. It is
not synced: a process that is killed leaves it, and a power cut that takes it takes all that was decrypted too, since
nothing of an answer leaves before the state is on disk.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from securepfl.client.state import ClientState, Pending
from securepfl.errors import StorageError
from securepfl.storage.folder import storage_error

PIN: Final = "answer.json"


class Pin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hash of the answer, hexadecimal, in an attempt at a round of the folder's run, as the ledger calls it.

    >>> Pin(run="north", round=3, attempt=0, answer="ab").round
    3
    """

    schema: int = 1
    run: str
    round: int
    attempt: int
    answer: str

    def save(self, folder: Path) -> None:
        """There for whoever opens the folder after this process. Raises StorageError."""
        temporary = folder / f".{PIN}.partial"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode(self))
            temporary.replace(folder / PIN)
        except OSError as error:
            raise storage_error(folder / PIN, error) from None


def pinned(pending: Pending, attempt: int, answer: str) -> Pending:
    """`pending` once `answer` is the one of `attempt`: what a refused attempt before it left is over."""
    if attempt > pending.attempt:
        pending = msgspec.structs.replace(pending, attempt=attempt, refused=())
    return msgspec.structs.replace(pending, answer=answer)


def with_pin(state: ClientState, folder: Path) -> ClientState:
    """A stored state and what its folder notes of the round that is open in it. Raises StorageError for a note that
    can't be read; one that a power cut tore counts as none.
    """
    try:
        pin = msgspec.json.decode((folder / PIN).read_bytes(), type=Pin)
    except FileNotFoundError:
        return state
    except OSError as error:
        raise StorageError(f"{folder / PIN}: cannot be read ({error.strerror}); mend its rights") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return state
    pending = state.pending or Pending.nothing(state)
    if (pin.run, pin.round) == (state.run, state.round + 1) and pin.attempt >= pending.attempt:
        state.pending = pinned(pending, pin.attempt, pin.answer)
    return state
