"""Who could learn what in a run as it was configured: docs/threat-model.md's table, told of one federation's settings.

Each cell of that table has a test (tests/rounds/test_who_learns_what.py); a release is what a hospital's ledger counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from securepfl.report.pages.blocks import Section, Terms, Text
from securepfl.report.pages.reading import Run


@dataclass(frozen=True)
class Exposure:
    """The settings that decide who learns what."""

    encrypted: bool
    masked: bool
    compared: bool
    coupled: bool
    lasso: bool
    shared_noise: bool
    experts: bool
    protected: bool
    seeded: bool

    @classmethod
    def of(cls, run: Run) -> "Exposure":
        """As the run's file tells them."""
        lasso = bool(run.settings.get("lasso"))
        return cls(
            encrypted=run.setting("encryption", "scheme") != "none",
            masked=run.setting("encryption", "masking", "none") != "none",
            compared=bool(run.setting("similarity", "every", 0)),
            coupled=lasso or bool(run.setting("coupling", "strength", 0.0)),
            lasso=lasso,
            shared_noise=bool(run.settings.get("shared_noise")),
            experts=bool(run.setting("release", "experts")),
            protected=run.protected,
            seeded=run.seeded,
        )

    @property
    def release(self) -> str:
        """What one hospital's message is, as far as privacy goes."""
        if not self.protected:
            return "which nothing protects"
        if self.seeded:
            return "which the known seed leaves unprotected"
        return "counted in the ledgers"

    def told(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each party, and what it could learn."""
        return (
            ("The coordinator", tuple(self._coordinator())),
            ("Another hospital", tuple(self._hospital())),
            ("The coordinator together with one hospital", tuple(self._both())),
            ("Whoever gets the released models", tuple(self._outside())),
        )

    def _coordinator(self) -> Iterator[str]:
        yield "Who takes part in each round, when, and how many bytes."
        if self.encrypted:
            yield "No update and no sum: it adds ciphertexts, and has no key."
        elif self.masked:
            yield f"The sums of updates, {self.release}. Masks hide each single update."
        else:
            yield f"Every hospital's update of every round, {self.release}: nothing was encrypted."
        if self.coupled:
            yield "Which neighbours each hospital asked for" + (", and distances between them." if self.lasso else ".")

    def _hospital(self) -> Iterator[str]:
        yield f"Each sum of updates, {self.release}."
        if self.lasso:
            yield "One neighbour's personal parameters, exactly, in one round."
        elif self.coupled:
            yield "Personal parameters of others, in sums over at least three."
        if self.compared:
            yield "How similar each other hospital is to it: its own row. A dishonest one reads a few numbers more."
        yield "No records, and how many there are only as declared in the settings."

    def _both(self) -> Iterator[str]:
        if self.shared_noise:
            yield "Each sum, with the noise of that hospital taken off: counted, as the settings allow for it."
        elif self.masked and not self.compared:
            yield "The sum alone: masks hide each hospital's update even here."
        else:
            yield f"Each hospital's update of every round, {self.release}."
        if self.coupled:
            yield f"Each hospital's personal parameters, {self.release}."
        if self.compared:
            yield f"All similarities, and each hospital's sketch, {self.release}."

    def _outside(self) -> Iterator[str]:
        if self.experts and (not self.seeded or not self.protected):
            yield f"Those models, {self.release}. An audit record comes with each."
        else:
            yield "Nothing: no model was released."


def learners_section(run: Run, key: str) -> Section:
    """The same as a section of a page."""
    where = (
        "All parties ran in one process, so its owner sees everything. Between machines of their own, these settings "
        "let an honest but curious party learn this:"
        if run.result.simulation and not run.alone
        else "An honest but curious party could learn this under these settings:"
    )
    after = "Nobody but its hospital sees records. docs/threat-model.md has dishonest parties, and the tests."
    return Section(f"{key}learners", "Who could learn what", (Text(where), Terms(Exposure.of(run).told()), Text(after)))
