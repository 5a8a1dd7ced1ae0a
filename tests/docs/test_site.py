"""The site that `make docs` builds: complete, without a warning, and without network."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from pages import DOCS, ROOT

import securepfl

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# What the theme's button copies of each block: the text while an attribute is set.
COPIED = """Array.from(document.querySelectorAll("pre > code"), (code) => {
  code.setAttribute("data-md-copying", "");
  return code.innerText;
})"""


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


def test_which_test_runs_a_block_is_for_the_source_alone(site):
    assert "Run by tests/" not in (site / "deployment.html").read_text()
    assert "Not run by the tests: it needs podman" in (site / "deployment.html").read_text()


def test_a_command_for_one_machine_is_a_command_over_its_lines_and_its_output_is_none(site):
    text = (site / "keys.html").read_text()
    assert '<span class="gp">south$ </span>securepfl keys rotate' in text
    assert re.search(r"\n +--fingerprint east=JX7D", text), "the second line of a command"
    assert '<span class="go">epoch 1: 3 hospitals' in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: install the package chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_page_with_tables_code_and_links_and_it_fits_a_phone(site, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme, bypass_csp=True, viewport={"width": 360, "height": 800})
        page.goto((site / "deployment.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        copied = page.evaluate(COPIED)
        assert len(copied) > 10 and not [text for text in copied if re.search(r"^\w*\$ ", text, re.MULTILINE)]
        page.set_viewport_size({"width": 1280, "height": 800})
        found = axe.Axe().run(page).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
        browser.close()
