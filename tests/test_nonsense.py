"""Whatever is typed or passed: a result, a sentence, or Python's own TypeError; no traceback.

Two walks with fixed seeds, over the command line and over the functions at the borders. They are
short here; ``ATTNLAB_NONSENSE=10000 pytest tests/test_nonsense.py`` makes so many calls in each.
"""

import math
import os
import traceback
from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from small_models import model_for, targets, translator_for, words

from attnlab.claims import ledger_rows
from attnlab.cli import main
from attnlab.config import ModelConfig, TrainConfig, TranslatorConfig
from attnlab.corpora import describe_corpus, load_corpus, load_tokenizer, train_bpe
from attnlab.distillation import StudentSpec, build_students, load_students, save_students
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer, list_mixers
from attnlab.models import LanguageModel, Translator, sample_token, token_chances
from attnlab.paths import CHAINS, write_whole
from attnlab.records import RunRecord, load_curves, load_details, load_runs, read_records
from attnlab.sources import markov_chain
from attnlab.studies import Plan, check_plan, get_study
from attnlab.training import load_model, load_translator, save_model

N_CALLS = int(os.environ.get("ATTNLAB_NONSENSE", "300"))
LONG = "a" * 1000
pytestmark = pytest.mark.timeout(300 + N_CALLS)


# The command line

NAMES = ["", " ", "x", LONG, "--", "-x", "../x", "a/b", "ü", "\udcff", "0", "\u0663", "NaN"]
NUMBERS = ["0", "-1", "1", "2", "3", "5", "1.5", "1e3", "nan", "inf", "-inf", "1e-30", "", "x",
           "1" + "0" * 13, "9" * 5000, "\u0663", "0x10", "1,2", "--"]  # fmt: skip
PATHS = ["file", "folder", "folder/new", "file/below", "a" * 300, "not_utf8", "\udcff", "", "ü ö",
         "/dev/null", "/proc/nothing", "/dev/full", "x/" * 3000, ".", "README.md"]  # fmt: skip
STUDY = {
    "": ["language-model", "attentionless", "n-grams", "extractor-ablation", "speed", *NAMES],
    "--scale": ["smoke", "classroom", "paper", *NAMES],
    "--corpus": ["tales", "toy", "children", *NAMES],
    "--variants": ["she", "mean,identity", "alr", ",", *NAMES],
    "--seeds": ["0", "0,1", "-1", "1.5", *NUMBERS, *NAMES],
    "--axis": ["lr=0.1", "lr=best", "passes=2", "lr=", "=", "lr", "mood=1", "lr=nan", *NAMES],
    "--threads": NUMBERS,
    "--device": ["cpu", "tpu", *NAMES],
}
TRAIN = {
    "--mixer": [*list_mixers(), *NAMES],
    "--corpus": ["tales", "toy", *NAMES],
    "--lr": NUMBERS,
    "--out": PATHS,
    **dict.fromkeys(("--steps", "--batch-size", "--context-len", "--d-model"), NUMBERS),
    **dict.fromkeys(("--layers", "--heads", "--vocab-size", "--seed"), NUMBERS),
}
COMMANDS = {  # options, and under "" what stands alone
    "": {"": NAMES, "--help": [], "-h": []},
    "list": {"": ["mixers", "sources", "corpora", "studies", "figures", *NAMES]},
    "claims": {"": ["E7", "e7", "E99", *NAMES]},
    "data": {"": NAMES},
    "data list": {"": NAMES},
    "data fetch": {"": ["children", "python_reference", *NAMES], "--to": PATHS},
    "data verify": {"": ["python_reference", *NAMES]},
    "train": TRAIN,
    "study": {"": NAMES},
    "study list": {"": NAMES},
    "study run": STUDY,
    "study resume": {"--threads": NUMBERS, "--device": ["cpu", "cuda", *NAMES]},
    "study report": {"": PATHS},
    "study export": {**{n: v for n, v in STUDY.items() if n[2:3] not in "td"}, "--to": PATHS},
    "bench": {
        "": ["mixers", "methods", "training", *NAMES],
        "--scale": ["smoke", *NAMES],
        "--threads": NUMBERS,
        "--repeats": NUMBERS,
        "--device": ["cpu", *NAMES],
        "--out": PATHS,
        "--check": [],
    },
    "figure": {"": ["loss-children", *NAMES], "--out": PATHS, "--list": []},
}


