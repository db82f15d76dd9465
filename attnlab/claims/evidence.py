"""What stands behind each claim: computed here and there, or read from records.

Here are those of the Extractor (arXiv:2308.07661); ``nets`` has those of the other paper.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from attnlab.analysis import compare
from attnlab.analysis.compare import FAILS, HOLDS, ORDERING, UNDECIDED, Claim, too_few
from attnlab.analysis.critical_path import trace_step
from attnlab.analysis.theory import expected_mixer_weights
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer, naive
from attnlab.mixers.base import TokenMixer
from attnlab.records import load_details, load_runs
from attnlab.seeding import torch_generator
from attnlab.show import look
from attnlab.sources import fit_table, variable_length_chain
from attnlab.studies import fair, labels, replaced_verdicts, scaling
from attnlab.studies.families import GENERATED as GENERATED_ROWS
from attnlab.studies.growth import growth_powers
from attnlab.studies.mixers import EXTRACTORS, VARIANTS
from attnlab.studies.report import CLOCK, clock_points, time_power
from attnlab.teach import read_quiz

EXACT, BUILT = "exact", "built"  # a definition that is so by computation; a system that stands
NOT_RECORDED, COMPUTED = too_few(0), "computed here"
NO_VERDICTS = (too_few(1), too_few(2), *replaced_verdicts.NO_VERDICTS)
VERDICTS = (HOLDS, FAILS, UNDECIDED, *NO_VERDICTS, EXACT, BUILT, NOT_RECORDED)
NAN, NAMES = float("nan"), pd.Series(dtype=str)
PAIRS = Path(__file__).with_name("pairs.tsv")  # comparisons of two variants, by claim

ABLATION = "extractor-ablation/classroom/tales"
OURS = ("adaptive_she", "rotary_attention", "alibi_attention")  # no rivals of the Extractor
N_TEXTS = N_SIZES = 3  # that an answer needs
GENERATED = "mixers/"  # whose tasks are made up, so that attention wins: no understanding of text


class Evidence(NamedTuple):
    """One line of a claim.

    Args:
        number: As a reader sees it, with its unit and, in brackets, its interval.
        seeds: Trained runs behind it; 0 where nothing was trained.
        record: Names of experiments, or ``COMPUTED``.
        claim, quantity: Where they differ from line to line.
        value, low, high: The number and its 95 % interval in ``unit``; nan where it has none.
    """

    verdict: str
    number: str = ""
    seeds: int = 0
    budget: str = ""
    record: str = COMPUTED
    claim: str = ""
    quantity: str = ""
    value: float = NAN
    low: float = NAN
    high: float = NAN
    unit: str = ""


class Records:
    """All records of a folder (as ``load_runs`` takes it), read once."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self.path = path

    @cached_property
    def everything(self) -> pd.DataFrame:
        """One row a run, of every experiment."""
        return load_runs(path=self.path)

    @cached_property
    def replacements(self) -> pd.DataFrame:
        """The verdicts on what the second paper claims, of translations."""
        return replaced_verdicts.replacement_verdicts(path=self.path)

    @cached_property
    def other_tasks(self) -> pd.DataFrame:
        """The same of what is no translation."""
        return replaced_verdicts.task_verdicts(path=self.path)

    def runs(self, experiment: str) -> pd.DataFrame:
        """Return the runs of an experiment, or of all below a name that ends with a slash."""
        names = self.everything.get("experiment", NAMES)
        is_of = names.str.startswith(experiment) if experiment[-1] == "/" else names == experiment
        return self.everything[is_of].dropna(axis="columns", how="all")

    def each(self, study: str) -> list[tuple[str, pd.DataFrame]]:
        """Return the experiments of a study with their runs, in the order of the records."""
        runs = self.runs(study)
        parts = runs.groupby("experiment", sort=False) if len(runs) else ()
        return [(str(name), part.dropna(axis="columns", how="all")) for name, part in parts]


