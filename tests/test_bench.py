"""The study of speed: races become records, auto is judged, the command tells and stores."""

import functools
import itertools
import json
import re

import pandas as pd
import pytest
import torch

from attnlab.analysis.theory import expected_state_numbers
from attnlab.analysis.timing import Peaks, compare
from attnlab.cli import main
from attnlab.config import BOS, EOS, PAD, ModelConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer, list_mixers
from attnlab.mixers.base import state_numbers
from attnlab.mixers.convolution import list_methods
from attnlab.records import RunRecord, load_runs
from attnlab.studies import clock, growth, lengths, sentence_clock
from attnlab.studies.clock import PARTS, Entrant, Race, SpeedPlan, as_table, run_race

PEAKS = Peaks(gemm_gflops=100.0, copy_gb_s=10.0, rfft_gflops=5.0, n_threads=1)
TRANSLATION = SpeedPlan(part="translation")


def run_part(name, **options):
    plan = SpeedPlan(part=name, **options)
    return [r for race in PARTS[name][1](plan) for r in run_race(race, plan, peaks=PEAKS)]


@pytest.fixture(scope="module")
def smoke():
    """Return the records of every part at the smallest scale."""
    return {name: run_part(name) for name in PARTS}


@pytest.mark.parametrize("name", PARTS)
def test_every_part_ends_in_records_with_spread_peaks_and_sizes(smoke, name):
    assert smoke[name]
    for record in smoke[name]:
        m = record.metrics
        assert record.experiment.startswith(f"speed/smoke/{name}/")
        assert 0 < m["low_ms"] <= m["median_ms"] <= m["high_ms"]
        assert m["machine_gemm_gflops"] == m["machine_top_gemm_gflops"] == 100.0
        assert len(record.details["samples_ms"]) == record.config["repeats"] == 5
        assert {"batch", "route", "threads", "device", "keeps_pages", "work"} <= set(record.config)
        json.dumps(record.config)
        assert record.seconds > 0


def test_no_two_records_of_a_series_are_the_same_point(smoke):
    points = [(r.experiment, r.variant, r.seed) for part in smoke.values() for r in part]
    assert len(points) == len(set(points))


def test_rounds_are_interleaved_in_an_order_that_the_series_decides(smoke):
    race = [r for r in smoke["prefill"] if r.experiment == smoke["prefill"][0].experiment]
    turns = list(zip(*(record.details["turns"] for record in race), strict=True))
    assert all(sorted(turn) == list(range(len(race))) for turn in turns)
    assert len(set(turns)) > 1
    orders = [
        [record.details["turns"] for record in records]
        for records in (smoke["prefill"], run_part("prefill"), run_part("prefill", seed=1))
    ]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    "name",
    ["mixers", "training", "prefill", "generation", "streaming", "translation", "lengths"],
)
def test_the_opponent_is_one_times_itself(smoke, name):
    opponent = "teacher" if name in ("translation", "lengths") else "attention"
    for record in smoke[name]:
        low, ratio, high = (
            record.metrics[f"ratio_to_{opponent}{e}"] for e in ("_low", "", "_high")
        )
        assert low <= ratio <= high
        if record.variant == opponent:
            assert (low, high) == (1.0, 1.0)


def test_training_is_also_held_against_the_plain_lag_loop(smoke):
    by_variant = {r.variant: r for r in smoke["training"]}
    assert by_variant["she/lags"].metrics["ratio_to_lags"] == 1.0
    weights = {v: by_variant[v].metrics["n_weights"] for v in ("she", "she/lags")}
    assert weights["she"] == weights["she/lags"]
    assert all(r.metrics["peak_mib"] > 0 for r in smoke["training"])


def test_every_registered_mixer_is_raced_for_the_next_token_with_the_state_it_keeps(smoke):
    sizes = {"d_model": 8, "context_len": 8}
    for batch in (1, 2):
        race = {r.variant: r for r in smoke["streaming"] if r.config["batch"] == batch}
        assert set(race) == set(list_mixers())
        for name, record in race.items():
            state = expected_state_numbers(name, n_heads=clock.N_HEADS, **sizes)
            assert record.metrics["state_bytes"] == 4 * state


