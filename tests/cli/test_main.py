"""The commands as a whole: their help, and what is loaded to print it."""

import subprocess
import sys

import pytest
from click.testing import CliRunner
from commands import every_command

from securepfl.cli.main import COMMANDS, cli

HEAVY = ("torch", "opacus", "tenseal", "numpy", "scipy", "pyarrow", "cryptography", "msgspec", "rich")
USAGES = {
    "agent": "--socket",
    "init": "DIR",
    "doctor": "[CONFIG]",
    "start": "--bundle",
    "status": "DIR",
    "plan": "CONFIG",
    "report": "RUN",
    "run": "[CONFIG]",
    "route": "RUN",
    "serve": "--port",
    "suggest": "CONFIG",
    "bench": "--density",
    "audit": "COMMAND",
    "audit budget": "LEDGER",
    "audit verify": "LEDGER",
    "audit attack": "[CONFIG]",
    "audit ledgers": "--site",
    "audit withdraw": "CONFIG",
    "data": "COMMAND",
    "evidence": "--site",
    "data ranges": "PATH",
    "join": "--hub",
    "keys": "COMMAND",
    "keys certificate": "--host",
    "keys create": "NAME",
    "keys enrol": "CONFIG",
    "keys rotate": "CONFIG",
    "keys show": "--folder",
    "machines": "COMMAND",
    "machines nvflare": "COMMAND",
    "machines nvflare approve": "--exchange",
    "machines nvflare init": "--host",
    "machines nvflare install": "--socket",
    "machines nvflare request": "--exchange",
    "machines nvflare run": "CONFIG",
    "machines nvflare start": "--folder",
}


def test_every_command_is_listed_here():
    assert sorted(every_command()) == sorted(USAGES)


@pytest.mark.parametrize("command", USAGES)
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert done.exit_code == 0, done.output
    usage, _, rest = done.output.partition("\n\n")
    assert " ".join(usage.split()).startswith(f"Usage: cli {command} ")
    assert USAGES[command] in done.output and len(rest.strip().splitlines()[0]) > 20


def test_the_list_of_commands_gives_each_a_line():
    lines = CliRunner().invoke(cli, ["--help"]).output.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    shown = [line.split() for line in lines if line[2] != " "]
    assert [words[0] for words in shown] == list(COMMANDS) and all(len(words) > 3 for words in shown)


@pytest.mark.parametrize("command", ["", *USAGES, "nonsense", "run nosuch.toml"])
def test_help_and_wrong_options_load_nothing_that_takes_seconds(command):
    words = [*command.split(), *([] if "nosuch" in command else ["--help"])]
    code = (
        "import sys\nfrom securepfl.cli.main import main\nsys.argv = ['securepfl', *sys.argv[1:]]\n"
        f"try: main()\nfinally: print(*sorted(set(sys.modules) & set({HEAVY!r})), file=sys.__stdout__)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "", done.stdout + done.stderr


def test_a_command_is_loaded_only_when_asked_for():
    code = (
        "import sys\nfrom securepfl.cli.main import cli\n"
        "cli.main(['data', '--help'], standalone_mode=False)\n"
        f"print(*(name for name in {COMMANDS!r} if 'securepfl.cli.' + name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "data"
