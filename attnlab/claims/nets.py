"""What stands behind the claims of the second paper, shallow nets (arXiv:2311.10642)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch

from attnlab.analysis.compare import FAILS, HOLDS, MIN_SEEDS, UNDECIDED, Claim, too_few
from attnlab.claims.evidence import (
    BUILT,
    COMPUTED,
    EXACT,
    NOT_RECORDED,
    Evidence,
    Records,
    budget_of,
    compared,
    evidence_for,
    measured,
    paired,
    time_line,
)
from attnlab.config import TranslatorConfig
from attnlab.distillation import (
    METHODS,
    SITES,
    SIZES,
    StudentSpec,
    build_student,
    build_students,
    capture,
    expected_student_weights,
    substitute,
)
from attnlab.errors import AttnlabError
from attnlab.models import Translator
from attnlab.records import load_details
from attnlab.seeding import torch_generator
from attnlab.studies.arms import TEACHER, arm_columns, arm_words
from attnlab.studies.lengths import length_table
from attnlab.studies.replaced_verdicts import (
    CAPTIONS,
    CLAIMS,
    JUDGED_ON,
    LATER,
    LINEAR,
    NET,
    OLDER,
    OTHER_TASKS,
    STRONG,
    n_scored,
)
from attnlab.studies.trivial import BASELINES as TRIVIAL
from attnlab.training import collate_pairs

TOY = f"{OLDER}/classroom/toy"
PUBLISHED = TranslatorConfig(source_vocab_size=13, target_vocab_size=11)
TALKS = ("fr-en", "en-fr", "de-en", "en-de")  # the study's pairs of languages
GOALS = {  # a good teacher: experiment, metric, BLEU it should have, and how it searches
    CAPTIONS: ("bleu", STRONG, "greedy"),
    CAPTIONS.replace("de-en", "en-de"): ("beam_bleu", STRONG + 2, "beam 5"),
}
LONGEST = {f"{TOY}_short": "toy languages, short ones to learn from", CAPTIONS: JUDGED_ON[CAPTIONS]}


def _translator(**sizes: int) -> tuple[Translator, Any]:
    """Return an untrained translator of the published shape, and a batch for it."""
    config = TranslatorConfig(**{**PUBLISHED.to_dict(), **sizes})
    teacher = Translator(config, generator=torch_generator(0, "init")).eval()
    return teacher, collate_pairs([([5, 6, 7], [5, 6]), ([8, 9], [7, 8, 9])])


@evidence_for("R1")
def _teachers(records: Records) -> Iterator[Evidence]:
    layers, names, lines = "config.model.n_encoder_layers", [], []
    for name, runs in (*records.each(f"{LATER}/"), *records.each(f"{OLDER}/")):
        own = runs[runs["variant"] == TEACHER]
        if own.empty or name.split("/")[2] in {data.split("/")[0] for data in OTHER_TASKS}:
            continue
        if own[layers].iloc[0] == PUBLISHED.n_encoder_layers and "iwslt" in name:
            names.append(name)
        ends = own["bleu"].mean(), own["bleu_low"].min(), own["bleu_high"].max()
        n, how = int(own[layers].iloc[0]), own["details.bleu.signature"].iloc[-1]
        scored = "{:,} of {:,} sentences".format(*n_scored(own))
        data = (JUDGED_ON | LONGEST).get(name, name)
        lines.append(Evidence(
            BUILT, seeds=own["seed"].nunique(), claim=f"a teacher of {data}",
            budget=f"{n} + {n} layers, {budget_of(runs)}; {scored}", record=name,
            quantity=f"greedy BLEU, {how.replace('|', ' ')}",
            **measured(*map(float, ends), "{:.1f}", "BLEU")))  # fmt: skip
    n = len({pair for pair in TALKS for name in names if name.endswith(pair)})
    says = "a teacher of the published size for each pair of languages"
    yield Evidence(BUILT if n == len(TALKS) else NOT_RECORDED, f"{n} of {len(TALKS)} pairs",
                   claim=says, record=", ".join(names))  # fmt: skip
    yield from (_goal(name, records) for name in GOALS)
    yield from lines


def _goal(name: str, records: Records) -> Evidence:
    """Say whether the teacher of an experiment is as good as a good system is."""
    metric, goal, search = GOALS[name]
    says, runs = f"a teacher of {goal} BLEU on {JUDGED_ON[name]}, {search}", records.runs(name)
    own = runs[runs["variant"] == TEACHER] if metric in runs else runs[:0]
    if own.empty:
        return Evidence(NOT_RECORDED, claim=says, record="")
    value, low, high = (float(own[f"{metric}{end}"].mean()) for end in ("", "_low", "_high"))
    verdict = HOLDS if value >= goal else FAILS if high < goal else UNDECIDED
    n_seeds = own["seed"].nunique()
    scored = "{:,} of {:,} sentences".format(*n_scored(own))
    return Evidence(
        verdict if n_seeds >= MIN_SEEDS else too_few(n_seeds), seeds=n_seeds, claim=says,
        quantity="mean over seeds, with that of its intervals over sentences", record=name,
        budget=f"{budget_of(runs)}; {scored}",
        **measured(value, low, high, "{:.1f}", "BLEU"),
    )  # fmt: skip


@evidence_for("R2")
def _lessons(records: Records) -> Iterator[Evidence]:
    teacher, batch = _translator()
    n, n_sites = len(capture(teacher, batch)), 3 * PUBLISHED.n_encoder_layers
    number, place = f"{n} of {n_sites} sites", COMPUTED
    kept = records.runs("speed/paper/distillation/")
    if "bytes_per_sentence" in kept:
        kept = kept.dropna(subset=["bytes_per_sentence"])
        on_disk, place = kept["bytes_per_sentence"].max() / 1e3, kept["experiment"].iloc[-1]
        live = kept.loc[kept["variant"] == "live", "bytes_per_sentence"].max()
        number += f"; {on_disk:.0f} kB a sentence and site on disk, {live:.0f} live"
    yield Evidence(BUILT if n == n_sites else FAILS, number, record=place)


@evidence_for("R3")
def _cuts(records: Records) -> Iterator[Evidence]:
    (teacher, batch), n_moved, is_back = (
        _translator(n_encoder_layers=2, n_decoder_layers=2),
        0,
        True,
    )
    with torch.no_grad():
        before = teacher(*batch)
        for method in METHODS:
            spec = StudentSpec(method=method, width=4)
            with substitute(teacher, build_students(teacher, spec=spec)):
                n_moved += not torch.equal(teacher(*batch), before)
            is_back &= torch.equal(teacher(*batch), before)
    n = len(set(_arms_of(records, OLDER)["method"]) & set(METHODS))
    said = (
        f"{n_moved} of {len(METHODS)} swapped, undone to {'the same' if is_back else 'other'} bits"
    )
    is_whole = is_back and n_moved == n == len(METHODS)
    verdict = BUILT if is_whole else NOT_RECORDED
    yield Evidence(verdict, f"{said}; {n} recorded", record=f"{OLDER}/")


def _arms_of(records: Records, study: str) -> pd.DataFrame:
    """Return the runs of a study with the columns of their arms, teachers left out."""
    runs = records.runs(f"{study}/")
    runs = runs if len(runs) else pd.DataFrame({"variant": []})
    return arm_columns(runs[~runs["variant"].isin([TEACHER, *TRIVIAL])])


@evidence_for("R4")
def _sizes(_: Records) -> Iterator[Evidence]:
    kinds = [*({"method": m, "site": SITES[0]} for m in METHODS),
             *({"method": "alr", "site": site} for site in SITES[1:])]  # fmt: skip
    shape = {name: getattr(PUBLISHED, name) for name in ("max_len", "d_model", "n_heads")}
    counts = []
    for kind, size in ((kind, size) for kind in kinds for size in SIZES):
        with torch.device("meta"):  # no memory for weights nobody looks at
            n = build_student(StudentSpec(**kind, size=size), **shape).n_weights
        counts.append((n, n == expected_student_weights(**kind, size=size, **shape)))
    (first, *_, last), n_equal = counts[: len(SIZES)], sum(is_equal for _, is_equal in counts)
    said = f"ALR {first[0] / 1e6:.2f} M to {last[0] / 1e6:.1f} M weights"
    number = f"{n_equal} of {len(counts)} counts equal the formula; {said}"
    yield Evidence(EXACT if n_equal == len(counts) else FAILS, number, budget=f"{shape}"[1:-1])


def _shares(claim: str, records: Records) -> Iterator[Evidence]:
    """Yield the verdicts on a claim, and what the later study has not recorded of it."""
    judged = records.replacements
    judged = judged[judged["claim"] == claim] if len(judged) else judged
    yield from map(partial(_share, records), judged.to_dict("records"))
    if claim == "R10":
        yield from compared(claim, records)
    known = set(judged.loc[judged["experiment"] == CAPTIONS, "says"]) if len(judged) else set()
    for each in CLAIMS:
        if each.claim == claim and each.says not in known:
            wanted = f"{JUDGED_ON[CAPTIONS]}, a teacher of {STRONG} BLEU"
            says = _says(each.says, each.paper)
            yield Evidence(NOT_RECORDED, claim=says, quantity=wanted, record="")


def _says(says: str, paper: str) -> str:
    return f"{says} (the paper: {paper})"


def _share(records: Records, row: dict[str, Any]) -> Evidence:
    share = [100 * row[name] for name in ("share", "share_low", "share_high")]
    learnt = f"{row['arm']}, chosen on {row['chosen_on']}, against the {row['baseline']}"
    learnt += f"; {row['doubt']}" * bool(row["doubt"])
    scored = f"{row['n_sentences']:,} of {row['n_all']:,} sentences"
    budget = f"{budget_of(records.runs(row['experiment']))}; {scored}"
    unit = f"% of {row['quantity'].partition(',')[0]}"
    return Evidence(row["verdict"], seeds=row["n_seeds"], record=row["experiment"], budget=budget,
                    claim=_says(row["says"], row["paper"]), quantity=f"{row['data']}: {learnt}",
                    **measured(*share, "{:.1f}", unit))  # fmt: skip


for _claim in ("R5", "R6", "R9", "R10"):
    evidence_for(_claim)(partial(_shares, _claim))


@evidence_for("R8")
def _price(records: Records) -> Iterator[Evidence]:
    for study, kind, words in (
        (OLDER, NET, "a net"), (LATER, NET, "a net"), (LATER, LINEAR, "linear attention"),
    ):  # fmt: skip
        says = f"{words} has more weights than the attention it replaces"
        arms = _arms_of(records, study)
        arms = arms.query(kind) if "n_stand_in_weights" in arms else arms[:0]
        if arms.empty:
            yield Evidence(NOT_RECORDED, claim=says, quantity=f"study {study}", record="")
            continue
        r = arms["n_stand_in_weights"] / arms["n_replaced_weights"]
        verdict = HOLDS if r.min() > 1 else FAILS if r.max() <= 1 else UNDECIDED
        yield Evidence(verdict, record=f"{study}/", claim=says,
                       quantity=f"study {study}: median over arms, with the range",
                       **measured(r.median(), r.min(), r.max(), "{:.3g}", "times"))  # fmt: skip
    clock = records.runs("speed/paper/translation/")
    if "ratio_to_teacher" in clock:
        clock = clock[(clock["variant"] != TEACHER) & (clock["config.work"] == "greedy")]
        for batch, part in clock.groupby("config.batch"):
            best = part.loc[part["ratio_to_teacher"].idxmin()]
            yield time_line(dict(best), "teacher", claim="a stand-in is faster than the attention "
                            "it replaces", quantity=f"batch {batch:.0f}, the fastest: "
                            f"{arm_words(best['variant'])}")  # fmt: skip
    yield from _by_length(records)
    student = build_student(StudentSpec(width=3), max_len=4, d_model=2, n_heads=1)
    n, verdict = student.sizes["max_len"], FAILS
    try:
        student(torch.zeros(1, n + 1, 2))
    except AttnlabError:
        verdict = HOLDS
    number = f"{n} tokens pass, {n + 1} are refused"
    yield Evidence(verdict, number, claim="a net has a longest sentence", quantity="by trying")


def _by_length(records: Records) -> Iterator[Evidence]:
    """Yield what today's stand-ins cost at the trained length, and at the longest that is timed."""
    table, place = length_table(path=records.path), "speed/paper/lengths/"
    faster, smaller = (f"linear attention {does} than attention, at all sites"
                       for does in ("is faster", "keeps less of a sentence"))  # fmt: skip
    if table.empty:
        yield from (Evidence(NOT_RECORDED, claim=says, record="") for says in (faster, smaller))
        return
    table = table[table["time"].isin([table["time"].min(), table["time"].max()])]
    for (work, batch, time), part in table.groupby(["work", "batch", "time"]):
        own = part[part["variant"] != TEACHER]
        best = own.loc[own["times"].idxmin()]
        value, low, high = map(float, best[["times", "times_low", "times_high"]])
        verdict = HOLDS if high < 1 else FAILS if low > 1 else UNDECIDED
        where = f"{work}, batch {batch:.0f}, {time:.0f} tokens, the fastest: {best['variant']}"
        yield Evidence(verdict, record=place, claim=faster, quantity=where,
                       **measured(value, low, high, "{:.2g}", "times as long"))  # fmt: skip
    for time, part in table.groupby("time"):
        kept = part.groupby("variant")["state_kib"].max()
        r = float(kept.drop(TEACHER).min() / kept[TEACHER])
        yield Evidence(HOLDS if r < 1 else FAILS, record=place, claim=smaller,
                       quantity=f"decoder's state after {time:.0f} tokens, the smallest",
                       **measured(r, r, r, "{:.2g}", "times as much"))  # fmt: skip


