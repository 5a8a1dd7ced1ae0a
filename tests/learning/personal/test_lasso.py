from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from securepfl.learning.personal.lasso import (
    edge_weights,
    floor_at,
    proximal_step,
    weight_unit,
)

HOSPITALS, WIDTH, RECORDS = 8, 5, 40
COMPLETE = list(combinations(range(HOSPITALS), 2))
TWO_CLIQUES = [(i, j) for i, j in COMPLETE if i % 2 == j % 2]


@dataclass(frozen=True)
class Sites:
    """Losses of all hospitals, rows of Z [hospitals, p]; `curvature` bounds their second derivatives."""

    x: torch.Tensor
    y: torch.Tensor
    kind: str

    def losses(self, z):
        margin = torch.einsum("nrp,np->nr", self.x, z)
        if self.kind == "squares":
            return ((margin - self.y) ** 2).mean(dim=1) / 2
        return torch.nn.functional.softplus(-self.y * margin).mean(dim=1) + 0.005 * (z**2).sum(dim=1)

    def gradient(self, z):
        z = z.clone().requires_grad_()
        return torch.autograd.grad(self.losses(z).sum(), z)[0]

    @property
    def curvature(self):
        gram = torch.einsum("nrp,nrq->npq", self.x, self.x) / self.x.shape[1]
        most = float(torch.linalg.eigvalsh(gram).max())
        return most if self.kind == "squares" else most / 4 + 0.01

    def objective(self, z, edges, strength):
        return float(self.losses(z).sum() + strength * sum(torch.linalg.norm(z[i] - z[j]) for i, j in edges))


@dataclass(frozen=True)
class Anchors:
    """f_n(z) = curvature ||z - V_n||^2 / 2, so that the minimum of all is the proximal step on V."""

    v: torch.Tensor
    curvature: float = 1.0

    def gradient(self, z):
        return self.curvature * (z - self.v)


