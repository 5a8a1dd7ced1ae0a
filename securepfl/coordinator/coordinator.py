"""The coordinator: invites, adds ciphertexts as they arrive, answers. It never holds a key that opens a sum, and SEAL
parses nothing that hospitals send as they sent it.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from securepfl.coordinator.answering import Answering
from securepfl.coordinator.catching_up import Snapshots
from securepfl.coordinator.disputing import AWAY, Case, Dispute
from securepfl.coordinator.folder_store import FolderStore
from securepfl.coordinator.naming import line
from securepfl.coordinator.progress import STEPS, Progress, check_ground, check_in_time
from securepfl.coordinator.round import AGREEING, ANSWERED, COLLECTING, REVEALING, OpenRound, Rules
from securepfl.coordinator.sealing import Contents, Sealing, Share, messages
from securepfl.coordinator.store import (
    Answered,
    Begun,
    Kept,
    KeptKind,
    MemoryStore,
    Named,
    Readmitted,
    Sent,
    Settling,
    Stated,
    Stepped,
    Store,
    Taken,
)
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.masks.agreement import SIGNATURE_CONTEXT
from securepfl.crypto.messages.content import Buffer
from securepfl.crypto.messages.envelope import RUN_BYTES, Header, Kind, open_message, seal_message
from securepfl.errors import ConfigError, LateError, MessageError, StorageError
from securepfl.protocol.channels import Layouts
from securepfl.protocol.messages import (
    NONCE_BYTES,
    Agreement,
    Answer,
    Body,
    Contribution,
    Decline,
    Opened,
    Receipt,
    Reveal,
    SnapshotSent,
    SnapshotWanted,
    Statement,
    Survivors,
    Verdict,
    decode,
    encode,
)
from securepfl.protocol.rounds import Messages
from securepfl.protocol.statements import check_statement
from securepfl.settings.federation import Federation

MOST_EVIDENCE: Final = 3
"""Rounds of which a hospital's contradicting message is kept: one that contradicts itself in all fills no disk."""


