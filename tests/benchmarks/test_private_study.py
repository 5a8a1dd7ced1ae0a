"""The study of training under DP: whitened directions, gradients by record, noise, files and the table."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from segmentation import private
from segmentation.cells import read
from segmentation.simulated import write_sites
from segmentation.whitening import Whitened, whitening

from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.tasks.models import public_stream
from securepfl.tasks.networks import build_network
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.starts.recipes import VESSELS, as_start

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NORMS = ("*.adn.N.*",)


def images(count=4, side=32):
    return torch.from_numpy(public_stream("images").gaussian(count * side * side)).reshape(count, 1, side, side).float()


def test_a_step_along_any_public_direction_changes_public_logits_about_alike():
    model = build_network("unet", 1, 2)
    start = Whitened(model, NORMS)
    directions = whitening(model, NORMS, images(), 12, public_stream("probes"))
    assert directions.shape == (start.size, 12)

    def changes(of, steps):
        found = []
        for step in steps:
            of.z.data.copy_(1e-3 * step)
            found.append(float((of(images()) - before).square().mean().sqrt()))
        return np.array(found)

    with torch.no_grad():
        before = start(images())
        moved = changes(Whitened(model, NORMS, directions), torch.eye(12))
        one_value = changes(start, torch.eye(start.size)[:: start.size // 12][:12])
    assert moved.std() / moved.mean() < 0.5 * one_value.std() / one_value.mean()
    with pytest.raises(ValueError, match="count must be from 1"):
        whitening(model, NORMS, images(), 1000, public_stream("probes"))


def test_a_step_without_noise_is_the_mean_of_clipped_gradients():
    model, task = build_network("unet", 1, 2), Segmentation()
    x, y = images(), torch.ones(4, 2, 32, 32, dtype=torch.uint8)
    y[:, 0, 10:20] = 0
    whitened = Whitened(model, NORMS)
    gradients = []
    for patient in range(2):
        rows = slice(2 * patient, 2 * patient + 2)
        own = torch.autograd.grad(task.loss(whitened(x[rows]), y[rows]).sum(), whitened.z)[0]
        gradients.append(own * min(1.0, 0.1 / float(own.norm())))
    train_private(
        whitened,
        [(x[:2], y[:2]), (x[2:], y[2:])],
        task.loss,
        DPSettings(noise_multiplier=private.NO_NOISE, clip=0.1, sample_rate=1.0, steps=1, learning_rate=1.0),
        noise=public_stream("noise"),
        sampling=public_stream("sampling"),
        device="cpu",
        units=2,
        unit="patient",
    )
    assert torch.allclose(whitened.z.detach(), -sum(gradients) / 2, atol=1e-5)


def test_shared_noise_is_what_counts_with_what_may_not():
    scope = private.SCOPES["head"]
    own = noise_multiplier_for(8.0, private.DELTA, 1.0, scope.steps)
    assert private.noise_of(scope, 8.0, 4, "local") == own
    # One of four, or of six, may keep its share to itself; three are dealt in six.
    assert private.noise_of(scope, 8.0, 4, "shared") == pytest.approx(own * math.sqrt(4 / 3))
    assert private.noise_of(scope, 8.0, 3, "shared") == pytest.approx(own * math.sqrt(6 / 5))
    assert private.noise_of(scope, math.inf, 4, "shared") == private.NO_NOISE


def test_a_study_writes_files_and_a_table_and_runs_nothing_twice(tmp_path, monkeypatch):
    write_sites("vessels", tmp_path / "sites", patients=3, side=48)
    start = tmp_path / "start.safetensors"
    start.write_bytes(as_start(VESSELS, build_network("unet", 1, 8), VESSELS.card, {"seed": 0}).to_bytes())
    quick = {name: private.replace(scope, steps=2) for name, scope in private.SCOPES.items()}
    monkeypatch.setattr(private, "SCOPES", quick)
    monkeypatch.setattr(private, "WAYS", (("head", "shared", 8.0), ("head", "local", math.inf)))
    options = [tmp_path / "sites", "--start", start, "--seeds", 2, "--patch", 32, "--out", tmp_path / "runs"]
    run = CliRunner().invoke(private.main, [str(each) for each in options], catch_exceptions=False)
    cells = read(tmp_path / "runs" / "sites" / "private")
    assert {way: len(found) for way, found in cells.items()} == {
        "public start": 1,
        "head, shared noise, epsilon 8": 2,
        "head, local noise, epsilon inf": 1,
    }
    assert "| head, shared noise, epsilon 8 |" in run.output
    assert [cell["seed"] for cell in cells["head, shared noise, epsilon 8"]] == [0, 1]
    study = private.read_study(tmp_path / "sites", None, start)
    for site, (_, test) in study.split().items():
        seen = private.scores(study, study.model(), test)["dice"]
        assert cells["public start"][0]["sites"][site]["dice"] == pytest.approx(seen), "features serve as images do"
    again = CliRunner().invoke(private.main, [str(each) for each in options], catch_exceptions=False)
    assert "seed" not in again.output.split("Dice")[0]
