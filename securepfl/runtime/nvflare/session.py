"""What a job's controller tells the supervisor, both at the hub: a small file in the run's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from securepfl.errors import StorageError
from securepfl.storage.folder import write_bytes

FILE: Final = "nvflare.json"
HERE: Final = "here"
ASKED: Final = "asked"
"""A task lies ready for the hospital's job process, and was not fetched yet."""
SILENT: Final = "silent"
"""Its job process has not fetched a task for a while: it is not in this job, or gone."""
AGENT: Final = "agent down"
"""Its job process is there, and its agent does not answer."""


class JobSession(msgspec.Struct, frozen=True, kw_only=True):
    """One job, as its controller sees it: `job` is NVFlare's id, `failure` why it had to end.

    >>> seen = JobSession(job="7f", hospitals={"north": HERE, "south": SILENT})
    >>> seen.absent
    ('south',)
    """

    job: str
    hospitals: Mapping[str, str]
    finished: bool = False
    failure: str = ""

    @property
    def absent(self) -> tuple[str, ...]:
        """Whose job process does not come: only another job can bring them in."""
        return tuple(name for name, state in self.hospitals.items() if state == SILENT)

    def write(self, out: Path) -> None:
        """Replace the file in one step. Raises StorageError."""
        write_bytes(out / FILE, msgspec.json.encode(self))

    @classmethod
    def read(cls, out: Path) -> "JobSession | None":
        """The last one that was written; None before any. Raises StorageError where it cannot be read."""
        try:
            return msgspec.json.decode((out / FILE).read_bytes(), type=cls)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError):
            raise StorageError(f"{out / FILE}: cannot be read; remove it, the run itself does not need it") from None
