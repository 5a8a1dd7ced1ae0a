"""A hospital's rows of either kind: of tables, or of images where `[data]` says `kind = "images"`."""

from pathlib import Path

from securepfl.data import tables
from securepfl.data.declared import Declared
from securepfl.data.folder import left_out as left_out_of_tables
from securepfl.data.images import loading as images
from securepfl.data.images.spec import ImageSpec
from securepfl.data.table import Table
from securepfl.errors import ConfigError


def load_sites(path: Path, spec: Declared) -> dict[str, Table]:
    """Each site's rows, sorted by site. Raises DataError, of every hospital at once."""
    return images.load_sites(path, spec) if isinstance(spec, ImageSpec) else tables.load_sites(path, spec)


def load_site(path: Path, spec: Declared, site: str) -> Table:
    """One hospital's own rows, at that hospital. Raises DataError."""
    return images.load_site(path, spec, site) if isinstance(spec, ImageSpec) else tables.load_site(path, spec, site)


def load_unlabelled(path: Path, spec: Declared, id_column: str | None = None) -> Table:
    """The rows of a hospital that takes no part, with labels or masks where all of them are there. `id_column` holds
    the rows' own names in a table; images have theirs. Raises DataError, and ConfigError for an `id_column` of images.
    """
    if not isinstance(spec, ImageSpec):
        return tables.load_unlabelled(path, spec, id_column)
    if id_column is not None:
        raise ConfigError("--id names a column of a table, and these are images, which have names; leave it out")
    return images.load_unlabelled(path, spec)


def left_out(path: Path, spec: Declared) -> list[str]:
    """One line that names what in a folder is no hospital's; none where there is nothing."""
    if not isinstance(spec, ImageSpec):
        return left_out_of_tables(path, spec.files)
    there = [site for site in spec.without if (path / site).is_dir()]
    return [f"{path.name}: not read, by [data] without: {', '.join(there)}"] if there else []
