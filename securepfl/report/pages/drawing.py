"""matplotlib's SVG as part of a page: text stays text, colours follow the page's (light, dark, paper), nothing else.

Colours are drawn as numbers that stand for the page's variables, and replaced in the SVG. Figures are 360 units wide,
so that their text can be read on a phone; a page sets them side by side.
"""

import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from markupsafe import Markup

WIDTH: Final = 360.0
SIZE: Final = 12.0
"""Of text, in units of the drawing."""

INK: Final = "#010001"
MUTED: Final = "#010002"
LINE: Final = "#010003"
BOUND: Final = "#010004"
MODEL_COLOURS: Final = {
    "personalised": "#010011",
    "shared": "#010012",
    "local": "#010013",
    "majority": "#010014",
}
MODEL_MARKS: Final = {"personalised": "o", "shared": "s", "local": "^", "majority": "x"}
SHADES: Final = ("#010021", "#010022", "#010023", "#010024", "#010025")
"""Of the parts of a bar."""
_VARIABLES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    BOUND: "--bound",
    **{colour: f"--model{number}" for number, colour in enumerate(MODEL_COLOURS.values(), start=1)},
    **{colour: f"--part{number}" for number, colour in enumerate(SHADES, start=1)},
}
_COLOUR: Final = re.compile(r"(?<=: )#0100[0-9a-f]{2}(?=[;\"])")
_HEAD: Final = re.compile(r"<\?xml.*?<svg [^>]*?>", re.DOTALL)
_STYLE: Final = re.compile(r"\s*<defs>\s*<style type=\"text/css\">[^<]*</style>\s*</defs>")
_GROUP: Final = re.compile(r"<g id=\"[^\"<>]*\">")
_FONT: Final = re.compile(r" font-family: [^;\"<>]*;")
_COMMENT: Final = re.compile(r"\s*<!--.*?-->", re.DOTALL)
_SETTINGS: Final = {
    "svg.fonttype": "none",
    "font.size": SIZE,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": SIZE - 1,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "axes.unicode_minus": True,
}
_TURN: Final = threading.Lock()
"""matplotlib's settings are the process's: one figure is drawn at a time."""


class Drawing:
    """A figure of `height` units: `axes` places axes in units from its upper left corner; `svg` ends it."""

    def __init__(self, height: float, figure: Any) -> None:
        self.height, self.figure = height, figure

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """matplotlib's axes in that place, without a background."""
        box = (left / WIDTH, 1 - (top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        axes.tick_params(length=3)
        return axes

    def legend(self, *marks: Sequence[Any], columns: int = 1, **room: float) -> None:
        """Names in the upper left corner: `marks` and what they are called, or else what was drawn under a label."""
        self.figure.legend(
            *marks,
            loc="upper left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            fontsize=SIZE - 1,
            borderaxespad=0.2,
            labelcolor=MUTED,
            **room,
        )

    def svg(self, key: str, title: str, description: str) -> Markup:
        """The drawing as an element of a page. `key` is its own in the page; title and description are for those who
        don't see it.
        """
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with _matplotlib_settings({"svg.hashsalt": key}):
            self.figure.savefig(text, format="svg", metadata=nothing, facecolor="none", edgecolor="none")
        drawn = _COMMENT.sub("", text.getvalue())
        drawn = _STYLE.sub("", _HEAD.sub("", drawn, count=1), count=1)
        drawn = _FONT.sub("", _GROUP.sub("<g>", drawn))
        drawn = _COLOUR.sub(lambda found: f"var({_VARIABLES.get(found[0], '--ink')})", drawn)
        head = Markup(
            '<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{key}-title" '
            'aria-describedby="{key}-about"><title id="{key}-title">{title}</title>'
            '<desc id="{key}-about">{about}</desc>'
        ).format(width=WIDTH, height=self.height, key=key, title=title, about=description)
        return head + Markup(_joined(drawn))  # noqa: S704 - matplotlib escapes what it is given


def _joined(drawn: str) -> str:
    """Without the breaks between a path's points, which make a third of it."""
    return re.sub(r"\s*\n\s*", "\n", drawn).replace(" \n", " ").replace("\nL", " L")


@contextmanager
def drawing(height: float) -> Iterator[Drawing]:
    """A new figure, with the page's settings while it is drawn."""
    with _TURN, _matplotlib_settings(_SETTINGS):
        from matplotlib.figure import Figure  # noqa: PLC0415 - a second, and only pages need it

        yield Drawing(height, Figure(figsize=(WIDTH / 72, height / 72), dpi=72))


@contextmanager
def _matplotlib_settings(settings: Any) -> Iterator[None]:
    """Its settings inside the block. What it has to say of fonts is nobody's business: the page brings none."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib  # noqa: PLC0415 - as above

        with warnings.catch_warnings(), matplotlib.rc_context(settings):
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logger.setLevel(before)


def short(name: str, most: int = 18) -> str:
    """A name for a drawing: what is too long loses its middle. Tables have it whole.

    >>> short("Universitätsklinikum Nord"), short("north")
    ('Universit…kum Nord', 'north')
    """
    if len(name) <= most:
        return name
    head = most // 2
    return f"{name[:head]}…{name[head + 1 - most :]}"
