"""Worlds of the routing study: who is right, equal treatment of baselines, files and the table."""

import numpy as np
import pytest
from click.testing import CliRunner
from routing import __main__ as study
from routing import pictures, rows
from routing.compared import ROUTED, compared
from routing.federated import experts
from routing.world import World
from segmentation.training import Schedule

from securepfl.outside.baselines import BASELINES


def test_gates_find_the_right_expert_in_the_constructed_world():
    world = rows.constructed(0)["unseen"]
    found = compared(world, experts(world, 0, 60))
    assert found.right >= 0.8
    assert set(found.scores) == {ROUTED, *BASELINES} - {"global at zooms"}
    beaten = [score for way, score in found.scores.items() if way not in (ROUTED, "best expert by labels")]
    assert found.scores[ROUTED] > max(beaten)


def test_an_expert_that_is_told_apart_by_nothing_is_not_right_by_chance():
    world = rows.constructed(0)["unseen"]
    shuffled = world.unseen.features[np.random.default_rng(0).permutation(len(world.unseen))]
    lost = rows.table("unseen", np.zeros_like(shuffled), world.unseen.labels)
    blind = World(world.task, world.build, world.members, lost, world.schedule, world.right)
    assert compared(blind, experts(world, 0, 60)).right < 0.5


def test_scanners_print_the_same_images_in_their_own_way():
    worlds = [pictures.xrays(None, 3, known=known)["unseen"] for known in (True, False)]
    assert worlds[0].right is not None and worlds[1].right is None
    for world in worlds:
        assert len(world.members) == len(pictures.SCANNERS)
        assert world.unseen.features.shape == (pictures.UNSEEN, 1, 28, 28)
    means = [rows_.features.mean() for rows_ in worlds[0].members.values()]
    assert np.ptp(means) > 0.5
    again = pictures.xrays(None, 3, known=True)["unseen"]
    assert np.array_equal(again.unseen.features, worlds[0].unseen.features)


def test_an_unseen_hospital_of_two_cameras_knows_who_took_what(monkeypatch):
    monkeypatch.setattr(pictures, "PATIENTS", 1)
    monkeypatch.setattr(pictures, "SIDE", 32)
    world = pictures.cameras(None, 0)["unseen"]
    assert world.right.tolist() == list(pictures.MIXED)
    assert 0 < world.prior < 1
    small = Schedule(rounds=1, steps=1, batch=1, patch=16)
    found = compared(
        World(world.task, world.build, world.members, world.unseen, small, world.right),
        experts(World(world.task, world.build, world.members, world.unseen, small), 0, 1),
    )
    assert set(found.scores) == {ROUTED, *BASELINES}
    assert 0 <= found.right <= 1


@pytest.mark.parametrize("name", ["xrays-known", "xrays-own", "hearts"])
def test_worlds_of_patients_are_left_out_where_there_is_no_data(name, tmp_path):
    made = CliRunner().invoke(study.main, [name, "--seeds", "1", "--out", str(tmp_path)], catch_exceptions=False)
    assert f"{name}: left out" in made.output


def test_a_study_writes_files_and_a_table_and_runs_nothing_twice(tmp_path):
    options = ["constructed", "--seeds", "2", "--out", str(tmp_path)]
    first, again = (CliRunner().invoke(study.main, options, catch_exceptions=False).output for _ in range(2))
    assert "constructed, seed 1: is finished" in again
    assert first[first.index("**") :] == again[again.index("**") :]
    assert "| best expert by labels |" in first
