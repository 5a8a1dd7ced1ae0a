"""What `securepfl plan` says that images will cost is what a run on them is charged, for all that it releases."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from image_folders import SITES, fill

from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.report.plan import print_plan
from securepfl.runtime.execution import execute
from securepfl.runtime.planning import configured, plan_tables
from securepfl.settings.plan import plan_of
from securepfl.storage.registry import Registry
from securepfl.tasks.networks import build_network
from securepfl.tasks.starts.start import Start, taken

SETTINGS = """\
rounds = 2
minimum = 2

[model]
kind = "unet"
task = "segmentation"
hidden = 2
start = "start.safetensors"
trained = "head"

[training]
steps = 2
learning_rate = 0.5

[privacy]
epsilon = 3.0
unit = "patient"

[encryption]
scheme = "none"

[release]
experts = true
finetuning = 5
prior = true

[sites]
north = { units = 1 }
south = { units = 3 }

[data]
kind = "images"
size = [32, 32]
patient = "pattern:^([a-z]+_[0-9]+)_"
split = { method = "hash", test = 0.2, random_state = 1 }
"""


@contextmanager
def quiet(budgets):
    yield lambda event: None


def declared(folder: Path) -> Path:
    start = Start(name="tiny", weights=taken(build_network("unet", 1, 2)), network={"kind": "unet"}, card="No patient.")
    (folder / "start.safetensors").write_bytes(start.to_bytes())
    path = folder / "federation.toml"
    path.write_text(SETTINGS)
    return path


def test_that_all_experts_will_be_one_model_is_said_before_it_is_paid_for(tmp_path: Path):
    path = declared(tmp_path)
    assert plan_of(configured(path)).notes == ()
    path.write_text(SETTINGS.replace("finetuning = 5\n", ""))
    (note,) = plan_of(configured(path)).notes
    assert note.startswith("[release] experts: nothing is personal, so all hospitals' experts are one and the same")
    path.write_text(SETTINGS.replace("finetuning = 5\n", "").replace('"head"\n', '"head"\npersonal = "intercept"\n'))
    assert plan_of(configured(path)).notes == ()


def test_a_run_on_images_is_charged_what_was_planned(tmp_path: Path):
    federation = configured(declared(tmp_path))
    planned = plan_of(federation)
    plan = plan_tables(federation, fill(tmp_path / "data"), None, None)
    result = execute(plan, tmp_path / "out", seed=None, device="cpu", display=quiet)
    assert len(set(result["notes"])) == len(result["notes"])
    assert any("2 were found: 1 does not train" in note for note in result["notes"])
    for name in SITES:
        place, _ = Registry(Path(os.environ["SECUREPFL_LEDGERS"]), name).ledger_at(name, "simulated")
        charged = verify_ledger(place, ledger_verifier(None))
        assert charged.epsilon == pytest.approx(planned.hospitals[name].epsilon, abs=1e-9)
        assert charged.epsilon == pytest.approx(3.0, abs=1e-6)
        assert sum(release.steps for release in charged.releases) == sum(part.steps for part in planned.paid) == 10
        assert {release.noise_multiplier for release in charged.releases} == {planned.hospitals[name].noise_multiplier}
        assert {release.unit for release in charged.releases} == {"patient"}


def test_of_images_no_accuracy_is_forecast_and_the_plan_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from securepfl.cli.consoles import tables

    planned = plan_of(configured(declared(tmp_path)))
    assert planned.expected is None and not planned.curve and not planned.wrong
    print_plan(tables(), planned)
    said = capsys.readouterr().out
    assert "4 patients at 2 hospitals, unet model of images, epsilon 3" in said
    assert "No forecast: it was measured on tables, and what a model of masks reaches no declaration tells." in said
    assert "fine-tuning an expert (5 steps" in said and "experts made of these (nothing more)" in said
    assert "no prevalence" not in said
