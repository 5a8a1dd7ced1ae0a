"""The site that `make docs` builds: complete, without a warning, and without network."""

import re
import subprocess
import sys

import pytest
import yaml
from pages import DOCS, ROOT

import securepfl


@pytest.fixture(scope="module")
def site():
    # A quiet build counts no warnings.
    build = [sys.executable, "-m", "mkdocs", "build"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ROOT / "build" / "site"


def pages_of(nav):
    for entry in nav:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else pages_of(target)


def test_every_page_stands_in_the_navigation_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(pages_of(nav)) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        assert (
            re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="?(?:https?:)?//[^">]+', page.read_text()) == []
        )


def test_the_reference_has_every_public_name_with_its_docstring(site):
    text = (site / "api.html").read_text()
    for name in securepfl.__all__:
        assert re.search(rf'id="securepfl\.[\w.]*\.{name}"', text), name
    assert "Answer an invitation: train, reserve the budget first" in text


def test_the_site_holds_the_files_of_the_repository_that_pages_link_to(site):
    example = "examples/heart_disease/federation.toml"
    assert (site / "source" / f"{example}.txt").read_bytes() == (ROOT / example).read_bytes()
    assert f'href="source/{example}.txt"' in (site / "configuration.html").read_text()
