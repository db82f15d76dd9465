"""The book and the slides in a browser without a network: nothing clipped, missing or mute."""

import os
import re
from functools import partial
from pathlib import Path

import nbformat
import pytest
from book import build, check, slides, states, terms
from browser import QUIET, chromium
from eyes import FAINT

from attnlab.errors import AttnlabError
from attnlab.show import new_axes, picture
from attnlab.show.panels import LIVE, slider, text_box
from attnlab.web.pages import toy_page

__all__ = ["chromium"]  # a fixture
pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[1]
WHOLE = os.environ.get("ATTNLAB_BOOK") == "whole"  # every page and all panels: every night
STEMS = ["03_extractor", "12_scaling_and_other_tasks"]
SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 800}}
DIALS = {"n": ("Steps", 2, 1, 4, 1, "How many"), "kind": ("Kind", ["line", "dots"])}

LOOK = """async () => {
    const said = [];
    for (const one of document.images) {
        one.loading = 'eager';
        await one.decode().catch(() => {});
        const box = one.getBoundingClientRect();
        if (one.closest('details:not([open])') && !box.width) continue;
        if (!one.naturalWidth) said.push(`missing picture ${one.src.slice(-60)}`);
        if (box.right > innerWidth + 1 || box.left < -1) said.push(`clipped ${one.src.slice(-60)}`);
        if (!one.alt) said.push(`no words for ${one.src.slice(-60)}`);
    }
    if (document.documentElement.scrollWidth > innerWidth) said.push('scrolls sideways');
    await window.MathJax?.startup?.promise;
    const formulas = document.querySelectorAll('.math').length;
    const drawn = document.querySelectorAll('.math mjx-container').length;
    if (drawn < formulas) said.push(`${formulas} formulas, ${drawn} drawn`);
    const wrong = document.querySelectorAll('mjx-merror, [data-mjx-error]');
    said.push(...[...wrong].map((one) => `wrong formula ${one.textContent}`));
    return said;
}"""
FITS = """() => Reveal.getSlides().map((slide, n) => {
    Reveal.slide(...Object.values(Reveal.getIndices(slide)).slice(0, 2));
    const page = document.querySelector('.reveal').getBoundingClientRect();
    const small = [...slide.querySelectorAll('img')].some((one) => one.naturalWidth === 0);
    const boxes = [slide, ...slide.querySelectorAll('img, pre, mjx-container')]
        .map((one) => one.getBoundingClientRect());
    const out = boxes.some((box) => box.bottom > page.bottom + 1 || box.right > page.right + 1);
    return small || out || !slide.innerText.trim() && !slide.querySelector('img')
        ? `slide ${n + 1}: ${slide.innerText.slice(0, 60)}` : null;
}).filter(Boolean)"""