def command_line(random: np.random.Generator) -> list[str]:
    """Return a command with some of its options, and rarely with one of another."""
    name = list(COMMANDS)[random.integers(len(COMMANDS))]
    options = COMMANDS[name]
    if random.integers(12) == 0:
        options = options | COMMANDS[list(COMMANDS)[random.integers(len(COMMANDS))]]
    chosen = [o for o in options if random.random() < (0.7 if o == "" else 2 / len(options))]
    line = name.split()
    for option in random.permutation(np.array(chosen, dtype=object)):
        values = options[option]
        value = [values[random.integers(len(values))]] if values else []
        line += [*filter(None, [option]), *value]
    return line


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Let commands do all but the long work, in a folder with things in the way."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "README.md").write_text("<!-- results: begin -->\n<!-- results: end -->")
    (tmp_path / "not_utf8").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    from attnlab.studies import Folders
    from attnlab.tasks import LanguageTask
    from attnlab.training import train_model

    def make_figure(name, *, out):
        if name != "loss-children":
            raise UnknownNameError("figure", name, [], next_step="")
        write_whole(out / f"{name}.svg", "")
        return []

    def run_plan(plan, *, folders):
        check_plan(plan).jobs(plan)
        return iter(())

    def measure(**how):
        raise AttnlabError("The clock is not wound up here.")

    def rows(name):
        return ledger_rows(name or "none")

    folders = {"runs": tmp_path / "runs", "work": tmp_path / "work", "device": "cpu"}
    monkeypatch.setattr(Folders.__init__, "__kwdefaults__", folders)
    replaced = {
        "attnlab.training.train_model": lambda *a, **k: islice(train_model(*a, **k), 1),
        "attnlab.studies.run_plan": run_plan,
        "attnlab.studies.clock.machine_peaks": measure,
        "attnlab.studies.report.results_block": lambda: "block",
        "attnlab.show.make_figure": make_figure,
        "attnlab.corpora.fetch_corpus": lambda name, **how: describe_corpus(name),
        "attnlab.claims.ledger_rows": lambda name: [("E7", "")] if name == "E7" else rows(name),
        "attnlab.corpora.verify_corpus": lambda name: len(describe_corpus(name).files),
    }
    for name, stand_in in replaced.items():
        monkeypatch.setattr(name, stand_in)
    monkeypatch.setattr(LanguageTask, "score", lambda self, model: ({"test_loss_nats": 1.0}, {}))
    return tmp_path


def test_no_command_line_ends_in_a_traceback(small, capsys):
    random, failed, codes = np.random.default_rng(0), [], set()
    for _ in range(N_CALLS):
        line = command_line(random)
        try:
            code = main(line)
        except BaseException:
            failed.append(f"{line}\n{traceback.format_exc(limit=-3)}")
            continue
        _, err = capsys.readouterr()
        codes.add(code)
        if code not in (0, 1, 2) or "Traceback" in err or (code and not err):
            failed.append(f"{line}: {code}\n{err[-2000:]}")
    assert not failed, f"{len(failed)} of {N_CALLS}\n" + "\n".join(failed[:20])
    assert codes == {0, 1, 2}


# Functions at the borders

TENSORS = [
    torch.zeros(0), torch.zeros(2, 3), torch.ones(2, 3, 8), torch.ones(2, 3, dtype=torch.bool),
    torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, 3, dtype=torch.uint8),
    torch.ones(2, 3).long(), torch.full((2, 3), 10**9), torch.full((2, 3), -1), torch.tensor(3),
    torch.ones(2).long(), torch.ones(2, 40).long(), torch.ones(2, 0).long(),
    torch.ones(0, 3).long(), torch.ones(2, 3).int(), torch.ones(5).long(),
    torch.full((2, 8), math.nan), torch.ones(2, 8), torch.ones(1, 12),
    torch.ones(2, 3, 8).double(), torch.ones(2, 3, device="meta"),
]  # fmt: skip
PLAIN = [
    None, True, -1, 0, 1, 2, 7, 1.5, math.nan, math.inf, 1e-300, 10**13, 10**400, "", "x", LONG,
    "\ud800", "she", [], [[]], [1, "a"], [[0.5, 0.5], [1.0, 0.0]], {}, {"x": 1}, {1: 2}, (), b"x",
    object(), int, np.float32(1), np.int64(3), np.arange(3), np.zeros((2, 2)), np.array("x"),
]  # fmt: skip
VALUES = [*PLAIN, *TENSORS]


