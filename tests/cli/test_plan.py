"""`securepfl plan`: what it says, as text and as JSON, and what it refuses; it reads no row and loads no torch."""

import json
import math
import subprocess
import sys

import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli, main
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.gaussian import delta_of, epsilon_of, mu_of

HEART = """
name = "heart"
[model]
kind = "logistic"
[privacy]
epsilon = 1.0
[sites]
cleveland = { units = 199, prevalence = 0.46 }
hungarian = { units = 172, prevalence = 0.36 }
switzerland = { units = 30, prevalence = 0.93 }
va = { units = 85, prevalence = 0.75, budget = 2.0 }
[data]
label = "num"
positive = "> 0"
missing = "drop-rows"
[data.ranges]
age = { centre = 55, spread = 10 }
sex = { centre = 0.5, spread = 0.5 }
chol = { centre = 220, spread = 60 }
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "federation.toml"
    path.write_text(HEART)
    return path


def found_in(path, *options):
    done = CliRunner().invoke(cli, ["plan", str(path), "--json", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["result"]


def refusal(path, monkeypatch, capsys, *options):
    monkeypatch.setattr("sys.argv", ["securepfl", "plan", str(path), *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_text_says_what_was_chosen_what_to_expect_and_what_it_spends(config):
    done = CliRunner().invoke(cli, ["plan", str(config)], catch_exceptions=False)
    for words in ("486 records at 4 hospitals", "no row was read", "learning_rate", "AUROC", "shared noise"):
        assert words in done.stdout
    assert "uses the budget up" in done.stdout


def test_json_holds_what_a_bound_federation_will_have(config):
    from securepfl import Federation
    from securepfl.settings.auto import chosen

    ready, plan = chosen(Federation.read(config)), found_in(config)
    settings = {setting["key"]: setting["value"] for setting in plan["settings"]}
    assert settings == {
        "rounds": ready.rounds,
        "training.learning_rate": ready.training.learning_rate,
        "privacy.clip": ready.privacy.clip,
        "encryption.limit": ready.encryption.limit,
    }
    assert all(setting["by_rule"] for setting in plan["settings"])
    assert sum(hospital["share"] for hospital in plan["hospitals"].values()) == pytest.approx(1)


def test_a_number_of_the_files_stands_beside_the_rules(config):
    config.write_text("rounds = 20\n" + HEART)
    (rounds,) = (setting for setting in found_in(config)["settings"] if setting["key"] == "rounds")
    assert (rounds["value"], rounds["by_rule"], rounds["rule"]) == (20, False, 11)


def test_squares_of_mu_add_up_to_what_is_left(config):
    hospitals = found_in(config)["hospitals"]
    assert hospitals["cleveland"]["left"] == 0
    left = hospitals["va"]["left"]
    both = math.hypot(mu_of(1.0, 1e-5), mu_of(left, 1e-5))
    assert delta_of(2.0, both) == pytest.approx(1e-5, rel=1e-6)
    assert 1 < left < 2
    assert "uses the budget up" in hospitals["cleveland"]["note"] and not hospitals["va"]["note"]


def test_another_epsilon_and_another_guess_move_the_forecast(config):
    plain, more, better = found_in(config), found_in(config, "--epsilon", "4"), found_in(config, "--auroc", "0.95")
    assert plain["expected"]["middle"] < more["expected"]["middle"] < better["expected"]["middle"]
    assert [point["epsilon"] for point in plain["curve"]] == [0.25, 0.5, 1, 2, 4, 8]


def test_shared_noise_and_another_hospital_are_expected_to_help(config):
    plan = found_in(config)
    expected = {change["what"]: change["expected"]["middle"] for change in plan["changes"]}
    assert expected["shared noise"] > expected["another hospital"] > expected["another round"]
    assert expected["another round"] == plan["expected"]["middle"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("units = 30, ", "", "[sites.switzerland] units: must be declared"),
        ("units = 30", "units = 0", "units = 0: must be 1 to a billion"),
        ("prevalence = 0.93", "prevalence = 93", "prevalence = 93.0: must be between 0 and 1"),
        ('kind = "logistic"', 'kind = "own"', '[model] kind = "own": a plan needs to know the model'),
        (HEART[HEART.index("[data]") :], "", "no [data] table"),
        (HEART[HEART.index("[data.ranges]") :], "", "no feature is declared"),
        (HEART[HEART.index("[sites]") : HEART.index("[data]")], "", "no [sites.NAME] table"),
        (HEART[HEART.index("hungarian") : HEART.index("va =")], "", "2 hospital(s) found, but a sum needs 3"),
    ],
)
def test_what_a_plan_cannot_do_without(config, monkeypatch, capsys, old, new, words):
    config.write_text(HEART.replace(old, new))
    told = refusal(config, monkeypatch, capsys)
    assert words in told and told.startswith(f"securepfl: {config}:")


def test_what_is_released_beside_the_rounds_takes_of_their_epsilon(config):
    config.write_text(HEART + "[release]\nexperts = true\nfinetuning = 30\nprior = true\n")
    plan, bare = found_in(config), HEART.replace("[data]", "[release]\nexperts = true\n[data]", 1)
    rounds, tuning, prior, experts = plan["paid"]
    steps = [one["steps"] for one in plan["paid"]]
    assert steps[1:] == [30, 1, 0] and steps[0] == plan["settings"][0]["value"]
    noise = plan["hospitals"]["va"]["noise_multiplier"]
    assert noise == noise_multiplier_for(1.0, 1e-5, 1.0, sum(steps))
    assert rounds["epsilon"] == pytest.approx(epsilon_of(math.sqrt(steps[0]) / noise, 1e-5))
    assert rounds["epsilon"] < tuning["epsilon"] < 1.0
    assert prior["epsilon"] == experts["epsilon"] == pytest.approx(1.0, abs=1e-6)
    config.write_text(bare)
    without = found_in(config)
    assert without["hospitals"]["va"]["noise_multiplier"] < noise
    assert without["expected"]["middle"] > plan["expected"]["middle"] + 0.01
    assert without["settings"][1]["value"] > plan["settings"][1]["value"]


def test_a_guess_that_says_nothing_is_refused(config, monkeypatch, capsys):
    assert "--auroc" in refusal(config, monkeypatch, capsys, "--auroc", "0.4")


def test_a_regression_has_settings_and_no_forecast(config):
    text = HEART.replace('positive = "> 0"', "label_range = { centre = 1, spread = 1 }")
    text = text.replace('kind = "logistic"', 'kind = "logistic"\ntask = "regression"')
    for share in ("0.46", "0.36", "0.93", "0.75"):
        text = text.replace(f", prevalence = {share}", "")
    config.write_text(text)
    plan = found_in(config)
    assert plan["expected"] is None and plan["curve"] == [] and plan["settings"][1]["value"] > 0


def test_a_plan_loads_no_torch(config):
    code = (
        "import sys; from click.testing import CliRunner; from securepfl.cli.main import cli;"
        f"CliRunner().invoke(cli, ['plan', {str(config)!r}], catch_exceptions=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_released_metrics_stand_with_their_cost_and_their_error(config):
    """Before anything is counted: of hospitals that decide at thresholds of their own."""
    config.write_text(HEART.replace("epsilon = 1.0", "epsilon = 8.0") + "[release]\nmetrics = true\n")
    plan = found_in(config)
    rounds, metrics = plan["paid"]
    released = plan["released"]
    assert metrics["what"] == "released metrics" and metrics["steps"] == math.ceil(rounds["steps"] / 4)
    assert rounds["epsilon"] < metrics["epsilon"] == pytest.approx(8.0, abs=1e-6)
    assert released["units"] == round(486 * 0.34 / 0.66) and released["epsilon"] < rounds["epsilon"]
    assert 0.03 < released["auroc"] < 0.2 and 0.03 < released["sensitivity"] < 0.2
    told = CliRunner().invoke(cli, ["plan", str(config)], catch_exceptions=False).stdout
    assert "Of about 250 held out: AUROC within ." in told and "training has" in told
    config.write_text(HEART + "[release]\nmetrics = true\n")
    told = CliRunner().invoke(cli, ["plan", str(config)], catch_exceptions=False).stdout
    assert "AUROC no figure" in told and "More patients, a larger epsilon or shared noise" in told