@pytest.mark.parametrize("name", list_mixers())
def test_a_timed_stream_has_a_full_context_and_never_ends(name):
    plan, sizes = SpeedPlan(part="streaming"), {"d_model": 8, "context_len": 40}
    entrant = clock.stream_entrant(name, plan=plan, batch=2, **sizes)
    states = [entrant.call() for _ in range(3)]
    numbers = [state_numbers(state) for state in states]
    assert numbers == [2 * expected_state_numbers(name, n_heads=clock.N_HEADS, **sizes)] * 3


def test_every_translator_says_its_weights_and_its_work(smoke):
    table = as_table(smoke["translation"]).set_index("variant")
    teacher = table.loc["teacher"].iloc[0]
    assert set(table.index) == {"teacher", *sentence_clock.ARMS}
    assert teacher["n_stand_in_weights"] == 0
    taken = table["n_weights"] - table["n_stand_in_weights"] + table["n_replaced_weights"]
    assert (taken == teacher["n_weights"]).all()
    assert (table.groupby("variant")["work_gflop"].nunique() == 1).all()
    assert set(table["config.work"]) == {"forced", "greedy"}
    assert set(table.loc[table["config.work"] == "greedy", "config.batch"]) == {1, 3}


def test_a_stand_ins_state_is_the_same_at_any_length_and_attentions_grows(smoke):
    table = as_table(smoke["lengths"]).set_index(["variant", "config.time"])
    kept = table["state_bytes"].groupby(level=[0, 1]).agg(["min", "max"])
    assert (kept["min"] == kept["max"]).all()
    budget, (short, long), _ = lengths.GRIDS["smoke"]
    d, h, n_layers = budget.d_model, budget.n_heads, budget.n_layers
    d_head = d // h
    linear, near = h * 2 * d_head * (d_head + 1), lengths.KINDS["window"]["window"]
    for time in (short, long):
        of_self = {"linear": linear, "window": linear + 2 * d * min(time, near),
                   "ssd": d * d_head, "gated_delta": d * d_head}  # fmt: skip
        assert kept["min"]["teacher", time] == 4 * n_layers * 4 * time * d
        for name, n_numbers in of_self.items():
            assert kept["min"][name, time] == 4 * n_layers * (n_numbers + linear)


@pytest.mark.parametrize("variant", ["teacher", *lengths.KINDS])
def test_long_sentences_are_written_as_the_teacher_forced_pass_reads_them(variant):
    plan = SpeedPlan(part="lengths")
    model = lengths.build_long_translator(plan, time=9)
    sentence_clock.substitute(model, lengths.build_kind(variant, model))
    source = 4 + plan.tokens(2, 9, vocab_size=7)
    written = sentence_clock.write_greedily(model, source, n_tokens=9)
    read = torch.cat([torch.full((2, 1), BOS), written[:, :-1]], 1)
    with torch.no_grad():
        logits = model(source, read)
    logits[..., [PAD, BOS, EOS]] = -torch.inf
    assert torch.equal(logits.argmax(-1), written)


def test_prices_by_length_come_back_as_one_table(smoke, tmp_path):
    for record in smoke["lengths"]:
        record.append_to(clock.run_file(tmp_path))
    table = lengths.length_table(scale="smoke", path=clock.run_file(tmp_path))
    assert len(table) == len(smoke["lengths"]) == 5 * 2 * 3
    teachers = table[table["variant"] == "teacher"]
    assert (teachers["times"] == 1).all()
    assert (table["ms_a_token"] * table["time"]).tolist() == pytest.approx(
        table["median_ms"].tolist()
    )
    assert not len(lengths.length_table(scale="paper", path=clock.run_file(tmp_path)))


