import pytest
import torch

from securepfl.learning.personal.coupling import couple, pull_towards


def step(z, edges, pull):
    """One simultaneous coupling step of all hospitals; z [hospitals, p]."""
    return torch.stack([couple(z[i], z[list(near)].mean(dim=0), pull) for i, near in edges.items()])


TWO_RINGS = {
    i: (4 * (i // 4) + (i + 1) % 4, 4 * (i // 4) + (i + 3) % 4) for i in range(8)
}  # mutual edges, two components, two neighbours each


def test_nobody_to_be_pulled_to_means_no_pull():
    assert pull_towards({"basel": 0.9}, (), strength=1.0) == 0.0


@pytest.mark.parametrize(("similarity", "pull"), [(0.6, 0.3), (-0.5, 0.0), (1.2, 0.5)])
def test_pull_follows_mean_similarity_within_bounds(similarity, pull):
    row = {"a": similarity - 0.2, "b": similarity, "c": similarity + 0.2}
    assert pull_towards(row, ("a", "b", "c"), strength=0.5) == pytest.approx(pull)


def test_pull_zero_keeps_and_pull_one_moves_all_the_way():
    z, mean = torch.randn(5), torch.randn(5)
    assert torch.equal(couple(z, mean, 0.0), z)
    torch.testing.assert_close(couple(z, mean, 1.0), mean)


def test_component_means_are_kept_and_hospitals_in_one_component_come_together():
    start = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = start
    for _ in range(100):
        z = step(z, TWO_RINGS, pull=0.4)
    for group in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(z[group], start[group].mean(dim=0).expand(4, 3))


def test_renaming_hospitals_renames_the_result():
    z = torch.randn(8, 3, dtype=torch.float64)
    order = torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
    place = {int(old): new for new, old in enumerate(order)}
    renamed = {new: tuple(place[j] for j in TWO_RINGS[int(old)]) for new, old in enumerate(order)}
    torch.testing.assert_close(step(z[order], renamed, 0.3), step(z, TWO_RINGS, 0.3)[order])


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_strengths_outside_the_unit_interval_are_refused(wrong):
    with pytest.raises(ValueError, match="pull"):
        couple(torch.zeros(2), torch.zeros(2), wrong)
    with pytest.raises(ValueError, match="strength"):
        pull_towards({"basel": 0.4}, ("basel",), wrong)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(1,\)"):
        couple(torch.zeros(2), torch.zeros(1), 0.5)


def test_result_stays_on_the_device_of_z(device):
    assert couple(torch.zeros(2, device=device), torch.ones(2), 0.5).device.type == device.type
