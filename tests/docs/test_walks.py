"""Pages tried as a reader tries them: each block in its order; what it prints is what the page shows."""

import pytest
from pages import AFTER_THE_TUTORIAL, BY_THEMSELVES, ROOT, blocks_of
from reader import Reader

# What stands for the reader's own, and what it is in the folder that the tutorial leaves.
WORDS = {
    "PATH": "tables",
    "NAME": "north",
    "LEDGER": "ledgers/north/north.simulated.jsonl",
    "HEADS": "runs/first/heads.json",
    "RUN": "runs/first",
    "runs/RUN": "runs/first",
}


def walk(page, reader):
    """Each block of the page that is not left out."""
    for block in blocks_of(ROOT / page):
        if not block.is_left_out and not block.elsewhere and block.language != "toml":
            reader.tries(block)


def test_the_tutorial_runs_as_it_stands_there_and_other_pages_after_it(after_the_tutorial, monkeypatch):
    predictions = (after_the_tutorial / "unseen" / "predictions.csv").read_text().splitlines()
    assert len(predictions) == 1 + 40
    monkeypatch.chdir(after_the_tutorial)
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(after_the_tutorial / "ledgers"))
    monkeypatch.setenv("COLUMNS", "100")
    for page in AFTER_THE_TUTORIAL:
        walk(page, Reader(after_the_tutorial, WORDS))


@pytest.mark.parametrize("page", BY_THEMSELVES)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.setenv("SECUREPFL_RUN_ROUNDS", "2")  # the README's run is of eighteen
    monkeypatch.chdir(tmp_path)
    walk(page, Reader(tmp_path))
