"""Pages that run the workbook's small models without a kernel, and the same panels in a notebook.

A page is one file: models, words, style and program are inside, and nothing is fetched. Its first
state and a still picture are drawn here, so that it tells its story before its program runs.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import ipywidgets as w
import numpy as np
import torch

from attnlab.config import BOS, EOS, N_SPECIAL
from attnlab.distillation.surgery import load_students
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel, Translator
from attnlab.paths import MODELS, require_folder, write_whole
from attnlab.records import load_runs
from attnlab.seeding import numpy_generator
from attnlab.show import Picture, look, new_axes, picture, show
from attnlab.show.panels import Live, show_live, widgets_on
from attnlab.sources import languages, tales, translation_source
from attnlab.tasks import prepare_pairs
from attnlab.training import load_model, load_translator
from attnlab.web.export import (
    MIXERS,
    byte_pairs,
    language_bundle,
    rounded,
    story_tables,
    translator_bundle,
)

HERE = Path(__file__).parent
PAGE_BYTES, CAPTIONS_BYTES = 1_500_000, 6_000_000
TALE: dict[str, Any] = {
    "prompt": "Mira was a kind girl. It was a windy day. She had a red kite.",
    "names": ["attention", "he", "me"], "temperature": 0.5, "seed": 3, "n_words": 45,
}  # fmt: skip
SENTENCE = "the young tree behind a fish find a young bird"
CAPTION = "Ein Mann mit einem Hut steht vor einem Haus."
TOY, SITES = "attentionless/classroom/toy", ("encoder_self", "decoder_self", "cross")
N_HELD_OUT = 60
NO_CAPTIONS = (
    "There is no page of captions: it needs a translator of multi30k/de-en in data/models "
    "(attnlab study export replaced) and the corpus (attnlab data fetch multi30k/de-en)."
)
LABELS = {  # of what may stand at a place
    "all": {"attention": "Attention", "net": "Net (ALR)", "average": "Average",
            "linear": "Linear attention, not trained to stand in",
            "taught": "Linear attention, trained to stand in", "trained": "As it was trained"},
    "cross": {"linear": "Linear attention"},
}  # fmt: skip
RECORDED = {  # arm: what stands at all layers of a site, attention at the others
    "teacher": {},
    "encoder_self/alr/m": {"encoder_self": "net"},
    "decoder_self/alr/m": {"decoder_self": "net"},
    "self/alr/m": {"encoder_self": "net", "decoder_self": "net"},
    "cross/low_rank/l": {"cross": "linear"},
    "all/linear/students": dict.fromkeys(SITES, "taught"),
    "all/low_rank/l": {"encoder_self": "net", "decoder_self": "net", "cross": "linear"},
    **{f"{site}/uniform": {site: "average"} for site in SITES},
    "all/uniform": dict.fromkeys(SITES, "average"),
}
OF_CAPTIONS = {"attention": "Attention", "taught": "Linear, trained to stand in",
               "linear": "Linear, not trained", "average": "Average"}  # fmt: skip
KINDS_OF_WORDS = {"First": languages.FIRSTS, "Adjectives": languages.ADJECTIVES,
                  "Nouns": languages.NOUNS, "Places": languages.PREPOSITIONS,
                  "Verbs": languages.VERBS}  # fmt: skip
NAMES = {"encoder_self": "encoder", "decoder_self": "decoder", "cross": "cross"}


@dataclass(frozen=True)
class Page:
    """A page: what its panel needs, and what it says before its program runs.

    Args:
        bundle: As ``attnlab.web.export`` makes it, with the name of its ``panel``.
        first: The panel's first state, as HTML.
        words: Paragraphs on what is seen and what it is worth.
    """

    name: str
    title: str
    lead: str
    first: str
    words: tuple[str, ...]
    still: Picture
    bundle: Mapping[str, Any]
    most_bytes: int = PAGE_BYTES

    def html(self) -> str:
        """Return the whole page.

        Raises:
            AttnlabError: It is larger than a page may be.
        """
        data = json.dumps(self.bundle, ensure_ascii=False, separators=(",", ":"))
        text = Template((HERE / "page.html").read_text("utf-8")).substitute(
            title=html.escape(self.title),
            lead=html.escape(self.lead),
            first=self.first,
            words="\n".join(f"<p>{html.escape(each)}</p>" for each in self.words),
            still=self.still.figure(),
            css=(HERE / "page.css").read_text("utf-8"),
            bundle=data.replace("</", "<\\/"),
            script=script(),
        )
        if len(text.encode()) > self.most_bytes:
            raise AttnlabError(
                f"The page {self.name} has {len(text.encode()):,} bytes, of {self.most_bytes:,} "
                "at most. Put fewer or smaller models into it."
            )
        return text

    def show(self) -> None:
        """Show the page within a notebook: live, or its still picture if ATTNLAB_WIDGETS=off.

        In a frame that holds the whole page: it needs no kernel and may not touch the notebook
        around it. A stored notebook keeps the picture alone.
        """
        if widgets_on():
            show_live(Frame(self), html=self.still.figure(), plain=[self.lead, self.still.words])
        else:
            show(self.still)


class Frame(Live):
    """A page within a notebook."""

    def __init__(self, page: Page) -> None:
        """Put the whole page into a frame."""
        frame = (
            f"<iframe srcdoc='{html.escape(page.html(), quote=True)}' sandbox='allow-scripts' "
            f"title='{html.escape(page.title, quote=True)}' "
            "style='width:100%;height:56em;border:0'></iframe>"
        )
        self.panel = w.VBox([w.HTML(frame, layout={"width": "100%"})])


def script() -> str:
    """Return the program of a page, one module: the models, words, and the panels."""
    parts = [(HERE / f"{name}.js").read_text("utf-8") for name in ("model", "words", "panels")]
    return re.sub(r"(?m)^import .* from .*\n", "", "\n".join(parts))


def write_pages(folder: Path) -> list[Path]:
    """Write each page whose models are here to ``FOLDER/NAME.html``; return the files."""
    folder, written = require_folder(Path(folder)), []
    for make in (tale_page, toy_page, captions_page):
        page = make()
        if page is None:
            continue
        write_whole(folder / f"{page.name}.html", page.html())
        written.append(folder / f"{page.name}.html")
    return written


def write_a_tale() -> None:
    """Let three mixers go on from the same beginning of a tale, in the page itself."""
    tale_page().show()


def take_attention_out() -> None:
    """Show the translator of the toy languages with a switch at each place, in the page itself."""
    toy_page().show()


# Write a tale ------------------------------------------------------------------------------------


def tale_page(*, folder: Path = MODELS / "tales") -> Page:
    """Return the page on which mixers of equal weights tell tales."""
    models = {name: load_model(folder / f"{name}.safetensors")[0] for name in MIXERS
              if (folder / f"{name}.safetensors").exists()}  # fmt: skip
    source = tales()
    bundle = {
        **language_bundle(models), "panel": "tale", "first": TALE, "source": story_tables(source),
        "words": {"kind": "tales", "symbols": source.symbols},
    }  # fmt: skip
    n_weights = round(sum(p.numel() for p in models["attention"].parameters()), -3)
    columns = [_first_column(name, models[name], source) for name in TALE["names"]]
    return Page(
        name="write-a-tale",
        title="Write a tale",
        lead=f"The same beginning, continued by models of about {n_weights:,} weights. Below each "
        "word a bar: how surprised the model was; the dotted tick is the true source's surprise.",
        first=f"<div class='columns'>{''.join(columns)}</div>",
        words=(
            "The tales come from a machine that knows exactly how likely each next word is. Its "
            "surprise, the dotted tick, is the floor: no model can do better on average. A bar "
            "far above its tick is a word that the model thinks unlikely and the source does not.",
            "A wavy line marks a word that the source would never say there: another hero's name, "
            "a thing that was not lost. From there on the source believes the word.",
            "Point at a word, or move to it with the arrow keys: the words before it are shaded "
            "by how much the chosen layer took of each as the model chose it. Attention and linear "
            "attention decide that word by word; an Extractor has one kernel of distances for all.",
            "Models of study mixers, scale classroom, corpus tales, seed 1, with two layers, "
            "rounded to half precision. Words are drawn by the same dice in all columns. One seed "
            "each: which column tells the better tale is chance as well.",
        ),
        still=reading(models, TALE["names"]),
        bundle=bundle,
    )


def dice(seed: int) -> Iterator[float]:
    """Yield the numbers of ``dice`` in ``model.js``: mulberry32."""
    a, mask = seed, 0xFFFFFFFF
    while True:
        a = (a + 0x6D2B79F5) & mask
        t = ((a ^ (a >> 15)) * (a | 1)) & mask
        t ^= (t + (((t ^ (t >> 7)) * (t | 61)) & mask)) & mask
        yield ((t ^ (t >> 14)) & mask) / 2**32


@torch.no_grad()
def tell(model: LanguageModel, tokens: Sequence[int]) -> list[int]:
    """Return a prompt and what a model of the page writes after it, by the page's first dice."""
    model, told, chance = rounded(model), list(tokens), dice(TALE["seed"])
    for _ in range(TALE["n_words"]):
        logits = model(torch.tensor([told]))[0, -1]
        chances = (logits / TALE["temperature"]).softmax(-1).cumsum(-1)
        told.append(min(int((chances <= next(chance)).sum()), len(chances) - 1))
    return told


