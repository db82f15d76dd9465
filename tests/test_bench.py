"""The study of speed: races become records, auto is judged, targets are told, the command works."""

import functools
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch

from attnlab.__main__ import main
from attnlab.analysis.timing import Peaks, Timings, compare
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer
from attnlab.mixers.convolution import method_flops
from attnlab.records import load_runs
from attnlab.studies.attentionless import ARMS
from attnlab.studies.speed import (
    PARTS,
    TARGETS,
    Entrant,
    Part,
    Race,
    SpeedPlan,
    Target,
    as_table,
    core,
    generation,
    get_part,
    judge_targets,
    layers,
    methods,
    run_race,
    run_races,
    slow_choices,
    target_sentences,
    work,
)

PEAKS = Peaks(
    gemm_gflops=100.0,
    gemm_onednn_gflops=None,
    copy_gb_s=10.0,
    rfft_gflops=5.0,
    n_threads=1,
)


def run_part(name, **options):
    plan = SpeedPlan(part=name, scale="smoke", routes=("default",), **options)
    return list(run_races(get_part(name), plan, peaks=PEAKS))


@pytest.fixture(scope="module")
def smoke():
    """Return the records of every part at the smallest scale."""
    return {name: run_part(name) for name in PARTS}


@pytest.mark.parametrize("name", PARTS)
def test_every_part_ends_in_records_with_spread_peaks_and_sizes(smoke, name):
    assert smoke[name]
    for record in smoke[name]:
        assert record.experiment.startswith(f"speed/smoke/{name}/")
        assert 0 < record.metrics["low_ms"] <= record.metrics["median_ms"]
        assert record.metrics["median_ms"] <= record.metrics["high_ms"]
        assert record.metrics["machine_gemm_gflops"] == 100.0
        assert len(record.details["samples_ms"]) == record.config["repeats"] == 5
        assert {"batch", "route", "threads", "device", "keeps_pages", "work"} <= set(record.config)
        json.dumps(record.config)
        assert record.seconds > 0


def test_no_two_records_of_a_series_are_the_same_point(smoke):
    points = [(r.experiment, r.variant, r.seed) for part in smoke.values() for r in part]
    assert len(points) == len(set(points))


def test_rounds_are_interleaved(smoke):
    race = [r for r in smoke["prefill"] if r.experiment == smoke["prefill"][0].experiment]
    turns = list(zip(*(record.details["turns"] for record in race), strict=True))
    assert all(sorted(turn) == list(range(len(race))) for turn in turns)
    assert len(set(turns)) > 1


def test_attention_is_the_opponent_and_one_times_itself(smoke):
    for name in ("mixers", "training", "prefill", "generation"):
        for record in smoke[name]:
            m = record.metrics
            low, high = m["ratio_to_attention_low"], m["ratio_to_attention_high"]
            assert low <= m["ratio_to_attention"] <= high
            if record.variant == "attention":
                assert (low, high) == (1.0, 1.0)


def test_training_is_also_held_against_the_plain_lag_loop(smoke):
    by_variant = {r.variant: r for r in smoke["training"]}
    assert by_variant["she/lags"].metrics["ratio_to_lags"] == 1.0
    assert by_variant["she/lags"].config["method"] == "lags"
    weights = {v: by_variant[v].metrics["n_weights"] for v in ("she", "she/lags")}
    assert weights["she"] == weights["she/lags"]
    assert all(r.metrics["peak_mib"] > 0 for r in smoke["training"])


def test_every_translator_says_its_weights_and_its_work(smoke):
    table = as_table(smoke["translation"]).set_index("variant")
    teacher = table.loc["teacher"].iloc[0]
    assert set(table.index) <= {"teacher", *ARMS}
    assert teacher["n_stand_in_weights"] == 0
    taken = table["n_weights"] - table["n_stand_in_weights"] + table["n_replaced_weights"]
    assert (taken == teacher["n_weights"]).all()
    assert (table.groupby("variant")["work_gflop"].nunique() == 1).all()
    assert set(table["config.work"]) == {"forced", "greedy"}
    assert set(table.loc[table["config.work"] == "greedy", "config.batch"]) == {1, 3}
    assert (table.loc["teacher", "ratio_to_teacher"] == 1.0).all()