class Coordinator(Progress):
    """The coordinator as a state machine over bytes: invite() -> messages, receive(message), close() -> answers; where
    updates are masked, fix_survivors() -> messages and unmask() -> messages between the two; where answers are refused,
    settle() -> messages until it has none (disputing.py). All replies are received.

    `hospitals` maps every name of the federation's roster to its public identity. `key_commitment` fixes the hospitals'
    key and shows nothing of it; `run` (16 bytes) identifies the run, and `closed` are its rounds that were closed
    before, where it goes on after a rotation. It reads no clock: who calls decides when a step ends. `heads` keeps each
    hospital's latest ledger hash; `states` the keyed digests of the shared state from the open round's contributions;
    `statements` what hospitals stated last; `evaluation` the keys that they sent to multiply sketches with; `evidence`,
    by round and hospital, the first message that contradicted the contribution taken, of a hospital's first few such
    rounds, or a contribution that broke the rules; `cases` the verdicts on those; `ended` why the run cannot go on,
    empty while it can; `parts` counts bytes by purpose.

    All that decides lies in `folder` before anything leaves: killed at any moment and made again with the same folder,
    a coordinator goes on with the same round, run, salt, messages and answers. Each step can be asked for again and
    gives the same; `answers` gives those of a round that is over. After a key rotation the folder goes on at the next
    round, where its `run` is named. None keeps everything in memory, the last round's messages too: for a simulation
    in one process, which ends with it.

    Raises ConfigError where identities and roster differ or two hospitals share an identity; StorageError where the
    folder is another run's, federation's or coordinator's, damaged, or in use. A step that could not be written raises
    it too, and so does all that follows: make the coordinator again, from what lies there.

    >>> from securepfl.settings.tables import SiteSettings
    >>> names = ("north", "south", "west")
    >>> hospitals = {name: Identity.generate(name).public for name in names[:2]}
    >>> federation = Federation(sites=dict.fromkeys(names, SiteSettings()))
    >>> Coordinator(federation, Identity.generate("hub"), hospitals, key_commitment=bytes(32))
    Traceback (most recent call last):
    securepfl.errors.ConfigError: the coordinator's hospitals are not the federation's roster; enrol exactly those

    Four hospitals whose updates are masked, in one process:

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from securepfl import Client, Federation, Simulation, local_parties
    >>> build_model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))
    >>> names, settings = ("east", "north", "south", "west"), {"rounds": 1, "model": {"kind": "own"}}
    >>> settings |= {"encryption": {"scheme": "none", "masking": "pairwise"}}
    >>> federation = Federation.from_mapping(settings).bound(names, build_model, units=4)
    >>> keyrings, coordinator = local_parties(federation)
    >>> rows = torch.utils.data.TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    >>> place = tempfile.TemporaryDirectory()
    >>> clients = {
    ...     name: Client(
    ...         federation, name, build_model, rows, keys, Path(place.name, name),
    ...         ledgers=Path(place.name, name), device="cpu", simulation=Simulation(),
    ...     )
    ...     for name, keys in keyrings.items()
    ... }

    A round. West is away, and bytes that are none of its messages are refused in its name. Where updates are not
    masked, the two steps in the middle fall away:

    >>> invitations = coordinator.invite()
    >>> coordinator.number, coordinator.least  # a sum needs three contributions
    (1, 3)
    >>> for name in ("east", "north", "south"):
    ...     _ = coordinator.receive(clients[name].contribute(invitations[name]))
    >>> from securepfl.errors import MessageError
    >>> try:
    ...     _ = coordinator.receive(b"noise on the line")
    ... except MessageError as reason:
    ...     coordinator.refuse("west", reason)
    >>> coordinator.survivors, sorted(coordinator.heard), [name for _, name in coordinator.named]
    (('east', 'north', 'south'), ['east', 'north', 'south'], ['west'])
    >>> len(coordinator.contribution("north").update) > 0, coordinator.contribution("west")
    (True, None)
    >>> for name, survivors in coordinator.fix_survivors().items():
    ...     if name != "west":
    ...         _ = coordinator.receive(clients[name].sign_survivors(survivors))
    >>> for name, request in coordinator.unmask().items():
    ...     _ = coordinator.receive(clients[name].reveal(request))
    >>> for name, answer in coordinator.close().items():
    ...     if name != "west":
    ...         _ = coordinator.receive(clients[name].handle(answer))

    Afterwards: whose updates are in the sum, who has applied it, and who is still owed its answer.

    >>> sorted(coordinator.contributed), coordinator.latest("north"), coordinator.latest("west")
    (['east', 'north', 'south'], 1, 0)
    >>> sorted(coordinator.answers()), sorted(coordinator.owed()), coordinator.over
    (['east', 'north', 'south', 'west'], ['west'], True)
    >>> for client in clients.values():
    ...     client.close()
    >>> coordinator.stop()
    >>> place.cleanup()
    """

    def __init__(
        self,
        federation: Federation,
        identity: Identity,
        hospitals: Mapping[str, PublicIdentity],
        *,
        key_commitment: bytes,
        run: bytes | None = None,
        closed: int = 0,
        folder: Path | None = None,
    ) -> None:
        if set(hospitals) != set(federation.roster):
            raise ConfigError("the coordinator's hospitals are not the federation's roster; enrol exactly those")
        self._by_key = {public.fingerprint: name for name, public in hospitals.items()}
        if len(self._by_key) != len(hospitals):
            raise ConfigError("two hospitals have the same identity; each must make its own")
        self.federation, self.seconds = federation, 0.0
        self.evidence: dict[tuple[int, str], bytes] = {}
        self.cases: dict[tuple[int, str], Case] = {}
        self._resettle = False
        self._kept_keys: set[str] = set()
        self._rejoined: tuple[tuple[str, int, int], bytes] | None = None
        self._asking: tuple[str, int, bytes] | None = None
        self._where, self._ahead = folder or "the coordinator's memory", False
        self.identity, self.hospitals = identity, dict(hospitals)
        base, layouts = federation.session_digest(key_commitment), federation.once(Layouts.of)
        self.store: Store = MemoryStore() if folder is None else FolderStore(folder)
        try:
            ground = self.store.ground
            found = secrets.token_bytes(RUN_BYTES) if ground is None else ground.run
            rules = Rules(federation, layouts, base, run or found)
            super().__init__(rules, identity.public.fingerprint, closed)
            self.snapshots = Snapshots.opened(self.store, base, federation.minimum - 1)
            if ground is None:
                self.store.begin(self.ground())
            else:
                check_ground(ground, self.ground(), folder, named=run is not None)
                self.evidence = {(kept.number, kept.sender): kept.data for kept in self.store.kept("evidence")}
                self.cases = {
                    (kept.number, kept.sender): Case.from_bytes(kept.data) for kept in self.store.kept("case")
                }
                keys = [kept for kept in self.store.kept("evaluation") if kept.base == base]
                self.evaluation = {kept.sender: kept.data for kept in keys}
                self._kept_keys = set(self.evaluation)
                self.go_on(ground, self.store.records(), self._taken, folder)
                self._resettle = self.dispute is not None
        except BaseException:
            self.store.close()
            raise

    def invite(self) -> Mapping[str, bytes]:
        """Open the next round: one sealed invitation for each hospital. While the round takes contributions, the same
        again; none once it takes no more. Raises
        MessageError where the last round is over.
        """
        if self.open_round is None:
            if self.ended:
                raise MessageError(self.ended)
            if self.dispute is not None and self.dispute.refused:
                raise MessageError(f"round {self.closed} is disputed: settle it first")
            self._name_silent()
        with self._kept_whole():
            if self.open_round is None:
                if self.closed >= self.rounds:
                    raise MessageError(f"all {self.rounds} rounds are over: the run has ended")
                self._keep_evaluation()
                self.snapshots.attest(self.statements)
                begun = Begun(salt=secrets.token_bytes(NONCE_BYTES))
                self.store.begin(self.ground(), begun)
                self._begin(begun)
                self.same_keys = True
        current = self._current()
        if current.expected != COLLECTING:
            return {}
        return self._sealed(Kind.INVITATION, self.invited, current.invitation_to)

    def receive(self, message: bytes) -> str:
        """Take one hospital's message and add what it holds; return the hospital's name.

        The same bytes again change nothing; another contribution from the same hospital is refused and kept in
        `evidence`. Of its signatures and reveals the first that is right counts, and later ones change nothing. Raises
        LateError for what came after its step had ended, MessageError for anything else that is not a whole, authentic
        message of this round.
        """
        current, header = self.open_round or self.answered, Header.from_bytes(message)
        if header.kind == Kind.SNAPSHOT:
            return self._take_snapshot(message, header)
        if current is None:
            raise MessageError("no round is open: the message came before an invitation or after the close")
        started = time.perf_counter()
        check_in_time(current, header)
        sender, header, data = self._opened(current, message, current.expected)
        try:
            with self._kept_whole():
                record = self._record_of(current, sender, header, message, data)
                if record is not None:
                    self.store.append(record)
        except LateError:
            raise
        except MessageError as reason:
            self._name(current, [sender], str(reason))
            raise
        self.seconds += time.perf_counter() - started
        return sender

    def refuse(self, name: str, reason: MessageError) -> None:
        """Name hospital `name` for a reply of its that was refused; `receive` itself names whoever signed one."""
        current = self.open_round or self.answered
        if current is not None and name in self.hospitals:
            self._name(current, [name], f"what came from it was refused ({reason})")

    def fix_survivors(self) -> Mapping[str, bytes]:
        """Fix the survivors of a masked round: no contribution is taken any more. One sealed list for each hospital, to
        be signed; none where they are too few to hide each other, or where it takes no more signatures. Raises
        MessageError where the round is not at that step, ConfigError where updates are not masked.
        """
        current = self._reached(AGREEING)
        if current.expected != AGREEING or not current.hidden:
            return {}
        body = Survivors(survivors=self.survivors, salt=current.salt)
        return self._sealed(Kind.SURVIVORS, self.invited, lambda _: body)

    def unmask(self) -> Mapping[str, bytes]:
        """Ask those who signed the list for their shares: one sealed message each; none where they are too few. Raises
        MessageError where the round is not at that step, or what survivors sent cannot be unmasked; then close it.
        """
        current = self._reached(REVEALING)
        if current.hidden:
            self._name(current, set(current.survivors) - set(current.signatures), "contributed and signed no survivors")
        if not current.begin_unmasking():
            return {}
        return self._sealed(Kind.UNMASK, tuple(current.signatures), current.request)

    def close(self) -> Mapping[str, bytes]:
        """End the round: one sealed answer for each hospital of the roster, also those that sent nothing.

        Where fewer than the federation's minimum contributed, or too few helped to unmask them, no sum leaves. Raises
        MessageError where no round is open.
        """
        current, started = self._current(), time.perf_counter()
        answering, roster = Answering(current), self.federation.roster
        answering.form()
        self._name_unmasking(current)
        with self._kept_whole():
            parts = self._keep_answers(current, roster, answering.answer)
            answered = Answered(heads=self.heads, parts=parts)
            self.store.append(answered)
            self._end(answered)
            current.total = self.rules.sum_of("update")  # its bytes are stored: the ciphertexts' memory goes
        if self.dispute is not None:
            self.dispute.answering = answering
        self.seconds += time.perf_counter() - started
        return self.answers()

    def settle(self) -> Mapping[str, bytes]:
        """Where answers were refused, the next step to settle that: messages by hospital, whose replies are received
        before the next; none once nothing is left to settle, and always so after few steps (disputing.py). A
        coordinator that was started again first asks once more what it asked last.

        West cheats: the tags of its updates are under a key of its own, so no sum that holds one can be right.

        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from securepfl import Client, Federation, Simulation, local_parties
        >>> from dataclasses import replace
        >>> from securepfl import FederationKey
        >>> build_model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))
        >>> names, settings = ("east", "north", "south", "west"), {"rounds": 2, "model": {"kind": "own"}}
        >>> settings |= {"encryption": {"scheme": "none", "masking": "pairwise"}}
        >>> federation = Federation.from_mapping(settings).bound(names, build_model, units=4)
        >>> keyrings, coordinator = local_parties(federation)
        >>> class Forged(FederationKey):
        ...     tag_key = bytes(32)
        >>> key = keyrings["west"].federation_key
        >>> keyrings["west"] = replace(keyrings["west"], federation_key=Forged(key.epoch, key.root_key))
        >>> rows = torch.utils.data.TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
        >>> place = tempfile.TemporaryDirectory()
        >>> clients = {
        ...     name: Client(
        ...         federation, name, build_model, rows, keys, Path(place.name, name),
        ...         ledgers=Path(place.name, name), device="cpu", simulation=Simulation(),
        ...     )
        ...     for name, keys in keyrings.items()
        ... }
        >>> for step in (coordinator.invite, coordinator.fix_survivors, coordinator.unmask, coordinator.close):
        ...     for name, message in step().items():
        ...         _ = coordinator.receive(clients[name].handle(message))

        All have refused the answer. They open the masks of their updates, and then judge these, a hospital's in each
        step, until another answer comes that leaves west out. `handle` takes any of these messages:

        >>> for name, opening in coordinator.settle().items():
        ...     _ = coordinator.receive(clients[name].open_masks(opening))
        >>> for name, evidence in coordinator.settle().items():
        ...     _ = coordinator.receive(clients[name].judge(evidence))
        >>> while further := coordinator.settle():
        ...     for name, message in further.items():
        ...         if name != "west":
        ...             _ = coordinator.receive(clients[name].handle(message))
        >>> coordinator.settled, [client.round for client in clients.values()]
        (True, [1, 1, 1, 0])
        >>> coordinator.excluded
        {'west': 'round 1: its update broke the rules, as 3 of 3 hospitals found by opening it'}

        Once its operator has said why, and mended it, it may be invited again:

        >>> coordinator.readmit("west")
        >>> coordinator.excluded
        {}
        >>> for client in clients.values():
        ...     client.close()
        >>> place.cleanup()
        """
        if self.answered is None or self.dispute is None:
            return {}
        started, current = time.perf_counter(), self.answered
        if self._resettle:
            self._resettle = False
            if left := self._left(self.dispute):
                return left
        with self._kept_whole():
            disputed, bodies = bool(self.dispute.refused), self._settle()
            self._take_findings(current, self.dispute)
            answers = {name: body for name, body in bodies.items() if isinstance(body, Answer)}
            if bodies or disputed:
                self.parts = self._keep_answers(current, answers, answers.__getitem__)
                self.store.append(Settling())
        self.seconds += time.perf_counter() - started
        return self.answers().only(answers) if answers else self._asked(bodies)

    def _left(self, dispute: Dispute) -> Mapping[str, bytes]:
        """What was asked last before a restart; answers are owed, and come again there."""
        asked = {name: body for name, body in dispute.last.items() if not isinstance(body, Answer)}
        return self._asked({name: body for name, body in asked.items() if not dispute.has_replied(name, body)})

    def _asked(self, bodies: Mapping[str, Body]) -> Mapping[str, bytes]:
        """The messages of a dispute's step, all of one kind."""
        for body in bodies.values():
            return self._sealed(body.kind, tuple(bodies), bodies.__getitem__)
        return {}

    @property
    def named(self) -> Mapping[tuple[int, str], str]:
        """Who did something wrong, by round and hospital: a line each."""
        return dict(self.names.named)

    @property
    def excluded(self) -> Mapping[str, str]:
        """Whom no round invites, and why."""
        return dict(self.names.excluded)

    def readmit(self, name: str) -> None:
        """Invite a hospital again that was excluded. Raises ConfigError where it was not."""
        if name not in self.names.excluded:
            raise ConfigError(f"{name!r} is not excluded; those are: {', '.join(self.names.excluded) or 'nobody'}")
        readmitted = Readmitted(hospital=name)
        with self._kept_whole():
            self.store.append(readmitted)
            self._readmit(readmitted)

    def answers(self, number: int | None = None) -> Messages:
        """The answers to round `number` (default: the last that was closed) again: the same bytes, by hospital. Those
        of the last round are all there, of earlier ones those whose receivers have not stated to have applied them.
        """
        number = self.closed if number is None else number
        names = self.store.answered(number) if self.same_keys and number <= self.closed else ()
        return Messages(Kind.ANSWER, names, partial(self.store.answer, number))

    def owed(self) -> Mapping[str, bytes]:
        """The last answers again, for those who have sent no receipt for them: after a kill, or to who was away."""
        if self.open_round is not None:
            return {}
        heard = {name for name, its in self.statements.items() if its.round == self.closed}
        heard |= set() if self.dispute is None else self.dispute.refused.keys()
        answers = self.answers()
        return answers.only(answers.keys() - heard)

    def stop(self) -> None:
        """Give the folder back. The coordinator can't be used afterwards."""
        self.store.close()

    @property
    def masked(self) -> bool:
        """Whether a round has the two exchanges of masks."""
        return self.federation.masked

    @property
    def roster(self) -> tuple[str, ...]:
        """All hospitals, by name."""
        return self.federation.roster

    @property
    def rounds(self) -> int:
        """How many rounds the run has."""
        return self.federation.exchanges

    @property
    def least(self) -> int:
        """How many contributions a sum needs."""
        return self.federation.least_in_sum

    @property
    def over(self) -> bool:
        """Whether no further round can be opened: all are closed, or the run has ended."""
        return self.open_round is None and (bool(self.ended) or self.closed >= self.rounds)

    @property
    def settled(self) -> bool:
        """Whether nobody is to be asked anything more about the last answers."""
        return self.dispute is None or not (self.dispute.refused or (self._resettle and self._left(self.dispute)))

    @property
    def number(self) -> int:
        """The round whose messages are taken now; 0 before the first."""
        current = self.open_round or self.answered
        return self.closed if current is None else current.number

    @property
    def contributed(self) -> frozenset[str]:
        """Whose contributions are in the sum of the round whose messages are taken now."""
        current = self.open_round or self.answered
        return frozenset() if current is None else frozenset(current.survivors)

    @property
    def heard(self) -> frozenset[str]:
        """Whose replies to the step at hand were taken."""
        if self.open_round is not None:
            return self.open_round.heard
        return frozenset() if self.dispute is None else self.dispute.heard_now

    def latest(self, name: str) -> int:
        """The last round that a hospital stated to have applied; 0 before any."""
        return self.statements[name].round if name in self.statements else 0

    def can_catch_up(self, name: str, at: int, *, anew: bool) -> bool:
        """Whether `catch_up` has something."""
        return self._from(name, at, anew=anew) is not None

    def catch_up(self, name: str, at: int, *, anew: bool) -> list[tuple[Kind, bytes]]:
        """What brings a hospital that has applied `at` rounds to the last one that is over: its answers. Where those
        are gone, or don't fit it (`anew`), the shared state with the answers since. Empty where that is not there.

        West is away for two rounds, and yew has not begun:

        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from securepfl import Client, Federation, Simulation, local_parties
        >>> build_model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Flatten(0))
        >>> names = ("east", "north", "south", "west", "yew")
        >>> settings = {"rounds": 3, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}
        >>> federation = Federation.from_mapping(settings).bound(names, build_model, units=4)
        >>> keyrings, coordinator = local_parties(federation)
        >>> rows = torch.utils.data.TensorDataset(torch.eye(4), torch.tensor([0.0, 1.0, 0.0, 1.0]))
        >>> place = tempfile.TemporaryDirectory()
        >>> clients = {
        ...     name: Client(
        ...         federation, name, build_model, rows, keys, Path(place.name, name),
        ...         ledgers=Path(place.name, name), device="cpu", simulation=Simulation(),
        ...     )
        ...     for name, keys in keyrings.items()
        ... }
        >>> for step in (coordinator.invite, coordinator.close) * 2:
        ...     for name, message in step().items():
        ...         if name not in ("west", "yew"):
        ...             _ = coordinator.receive(clients[name].handle(message))

        It could take the answers that it missed. The shared state is shorter, where one of the others sends it:

        >>> north, west = clients["north"], clients["west"]
        >>> coordinator.can_catch_up("west", west.round, anew=False)
        True
        >>> [kind.name for kind, _ in coordinator.catch_up("west", west.round, anew=False)]
        ['ANSWER', 'ANSWER']
        >>> coordinator.wants_snapshot, coordinator.may_ask_snapshot("north")
        (True, True)
        >>> [(_, wanted)] = coordinator.ask_snapshot("north")
        >>> coordinator.receive(north.send_snapshot(wanted))
        'north'
        >>> [(kind, state)] = coordinator.catch_up("west", west.round, anew=True)
        >>> west.rejoin(state)
        >>> kind.name, west.round, west.state_digest == north.state_digest
        ('REJOIN', 2, True)

        Had it not fitted, another hospital would be asked for its own:

        >>> coordinator.doubt_snapshot(), coordinator.wants_snapshot, coordinator.may_ask_snapshot("north")
        ('north', True, False)

        A newcomer may also begin with what another hospital hands it, where the others' digests agree:

        >>> digests = {name: clients[name].state_digest for name in ("east", "north", "south")}
        >>> clients["yew"].join(north.snapshot(), digests)
        >>> clients["yew"].round
        2
        >>> for client in clients.values():
        ...     client.close()
        >>> place.cleanup()
        """
        begin = self._from(name, at, anew=anew)
        if begin is None:
            return []
        work = [] if begin == at else [(Kind.REJOIN, self._rejoining(name, begin))]
        return work + [(Kind.ANSWER, self.answers(number)[name]) for number in range(begin + 1, self.closed + 1)]

    @property
    def wants_snapshot(self) -> bool:
        """Whether there is no snapshot of the last round that is over."""
        return self.snapshots.wanted(self.closed)

    def may_ask_snapshot(self, name: str) -> bool:
        """Whether a snapshot is wanted of a hospital that holds the last state."""
        return self.snapshots.may_ask(name, self.closed)

    def ask_snapshot(self, name: str) -> list[tuple[Kind, bytes]]:
        """What asks a hospital that holds the last state for a snapshot of it; nothing where none is wanted of it."""
        if not self.snapshots.may_ask(name, self.closed):
            return []
        if self._asking is None or self._asking[:2] != (name, self.closed):
            self._asking = name, self.closed, self._seal(name, SnapshotWanted(), number=self.closed)
        self.snapshots.asked[name] = self.closed
        return [(Kind.SNAPSHOT_WANTED, self._asking[2])]

    def doubt_snapshot(self) -> str:
        """A hospital could not take the snapshot: another one's is wanted. Who had given it; empty for none."""
        self._rejoined = None
        return self.snapshots.doubt()

    def _from(self, name: str, at: int, *, anew: bool) -> int | None:
        """After which round the answers begin that bring a hospital up to date: `at`, or that of the snapshot."""
        if not self.same_keys:
            return None
        if not anew and self._answered_since(name, at):
            return at
        number = self.snapshots.round_for(name, at, self.statements)
        return number if number and self._answered_since(name, number) else None

    def _answered_since(self, name: str, number: int) -> bool:
        return all(name in self.store.answered(later) for later in range(number + 1, self.closed + 1))

    def _rejoining(self, name: str, number: int) -> bytes:
        """The sealed snapshot for a hospital: the same while it is asked for again."""
        body_of = self.snapshots.stated(self.statements)
        key = (name, number, len(body_of))
        if self._rejoined is None or self._rejoined[0] != key:
            self._rejoined = key, self._seal(name, self.snapshots.rejoin(name, self.statements), number=number)
        return self._rejoined[1]

    def _take_snapshot(self, message: bytes, header: Header) -> str:
        """A snapshot that a hospital was asked for. Raises MessageError."""
        sender, _, data = self._opened_at(header.round, message, (Kind.SNAPSHOT,), self.rules.most_snapshot_bytes)
        try:
            with self._kept_whole():
                self.snapshots.take(sender, header.round, decode(data, SnapshotSent).snapshot, self.closed)
                self.snapshots.attest(self.statements)
        except LateError:
            raise
        except MessageError as reason:
            self.refuse(sender, reason)
            raise
        return sender

    @property
    def survivors(self) -> tuple[str, ...]:
        """The hospitals whose contributions are in the open round's sum so far."""
        return () if self.open_round is None else tuple(sorted(self.open_round.survivors))

    def _taken(self, current: OpenRound, message: bytes) -> Taken | Stated | None:
        """Take one message: the record of what it changed, None where that was nothing. Raises MessageError."""
        sender, header, data = self._opened(current, message, current.expected)
        return self._record_of(current, sender, header, message, data)

    def _record_of(
        self, current: OpenRound, sender: str, header: Header, message: bytes, data: Buffer
    ) -> Taken | Stated | None:
        taken = Taken(sender=sender, kind=header.kind, message=message)
        if header.kind in COLLECTING:
            return taken if self._take(current, sender, header.kind, message, data) else None
        if header.kind in ANSWERED:
            return self._take_reply(current, sender, header, taken, data)
        return taken if self._take_unmasking(current, sender, header.kind, data) else None

    def _opened(self, current: OpenRound, message: bytes, kinds: tuple[Kind, ...]) -> tuple[str, Header, Buffer]:
        """A message's sender, header and body."""
        return self._opened_at(current.number, message, kinds, self.rules.most_bytes)

    def _opened_at(
        self, number: int, message: bytes, kinds: tuple[Kind, ...], most_bytes: int
    ) -> tuple[str, Header, Buffer]:
        header, data = open_message(
            message,
            self.identity,
            self.hospitals,
            kinds=kinds,
            federation_digest=self.rules.base,
            run=self.rules.run,
            round=number,
            max_bytes=most_bytes,
        )
        return self._by_key[header.sender], header, data

    def _take(self, current: OpenRound, sender: str, kind: Kind, message: bytes, data: Buffer) -> bool:
        """A contribution or its refusal. Raises MessageError; other bytes than before are kept as evidence."""
        if sender in self.names.excluded:
            raise MessageError(f"{sender}: contributed to round {current.number}, to which it was not invited; refused")
        fingerprint = hashlib.sha256(message).digest()
        earlier = current.replied.get(sender)
        if earlier is not None and earlier != fingerprint:
            keep = sum(name == sender for _, name in self.evidence) < MOST_EVIDENCE
            if keep:
                self._keep_evidence(current, sender, message)
            said = f"{sender}: sent other bytes for round {current.number} before; refused"
            raise MessageError(f"{said} and kept" if keep else said)
        if earlier is None:
            if kind == Kind.CONTRIBUTION:
                self._add(current, sender, decode(data, Contribution))
            else:
                decode(data, Decline)
            current.replied[sender] = fingerprint
        return earlier is None

    def _add(self, current: OpenRound, sender: str, body: Contribution) -> None:
        current.check_stands(body, self.hospitals[sender])
        current.add(sender, body)
        if body.evaluation is not None:
            self.evaluation.setdefault(sender, body.evaluation)
        self.heads[sender], self.states[sender], self._nonces[sender] = body.head, body.state, body.nonce
        self.parts = self.counted(self.parts, body)

    def _keep_evaluation(self) -> None:
        """Keys that came with the last round's contributions, before its messages go."""
        for sender in self.evaluation.keys() - self._kept_keys:
            self.store.keep(self._kept("evaluation", sender, self.evaluation[sender]))
            self._kept_keys.add(sender)

    def _keep_evidence(self, current: OpenRound, sender: str, message: bytes) -> None:
        """Keep the first message of a round that shows what its sender did."""
        if (current.number, sender) not in self.evidence:
            self.store.keep(self._kept("evidence", sender, message, current.number))
            self.evidence[current.number, sender] = message

    def _kept(self, kind: KeptKind, sender: str, data: bytes, number: int = 0) -> Kept:
        return Kept(kind=kind, base=self.rules.base, number=number, sender=sender, data=data)

    def _take_unmasking(self, current: OpenRound, sender: str, kind: Kind, data: Buffer) -> bool:
        """A signature or shares; the first of each hospital counts."""
        if kind == Kind.AGREEMENT:
            signature = decode(data, Agreement).signature
            self.hospitals[sender].verify(signature, current.statement, SIGNATURE_CONTEXT)
            if sender in current.signatures:
                return False
            current.signatures[sender] = signature
        elif current.unmasking is not None and sender not in current.revealed:
            current.unmasking.add(self.federation.places[sender], decode(data, Reveal).shares)
            current.revealed.add(sender)
        else:
            return False
        self.parts["masks"] += len(data)
        return True

    def _take_reply(
        self, current: OpenRound, sender: str, header: Header, taken: Taken, data: Buffer
    ) -> Taken | Stated | None:
        """What comes after an answer. Raises MessageError."""
        dispute, attempt = self.dispute, header.attempt
        if dispute is None:
            raise MessageError(f"{sender}: a reply to an answer of round {current.number} that is open to nobody")
        if header.kind == Kind.OPENED:
            dispute.take_opened(sender, attempt, decode(data, Opened))
        elif header.kind == Kind.VERDICT:
            dispute.take_verdict(sender, attempt, decode(data, Verdict))
        else:
            receipt = decode(data, Receipt)
            if receipt.statement is not None:
                return self._take_statement(current, sender, receipt.statement)
            dispute.take_receipt(sender, attempt, receipt)
        return taken

    def _take_statement(self, current: OpenRound, sender: str, statement: Statement) -> Stated | None:
        """A hospital's statement about the round that it has applied. Raises MessageError for a false one."""
        check_statement(self.hospitals[sender], self.rules.session, statement)
        if statement.round != current.number:
            raise MessageError(f"{sender}: states round {statement.round} in a receipt for round {current.number}")
        known = self.statements.get(sender)
        if statement == known:
            return None
        if known is not None and known.round == statement.round:
            raise MessageError(f"{sender}: stated two things about round {statement.round}; the first one counts")
        stated = Stated(sender=sender, statement=statement)
        self._state(stated)
        return stated

    def _take_findings(self, current: OpenRound, dispute: Dispute) -> None:
        """What the dispute has found so far: who is named, who is left out of the next rounds. Who was away when its
        masks were to be opened may be honest: that leaves it out of this round, and the second time of the next too.
        """
        for name, what in dispute.named.items():
            if name in dispute.guilty:
                case, message = dispute.guilty[name], self.store.message(name, Kind.CONTRIBUTION)
                self.cases[current.number, name] = case
                self.store.keep(self._kept("case", name, case.to_bytes(), current.number))
                if message is not None:
                    self._keep_evidence(current, name, message)
            again = any(who == name and AWAY in said for (_, who), said in self.names.named.items())
            excluded = dispute.excludes(name) or (name in dispute.guilty and again)
            self._note(current, [name], what, excluded=excluded)
        dispute.named.clear()

    def _name(self, current: OpenRound, names: Iterable[str], what: str, *, excluded: bool = False) -> None:
        """Say of hospitals what they did, once a round."""
        with self._kept_whole():
            self._note(current, names, what, excluded=excluded)

    def _note(self, current: OpenRound, names: Iterable[str], what: str, *, excluded: bool) -> None:
        for name in sorted(names):
            named = Named(number=current.number, hospital=name, what=line(what), excluded=excluded)
            if not self.names.knows(named):
                self.store.append(named)
                self.names.add(named)

    def _name_unmasking(self, current: OpenRound) -> None:
        """Who signed the list and did not reveal; and who kept the masks from being taken off, if that is known."""
        if current.unmasking is None:
            return
        self._name(current, set(current.signatures) - current.revealed, "signed the survivors and revealed no shares")
        dealer = current.unmasking.dealt_falsely
        if dealer is not None:
            self._name(current, [self.federation.roster[dealer]], "dealt false shares of its masks", excluded=True)

    def _name_silent(self) -> None:
        """Who contributed to the round before and sent no receipt for its answer."""
        if self.answered is not None and self.dispute is not None:
            silent = set(self.answered.neighbours) - self.dispute.heard
            self._name(self.answered, silent, "contributed and sent no receipt for the answer")

    def _keep_answers(
        self, current: OpenRound, names: Iterable[str], answer: Callable[[str], Answer]
    ) -> dict[str, int]:
        """Seal and store the answers, with what is to be said of hospitals, one after the other: `parts` with them.
        They count with the record that follows.
        """
        said, parts, sealing = self.names.said(current.number), self.parts, self._sealing(self.store.share)
        for name in names:
            body = msgspec.structs.replace(answer(name), named=said)
            own, content = sealing.own(name, body)
            self.store.append(Sent(receiver=name, message=own, content=b"" if content is None else content.digest))
            parts = self.counted(parts, body)
        return parts

    def contribution(self, name: str) -> Contribution | None:
        """What hospital `name` contributed to the open round, or to the one just answered; None where it did not."""
        current, message = self.open_round or self.answered, self.store.message(name, Kind.CONTRIBUTION)
        if current is None or message is None:
            return None
        return decode(self._opened(current, message, (Kind.CONTRIBUTION,))[2], Contribution)

    def _reached(self, step: tuple[Kind, ...]) -> OpenRound:
        """The open round, moved on to a step of masks where it was at the one before. Raises MessageError where it has
        not come that far, ConfigError where updates are not masked.
        """
        current, _ = self._current(), self.rules.masking
        missing = STEPS.index(step) - STEPS.index(current.expected)
        if missing > 1:
            raise MessageError(f"round {current.number} takes {current.expected[0].name} messages now; not this step")
        with self._kept_whole():
            if missing == 1:
                stepped = Stepped(kind=step[0])
                self.store.append(stepped)
                self._step(stepped)
        return current

    @contextmanager
    def _kept_whole(self) -> Iterator[None]:
        """Around all that changes memory and store. Cut off in between, by a full disk or anything else, memory may be
        ahead of what a coordinator made again would know, so no more is done here. A MessageError changes neither.
        """
        if self._ahead:
            raise StorageError(
                f"{self._where}: an earlier write failed; make room and start again from what lies there"
            )
        self._ahead = True
        try:
            yield
        except MessageError:
            self._ahead = False
            raise
        self._ahead = False

    def _at_hand(self) -> OpenRound:
        """The open round, or the one that was answered last."""
        return self.answered or self._current()

    def _sealed(self, kind: Kind, names: Collection[str], body_of: Callable[[str], Body]) -> Messages:
        """One sealed message of the round at hand for each receiver, in the attempt that it is at."""
        contents = Contents()
        return messages(kind, names, body_of, self._sealing(contents.share), contents)

    def _sealing(self, share: Share) -> Sealing:
        number, attempts = self._at_hand().number, {} if self.dispute is None else dict(self.dispute.attempts)

        def header(receiver: str, kind: Kind) -> Header:
            return Header(
                kind=kind,
                federation_digest=self.rules.base,
                run=self.rules.run,
                round=number,
                attempt=attempts.get(receiver, 0),
                sender=self.identity.public.fingerprint,
                receiver=self.hospitals[receiver].fingerprint,
            )

        return Sealing(self.identity, self.hospitals, header, share)

    def _seal(self, receiver: str, body: Body, number: int) -> bytes:
        """Of round `number`, which is over and has no attempts."""
        header = Header(
            kind=body.kind,
            federation_digest=self.rules.base,
            run=self.rules.run,
            round=number,
            attempt=0,
            sender=self.identity.public.fingerprint,
            receiver=self.hospitals[receiver].fingerprint,
        )
        return seal_message(header, encode(body), self.identity, self.hospitals[receiver])