def _first_column(name: str, model: LanguageModel, source: Any) -> str:
    """Return a tale as it stands before the program runs."""
    told = tell(model, [0, *source.encode(TALE["prompt"]).tolist()])
    text = html.escape(source.decode(told[1:])).replace("\n", "<br>")
    own = look(name)
    return (
        f"<section class='column' style='--own:{own.colour}'><p><b>{html.escape(own.label)}</b></p>"
        f"<p class='told' id='told-{name}'>{text}</p></section>"
    )


@picture
@torch.no_grad()
def reading(models: Mapping[str, LanguageModel], names: Sequence[str]):
    """Surprise of each word of one true tale, for mixers and for the source itself."""
    source = tales()
    told = source.sample(400, generator=numpy_generator(0, "web/tale"))
    ends = np.flatnonzero(told == 0)
    tale = told[ends[0] : ends[0] + 49]
    ax, means = new_axes(size=(9, 3)), {}
    place = range(1, len(tale))
    for name in names:
        log_p = models[name](torch.tensor(tale[None, :-1])).log_softmax(-1)[0]
        nats = -log_p[torch.arange(len(tale) - 1), torch.tensor(tale[1:])].numpy()
        ax.plot(place, nats, **{**look(name).line(), "markersize": 3, "linewidth": 1})
        means[look(name).label] = nats.mean()
    floor = np.array([-np.log(source.predict(tale[:t])[tale[t]]) for t in place])
    ax.plot(place, floor, **look("oracle").line())
    ax.set(xlabel="Word of the tale", ylabel="Surprise (nats)")
    words = [source.symbols[token] for token in tale[1:]]
    ax.set_xticks(place, words, rotation=90, fontsize=8)
    ax.legend()
    said = ", ".join(f"{label} {mean:.2f}" for label, mean in means.items())
    return ax, (
        f"A true tale surprises {said} nats a word, its source {floor.mean():.2f}. "
        f"It is: {source.decode(tale[1:]).strip()}"
    )