def test_every_method_is_raced_by_name_beside_auto(smoke):
    raced = {r.variant for r in smoke["methods"]}
    left_out = {m for r in smoke["methods"] for m in r.config["left_out"].split(",")}
    for ndim, whose in ((3, "she"), (2, "we"), (1, "extractor")):
        for method in (*methods.list_methods(ndim), "auto"):
            assert f"{whose}/{method}" in raced or method in left_out
    for record in smoke["methods"]:
        if record.variant.endswith("/auto"):
            assert record.config["method"] in methods.list_methods(
                methods.NDIM[record.config["extract"]]
            )


def test_series_of_the_same_seed_draw_the_same_order():
    first, again, other = (run_part("prefill", seed=seed) for seed in (1, 1, 2))
    turns = [[r.details["turns"] for r in records] for records in (first, again, other)]
    assert turns[0] == turns[1] != turns[2]


def test_records_load_as_one_table_with_their_sizes(smoke, tmp_path):
    for record in smoke["mixers"]:
        record.append_to(core.run_file(tmp_path))
    loaded = load_runs("speed/smoke/mixers/", path=core.run_file(tmp_path))
    table = as_table(smoke["mixers"])
    assert len(loaded) == len(table)
    for column in ("config.time", "config.route", "median_ms", "ratio_to_attention"):
        assert loaded[column].tolist() == pytest.approx(table[column].tolist()) or (
            loaded[column].tolist() == table[column].tolist()
        )


def race_of(samples, *, opponents=("attention",)):
    """Return the ratios that a race of known times records, by candidate."""
    timings = Timings(
        samples_ms={k: tuple(v) for k, v in samples.items()},
        order=(),
        n_calls=dict.fromkeys(samples, 1),
        n_warmup=1,
        n_threads=1,
        device="cpu",
    )
    race = Race(point="x", sizes={}, entrants={}, opponents=opponents, n_tokens=1)
    return {
        key: core._ratios(key, route=key.rpartition("@")[2], race=race, timings=timings)
        for key in samples
    }


def test_a_ratio_on_another_route_meets_the_opponent_where_that_is_faster():
    ratios = race_of(
        {
            "attention@default": [2.0] * 5,
            "attention@onednn": [4.0] * 5,
            "she@default": [6.0] * 5,
            "she@onednn": [3.0] * 5,
        }
    )
    assert ratios["she@default"]["ratio_to_attention"] == 3.0
    assert ratios["she@onednn"]["ratio_to_attention"] == 1.5  # not 3 / 4
    ratios = race_of(
        {
            "attention@default": [4.0] * 5,
            "attention@onednn": [2.0] * 5,
            "she@default": [6.0] * 5,
            "she@onednn": [3.0] * 5,
        }
    )
    assert ratios["she@default"]["ratio_to_attention"] == 1.5  # not 6 / 2: as installed
    assert ratios["she@onednn"]["ratio_to_attention"] == 1.5


def test_the_best_method_is_never_auto_itself():
    samples = {"she/lags@default": [4.0] * 5, "she/auto@default": [2.0] * 5}
    ratios = race_of(samples, opponents=(core.BEST,))
    assert ratios["she/auto@default"]["ratio_to_best"] == 0.5


@pytest.fixture
def naps(monkeypatch):
    """Return a maker of parts with one race of programs whose seconds are known exactly."""
    now = [0.0]
    exact = functools.partial(compare, clock=lambda: now[0])
    monkeypatch.setattr(core, "compare", exact)

    def entrant(seconds, flops):
        def call():
            now[0] += seconds

        return Entrant(call=call, flops=flops, n_pieces=2, config={"method": "lags"})

    def make(*, flops=None, **seconds):
        def races(plan):
            entrants = {n: functools.partial(entrant, s, flops) for n, s in seconds.items()}
            yield Race(point="nap", sizes={"work": "nap"}, entrants=entrants, n_tokens=6)

        return Part(name="naps", summary="pass time", races=races)

    return make


