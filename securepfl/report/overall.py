"""What a run's tables say over all hospitals, for the terminal and the page alike."""

from collections.abc import Mapping, Sequence
from typing import Any

from securepfl.report.epsilon import is_protected

NO_PRIVACY_NOTE = (
    'No privacy: under [privacy] protection = "none" nothing is clipped and no noise is added, so nothing limits what '
    "these models tell of anybody. The run's ledgers say so, and refuse these records to every later private run."
)
Found = Mapping[str, Mapping[str, float | None]]


def mean_rows(result: dict[str, Any]) -> dict[str, tuple[str, Found]]:
    """The rows below the hospitals': a label, of how many hospitals it is where not of all, and the figures."""
    unit = result["intervals"]["over"].removeprefix("test ")
    return {
        "mean": (_counted(result), result["mean"]),
        f"mean by {unit}": ("", result["within"]),
    }


def _counted(result: dict[str, Any]) -> str:
    """Of how many hospitals a mean is, where that is not all: one without both classes has no AUROC, say."""
    shown = result["metrics"]["shown"]
    least = min((result["counted"]["personalised"][metric] for metric in shown), default=len(result["sites"]))
    return "" if least == len(result["sites"]) else f"{least} of {len(result['sites'])}"


def pooled_title(result: dict[str, Any]) -> str:
    """Of the table over all test rows."""
    found = result["intervals"]
    return f"All {found['test_units']} {found['over']} together, with {100 * found['level']:.0f} % intervals"


def adjacency_note(result: dict[str, Any]) -> str:
    """What the two epsilons of each hospital limit, or that there are none."""
    if not is_protected(result):
        return NO_PRIVACY_NOTE
    unit = next(iter(result["sites"].values()))["privacy"]["unit"]
    return (
        f"Left out: how much all that was released may tell of whether one {unit} was in the data. Swapped: of which "
        f"of two {unit}s it was; about twice as much."
    )


UNITS_HEADINGS = ("declared", "used", "cut", "padded", "most records\nof one", "clipped")
UNITS_NOTE = (
    "Declared: what the hospital publicly counts as. More are cut, for fewer zeros stand. Clipped: the share of units "
    "whose gradient the clip shortened, in the mean of rounds."
)


def units_rows(result: dict[str, Any]) -> dict[str, list[str]]:
    """Each hospital's training units, under UNITS_HEADINGS."""
    return {
        name: [
            *(f"{site['units'][key]:,}" for key in ("declared", "used", "cut", "padded", "largest")),
            "-" if site["clipped_fraction"] is None else f"{site['clipped_fraction']:.0%}",
        ]
        for name, site in result["sites"].items()
    }


def pooled_note(result: dict[str, Any]) -> str:
    """How these figures differ from the means."""
    unit = result["intervals"]["over"].removeprefix("test ")
    noise = "draws other noise and " if is_protected(result) else ""
    until = (
        f"An interval holds what the same models may get on other test {unit}; another run {noise}makes other models."
    )
    if result["task"] == "segmentation":
        return (
            "Together, every image counts alike, so a hospital with more of them weighs more. An image without the "
            f"structure has no Dice, an empty mask no HD95. {until}"
        )
    return (
        f"Together, {unit} of different hospitals are compared too, so these figures also credit a model for knowing "
        f"the hospital. The means above judge within hospitals. {until}"
    )


def interval_text(interval: Sequence[float | None]) -> str:
    """Both ends; one without bound is left open.

    >>> interval_text([0.5, None])
    '0.50 to ...'
    """
    return " to ".join("..." if end is None else f"{end:.2f}" for end in interval)
