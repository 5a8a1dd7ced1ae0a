"""securepfl with a wide personal part, coupled over the graph of similarities: for differences in more than level.

Wide is the head; where there is no body, all weights but the intercept. Neighbours: the 3 most similar, unit weights.
"""

from methods import preset
from methods.sdk import Tables
from methods.task import Fitted, Hyper, Settings, Task
from methods.training import LOCAL

GRID = LOCAL
COUPLED: Tables = {"similarity": {"every": 2}, "coupling": {"strength": 0.75}}


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    return preset.train(task, settings, hyper, seed, {"model": {"personal": wide(task)}, **COUPLED})


def wide(task: Task) -> tuple[str, ...]:
    """Patterns of the wide personal part."""
    names = [name for name, _ in task.build_model().named_parameters()]
    weights = tuple(name for name in names if name.endswith("weight")) if len(names) == 2 else ()
    return weights or task.head
