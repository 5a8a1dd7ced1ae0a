"""What computed the epsilons on a ledger's lines: the way, which readers follow, and the versions, for information."""

from functools import lru_cache
from importlib.metadata import version

__all__ = ["ACCOUNTANT", "versions"]

ACCOUNTANT = "adaptive 1"
"""How a ledger's epsilon is computed: see accounting.adaptive. Persists: another way needs another name."""


def versions() -> dict[str, str]:
    """The versions of this product and of the libraries that compute epsilons, by name.

    >>> sorted(versions())
    ['dp-accounting', 'numpy', 'scipy', 'securepfl']
    """
    return dict(_versions())


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, version(name)) for name in ("dp-accounting", "numpy", "scipy", "securepfl"))
