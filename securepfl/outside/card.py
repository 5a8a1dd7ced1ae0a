"""The model card of a routed answer: what served, whose it is and how private, and what it was not tried on."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np

from securepfl.outside.answered import Answered
from securepfl.outside.pictures import MOST_PICTURES
from securepfl.tasks.resampling import Scored

_KINDS = {
    "personal": "its own model",
    "finetuned": "the shared model, fine-tuned there",
    "shared": "shared by all hospitals",
    "cluster": "mean over hospitals alike",
}
_PLAIN = MappingProxyType(
    str.maketrans({"\n": " ", "&": "&amp;", "<": "&lt;", **{mark: f"\\{mark}" for mark in "\\|`[]*!"}})
)
"""Other hospitals' names are text in a card: no link, image or HTML."""


def card_of(answered: Answered, scores: Mapping[str, Scored], drawn: int, plotted: bool) -> str:
    """The card in Markdown. `scores` as Answered.scores gave them, `drawn` pictures; `plotted`: gates were drawn.

    No row, id or cell of the hospital's stands in it: it may be shown to others.
    """
    parts = [
        ["# A routed answer", *_about(answered)],
        ["## How the experts served", *_served(answered)],
        ["## Experts and their privacy", *_experts(answered)],
        ["## Against the truth", *_scores(answered, scores)],
        ["## Limits", *_limits(answered)],
        ["## Files", *_files(answered, drawn, plotted)],
    ]
    return "\n\n".join("\n".join([lines[0], "", *lines[1:]]) for lines in parts) + "\n"


def _about(answered: Answered) -> list[str]:
    table, kind = answered.table, "images" if answered.images else "rows"
    patients = "" if table.patients is None else f" of {len(set(table.patients.tolist()))} patients"
    return [
        f"- Task: {answered.task.name}, {len(table)} {kind}{patients}, of a hospital that took no part in training.",
        f"- Written {datetime.now(UTC):%Y-%m-%d} by `securepfl route`; recipe {answered.routed.recipe.digest[:16]}.",
        f"- Mean certainty: {_number(answered.routed.certainty)}"
        + (" (expected Dice under the model's own probabilities)." if answered.segments else "."),
        *(f"- {note}" for note in answered.notes),
    ]


def _served(answered: Answered) -> list[str]:
    found = answered.routed
    means = found.gates.mean(axis=0)
    lines = _table(
        ("candidate", "mean weight"), [(str(c), f"{w:.3f}") for c, w in zip(found.candidates, means, strict=True)]
    )
    recipe = found.recipe
    lines += [
        "",
        f"- Gates by {recipe.whose_gates}, from {recipe.criterion} without labels; views {', '.join(recipe.views)}; "
        + "zooms "
        + ", ".join(f"{zoom:g}" for zoom in recipe.zooms)
        + f"; {recipe.mixing} mixed.",
        f"- Guard: {found.why}."
        + (" **The shared model answered everything.**" if found.fell_back else "")
        + (
            ""
            if found.fell_back or not found.guarded.any()
            else f" It answered {int(found.guarded.sum())} in its place."
        ),
    ]
    if answered.prior:
        moved = ", ".join(f"{share:.4g}" for share in answered.prior)
        lines.append(
            f"- Prior: {moved} ({answered.prior_from}); logits moved by {', '.join(f'{s:+.3f}' for s in found.shift)}, "
            f"{recipe.prior_weight:.0%} of the way to it."
        )
    else:
        lines.append("- Prior: none declared and none released, so the threshold stayed where it was.")
    return lines


