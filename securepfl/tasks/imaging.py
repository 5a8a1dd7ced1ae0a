"""Libraries of the extra `imaging`, which tables need not have."""

from collections.abc import Iterator
from contextlib import contextmanager

from securepfl.errors import ExtraError


@contextmanager
def imaging(what: str) -> Iterator[None]:
    """To import such a library within. Raises ExtraError, with the install command, where it is not there.

    >>> with imaging("a U-Net"):
    ...     import a_library_that_nobody_has
    Traceback (most recent call last):
    securepfl.errors.ExtraError: a U-Net needs a_library_that_nobody_has: pip install 'securepfl[imaging]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ExtraError(f"{what} needs {error.name}: pip install 'securepfl[imaging]'") from None
