"""What can be counted of prose: how much of it a new reader meets, how long sentences are, and how wide lines are."""

import re

import pytest
from pages import DOCS, PAGES, ROOT, blocks_of, name_of, prose_of

FIRST_READING = ("index.md", "tutorial.md", "concepts.md", "glossary.md")
WIDEST = 120
LONGEST = 30


def words(page):
    """Of text and tables; code is not counted."""
    text = page.read_text()
    for block in blocks_of(page):
        text = text.replace(block.text, "")
    return len(re.findall(r"[^\W_][\w'-]*", re.sub(r"\]\([^)]*\)", "]", text)))


@pytest.mark.parametrize("path", sorted((DOCS / "paths").glob("*.md")), ids=lambda path: path.stem)
def test_a_first_reading_is_under_six_thousand_words(path):
    assert sum(words(DOCS / name) for name in FIRST_READING) + words(path) < 6000


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit_a_terminal(page):
    """But rows of tables and addresses, which Markdown can't break, and what a block shows of an output."""
    text = page.read_text()
    for block in blocks_of(page):
        if block.language in ("text", "console"):
            text = text.replace(block.text, "")
    free = ("|", "![", "```")
    long = [line for line in text.splitlines() if len(line) > WIDEST and not line.lstrip().startswith(free)]
    assert long == []


def sentences(page):
    """Of paragraphs, items of lists and cells of tables. A colon ends one, a semicolon doesn't. Code is a word."""
    prose = re.sub(r"^#.*|^ *(?:[-*]|\d+\.) ", "\n\n", prose_of(page), flags=re.MULTILINE)
    cells = re.findall(r"^ *\|.*$", page.read_text(), re.MULTILINE)
    for part in [*re.split(r"\n\s*\n", _unindented(prose)), *re.split(r"(?<!\\)\|", _shown("\n".join(cells)))]:
        yield from re.split(r"(?<=[.!?:])[*_)\"]*\s+", " ".join(_shown(part).split()))


def _unindented(prose):
    """Without blocks of code that are set off by four blanks."""
    return re.sub(r"(?<=\n\n)(?: {4}.*\n)+", "", prose)


def _shown(text):
    return re.sub(r"`[^`]*`", "x", re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_sentences_are_short(page):
    """Many who read them do so in a foreign language: one idea, then a full stop. Numbers aren't counted."""
    long = [line for line in sentences(page) if len(re.findall(r"[^\W\d_][\w'./-]*", line)) > LONGEST]
    assert long == [], f"{name_of(page)}: more than {LONGEST} words to a sentence"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tables_are_whole(page):
    """As many cells in each row as its head has, and a line of dashes below that: else readers see raw text."""
    text = page.read_text()
    for table in re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE):
        rows = [re.sub(r"`[^`]*`|\\\|", "", line) for line in table.splitlines()]
        assert re.fullmatch(r" *\|(?:\s*:?-+:?\s*\|)+", rows[1]), f"{name_of(page)}: {rows[0]}"
        odd = [row for row in rows if row.count("|") != rows[0].count("|")]
        assert odd == [], name_of(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_is_nested_by_less_than_four_blanks(page):
    """In items of lists: GitHub shows it within them, but the site shows it behind them, and counts it as another."""
    text = page.read_text()
    for block in blocks_of(page):
        text = text.replace(block.text, "")
    nested = re.findall(r"^ {1,3}(?:[-*|]|\d+\.) .*|(?<=\n\n) {1,3}\S.*", text, re.MULTILINE)
    assert nested == []


def test_prose_is_what_is_left_without_code_tables_and_addresses(tmp_path):
    page = ROOT / "docs" / "tutorial.md"
    assert "import csv" not in prose_of(page) and "| age" not in prose_of(page) and "](" not in prose_of(page)


def docstrings():
    """(file, docstring or comment that names a page)."""
    for folder in ("securepfl", "privacy", "crypto", "benchmarks", "examples", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text()


def test_pages_that_code_names_exist_with_the_part_that_it_names():
    for path, text in docstrings():
        for name, anchor in re.findall(r"docs/([\w/-]+\.md)(?:#([\w-]+))?", text):
            page = DOCS / name
            assert page.exists(), f"{path.relative_to(ROOT)} names docs/{name}"
            assert not anchor or anchor in anchors(page), f"{path.relative_to(ROOT)}: {name}#{anchor}"


def anchors(page):
    """As mkdocs and GitHub make them of headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", head.lower()).strip().replace(" ", "-") for head in heads}