EVIDENCE: dict[str, Callable[[Records], Iterable[Evidence]]] = {}


def evidence_for(claim: str) -> Callable[[Any], Any]:
    """Name the function that yields the lines of a claim."""
    return lambda find: EVIDENCE.setdefault(claim, find)


def measured(value: float, low: float, high: float, form: str, unit: str) -> dict[str, Any]:
    """Return the fields of a number with its interval, if it has one."""
    said = form.format(value)
    if not (math.isnan(low) or low == high):
        said += f" ({form.format(low)} to {form.format(high)})"
    return {"number": f"{said} {unit}", "value": value, "low": low, "high": high, "unit": unit}


def paired(
    runs: pd.DataFrame, claims: Sequence[Claim], metric: str, form: str, unit: str, **told: str
) -> Iterator[Evidence]:
    """Yield a line a claim; with a minus before the metric more is better, and told is the gain."""
    name, sign = metric.removeprefix("-"), -1 if metric.startswith("-") else 1
    if name in runs:
        judged = runs.assign(judged=sign * runs[name])
        for row in compare.judge_claims(judged, claims=claims, metric="judged").to_dict("records"):
            ends = sorted((sign * row["low"], sign * row["high"]))
            number = measured(sign * row["mean"], *ends, form, unit)
            yield Evidence(row["verdict"], seeds=row["n_pairs"], claim=row["says"],
                           **{"budget": budget_of(runs), **told}, **number)  # fmt: skip


def budget_of(runs: pd.DataFrame) -> str:
    """Say what was read: pairs of sentences, items or tokens, or else how many steps there were."""
    study = runs.get("experiment", NAMES).iloc[:1].str.split("/").str[0].tolist()
    is_pairs, is_items = study[0:1] in (["attentionless"], ["replaced"]), study == ["labels"]
    for column, form, size in (("details.data.train", "{:,.0f} pairs", int(is_pairs)),
                               ("tokens_seen", "{:,.0f} items read", int(is_items)),
                               ("tokens_seen", "{:.2g} M tokens read", 1e6),
                               ("config.train.n_steps", "{:,.0f} steps", 1)):  # fmt: skip
        if column in runs and size:
            return form.format(runs[column].max() / size)
    return ""


def compared(claim: str, records: Records) -> Iterator[Evidence]:
    """Yield the comparisons of ``PAIRS`` that belong to a claim."""
    with PAIRS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["id"] == claim]
    for row in rows:
        says = Claim(says=row["says"], variant=row["variant"], baseline=row["baseline"])
        told = {"record": row["experiment"], "quantity": row["quantity"]}
        runs = records.runs(row["experiment"])
        n, *found = replaced_verdicts.bleu_difference(runs, says.variant, says.baseline)
        if row["metric"] == "-bleu" and n:
            verdict = says.verdict(n_pairs=n, low=-found[2], high=-found[1])
            yield Evidence(verdict, seeds=n, budget=budget_of(runs), claim=says.says, **told,
                           **measured(*found, row["form"], row["unit"]))  # fmt: skip
        else:
            yield from paired(runs, [says], row["metric"], row["form"], row["unit"], **told)


# The Extractor (arXiv:2308.07661)


@evidence_for("E1")
def _chain(_: Records) -> Iterator[Evidence]:
    source, n_tokens = variable_length_chain("one_long_branch"), 40_000
    h, longest = source.entropy_rate_nats, max(map(len, source.contexts))
    stairs = [source.best_loss_nats(context_len=k) for k in range(longest + 1)]
    text, fresh = (source.sample(n_tokens, seed=0, stream=name) for name in ("data", "test"))
    sizes = {"order": longest, "vocab_size": source.vocab_size, "pseudo_count": 0.1}
    above = fit_table(text, **sizes).loss_nats(fresh) - source.oracle_nats(fresh)
    is_floor = np.isclose(stairs[-1], h) and min(stairs[:-1]) > h and 0 < above < 0.02
    steps = ", ".join(f"{stair:.3f}" for stair in stairs)
    number = f"h = {h:.3f} nats; by context {steps}; fitted table h {above:+.3f}"
    yield Evidence(EXACT if is_floor else FAILS, number, budget=f"{n_tokens:,} tokens counted")


