"""Pictures of a folder inside a page, as many as there is room for, smaller where they are large."""

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from securepfl.report.pages.blocks import Picture

_MOST: Final = 8
_WIDTH: Final = 1000
_MOST_PIXELS: Final = 50_000_000


def pictures_of(paths: Sequence[Path], room: int) -> list[Picture]:
    """The first ones that together take at most `room` bytes of the page; what can't be read is left out."""
    found: list[Picture] = []
    for path in paths:
        if len(found) == _MOST:
            break
        data = _smaller(path)
        source = "" if data is None else f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        if not source:
            continue
        if len(source) > room:
            break
        room -= len(source)
        number = len(found) + 1
        shows = "The image, the truth where it is known, the shared model's answer and the routed one, side by side."
        found.append(Picture(source, shows, f"Image {number}"))
    return found


def _smaller(path: Path) -> bytes | None:
    """As JPEG of at most 1000 pixels' width. Without what the file says beside its pixels; None for no picture."""
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - comes with matplotlib, and only pictures need it

    try:
        with warnings.catch_warnings(), Image.open(path, formats=("PNG",)) as picture:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if picture.width * picture.height > _MOST_PIXELS:
                return None
            drawn = picture.convert("RGB")
            drawn.thumbnail((_WIDTH, 4 * _WIDTH))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    held = io.BytesIO()
    drawn.save(held, format="JPEG", quality=80, optimize=True)
    return held.getvalue()
