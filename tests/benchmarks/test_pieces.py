"""Single pieces against the clock: ``pytest tests/benchmarks --benchmark-enable``.

In the test suite each runs once, untimed. Side by side, with ratios and spread: ``attnlab bench``.
"""

import pytest
import torch

from attnlab.mixers.convolution import list_methods
from attnlab.studies.speed import SpeedPlan
from attnlab.studies.speed.generation import layer_entrant
from attnlab.studies.speed.layers import MIXERS, build_entrant
from attnlab.studies.speed.methods import Sum, method_call
from attnlab.studies.speed.work import build_model, training_step

SMALL = {"d_model": 32, "context_len": 32, "n_layers": 1, "vocab_size": 100}


@pytest.mark.parametrize("work", ["forward", "training", "inference"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_layer(benchmark, mixer, work):
    plan = SpeedPlan(part="mixers")
    benchmark(build_entrant(mixer, plan=plan, work=work, batch=4, time=64, d_model=32).call)


@pytest.mark.parametrize(
    ("extract", "method"),
    [(extract, m) for extract, n in (("matrix", 3), ("diag", 2)) for m in list_methods(n)],
)
def test_a_convolution_with_its_gradients(benchmark, extract, method):
    what = Sum(extract=extract, work="training", batch=4, time=64, d_model=32)
    x, weight = what.operands(seed=0, device="cpu")
    benchmark(method_call(method, what, x, weight))


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_training_step(benchmark, mixer):
    model = build_model(mixer, sizes=SMALL, seed=0, device="cpu")
    step = benchmark(training_step(model, batch=4, precision="fp32", seed=0, device="cpu"))
    assert torch.isfinite(torch.tensor(step.loss_nats))


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_period_of_generation(benchmark, mixer):
    plan = SpeedPlan(part="generation")
    benchmark(layer_entrant(mixer, plan=plan, batch=1, context_len=32, d_model=32).call)