@evidence_for("E2")
def _table(_: Records) -> Iterator[Evidence]:
    P = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    keys, values = np.eye(len(P)), np.log(P)
    Q = np.exp(np.maximum(np.eye(len(P)) @ keys, 0) @ values)
    worst = np.abs((P * np.log(P / (Q / Q.sum(1, keepdims=True)))).sum(1)).max()
    yield Evidence(BUILT if worst < 1e-12 else FAILS, f"at most {worst:.0e} nats, {len(P)} states")


@evidence_for("E3")
def _forms(_: Records) -> Iterator[Evidence]:
    dice, worst = torch_generator(0, "ledger"), 0.0
    x = torch.randn(2, 7, 6, generator=dice, dtype=torch.float64)
    for name in EXTRACTORS:
        mixer = build_mixer(name, d_model=6, context_len=5).double()
        for weight in mixer.parameters():
            torch.nn.init.normal_(weight, generator=dice)
        with torch.no_grad():
            loop = getattr(naive, name)(mixer, x)
            ways = mixer(x), TokenMixer.prefill(mixer, x)[0]
            worst = max(worst, *(float((loop - y).abs().max()) for y in ways))
    number = f"at most {worst:.0e} over {len(EXTRACTORS)} members"
    yield Evidence(EXACT if worst < 1e-9 else FAILS, number)


@evidence_for("E4")
def _members(records: Records) -> Iterator[Evidence]:
    runs = records.runs("language-model/")
    if len(runs):
        how = ["experiment", *(name for name in runs if name.startswith("config.train."))]
        own = runs.loc[runs["variant"] == "attention", how].drop_duplicates()
        same = runs[runs["variant"].isin(EXTRACTORS)].merge(own, on=how)
        n, n_all = same["variant"].nunique(), len(EXTRACTORS)
        seeds, place = same["seed"].nunique(), ", ".join(same["experiment"].unique())
        verdict = BUILT if n == n_all else NOT_RECORDED
        yield Evidence(verdict, f"{n} of {n_all} members", seeds, budget_of(same), place)


@evidence_for("E5")
def _weights(_: Records) -> Iterator[Evidence]:
    d, length, names = 128, 128, ("attention", *EXTRACTORS)
    sizes = {"d_model": d, "context_len": length}
    n = {m: sum(p.numel() for p in build_mixer(m, **sizes).parameters()) for m in names}
    closed = {m: expected_mixer_weights(m, **sizes) for m in names}
    closed |= {"she": length * d**2 + 2 * d**2, "attention": 4 * d**2}
    number = ", ".join(f"{VARIANTS[name].split(',')[0]} {n[name]:,}" for name in names)
    yield Evidence(EXACT if n == closed else FAILS, number, budget=f"d = {d}, l = {length}")


@evidence_for("E6")
def _paths(_: Records) -> Iterator[Evidence]:
    sizes = {"d_model": 128, "context_len": 128}
    she = trace_step(build_mixer("she", **sizes))
    other = trace_step(build_mixer("attention", n_heads=4, **sizes))
    is_named = she.longest_path().names == "mul acc mul mul acc"
    for order, says in (("tree", "sums as trees"), ("sequential", "running totals")):
        a, b = (trace.depth(accumulate=order) for trace in (she, other))
        number = f"SHE {a:,}, attention {b:,} operations in a row"
        told = {"quantity": f"by tracer, {says}", "budget": f"d = l = {sizes['d_model']}"}
        yield Evidence(HOLDS if is_named and a < b else FAILS, number, **told)


