"""What an import loads: torch and Opacus take seconds, and a coordinator or a look at settings needs neither."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "opacus", "sklearn", "scipy", "dp_accounting")
PRINT = "import sys, time; {}; print(time.process_time(), *sys.modules)"


def loaded_by(statement):
    """CPU seconds of a fresh interpreter that runs `statement`, and the modules that it then holds."""
    done = subprocess.run([sys.executable, "-c", PRINT.format(statement)], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    return float(seconds), set(modules)


@pytest.mark.parametrize(
    ("statement", "spared"),
    [
        ("import securepfl", (*HEAVY, "tenseal", "numpy", "cryptography")),
        ("import securepfl.protocol.messages", (*HEAVY, "tenseal")),
        ("import securepfl.settings.federation", (*HEAVY, "tenseal")),
        ("import securepfl; securepfl.Federation.from_mapping({})", (*HEAVY, "tenseal")),
        ("import securepfl; securepfl.idle_settings", (*HEAVY, "tenseal")),
        ("import securepfl; securepfl.Coordinator", (*HEAVY, "tenseal")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement, spared):
    _, modules = loaded_by(statement)
    assert "securepfl" in modules and not modules & set(spared)


def test_a_model_is_what_loads_torch():
    assert "torch" in loaded_by("import securepfl.settings.binding")[1]


def test_the_package_itself_is_imported_in_a_moment():
    nothing, _ = loaded_by("pass")
    assert loaded_by("import securepfl")[0] - nothing < 0.3