# Take attention out ------------------------------------------------------------------------------


def toy_page(*, folder: Path = MODELS / "toy") -> Page:
    """Return the page with a switch at each place of the translator of the toy languages."""
    teacher, _ = load_translator(folder / "teacher.safetensors")
    nets = [load_students(folder / f"{site}-alr-m.safetensors")[0] for site in SITES[:2]]
    linear, _ = load_students(folder / "cross-low_rank-l.safetensors")
    source = translation_source()
    held_out = source.sample_pairs(N_HELD_OUT, stream="test")
    rows = recorded(TOY, RECORDED, words="500 test sentences", model=teacher)
    bundle = {
        **translator_bundle(teacher, taught={"net": nets[0] | nets[1], "linear": linear}),
        "panel": "take out", "words": {"kind": "words", "symbols": source.symbols},
        "first": {"sentence": SENTENCE, "label": "A sentence of the toy language"},
        "labels": LABELS, "recorded": rows,
        "everywhere": {"attention": "Attention everywhere", "net": "Nets, cross keeps attention",
                       "linear": "Linear everywhere", "average": "Averages everywhere"},
        "known": {kind: [word for word in words if source.knows(word)]
                  for kind, words in KINDS_OF_WORDS.items()},
        "held_out": [[each.tolist() for each in pair] for pair in held_out],
    }  # fmt: skip
    whole = _written(teacher, source.encode(SENTENCE).tolist(), source.decode)
    table = "".join(f"<tr><td>{each['what']}</td><td>{each['bleu']:.1f}</td></tr>" for each in rows)
    return Page(
        name="take-attention-out",
        title="Take attention out of a translator",
        lead="A translator of two toy languages with a switch at each place where it looks "
        "something up. Flip one, and see what happens to the sentence and to BLEU.",
        first=f"<p><b>{SENTENCE}</b> becomes, with attention everywhere, <b>{whole}</b>.</p>"
        "<table class='first'><thead><tr><th>What stands where attention stood</th>"
        f"<th>BLEU on record</th></tr></thead><tbody>{table}</tbody></table>",
        words=(
            "Encoder: a sentence reads itself. Decoder: the translation reads what of it is "
            "written. Cross: the translation reads the sentence. Each place has its own weights, "
            "and a switch for each layer.",
            "Net: a network over numbered slots that learnt to do what attention does (ALR, size "
            "M). Linear attention at cross learnt that too; at the other places it has attention's "
            "own queries and keys and has learnt nothing, which is why it fares badly there. "
            "Average: all words count alike. None was tuned after it was put in.",
            f"BLEU is measured in the page on {N_HELD_OUT} held-out sentences, in which one word "
            "is worth some tenths; on record are 500. Records have the same choice in both layers.",
        ),
        still=prices(rows),
        bundle=bundle,
    )


