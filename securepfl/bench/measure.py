"""`securepfl bench`: bytes, seconds, memory and error of encrypted sums and similarities, beside what else is used.

Envelopes (signatures and sealing) are the same for every scheme and not counted, nor are keys and their making.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from securepfl.bench.case import Case, Updates, Values
from securepfl.bench.coordinator import coordinator_process
from securepfl.bench.masked import PackedMasked
from securepfl.bench.schemes import DENSE_SCHEMES, Hospital, hospital_half, scheme_names
from securepfl.bench.similarity import measure_similarity
from securepfl.report.width import fits

_DECRYPTIONS: Final = 5
_STEPS: Final = ("encrypt", "serialize", "load", "add", "decrypt")
_SIMILARITY_STEPS: Final = ("upload", "answer", "decrypt")
_UNITS: Final = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@dataclass(frozen=True)
class Seconds:
    """`encrypt`, `serialize` and `decrypt` of one hospital, `load` and `add` of one contribution; medians.

    `decrypt` starts from the answer's bytes; `add` includes its share of forming the answer. Ours encrypts straight
    to bytes and adds straight from them, so its `serialize` and `load` are 0. With masks, `encrypt` includes making and
    sealing shares, `add` a share of reconstructing the masks, `decrypt` signing, checking signatures and revealing.
    """

    encrypt: float
    serialize: float
    load: float
    add: float
    decrypt: float


@dataclass(frozen=True)
class AggregationRow:
    """One scheme: bytes of one hospital, the coordinator's peak memory, the root mean square error of the mean
    over all `size` entries."""

    scheme: str
    upload_bytes: int
    download_bytes: int
    seconds: Seconds
    peak_bytes: int
    error: float


def _timed_decrypt(hospital: Hospital, answer: bytes) -> tuple[Values, float]:
    seconds = []
    for _ in range(_DECRYPTIONS):
        start = time.perf_counter()
        mean = hospital.decrypt(answer)
        seconds.append(time.perf_counter() - start)
    return mean, median(seconds)


def measure_aggregation(scheme: str, updates: Updates) -> AggregationRow:
    """Sum the updates of all hospitals under one of `scheme_names`; every hospital's contribution is really made."""
    case, hospital = updates.case, hospital_half(scheme, updates)
    total, sizes = np.zeros(case.sent), []
    encrypts, serializes = [], []
    with coordinator_process(scheme, case, hospital.public) as coordinator:
        for index in range(case.hospitals):
            values = updates.values(index)
            total += values
            given = values if hospital.sparse else updates.dense(values)
            start = time.perf_counter()
            encrypted = hospital.encrypt(index, given)
            middle = time.perf_counter()
            data = hospital.serialize(encrypted)
            serializes.append(time.perf_counter() - middle)
            encrypts.append(middle - start)
            sizes.append(len(data))
            coordinator.contribute(data)
        revealing = 0.0
        if isinstance(hospital, PackedMasked):
            reveals, revealing = hospital.reveals()
            coordinator.unmask(hospital.commitments(), reveals)
        answer, cost = coordinator.answer()
    mean, decrypt = _timed_decrypt(hospital, answer)
    exact = total / case.hospitals
    error = float(np.linalg.norm(mean - (exact if hospital.sparse else updates.dense(exact))) / np.sqrt(case.size))
    seconds = Seconds(median(encrypts), median(serializes), cost.load, cost.add, decrypt + revealing)
    return AggregationRow(scheme, max(sizes), len(answer), seconds, cost.peak_bytes, error)


def run_case(
    size: int, hospitals: int, bits: int, density: float, schemes: Collection[str] | None = None
) -> dict[str, Any]:
    """{"aggregation": [...], "similarity": [...]}: AggregationRow and SimilarityRow as dictionaries, for `--json`.

    `schemes` keeps only those rows of the aggregation. Raises ConfigError for numbers that make no case, or a
    roster that no parameter set carries.
    """
    updates = Updates(Case(size, hospitals, bits, density))
    names = [name for name in scheme_names(updates.case) if schemes is None or name in schemes]
    return {
        "aggregation": [asdict(measure_aggregation(name, updates)) for name in names],
        "similarity": [asdict(row) for row in measure_similarity(updates)],
    }


