"""How much one hospital may ask of the hub: honest ones never notice."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Of the hub. Seconds, requests a second, and numbers of connections; checked where made.

    `poll`: how long an exchange waits for something to tell. `shake`: for a TLS handshake, and for a request's header.
    `body`: for the first piece of a body and then for each further `least_rate` x `body` bytes. `idle`: how long a
    connection may do nothing. `rate` requests a second, `burst` at once. `connections` of one hospital, `strangers`
    that have not shown a certificate yet from one address, `sockets` in all. Raises ValueError.

    >>> Limits(rate=0)
    Traceback (most recent call last):
    ValueError: rate must be more than 0, not 0
    """

    poll: float = 25.0
    shake: float = 10.0
    body: float = 30.0
    least_rate: int = 2**14
    idle: float = 65.0
    rate: float = 200.0
    burst: int = 400
    connections: int = 4
    strangers: int = 64
    sockets: int = 16384

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")


@dataclass
class Bucket:
    """Tokens that refill at `rate` a second up to `burst`: one a request.

    >>> bucket = Bucket(rate=2.0, burst=1)
    >>> bucket.wait(now=10.0), bucket.wait(now=10.0), bucket.wait(now=10.5)
    (0.0, 0.5, 0.0)
    """

    rate: float
    burst: int
    _left: float = field(init=False)
    _at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._left = float(self.burst)

    def wait(self, now: float | None = None) -> float:
        """Take a token: 0, or the seconds until there is one, and then none is taken."""
        now = time.monotonic() if now is None else now
        self._left = min(float(self.burst), self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / self.rate