def captions_page(*, folder: Path = MODELS) -> Page | None:
    """Return the page of a translator of captions; None where its weights or words are not here.

    The newest of ``replaced``, else that of ``attentionless``; its vocabulary is learnt from the
    captions, which never come with the workbook.
    """
    here = {file: load_translator(file) for file in folder.glob("*/teacher.safetensors")}
    named = [(m, str(facts.get("experiment", "")), file) for file, (m, facts) in here.items()]
    found = [each for each in named if each[1].endswith("multi30k/de-en")]
    for model, experiment, file in sorted(found, key=lambda each: "replaced" not in each[1]):
        n_pieces = model.config.source_vocab_size - N_SPECIAL
        try:
            data = prepare_pairs("multi30k/de-en", vocab_size=n_pieces,
                                 max_len=model.config.max_len, n_train_pairs=0)  # fmt: skip
        except AttnlabError:
            return None
        students = file.with_name("all-linear-students.safetensors")
        taught = {"taught": load_students(students)[0]} if students.exists() else {}
        return _captions_page(model, data.vocabulary, experiment, taught)
    return None


def _captions_page(
    model: Translator, vocabulary: Any, experiment: str, taught: Mapping[str, Any]
) -> Page:
    arms = {arm: put for arm, put in RECORDED.items() if set(put.values()) <= {"average", "taught"}}
    rows = recorded(experiment, arms, words="the captions of the test", model=model)
    everywhere = {"attention": "Attention everywhere", "linear": "All linear, not trained"}
    everywhere |= {"taught": "All linear, trained to stand in"} if taught else {}
    bundle = {
        **translator_bundle(model, taught=taught), "panel": "take out",
        "words": byte_pairs(vocabulary.tokenizer, first=N_SPECIAL),
        "first": {"sentence": CAPTION, "label": "A German caption, written as usual"},
        "labels": {"all": OF_CAPTIONS}, "recorded": rows, "held_out": [],
        "everywhere": {**everywhere, "average": "Averages everywhere"},
    }  # fmt: skip
    whole = _written(model, vocabulary.encode(CAPTION).tolist(), vocabulary.decode)
    return Page(
        name="take-attention-out-of-captions",
        title="Take attention out of a translator of captions",
        lead="A translator of image captions, German to English, with a switch at each place: "
        "attention, linear attention that was trained to stand in or not, or a plain average.",
        first=f"<p><b>{html.escape(CAPTION)}</b> becomes, with attention everywhere, "
        f"<b>{html.escape(whole)}</b></p>",
        words=(
            "Linear attention that was not trained has attention's own queries and keys and has "
            "learnt nothing. Trained to stand in, it learnt what attention gave and then to "
            "translate, in a body that stayed as it was, with a softmax over the nearest 4 words "
            "of its own sentence. The average has attention's values. More is in notebook 13.",
            "Words are written one by one, the likeliest each time, as for the recorded BLEU. No "
            "caption of the corpus is in this page.",
        ),
        still=prices(rows),
        bundle=bundle,
        most_bytes=CAPTIONS_BYTES,
    )  # fmt: skip