def test_known_durations_give_known_ratios_and_shares(naps):
    plan = SpeedPlan(part="naps", scale="smoke", routes=("default",))
    part = naps(attention=0.004, she=0.012, flops=3 * 10**7)
    records = {r.variant: r for r in run_races(part, plan, peaks=PEAKS)}
    she = records["she"].metrics
    assert she["median_ms"] == pytest.approx(6.0)  # two pieces in a call
    assert she["ratio_to_attention"] == pytest.approx(3.0)
    assert she["tokens_per_s"] == pytest.approx(1000.0)  # 6 tokens in 6 ms
    assert she["gflop_per_s"] == pytest.approx(5.0)  # 0.03 GFLOP in 6 ms
    assert she["roofline_fraction"] == pytest.approx(0.05)  # of 100
    assert records["she"].seconds == pytest.approx(5 * 0.012)


def test_threads_are_pinned_while_a_part_runs():
    before = torch.get_num_threads()
    seen = []

    def races(plan):
        def entrant():
            return Entrant(call=lambda: seen.append(torch.get_num_threads()))

        yield Race(point="x", sizes={}, entrants={"attention": entrant}, n_tokens=1)

    plan = SpeedPlan(part="x", scale="smoke", n_threads=before + 1, routes=("default",))
    (record,) = run_races(Part(name="x", summary="", races=races), plan, peaks=PEAKS)
    assert set(seen) == {before + 1}
    assert record.environment["threads"] == str(before + 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "huge"}, "No scale is called 'huge'"),
        ({"routes": ("mkl",)}, "No product route is called 'mkl'"),
        ({"routes": ()}, "routes is empty"),
    ],
)
def test_a_plan_that_cannot_be_measured_is_refused(options, words):
    with pytest.raises(AttnlabError, match=words):
        SpeedPlan(part="mixers", **options)


def test_too_few_rounds_are_refused_before_anything_is_recorded():
    with pytest.raises(AttnlabError, match="repeats=3"):
        run_part("prefill", repeats=3)
    with pytest.raises(UnknownNameError, match="Did you mean 'mixers'"):
        get_part("mixer")


def test_an_inexact_route_is_left_out(monkeypatch):
    monkeypatch.setattr(core, "onednn_is_exact", lambda: False)
    assert SpeedPlan(part="mixers").usable_routes == ("default",)
    assert SpeedPlan(part="mixers", routes=("onednn",)).usable_routes == ("default",)
    monkeypatch.setattr(core, "onednn_is_exact", lambda: True)
    assert SpeedPlan(part="mixers").usable_routes == ("default", "onednn")
    assert SpeedPlan(part="mixers", device="cuda").usable_routes == ("default",)


def test_operations_of_a_layer_are_those_of_its_maps_and_its_sum():
    batch, time, d = 3, 7, 5
    attention = build_mixer("attention", d_model=d, context_len=time)
    # four maps of 2 B T d^2, then scores and mixture of 2 B P d each, P = 7 * 8 / 2
    forward = 4 * 2 * batch * time * d * d + 2 * 2 * batch * 28 * d
    count = work.layer_flops
    assert count(attention, batch=batch, time=time, work="forward") == forward
    she = build_mixer("she", d_model=d, context_len=time, method="lags")
    sizes = {"batch": batch, "time": time, "n_lags": time, "d_in": d}
    core_flops = method_flops("lags", ndim=3, **sizes, training=True)
    both = 3 * 2 * 2 * batch * time * d * d + core_flops
    assert count(she, batch=batch, time=time, work="training") == both
    identity = build_mixer("identity", d_model=d, context_len=time)
    assert count(identity, batch=batch, time=time, work="forward") is None


def test_kept_transforms_are_not_counted_as_done():
    she = build_mixer("she", d_model=4, context_len=8, method="fft")
    assert work.layer_flops(she, batch=1, time=8, work="inference") is None
    assert work.layer_flops(she, batch=1, time=8, work="forward") > 0
    frozen = methods.Sum(extract="matrix", work="frozen", batch=1, time=8, d_model=4)
    assert frozen.flops("staged") is None
    assert frozen.flops("lags") > 0


