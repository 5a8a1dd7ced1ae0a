"""`securepfl run` on a hospital's own table with patients as units, and with shared noise."""

import csv
import json
import re
from itertools import cycle

import numpy as np
import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.errors import ConfigError, DataError

SITES = ("ash", "beech", "cypress", "elm")
SETTINGS = """
name = "patients"
rounds = 3
[model]
kind = "logistic"
personal = ["linear.bias"]
[privacy]
epsilon = 2.0
{privacy}
[encryption]
masking = "{masking}"
[sites]
"ash" = {{ units = 27 }}
"beech" = {{ units = 27 }}
"cypress" = {{ units = 27 }}
"elm" = {{ units = 27 }}
[data]
label = "ill"
site = "hospital"
{patient}
[data.ranges]
age = {{ centre = 50, spread = 15, limit = 3 }}
marker = {{ centre = 0, spread = 1, limit = 3 }}
"""


def table(path, *, visits=True, shared_patient=None):
    """40 patients a site, with 1 to 12 records each where there are visits."""
    rng, shared = np.random.default_rng(0), cycle(shared_patient or ())
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["hospital", "patient", "age", "marker", "ill"])
        for site in SITES:
            for number in range(40):
                marker, age = rng.standard_normal(), 40 + number
                name = next(shared) if shared_patient and number == 0 else f"{site}-{number}"
                for _ in range(rng.integers(1, 13) if visits else 1):
                    shown = f"{marker + 0.3 * rng.standard_normal():.3f}"
                    writer.writerow([site, name, age, shown, int(marker + 0.3 * rng.standard_normal() > 0)])
    return path


def run(tmp_path, *, privacy="", masking="none", patient='patient = "patient"', **rows):
    config = tmp_path / "federation.toml"
    config.write_text(SETTINGS.format(privacy=privacy, masking=masking, patient=patient))
    data = table(tmp_path / "rows.csv", **rows)
    out = tmp_path / "run"
    result = CliRunner().invoke(cli, ["run", str(config), "--data", str(data), "--out", str(out), "--json"])
    return result, out


def lines_of(out, site):
    return [json.loads(line) for line in (out / "ledger" / f"{site}.snapshot.jsonl").read_text().splitlines()]


def test_patients_are_counted_and_said(tmp_path):
    result, out = run(tmp_path, privacy='unit = "patient"')
    assert result.exit_code == 0, result.exception
    found = json.loads((out / "result.json").read_text())
    for site in SITES:
        assert found["sites"][site]["privacy"]["unit"] == "patient"
        assert found["sites"][site]["train"] > 40
        releases = [line["release"] for line in lines_of(out, site) if line["kind"] == "reservation"]
        assert {release["unit"] for release in releases} == {"patient"}
        told = f"its {found['sites'][site]['train']} training records are of \\d+ patients, at most \\d+ of one"
        assert any(re.fullmatch(told, note) for note in found["sites"][site]["notes"])
    # n x delta is about patients: at most 40, not about the hundreds of records
    assert not any("n x delta" in note for note in found["notes"])


def test_with_records_as_unit_the_output_says_what_that_misses(tmp_path):
    result, out = run(tmp_path)
    assert result.exit_code == 0, result.exception
    assert 'unit = "patient"' in (out / "result.json").read_text().replace('\\"', '"')


def test_patients_without_a_column_that_names_them_are_refused(tmp_path):
    result, _ = run(tmp_path, privacy='unit = "patient"', patient='drop = ["patient"]')
    assert isinstance(result.exception, ConfigError) and "[data] patient" in str(result.exception)


@pytest.mark.parametrize("spellings", [("everywhere",), ("everywhere", "Every Where"), ("7", "007")])
def test_a_patient_at_two_sites_is_refused_without_naming_the_patient(tmp_path, spellings):
    result, _ = run(tmp_path, privacy='unit = "patient"', shared_patient=spellings)
    assert isinstance(result.exception, DataError)
    message = str(result.exception)
    assert re.search(r"1 patient id\(s\) stand at several sites \(ash row 1, \w+ row \d+", message)
    assert not {"everywhere", "007"} & set(message.split()) and '[data] patient_scope = "hospital"' in message


def test_a_ledger_of_records_is_not_gone_on_with_for_patients(tmp_path):
    assert run(tmp_path)[0].exit_code == 0
    (tmp_path / "run").rename(tmp_path / "first")
    result, _ = run(tmp_path, privacy='unit = "patient"\nbudget = 20.0')
    assert result.exit_code != 0 and "record" in str(result.exception) and "patient" in str(result.exception)


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_shared_noise_on_a_table(tmp_path, unit):
    privacy = f'unit = "{unit}"\n[shared_noise]'
    result, out = run(tmp_path, privacy=privacy, masking="pairwise", visits=False)
    assert result.exit_code == 0, result.exception
    for site in SITES:
        kept = [line["release"] for line in lines_of(out, site) if line["kind"] == "reservation"]
        assert {release["mechanism"] for release in kept} == {"shared-discrete-gaussian"}
        assert {release["shares"] for release in kept} == {3}
    found = json.loads((out / "result.json").read_text())
    assert all(1.9 < site["privacy"]["epsilon"] <= 2.0 for site in found["sites"].values())
    assert found["federation"]["shape"]["noise"]["shares"] == 3