def recorded(
    experiment: str, arms: Mapping[str, Mapping[str, str]], *, words: str, model: Translator
) -> list[dict[str, Any]]:
    """Return what records of seed 0 say of arms: setting of the switches, BLEU and its interval."""
    runs = load_runs(experiment, columns=["variant", "seed", "bleu", "bleu_low", "bleu_high"])
    runs = runs[runs["seed"] == 0].dropna().drop_duplicates("variant", keep="last")
    found, depth = runs.set_index("variant"), {"encoder_self": len(model.encoder)}
    rows = []
    for arm, put in arms.items():
        if arm not in found.index:
            continue
        each = found.loc[arm]
        names = [
            put.get(site, "attention")
            for site in SITES
            for _ in range(depth.get(site, len(model.decoder)))
        ]
        what = "; ".join(f"{NAMES[site]}: {_label(site, name)}" for site, name in put.items())
        if len(put) == len(SITES) and len({*put.values()}) == 1:
            what = f"Everywhere: {_label('all', names[0])}"
        rows.append({
            "setting": " ".join(names), "what": what or "Attention everywhere", "words": words,
            "bleu": each["bleu"], "low": each["bleu_low"], "high": each["bleu_high"],
        })  # fmt: skip
    return rows


def _label(site: str, name: str) -> str:
    label = LABELS.get(site, {}).get(name, LABELS["all"][name])
    return label[0].lower() + label[1:]


@torch.no_grad()
def _written(model: Translator, tokens: list[int], decode: Callable[..., str]) -> str:
    """Return what the rounded model writes, as the page will."""
    (found,) = rounded(model).translate(torch.tensor([tokens[: model.config.max_len - 1]])).tolist()
    return decode([token for token in found if token not in (BOS, EOS)])


@picture
def prices(rows: Sequence[Mapping[str, Any]]):
    """BLEU on record, by what stands where attention stood."""
    ax = new_axes(size=(7, 0.9 + 0.32 * len(rows)))
    for y, row in enumerate(rows):
        ax.barh(y, row["bleu"], color=look("attention").colour, height=0.6)
        ax.hlines(y, row["low"], row["high"], color="black", lw=1.5)
    ax.set(xlabel="BLEU on record", xlim=(0, 103))
    ax.set_yticks(range(len(rows)), [row["what"] for row in rows])
    ax.invert_yaxis()
    worst = min(rows, key=lambda row: row["bleu"])
    return ax, (
        f"{rows[0]['what']} has BLEU {rows[0]['bleu']:.1f} on record; least is left with "
        f"{worst['what']}: {worst['bleu']:.1f}. Lines are 95 % intervals over sentences. Seed 0, "
        f"{rows[0]['words']}."
    )