def test_passes_compute_what_they_are_called():
    layer = build_mixer("he", d_model=4, context_len=6)
    x = work.noise(2, 6, 4, seed=0, device="cpu")
    assert work.forward_pass(layer, x)().requires_grad
    gradients = work.training_pass(layer, x, weights=layer.parameters())()
    assert [g.shape for g in gradients[1:]] == [w.shape for w in layer.parameters()]
    assert not work.inference_pass(layer, x)().requires_grad
    half = work.training_pass(work.in_precision(layer, "bf16"), x, weights=layer.parameters())()
    torch.testing.assert_close(half[0], gradients[0], rtol=0.1, atol=0.1)
    assert not torch.equal(half[0], gradients[0])


def test_a_training_step_trains():
    sizes = {"vocab_size": 11, "d_model": 8, "context_len": 5, "n_layers": 1}
    model = work.build_model("she/lags", sizes=sizes, seed=0, device="cpu")
    assert model.config == ModelConfig(mixer="she", mixer_options={"method": "lags"}, **sizes)
    before = model.head.weight.detach().clone()
    work.training_step(model, batch=2, precision="fp32", seed=0, device="cpu")()
    assert not torch.equal(before, model.head.weight)


@pytest.mark.parametrize("name", ["attention", "she", "me"])
def test_generation_is_timed_with_a_full_context(name):
    layer = build_mixer(name, d_model=4, context_len=6)
    state = generation.full_state(layer, batch=2, options={}, seed=0, device="cpu")
    parts = state if isinstance(state, tuple) else (state,)
    assert all(part.n_seen == 6 for part in parts)


def test_tiles_are_timed_over_a_whole_period():
    layer = build_mixer("he", d_model=4, context_len=300)
    options = {"streaming": "tiles"}
    state = generation.full_state(layer, batch=1, options=options, seed=0, device="cpu")
    assert generation.period_of(state, context_len=300) == state.tiling.largest
    ring = generation.full_state(
        layer, batch=1, options={"streaming": "ring"}, seed=0, device="cpu"
    )
    assert generation.period_of(ring, context_len=300) == generation.RING_TOKENS


def test_a_model_stream_goes_on_after_its_context_is_full():
    sizes = {"vocab_size": 11, "d_model": 8, "context_len": 5, "n_layers": 1}
    model = work.build_model("attention", sizes=sizes, seed=0, device="cpu")
    call = generation.stream(model, batch=2, plan=SpeedPlan(part="generation"))
    call()
    call()


def test_methods_far_from_the_best_are_left_out(monkeypatch):
    for kind in ("training", "frozen"):
        what = methods.Sum(extract="matrix", work=kind, batch=16, time=2048, d_model=128)
        assert "conv1d" not in methods.near_in_operations(what)
        assert "staged" in methods.near_in_operations(what)
    small = methods.Sum(extract="matrix", work="training", batch=1, time=8, d_model=4)
    assert methods.near_in_operations(small) == list(methods.list_methods(3))
    seconds = {"fast": 1.0, "slow": 21.0, "fair": 19.0, "auto": 50.0}
    monkeypatch.setattr(methods, "_second_call_seconds", lambda call: seconds[call])
    assert methods.near_in_time({name: name for name in seconds}) == ["fast", "fair", "auto"]


def choices(**ratios):
    return pd.DataFrame(
        {
            "experiment": f"speed/smoke/methods/{point}/default-1-threads",
            "variant": "she/auto",
            "ratio_to_best": ratio,
            "config.part": "methods",
            "config.method": "lags",
        }
        for point, ratio in ratios.items()
    )


def test_a_choice_over_the_tolerance_is_found():
    slow = slow_choices(choices(a=1.25, b=1.26, c=0.9))
    assert [e.split("/")[3] for e in slow["experiment"]] == ["b"]
    with pytest.raises(AttnlabError, match="run the part methods"):
        slow_choices(choices(a=1.0).assign(variant="she/lags"))


