"""Which hospitals there are, and what their names may be."""

from securepfl.data.names import alike, composed, spelled_out
from securepfl.errors import ConfigError


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
        if not name or not printable or name.startswith(".") or set(name) & set('/\\:"'):
            raise ConfigError(f"hospital name {name!r}: cannot be a file name; rename the site")
        if name != composed(name):
            raise ConfigError(
                f"hospital name {spelled_out(name)}: is not in Unicode's composed form (NFC); write it anew"
            )
    if pair := alike(names):
        raise ConfigError(f"hospital names {spelled_out(pair[0])} and {spelled_out(pair[1])} look alike; rename one")
