"""What routing must beat, under the same views and the same threshold: each gives logits [n, ...] as routed() does.

All take (pool, table, recipe, prior); of the recipe they use the views, the prior's weight and `layers`' batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from securepfl.data.table import Table
from securepfl.errors import DataError
from securepfl.outside.candidates import Looks, Pool, shared_model
from securepfl.outside.mixing import averaged
from securepfl.outside.prior import Prior, checked_prior
from securepfl.outside.recipe import Recipe
from securepfl.outside.site import Site
from securepfl.outside.threshold import shift_to
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating

Baseline = Callable[[Pool, Table, Recipe, Prior | None], Tensor]
_FIRST_WEIGHT: Final = 0.3
_NORMS: Final = (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def shared_alone(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """The global model."""
    site = Site.of(pool, table)
    return _finished(site, _answers(site, dict([shared_model(pool)]), recipe)[0], recipe, prior)


def shared_at_zooms(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """The global model at all of the recipe's zooms, with equal weights."""
    site = Site.of(pool, table)
    name, model = shared_model(pool)
    zooms = [_answers(site, {name: model}, recipe, zoom)[0] for zoom in recipe.zooms]
    return _finished(site, torch.stack(zooms).mean(dim=0), recipe, prior)


def parameter_average(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """One model of all experts' average parameters."""
    site, models = Site.of(pool, table), list(pool.models.values())
    mean = averaged(models, [1.0 / len(models)] * len(models))
    return _finished(site, _answers(site, {"average": mean}, recipe)[0], recipe, prior)


def logit_ensemble(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """The mean of all experts' logits."""
    site = Site.of(pool, table)
    return _finished(site, _answers(site, pool.models, recipe).mean(dim=0), recipe, prior)


def lowest_entropy(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """For each sample the expert whose answer has the least entropy."""
    site = Site.of(pool, table)
    answers = _answers(site, pool.models, recipe)
    surest = torch.stack([site.score("entropy", each[None], 1) for each in answers]).argmax(dim=0)
    return _finished(site, answers[surest, torch.arange(len(surest), device=surest.device)], recipe, prior)


def tent(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """The global model, its norms' scales and shifts trained for a pass to lower entropy, by Adam at 1e-3.

    Wang et al. 2021, arXiv 2006.10726; statistics are an image's own, since norms over a batch are refused. A model
    without such norms stays as it is.
    """
    site, (name, model) = Site.of(pool, table), shared_model(pool)
    made = averaged([model], [1.0]).requires_grad_(False)
    trained = [p for m in made.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)]
    if trained:
        _lower_entropy(site, [each.requires_grad_(True) for each in trained], made, recipe, passes=1)
    return _finished(site, _answers(site, {name: made}, recipe)[0], recipe, prior)


def adamerging(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """shared + sum_k weight (expert_k - shared), a weight for each tensor, trained from .3 to lower entropy.

    Yang et al. 2024, arXiv 2310.02575 (layer-wise), by Adam at 1e-3 for `recipe.layers.passes` passes.
    """
    site, (name, model) = Site.of(pool, table), shared_model(pool)
    others = [expert for each, expert in pool.models.items() if each != name]
    if not others:
        return shared_alone(pool, table, recipe, prior)
    merged = _Merged(model, others)
    _lower_entropy(site, [merged.weights], merged, recipe, recipe.layers.passes)
    return _finished(site, _answers(site, {"merged": merged.made()}, recipe)[0], recipe, prior)


def best_expert(pool: Pool, table: Table, recipe: Recipe, prior: Prior | None = None) -> Tensor:
    """The expert that the site's labels say is best by the task's deciding metric: a ceiling, not a method.

    Raises DataError for a table without labels.
    """
    if table.labels is None:
        raise DataError(f"{table.site}: the best expert is found by labels, and there are none")
    site, task = Site.of(pool, table), pool.task
    higher = next(metric.higher_is_better for metric in task.metrics if metric.name == task.deciding)
    answers = [_finished(site, each, recipe, prior) for each in _answers(site, pool.models, recipe)]

    def worth(logits: Tensor) -> float:
        found = task.evaluate(task.predict(logits), table.labels)[task.deciding]  # type: ignore[arg-type]
        return float("-inf") if found is None else found if higher else -found

    return max(answers, key=worth)


BASELINES: Final[Mapping[str, Baseline]] = MappingProxyType(
    {
        "global": shared_alone,
        "global at zooms": shared_at_zooms,
        "parameter average": parameter_average,
        "logit ensemble": logit_ensemble,
        "lowest entropy": lowest_entropy,
        "TENT": tent,
        "AdaMerging": adamerging,
        "best expert by labels": best_expert,
    }
)
"""By the names that studies print; the last is the ceiling."""


class _Merged(nn.Module):
    """A model whose tensors are sums of others', weighted: [experts, tensors] weights are all that can be trained."""

    def __init__(self, shared: nn.Module, experts: list[nn.Module]) -> None:
        super().__init__()
        self.shared = averaged([shared], [1.0]).requires_grad_(False)
        self._own = {name: value.detach() for name, value in self.shared.named_parameters()}
        states = [dict(expert.named_parameters()) for expert in experts]
        self._steps = {
            name: torch.stack([state[name].detach().to(value) - value for state in states])
            for name, value in self._own.items()
        }
        like = next(iter(self._own.values()))
        self.weights = nn.Parameter(like.new_full((len(self._own), len(experts)), _FIRST_WEIGHT))

    def _tensors(self) -> dict[str, Tensor]:
        rows = zip(self._own.items(), self.weights, strict=True)
        return {name: own + torch.tensordot(row, self._steps[name], dims=1) for (name, own), row in rows}

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.shared, self._tensors(), (rows,))
        return outputs

    def made(self) -> nn.Module:
        """The merged model by itself."""
        with torch.no_grad():
            self.shared.load_state_dict(self._tensors(), strict=False)
        return self.shared


def _lower_entropy(site: Site, trained: list[Tensor], model: nn.Module, recipe: Recipe, passes: int) -> None:
    optimiser = torch.optim.Adam(trained, lr=1e-3)
    with evaluating(model), torch.enable_grad():
        for index in _batches(len(site.rows), recipe, passes):
            rows = index.to(site.rows.device)
            loss = -site.score("entropy", model(site.rows[rows])[None], 1, rows).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()


def _batches(count: int, recipe: Recipe, passes: int) -> Iterator[Tensor]:
    stream = public_stream("baselines", recipe.layers.seed)
    for _ in range(passes):
        yield from torch.split(torch.from_numpy(stream.permutation(count)), recipe.layers.batch)


def _answers(site: Site, models: Mapping[str, nn.Module], recipe: Recipe, zoom: float = 1.0) -> Tensor:
    """Each model's logits, the mean over views: [models, n, ...]."""
    looks = Looks(models, site.rows, replace(recipe, criterion="entropy"))
    numbers = range(len(looks.parts))
    return torch.stack([torch.cat([looks.of(name, part, zoom).mean(dim=0) for part in numbers]) for name in models])


def _finished(site: Site, answers: Tensor, recipe: Recipe, prior: Prior | None) -> Tensor:
    shares = checked_prior(prior, site.task)
    return (answers - shift_to(answers, site.fields, site.task, shares, recipe.prior_weight)).cpu()
