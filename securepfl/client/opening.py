"""A hospital's state as it lies on disk, opened for a run, and what a round reserves in the ledger."""

from pathlib import Path

from securepfl.client.draft import Draft, discard
from securepfl.client.pinning import with_pin
from securepfl.client.round import Round, Session
from securepfl.client.run_kind import Simulation, kind_of
from securepfl.client.state import ClientState, Floats
from securepfl.errors import BudgetError, MessageError
from securepfl.privacy.accounting.events import AnyRelease
from securepfl.privacy.ledger.ledger import Ledger


def open_state(
    path: Path, session: Session, simulation: Simulation | None, shared: Floats, personal: Floats
) -> ClientState:
    """The stored state, or a fresh one from the public start (`shared` [d], `personal` [p]): stored at once, so that
    its run keeps its name in the ledger. Raises StorageError where the stored one is another's or damaged.
    """
    federation = session.federation
    fresh = ClientState.fresh(
        federation.digest.hex(),
        session.key.epoch,
        kind_of(simulation),
        shared,
        personal,
        compared=personal.size + (shared.size if federation.compares == "updates" else 0),
    )
    if path.exists():
        return with_pin(ClientState.load(path, fresh.federation), path.parent).going_on_as(fresh, path)
    fresh.save(path)
    return fresh


def check_run(ledger: Ledger, session: Session) -> None:
    """Raises MessageError where another folder of this hospital has taken part in the run that `session` joins: tags,
    masks and pads must not come twice.
    """
    if ledger.serves_other_run(session.digest.hex()):
        raise MessageError(
            f"{session.name}: invited to run {session.run.hex()}, in which this hospital took part from another "
            "folder; go on there, or let the coordinator begin a new run"
        )


def reserve(
    ledger: Ledger, round_: Round, release: AnyRelease | None, folder: Path, inputs: bytes
) -> tuple[str, Draft] | None:
    """The reservation of a round's release and the draft of what is to be drawn over `inputs` (draft.inputs_of), or
    None where the hospital must sit the round out.

    It goes on where a killed process left its draft, which draws the same noise again. It sits out where the budget
    would be exceeded, and where this round is reserved and there is no draft for these inputs, or it is settled: what
    it spent stays counted, and no second noise is drawn for it. A `release` of None is a training without protection:
    there is nothing to reserve, and the ledger says so before it begins. Raises LedgerError or StorageError where it
    can't be written.
    """
    federation, number, attempt = round_.session.digest.hex(), round_.number, round_.header.attempt
    if release is None:
        ledger.unprotect(federation=federation, round=number)
        draft = Draft.left(folder, round_.session, number, inputs)
        return "", draft or Draft.begun(folder, round_.session, number, inputs)
    if ledger.has_reserved(federation=federation, round=number, attempt=attempt):
        open_ = ledger.unsettled(federation=federation, round=number, attempt=attempt)
        draft = None if open_ is None else Draft.left(folder, round_.session, number, inputs)
        return None if open_ is None or draft is None else (open_, draft)
    draft = Draft.begun(folder, round_.session, number, inputs)
    try:
        return ledger.reserve(release, federation=federation, round=number, attempt=attempt), draft
    except BudgetError:
        discard(folder)
        return None