def test_every_method_is_raced_by_name_beside_auto(smoke):
    raced = {r.variant for r in smoke["methods"]}
    for extract, whose in clock.WHOSE.items():
        methods = list_methods(clock.NDIM[extract])
        assert {f"{whose}/{method}" for method in (*methods, "auto")} <= raced
    for record in smoke["methods"]:
        chosen = record.config["method"]
        assert chosen in list_methods(clock.NDIM[record.config["extract"]])
        assert chosen == record.variant.rpartition("/")[2] or record.variant.endswith("/auto")
        assert record.metrics["ratio_to_best"] > 0


def test_records_load_as_one_table_with_their_sizes(smoke, tmp_path):
    for record in smoke["mixers"]:
        record.append_to(clock.run_file(tmp_path))
    loaded = load_runs("speed/smoke/mixers/", path=clock.run_file(tmp_path))
    table = as_table(smoke["mixers"])
    columns = ["config.time", "config.route", "median_ms", "ratio_to_attention"]
    pd.testing.assert_frame_equal(loaded[columns], table[columns])


@pytest.fixture
def naps(monkeypatch):
    """Put a part in the bench with one race of programs whose seconds are known exactly."""
    now = [0.0]
    exact = functools.partial(compare, clock=lambda: now[0])
    monkeypatch.setattr(clock, "compare", exact)

    def entrant(seconds):
        def call():
            now[0] += seconds

        return Entrant(call=call, flops=3 * 10**7, n_pieces=2, config={"method": "lags"})

    def make(*opponents, name="naps", **seconds):
        naps = {n.replace("_", "/"): s for n, s in seconds.items()}
        race = Race(
            point="nap",
            sizes={"work": "nap"},
            variants=tuple(naps),
            build=lambda name: entrant(naps[name]),
            opponents=opponents,
            n_tokens=6,
        )
        monkeypatch.setitem(PARTS, name, ("pass time", lambda plan: iter([race])))

    return make


def test_known_durations_give_known_ratios_and_shares(naps):
    naps("attention", "she/lags", "absent", attention=0.004, she=0.012, she_lags=0.024)
    records = {r.variant: r for r in run_part("naps")}
    she = records["she"].metrics
    assert she["median_ms"] == pytest.approx(6.0)  # two pieces in a call
    assert (she["ratio_to_attention"], she["ratio_to_lags"]) == pytest.approx((3.0, 0.5))
    assert "ratio_to_absent" not in she
    assert she["tokens_per_s"] == pytest.approx(1000.0)  # 6 tokens in 6 ms
    assert she["gflop_per_s"] == pytest.approx(5.0)  # 0.03 GFLOP in 6 ms
    assert she["roofline_fraction"] == pytest.approx(0.05)  # of 100
    assert records["she"].seconds == pytest.approx(5 * 0.012)


