"""Each block of code that people read is run here, or says on the page why not."""

import json
import os
import re
import shlex
import subprocess
import tomllib
from typing import get_args

import pytest
from pages import AFTER_THE_TUTORIAL, BY_THEMSELVES, DOCS, PAGES, ROOT, blocks_of, name_of, resolved

from securepfl.plugins import Group
from securepfl.settings.federation import Federation

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
CODE = [block for block in BLOCKS if block.language not in ("text", "json")]
WALKED = ("docs/tutorial.md", *AFTER_THE_TUTORIAL, *BY_THEMSELVES)


def places(blocks):
    return [f"{block.page}:{block.line}" for block in blocks]


def test_every_block_says_what_it_is():
    unknown = [block for block in BLOCKS if block.language not in ("python", "toml", "console", "sh", "text", "json")]
    assert places(unknown) == []


def test_every_block_is_run_or_says_why_not():
    silent = [
        block
        for block in CODE
        if block.language != "toml" and block.page not in WALKED and not block.is_left_out and not block.elsewhere
    ]
    assert places(silent) == []


def test_what_blocks_say_of_tests_is_so():
    """A test that is named for a block reads the block's page, or the block calls that test."""
    for block in CODE:
        if block.elsewhere:
            files = (
                [ROOT / block.elsewhere]
                if block.elsewhere.endswith(".py")
                else [*(ROOT / block.elsewhere).rglob("*.py")]
            )
            text = "".join(file.read_text() for file in files)
            called = re.findall(r"pytest(?: -k (\w+))? +(tests/\S+)$", " ".join(block.commands()))
            if called:
                ((name, path),) = called
                assert path == block.elsewhere and f"def {name}" in text, places([block])
            else:
                assert block.page.removeprefix("docs/") in text, places([block])


def test_each_answer_of_the_faq_has_a_command_that_shows_it():
    _, *answers = re.split(r"^## ", (DOCS / "faq.md").read_text(), flags=re.MULTILINE)
    assert (
        len(answers) > 12
        and [text.splitlines()[0] for text in answers if "```sh" not in text and "```py" not in text] == []
    )


def test_few_blocks_are_left_out_and_what_they_name_is_there():
    left = [block for block in CODE if block.is_left_out]
    assert len(left) <= 6, places(left)
    for block in left:
        for _, line in block.lines():
            assert is_sound(line), f"{places([block])}: {line}"


def is_sound(line):
    """What can be known of a line that nobody runs: files, users, ports, targets and options that it names."""
    words = shlex.split(re.sub("^sudo ", "", line), comments=True)
    unit = (ROOT / "deploy" / "securepfl-hub.service").read_text()

    def after(word):
        return words[words.index(word) + 1]

    match words:
        case ["make", target]:
            sound = all(map(runs, recipe_of(target)))
        case ["useradd", *_]:
            sound = {f"User={words[-1]}", f"WorkingDirectory={after('--home-dir')}"} <= set(unit.splitlines())
        case ["python3", "-m", "venv", place]:
            sound = f"ExecStart={place}/bin/securepfl " in unit
        case [_, "install", *_, what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            sound = (ROOT / after("-c")).exists() and what.strip(".[]") in extras
        case ["ufw", *_]:
            sound = f"--port {after('port')} " in unit
        case ["podman", "build", *_]:
            sound = (ROOT / after("-f")).exists()
        case ["podman", "run", *_]:  # the image is called as what it runs
            sound = bool(resolved(words[words.index("securepfl") + 1 :]))
        case _:
            sound = False
    return sound


def recipe_of(target):
    """The lines that make would run for it; what it needs before them too."""
    # `make test` hands its own options down, and a make within a make says where it is.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    asked = subprocess.run(["make", "-n", "-B", target], cwd=ROOT, env=ours, capture_output=True, text=True, check=True)
    return asked.stdout.splitlines()


def runs(line):
    """Whether a line of a recipe calls what there is."""
    words = shlex.split(line)
    if words[0].endswith("securepfl"):
        return bool(resolved(words[1:]))
    if words[0].endswith("python") and words[1].endswith(".py"):
        return (ROOT / words[1]).exists()
    return words[0] == "touch" or words[1] == "-m"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_that_a_page_shows_is_one_that_there_is(page):
    """Also of the blocks that nobody runs: the command, and each of its options."""
    for block in blocks_of(page):
        if block.language in ("console", "sh"):
            for line in block.commands():
                words = shlex.split(line, comments=True)
                if words[0] in ("securepfl", "spfl") and "|" not in line:
                    resolved(words[1:])


def test_settings_and_objects_that_a_page_shows_can_be_read():
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            told = tomllib.loads(block.text)
            if "project" in told:  # a plug-in's own file
                assert told["project"]["entry-points"].keys() <= set(get_args(Group)), places([block])
                continue
            read = [Federation.from_mapping(variant) for variant in variants(told)]
            assert read, places([block])


# What a file of one kind can't have, of all that a page lists side by side.
MASKS = ("masks", "structures", "holes")
KINDS = {
    "binary": {"site", "classes", "label_range", *MASKS},
    "multiclass": {"files", "positive", "negative", "label_range", "prevalence", "threshold", *MASKS},
    "regression": {"files", "positive", "negative", "classes", "prevalence", "threshold", *MASKS},
    "segmentation": {"label", "positive", "negative", "classes", "label_range", "id"},
}


def variants(told):
    """Files that each have a part of what stands there side by side, and all of it together."""
    methods = {"lasso": {"similarity": {"every": 1}}, "shared_noise": {"encryption": {"masking": "pairwise"}}}
    if told.keys() & methods.keys():
        yield from ({name: told[name], **needs} for name, needs in methods.items() if name in told)
    elif {"classes", "positive"} <= told.get("data", {}).keys():
        images = told["data"].get("kind") == "images"
        for task, without in KINDS.items() if images else list(KINDS.items())[:3]:
            data = {key: value for key, value in told["data"].items() if key not in without | {"columns", "window"}}
            network = "unet" if task == "segmentation" else "cnn"
            of_images = {"data": data | {"intensity": "range"}, "model": {"task": task, "kind": network}}
            yield of_images if images else {"data": data, "model": {"task": task}}
    else:
        yield told


def test_targets_of_make_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for block in CODE:
        for line in block.commands() if block.language in ("console", "sh") else []:
            if line.startswith("make "):
                assert f"\n{line.split()[1]}:" in makefile, f"{places([block])}: {line}"