@picture
def draw(*, n: int, kind: str):
    if (n, kind) == (4, "dots"):
        raise AttnlabError("Four dots are too many. Take three.")
    ax = new_axes()
    ax.plot(range(n), "-" if kind == "line" else "o")
    return ax, f"A {kind} with {n} steps."


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Two notebooks as a book, and a small one whose panel answers; or the whole book."""
    home = tmp_path_factory.mktemp("book")
    if WHOLE:
        assert build.main(["--out", str(home / "book")]) == 0
        return home / "book"
    panel = states.Recorder(home / "kept", most_bytes=10**6).panel(draw, [{"n": 3}], DIALS, None)
    notebook, path = nbformat.v4.new_notebook(), home / "90_panel.ipynb"
    notebook.metadata["language_info"] = {"name": "python"}
    stills = f"{draw(n=3, kind='line').figure()}<p><em>{LIVE}</em></p>"
    output = nbformat.v4.new_output("display_data", {"text/html": stills})
    cell = nbformat.v4.new_code_cell("explore(draw)", outputs=[output])
    frame = nbformat.v4.new_code_cell("take_attention_out()", outputs=[output])
    lead = nbformat.v4.new_markdown_cell("# 90 · A panel\n\nOne dial, one list; a model.")
    notebook.cells = [lead, cell, frame]
    nbformat.write(notebook, path)
    paths = [*(ROOT / "notebooks" / f"{stem}.ipynb" for stem in STEMS), path]
    places = {"panels": {path.stem: [[panel]]}, "kept": home / "kept", "interface": False}
    build.lay_out(home / "source", paths, **places)
    live = home / "source" / "_own" / "live"
    live.mkdir()
    (live / "take-attention-out.html").write_text(toy_page().html(), "utf-8")
    assert build.run_sphinx(home / "source", home / "book") == []
    return home / "book"


@pytest.fixture(scope="module")
def deck(tmp_path_factory) -> list[Path]:
    home = tmp_path_factory.mktemp("slides")
    which = "[0-9]*.ipynb" if WHOLE else "0[013]_*.ipynb"  # a long table; wide formulas; code
    return [slides.make(path, home) for path in sorted((ROOT / "notebooks").glob(which))]


@pytest.fixture(scope="module")
def open_page(chromium):
    """Return a function that opens a file; what its console says and asks for is a failure."""
    from playwright.sync_api import sync_playwright

    faults: list[str] = []
    with sync_playwright() as play:
        args = [f"--{word}" for word in QUIET]
        running = play.chromium.launch(executable_path=chromium, args=args)

        def opened(path: Path, *, size: str = "desk", theme: str = "light"):
            context = running.new_context(viewport=SIZES[size], color_scheme=theme, offline=True)
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda m: m.type == "error" and faults.append(m.text))
            page.on(
                "request",
                lambda r: r.url.startswith(("file:", "data:", "blob:")) or faults.append(r.url),
            )
            page.goto(path.as_uri())
            return page

        yield opened
        running.close()
    assert not faults


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if path.name not in {"genindex.html"}]


@pytest.mark.parametrize("size", SIZES)
def test_no_page_misses_or_clips_anything(site, open_page, size):
    said = {}
    for path in pages(site):
        page = open_page(path, size=size, theme="dark" if size == "phone" else "light")
        name = str(path.relative_to(site))
        said[name] = page.evaluate(LOOK)
        if size == "phone":
            said[name] += [f"contrast {one}" for one in page.evaluate(FAINT, "article *").items()]
        page.context.close()
    assert not {name: one for name, one in said.items() if one}


def test_a_panel_answers_to_the_keyboard_without_a_kernel(site, open_page):
    name = "notebooks/00_start_here.html" if WHOLE else "notebooks/90_panel.html"
    page = open_page(site / name)
    live = page.locator(".attnlab-live:has(input[type=range])").first
    image, words = live.locator(".attnlab-room img"), live.get_by_role("status")
    dial = live.locator("input[type=range]").first
    page.locator(".attnlab-open a").last.focus()
    while not dial.evaluate("(one) => one === document.activeElement"):
        page.keyboard.press("Tab")
    before = words.inner_text(), image.get_attribute("src"), dial.input_value()
    page.keyboard.press("ArrowRight")
    assert words.inner_text() != before[0]
    assert image.get_attribute("src") != before[1]
    assert image.get_attribute("alt") == live.get_by_role("status").locator("em").inner_text()
    readout = live.locator(".attnlab-readout").first
    assert dial.get_attribute("aria-valuetext") == readout.inner_text()
    for control in live.locator("input, select").all():
        assert control.evaluate("(one) => one.labels.length === 1 && one.labels[0].innerText")
    assert live.locator("[title]").count() == 0  # nothing is said to a mouse alone
    larger = live.locator(".attnlab-room a")
    assert larger.get_attribute("href") == image.get_attribute("src")
    live.get_by_role("button", name="Reset").press("Enter")
    assert (words.inner_text(), image.get_attribute("src"), dial.input_value()) == before
    if not WHOLE:  # a choice, and a setting that cannot be drawn
        note = live.locator("small", has_text="How many.")
        assert note.is_visible()
        assert dial.get_attribute("aria-describedby") == note.get_attribute("id")
        live.get_by_label("Kind").select_option("dots")
        assert words.inner_text() == "A dots with 2 steps."
        dial.press("End")
        assert words.inner_text() == "Four dots are too many. Take three."


def test_what_a_dial_says_holds_in_a_page():
    typed = states.axis(text_box("Prompt", value="Once", tooltip="How it begins"), [])
    assert (typed["note"], typed["kind"]) == ("How it begins.", "select")
    assert states.axis(slider("Steps", value=1, minimum=0, maximum=3), [])["note"] == ""


def test_a_picture_opens_at_full_size_by_keys(site, open_page):
    page = open_page(site / "notebooks" / "03_extractor.html")
    link = page.locator("a.attnlab-larger").first
    alt = link.locator("img").get_attribute("alt")
    assert len(alt) > 20
    assert page.locator("article img:not(a img)").count() == 0
    link.press("Enter")
    page.wait_for_url("**/_static/pictures/*.png")
    first = open_page(site / "index.html").locator("a.attnlab-larger img")
    assert "lowest loss" in first.get_attribute("alt")


def test_a_phone_shows_what_a_symbol_means(site, open_page):
    page = open_page(site / "notebooks" / "03_extractor.html", size="phone")
    rows = page.locator(".attnlab-stack tbody tr")
    assert rows.count() > 3
    for row in rows.all():
        meaning = row.locator("td[data-label=Meaning]")
        box = meaning.bounding_box()
        assert meaning.inner_text()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SIZES["phone"]["width"]
        assert meaning.evaluate("(one) => getComputedStyle(one, '::before').content") != "none"


def test_an_address_opens_its_claim_and_a_phone_can_read_it(site, open_page):
    page = open_page(site / "claims.html", size="phone")
    fold = page.locator("details#claim-E12")
    assert fold.get_attribute("open") is None
    page.locator("a[href='#claim-E12']").first.click()
    page.locator("details#claim-E12[open]").wait_for()
    boxes = [cell.bounding_box() for cell in fold.locator("td:visible").all()]
    assert len(boxes) > 20
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    assert page.locator("td", has_text="an open question: its line changes").count() == 1


def test_a_frame_is_as_light_or_dark_as_the_book_around_it(site, open_page):
    page = open_page(site / ("live.html" if WHOLE else "notebooks/90_panel.html"), theme="light")
    page.locator("iframe").first.scroll_into_view_if_needed()
    inside = page.frame_locator("iframe").first
    button, colours = page.locator(".theme-toggle:visible").first, {}
    inside.locator("#panel[data-is-live]").wait_for()
    for _ in range(3):  # auto, and then one after the other
        button.click()
        chosen = page.evaluate("() => document.body.dataset.theme")
        wanted = "light" if chosen == "auto" else chosen
        inside.locator(f"html[data-theme={wanted}]").wait_for(state="attached")
        colours[chosen] = inside.locator("body").evaluate("(one) => getComputedStyle(one).color")
    assert colours["dark"] != colours["light"] == colours["auto"]


def test_slides_fit_their_page(deck, open_page):
    for path in deck:
        page = open_page(path)
        page.wait_for_selector("html[data-fitted]")
        assert page.evaluate("() => Reveal.getTotalSlides()") >= 20
        assert page.evaluate(FITS) == []
        page.context.close()


def test_every_page_says_where_it_runs_and_where_its_solutions_are(site, monkeypatch):
    page = (site / "notebooks" / "03_extractor.html").read_text("utf-8")
    assert 'href="../solutions/03_extractor.html#exercise-3-1"' in page
    assert "# SOLUTION" not in page
    assert 'id="exercise-3-1"' in (site / "solutions" / "03_extractor.html").read_text("utf-8")
    assert "<table" in (site / "claims.html").read_text("utf-8")
    monkeypatch.setenv("ATTNLAB_REPOSITORY", "someone/attnlab")
    links = re.findall(r'href="([^"]*)"', build.buttons("03_extractor"))
    start = "https://colab.research.google.com/github/someone/attnlab/blob/colab/notebooks/"
    assert links[0] == f"{start}03_extractor.ipynb"
    assert links[1].endswith("someone/attnlab/HEAD?urlpath=lab/tree/notebooks/03_extractor.ipynb")
    copy = build.colab_copy(nbformat.v4.new_notebook())
    code = compile(copy.cells[0].source, "set-up", "exec")
    exec(code, {})  # far from Colab it does nothing
    assert "git+https://github.com/someone/attnlab" in copy.cells[0].source
    text = "[data](../data/README.md) [next](04_language_models.ipynb) [x](03_extractor.ipynb)"
    kept = "next [x](/notebooks/03_extractor.ipynb)"
    found = build.linked(text, ["03_extractor"])
    assert found == f"[data](https://github.com/someone/attnlab/blob/HEAD/data/README.md) {kept}"


def test_sliders_lose_steps_but_neither_their_ends_nor_what_an_example_sets():
    make = partial(slider, minimum=0, maximum=99)
    controls = [make("A", value=7), make("B", value=0)]
    axes = [states.axis(control, []) for control in controls]
    states.thin(axes, [[7, 61], [0]], most=200)
    assert states.n_states(axes) <= 200
    for one, kept in zip(axes, [{7, 61}, {0}], strict=True):
        assert kept | {0, 99} <= set(one["values"])
        assert one["values"] == sorted(one["values"])
        assert one["thin"]
    few = [states.axis(slider("A", value=1, minimum=0, maximum=3), [])]
    states.thin(few, [[1]], most=200)
    assert "thin" not in few[0]


def test_settings_that_look_alike_take_no_room_from_others(tmp_path):
    dials = {"kind": ("Kind", ["line", "dots"], "line"), "page": ("Page", 1, 1, 12)}
    one = len(states.webp(draw(n=2, kind="line")))

    def recorded(most_bytes, *, last):
        recorder = states.Recorder(tmp_path, most_bytes=most_bytes)
        pages = lambda *, kind, page: draw(n=1 + min(page, last), kind=kind)  # noqa: E731
        return recorder.panel(pages, [{"page": 1}], dials, None)

    alike = recorded(5 * one, last=2)
    assert [len(dial["labels"]) for dial in alike["dials"]] == [2, 12]
    assert len(alike["states"]) == 24
    assert len({file for file, _ in alike["states"]}) == 4
    different = recorded(8 * one, last=12)
    assert different["dials"][1]["thin"]
    assert len(different["states"]) <= 10
    assert recorded(2 * one, last=12) is None


def test_broken_links_mute_pictures_and_foreign_scripts_are_named(tmp_path):
    (tmp_path / "a.html").write_text(
        "<p id='here'><a href='#here'></a><a href='#gone'></a><a href='b.html'></a>"
        "<a href='https://example.org'></a><script src='https://example.org/x.js'></script>"
        "<img src='data:,' alt='words'><img src='data:,'>"
    )
    said = check.problems(tmp_path)
    assert [re.search(r"'[^']*'", one)[0] for one in said] == [
        "'data:,'", "'#gone'", "'b.html'", "'https://example.org/x.js'",
    ]  # fmt: skip


def test_the_first_use_of_each_word_on_a_page_leads_to_the_glossary(site):
    page = (site / "notebooks" / "03_extractor.html").read_text("utf-8")
    assert page.count('href="../glossary.html#term-channel-mixer"') == 1
    known = terms.terms_of((build.HERE / "glossary.md").read_text("utf-8"))
    assert {"SHE", "ME", "Token mixer"} < set(known)
    places = set(re.findall(r'id="(term-[a-z-]+)"', (site / "glossary.html").read_text("utf-8")))
    assert {terms.anchor(term) for term in known} <= places


@pytest.mark.parametrize(
    ("text", "linked"),
    [("We work with tokens.", "We work with [tokens](#term-token)."),  # no work of a circuit
     ("Its *work* is", "Its [*work*](#term-work) is"),
     ("# Token\n\n`token`, $token$, [token](x.md), <b title='token'>. A token mixer, a token",
      "# Token\n\n`token`, $token$, [token](x.md), <b title='token'>. "
      "A [token mixer](#term-token-mixer), a [token](#term-token)"),
     ("me, then ME.", "me, then [ME](#term-me)."),
     ("**Exercise 1** (token).\n\n| ME |", "**Exercise 1** ([token](#term-token)).\n\n| ME |"),
     ("tokenizer, *a token apart*", "tokenizer, *a [token](#term-token) apart*")],
)  # fmt: skip
def test_only_prose_is_linked_and_only_once(text, linked):
    known = ["Token", "Token mixer", "Work", "ME"]
    assert terms.link_first_uses([text], known) == [linked]
    again = terms.link_first_uses([text, text], known)
    assert again == [linked, text]


def test_a_model_that_runs_in_a_page_stands_in_the_book_as_one(tmp_path):
    stills = f"<img src='data:image/webp;base64,AAAA' alt='words'><p><em>{LIVE}</em></p>"
    output = nbformat.v4.new_output("display_data", {"text/html": stills})
    source = "from attnlab.web import write_a_tale\n\nwrite_a_tale()"
    cell = nbformat.v4.new_code_cell(source, outputs=[output])
    build.put_outputs(cell, [], tmp_path, [])
    shown = cell.outputs[0].data["text/html"]
    assert shown.startswith("<iframe src='../_static/live/write-a-tale.html'")
    assert "alt='words'" in shown
    assert LIVE not in shown
    kept = build.panel_html(None, stills)  # too many settings to draw
    assert kept.endswith("<p class='attnlab-note'>In the notebook a live panel stands here.</p>")
