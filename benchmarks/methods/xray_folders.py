"""The simulated X-ray hospitals as folders of PNG files with an index, as `[data] kind = "images"` reads them:

PYTHONPATH=benchmarks python -m methods.xray_folders --data ../shared/data --out xray
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from methods.data_xray import CENTRE, SPREAD, xray
from methods.task import Site

WHITE = 65535
DECLARATION = """\
[data]
kind = "images"
size = [28, 28]
images = "."
label = "pneumonia"
intensity = "range"
range = [0, 65535]
split = { method = "column", column = "part", test_values = "test" }
"""


def write_folders(sites: Mapping[str, Site], out: Path) -> None:
    """A folder for each hospital, new ones, its images as 16-bit PNG, and an index with `file`, `pneumonia`, `part`."""
    for name, site in sites.items():
        folder, rows = out / name, ["file,pneumonia,part"]
        folder.mkdir(parents=True)
        parts = {"train": (site.train_x, site.train_y), "test": (site.test_x, site.test_y)}
        for part, (images, labels) in parts.items():
            for number, (image, label) in enumerate(zip(images.numpy(), labels.numpy(), strict=True)):
                file = f"{part}_{number:04d}.png"
                Image.fromarray(_stored(image[0])).save(folder / file)
                rows.append(f"{file},{int(label)},{part}")
        (folder / "index.csv").write_text("\n".join(rows) + "\n")


def _stored(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    return np.round(np.clip(image * SPREAD + CENTRE, 0.0, 1.0) * WHITE).astype(np.uint16)


def main() -> None:
    """Write them, and say how to declare them."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--sites", type=int, default=6)
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    write_folders(xray(asked.data, asked.seed, asked.sites).sites, asked.out)
    (asked.out / "data.toml").write_text(DECLARATION)


if __name__ == "__main__":
    main()
