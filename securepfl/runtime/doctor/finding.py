"""What a check found, in a line, and how to mend it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from securepfl.errors import SecurePFLError, first_line

State = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Finding:
    """`told` of the thing `what`. "note" is worth knowing; "failed" stops work. `remedy` says what to do about either.

    Raises ValueError for a failure without a remedy.

    >>> Finding("device", "ok", "cpu").remedy
    ''
    """

    what: str
    state: State
    told: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.state == "failed" and not self.remedy:
            raise ValueError(f"{self.what}: what fails needs a remedy")


Check = Callable[[], Iterable[Finding]]


def found(what: str, check: Check) -> Iterator[Finding]:
    """What `check` finds; where it raises, that is what was found.

    >>> def check():
    ...     raise SecurePFLError("federation.toml: no such file; name one")
    >>> list(found("settings", check))
    [Finding(what='settings', state='failed', told='federation.toml: no such file', remedy='name one')]
    """
    try:
        yield from check()
    except SecurePFLError as error:
        told, _, remedy = str(error).rpartition("; ")
        yield Finding(what, "failed", told or str(error), remedy if told else "mend that")
    except Exception as error:  # noqa: BLE001 - a doctor goes on with the next patient
        yield Finding(what, "failed", f"{type(error).__name__}: {first_line(error)}", "install it anew, or report this")
