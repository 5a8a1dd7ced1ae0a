"""Other people's methods and ours on equal terms: the same models, gradients, budgets and choices."""

from collections.abc import Mapping
from types import ModuleType

from methods import (
    apfl,
    ditto,
    fedamp,
    fedavg,
    fedavg_sizes,
    fedbn,
    fedper,
    fedprox,
    fedrep,
    ifca,
    local,
    majority,
    ours,
    ours_coupled,
    ours_shared_noise,
    ours_sparse,
    pfedme,
    pooled,
    scaffold,
)

# References; one model for all; a part of it personal; a personal model each; clusters; ours.
METHODS: Mapping[str, ModuleType] = {
    "majority": majority,
    "local": local,
    "pooled": pooled,
    "fedavg": fedavg,
    "fedavg_sizes": fedavg_sizes,
    "fedprox": fedprox,
    "scaffold": scaffold,
    "fedper": fedper,
    "fedrep": fedrep,
    "fedbn": fedbn,
    "ditto": ditto,
    "pfedme": pfedme,
    "apfl": apfl,
    "fedamp": fedamp,
    "ifca": ifca,
    "ours": ours,
    "ours_coupled": ours_coupled,
    "ours_shared_noise": ours_shared_noise,
    "ours_sparse": ours_sparse,
}