@evidence_for("E7")
def _order(records: Records) -> Iterator[Evidence]:
    judged = fair.ground_verdicts(path=records.path)
    for says in judged["says"].unique():
        for row in judged[judged["says"] == says].to_dict("records"):
            number = measured(row["mean"], row["low"], row["high"], "{:+.3f}", "nats")
            read = budget_of(records.runs(row["experiment"]))
            yield Evidence(row["verdict"], seeds=row["n_pairs"], record=row["experiment"],
                           budget=f"{read}, passes: {row['passes']:g}", claim=says,
                           quantity=f"{row['quantity']}; {row['ground']}", **number)  # fmt: skip


@evidence_for("E8")
def _times(records: Records) -> Iterator[Evidence]:
    runs = records.runs("speed/paper/")
    devices = sorted(runs["config.device"].unique()) if len(runs) else ()
    for mixer, device in ((m, each) for m in EXTRACTORS for each in devices):
        for work, sizes in CLOCK.items():
            points = clock_points(runs, device=device, **sizes)
            for point in points[points["variant"] == mixer].to_dict("records"):
                says, where = f"{VARIANTS[mixer]} is faster than attention", f"{work}, {device}"
                yield time_line(point, "attention", claim=says, quantity=where)


def time_line(point: dict[str, Any], than: str, **told: str) -> Evidence:
    """Return a time over another one as a line: less, more, or not to be told apart."""
    value, low, high = (point[f"ratio_to_{than}{end}"] for end in ("", "_low", "_high"))
    number = measured(value, low, high, "{:.2g}", "times as long")
    budget = f"{point['config.repeats']:.0f} rounds, d = {point['config.d_model']:.0f}"
    verdict = HOLDS if high < 1 else FAILS if low > 1 else UNDECIDED
    return Evidence(verdict, budget=budget, record=point["experiment"], **told, **number)


@evidence_for("E10")
def _failure_signs(records: Records) -> Iterator[Evidence]:
    places = load_details(ABLATION, "by_position", path=records.path, is_needed=False)
    if len(places):
        late = places[places["position"] > 0.75 * places["position"].max()]
        late = late.groupby(["variant", "seed"], as_index=False)["loss_nats"].mean()
        says = "without the adjustment SHE is worse late in a text"
        claim = Claim(says=says, variant="she", baseline="she/extraction_only")
        told = {"record": ABLATION, "budget": budget_of(records.runs(ABLATION))}
        yield from paired(late, [claim], "loss_nats", "{:+.3f}", "nats", **told)
    opposite = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}
    for line in [line for line in _times(records) if "SHE is" in line.claim][:1]:
        yield line._replace(verdict=opposite[line.verdict], claim="SHE gains no time in training")


@evidence_for("E11")
def _other_mixers(records: Records) -> Iterator[Evidence]:
    known = {"attention", *EXTRACTORS, "mean", "identity"}
    for name, runs in records.each("language-model/"):
        others = runs.loc[~runs["config.model.mixer"].isin(known), "variant"].unique()
        claims = [Claim(says=f"SHE beats {o}", variant="she", baseline=o) for o in others]
        yield from paired(runs, claims, "test_loss_nats", "{:+.3f}", "nats", record=name)
    for name, runs in _family_runs(records):
        says = {"hyena": "SHE beats Hyena", "spade": "SHE beats SPADE"}
        rest = runs[(runs["seed"] == 0) & ~runs["variant"].isin({*known, *says, *OURS})]
        if len(rest):  # chosen on validation, judged on the test
            best = rest.loc[rest["validation_loss_nats"].idxmin(), "variant"]
            says[best] = f"SHE beats the best other mixer, {best}"
        claims = [Claim(says=said, variant="she", baseline=o) for o, said in says.items()]
        told = {"record": name, "quantity": "held-out loss, equal weights, each one's best rate"}
        yield from paired(runs, claims, "test_loss_nats", "{:+.3f}", "nats", **told)


