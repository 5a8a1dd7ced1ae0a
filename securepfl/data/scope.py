"""How far a patient's id reaches: one person wherever it stands, or another one at each hospital.

It says which ids of *different* hospitals are one person's, and nothing else: within a hospital an id is one patient
either way, the split is the same, and so are the ids by which a registry of ledgers hints at a patient. A ledger is
found by what records hold (client/identities.py), so no other scope makes it forget what was spent on them.
"""

from typing import Literal

from securepfl.data.values import require

PatientScope = Literal["hospital"] | None
"""None: an id is one person at every hospital, so that nobody's spending at two of them goes unseen."""


def require_scope(scope: str | None, patient: str | None) -> None:
    """Raise ValueError for a scope that is not known, or of ids that aren't declared.

    >>> require_scope("hospital", "patient_id")
    """
    if scope is None:
        return
    mend = 'write "hospital" where each numbers its own patients, else leave it out'
    require(scope == "hospital", f'patient_scope = "{scope}": {mend}')
    require(patient is not None, "patient_scope: there is no patient whose id it is about; declare patient")
