"""All that `securepfl route --out DIR` leaves, written in one step or not at all.

| in DIR | |
|---|---|
| predictions.csv, certainty.csv | each row's answer under its own name; certainty by patient |
| masks/ID.png | of a segmentation: each image's mask in its own size |
| gates.json, gates.png | which expert and zoom served what |
| pictures/ID.png | images beside truth, shared model's and routed answer |
| card.md | the model card, with every expert's privacy |
| result.json | metrics, where truth is there |
| report.html | gates, metrics and some pictures as a page, where the caller brings one |
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from securepfl.errors import ConfigError, StorageError
from securepfl.outside.answered import Answered
from securepfl.outside.card import card_of
from securepfl.outside.gates_plot import gates_json, write_gates_plot
from securepfl.outside.masks import MASKS, write_masks
from securepfl.outside.pictures import PICTURES, write_pictures
from securepfl.outside.predictions import certainty_csv, predictions_csv
from securepfl.storage.folder import new_folder, remove_left, write_bytes, write_json
from securepfl.tasks.resampling import LEVEL, Scored

SCHEMA: Final = 1
TABLE: Final = ".csv"
"""Ending of a file that is to hold predictions alone."""


def write_answer(answered: Answered, out: Path, page: Callable[[Path], None] | None = None) -> None:
    """Write the folder `out`, which appears whole or not at all. `page` writes one more file into the folder that it is
    given, from what lies there.

    Raises StorageError where it exists or can't be written, ConfigError where images need the extra `imaging`.
    """
    check_out(out)
    scores = answered.scores()
    remove_left(out)
    with new_folder(out) as folder:
        write_bytes(folder / "predictions.csv", predictions_csv(answered).encode())
        write_bytes(folder / "certainty.csv", certainty_csv(answered).encode())
        write_json(folder / "gates.json", gates_json(answered))
        drawn = 0
        if answered.segments:
            write_masks(answered, folder / MASKS)
        if answered.images:
            drawn = write_pictures(answered, folder / PICTURES)
        plotted = _plotted(answered, folder / "gates.png")
        if scores:
            write_json(folder / "result.json", result_of(answered, scores))
        write_bytes(folder / "card.md", card_of(answered, scores, drawn, plotted).encode())
        if page is not None:
            page(folder)


def write_table(answered: Answered, out: Path) -> None:
    """Write the predictions alone, as CSV. Raises ConfigError for images, StorageError."""
    if answered.images:
        raise ConfigError(f"--out {out}: answers to images are a folder; name one that does not end in {TABLE}")
    write_bytes(out, predictions_csv(answered).encode())


def check_out(out: Path | None, data: Path | None = None) -> bool:
    """Whether `out` is a table's file and no folder, by its ending; False for None. Raises StorageError where something
    is there already, as nothing is ever written over, and where it lies in the folder `data`: masks would be read as
    its images next time.
    """
    if out is None:
        return False
    if out.exists() or out.is_symlink():
        raise StorageError(f"{out}: exists; name another place with --out")
    if data is not None and data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise StorageError(f"{out}: lies in the folder of the data; name a place outside of it with --out")
    return out.suffix.lower() == TABLE


def result_of(answered: Answered, scores: dict[str, Scored]) -> dict[str, Any]:
    """Metrics of the routed and the shared model and of their difference, with intervals; None for one there is not."""
    patients = answered.table.patients
    return {
        "schema": SCHEMA,
        "task": answered.task.name,
        "decides": answered.task.deciding,
        "rows": len(answered.table),
        "test_units": len(answered.table) if patients is None else len(set(patients.tolist())),
        "metrics": {name: scored.point for name, scored in scores.items()},
        "intervals": {
            "level": LEVEL,
            "over": "records" if patients is None else "patients",
            **{name: scored.intervals for name, scored in scores.items()},
        },
        "experts": {name: dict(record) for name, record in answered.experts.records.items()},
        "prior": list(answered.prior),
        "prior_from": answered.prior_from,
        "recipe_digest": answered.routed.recipe.digest,
        "fell_back": answered.routed.fell_back,
        "why": answered.routed.why,
    }


def _plotted(answered: Answered, path: Path) -> bool:
    """Tables do without the extra: their plot alone would need it."""
    try:
        write_gates_plot(answered, path)
    except ConfigError:
        if answered.images:
            raise
        return False
    return True
