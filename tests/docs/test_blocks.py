"""Each block of code that people read is run here, or says on the page why not."""

import json
import re
import shlex
import tomllib

import pytest
from pages import AFTER_THE_TUTORIAL, BY_THEMSELVES, PAGES, ROOT, blocks_of, name_of, resolved

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
    readers = {"toml": tomllib.loads, "json": json.loads}
    for block in BLOCKS:
        assert block.language not in readers or readers[block.language](block.text), places([block])


def test_targets_of_make_that_pages_name_exist():
    makefile = (ROOT / "Makefile").read_text()
    for block in CODE:
        for line in block.commands() if block.language in ("console", "sh") else []:
            if line.startswith("make "):
                assert f"\n{line.split()[1]}:" in makefile, f"{places([block])}: {line}"