def sites(kind, seed=1):
    """Two groups of four alike hospitals, even and odd ones."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(2, WIDTH))
    true = np.array([centres[n % 2] + 0.3 * random.normal(size=WIDTH) for n in range(HOSPITALS)])
    x = random.normal(size=(HOSPITALS, RECORDS, WIDTH))
    margin = np.einsum("nrp,np->nr", x, true)
    if kind == "squares":
        y = margin + 0.5 * random.normal(size=margin.shape)
    else:
        y = np.where(random.random(margin.shape) < 1 / (1 + np.exp(-margin)), 1.0, -1.0)
    return Sites(torch.from_numpy(x), torch.from_numpy(y), kind)


def solve(problem, edges, strength, start, *, rounds=350, bits=12, floor=None, error=0.0, hold=False):
    """Z [hospitals, p] after so many rounds of all hospitals, each on its own row and neighbourhood sum.

    Weights lag a round. `floor` fixes the floor, `error` is the relative error of distances (alike at both ends), and
    `hold` lowers the floor only after rounds in which some pair stood at it.
    """
    rate, noise = 1 / problem.curvature, np.random.default_rng(0)
    z = start
    weights, floor_of_weights, at_floor = [{} for _ in start], 1.0, 0
    for round_ in range(rounds):
        unit = weight_unit(strength, floor_of_weights, bits)
        floor_of_weights = floor or floor_at(at_floor if hold else round_)
        gaps = torch.cdist(z, z).tolist()
        rows = [{} for _ in start]
        for i, j in edges:
            gap = gaps[i][j] * max(0.05, 1 + error * noise.normal())
            rows[i][str(j)] = rows[j][str(i)] = gap
        trained = z - rate * problem.gradient(z)
        z = torch.stack([_step(n, z, trained[n], weights[n], unit, rate) for n in range(len(start))])
        weights = [edge_weights(row, floor_of_weights, bits) for row in rows]
        at_floor += any(m == 2**bits - 1 for row in weights for m in row.values())
    return z


def _step(n, sent, trained, weights, unit, rate):
    total = unit * sum(weights.values())
    weighted = unit * sum((m * sent[int(j)] for j, m in weights.items()), torch.zeros_like(trained))
    return proximal_step(sent[n], trained, weighted, total, rate)


def exact(problem, edges, strength):
    """The least objective, and how many edges have both ends at one point there."""
    cvxpy = pytest.importorskip("cvxpy")
    z = cvxpy.Variable((HOSPITALS, WIDTH))
    x, y = problem.x.numpy(), problem.y.numpy()
    if problem.kind == "squares":
        loss = sum(cvxpy.sum_squares(x[n] @ z[n] - y[n]) for n in range(HOSPITALS)) / (2 * RECORDS)
    else:
        margins = (cvxpy.multiply(-y[n], x[n] @ z[n]) for n in range(HOSPITALS))
        loss = sum(cvxpy.sum(cvxpy.logistic(m)) for m in margins) / RECORDS + 0.005 * cvxpy.sum_squares(z)
    penalty = sum(cvxpy.norm(z[i] - z[j]) for i, j in edges)
    least = cvxpy.Problem(cvxpy.Minimize(loss + strength * penalty)).solve(solver="CLARABEL")
    return least, sum(np.linalg.norm(z.value[i] - z.value[j]) < 1e-4 for i, j in edges)


def gap(problem, edges, strength, **how):
    least, _ = exact(problem, edges, strength)
    z = solve(problem, edges, strength, torch.zeros(HOSPITALS, WIDTH, dtype=torch.float64), **how)
    return (problem.objective(z, edges, strength) - least) / least


def random_rows(count=HOSPITALS, width=3, seed=0):
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# The schedule and the integers.


def test_floor_falls_by_a_factor_a_round_to_its_end():
    assert floor_at(0) == 0.3
    assert floor_at(7) == pytest.approx(0.3 * 0.985**7)
    assert floor_at(350) == pytest.approx(1.5e-3, rel=0.02)
    assert floor_at(10_000) == 1e-3
    assert floor_at(3, start=0.1, end=0.1, factor=1.0) == 0.1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [((-1,), "round_"), ((0, 0.1, 0.2), "end"), ((0, 0.1, 0.0), "end"), ((0, 0.3, 0.1, 1.5), "factor")],
    ids=["round", "end-above-start", "end-zero", "factor"],
)
def test_bad_schedules_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        floor_at(*arguments)


def test_weights_in_units_are_the_strength_over_the_floored_distance():
    distances = {"fused": 0.0, "at": 0.01, "near": 0.013, "far": 0.7}
    weights = edge_weights(distances, floor=0.01, bits=12)
    unit = weight_unit(0.3, 0.01, 12)
    assert weights["fused"] == weights["at"] == 2**12 - 1
    for name, distance in distances.items():
        wanted = 0.3 / max(distance, 0.01)
        assert abs(unit * weights[name] - wanted) <= wanted * max(distance, 0.01) / (2 * 0.01 * (2**12 - 1)) * 1.001


def test_a_pair_too_far_for_the_grid_has_no_edge():
    edge = 0.01 * 2 * 15
    assert edge_weights({"a": edge * 0.99, "b": edge * 1.01}, floor=0.01, bits=4) == {"a": 1, "b": 0}


def test_total_weight_never_passes_what_fields_are_made_for():
    assert sum(edge_weights(dict.fromkeys("abc", 0.0), 0.01, 10).values()) == 3 * 1023


def test_no_strength_no_weight():
    assert weight_unit(0.0, 0.01, 12) == 0.0


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: edge_weights({"a": float("nan")}, 0.1, 12), "'a' .*nan"),
        (lambda: edge_weights({"a": -1.0}, 0.1, 12), "'a' .*-1"),
        (lambda: edge_weights({}, 0.0, 12), "floor"),
        (lambda: edge_weights({}, 0.1, 33), "bits"),
        (lambda: weight_unit(-1.0, 0.1, 12), "strength"),
        (lambda: weight_unit(1.0, 0.1, 0), "bits"),
    ],
    ids=["nan", "negative", "floor", "bits", "strength", "unit-bits"],
)
def test_bad_weights_are_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()


# One step.


def test_the_step_minimises_the_majoriser():
    z, others, gradient = random_rows(1)[0], random_rows(3, seed=1), random_rows(1, seed=2)[0]
    weights, rate = torch.tensor([0.3, 1.0, 5.0], dtype=torch.float64), 0.2
    stepped = proximal_step(z, z - rate * gradient, weights @ others, float(weights.sum()), rate).requires_grad_()
    midpoints = (z + others) / 2
    majoriser = (
        gradient @ (stepped - z)
        + ((stepped - z) ** 2).sum() / (2 * rate)
        + weights @ ((stepped - midpoints) ** 2).sum(dim=1)
    )
    slope = torch.autograd.grad(majoriser, stepped)[0]
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)


def test_the_floored_objective_never_rises_with_fresh_weights_and_one_simultaneous_step():
    problem, strength, floor = sites("logistic"), 0.1, 0.05
    z = 2 * random_rows(width=WIDTH)

    def objective(z):
        distances = torch.stack([torch.linalg.norm(z[i] - z[j]) for i, j in COMPLETE])
        edge = torch.where(distances < floor, distances**2 / (2 * floor) + floor / 2, distances)
        return float(problem.losses(z).sum() + strength * edge.sum())

    values = [objective(z)]
    for _ in range(30):
        weights = strength / torch.cdist(z, z).clamp(min=floor)
        weights.fill_diagonal_(0)
        trained = z - problem.gradient(z) / problem.curvature
        total = weights.sum(dim=1)
        z = torch.stack(
            [proximal_step(z[n], trained[n], weights[n] @ z, float(total[n]), 1 / problem.curvature) for n in range(8)]
        )
        values.append(objective(z))
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[-1] < 0.8 * values[0]


def test_without_weight_the_step_is_local_training():
    z, trained = random_rows(2)
    torch.testing.assert_close(proximal_step(z, trained, torch.zeros_like(z), 0.0, 0.1), trained)


def test_a_common_origin_does_not_matter():
    z, trained, other, origin = random_rows(4)
    stepped = proximal_step(z, trained, 2 * other, 2.0, 0.1)
    moved = proximal_step(z - origin, trained - origin, 2 * (other - origin), 2.0, 0.1)
    torch.testing.assert_close(moved + origin, stepped)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((torch.zeros(1), torch.zeros(2), 1.0, 0.1), r"trained \(1,\)"),
        ((torch.zeros(2), torch.zeros(1), 1.0, 0.1), r"weighted_sum \(1,\)"),
        ((torch.zeros(2), torch.zeros(2), -1.0, 0.1), "total_weight"),
        ((torch.zeros(2), torch.zeros(2), 1.0, 0.0), "learning_rate"),
    ],
    ids=["trained", "weighted-sum", "total", "rate"],
)
def test_bad_steps_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        proximal_step(torch.zeros(2), *arguments)


def test_the_step_stays_on_the_device_and_type_of_z(device):
    stepped = proximal_step(torch.zeros(2, device=device), torch.ones(2), torch.ones(2).double(), 1.0, 0.1)
    assert (stepped.device.type, stepped.dtype) == (device.type, torch.float32)


# The proximal step on Z: what many rounds come to where f_n = ||z - V_n||^2 / (2 eta).


def test_strength_zero_gives_the_anchors():
    v = random_rows()
    torch.testing.assert_close(solve(Anchors(v), COMPLETE, 0.0, v, rounds=3), v)


@pytest.mark.parametrize("strength", [0.02, 0.1])
def test_the_mean_of_each_component_is_kept(strength):
    v = random_rows()
    z = solve(Anchors(v), TWO_CLIQUES, strength, v)
    assert float(torch.linalg.norm(z - v)) > 0.1
    for group in (z[0::2] - v[0::2], z[1::2] - v[1::2]):
        torch.testing.assert_close(group.mean(dim=0), torch.zeros(3, dtype=v.dtype), atol=5e-4, rtol=0)


@pytest.mark.parametrize("eta", [0.5, 2.0])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.9, 1.1, 2.0])
def test_two_hospitals_shrink_towards_their_mean_and_fuse_at_the_known_strength(part, eta):
    v = random_rows(2)
    apart = float(torch.linalg.norm(v[0] - v[1]))
    strength = part * apart / (2 * eta)
    z = solve(Anchors(v, 1 / eta), [(0, 1)], strength, v, rounds=450, bits=24)
    shrink = max(0.0, 1 - 2 * eta * strength / apart)
    wanted = v.mean(dim=0) + shrink / 2 * torch.stack([v[0] - v[1], v[1] - v[0]])
    # Fused hospitals stay within the last floor, 1e-3, of each other.
    torch.testing.assert_close(z, wanted, atol=1e-3 if part > 1 else 1e-5, rtol=0)
    assert (float(torch.linalg.norm(z[0] - z[1])) <= 1e-3) == (part > 1)


def test_a_pull_all_the_way_to_the_neighbours_last_points_swaps_two_hospitals():
    """Why the separable majoriser: with weight 2w and midpoints the same round brings them together."""
    z = start = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    weight = 100.0
    for _ in range(9):
        z = (start + weight * z.flip(0)) / (1 + weight)
    assert float(z[0] - z[1]) < -1.5
    stepped = torch.stack([proximal_step(start[n], start[n], weight * start[1 - n], weight, 1.0) for n in (0, 1)])
    assert 0 < float(stepped[0] - stepped[1]) < 0.02


def test_a_large_strength_gives_each_component_its_mean():
    v = random_rows()
    z = solve(Anchors(v), TWO_CLIQUES, 1.0, v)
    for start in (0, 1):
        torch.testing.assert_close(z[start::2], v[start::2].mean(dim=0).expand(4, 3), atol=1e-2, rtol=0)


def test_renaming_hospitals_renames_the_result():
    v, order = random_rows(), [3, 1, 7, 0, 5, 2, 6, 4]
    renamed = [(order.index(i), order.index(j)) for i, j in TWO_CLIQUES]
    z = solve(Anchors(v), TWO_CLIQUES, 0.1, v, rounds=50)
    torch.testing.assert_close(solve(Anchors(v[order]), renamed, 0.1, v[order], rounds=50), z[order])


# Losses.


def test_strength_zero_is_local_training():
    problem, start = sites("logistic"), torch.zeros(HOSPITALS, WIDTH, dtype=torch.float64)
    alone = start
    for _ in range(20):
        alone = alone - problem.gradient(alone) / problem.curvature
    torch.testing.assert_close(solve(problem, COMPLETE, 0.0, start, rounds=20), alone)


@pytest.mark.parametrize(("kind", "strength"), [("squares", 0.3), ("logistic", 0.09)])
def test_a_strength_that_fuses_all_from_equal_starts_is_the_shared_optimum(kind, strength):
    """Beyond what fuses them a strength only slows all of them down: so barely as much."""
    problem, start = sites(kind), torch.zeros(HOSPITALS, WIDTH, dtype=torch.float64)
    shared = torch.zeros(WIDTH, dtype=torch.float64)
    for _ in range(500):
        shared = shared - problem.gradient(shared.expand(HOSPITALS, -1)).mean(dim=0) / problem.curvature
    z = solve(problem, COMPLETE, strength, start)
    torch.testing.assert_close(z, shared.expand(HOSPITALS, -1), atol=2e-2, rtol=0)


SPLIT = [("squares", COMPLETE, 0.02), ("squares", COMPLETE, 0.1), ("squares", TWO_CLIQUES, 0.06)]
SPLIT += [("logistic", COMPLETE, 0.02)]
FUSED = [("squares", TWO_CLIQUES, 0.3), ("squares", COMPLETE, 0.3), ("logistic", TWO_CLIQUES, 0.06)]
FUSED += [("logistic", COMPLETE, 0.1)]


def names(cases):
    return [f"{kind}-{'complete' if edges is COMPLETE else 'cliques'}-{strength}" for kind, edges, strength in cases]


@pytest.mark.parametrize(("kind", "edges", "strength"), SPLIT, ids=names(SPLIT))
def test_where_nothing_fuses_the_gap_to_the_exact_solution_is_below_1e4(kind, edges, strength):
    problem = sites(kind)
    assert exact(problem, edges, strength)[1] == 0
    assert abs(gap(problem, edges, strength)) < 1e-4


@pytest.mark.parametrize(("kind", "edges", "strength"), FUSED, ids=names(FUSED))
def test_where_groups_fuse_the_gap_to_the_exact_solution_is_below_1e3(kind, edges, strength):
    problem = sites(kind)
    assert exact(problem, edges, strength)[1] > 0
    assert abs(gap(problem, edges, strength)) < 1e-3


def test_the_floor_biases_by_no_more_than_half_of_it_an_edge():
    problem, strength, floor = sites("logistic"), 0.1, 0.05
    above = gap(problem, COMPLETE, strength, floor=floor) * exact(problem, COMPLETE, strength)[0]
    assert 1e-3 < above <= strength * len(COMPLETE) * floor / 2


def test_a_floor_that_is_small_from_the_start_sticks():
    problem = sites("squares")
    annealed, fixed = (gap(problem, TWO_CLIQUES, 0.3, floor=at, bits=32) for at in (None, 1e-6))
    assert abs(annealed) < 1e-3
    assert fixed > 10 * abs(annealed)


@pytest.mark.parametrize(("kind", "edges", "strength"), SPLIT + FUSED, ids=names(SPLIT + FUSED))
def test_distances_that_are_15_per_cent_off_keep_the_gap_below_1e3(kind, edges, strength):
    assert abs(gap(sites(kind), edges, strength, error=0.15)) < 1e-3


@pytest.mark.parametrize(("bits", "least", "most"), [(6, 1e-2, 1.0), (12, 0.0, 1e-4)])
def test_few_bits_lose_far_pairs_once_the_floor_is_low(bits, least, most):
    assert least <= abs(gap(sites("logistic"), COMPLETE, 0.02, bits=bits)) <= most


def test_four_bits_do_where_nothing_fuses_and_the_floor_waits_for_pairs_at_it():
    assert abs(gap(sites("logistic"), COMPLETE, 0.02, bits=4, hold=True)) < 1e-4