def test_the_best_is_the_fastest_that_chooses_nothing(naps):
    naps(clock.BEST, she_auto=0.001, she_fft=0.002, she_lags=0.003)
    ratios = {r.variant: r.metrics["ratio_to_best"] for r in run_part("naps")}
    assert ratios == pytest.approx({"she/auto": 0.5, "she/fft": 1.0, "she/lags": 1.5})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": "mixer"}, "Did you mean 'mixers'"),
        ({"part": "mixers", "scale": "huge"}, "No scale is called 'huge'"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(options, words):
    with pytest.raises(UnknownNameError, match=words):
        SpeedPlan(**options)


# What is timed


def test_operations_of_a_layer_are_those_of_its_matrix_products():
    batch, time, d = 3, 7, 8
    sizes = {"batch": batch, "time": time, "d_model": d}
    plan = SpeedPlan(part="mixers")
    maps, scores = 4 * 2 * batch * time * d * d, 2 * 2 * batch * time * time * d
    for work, factor in (("training", 3), ("inference", 1)):
        entrant = clock.layer_entrant("attention", plan=plan, work=work, **sizes)
        assert entrant.flops == factor * (maps + scores)


def test_backward_takes_two_products_for_each_of_the_forward_pass():
    weight, x = torch.ones(5, 7, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    forward = clock.counted_flops(lambda: x @ weight)
    assert forward == 2 * 3 * 5 * 7
    assert clock.counted_flops(lambda: (x @ weight).sum().backward()) == 3 * forward


def test_a_layer_runs_as_its_work_says():
    plan, sizes = SpeedPlan(part="mixers"), {"batch": 2, "time": 4, "d_model": 4}
    training, inference = (
        clock.layer_entrant("he", plan=plan, work=work, **sizes)
        for work in ("training", "inference")
    )
    assert not inference.call().requires_grad
    gradients = training.call()
    shapes = [weight.shape for weight in build_mixer("he", d_model=4, context_len=4).parameters()]
    assert [g.shape for g in gradients] == [(2, 4, 4), *shapes]
    assert training.memory["saved_mib"] > 0


def test_a_training_step_trains():
    sizes = {"vocab_size": 11, "d_model": 8, "context_len": 5, "n_layers": 1}
    plan = SpeedPlan(part="training")
    model = clock.build_model("she/lags", plan, **sizes)
    assert model.config == ModelConfig(mixer="she", mixer_options={"method": "lags"}, **sizes)
    before = model.head.weight.detach().clone()
    clock.training_step(model, plan, batch=2)()
    assert not torch.equal(before, model.head.weight)


@pytest.mark.parametrize("name", ["attention", "she", "me"])
def test_generation_is_timed_with_a_full_context(name):
    plan = SpeedPlan(part="generation")
    entrant = clock.stream_entrant(name, plan=plan, batch=2, context_len=6, d_model=4)
    state = entrant.call()
    parts = state if isinstance(state, tuple) else (state,)
    assert entrant.n_pieces == 6
    assert all(part.n_seen == 6 + 6 for part in parts)


def test_tiles_are_timed_over_a_whole_period():
    plan, sizes = SpeedPlan(part="generation"), {"batch": 1, "context_len": 300, "d_model": 4}
    tiles = clock.stream_entrant("he/tiles", plan=plan, **sizes)
    assert tiles.n_pieces == tiles.call().tiling.largest
    assert tiles.config == {"streaming": "tiles"}
    ring = clock.stream_entrant("he/ring", plan=plan, **sizes)
    assert (ring.n_pieces, ring.config["streaming"]) == (clock.RING_TOKENS, "ring")


def test_methods_far_from_the_best_are_left_out():
    plan, what = SpeedPlan(part="methods"), {"extract": "matrix", "work": "training"}
    large = clock.sum_race(plan, **what, batch=16, time=2048, d_model=128)
    assert "she/staged" in large.variants
    assert "she/toeplitz" not in large.variants
    assert "toeplitz" in large.sizes["left_out"].split(",")
    small = clock.sum_race(plan, **what, batch=1, time=8, d_model=4)
    assert small.variants == [f"she/{method}" for method in (*list_methods(3), "auto")]
    assert small.sizes["left_out"] == ""


@pytest.mark.parametrize("variant", ["teacher", *sentence_clock.ARMS])
def test_token_by_token_is_the_teacher_forced_pass_and_never_ends(variant):
    model = sentence_clock.build_translator(TRANSLATION)
    sentence_clock.substitute(model, sentence_clock.build_stand_ins(variant, model, seed=0))
    source, _ = sentence_clock.random_pairs(TRANSLATION)
    written = sentence_clock.write_greedily(model, source, n_tokens=5)
    assert written.shape == (3, 5)
    read = torch.cat([torch.full((3, 1), BOS), written[:, :-1]], 1)
    with torch.no_grad():
        logits = model(source, read)
    logits[..., [PAD, BOS, EOS]] = -torch.inf
    assert torch.equal(logits.argmax(-1), written)


def test_a_sentence_is_written_to_its_full_length_though_its_end_is_likeliest():
    model = sentence_clock.build_translator(TRANSLATION)
    source, _ = sentence_clock.random_pairs(TRANSLATION)

    def ends_at_once(token, state):
        logits = torch.zeros(len(token), sentence_clock.translator_sizes("smoke")["vocab_size"])
        logits[:, EOS] = 1.0
        return logits, state

    model.step = ends_at_once
    written = sentence_clock.write_greedily(model, source, n_tokens=4)
    assert written.shape == (3, 4)
    assert not (written == EOS).any()


def test_operations_of_the_teacher_are_those_of_the_closed_form():
    sizes, time = sentence_clock.translator_sizes("smoke"), 5
    d, d_ff, n = (sizes[name] for name in ("d_model", "d_ff", "n_layers"))
    maps = n * (4 * d * d + 2 * d * d_ff) + n * (8 * d * d + 2 * d * d_ff)
    products = time * (maps + d * sizes["vocab_size"]) + 3 * n * 2 * time * time * d
    entrant = sentence_clock.sentence_entrant("teacher", plan=TRANSLATION, work="forced", batch=3)
    assert entrant.flops == 2 * products


def test_what_is_translated_is_as_large_as_in_the_study():
    expected = {"vocab_size": 6004, "d_model": 128, "n_heads": 8, "n_layers": 3, "d_ff": 512}
    assert sentence_clock.translator_sizes("paper") == {**expected, "max_len": 32}
    pairs = itertools.pairwise(
        map(sentence_clock.translator_sizes, ("smoke", "classroom", "paper"))
    )
    assert all(small["d_model"] < large["d_model"] for small, large in pairs)


def test_a_choice_over_the_tolerance_is_found():
    ratios = {"a": 1.25, "b": 1.26, "c": 0.9}
    table = pd.DataFrame(ratios.items(), columns=["experiment", "ratio_to_best"])
    table["experiment"] = "speed/smoke/methods/" + table["experiment"] + "/default-1-threads"
    table = table.assign(variant="she/auto", **{"config.part": "methods", "config.method": "fft"})
    with pytest.raises(AttnlabError, match=r"at 1 points: b/default-1-threads chose fft, 1\.26"):
        clock.judge_choices(table)
    assert "within 1.25" in clock.judge_choices(table[table["ratio_to_best"] <= 1.25])
    with pytest.raises(AttnlabError, match="run the part methods"):
        clock.judge_choices(table.assign(variant="she/lags"))


# The command


@pytest.fixture
def quick(monkeypatch):
    """Make the command's own measurements of the machine quick, and its numbers known."""
    monkeypatch.setattr(clock, "machine_peaks", lambda **_: PEAKS)
    monkeypatch.setattr(clock, "keep_pages", lambda: True)


def bench(*words):
    return main(["bench", *words, "--scale", "smoke", "--threads", "1"])


def test_bench_prints_ratios_with_spread_and_stores_nothing_unasked(
    capsys, quick, monkeypatch, tmp_path
):
    monkeypatch.setattr("attnlab.paths.OWN_RUNS", tmp_path)
    assert bench("prefill") == 0
    text = capsys.readouterr().out
    assert "matrix products 100 GFLOP/s; copy 10 GB/s" in text
    assert re.search(r"variant +median_ms .* /attention +/attention_low", text)
    assert re.search(r"she( +[\d.e+-]+){6}", text)
    assert "appended" not in text
    assert not list(tmp_path.iterdir())
    assert bench("prefill", "--record") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["speed.jsonl"]


def test_bench_records_each_series_under_the_next_number(capsys, quick, tmp_path):
    for _ in range(2):
        assert bench("prefill", "--out", str(tmp_path)) == 0
    table = load_runs("speed/smoke/prefill/", path=tmp_path / "speed.jsonl")
    assert sorted(table["seed"].unique()) == [0, 1]
    assert table["config.keeps_pages"].all()
    assert not table.duplicated(["experiment", "variant", "seed"]).any()
    assert f"{len(table) // 2} records appended" in capsys.readouterr().out


def test_bench_pins_its_threads_and_says_when_other_programs_are_running(
    capsys, quick, naps, monkeypatch
):
    naps("attention", attention=1e-3)
    before, seen, loads = torch.get_num_threads(), [], {0.1: False, 99.0: True, None: False}
    for load, is_told in loads.items():

        def load_average(load=load):
            seen.append(torch.get_num_threads())
            return load

        monkeypatch.setattr(clock, "load_average", load_average)
        assert main(["bench", "naps", "--scale", "smoke", "--threads", str(before + 1)]) == 0
        assert ("Other programs are running" in capsys.readouterr().out) == is_told
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("seconds", "code"), [(1.2e-3, 0), (1.3e-3, 1)])
def test_check_fails_exactly_where_auto_is_too_slow(capsys, quick, naps, seconds, code):
    naps(clock.BEST, name="methods", she_auto=seconds, she_lags=1e-3)
    assert bench("methods", "--check") == code
    captured = capsys.readouterr()
    assert ("within 1.25 times" in captured.out) == (code == 0)
    assert ("1.30 times the best" in captured.err) == (code == 1)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["mixer"], "Did you mean 'mixers'"),
        (["mixers", "--check"], "add the part methods"),
        (["mixers", "--scale", "huge"], "No scale"),
        (["prefill", "--scale", "smoke", "--repeats", "2"], "--repeats"),
        (["prefill", "--scale", "smoke", "--threads", "0"], "--threads"),
        (["prefill", "--device", "cuda"], "no graphics card"),
    ],
)
def test_bench_says_what_it_cannot_do(capsys, quick, monkeypatch, words, answer):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *words]) == (2 if answer.startswith("--") else 1)
    assert answer in capsys.readouterr().err