def row_of(config=None, **metrics):
    """Return a record of SHE in part mixers as a table row; ``config`` says what is different."""
    sizes = {"part": "mixers", "work": "training", "batch": 16, "time": 512, "d_model": 128}
    sizes |= {"route": "default", "threads": 2} | (config or {})
    values = {"variant": "she", "median_ms": 1.0, "ratio_to_attention": 1.0} | metrics
    return values | {f"config.{name}": value for name, value in sizes.items()}


def stream_of(context_len, **metrics):
    config = {"part": "generation", "work": "layer", "context_len": context_len}
    return row_of(config, **metrics)


def sentences(*rows):
    return target_sentences(judge_targets(pd.DataFrame(rows)))


def test_a_target_is_told_as_reached_or_missed_with_both_numbers():
    (words,) = sentences(row_of(ratio_to_attention=0.97))
    assert "SHE forward and backward over attention's, T = 512, batch 16: reached (0.97" in words
    assert "wanted at most 1;" in words
    assert "threads 2" in words
    (words,) = sentences(row_of(ratio_to_attention=1.44))
    assert "missed (got 1.44, wanted at most 1" in words


def test_a_speed_is_one_over_the_ratio_of_times():
    words = sentences(stream_of(2048, ratio_to_attention=0.125))
    assert any("tokens per second of SHE" in w and "reached (8," in w for w in words)


def test_growth_divides_two_contexts_of_the_same_route():
    rows = [stream_of(512, median_ms=1.0), stream_of(2048, median_ms=2.0)]
    (growth,) = [w for w in sentences(*rows) if "context 2048 over 512" in w]
    assert "missed (got 2, wanted at most 1.6" in growth
    rows[0]["config.route"] = "onednn"
    assert not [w for w in sentences(*rows) if "context 2048 over 512" in w]


def test_the_route_that_suits_the_variant_and_the_last_series_count():
    rows = [
        row_of(median_ms=3.0, ratio_to_attention=3.0),
        row_of(median_ms=2.0, ratio_to_attention=2.0),
        row_of({"route": "onednn"}, ratio_to_attention=0.9),
    ]
    (words,) = sentences(*rows)
    assert "reached (0.9" in words
    assert "route onednn" in words
    (words,) = sentences(*rows[:2])
    assert "got 2" in words


def test_what_was_not_measured_is_not_judged():
    assert not len(judge_targets(pd.DataFrame([row_of({"time": 64})])))
    assert not len(judge_targets(pd.DataFrame()))


def test_every_target_can_be_found_in_records_that_measure_it():
    for target in TARGETS:
        assert (target.at_most is None) != (target.at_least is None)
        assert target.part in PARTS
        rows = []
        for where in filter(None, (target.where, target.over)):
            values = {f"config.{name}": value for name, value in where.items()}
            row = {"config.part": target.part, "variant": target.variant, "median_ms": 1.0}
            row |= {"config.route": "default", "config.threads": 1, target.metric: 1.0}
            rows.append(row | values)
        judged = judge_targets(pd.DataFrame(rows), targets=(target,))
        assert judged["value"].tolist() == [1.0]


def test_every_target_is_measured_at_the_largest_scale():
    points = {
        name: [race.sizes for race in part.races(SpeedPlan(part=name, scale="paper"))]
        for name, part in PARTS.items()
        if name != "methods"
    }
    for target in TARGETS:
        for where in filter(None, (target.where, target.over)):
            assert any(where.items() <= dict(sizes).items() for sizes in points[target.part])


def test_a_limit_is_kept_on_its_own_side():
    here = {"says": "x", "part": "mixers", "variant": "she", "where": {}}
    assert Target(**here, at_most=2.0).is_kept(2.0)
    assert not Target(**here, at_most=2.0).is_kept(2.1)
    assert Target(**here, at_least=2.0).is_kept(2.0)
    assert not Target(**here, at_least=2.0).is_kept(1.9)


@pytest.fixture
def quick(monkeypatch):
    """Make the command's own measurements of the machine quick, and its numbers known."""
    monkeypatch.setattr("attnlab.analysis.timing.machine_peaks", lambda **_: PEAKS)
    monkeypatch.setattr("attnlab.training.speed.keep_pages", lambda: True)


