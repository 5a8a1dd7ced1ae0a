"""A small federation in a folder, with names that ASCII and Latin-1 lack, and the command line on it."""

import csv
import os
import subprocess
from pathlib import Path

import numpy as np
from forked import python

NAMES = ("Köln", "北京大学", "مستشفى", "Mainz")
CONFIG = """
name = "fall é 北"
rounds = {rounds}
[model]
kind = "logistic"
[privacy]
epsilon = 2.0
budget = 100.0
delta = 1e-3
[encryption]
scheme = "none"
[sites]
"Köln" = {{ units = 40 }}
"北京大学" = {{ units = 40 }}
"مستشفى" = {{ units = 40 }}
"Mainz" = {{ units = 40 }}
[release]
experts = true
[data]
label = "größe"
site = "sitz"
[data.ranges]
"年龄" = {{ centre = 60, spread = 10 }}
bmi = {{ centre = 27, spread = 4 }}
"""


def prepare(folder: Path, *, rounds=2):
    """federation.toml and rows.csv in `folder`."""
    draw = np.random.default_rng(1)
    (folder / "federation.toml").write_text(CONFIG.format(rounds=rounds), encoding="utf-8")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sitz", "年龄", "bmi", "größe"])
        for name in NAMES:
            for _ in range(60):
                age = draw.normal(60, 10)
                writer.writerow([name, f"{age:.1f}", f"{draw.normal(27, 4):.1f}", int(age + draw.normal(0, 5) > 60)])
    return folder


def call(folder, *arguments, encoding="utf-8", **streams):
    """The finished process of `securepfl ARGUMENTS` in `folder`; streams not given are captured, as bytes."""
    return subprocess.run(
        [*python(), "-m", "securepfl", *map(str, arguments)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONIOENCODING": encoding,
            "OMP_NUM_THREADS": "1",
            "SECUREPFL_LEDGERS": str(folder / "ledgers"),
        },
        check=False,
        timeout=280,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )
