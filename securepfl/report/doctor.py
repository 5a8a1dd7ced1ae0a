"""What `securepfl doctor` found, for people: a line a finding, and below it what to do."""

from collections.abc import Sequence
from typing import Protocol


class Found(Protocol):
    """A finding, as runtime/doctor makes it."""

    @property
    def what(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def told(self) -> str: ...

    @property
    def remedy(self) -> str: ...


def lines_of(finding: Found) -> list[str]:
    """A finding in one line or two.

    >>> from types import SimpleNamespace
    >>> print(*lines_of(SimpleNamespace(what="keys", state="failed", told="none", remedy="make some")), sep="\\n")
    FAILED  keys: none
            -> make some
    """
    mark = finding.state.upper() if finding.state == "failed" else finding.state
    lines = [f"{mark:<7} {finding.what}: {finding.told}"]
    return [*lines, f"        -> {finding.remedy}"] if finding.remedy else lines


def verdict_of(findings: Sequence[Found]) -> str:
    """The last line."""
    failed = sum(finding.state == "failed" for finding in findings)
    if not failed:
        return "nothing that was looked at stops a run"
    return f"{failed} of {len(findings)} stop work: do what stands below each"