def test_bench_prints_ratios_with_spread_and_stores_nothing_unasked(
    capsys, quick, monkeypatch, tmp_path
):
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path)
    assert main(["bench", "prefill", "--scale", "smoke", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "matrix products 100 GFLOP/s; copy 10 GB/s" in text
    assert "to attention" in text
    assert re.search(r"she +\w+ +default +[\d.]+ +[\d.e-]+ to [\d.e-]+ +[\d.]+ \(", text)
    assert "appended" not in text
    assert not list(tmp_path.iterdir())


def test_bench_records_each_series_under_the_next_number(capsys, quick, tmp_path):
    words = ["bench", "prefill", "--scale", "smoke", "--threads", "1", "--stock"]
    for _ in range(2):
        assert main([*words, "--out", str(tmp_path)]) == 0
    table = load_runs("speed/smoke/prefill/", path=tmp_path / "speed.jsonl")
    assert sorted(table["seed"].unique()) == [0, 1]
    assert not table["config.keeps_pages"].any()
    assert set(table["config.route"]) == {"default"}
    assert not table.duplicated(["experiment", "variant", "seed"]).any()
    assert f"{len(table) // 2} records appended" in capsys.readouterr().out


def test_bench_record_goes_to_the_runs_of_the_workbook(quick, monkeypatch, tmp_path):
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path)
    assert main(["bench", "prefill", "--scale", "smoke", "--threads", "1", "--record"]) == 0
    assert (tmp_path / "speed.jsonl").exists()


def test_bench_says_when_other_programs_are_running(capsys, quick, monkeypatch):
    words = ["bench", "prefill", "--scale", "smoke", "--threads", "1", "--stock"]
    for load, is_told in ((0.1, False), (99.0, True), (None, False)):
        monkeypatch.setattr("attnlab.studies.speed.load_average", lambda load=load: load)
        assert main(words) == 0
        assert ("Other programs are running" in capsys.readouterr().out) == is_told


@pytest.mark.parametrize(("ratio", "code"), [(1.2, 0), (1.3, 1)])
def test_check_fails_exactly_where_auto_is_too_slow(capsys, quick, naps, monkeypatch, ratio, code):
    part = naps(attention=1e-3)

    def judged(race, plan, *, peaks):
        for record in run_race(race, plan, peaks=peaks):
            names = ("ratio_to_best", "ratio_to_best_low", "ratio_to_best_high")
            record.metrics.update(dict.fromkeys(names, ratio))
            yield type(record)(**{**vars(record), "variant": "she/auto"})

    monkeypatch.setattr("attnlab.studies.speed.run_race", judged)
    monkeypatch.setattr("attnlab.studies.speed.get_part", lambda _: replace(part, name="methods"))
    words = ["bench", "methods", "--scale", "smoke", "--threads", "1", "--check", "--stock"]
    assert main(words) == code
    captured = capsys.readouterr()
    assert ("within 1.25 times" in captured.out) == (code == 0)
    assert ("1.30 times the best" in captured.err) == (code == 1)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["mixer"], "Did you mean 'mixers'"),
        (["mixers", "--check"], "add the part methods"),
        (["mixers", "--scale", "huge"], "No scale"),
        (["prefill", "--scale", "smoke", "--repeats", "2"], "repeats=2"),
        (["prefill", "--scale", "smoke", "--threads", "0"], "threads=0"),
    ],
)
def test_bench_says_what_it_cannot_do(capsys, quick, words, answer):
    assert main(["bench", *words]) == 1
    assert answer in capsys.readouterr().err


def test_bench_names_every_part(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in PARTS)


def test_bench_needs_the_device_it_is_told_to_use(capsys, quick, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "prefill", "--device", "cuda"]) == 1
    assert "no graphics card" in capsys.readouterr().err


def test_on_cuda_every_layer_also_runs_compiled():
    names = layers.variants(SpeedPlan(part="mixers", device="cuda"))
    assert "she/compiled" in names
    assert layers.variants(SpeedPlan(part="mixers")) == layers.MIXERS