def _experts(answered: Answered) -> list[str]:
    experts = answered.experts
    rows = [
        (
            name,
            _kind(record),
            _epsilon(record),
            f"{record.get('delta'):g}" if None not in (record.get("delta"), record.get("epsilon")) else "-",
            str(record.get("unit", "-")),
            str(record.get("rounds", "-")),
            experts.signers[name].fingerprint if name in experts.signers else "unsigned",
        )
        for name, record in experts.records.items()
    ]
    lines = _table(("expert", "what", "epsilon", "delta", "unit", "rounds", "signed by keys"), rows)
    lines += ["", "- Epsilon is zero-out, of all that its hospital released when the model left, as its ledger has it."]
    if any(record.get("simulation") for record in experts.records.values()):
        lines.append(
            "- **Simulated**: all hospitals ran in one process, and the keys that signed are the simulation's own. "
            "The signatures show that files are unchanged, and nothing about a hospital."
        )
    else:
        lines.append("- Compare the keys' fingerprints with the hospitals' by phone: a signature alone names nobody.")
    if any(record.get("epsilon") is None for record in experts.records.values()):
        lines.append(
            "- **Not private**: some experts, or their records in another run, trained without protection; these "
            "records must not need any."
        )
    return lines


def _kind(record: Mapping[str, Any]) -> str:
    what = _KINDS.get(str(record.get("expert")), str(record.get("expert")))
    members = record.get("hospitals")
    return what if not members else f"{what}: {', '.join(map(str, members))}"


def _epsilon(record: Mapping[str, Any]) -> str:
    epsilon = record.get("epsilon")
    return "none: not private" if epsilon is None else f"{float(epsilon):.4g}"


def _scores(answered: Answered, scores: Mapping[str, Scored]) -> list[str]:
    if not scores:
        return ["No truth was at hand. What routing gained here is not known."]
    rows = []
    for metric in answered.task.metrics:
        told = [
            _with_interval(scores[name], metric.name, signed=name == "gain") for name in ("routed", "shared", "gain")
        ]
        rows.append((metric.title, *told))
    return [
        *_table(("metric", "routed", "shared", "routed - shared"), rows),
        "",
        "- 95 % intervals over resampled " + ("patients." if answered.table.patients is not None else "records."),
        "- Both models answered under the same views, prior and threshold. The truth was read for this table alone.",
    ]


def _with_interval(scored: Scored, name: str, *, signed: bool) -> str:
    point, interval = scored.point[name], scored.interval(name)
    if point is None:
        return "-"
    sign = "+" if signed else ""
    low, high = interval or (None, None)
    ends = "" if low is None or high is None else f" [{low:{sign}.4f}, {high:{sign}.4f}]"
    return f"{point:{sign}.4f}{ends}"


def _limits(answered: Answered) -> list[str]:
    return [
        "- For research. Nobody approved this for a patient's care; a physician decides.",
        "- The experts never saw this hospital. Certainty is the models' own word; they may all be wrong.",
        "- Gates were set on these rows without labels: on other rows they would be others."
        + ("" if answered.routed.recipe.granularity == "site" else " Each was set on its own image or row alone."),
    ]


def _files(answered: Answered, drawn: int, plotted: bool) -> list[str]:
    what = "each image's mask in its own size, under `masks`" if answered.segments else "each row's answer"
    lines = [
        f"- `predictions.csv`: {what}, with its certainty.",
        "- `certainty.csv`: certainty by patient, where patients are known.",
        "- `gates.json`"
        + (", `gates.png`" if plotted else " (no plot: matplotlib is in securepfl[imaging])")
        + ": which candidate served what.",
    ]
    if answered.images:
        more = f" of {len(answered.table)}" if drawn == MOST_PICTURES < len(answered.table) else ""
        lines.append(f"- `pictures`: {drawn}{more} images beside what was said of them.")
    if answered.table.labels is not None:
        lines.append("- `result.json`: metrics against the truth.")
    return [
        *lines,
        "- Patients' ids and files' names stand in the first two, in `masks` and in `pictures`, and nowhere else.",
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *map(_line, rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.translate(_PLAIN) for cell in cells) + " |"


def _number(values: Any) -> str:
    known = values[np.isfinite(values)]
    return f"{float(known.mean()):.3f}" if len(known) else "none"
