"""Six simulated hospitals of chest X-rays train together; a seventh, which took no part, is routed.

    python examples/chest_xray/run.py ../shared/data --out runs/chest_xray
    python examples/chest_xray/run.py digits --out runs/digits

Writes folders of PNG files for each hospital and a federation.toml beside them, runs `securepfl run` on the six and
`securepfl route` on the seventh. `digits` puts scikit-learn's handwritten digits in the X-rays' place, odd or even.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from securepfl.data.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from methods.data_xray import CENTRE, SPREAD
from routing.pictures import xrays

WHITE = 65535
DECLARATION = """\
name = "{name}"

[model]
kind = "cnn"

{privacy}
[release]
experts = true
finetuning = 60

[data]
kind = "images"
size = [28, 28]
images = "."
label = "positive"
intensity = "range"
range = [0, 65535]
without = ["unseen"]

[sites]
{sites}
"""
PRIVATE = """\
# Each image is a patient here: the published X-rays name nobody.
[privacy]
epsilon = {epsilon}
delta = 1e-5
"""
UNPROTECTED = """\
# A simulation: shows what routing can do where noise hides nothing. It protects nobody.
[privacy]
protection = "none"
"""


def write_hospital(table: Table, folder: Path) -> None:
    """16-bit PNG files and an index with `file` and `positive`."""
    folder.mkdir(parents=True)
    lines = ["file,positive"]
    for number, (image, label) in enumerate(zip(table.features[:, 0], table.labels, strict=True)):
        grey = np.round(np.clip(image * SPREAD + CENTRE, 0.0, 1.0) * WHITE).astype(np.uint16)
        Image.fromarray(grey).save(folder / f"{number:04d}.png")
        lines.append(f"{number:04d}.png,{int(label)}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")


def declared(name: str, hospitals: Mapping[str, Table], epsilon: float | None) -> str:
    """The federation: how many images train is declared, as of a published data set it is known."""
    privacy = UNPROTECTED if epsilon is None else PRIVATE.format(epsilon=epsilon)
    units = {site: len(table) * 2 // 3 for site, table in hospitals.items()}
    sites = "\n".join(f"{site} = {{ units = {count}, prevalence = 0.5 }}" for site, count in units.items())
    return DECLARATION.format(name=name, privacy=privacy, sites=sites)


def main() -> None:
    """Write, train, route."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("data", help="the folder that holds pneumonia_xray, or digits")
    options.add_argument("--out", type=Path, required=True, help="a new folder")
    options.add_argument("--epsilon", type=float, help="protect patients; without it nobody is protected")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    if asked.out.exists():
        sys.exit(f"{asked.out}: is there already; name a new folder with --out")
    data = None if asked.data == "digits" else Path(asked.data)
    world = xrays(data, asked.seed, known=True)["unseen"]
    hospitals = asked.out / "hospitals"
    for site, table in {**world.members, "unseen": world.unseen}.items():
        write_hospital(table, hospitals / site)
    federation = asked.out / "federation.toml"
    federation.write_text(declared(asked.out.name, world.members, asked.epsilon))
    run, routed = asked.out / "run", asked.out / "routed"
    for command in (
        ["run", federation, "--data", hospitals, "--out", run, "--ledgers", asked.out / "ledgers"],
        ["route", run, "--data", hospitals / "unseen", "--out", routed],
    ):
        done = subprocess.run([sys.executable, "-m", "securepfl", *map(str, command)], check=False)  # noqa: S603
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