def record(**changes):
    whole = {"experiment": "toy/smoke/ring", "variant": "she", "seed": 0, "config": {},
             "metrics": {"a": 1.0}, "seconds": 1.0, "details": {"books": {"x": [1]}}}  # fmt: skip
    return RunRecord(**{**whole, **changes})


def borders(folder) -> dict[str, tuple[Callable, dict]]:
    """Return functions and calls of them that work."""
    model, translator = model_for().eval(), translator_for()
    tokens, source, target = torch.ones(2, 3).long(), words(2, 4), targets(2, 4)
    memory, state = translator.encode(source), translator.initial_state(translator.encode(source))
    record().append_to(folder / "toy.jsonl")
    tokenizer = train_bpe(["a text"], vocab_size=256)
    save_model(folder / "model", model=model)
    save_model(folder / "translator", model=translator)
    save_students(folder / "students", students=build_students(translator, spec=StudentSpec()))
    tokenizer.save(folder / "tokenizer")

    def step(mixer, x_t, state):
        with torch.no_grad():
            return mixer.step(x_t, state)

    calls = {
        "ModelConfig": (ModelConfig, model.config.to_dict()),
        "TrainConfig": (TrainConfig, vars(TrainConfig())),
        "TranslatorConfig": (TranslatorConfig, translator.config.to_dict()),
        "StudentSpec": (StudentSpec, StudentSpec().to_dict()),
        "Plan": (lambda **k: check_plan(Plan(**k)).jobs(Plan(**k)), {
            "study": "language-model", "scale": "smoke", "corpus": "tales", "variants": ("she",),
            "seeds": (0,), "axes": {"lr": (0.1,)}}),
        "get_study": (get_study, {"name": "language-model"}),
        "from_dict": (ModelConfig.from_dict, {"values": {}}),
        "RunRecord": (lambda **k: record(**k).append_to(folder / "more.jsonl"),
                      {n: v for n, v in vars(record()).items() if n in ("seed", "metrics", "curve",
                                                                       "config", "seconds")}),
        "read_records": (lambda **k: list(read_records(**k)),
                         {"path": folder / "toy.jsonl", "on_damage": "stop"}),
        "load_runs": (load_runs, {"experiment": "toy/smoke/ring", "path": folder / "toy.jsonl",
                                  "variants": ["she"], "columns": None}),
        "load_details": (load_details, {"experiment": "toy/smoke/ring", "name": "books",
                                        "path": folder / "toy.jsonl"}),
        "load_curves": (load_curves, {"experiment": "toy/smoke/ring",
                                      "path": folder / "toy.jsonl"}),
        "load_model": (load_model, {"path": folder / "model"}),
        "load_translator": (load_translator, {"path": folder / "translator"}),
        "load_students": (load_students, {"path": folder / "students"}),
        "load_tokenizer": (load_tokenizer, {"path": folder / "tokenizer"}),
        "load_corpus": (load_corpus, {"name": "python_reference"}),
        "markov_chain": (markov_chain, {"chain": [[0.5, 0.5], [1.0, 0.0]], "symbols": "ab"}),
        "chain file": (markov_chain, {"chain": CHAINS / "weather.json"}),
        "train_bpe": (train_bpe, {"texts": ["a text"], "vocab_size": 257}),
        "encode": (tokenizer.encode, {"text": "text"}),
        "decode": (tokenizer.decode, {"ids": [1, 2]}),
        "build_mixer": (lambda options, **k: build_mixer(**k, **options),
                        {"name": "she", "d_model": 8, "context_len": 5, "options": {}}),
        "LanguageModel": (LanguageModel, {"config": model.config}),
        "Translator": (Translator, {"config": translator.config}),
        "forward": (model, {"tokens": tokens}),
        "loss": (model.loss, {"tokens": tokens, "targets": tokens, "reduction": "mean"}),
        "prefill": (model.prefill, {"tokens": tokens}),
        "initial_state": (model.initial_state, {"batch_size": 2}),
        "generate": (model.generate, {"prompt": tokens, "n_tokens": 2, "temperature": 1.0,
                                      "top_k": 2, "top_p": 0.9}),
        "translator": (translator, {"source_tokens": source, "target_tokens": target}),
        "translator.loss": (translator.loss, {"source": source, "target": target}),
        "smoothed loss": (translator.smoothed_and_plain_loss,
                          {"source": source, "target": target, "label_smoothing": 0.1}),
        "encode_source": (translator.encode, {"source_tokens": source}),
        "decode_target": (translator.decode, {"target_tokens": target, "memory": memory,
                                              "source_padding": None}),
        "decoder.initial_state": (translator.initial_state, {"memory": memory,
                                                             "source_padding": None}),
        "decoder.step": (translator.step, {"token": target[:, 0], "state": state}),
        "translate": (translator.translate, {"source_tokens": source, "beam_size": 2, "max_len": 3,
                                             "length_penalty": 0.6}),
        "build_students": (build_students, {"teacher": translator, "spec": StudentSpec(),
                                            "seed": 0, "layers": [0]}),
        "sample_token": (sample_token, {"logits": torch.ones(2, 5), "temperature": 1.0}),
        "token_chances": (token_chances, {"logits": torch.ones(2, 5), "temperature": 1.0}),
    }  # fmt: skip
    for name in list_mixers():
        other = model_for(mixer=name).eval()
        mixer = build_mixer(name, d_model=8, context_len=5).eval()
        state = mixer.initial_state(2)
        x = torch.ones(2, 3, 8)
        calls[f"{name}.step of a model"] = (
            other.step,
            {"token": tokens[:, 0], "state": other.initial_state(2)},
        )
        calls[name] = (mixer, {"x": x})
        calls[f"{name}.step"] = (partial(step, mixer), {"x_t": x[:, 0], "state": state})
        calls[f"{name}.prefill"] = (mixer.prefill, {"x": x, "state": None})
    return calls  # fmt: skip