@evidence_for("R11")
def _other_tasks(records: Records) -> Iterator[Evidence]:
    """Yield what each task says to each claim; one line for a task that is not recorded."""
    judged = records.other_tasks
    for data, (words, _) in OTHER_TASKS.items():
        rows = judged[judged["data"] == words].to_dict("records") if len(judged) else []
        if not rows:
            yield Evidence(NOT_RECORDED, claim=f"attention can go where the task is {words}",
                           quantity=f"{LATER}: {data}", record="")  # fmt: skip
        yield from (_share(records, row) for row in rows)


@evidence_for("R12")
def _lengths(records: Records) -> Iterator[Evidence]:
    for experiment, pairs in LONGEST.items():
        table = load_details(experiment, "by_length", path=records.path, is_needed=False)
        if table.empty:
            yield Evidence(
                NOT_RECORDED,
                claim="stand-ins fall below their teacher on the longest sentences",
                quantity=pairs,
                record="",
            )
            continue
        longest = table[table["shortest"] == table["shortest"].max()]
        arms = _of_interest(longest["variant"].unique(), experiment, records)
        claims = [Claim(says=f"{arm_words(arm)}: it falls below its teacher", variant=arm,
                        baseline=TEACHER) for arm in arms]  # fmt: skip
        words = f"{pairs}: BLEU on sentences of {longest['shortest'].max()} words or more"
        told = {"record": experiment, "quantity": words,
                "budget": budget_of(records.runs(experiment))}  # fmt: skip
        yield from paired(longest, claims, "bleu", "{:+.1f}", "BLEU", **told)
    yield from compared("R12", records)


def _of_interest(variants: Sequence[str], experiment: str, records: Records) -> list[str]:
    """Return the arms of the toy; on captions, those that speak for a claim."""
    judged = records.replacements
    arms = [variant for variant in variants if variant != TEACHER]
    if experiment != CAPTIONS:
        return arms
    speak = set(judged.loc[judged["experiment"] == CAPTIONS, "variant"]) if len(judged) else set()
    return [variant for variant in arms if variant in speak]