def test_bench_names_every_part(capsys):
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in PARTS)


def test_growth_races_every_mixer_at_equally_many_tokens(smoke):
    table = as_table(smoke["growth"])
    assert set(table["variant"]) == set(list_mixers()) - {"identity"}
    assert set(table["config.batch"] * table["config.time"]) == {growth.GRIDS["smoke"][0]}
    assert table.groupby("config.along")["experiment"].nunique().tolist() == [2, 2]
    own = table[table["variant"] == "she"].iloc[0]
    assert own["tokens_per_s"] == pytest.approx(
        1e3 * own["config.time"] / own["median_ms"], rel=1e-4
    )


def plant_times(folder, *, seed, powers, sizes=(128, 512, 2048)):
    for (variant, power), time in itertools.product(powers.items(), sizes):
        samples = [time**power * luck for luck in (0.9, 1.0, 1.1, 1.0, 0.95)]
        config = {"along": "length", "time": time, "d_model": 64}
        RunRecord(
            experiment=f"speed/paper/growth/length-t{time}-d64", variant=variant, seed=seed,
            config=config, metrics={"median_ms": 1.0}, details={"samples_ms": samples}, seconds=1.0,
            command="", commit="", environment={}, finished_at="",
        ).append_to(folder / "speed.jsonl")  # fmt: skip


def test_powers_are_those_of_the_newest_series_with_the_same_luck_taken_out(tmp_path):
    assert growth.growth_powers(path=tmp_path).empty
    plant_times(tmp_path, seed=0, powers={"attention": 5.0, "she": 5.0})
    plant_times(tmp_path, seed=1, powers={"attention": 2.0, "she": 1.5}, sizes=(32, 128, 512, 2048))
    table = growth.growth_powers(path=tmp_path).set_index("variant")
    assert table.loc["she", ["p", "more"]].tolist() == pytest.approx([1.5, -0.5])
    assert table.loc["she", "low"] < 1.5 < table.loc["she", "high"]
    assert table.loc["attention", ["more", "more_low", "more_high"]].tolist() == [0, 0, 0]
    assert (table["n_sizes"] == 3).all(), "32 tokens are too few to show a power"