def states() -> list:
    """Return states of other mixers, other sizes and other batches."""
    found = []
    for name in list_mixers():
        for sizes in ({"d_model": 8, "context_len": 5}, {"d_model": 12, "context_len": 5},
                      {"d_model": 8, "context_len": 7}):  # fmt: skip
            found += [build_mixer(name, **sizes).initial_state(batch) for batch in (2, 3)]
        found += [model_for(mixer=name, n_layers=n).initial_state(2) for n in (1, 2)]
    translator = translator_for(d_model=24)
    return [*found, translator.initial_state(translator.encode(words(3, 4)))]


@pytest.mark.filterwarnings("ignore")
def test_no_call_at_a_border_ends_in_an_exception_from_below(tmp_path):
    random, failed = np.random.default_rng(0), {}
    calls, values = borders(tmp_path), [*VALUES, *states()]
    for call, given in calls.values():
        call(**given)
    names = list(calls)
    for i in range(max(2 * N_CALLS, 20 * len(names))):
        name = names[i % len(names)]
        call, given = calls[name]
        n_changes = 1 + (random.integers(4) == 0)
        for argument in random.choice(list(given), min(n_changes, len(given)), replace=False):
            given = {**given, str(argument): values[random.integers(len(values))]}
        try:
            call(**given)
        except (AttnlabError, TypeError):
            pass
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(place.filename)}:{place.lineno}"
            key = f"{name}: {type(error).__name__} in {where}"
            failed.setdefault(key, f"{error}"[:200])
    assert not failed, f"{len(failed)}\n" + "\n".join(f"{k}: {v}" for k, v in failed.items())
