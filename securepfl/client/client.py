"""One hospital: it trains privately, contributes encrypted sums, applies answers, keeps a personal model.

client = Client(federation, "north", build_model, loader, keyring, folder)
post(client.contribute(invitation)); client.apply(answer); client.predict(x)
"""

import hashlib
import math
import time
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from securepfl.client.agreeing import Agreeing
from securepfl.client.answers import NOT_OPENED, REFUSED, Opener, check_answer
from securepfl.client.applying import Step, alpha_of
from securepfl.client.charging import Books
from securepfl.client.comparing import compared_of
from securepfl.client.contents import Contents, contents_of
from securepfl.client.contributing import Made
from securepfl.client.disputing import averaged, check_further, expected_attempts, in_short, printable, why_stop
from securepfl.client.draft import discard, discarded, inputs_of
from securepfl.client.evaluating import tested_of
from securepfl.client.finetuning import Finetuned, round_behind
from securepfl.client.identities import KnownAs
from securepfl.client.labels import task_and_loss
from securepfl.client.neighbourhood import Neighbourhood
from securepfl.client.opening import check_run, open_state, reserve
from securepfl.client.parts import BuildModel, Parts
from securepfl.client.pinning import Pin, pinned
from securepfl.client.prior import PRIOR_ROUND, Share, released_shares
from securepfl.client.readings import Readings
from securepfl.client.records import Loss, TrainingSet
from securepfl.client.released import Released
from securepfl.client.releasing import check_release, recorded
from securepfl.client.round import Round, Session
from securepfl.client.run_kind import Simulation, check_protected
from securepfl.client.snapshot import Snapshot
from securepfl.client.state import ClientState, Pending
from securepfl.client.training import LocalTraining
from securepfl.client.turns import Turn, one_at_a_time
from securepfl.crypto.keys.keys import Keyring
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.errors import AggregateError, BudgetError, ConfigError, HospitalNote, MessageError, StorageError
from securepfl.learning.released.figures import Figures
from securepfl.privacy.accounting.events import AnyRelease, Release, Selection, SharedRelease
from securepfl.privacy.training.dpsgd import TrainingReport
from securepfl.privacy.training.gradients import GradientMode
from securepfl.protocol.messages import (
    Agreement,
    Answer,
    AnyBody,
    Contribution,
    Decline,
    Ended,
    Evidence,
    Invitation,
    Opening,
    Part,
    Receipt,
    Rejoin,
    Reveal,
    SnapshotSent,
    SnapshotWanted,
    Survivors,
    Unmask,
)
from securepfl.protocol.purposes import purposes_of
from securepfl.protocol.rounds import MOST_ATTEMPTS
from securepfl.randomness import RandomStream, fresh_key
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import GATE
from securepfl.storage.folder import lock_folder
from securepfl.tasks.prediction import predict
from securepfl.tasks.task import Task