def _family_runs(records: Records) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the runs of study ``mixers`` at equal weights by experiment, without smoke."""
    for scale in ("classroom", "paper"):
        runs = fair.family_runs(scale=scale, path=records.path)
        yield from ((str(name), part) for name, part in runs.groupby("experiment", sort=False))


@evidence_for("E12")
def _other_tasks(records: Records) -> Iterator[Evidence]:
    for name in dict.fromkeys(records.everything.get("experiment", ())):
        runs = records.runs(name)
        is_smoke = "smoke" in name.split("/")
        if is_smoke or "test_accuracy" not in runs or name.startswith(GENERATED):
            continue
        has_rates = {labels.RATE, *labels.TIES} <= set(runs)
        chosen = labels.at_best_rate(runs) if has_rates else runs
        ours = [f"{mixer}{side}" for side in ("", labels.TWO_SIDED) for mixer in EXTRACTORS]
        found = labels.accuracy_differences(chosen, variants=ours)
        for row in found.to_dict("records"):
            mixer, _, side = row["variant"].partition("/")
            says = f"{VARIANTS[mixer]}{' two-sided' * bool(side)} reaches attention's accuracy"
            ends = (100 * row[end] for end in ("mean", "low", "high"))
            yield Evidence(row["verdict"], seeds=row["n_pairs"], claim=says, record=name,
                           budget=budget_of(runs),
                           **measured(*ends, "{:+.1f}", "points"))  # fmt: skip


@evidence_for("E13")
def _scaling(records: Records) -> Iterator[Evidence]:
    runs = records.runs("speed/paper/mixers/")
    for mixer in EXTRACTORS if len(runs) else ():
        for batch in sorted(runs["config.batch"].unique()):
            points = clock_points(runs, part="mixers", work="training", batch=batch)
            own, other = (time_power(points, name) for name in (mixer, "attention"))
            yield Evidence(HOLDS if own < other else FAILS, f"T^{own:.2f} against T^{other:.2f}",
                           record="speed/paper/mixers/", budget="the newest series, one thread",
                           claim=f"time grows slower with {VARIANTS[mixer]} than with attention",
                           quantity=f"layer, both ways, batch {batch:.0f}")  # fmt: skip
    yield from _growth(records)
    fitted = [line for each in records.each("scaling/") for line in _floors(*each)]
    yield from fitted or [_loss_by_size(records.runs("language-model/"))]


def _growth(records: Records) -> Iterator[Evidence]:
    """Yield a line a mixer that is fitted: powers of length and width in its time."""
    powers = growth_powers(path=records.path).set_index(["variant", "along"])
    for name in (*EXTRACTORS, *scaling.VARIANTS):
        if (name, "length") in powers.index and name != "attention":
            row, more = powers.loc[(name, "length")], ("more", "more_low", "more_high")
            value, low, high = map(float, row[list(more)])
            number = f"T^{row['p']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
            if (name, "width") in powers.index:
                wide = powers.loc[(name, "width")]
                number += f", d^{wide['p']:.2f} ({wide['low']:.2f} to {wide['high']:.2f})"
            verdict = HOLDS if high < 0 else FAILS if low > 0 else UNDECIDED
            told = {
                "claim": "its time grows slower with the length than attention's",
                "quantity": f"{look(name).label}: power of a layer's time, both ways",
            }
            yield Evidence(verdict, number, record="speed/paper/growth/", value=value, low=low,
                           high=high, unit="more than attention", **told)  # fmt: skip
            powers = powers.drop(index=name, level=0)


def _floors(experiment: str, runs: pd.DataFrame) -> Iterator[Evidence]:
    """Yield a line a mixer: both powers above the floor, and whether a free constant finds it."""
    _, scale, corpus, *swept = experiment.split("/")
    table = scaling.scaling_runs(runs) if scale != "smoke" and not swept else runs[:0]
    for name, own in table.groupby("variant", sort=False) if len(table) else ():
        try:
            fit, free = (scaling.fit_runs(own, is_free=is_free) for is_free in (False, True))
        except AttnlabError:
            continue  # too few sizes so far
        seeds, (low, high) = own["seed"].nunique(), free.intervals["E"]
        powers = (f"{n}^-{getattr(fit, p):.2f} ({fit.intervals[p][0]:.2f} to "
                  f"{fit.intervals[p][1]:.2f})" for n, p in (("N", "a"), ("D", "b")))  # fmt: skip
        found = measured(free.E - fit.E, low - fit.E, high - fit.E, "{:+.3f}", "nats off")
        found["number"] = f"{', '.join(powers)}; constant {found['number']}"
        claim = Claim(says="a constant that is fitted finds the floor", variant=str(name),
                      baseline="", relation="close")  # fmt: skip
        verdict = claim.verdict(n_pairs=seeds, low=found["low"], high=found["high"])
        yield Evidence(verdict, seeds=seeds, budget=budget_of(runs), record=experiment,
                       claim=claim.says,
                       quantity=f"{look(str(name)).label} on {corpus}, residual {fit.rms:.0%}",
                       **found)  # fmt: skip


def _loss_by_size(runs: pd.DataFrame) -> Evidence:
    """Say with which power of its weights a model's loss falls, where one has three widths."""
    powers, n, told = [], 0, {"claim": "the loss falls with the size of a model"}
    text = runs["experiment"].str.split("/").str[2] if len(runs) else None
    for _, part in runs.groupby([text, "variant"]) if len(runs) else ():
        n = max(n, part["config.model.d_model"].nunique())
        if part["config.model.d_model"].nunique() >= N_SIZES:
            loss = part.groupby("n_weights")["test_loss_nats"].mean()
            powers.append(float(np.polyfit(np.log(loss.index), np.log(loss), 1)[0]))
    if not powers:
        return Evidence(NOT_RECORDED, f"{n} of {N_SIZES} widths", record="", **told)
    number = f"weights to the power {min(powers):.3f} to {max(powers):.3f}"
    seeds, place = runs["seed"].nunique(), "language-model/"
    verdict = too_few(seeds) if seeds < compare.MIN_SEEDS else HOLDS if max(powers) < 0 else FAILS
    return Evidence(verdict, number, seeds, record=place, **told)


