"""Which hospitals there are, and what their names may be."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from securepfl.errors import ConfigError
from securepfl.spelling import alike, composed, spelled_out

if TYPE_CHECKING:
    from securepfl.settings.tables import SiteSettings


_LONGEST = 200
"""Bytes of a name in UTF-8: file systems take 255, and endings follow."""


def names_of(sites: Iterable[str]) -> tuple[str, ...]:
    """Hospitals' names as Python's texts. Raises ConfigError for what is no list of names, and for one twice there.

    >>> names_of(["north", "south"])
    ('north', 'south')
    """
    if isinstance(sites, str | bytes) or not isinstance(sites, Iterable):
        raise ConfigError(f"sites = {sites!r}: must be a list of the hospitals' names")
    names = list(sites)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ConfigError(f"hospital name {wrong[0]!r}: must be a text")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"hospital name {spelled_out(twice)}: is there twice; name each hospital once")
    return tuple(map(str, names))


def check_roster(names: list[str], minimum: int) -> None:
    """Raise ConfigError for too few hospitals or names that cannot be file names, or that look alike."""
    if len(names) < minimum:
        raise ConfigError(
            f"{len(names)} hospital(s) found, but a sum needs {minimum}: add hospitals to the data; with two, each "
            "would read off the other's update, unless you set minimum = 2 to accept that"
        )
    for name in names:
        if name == "shared":
            raise ConfigError("hospital name 'shared': taken by the model that all hospitals share; rename the site")
        printable = name.isprintable() and name == name.strip()
        unfit = not name or not printable or name.startswith(".") or set(name) & set('/\\:"')
        if unfit or len(name.encode()) > _LONGEST:
            raise ConfigError(f"hospital name {name!r}: cannot be a file name; rename the site")
        if name != composed(name):
            raise ConfigError(
                f"hospital name {spelled_out(name)}: is not in Unicode's composed form (NFC); write it anew"
            )
    if pair := alike(names):
        raise ConfigError(f"hospital names {spelled_out(pair[0])} and {spelled_out(pair[1])} look alike; rename one")


def check_declared(sites: Mapping[str, "SiteSettings"], unit: str = "record", unknown: Iterable[str] = ()) -> None:
    """Raise ConfigError, naming all of them, for hospitals that declare no units, and for weights that only some
    declare. `unknown`: those that the data have and no table names, which may be there by a slip.
    """
    if lacking := [name for name, its in sites.items() if its.units is None]:
        named = ", ".join(f'"{name}"' for name in unknown)
        slip = f"; or, if its folder takes no part, [data] without = [{named}]" if named else ""
        raise ConfigError(lacks_units(*lacking, unit=unit) + slip)
    unweighted = [name for name, its in sites.items() if its.weight is None]
    if 0 < len(unweighted) < len(sites):
        raise ConfigError(
            f"[sites.{unweighted[0]}] weight: some hospitals declare a weight and {', '.join(unweighted)} do not; "
            "declare it for all, or for none (then hospitals weigh as their units do)"
        )


def lacks_units(*names: str, unit: str = "record") -> str:
    """What to write where hospitals declare no units, and why."""
    tables = " and ".join(f"[sites.{name}]" for name in names)
    return (
        f"{tables} units: must be declared; write units = N, a round number of training {unit}s that the hospital is "
        "publicly known to have (noise, weight and sample rate follow from it, so that nothing sent tells the true one)"
    )
