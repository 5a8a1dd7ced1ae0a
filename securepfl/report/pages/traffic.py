"""Bytes by purpose, beside what a dense exchange of float32 would take; and seconds."""

from collections.abc import Mapping
from typing import Final

from securepfl.report.pages.blocks import Block, Figure, Figures, Section, Table, Text
from securepfl.report.pages.drawing import INK, MUTED, SHADES, SIZE, WIDTH, drawing
from securepfl.report.pages.reading import Communication, Run

_TITLES: Final = {
    "updates": "payload: updates",
    "personal": "payload: personal parameters",
    "similarity": "similarity",
    "masks": "masks",
    "envelopes": "signatures and seals",
}
_BARS: Final = 84.0
_LINE: Final = 15.5
_FEW: Final = 10
"""Times a dense exchange, from which a page says why."""


def traffic_section(run: Run, key: str) -> Section | None:
    """None where nobody counted bytes: of a pipeline's own loop."""
    sent = run.result.communication
    if sent is None:
        return None
    whose = "This hospital, all rounds" if run.alone else "All hospitals and rounds"
    blocks: list[Block] = [Figures((_figure(f"{key}-bytes", sent, whose),))]
    shared = run.setting("shape", "shared")
    if shared and sent.upload_bytes > _FEW * sent.float32_upload_bytes:
        few = "1 parameter is" if shared == 1 else f"{shared:,} parameters are"
        blocks.append(
            Text(
                f"Of this model {few} shared. With so few, what each message costs anyhow outweighs them; "
                "`securepfl bench --size N` measures larger models."
            )
        )
    blocks += [_table(sent, whose, key), Text(_seconds(run), small=True)]
    return Section(f"{key}traffic", "Bytes and seconds", tuple(blocks))


def _parts(sent: Communication) -> dict[str, int]:
    """By title, those that are there, the payload first."""
    known = {_TITLES[name]: sent.parts[name] for name in _TITLES if sent.parts.get(name)}
    return known | {name: size for name, size in sent.parts.items() if name not in _TITLES and size}


def size_text(size: float) -> str:
    """Bytes for people.

    >>> size_text(999), size_text(43_210), size_text(5_000_000)
    ('999 B', '43.2 kB', '5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def _figure(key: str, sent: Communication, whose: str) -> Figure:
    parts, dense = _parts(sent), sent.float32_upload_bytes + sent.float32_download_bytes
    total = sum(parts.values())
    height = _BARS + 8 + _LINE * len(parts)
    with drawing(height) as page:
        axes = page.axes(86, height - _BARS, WIDTH - 92, _BARS - 6)
        left = 0.0
        for shade, (name, size) in zip((*SHADES, *SHADES), parts.items(), strict=False):
            axes.barh(0, size, left=left, color=shade, height=0.55, label=f"{name}, {size_text(size)}", linewidth=0)
            left += size
        axes.barh(1, dense, color=MUTED, height=0.55, linewidth=0)
        axes.set_yticks([0, 1], ["this run", "dense float32"], fontsize=SIZE - 1)
        axes.set(ylim=(1.6, -0.6), xlim=(0, 1.3 * max(total, dense, 1)))
        for place, size in ((0, total), (1, dense)):
            at = {"xy": (size, place), "xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate(size_text(size), **at, va="center", ha="left", color=INK, fontsize=SIZE - 1)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        page.legend()
        told = ", ".join(f"{name} {size:,} bytes" for name, size in parts.items())
        title = "Bytes by purpose"
        about = f"Stacked bar: {told}. Beside it: a dense exchange in float32, {dense:,} bytes."
        return Figure(page.svg(key, title, about), f"{whose}, up and down together.")


def _table(sent: Communication, whose: str, key: str) -> Table:
    rows = [
        (way, f"{ours:,}", f"{dense:,}", f"{ours / dense:,.2f} x" if dense else "-")
        for way, ours, dense in (
            ("upload", sent.upload_bytes, sent.float32_upload_bytes),
            ("download", sent.download_bytes, sent.float32_download_bytes),
        )
    ]
    rows += [(f"of both: {name}", f"{size:,}", "-", "-") for name, size in _parts(sent).items()]
    headings = (whose.lower(), "bytes", "dense float32", "ratio")
    return Table("Bytes", headings, tuple(rows), name="bytes.csv", key=f"{key}bytes-table")


def _seconds(run: Run) -> str:
    sent, seconds = run.result.communication, _told(run.result.seconds)
    clipped = f" Values clipped to the grid: {sent.clipped_values:,}." if sent is not None else ""
    return f"Seconds: {seconds}.{clipped}"


def _told(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
