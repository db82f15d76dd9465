"""Single pieces against the clock: ``pytest tests/benchmarks --benchmark-enable``.

In the test suite each runs once, untimed. Side by side, with ratios and spread: ``attnlab bench``.
"""

import pytest
import torch

from attnlab.mixers.convolution import list_methods
from attnlab.studies import clock
from attnlab.studies.clock import MIXERS, SpeedPlan

SMALL = {"d_model": 32, "context_len": 32, "n_layers": 1, "vocab_size": 100}


@pytest.mark.parametrize("work", ["training", "inference"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_a_layer(benchmark, mixer, work):
    plan, sizes = SpeedPlan(part="mixers"), {"batch": 4, "time": 64, "d_model": 32}
    benchmark(clock.layer_entrant(mixer, plan=plan, work=work, **sizes).call)


@pytest.mark.parametrize(
    ("extract", "method"),
    [(extract, m) for extract, n in (("matrix", 3), ("diag", 2)) for m in list_methods(n)],
)
def test_a_convolution_with_its_gradients(benchmark, extract, method):
    plan, sizes = SpeedPlan(part="methods"), {"batch": 4, "time": 64, "d_model": 32}
    benchmark(clock.sum_entrant(method, plan=plan, extract=extract, work="training", **sizes).call)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_training_step(benchmark, mixer):
    plan = SpeedPlan(part="training")
    model = clock.build_model(mixer, plan, **SMALL)
    step = benchmark(clock.training_step(model, plan, batch=4))
    assert torch.isfinite(torch.tensor(step.loss_nats))


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_period_of_generation(benchmark, mixer):
    plan, sizes = SpeedPlan(part="generation"), {"batch": 1, "context_len": 32, "d_model": 32}
    benchmark(clock.stream_entrant(mixer, plan=plan, **sizes).call)