@evidence_for("E14")
def _texts(records: Records) -> Iterator[Evidence]:
    found: dict[str, Evidence] = {}
    for name, runs in (*records.each("language-model/"), *_family_runs(records)):
        scale, text, *swept = name.split("/")[1:]
        if text in GENERATED_ROWS:
            continue
        for line in paired(runs, ORDERING[:1], "test_loss_nats", "{}", "nats", record=name):
            if text != "tales" and scale != "smoke" and not swept:
                found[text] = max(found.get(text, line), line, key=lambda each: each.seeds)
    if found:
        verdicts = {line.verdict for line in found.values()}
        is_enough, told = len(found) >= N_TEXTS, list(found.values())
        said = "; ".join(f"{text}: {line.verdict}" for text, line in found.items())
        yield Evidence((verdicts.pop() if len(verdicts) == 1 else UNDECIDED) if is_enough
                       else NOT_RECORDED, f"{len(found)} of {N_TEXTS} texts ({said})",
                       min(line.seeds for line in told), told[0].budget,
                       ", ".join(line.record for line in told))  # fmt: skip


@evidence_for("T1")
def _questions(_: Records) -> Iterator[Evidence]:
    asked = read_quiz("what_we_found")
    n = sum(sum(option.is_right for option in question.options) == 1 for question in asked)
    n_reasons = sum(bool(option.reason) for q in asked for option in q.options)
    number = f"{n} of {len(asked)} questions; {n_reasons} reasons"
    yield Evidence(BUILT if n == len(asked) else FAILS, number)


def find_evidence(claim: str, records: Records) -> list[Evidence]:
    """Return the lines of a claim; one that says *not recorded yet* where there is nothing."""
    find = EVIDENCE.get(claim, lambda records: compared(claim, records))
    return [*find(records)] or [Evidence(NOT_RECORDED, record="")]
