"""Dot plots: a line a hospital (or run), a mark a model, with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from securepfl.report.pages.blocks import Figure
from securepfl.report.pages.drawing import LINE, MODEL_COLOURS, MODEL_MARKS, WIDTH, drawing, short
from securepfl.report.pages.reading import Interval

_STEP: Final = 11.0
"""Units between two models of a line."""
_GAP: Final = 12.0
_TOP: Final = 44.0
_BOTTOM: Final = 34.0
MOST_LINES: Final = 40
"""More are not drawn: the table has all."""


@dataclass(frozen=True)
class Dot:
    """A figure and its interval; an end without bound reaches the edge."""

    value: float
    interval: Interval = None


@dataclass(frozen=True)
class Line:
    """What stands in one line, by model; `strong` for those over all hospitals."""

    name: str
    dots: Mapping[str, Dot]
    strong: bool = False


def dot_plot(key: str, title: str, lines: Sequence[Line], models: Mapping[str, str], caption: str) -> Figure:
    """`models`: those that are drawn, with what they are called. `title` names the metric."""
    height = _TOP + _BOTTOM + len(lines) * (len(models) * _STEP + _GAP)
    left = 14 + 6.6 * max((len(short(line.name)) for line in lines), default=4)
    with drawing(height) as page:
        axes = page.axes(left, _TOP, WIDTH - left - 12, height - _TOP - _BOTTOM)
        low, high = _limits(lines)
        for place, line in enumerate(lines):
            if place % 2:
                axes.axhspan(place - 0.5, place + 0.5, color=LINE, alpha=0.25, linewidth=0)
            for number, model in enumerate(models):
                if model in line.dots:
                    _mark(axes, place + _offset(number, len(models)), line.dots[model], model, (low, high))
        axes.set(xlim=(low, high), ylim=(len(lines) - 0.5, -0.5), xlabel=title)
        axes.set_yticks(range(len(lines)), [short(line.name) for line in lines])
        for label, line in zip(axes.get_yticklabels(), lines, strict=True):
            label.set_fontweight("bold" if line.strong else "normal")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.grid(visible=True)
        axes.xaxis.set_major_locator(_locator())
        _legend(page, models)
        return Figure(page.svg(key, title, _told(title, lines, models)), caption)


def _locator() -> Any:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as in drawing

    return MaxNLocator(5, min_n_ticks=3)


def _offset(number: int, count: int) -> float:
    return (number - (count - 1) / 2) * _STEP / (count * _STEP + _GAP)


def _mark(axes: Any, height: float, dot: Dot, model: str, limits: tuple[float, float]) -> None:
    colour = MODEL_COLOURS[model]
    if dot.interval is not None:
        low, high = (limits[end] if value is None else value for end, value in enumerate(dot.interval))
        axes.plot([low, high], [height, height], color=colour, linewidth=1.4, solid_capstyle="butt")
    axes.plot(dot.value, height, MODEL_MARKS[model], color=colour, markersize=5.5, markeredgewidth=1.4, clip_on=False)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    """What is drawn, with some room; never a scale so fine that nothing looks like much."""
    ends = [
        float(value)
        for line in lines
        for dot in line.dots.values()
        for value in (dot.value, *(dot.interval or ()))
        if value is not None and np.isfinite(value)
    ]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = 0.04 * (high - low) or 0.1 * max(abs(high), 1e-6)
    floor, ceiling = (0.0 if low >= 0 else low - room), (1.0 if high <= 1 else high + room)
    return max(low - room, floor) if low >= 0 else low - room, min(high + room, ceiling) if high <= 1 else high + room


def _legend(page: Any, models: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as in drawing

    marks = [
        Line2D([], [], color=MODEL_COLOURS[model], marker=MODEL_MARKS[model], linewidth=1.4, markersize=5.5)
        for model in models
    ]
    page.legend(marks, list(models.values()), columns=2, handlelength=1.6, columnspacing=1.2)


def _told(title: str, lines: Sequence[Line], models: Mapping[str, str]) -> str:
    told = (
        f"{line.name}: " + ", ".join(f"{models[its]} {line.dots[its].value:.3f}" for its in models if its in line.dots)
        for line in lines[:MOST_LINES]
    )
    return f"Dot plot of {title}. {'; '.join(told)}."
