"""Models in a page compute what torch computes, and the page needs nothing but itself."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
import torch
from browser import browser, chromium
from small_models import model_for, targets, translator_for, words

from attnlab.cli import main
from attnlab.corpora import load_tokenizer
from attnlab.corpora.encode import SubwordVocabulary
from attnlab.distillation import StudentSpec, build_students, save_students, substitute
from attnlab.errors import AttnlabError
from attnlab.mixers import list_mixers
from attnlab.paths import MODELS
from attnlab.seeding import numpy_generator
from attnlab.show import panels
from attnlab.sources import tales, translation_source
from attnlab.training import save_model
from attnlab.web import export, pages

__all__ = ["browser", "chromium"]  # fixtures
CLOSE, MOST_MS, START_MS = 1e-4, 20, 120_000
NAMES = "unpack, LanguageModel, Translator, StorySource, BytePairs, dice, bleu, PANELS"


@pytest.fixture(scope="module")
def program(browser):
    """Run a function of JavaScript beside the program of the pages."""
    page = browser.new_page()
    page.set_content(
        f"<script type='module'>{pages.script()}\nwindow.web = {{ {NAMES} }};</script>"
    )
    page.wait_for_function("() => window.web")
    yield lambda code, argument=None: page.evaluate(f"async (given) => {{ {code} }}", argument)
    page.close()


@pytest.fixture(scope="module")
def made():
    """The two pages that need no corpus."""
    return {page.name: page for page in (pages.tale_page(), pages.toy_page())}


@pytest.fixture
def opened(browser, made, tmp_path):
    """Open a page from a folder; it may ask nobody for anything, and may not complain."""
    complaints, running = [], []

    def open_page(name, *, waits=True, **how):
        (tmp_path / f"{name}.html").write_text(made[name].html(), "utf-8")
        page = browser.new_page() if not how else browser.browser.new_page(**how)
        running.append(page)
        page.set_default_timeout(START_MS)
        page.on("request", lambda r: complaints.append(r.url) if r.url[:5] != "file:" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.route("http*://**", lambda route: route.abort())
        page.goto((tmp_path / f"{name}.html").as_uri())
        if waits:
            page.wait_for_selector("#panel[data-is-live]")
        return page

    yield open_page
    for page in running:
        page.close()
    assert not [each for each in complaints if not each.startswith("data:")]


# The same numbers as torch -----------------------------------------------------------------------

OF_LANGUAGE = """
const tensors = await web.unpack(given);
const found = {};
for (const [name, about] of Object.entries(given.models)) {
  const model = new web.LanguageModel(about, tensors);
  found[name] = about.expected.prompts.map((tokens) => {
    const state = model.start();
    const rows = tokens.map((token) => [...model.step(token, state)]);
    return given.all ? rows : rows.at(-1).slice(0, about.expected.logits[0].length);
  });
}
return found;
"""
OF_TRANSLATOR = """
const tensors = await web.unpack(given);
const about = given.models.translator;
const model = new web.Translator(about, tensors);
return about.expected.map(({ put, prompts }) => {
  const first = (choices) => [...choices.keys()][0];
  for (const [place, choices] of model.choices) model.put(...place.split(" "), first(choices));
  for (const each of put) model.put(...each);
  return prompts.map(([source, target]) => {
    const state = model.start(model.encode(source));
    return target.map((token) => [...model.step(token, state)]).at(given.all ? 0 : -1);
  });
});
"""
TIMED = """
const model = new web.Translator(given.models.translator, await web.unpack(given));
for (const [place] of model.choices) model.put(...place.split(" "), "taught");
const state = model.start(model.encode(Array.from({ length: 12 }, (_, i) => 40 + i)));
return Array.from({ length: 20 }, (_, i) => {
  const began = performance.now();
  model.step(40 + i, state);
  return performance.now() - began;
});
"""


def worst(found, wanted):
    return max(np.abs(np.subtract(a, b)).max() for a, b in zip(found, wanted, strict=True))


def test_every_tale_model_has_the_logits_of_torch_for_three_prompts(program, made):
    bundle = made["write-a-tale"].bundle
    found = program(OF_LANGUAGE, bundle)
    assert set(found) >= {"attention", "linear_attention", "she", "he", "we", "me"}
    for name, logits in found.items():
        assert len(logits) == 3
        assert worst(logits, bundle["models"][name]["expected"]["logits"]) < CLOSE, name


@pytest.mark.parametrize("name", ["take-attention-out"])
def test_the_translator_has_the_logits_of_torch_with_each_stand_in(program, made, name):
    settings = made[name].bundle["models"]["translator"]["expected"]
    kinds = [{put[2] for put in each["put"]} for each in settings]
    assert kinds == [set(), {"average"}, {"linear"}, {"net"}]
    for found, wanted in zip(program(OF_TRANSLATOR, made[name].bundle), settings, strict=True):
        shown = [row[: len(wanted["logits"][0])] for row in found]
        assert worst(shown, wanted["logits"]) < CLOSE, wanted["put"]


@pytest.mark.parametrize("changes", [{}, {"norm": "post", "tie_embeddings": False}])
def test_token_by_token_is_the_whole_pass(program, changes):
    sizes = {"context_len": 9, "vocab_size": 11, "n_layers": 2, **changes}
    models = {name: model_for(mixer=name, **sizes) for name in export.MIXERS}
    bundle = {**export.language_bundle(models), "all": True}
    tokens = torch.arange(9)[None] % 5
    for about in bundle["models"].values():
        about["expected"]["prompts"] = tokens.tolist()
    for name, (rows,) in program(OF_LANGUAGE, bundle).items():
        with torch.no_grad():
            whole = export.rounded(models[name])(tokens)[0].numpy()
        assert np.abs(whole - rows).max() < CLOSE, name


@pytest.fixture
def captions(tmp_path, monkeypatch):
    """The page of a translator as large as that of captions, untrained, with other pieces."""
    words = SubwordVocabulary(load_tokenizer(MODELS / "children" / "tokenizer.json"))
    sizes = {"d_model": 128, "n_heads": 8, "n_encoder_layers": 4, "n_decoder_layers": 4}
    n = {"source_vocab_size": words.vocab_size, "target_vocab_size": words.vocab_size}
    model = translator_for(**sizes, **n, d_ff=512, max_len=48, share_embeddings=True)
    students = {}
    for site in pages.SITES:
        spec = StudentSpec(site=site, method="linear", window=0 if site == "cross" else 4)
        students |= build_students(model, spec=spec)
    (tmp_path / "here").mkdir()
    own, two_bytes = tmp_path / "here", {"dtype": torch.bfloat16}
    facts = {"experiment": "replaced/paper/multi30k/de-en"}
    save_model(own / "teacher.safetensors", model=model, **facts, **two_bytes)
    save_students(own / "all-linear-students.safetensors", students=students, **two_bytes)
    monkeypatch.setattr(pages, "prepare_pairs", lambda *_, **__: SimpleNamespace(vocabulary=words))
    return pages.captions_page(folder=tmp_path)


def test_a_translator_of_captions_has_a_switch_for_what_was_taught_and_is_quick(program, captions):
    assert len(captions.html().encode()) < pages.CAPTIONS_BYTES
    settings = captions.bundle["models"]["translator"]["expected"]
    assert settings[-1]["put"][0][2] == "taught"
    for found, wanted in zip(program(OF_TRANSLATOR, captions.bundle), settings, strict=True):
        shown = [row[: len(wanted["logits"][0])] for row in found]
        assert worst(shown, wanted["logits"]) < CLOSE, wanted["put"]
    assert min(program(TIMED, captions.bundle)) < MOST_MS


NEAR = [{"window": 0}, {"window": 2}, {"window": 3, "window_scale": "shared"}]
FEATURES = ["hedgehog", "elu", "relu", "softmax"]


SHARED = {"share_embeddings": True, "target_vocab_size": 13}  # one table for both languages


@pytest.mark.parametrize(("near", "features", "tables"), [
    *((n, "hedgehog", {}) for n in NEAR), (NEAR[0], "hedgehog", SHARED),
    *((NEAR[1], f, {}) for f in FEATURES[1:])])  # fmt: skip
def test_a_translator_with_stand_ins_in_it_is_the_same(program, near, features, tables):
    model, students = translator_for(**tables), {}
    for site in pages.SITES:
        how = {"feature_map": features, **(near if site != "cross" else {})}
        spec = StudentSpec(site=site, method="linear", **how)
        students |= build_students(model, spec=spec)
    for student in students.values():
        for weight in student.parameters():
            weight.data += 0.1 * torch.randn(
                weight.shape, generator=torch.Generator().manual_seed(0)
            )
    substitute(model, students)
    bundle = export.translator_bundle(model)
    source, target = words(1, 7), targets(1, 6)
    bundle["models"]["translator"]["expected"] = [
        {"put": [], "prompts": [[source[0].tolist(), target[0, :n].tolist()] for n in (1, 3, 6)]}
    ]
    with torch.no_grad():
        whole = export.rounded(model)(source, target)[0].numpy()
    (found,) = program(OF_TRANSLATOR, bundle)
    assert worst(found, whole[[0, 2, 5]]) < CLOSE


# The same words, source, chance and score ---------------------------------------------------------


def test_the_source_in_the_page_knows_the_chance_of_each_word(program):
    source = tales()
    told = source.sample(600, generator=numpy_generator(0, "web/test"))
    ends = np.flatnonzero(told == 0)
    tale = told[ends[0] : ends[2] + 1]  # two tales, each from its beginning
    code = """
    const source = new web.StorySource(given.source);
    let state = source.start();
    return given.tale.map((token) => {
      const found = source.step(token, state);
      state = found.state;
      return found.chance;
    });
    """
    given = {"source": export.story_tables(source), "tale": tale[1:].tolist()}
    wanted = [source.predict(tale[:t])[tale[t]] for t in range(1, len(tale))]
    assert program(code, given) == pytest.approx(wanted, rel=1e-9)
    wrong = source.encode("Mira was a kind girl. It was a windy day. He").tolist()
    chances = program(code, {**given, "tale": wrong})
    assert chances[-1] == 0
    assert min(chances[:-1]) > 0


def test_byte_pairs_are_those_of_the_tokenizer(program):
    tokenizer = load_tokenizer(MODELS / "children" / "tokenizer.json")
    texts = [
        "Once upon a time, there was",
        "Zoë's  42 naïve\n owls; they'd “hoot”!",
        "\U0001f989 ß",
    ]
    code = """
    const pieces = new web.BytePairs(given.words);
    return given.texts.map((text) => {
      const { tokens } = pieces.encode(text);
      return [tokens, pieces.decode(tokens)];
    });
    """
    found = program(code, {"words": export.byte_pairs(tokenizer, first=4), "texts": texts})
    for text, (tokens, back) in zip(texts, found, strict=True):
        assert [token - 4 for token in tokens] == tokenizer.encode(text).tolist()
        assert back == tokenizer.decode(tokenizer.encode(text))


def test_bleu_is_that_of_sacrebleu(program):
    wanted = ["a b c d e f", "g h i j k", "l m n o p q r"]
    found = {"near": ["a b c d f e", "g h i j", "l m n o p q r"], "far": ["a b x", "y", "q r z z"]}
    for texts in found.values():
        lists = [[text.split() for text in each] for each in (texts, wanted)]
        score = sacrebleu.corpus_bleu(texts, [wanted]).score
        assert program("return web.bleu(...given)", lists) == pytest.approx(score, abs=1e-6)


def test_the_first_tale_is_drawn_by_the_dice_of_the_page(program, opened):
    chance = pages.dice(7)
    numbers = program("const roll = web.dice(7); return [roll(), roll(), roll()]")
    assert numbers == pytest.approx([next(chance) for _ in range(3)], abs=1e-12)
    before = opened("write-a-tale", waits=False, java_script_enabled=False)
    still = [" ".join(text.split()) for text in before.locator(".told").all_inner_texts()]
    page = opened("write-a-tale")
    live = page.locator(".tale").evaluate_all(
        "(lists) => lists.map((list) => [...list.childNodes].map((n) => n.textContent).join(''))"
    )
    assert [" ".join(text.replace("¶", " ").split()) for text in live] == still


# The pages ---------------------------------------------------------------------------------------


def test_a_page_tells_its_story_before_and_without_scripts(opened, made):
    for name in made:
        page = opened(name, waits=False, java_script_enabled=False)
        assert page.locator("#panel").inner_text().strip()
        picture = page.locator("figure img")
        assert picture.get_attribute("alt")
        assert picture.evaluate("(one) => one.naturalWidth") > 300


def test_a_tale_answers_the_keyboard_within_its_time(opened):
    page = opened("write-a-tale", reduced_motion="reduce")
    status = page.locator(".status")
    page.locator("#tale-0").focus()
    first = status.inner_text()
    page.keyboard.press("ArrowRight")
    second = status.inner_text()
    assert first.startswith("Attention, word")
    assert second != first
    assert page.locator("#tale-0 [aria-selected=true]").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "tale-1"
    page.keyboard.press("End")
    assert status.inner_text().startswith("HE, word")
    took = []
    while min(took, default=MOST_MS) >= MOST_MS and len(took) < 15:  # others use the machine, too
        page.locator("#again").press("Enter")
        said = page.locator(".said").all_inner_texts()
        took += [float(text.split(" ms")[0].split()[-1]) for text in said]
    assert min(took) < MOST_MS
    page.locator("#prompt").fill("Once there was a wizard")
    page.get_by_text("No tale has “wizard”; left out.").wait_for()


def test_a_switch_changes_the_sentence_and_its_price(opened):
    page = opened("take-attention-out", viewport={"width": 390, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.get_by_text("BLEU here").wait_for()
    assert "The same sentence" in page.locator(".status").inner_text()
    page.locator("#cross-0").focus()
    page.keyboard.press("End")  # the last choice: linear attention
    page.keyboard.press("ArrowUp")
    page.locator("#all-average").press("Enter")
    page.locator("#written mark").first.wait_for()
    page.get_by_text("No record has these switches.").wait_for()
    lost = page.locator(".bars").inner_text()
    assert float(lost.split("lost ")[1].split()[0]) > 50
    page.locator("#all-net").press("Enter")
    page.locator("#sentence").fill("the red bird see a unicorn")
    page.get_by_text("Not read: “unicorn”.").wait_for()
    page.locator("#sentence").fill("LÄUFT.. see, the dog!!")
    page.get_by_text("Not read: “läuft”.").wait_for()
    words = page.locator(".known")
    words.locator("summary").press("Enter")
    listed = {
        word
        for p in words.locator("p:has(b)").all_inner_texts()
        for word in p.split(": ")[1].split(", ")
    }
    assert listed == {
        word for word in translation_source().symbols if translation_source().knows(word)
    }
    button = page.get_by_role("button", name="Nets, cross keeps attention")
    button.click()
    chosen = page.locator("#cross-0, #cross-1").evaluate_all("(all) => all.map((one) => one.value)")
    assert chosen == ["attention"] * 2
    assert "taught" not in page.locator("#encoder_self-0").inner_text()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_a_page_in_a_frame_follows_the_one_around_it_and_nobody_else(opened, made):
    page = opened("take-attention-out", color_scheme="light")
    page.evaluate("() => postMessage({ attnlabTheme: 'dark' }, '*')")  # no frame: nobody to follow
    page.wait_for_timeout(200)
    assert page.evaluate("() => document.documentElement.dataset.theme ?? ''") == ""
    paper = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    assert page.evaluate(paper) != light


def test_captions_say_that_capitals_are_strange_to_them(browser, captions, tmp_path):
    (tmp_path / "it.html").write_text(captions.html(), "utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "it.html").as_uri())
    page.wait_for_selector("#panel[data-is-live]", timeout=START_MS)
    note = page.locator(".controls .note")
    assert note.inner_text() == ""
    page.locator("#sentence").fill("EIN HUND LÄUFT..")
    page.get_by_text("hardly seen words in capitals").wait_for()
    page.locator("#sentence").fill("Ein Hund läuft.")
    page.wait_for_function("() => !document.querySelector('.controls .note').textContent")
    page.close()


def test_pages_keep_to_their_size_and_say_so_if_they_cannot(made, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "tale_page", lambda: made["write-a-tale"])
    monkeypatch.setattr(pages, "toy_page", lambda: made["take-attention-out"])
    monkeypatch.setattr(pages, "captions_page", lambda: None)
    written = pages.write_pages(tmp_path)
    assert [path.stem for path in written] == list(made)
    assert all(path.stat().st_size < 1_500_000 for path in written)
    small = copy.copy(made["write-a-tale"])
    object.__setattr__(small, "most_bytes", 1000)
    with pytest.raises(AttnlabError, match="Put fewer or smaller models"):
        small.html()


def test_in_a_notebook_a_page_stands_in_a_frame_or_as_a_still(made, monkeypatch):
    shown, page = [], made["write-a-tale"]
    monkeypatch.setattr(panels, "display", lambda data, **_: shown.append(data))
    monkeypatch.setattr(pages, "show", shown.append)
    monkeypatch.setenv("ATTNLAB_WIDGETS", "on")
    page.show()
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    page.show()
    live, still = shown
    assert "application/vnd.jupyter.widget-view+json" in live
    assert page.still.words in live["text/plain"]
    assert "<iframe" not in live["text/html"]  # what a stored notebook keeps: the picture
    (frame,) = pages.Frame(page).panel.children
    assert frame.value.startswith("<iframe srcdoc=")
    assert "sandbox='allow-scripts'" in frame.value
    assert still is page.still


# What is exported, and what is not ----------------------------------------------------------------


def test_the_command_writes_a_bundle_with_words_and_a_proof(tmp_path, capsys):
    assert (
        main(["export", "web", str(MODELS / "tales" / "me.safetensors"), "--to", str(tmp_path)])
        == 0
    )
    bundle = json.loads((tmp_path / "tales-me.json").read_text("utf-8"))
    assert bundle["words"]["symbols"] == tales().symbols
    assert len(bundle["models"]["me"]["expected"]["prompts"]) == 3
    assert main(["export", "web", "--to", str(tmp_path)]) == 1
    assert "There is nothing to write" in capsys.readouterr().err


def test_what_a_page_cannot_run_is_refused_by_name(tmp_path):
    other = next(name for name in list_mixers() if name not in export.MIXERS)
    with pytest.raises(AttnlabError, match=f"mixer '{other}'"):
        export.language_bundle({other: model_for(mixer=other)})
    with pytest.raises(AttnlabError, match="options scale"):
        export.language_bundle({"me": model_for(mixer="me", mixer_options={"scale": "inv_t"})})
    model = translator_for()
    spec = StudentSpec(method="aslr")
    substitute(model, build_students(model, spec=spec))
    with pytest.raises(AttnlabError, match="cannot run the stand-in encoder_self-aslr-m"):
        export.translator_bundle(model)
    save_model(tmp_path / "it.safetensors", model=model_for(), experiment="x/y/letters")
    with pytest.raises(AttnlabError, match="it learnt letters"):
        export.export_model(tmp_path / "it.safetensors")
    with torch.no_grad():
        large = model_for()
        large.norm.weight.fill_(1e6)
    with pytest.raises(AttnlabError, match="beyond half precision"):
        export.rounded(large)