class Client(Readings):
    """A hospital as a state machine over bytes: contribute(invitation) -> message, apply(answer); where updates are
    masked, sign_survivors(list) -> message and reveal(request) -> message between the two; receipt() -> message after
    an answer; where that was refused, open_masks(opening) -> message and judge(evidence) -> message before another
    answer. handle(message) takes any of the coordinator's and gives the reply.

    `testing`: where `[release] metrics` is set, the patients (or records) that were held out, a DataLoader or Dataset
    like `training`: noisy counts of their scores are released after the last round (`released_metrics`).
    `build_model` makes the torch module; `training` is the hospital's DataLoader or map-style Dataset of (x, y):
    its items are the privacy units, records or patients (x [r, ...], y [r, ...]) as `[privacy] unit` says, and batches
    are drawn anew (full, or declared Poisson sampling).
    `task` (default: the federation's) is a name or a Task: it says which labels are legal, the loss, and what `predict`
    returns. `loss(output, y)` in place of the task's gives one loss per record, shape [batch]; without a task anywhere,
    labels need only be finite and `predict` returns the model's outputs as they are.
    `physical_batch` records are in memory at once (default: as many as suit the sizes of model and records): it changes
    no result.
    State lives in `folder` and survives a kill. The ledger lies in the hospital's registry, a folder in `ledgers`
    (default: see storage.registry.ledgers_place), and composes over all runs on these records: it is found by what they
    hold, whatever their order, number and place, or else by `data_set` (default: the federation's `[data] id`), which
    names them. `ledger_notes` says what the hospital should know of that; each is warned of too.
    A unit that cannot be used counts as zero, and no record is an error: `scan` tells which are not, and how many units
    were found beside those declared. `last_training` tells of this process's last round, and whether training `failed`
    in it: then noise alone was sent. Both are exact and private: for the hospital's own eyes.

    Raises ConfigError, ModelError or DataError where model, data and federation don't fit, also where no more than half
    of the units can be used; LedgerError and StorageError where the ledger or folder can't be used.

    Three hospitals of a rehearsal, and what one of them can read before it trains. (Scheme "none" keeps it short:
    without that setting sums are encrypted.)

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from torch import nn
    >>> from securepfl import Client, Federation, Simulation, local_parties
    >>> build_model = lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    >>> settings = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}
    >>> federation = Federation.from_mapping(settings).bound(("north", "south", "west"), build_model, units=4)
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
    >>> north = clients["north"]
    >>> north.affords_run, north.spent_after_run <= federation.budget_of("north"), north.release_left.steps
    (True, True, 1)
    >>> north.training_set.found, north.gradient_mode.name
    (4, 'ghost')

    One round, bytes in and bytes out. In the field a socket, a queue or a folder carries them:

    >>> for name, invitation in coordinator.invite().items():
    ...     _ = coordinator.receive(clients[name].contribute(invitation))
    >>> for name, answer in coordinator.close().items():
    ...     clients[name].apply(answer)
    ...     _ = coordinator.receive(clients[name].receipt())

    The models that came of it, and what they cost:

    >>> north.predict(torch.eye(4)).shape
    (4,)
    >>> [type(model).__name__ for model in (north.personal_model(), north.shared_model(), north.initial_model())]
    ['Sequential', 'Sequential', 'Sequential']
    >>> north.round, north.ledger.spent() == north.spent_after_run, north.release_left
    (1, True, None)
    >>> len({client.state_digest for client in clients.values()})  # all hold the same shared state
    1
    >>> for client in clients.values():
    ...     client.close()
    >>> place.cleanup()

    A masked round is shown at Coordinator, a dispute at Coordinator.settle, catching up at Coordinator.catch_up, what
    leaves a hospital at `release` and `released_metrics`.
    """

    def __init__(
        self,
        federation: Federation,
        name: str,
        build_model: BuildModel,
        training: DataLoader[Any] | Dataset[Any],
        keyring: Keyring,
        folder: Path,
        *,
        testing: DataLoader[Any] | Dataset[Any] | None = None,
        ledgers: Path | None = None,
        data_set: str | KnownAs | None = None,
        loss: Loss | None = None,
        task: str | Task | None = None,
        device: str = "auto",
        physical_batch: int | None = None,
        simulation: Simulation | None = None,
    ) -> None:
        name = str(name)  # numpy's texts are texts, but no message can hold them
        check_protected(federation, name, simulation)
        self.federation, self.name, self.folder, self.turn = federation, name, folder, Turn()
        self.seconds = {"train": 0.0, "encrypt": 0.0, "decrypt": 0.0}
        self.parts = Counter[str]()
        self.last_training: TrainingReport | None = None
        self._simulation = simulation
        self.session = Session.of(federation, keyring, None if simulation is None else simulation.noise_key)
        self.task, own_loss = task_and_loss(federation, task, loss)
        tested = tested_of(federation, name, testing)
        self._parts = parts = Parts.of(
            self.session, name, build_model, training, tested, self.task, own_loss, device, physical_batch, self.seconds
        )
        self.scan = parts.scanned.scan
        for warning in (*self.scan.warnings, *(() if parts.evaluator is None else parts.evaluator.warnings)):
            warnings.warn(f"{name}: {warning}", HospitalNote, stacklevel=2)
        self.device, self.units = parts.training.device, parts.training.units
        self._path = folder / "state.safetensors"
        self._lock = lock_folder(folder)
        try:
            self._books = Books.of(ledgers, name, simulation, folder, protects=federation.privacy.protects)
            self._state = open_state(self._path, self.session, simulation, *parts.models.starts())
            self.session = self.session.joining(bytes.fromhex(self._state.joined))
            rows = self._books.rows_of(parts.records, parts.scanned.contents, data_set, federation, tested)
            self._charged = self._books.opened(self.session, rows, self._state, self.units)
            self.ledger, self.ledger_notes = self._charged.ledger, self._charged.notes
        except BaseException:
            self._lock.close()
            raise

    @one_at_a_time
    def handle(self, message: bytes) -> bytes:
        """Take any message of the coordinator's: the reply to send, empty where the run has ended.

        An answer that was applied before is not read: the receipt for the last one goes out again. What a message is
        stands in its header, which is authenticated with it, so that nobody else need say. One that fails its check is
        no error here: the receipt says which parts did. Raises what contribute, sign_survivors, reveal, apply,
        open_masks and judge raise otherwise, MessageError for what none of them takes.
        """
        header = Header.from_bytes(message)
        asked = {
            Kind.INVITATION: self.contribute,
            Kind.SURVIVORS: self.sign_survivors,
            Kind.UNMASK: self.reveal,
            Kind.OPENING: self.open_masks,
            Kind.EVIDENCE: self.judge,
            Kind.ENDED: self._take_end,
            Kind.SNAPSHOT_WANTED: self.send_snapshot,
        }
        if header.kind in asked:
            return asked[header.kind](message)
        if header.kind == Kind.REJOIN:
            self.rejoin(message)
        else:
            with suppress(AggregateError):
                self.apply(message)
        return self.receipt()

    @one_at_a_time
    def contribute(self, invitation: bytes) -> bytes:
        """Answer an invitation: train, reserve the budget first, and return one sealed message.

        The same round asked again gives the same bytes, without new noise. A hospital whose budget would be
        exceeded declines. The message is on disk before it is returned. Raises MessageError for bytes that are not this
        round's invitation, or where most hospitals state another shared state than this one holds (`evidence` has their
        statements): nothing is spent then. Raises LedgerError or StorageError where ledger or state can't be written.
        """
        round_, body = self._opened(invitation, Invitation)
        if self._state.ended:
            raise MessageError(f"{self.name}: {self._state.ended}")
        if self._state.pending is not None and self._state.pending.message:
            self._settle(round_)
            return self._state.pending.message
        self._check_invitation(round_, body)
        self._join(round_.session)
        self._agreeing.check(self.round, self.state_digest, self.ledger.head, body.statements)
        state = self.state
        inputs = inputs_of(state, self._contents_of(round_))
        reserved = reserve(self.ledger, round_, self._release_of(round_), self.folder, inputs)
        state.named |= in_short(body.named, self.federation.roster)
        reply: Contribution | Decline = Decline()
        if reserved is None:
            kept = Pending.nothing(state)
            state.sat_out.append(round_.number)
        else:
            made = self._made(replace(round_, fresh=reserved[1].key), state, body)
            reply, kept = made.body, made.pending
            if made.report is not None:
                self.last_training = made.report
                if made.report.shortened_fraction is not None:
                    state.shortened.append(made.report.shortened_fraction)
            if made.own is not None:
                msgspec.structs.replace(self._released, own=made.own).save(self.folder)
        message = round_.reply(reply)
        self.parts.update(purposes_of(reply))
        state.pending = msgspec.structs.replace(kept, message=message, salt=body.salt.hex())
        with discarded(self.folder):
            self._commit(state)
        self._settle(round_)
        return message

    def _made(self, round_: Round, state: ClientState, body: Invitation) -> Made:
        """The contribution. What training raises may hang on the rows, and so must not be tried again: it ends the
        draft. A process that ends in it leaves the draft.
        """
        with discarded(self.folder):
            if round_.evaluates and self._parts.evaluator is not None:
                own = self._release_of(round_)
                release = own if isinstance(own, Release) else None
                return self._parts.evaluator.make(round_, state, release, self.ledger.head)
            return self._parts.contributor.make(round_, state, body, self.ledger.head)

    def _release_of(self, round_: Round) -> AnyRelease | None:
        """What a round releases: its training, or the metrics of held-out patients."""
        training = self._parts.training
        return training.release(0, self.federation.evaluation_steps) if round_.evaluates else training.release()

    def _contents_of(self, round_: Round) -> Contents:
        """Of the records that a round releases something about."""
        evaluator = self._parts.evaluator
        if not round_.evaluates or evaluator is None:
            return self._parts.scanned.contents
        return contents_of(evaluator.tested, range(evaluator.found))

    @property
    def _released(self) -> Released:
        return Released.load(self.folder, self.session)

    @property
    def released_metrics(self) -> Figures | None:
        """How well hospitals' own models do on patients held out, over all hospitals whose counts are in the sum, with
        noise: a release that is charged in each one's ledger. None before it, where no sum was formed, and where
        `[release] metrics` is off.

        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from torch import nn
        >>> from securepfl import Federation, simulate
        >>> def rows(count):
        ...     x = torch.eye(4).repeat(count // 4, 1)
        ...     return torch.utils.data.TensorDataset(x, x[:, 0])
        >>> names, build_model = ("north", "south", "west"), lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> settings = {"rounds": 1, "model": {"kind": "own"}, "encryption": {"scheme": "none"}}
        >>> settings |= {"release": {"metrics": True}, "privacy": {"epsilon": 1e4}}  # made-up rows: hardly any noise
        >>> federation = Federation.from_mapping(settings).bound(names, build_model, units=40)
        >>> place, held_out = tempfile.TemporaryDirectory(), dict.fromkeys(names, rows(20))
        >>> with simulate(
        ...     federation, dict.fromkeys(names, rows(40)), build_model, Path(place.name, "run"),
        ...     testing=held_out, ledgers=Path(place.name, "ledgers"), device="cpu",
        ... ) as run:
        ...     north = run.clients["north"]
        ...     north.released_by, round(north.released_metrics.units.value)  # patients held out, over all
        ...     round(north.own_released_metrics.units.value), north.evaluation_release.steps
        (('north', 'south', 'west'), 60)
        (20, 1)
        >>> place.cleanup()
        """
        return self._released.figures(self.federation) if self.federation.release.metrics else None

    @property
    def released_by(self) -> tuple[str, ...]:
        """The hospitals whose held-out patients `released_metrics` are about."""
        return self._released.survivors if self.federation.release.metrics else ()

    @property
    def evaluation_release(self) -> AnyRelease | None:
        """What released metrics are charged as; None where none are."""
        steps = self.federation.evaluation_steps
        return self._parts.training.release(0, steps) if steps else None

    @property
    def own_released_metrics(self) -> Figures | None:
        """The same of this hospital alone. It stays here unless the hospital hands it out, which costs nothing more.
        None under shared noise, where a hospital's own noise hides too little.
        """
        if not self.federation.release.metrics:
            return None
        return self._released.own_figures(self.federation, self.name)

    def _settle(self, round_: Round) -> None:
        """Before a stored contribution leaves: its reservation is settled, and the key of its noise is gone."""
        if self._state.pending is not None and self._state.pending.trained:
            self._settle_reserved(round_, self._release_of(round_))
        discard(self.folder)

    def _settle_reserved(self, round_: Round, release: AnyRelease | None) -> None:
        """What was reserved for `round_` was released, if it is not settled yet."""
        federation, number, attempt = self.session.digest.hex(), round_.number, round_.header.attempt
        reservation = self.ledger.unsettled(federation=federation, round=number, attempt=attempt)
        if release is not None and reservation is not None:
            self.ledger.settle(reservation, release)
        if release is None or reservation is not None:
            self._books.remember(self._charged, lasting=False)

    @one_at_a_time
    def sign_survivors(self, survivors: bytes) -> bytes:
        """Sign the list of hospitals whose masked updates are in the sum: one list a round, and the same one again.

        Raises MessageError for bytes that are not this round's list, a list too short for the masks to hide anybody, or
        another list than was signed; StorageError.
        """
        round_, body = self._opened(survivors, Survivors)
        self._join(round_.session)
        state = self.state
        signature, state.pending = self._parts.masks.sign(round_, state.pending or Pending.nothing(state), body)
        self._commit(state)
        reply = Agreement(signature=signature)
        self.parts.update(purposes_of(reply))
        return round_.reply(reply)

    @one_at_a_time
    def reveal(self, request: bytes) -> bytes:
        """Reveal this hospital's shares of what the signed list's sum still carries, and nothing else.

        Raises MessageError where this hospital signed no list, too few signatures verify over the one that it signed,
        or shares were altered.
        """
        (round_, body), state = self._opened(request, Unmask), self.state
        shares, state.pending = self._parts.masks.shares(round_, state.pending, body)
        self._commit(state)
        reply = Reveal(shares=shares)
        self.parts.update(purposes_of(reply))
        return round_.reply(reply)

    @one_at_a_time
    def apply(self, answer: bytes) -> None:
        """Take the round's answer: step the shared parameters, move the trajectory, couple the personal ones.

        The answer to a round that was applied before is not read, and nothing happens: it may come twice. A hospital
        that sent nothing in the round takes the step all the same. Raises MessageError for bytes that are not this
        round's answer, AggregateError where a part of what they hold fails its check; the model is then as before, the
        receipt says which parts failed, and the round may be answered again.
        """
        pending, header = self._state.pending, Header.from_bytes(answer)
        if header.kind == Kind.ANSWER and header.round <= self.round:
            return
        round_, body = self._opened(answer, Answer, expected_attempts(pending))
        self.parts.update(purposes_of(body))
        number, attempt = round_.number, round_.header.attempt
        if reason := why_stop(body, number, attempt, self.name, pending):
            raise MessageError(self._ended(reason))
        check_further(body, attempt, self.name, pending)
        check_answer(body, number, self.name, self.federation, self._state)
        self._join(round_.session)
        pending = self._pinned(answer, attempt)
        started, state, parts = time.perf_counter(), self.state, self._parts
        compared = compared_of(state, GATE)
        row = partial(parts.contributor.comparison.open_row, round_, compared, pending)
        opener = Opener(round_, parts.sender.channels, row, state.neighbours, averaged(body, pending))
        opened, failed = opener.open(body)
        self.seconds["decrypt"] += time.perf_counter() - started
        if failed:
            raise self._refusal(body, failed)
        if round_.evaluates:
            self._released.with_total(self.federation, opened.step, body.survivors).save(self.folder)
            state.round, state.pending = number, None
            state.named |= in_short(body.named, self.federation.roster)
            self._commit(state, lasting=False)
            self._forget_draft()
            return
        alpha = alpha_of(self.federation.trajectory, parts.training.partition)
        step = Step(round_, opened, self.name in body.survivors, parts.models.start, compared, alpha)
        step.take(state, pending, parts.training.noise_variance)
        state.named |= in_short(body.named, self.federation.roster)
        state.coupled += opened.neighbourhood is not None
        kept = Neighbourhood.of(opened, parts.models.start, self.federation, number)
        if kept is not None:
            kept.save(self.folder, self.session.digest)
        # Nothing tells of this step before the receipt does, which lasts; until then the answer may come again.
        self._commit(state, lasting=False)
        self._forget_draft()

    @one_at_a_time
    def receipt(self) -> bytes:
        """What this hospital states after an answer, signed, the same again when asked again: the state that it reached
        and its ledger's head, or which parts of the answer failed their check. Raises MessageError before the first
        answer of a run, StorageError.
        """
        pending, session = self._state.pending, self.session
        if pending is not None and pending.refused:
            refused = Receipt(statement=None, refused=pending.refused)
            return session.message(self.round + 1, refused, pending.attempt)
        if not session.run or not self.round:
            raise MessageError(f"{self.name}: has applied no answer yet; nothing to state")
        statement = self._agreeing.own(self.round, self.state_digest, self.ledger.head)
        return session.message(self.round, Receipt(statement=statement, refused=()))

    @one_at_a_time
    def open_masks(self, opening: bytes) -> bytes:
        """Open the masks of this hospital's update in a round whose sum it refused.

        Raises MessageError for bytes that are not this round's opening, under shared noise, and where it refused
        nothing: then nothing is opened.
        """
        pending = self._state.pending
        round_, _ = self._opened(opening, Opening, expected_attempts(pending)[:1])
        return round_.reply(self._parts.disputing.open_masks(round_, pending))

    @one_at_a_time
    def judge(self, evidence: bytes) -> bytes:
        """Judge what another hospital sent in a round whose answer this one refused: a signed verdict.

        Raises MessageError for bytes that are not this round's evidence, under shared noise, where this hospital
        refused nothing, and for what the other did not sign; StorageError.
        """
        state = self.state
        round_, body = self._opened(evidence, Evidence, expected_attempts(state.pending)[:1])
        verdict, state.pending = self._parts.disputing.judge_one(round_, state.pending, body)
        self._commit(state)
        return round_.reply(verdict)

    @property
    def state_digest(self) -> str:
        """The keyed digest of the shared state: equal at all hospitals that hold the same, and telling nothing else."""
        return Snapshot.of(self._state).digest(self.session.key.snapshot_key, self.session.digest)

    def snapshot(self) -> bytes:
        """The shared state for late and new hospitals, encrypted. Make it anew after a key rotation.

        Raises MessageError before the first message of a run.
        """
        session = self.session
        if not session.run:
            raise MessageError(f"{self.name}: has joined no run yet; take part in a round first")
        return Snapshot.of(self._state).seal(session.key.snapshot_key, session.digest, session.run)

    @one_at_a_time
    def join(self, snapshot: bytes, digests: Mapping[str, str]) -> None:
        """Start from the shared state of a run under way, in place of the public start; the personal part starts anew.

        `digests` are those that hospitals sent with their latest contributions (Coordinator.states), by name. Raises
        MessageError where the snapshot does not open or is not the state that all of them hold, StorageError where
        this hospital has already taken part.
        """
        state = self.state
        if state.round or state.pending is not None:
            raise StorageError(f"{self._path}: has taken part in rounds already; a newcomer needs a new folder")
        others = [digest for name, digest in digests.items() if name in self.federation.roster and name != self.name]
        session = self.session.joining(Snapshot.run_of(snapshot))
        opened = Snapshot.agreed(snapshot, session, state.shared.size, others)
        self._join(session)
        state = self.state
        state.round, state.shared, state.aggregate = opened.round, opened.shared, opened.aggregate
        self._commit(state)

    @one_at_a_time
    def rejoin(self, message: bytes) -> None:
        """Go on from the shared state after a later round, where the answers until then are gone or cannot be taken.

        What is this hospital's own stays: personal parameters, trajectory, neighbours, ledger. What it had left behind
        for later rounds, and what it sent in a round that it has no answer to, goes. Rounds only go up, so no round
        gets a second noise; what the ledger reserved stays counted. A state that it is past is not read. Raises
        MessageError for bytes that are no such message, where not most others stated this state, or as few as form no
        sum with this hospital, where the ledger knows this run from another folder, and where the run has ended here;
        StorageError.
        """
        header = Header.from_bytes(message)
        if header.kind == Kind.REJOIN and header.round <= self.round:
            return
        number = min(header.round, self.federation.exchanges)
        round_, body = Round.open(self.session, message, Rejoin, self._state, number=number)
        if self._state.ended:
            raise MessageError(f"{self.name}: {self._state.ended}")
        size = self._state.shared.size
        opened = Snapshot.attested(body.snapshot, round_.session, number, size, body.statements)
        self._join(round_.session)
        state = self.state
        state.round, state.shared, state.aggregate, state.pending = number, opened.shared, opened.aggregate, None
        state.residual = np.zeros_like(state.residual)
        self._commit(state)
        self._forget_draft()

    @one_at_a_time
    def send_snapshot(self, wanted: bytes) -> bytes:
        """The shared state, encrypted for hospitals, to the coordinator, who hands it to one that is behind.

        Raises MessageError for bytes that don't ask for the state of the last round that this hospital applied.
        """
        round_, _ = Round.open(self.session, wanted, SnapshotWanted, self._state, number=self.round)
        return round_.reply(SnapshotSent(snapshot=self.snapshot()))

    @property
    def gradient_mode(self) -> GradientMode | None:
        """How each unit's gradient is had from this model, and why that way; None where training is not protected."""
        training = self._parts.training
        return training.gradient_mode if isinstance(training, LocalTraining) else None

    @property
    def affords_run(self) -> bool:
        """Whether the budget covers all rounds that are left; without protection there is nothing to cover."""
        return not self.federation.privacy.protects or self.spent_after_run <= self.ledger.budget.epsilon

    @property
    def spent_after_run(self) -> float:
        """Epsilon of all releases from these data once every round that is left has been trained, at the ledger's
        delta; infinite without protection.
        """
        release = self.release_left
        if release is None:
            return self.ledger.spent() if self.federation.privacy.protects else math.inf
        return self.ledger.spent_with(release)

    @property
    def release_left(self) -> AnyRelease | None:
        """What the rest of the run will release that nothing was reserved for yet; None for nothing, and without
        protection.
        """
        rounds, extra = max(0, self.federation.rounds - self.round), self._extra_steps
        if rounds and self._has_reserved(self.round + 1):
            rounds -= 1
        return self._parts.training.release(rounds, extra) if rounds + extra else None

    @property
    def _extra_steps(self) -> int:
        """The noisy steps behind the last round that nothing was reserved for yet."""
        last, released = self.federation.exchanges, self.federation.release
        finetuning = 0 if self._has_reserved(last + 1) else released.finetuning
        evaluation = 0 if self._has_reserved(last) else self.federation.evaluation_steps
        return finetuning + int(released.prior and not self._has_reserved(last + 2)) + evaluation

    def _has_reserved(self, number: int) -> bool:
        return self.ledger.has_reserved(federation=self.session.digest.hex(), round=number, attempt=0)

    @property
    def training_set(self) -> TrainingSet:
        """The units that train: those of the data set but for what counts as zero. For the hospital's own eyes."""
        return self._parts.training.training

    def personal_model(self) -> nn.Module:
        """A copy of the personal model: the trajectory average, or the current mixture before any training."""
        return self._parts.models.personal(self._state)

    def initial_model(self) -> nn.Module:
        """A copy of the public start, as it was before any training."""
        return self._parts.models.initial()

    def shared_model(self) -> nn.Module | None:
        """A copy with the shared parameters and the hospitals' average personal ones.

        Where some parameters are personal: None before a round has given that average, the last one or, with coupling,
        the one before, or where that round formed no sum.
        """
        return self._parts.models.shared(self._state)

    def predict(self, features: Tensor | NDArray[Any]) -> NDArray[np.float64]:
        """What the task makes of the personal model's outputs for features [n, ...].

        The probability of 1 [n] (binary) or of each class or label [n, k], a number in the label's unit [n]
        (regression), or, with a loss of one's own and no task, the outputs themselves. Integers stay integers where
        training's were. Raises ModelError where the model fails on these features.
        """
        return predict(self.personal_model(), features, self.task, trained=self._parts.scanned.feature_type)

    @one_at_a_time
    def release(self, expert: Literal["personal", "shared", "finetuned"]) -> tuple[nn.Module, dict[str, Any]]:
        """A model for use outside, with its audit record: written to the ledger before it is returned.

        "personal" is this hospital's own, "shared" the one that all hospitals hold. Neither costs more than the rounds
        spent: they are post-processing of what was released. "finetuned" is the shared one after `[release] finetuning`
        steps on this hospital's records, once the last round is over: they are taken and charged the first time, and
        the same model is given again. Raises ConfigError where the federation does not release experts, or none of
        these, the run is seeded (its noise hides nothing), or there is no shared model, or not yet; BudgetError where
        the budget does not hold the fine-tuning, or it was interrupted and its noise is lost.

        A run whose hospitals may release a model, one of their neighbourhood, and how common the outcome is:

        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from torch import nn
        >>> from securepfl import Federation, simulate
        >>> names, x = ("east", "north", "south", "west"), torch.eye(4).repeat(10, 1)
        >>> training = dict.fromkeys(names, torch.utils.data.TensorDataset(x, x[:, 0]))
        >>> build_model = lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> settings = {"rounds": 3, "model": {"kind": "own", "personal": ["0.bias"]}, "encryption": {"scheme": "none"}}
        >>> settings |= {"similarity": {"every": 1}, "coupling": {"strength": 0.5}}
        >>> settings |= {"release": {"experts": True, "prior": True}}
        >>> settings |= {"privacy": {"epsilon": 1e4}}  # made-up rows: hardly any noise
        >>> federation = Federation.from_mapping(settings).bound(names, build_model, units=40)
        >>> place = tempfile.TemporaryDirectory()
        >>> with simulate(
        ...     federation, training, build_model, Path(place.name, "run"),
        ...     ledgers=Path(place.name, "ledgers"), device="cpu",
        ... ) as run:
        ...     north = run.clients["north"]
        ...     model, record = north.release("personal")
        ...     type(model).__name__, record["expert"], record["rounds"]
        ...     north.neighbourhood.together, north.release_cluster(1)[1]["hospitals"]
        ...     [round(share, 2) for share in north.release_prior()["shares"]], north.release_prior()
        ('Sequential', 'personal', 3)
        (('east', 'south', 'west'), ['east', 'south', 'west'])
        ([0.25], None)
        >>> place.cleanup()
        """
        found = self.personal_model() if expert == "personal" else self.shared_model()
        model = check_release(self.session, self._simulation, found)
        if expert == "finetuned":
            model = self._finetuned(model)
            steps, simulated = self.federation.release.finetuning, self._simulation is not None
            return model, recorded(self.session, self.ledger, expert, self.round, simulated, steps=steps)
        return model, recorded(self.session, self.ledger, expert, self.round, self._simulation is not None)

    @property
    def neighbourhood(self) -> Neighbourhood | None:
        """What this hospital was last answered of its neighbours in this run, where experts are released; else None."""
        return Neighbourhood.load(self.folder, self.session.digest)

    @one_at_a_time
    def release_cluster(self, number: int) -> tuple[nn.Module, dict[str, Any]]:
        """The shared parameters with the mean personal ones of this hospital's neighbours, as cluster `number`, and its
        audit record, in the ledger before it is returned.

        It is post-processing of what they and this hospital released. Which neighbourhoods may leave together,
        neighbourhood.releasable says. Raises ConfigError as `release`, and where there is no neighbourhood.
        """
        found = self.neighbourhood
        model = None if found is None else self._parts.models.with_personal(self._state, found.mean)
        model = check_release(self.session, self._simulation, model)
        together = [] if found is None else list(found.together)
        simulated = self._simulation is not None
        told = {"number": number, "hospitals": together, "of_round": 0 if found is None else found.round}
        return model, recorded(self.session, self.ledger, "cluster", self.round, simulated, **told)

    @one_at_a_time
    def release_prior(self) -> dict[str, Any] | None:
        """How common the outcome is here, or how much of an image the structure covers, with noise: the audit record
        that holds it, as JSON; charged like one step of training, in the ledger before anything is counted.

        None where the budget doesn't hold that, or it was released in this run before: nothing is drawn twice. Raises
        ConfigError where the federation releases none, the run is seeded or the task has no outcomes to count.
        """
        if not self.federation.release.prior:
            raise ConfigError("no prior is released in this federation: set [release] prior = true")
        check_release(self.session, self._simulation, self.personal_model())
        share, training = Share.of(self.federation), self._parts.training
        step = training.release(0, 1)
        if isinstance(step, SharedRelease | Selection):
            raise ConfigError("[release] prior: not of this hospital's own noise; set prior = false")
        federation, number = self.session.digest.hex(), self.federation.exchanges + PRIOR_ROUND
        if self.ledger.has_reserved(federation=federation, round=number, attempt=0):
            return None
        if step is not None:
            try:
                reserved = self.ledger.reserve(step, federation=federation, round=number, attempt=0)
            except BudgetError:
                return None
        else:
            self.ledger.unprotect(federation=federation, round=number)
        found = released_shares(share, training.training, self.units, step, RandomStream(fresh_key()))
        if step is not None:
            self.ledger.settle(reserved, step)
        self._books.remember(self._charged, lasting=False)
        told = {"task": share.task, "shares": list(found.shares), "deviation": found.deviation, "units": self.units}
        return recorded(self.session, self.ledger, "prior", self.round, self._simulation is not None, **told)

    def close(self) -> None:
        """Give the folder's and the ledger's locks back. The client can't be used afterwards."""
        self.ledger.close()
        self._lock.close()

    def _finetuned(self, shared: nn.Module) -> nn.Module:
        """`shared` after its fine-tuning: reserved, trained, on disk, settled, in this order, and each once."""
        steps, rounds, parts = self.federation.release.finetuning, self.federation.rounds, self._parts
        if not steps:
            raise ConfigError("no fine-tuned expert in this federation: set [release] finetuning = STEPS")
        if self.round < rounds:
            raise ConfigError(f"{self.name}: round {self.round} of {rounds} is over; fine-tuning comes after the last")
        round_, partition = round_behind(self.session, self._state), parts.training.partition
        release = parts.training.release(0, steps)
        kept = Finetuned.load(self.folder, self.session, partition)
        if kept is None:
            inputs = inputs_of(self._state, parts.scanned.contents)
            reserved = reserve(self.ledger, round_, release, self.folder, inputs)
            if reserved is None:
                raise BudgetError(
                    f"{self.name}: no fine-tuned expert: the budget doesn't hold its {steps} steps, or they were begun "
                    "before and cannot go on; `securepfl audit budget` shows which"
                )
            with discarded(self.folder):
                tuned = parts.training.finetune(shared, replace(round_, fresh=reserved[1].key), steps)
            kept = Finetuned.of(partition, tuned)
            kept.save(self.folder, self.session)
        self._settle_reserved(round_, release)
        self._forget_draft()
        return partition.filled(shared, kept.shared, kept.personal).eval()

    # Below: steps that need the state or the ledger. A changed copy of the state counts once it is on disk.

    def _forget_draft(self) -> None:
        """A round is over in which this hospital's process ended, or which it was not asked about again."""
        with suppress(StorageError):
            discard(self.folder)

    @property
    def _agreeing(self) -> Agreeing:
        return Agreeing(self.folder, self.session)

    def _commit(self, state: ClientState, *, lasting: bool = True) -> None:
        state.save(self._path, lasting=lasting)
        self._state = state

    def _opened(self, message: bytes, form: type[AnyBody], attempts: Collection[int] = (0,)) -> tuple[Round, AnyBody]:
        return Round.open(self.session, message, form, self._state, attempts)

    def _join(self, session: Session) -> None:
        """Take part in the run of the first message that it takes, and in no other from this folder."""
        if not self.session.run:
            check_run(self.ledger, session)
            state = self.state
            state.joined = session.run.hex()
            self._commit(state)
            self.session = session

    def _check_invitation(self, round_: Round, body: Invitation) -> None:
        """Nothing is spent on a round that is past the last, or open already: MessageError."""
        number, federation = round_.number, self.federation
        if body.round != number or number > federation.exchanges:
            raise MessageError(f"{self.name}: invited to round {number} of a run of other rounds")
        if self._state.pending is not None:
            raise MessageError(f"{self.name}: invited to round {number} too late; wait for the next")

    def _pinned(self, answer: bytes, attempt: int) -> Pending:
        """Bind the round to this answer before any of it is decrypted: a hospital decrypts one answer an attempt."""
        state, fingerprint = self._state, hashlib.sha256(answer).hexdigest()
        pending = state.pending or Pending.nothing(state)
        if attempt == pending.attempt and pending.answer not in ("", fingerprint):
            raise MessageError(f"{self.name}: another answer to this round came before; refused")
        Pin(run=state.run, round=state.round + 1, attempt=attempt, answer=fingerprint).save(self.folder)
        state.pending = pinned(pending, attempt, fingerprint)
        return state.pending

    def _refusal(self, body: Answer, failed: tuple[Part, ...]) -> AggregateError:
        """Keep which parts of the answer failed: the error to raise, one for all of them."""
        state = self.state
        if state.pending is not None:
            state.pending = msgspec.structs.replace(state.pending, refused=failed, survivors=body.survivors)
        if self.federation.shares_noise:
            state.ended = NOT_OPENED
        self._commit(state)
        return AggregateError(state.ended or REFUSED)

    def _take_end(self, message: bytes) -> bytes:
        """The coordinator ends the run. There is nothing to reply."""
        attempts = range(MOST_ATTEMPTS + 1)
        _, body = Round.open(self.session, message, Ended, self._state, attempts)
        self._ended(printable(body.reason))
        return b""

    def _ended(self, reason: str) -> str:
        """Take part in no further round: the reason that was kept, the first one."""
        state = self.state
        state.ended = state.ended or reason
        self._commit(state)
        return f"{self.name}: {state.ended}"