def sweep(cases: Iterable[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Every case with its result, as it is done.

    Schemes that send every parameter cost the same at any density: where a case differs from an earlier one in density
    alone, their rows are that one's.
    """
    dense: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for case in cases:
        known = dense.get((case.size, case.hospitals, case.bits), [])
        again = {row["scheme"] for row in known}
        wanted = [name for name in scheme_names(case) if name not in again]
        result = run_case(case.size, case.hospitals, case.bits, case.density, wanted)
        result["aggregation"] = _in_order(case, result["aggregation"] + known)
        chosen = [row for row in result["aggregation"] if row["scheme"] in DENSE_SCHEMES]
        dense.setdefault((case.size, case.hospitals, case.bits), chosen)
        yield case, result


def _in_order(case: Case, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {row["scheme"]: row for row in rows}
    return [found[name] for name in scheme_names(case)]


def total_seconds(row: dict[str, Any]) -> float:
    """Encrypt to decrypt, of one contribution."""
    return float(sum(row["seconds"].values()))


def _bytes(count: float) -> str:
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _cells(case: Case, row: dict[str, Any]) -> dict[str, str]:
    """A scheme's figures by heading."""
    return {
        "up": _bytes(row["upload_bytes"]),
        "x float32": f"{row['upload_bytes'] / (4 * case.size):.3f}",
        "down": _bytes(row["download_bytes"]),
        **{step: f"{row['seconds'][step]:.4f}" for step in _STEPS},
        "total": f"{total_seconds(row):.4f}",
        "peak memory": _bytes(row["peak_bytes"]),
        "error": f"{row['error']:.1e}",
    }


def _aggregation_tables(console: Console, case: Case, rows: list[dict[str, Any]]) -> list[Table]:
    """One table, or two where the terminal has no room for it: bytes, then seconds."""
    title = (
        f"sums: {case.size:,} parameters, {case.hospitals} hospitals, {case.bits} bits, density {case.density:g}; "
        "per hospital, seconds"
    )
    cells = {row["scheme"]: _cells(case, row) for row in rows}
    headings, times = list(next(iter(cells.values()))), [*_STEPS, "total"]

    def table(shown: Sequence[str]) -> Table:
        drawn = Table("scheme", *shown, title=title, title_justify="left")
        for scheme, row in cells.items():
            drawn.add_row(scheme, *(row[heading] for heading in shown))
        return drawn

    whole = table(headings)
    return [whole] if fits(console, whole) else [table([name for name in headings if name not in times]), table(times)]


def _similarity_table(case: Case, rows: list[dict[str, Any]]) -> Table:
    title = (
        f"similarity: all rows of {case.hospitals} hospitals; bytes up a hospital, down a pair, of keys held; seconds "
        "of all; error of a cosine"
    )
    headings = ("scheme", "up", "pair", "keys", *_SIMILARITY_STEPS, "error")
    table = Table(*headings, title=title, title_justify="left")
    for row in rows:
        sizes = (_bytes(row[name]) for name in ("upload_bytes", "pair_bytes", "context_bytes"))
        seconds = (f"{row['seconds'][step]:.3f}" for step in _SIMILARITY_STEPS)
        table.add_row(row["scheme"], *sizes, *seconds, f"{row['error']:.4f}")
    return table


def print_tables(console: Console, case: Case, result: dict[str, Any]) -> None:
    """A result of `run_case` for people."""
    for table in _aggregation_tables(console, case, result["aggregation"]):
        console.print(table)
    console.print(_similarity_table(case, result["similarity"]))
