"""A data set as a study sees it: its declaration, each site's images, and who trains and who tests under a seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from securepfl.data.declared_split import Split
from securepfl.data.images.loading import load_sites
from securepfl.data.images.spec import ImageSpec
from securepfl.data.split import split_table
from securepfl.data.table import Table
from securepfl.errors import ConfigError, DataError
from securepfl.settings.federation import Federation
from securepfl.tasks.networks import UNet, build_network
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.starts import fill

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIG = "federation.toml"


@dataclass(frozen=True, eq=False)
class Study:
    """A data set's name, declaration and tables by site; `width` and `start` are the network's."""

    name: str
    spec: ImageSpec
    tables: Mapping[str, Table] = field(repr=False)
    width: int = 8
    start: Path | None = None

    @property
    def task(self) -> Segmentation:
        """With the shape that the declaration knows of."""
        return Segmentation(structures=self.spec.structures, holes=self.spec.holes)

    def model(self) -> UNet:
        """The network as everybody starts: the same for every seed, as a federation's digest binds it."""
        network = build_network("unet", self.spec.channels, self.width)
        if not isinstance(network, UNet):
            raise TypeError("a study of masks needs a U-Net")
        if self.start is not None:
            fill(network, self.start)
        return network.train()

    def split(self, seed: int = 0, *, choosing: bool = False) -> dict[str, tuple[Table, Table]]:
        """(train, test) of each site as declared, by patient: the same under every seed, so that whoever chooses on
        training patients never sees a test patient. `choosing`: the training patients are split again, by `seed`.

        Raises ConfigError where a site has too few of them for that.
        """
        parts = {site: split_table(table, self.spec.split) for site, table in self.tables.items()}
        return {site: _again(train, seed) for site, (train, _) in parts.items()} if choosing else parts


def read_study(data: Path, config: Path | None, start: Path | None, size: int | None = None) -> Study:
    """The data set in `data`, declared by `config`, else by the file beside it, else by the example of its name.

    `size`: the longest side in place of the declared one, for studies of time. Raises ConfigError where nothing
    declares it as masks.
    """
    places = [config] if config else [data / CONFIG, EXAMPLES / data.name / CONFIG]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(f"{places[-1]}: is missing; declare the images, or name a declaration with --config")
    federation = Federation.read(found)
    spec = federation.data_spec
    if not isinstance(spec, ImageSpec) or not spec.segments:
        raise ConfigError(f"{found}: [data] declares no masks; this is a study of segmentation")
    if size is not None:
        spec = replace(spec, size=(size, size), fit="resize")
    return Study(data.name, spec, load_sites(data, spec), federation.model.hidden, start)


def _again(train: Table, seed: int) -> tuple[Table, Table]:
    """Training patients split by a hash, by the next one where all fall on one side, as few easily do."""
    for state in range(1000 + seed, 100_000, 1000):
        try:
            found = split_table(train, Split(random_state=state))
        except DataError:
            continue
        if len(found[1]):
            return found
    raise ConfigError(f"{train.site}: one training patient alone cannot be split again; study it without --choosing")


def tensors(table: Table, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, C, H, W] and labels [n, 2, H, W]. Raises ConfigError where there are no masks."""
    if table.labels is None:
        raise ConfigError(f"{table.site}: has no masks")
    return torch.from_numpy(table.features).to(device), torch.from_numpy(table.labels).to(device)
