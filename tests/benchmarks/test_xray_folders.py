"""Simulated X-ray hospitals, written as folders of images and read back by their declaration."""

import tomllib
from pathlib import Path

import numpy as np
import torch
from methods.data_xray import CENTRE, SPREAD
from methods.task import Site
from methods.xray_folders import DECLARATION, write_folders

from securepfl.data.declared import spec_of
from securepfl.data.loading import load_sites
from securepfl.data.split import split_table


def hospital(seed: int) -> Site:
    random = np.random.default_rng(seed)
    pixels = [(random.uniform(size=(rows, 1, 28, 28)) - CENTRE) / SPREAD for rows in (6, 3)]
    train, test = (torch.from_numpy(values.astype(np.float32)) for values in pixels)
    return Site(train, torch.tensor([0.0, 1] * 3), test, torch.tensor([1.0, 0, 1]))


def test_what_is_written_reads_back_in_the_same_parts(tmp_path: Path):
    sites = {f"simulated-{number}": hospital(number) for number in range(2)}
    write_folders(sites, tmp_path)
    spec = spec_of(tomllib.loads(DECLARATION)["data"])
    tables = load_sites(tmp_path, spec)
    for name, site in sites.items():
        train, test = split_table(tables[name], spec.split)
        for table, images, labels in ((train, site.train_x, site.train_y), (test, site.test_x, site.test_y)):
            np.testing.assert_array_equal(table.labels, labels.numpy())
            np.testing.assert_allclose(table.features * (CENTRE / SPREAD), images.numpy(), atol=1e-4)
