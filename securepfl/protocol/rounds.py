"""The order of a round, once: who is asked what, and when. It carries bytes and knows no method, key or socket."""

from collections.abc import Mapping
from typing import Protocol


class Carrier(Protocol):
    """What takes a message to a hospital and brings its reply back: a runtime."""

    def ask(self, name: str, message: bytes) -> bytes:
        """The reply of hospital `name` (Client.handle); empty where it sent none, or could not be reached."""


class Hub(Protocol):
    """What `drive` needs of a coordinator. Each step gives one message for each hospital that it asks."""

    @property
    def masked(self) -> bool:
        """Whether a round has the two further exchanges of masks."""

    def invite(self) -> Mapping[str, bytes]:
        """Open the round."""

    def fix_survivors(self) -> Mapping[str, bytes]:
        """The list of hospitals that contributed, to be signed."""

    def unmask(self) -> Mapping[str, bytes]:
        """The request for shares of what the sum still carries."""

    def close(self) -> Mapping[str, bytes]:
        """End the round."""

    def receive(self, message: bytes) -> str:
        """Take one hospital's reply."""


def drive(hub: Hub, carrier: Carrier) -> None:
    """One round, from the invitation to the last answer.

    | step | coordinator | hospital | in every round |
    |---|---|---|---|
    | 1 | invite | contribute | yes |
    | 2 | fix_survivors | sign_survivors | where updates are masked |
    | 3 | unmask | reveal | where updates are masked |
    | 4 | close | apply | yes |

    A hospital that gives no reply is left out of the step; the coordinator decides whether a sum can be formed. Raises
    what hub and carrier raise.
    """
    _exchange(hub, carrier, hub.invite())
    if hub.masked:
        _exchange(hub, carrier, hub.fix_survivors())
        _exchange(hub, carrier, hub.unmask())
    for name, answer in hub.close().items():
        carrier.ask(name, answer)


def _exchange(hub: Hub, carrier: Carrier, messages: Mapping[str, bytes]) -> None:
    for name, message in messages.items():
        if reply := carrier.ask(name, message):
            hub.receive(reply)
