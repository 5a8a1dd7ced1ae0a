"""Pages in a real browser: accessible in light and dark, readable on a phone, silent on the network."""

import base64
import csv
import io
import shutil

import pytest

from securepfl.report.pages.page import MOST_BYTES, read_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine: install the package chromium")
PAGES = ("one", "several", "masks")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tables, routed, masks, tmp_path_factory):
    """A page of one run with an answer, of two runs, and of masks with pictures."""
    folder = tmp_path_factory.mktemp("pages")
    which = {"one": [tables, routed], "several": [tables, masks[0]], "masks": list(masks)}
    for name, folders in which.items():
        (folder / f"{name}.html").write_text(read_page(folders).html(), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in which}


@pytest.fixture
def opened(browser, files):
    """Opens a page, every fold open, and gives it with the addresses that it asked for; axe needs to add a script."""
    contexts = []

    def go(name, width=1280, scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **options)
        contexts.append(context)
        page, asked = context.new_page(), []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(files[name].as_uri())
        return page, asked

    yield go
    for context in contexts:
        context.close()


def open_folds(page):
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened, name, scheme):
    page, _ = opened(name, scheme=scheme, bypass_csp=True)
    open_folds(page)
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_a_phone_but_what_scrolls_in_its_own_box(opened, name):
    page, asked = opened(name, width=360)
    open_folds(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = page.locator(".scroll")
    assert boxes.count() > 3 and all(box.get_attribute("tabindex") == "0" for box in boxes.all())
    sizes = "[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)"
    assert min(page.evaluate(sizes), default=99) > 8, "figures' text can be read"
    assert [url for url in asked if not url.startswith("data:")] == [page.url]


def test_hostile_names_are_text_and_no_script_runs(opened, files):
    spoken = []
    page, _ = opened("one")
    page.on("dialog", lambda dialog: spoken.append(dialog) or dialog.dismiss())
    text = page.locator("body").inner_text()
    assert "<script>alert(1)</script> demo" in text and "<b onclick=alert(1)>&'x" in text and "{{ 7*7 }}" in text
    assert page.evaluate("document.scripts.length + document.querySelectorAll('[onclick], b').length") == 0
    shown = "[...document.querySelectorAll('svg')].map(svg => svg.textContent).join()"
    assert "$x^2$" in page.evaluate(shown) and not spoken
    assert files["one"].stat().st_size < MOST_BYTES


def test_figures_come_as_csv_that_holds_them_exactly(opened):
    page, _ = opened("one")
    link = page.locator("a[download='balanced_accuracy.csv']").get_attribute("href")
    kind, data = link.split(",", 1)
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(data).decode("utf-8-sig"))))
    assert kind == "data:text/csv;charset=utf-8;base64"
    assert rows[0].keys() >= {"hospital", "personalised", "personalised, low", "personalised, high"}
    names = {row["hospital"] for row in rows}
    assert "北京大学" in names and "'=SUM(A1)" in names, "a spreadsheet would run a formula"
    assert 0 <= float(rows[0]["personalised"]) <= 1


def test_dark_pages_draw_light_lines_and_paper_is_white(opened):
    colour = "getComputedStyle(document.querySelector('svg text')).fill"
    light, dark = (opened("one", scheme=scheme)[0] for scheme in ("light", "dark"))
    assert light.evaluate(colour) != dark.evaluate(colour)
    dark.emulate_media(media="print")
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    fold = "getComputedStyle(document.querySelector('details:not([open])'), '::details-content').contentVisibility"
    assert dark.evaluate(fold) == "visible", "paper can't be unfolded"


def test_the_keyboard_reaches_the_verdict_every_table_and_every_fold(opened):
    page, _ = opened("one")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    focusable = page.evaluate("document.querySelectorAll('a[href], summary, [tabindex=\"0\"]').length")
    seen = set()
    for _ in range(focusable):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
    assert {"scroll", "SUMMARY"} <= seen


def test_pictures_are_shown_where_there_are_some(opened):
    page, _ = opened("masks")
    pictures = page.locator("figure.picture img")
    assert pictures.count() == 8 and all(picture.get_attribute("alt") for picture in pictures.all())
    assert all(page.evaluate("[...document.images].map(image => image.naturalWidth > 100)"))
