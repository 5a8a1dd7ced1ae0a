"""The order of a round, once: who is asked what, and when. It carries bytes and knows no method, key or socket."""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from securepfl.crypto.messages.envelope import Kind
from securepfl.errors import LateError, MessageError

MOST_ATTEMPTS: Final = 4
"""Answers to one round that a hospital gets and decrypts: the first, one after an opening, and one less each small
part that it alone refuses. So a round ends, and an active coordinator learns no more than so many times what failed.
"""


class Messages(Mapping[str, bytes]):
    """One message of a `kind` for each of some hospitals, made when it is asked for: a step's messages are never all
    in memory. Asked again, the same again; equal to any mapping of the same.

    >>> messages = Messages(Kind.ENDED, ("north", "south"), str.encode)
    >>> messages["north"], len(messages), messages == {"north": b"north", "south": b"south"}
    (b'north', 2, True)
    """

    def __init__(self, kind: Kind, names: Collection[str], made: Callable[[str], bytes]) -> None:
        self.kind, self._names, self._made = kind, dict.fromkeys(names), made

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        return self._made(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def only(self, names: Collection[str]) -> "Messages":
        """Those to some of the hospitals."""
        return Messages(self.kind, [name for name in self._names if name in names], self._made)


class Carrier(Protocol):
    """What takes a message to a hospital and brings its reply back: a runtime."""

    def ask(self, name: str, message: bytes) -> bytes:
        """The reply of hospital `name` (Client.handle); empty where that raised, none came, or nobody was reached."""


class Hub(Protocol):
    """What a round needs of a coordinator. Each step gives one message for each hospital that it asks."""

    @property
    def closed(self) -> int:
        """How many rounds are over."""

    @property
    def ended(self) -> str:
        """Why the run cannot go on; empty while it can."""

    @property
    def over(self) -> bool:
        """Whether no further round can be opened: all are closed, or the run has ended."""

    @property
    def settled(self) -> bool:
        """Whether nobody is to be asked anything more about the last answers."""

    @property
    def masked(self) -> bool:
        """Whether a round has the two further exchanges of masks."""

    def owed(self) -> Mapping[str, bytes]:
        """The last answers again, for those who have sent no receipt."""

    def invite(self) -> Mapping[str, bytes]:
        """Open the round, or go on with the one that is open; none where contributions are no longer taken."""

    def fix_survivors(self) -> Mapping[str, bytes]:
        """The list of hospitals that contributed, to be signed."""

    def unmask(self) -> Mapping[str, bytes]:
        """The request for shares of what the sum still carries. Raises MessageError where no sum can come of it."""

    def close(self) -> Mapping[str, bytes]:
        """End the round: the answers, to which hospitals reply with receipts."""

    def settle(self) -> Mapping[str, bytes]:
        """The next step where hospitals refused their answers; nothing once all is settled, after few steps. After a
        restart first what was asked last.
        """

    def receive(self, message: bytes) -> str:
        """Take one hospital's reply. Raises LateError for one that came late, MessageError for one refused."""

    def refuse(self, name: str, reason: MessageError) -> None:
        """Note that what hospital `name` replied was refused."""


@dataclass(frozen=True)
class Refusal:
    """A reply that the coordinator did not take, and why.

    `hospital` is the one that was asked; None where every reply was taken, but the masks in them don't fit each other.
    """

    hospital: str | None
    reason: MessageError


Step = Mapping[str, bytes]
"""What is asked in one step, by hospital."""

Steps = Generator[Step, None, tuple["Refusal", ...]]
"""The steps of one round: each is taken up once the replies to the one before were received, or given up. Returns what
was refused of all replies together.
"""


def steps(hub: Hub) -> Steps:
    """One round, from the invitation to the last answer.

    | step | coordinator | hospital | in every round |
    |---|---|---|---|
    | 0 | owed, then 5 to 7 | apply, receipt | where an answer or a receipt got lost |
    | 1 | invite | contribute | yes |
    | 2 | fix_survivors | sign_survivors | where updates are masked |
    | 3 | unmask | reveal | where updates are masked |
    | 4 | close | apply, receipt | yes |
    | 5 | settle: masks are to be opened | open_masks | where most refuse a masked sum |
    | 6 | settle: one hospital's contribution, for each | judge | where most refuse a part of the answer |
    | 7 | settle: another answer, then 5 to 7 again | apply, receipt | where somebody refuses a part of the answer |

    A coordinator that was killed and started again on its folder goes on where it was, whichever step that was. Raises
    MessageError where the coordinator cannot begin a round; after the last one, what is left of its answers is a round
    of its own.
    """
    unheard = yield from left_over(hub)
    if hub.over and unheard:
        return ()
    yield hub.invite()
    refused: tuple[Refusal, ...] = ()
    if hub.masked:
        yield hub.fix_survivors()
        try:
            yield hub.unmask()
        except MessageError as reason:  # masks that don't fit each other leave nothing to ask for: no sum
            refused = (Refusal(None, reason),)
    yield hub.close()
    yield from _settling(hub)
    return refused


def left_over(hub: Hub) -> Generator[Step, None, bool]:
    """What is left of the round before, as after a kill; whether there was anything."""
    owed, settled = hub.owed(), hub.settled
    yield owed
    yield from _settling(hub)
    return bool(owed) or not settled


def _settling(hub: Hub) -> Generator[Step, None, None]:
    while further := hub.settle():
        yield further


def drive(hub: Hub, carrier: Carrier) -> tuple[Refusal, ...]:
    """One round (`steps`) with everybody at hand. Returns what the coordinator refused, in order.

    A hospital that gives no reply, or one that is refused, is left out of the step, and the round goes on for the
    others: bad bytes of one must not end it for all. The coordinator decides whether a sum can be formed; an engine
    logs what was refused. Raises what the carrier raises, and MessageError where the coordinator cannot begin a round:
    where the run has ended too, once all that is owed was told.
    """
    refused: list[Refusal] = []
    round_, ended = steps(hub), hub.ended
    while True:
        try:
            asked = next(round_)
        except StopIteration as over:
            if ended:
                raise MessageError(ended) from None
            return (*refused, *over.value)
        for name, message in asked.items():
            if (reply := carrier.ask(name, message)) and (refusal := receive(hub, name, reply)):
                refused.append(refusal)


def receive(hub: Hub, name: str, reply: bytes) -> Refusal | None:
    """Have the coordinator take what hospital `name` replied, or name it for what was refused; not for a late one."""
    try:
        hub.receive(reply)
    except LateError as late:
        return Refusal(name, late)
    except MessageError as reason:
        hub.refuse(name, reason)
        return Refusal(name, reason)
    return None
