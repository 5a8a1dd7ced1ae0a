"""Train without one hospital, then fit the model to that hospital: each in turn. One command:

    python examples/leave_one_site_out.py examples/fundus_vessels/without_privacy.toml --data DATA --out runs/vessels

It makes the public start, writes a federation.toml for each way, and calls `securepfl run` and `securepfl route` as a
user would. What is there already is not made again, so a stopped command goes on. Folders: OUT/start.safetensors,
OUT/SITE/run, OUT/SITE/routed. Masks of the hospital left out are read only to score what was routed.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SECUREPFL = [sys.executable, "-m", "securepfl"]


def without(config: str, site: str) -> str:
    """The settings in which `site` takes no part: its own table or line in `[sites]` goes, and `[data] without` names
    it. Where two hospitals are left, each could compute the other's update: with public data that is allowed.
    """
    name = rf"\"?{re.escape(site)}\"?"
    table = re.compile(rf"^\[sites\.{name}\]\n(?:(?!\[).*\n?)*|^{name} = \{{ .*\}}.*\n", re.MULTILINE)
    named = table.sub("", config)
    settings = tomllib.loads(named)
    if len(settings["sites"]) == 2 and "minimum" not in settings:
        named = f"minimum = 2\n{named}"
    return re.sub(r"^\[data\]$", f"[data]\nwithout = {json.dumps([site])}", named, count=1, flags=re.MULTILINE)


def call(log: Path, *arguments: object) -> None:
    """One securepfl command on one core; what it prints goes to `log`. Raises SystemExit where it fails."""
    command = [*SECUREPFL, *map(str, arguments)]
    with log.open("a") as out:
        out.write(f"$ securepfl {' '.join(map(str, arguments))}\n")
        out.flush()
        one_core = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False, env=one_core)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"securepfl {arguments[0]} failed; {log} says why")


def leave_out(site: str, config: str, data: Path, out: Path) -> dict[str, object]:
    """Train without `site`, route it, and give both results."""
    folder = out / site
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "federation.toml").write_text(without(config, site))
    run, routed, log = folder / "run", folder / "routed", folder / "log.txt"
    if (run / "unfinished").exists():
        call(log, "run", "--resume", run)
    elif not (run / "result.json").exists():
        # Ways run at once, and the data are public: each has ledgers of its own. Of patients, all must share one.
        ledgers = folder / "ledgers"
        call(log, "run", folder / "federation.toml", "--data", data, "--out", run, "--ledgers", ledgers)
    if not routed.exists():
        call(log, "route", run, "--data", data / site, "--out", routed)
    return json.loads((routed / "result.json").read_text())


def main() -> None:
    """Read the command line, train every way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="settings in a folder named as the public start is")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a site")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--jobs", type=int, default=2, help="how many ways at once")
    given = parser.parse_args()
    text = given.config.read_text()
    settings = tomllib.loads(text)
    given.out.mkdir(parents=True, exist_ok=True)
    start = given.out / "start.safetensors"
    if not start.exists():
        kind = given.config.resolve().parent.name.replace("_", "-")
        call(given.out / "log.txt", "start", kind, "--out", start)
    text = re.sub(r"^start = .*$", f"start = {json.dumps(str(start.resolve()))}", text, count=1, flags=re.MULTILINE)
    sites = sorted(settings["sites"])
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(lambda site: leave_out(site, text, given.data, given.out), sites))
    print(f"{'left out':16s}{'shared':>10s}{'routed':>10s}")
    for site, result in zip(sites, results, strict=True):
        metrics = result["metrics"]
        print(f"{site:16s}{metrics['shared']['dice']:10.4f}{metrics['routed']['dice']:10.4f}")


if __name__ == "__main__":
    main()
