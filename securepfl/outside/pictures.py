"""Side by side for the eye: the image, the truth where there is one, the shared model's answer and the routed one's."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from securepfl.outside.answered import Answered
from securepfl.outside.masks import own_mask, placement_of
from securepfl.outside.predictions import told_in_words, truth_in_words
from securepfl.tasks.imaging import imaging

PICTURES: Final = "pictures"
"""Folder of what is written."""
MOST_PICTURES: Final = 200
"""More images than this are not drawn: the masks are there for all."""
_SIDE: Final = 3.2
_LINE: Final = 0.18
"""Inches of a line of a title."""
_DPI: Final = 110
_INK: Final = (0.86, 0.16, 0.16)
_DARK: Final = 0.55
_Panels = list[tuple[str, NDArray[np.bool_] | None]]


def write_pictures(answered: Answered, folder: Path) -> int:
    """Draw the first images; how many. Raises ConfigError without the extra `imaging`."""
    drawn = min(len(answered.table), MOST_PICTURES)
    for place in range(drawn):
        path = folder / f"{answered.places[place]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure = _of_mask(answered, place) if answered.segments else _of_class(answered, place)
        figure.savefig(path, dpi=_DPI, bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})
    return drawn


def _of_mask(answered: Answered, place: int) -> Any:
    image, truth = shown_image(answered, place), _truth(answered, place)
    panels: _Panels = [("image", None)]
    if truth is not None:
        panels.append(("truth", truth))
    said = {"shared": own_mask(answered, place, shared=True), "routed": own_mask(answered, place)}
    dice = _dice_of(answered, place)
    panels += [(name + (f", Dice {dice[name]:.3f}" if name in dice else ""), mask) for name, mask in said.items()]
    sure = answered.routed.certainty[place]
    panels[-1] = (f"{panels[-1][0]}\n{_guarded(answered, place)}certainty {sure:.2f}", panels[-1][1])
    return _figure(answered, place, panels, image)


def _of_class(answered: Answered, place: int) -> Any:
    image = shown_image(answered, place)
    words = {name: _told(answered, said, place) for name, said in _both(answered).items()}
    lines = [f"{name}: {text}" for name, text in words.items()]
    if answered.table.labels is not None:
        lines.insert(0, f"truth: {truth_in_words(answered.table.labels[place], answered.experts.spec)}")
    lines.append(f"{_guarded(answered, place)}certainty {answered.routed.certainty[place]:.2f}")
    return _figure(answered, place, [("\n".join(lines), None)], image)


def _both(answered: Answered) -> dict[str, NDArray[Any]]:
    return {"shared": answered.shared, "routed": answered.predictions}


def _told(answered: Answered, said: NDArray[Any], place: int) -> str:
    columns = answered.task.columns(said[place : place + 1], answered.experts.point)
    return told_in_words(columns, answered.experts.spec)


def _guarded(answered: Answered, place: int) -> str:
    return "the shared model answered, " if answered.routed.guarded[place] else ""


def shown_image(answered: Answered, place: int) -> NDArray[np.float64]:
    """The image as the models see it, [height, width] or with 3 colours, in its own size and from 0 to 1."""
    placed = placement_of(answered, place)
    channels = answered.table.features[place]
    kept = np.stack([placed.back(channel) for channel in (channels if len(channels) == 3 else channels[:1])], axis=-1)
    low, high = np.percentile(kept, (0.5, 99.5))
    scaled = np.clip((kept - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    shown: NDArray[np.float64] = scaled if scaled.shape[-1] == 3 else scaled[..., 0]
    return shown


def _truth(answered: Answered, place: int) -> NDArray[np.bool_] | None:
    if answered.table.labels is None:
        return None
    back = placement_of(answered, place).back(answered.table.labels[place, 0].astype(np.float64))
    return np.asarray(back >= 0.5, dtype=np.bool_)


def _dice_of(answered: Answered, place: int) -> dict[str, float]:
    labels = answered.table.labels
    if labels is None:
        return {}
    found = {}
    for name, said in _both(answered).items():
        dice = answered.task.evaluate(said[place : place + 1], labels[place : place + 1], answered.experts.point).get(
            "dice"
        )
        if dice is not None:
            found[name] = float(dice)
    return found


def _figure(answered: Answered, place: int, panels: _Panels, image: NDArray[np.float64]) -> Any:
    with imaging("a picture"):
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    own = placement_of(answered, place).own
    height = float(np.clip(_SIDE * own[0] / own[1], 1.5, 6.0))
    lines = max(title.count("\n") + 1 for title, _ in panels)
    figure = Figure(figsize=(_SIDE * len(panels), height + _LINE * (lines + 1)), layout="constrained")
    _fill(figure.subplots(1, len(panels), squeeze=False)[0], image, panels)
    return figure


def _fill(axes: Any, image: NDArray[np.float64], panels: _Panels) -> None:
    for each, (title, mask) in zip(axes, panels, strict=True):
        each.imshow(image if mask is None else _inked(image, mask), cmap="gray", vmin=0.0, vmax=1.0)
        each.set_title(title, fontsize=9, parse_math=False)
        each.set_axis_off()


def _inked(image: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The image, darker, with the mask in red over it."""
    colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    inked = colours * _DARK
    inked[mask] = 0.25 * inked[mask] + 0.75 * np.array(_INK)
    return inked
