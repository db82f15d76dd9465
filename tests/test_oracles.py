"""Our mixers compute what independent public programs do, within 1e-5 in float32.

The numbers are from ``tools/oracles.py``, which says how each came about. Inputs and weights are
drawn here as they were there.
"""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from attnlab.mixers import build_mixer
from attnlab.mixers.kernels import KERNELS
from attnlab.mixers.matrix_state import Reading, scan

ROOT = Path(__file__).resolve().parents[1]
STORED = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted((ROOT / "tests" / "fixtures" / "oracles").glob("*.json"))
}
D, H, T = 6, 2, 11
QKVO = ("query", "key", "value", "out")


def tool():
    """Return ``tools/oracles.py`` as a module; nothing of what it asks is imported."""
    spec = importlib.util.spec_from_file_location("oracles", ROOT / "tools" / "oracles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ORACLES = tool()


def agree(name, y):
    """Compare with what is stored under a name."""
    stored = STORED[name]
    wanted = torch.tensor(stored["y"]).reshape(stored["shape"])
    torch.testing.assert_close(y.detach(), wanted, rtol=1e-5, atol=1e-5)


def given(name, mixer, **parts):
    """Put weights by their names into a mixer and compare what it makes of the drawn input."""
    found = dict(mixer.named_parameters())
    assert found.keys() == parts.keys()
    with torch.no_grad():
        for part, values in parts.items():
            assert found[part].shape == values.shape, part
            found[part].copy_(values)
        x = ORACLES.drawn(f"{name} x", 2, T, mixer.d_model)
        agree(name, mixer(x))
        state, outputs = None, []
        for piece in x.split((4, 1, 6), 1):
            y, state = mixer.prefill(piece, state)
            outputs.append(y)
        agree(name, torch.cat(outputs, 1))


def maps(name, n_model=D, **widths):
    """Return the weights of linear maps of the drawn input, by their roles."""
    return {
        f"{role}.weight": ORACLES.weight(f"{name} {role}", n_out, n_model)
        for role, n_out in widths.items()
    }


def conv(name):
    """Return the weights of a short convolution of the delta nets or SSD."""
    channels = 2 * D + 64 if name == "ssd" else 3 * D
    taps = ORACLES.drawn(f"{name} taps", channels, 1, 4)[:, 0].T / 2
    return {"conv.weight": taps, "conv.bias": ORACLES.drawn(f"{name} conv bias", channels) / 4}


def delta(name):
    """Return the weights that both delta nets have."""
    one = maps(name, query=D, key=D, value=D, strength=H, out=D)
    way_in = torch.cat([one.pop(f"{role}.weight") for role in QKVO[:3]])
    return {"way_in.weight": way_in, **one, **conv(name)}


def built(name, **options):
    """Return a mixer of the size of the cases."""
    return build_mixer(name, **{"d_model": D, "context_len": T, "n_heads": H, **options})


def test_every_stored_case_is_one_of_the_tool_and_says_where_it_is_from():
    assert STORED.keys() == ORACLES.CASES.keys()
    for stored in STORED.values():
        assert stored["source"]
        assert "torch" in stored["versions"]
        assert "tools/oracles.py" in stored["command"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention", {}),
        ("alibi_attention", {}),
        ("window_attention", {"window": 4}),
        ("linear_attention", {}),
        ("based", {}),
    ],
)
def test_attention_and_its_linear_kin_agree(name, options):
    given(name, built(name, **options), **maps(name, **dict.fromkeys(QKVO, D)))


def test_rotary_positions_agree_when_pairs_are_put_side_by_side():
    name, width = "rotary_attention", 8
    weights = maps(name, width, **dict.fromkeys(QKVO, width))
    order = [
        head * 4 + i for head in range(H) for i in (0, 2, 1, 3)
    ]  # (i, i + 2) to (2 i, 2 i + 1)
    for role in ("query", "key"):
        weights[f"{role}.weight"] = weights[f"{role}.weight"][order]
    given(name, built(name, d_model=width), **weights)


def test_retention_agrees():
    name, wide = "retention", dict.fromkeys(("value", "gate"), 2 * D)
    out = {"out.weight": ORACLES.weight(f"{name} out", D, 2 * D)}
    given(name, built(name), **maps(name, query=D, key=D, **wide), **out)


def test_ssd_agrees():
    name = "ssd"
    parts = {"step_bias": H, "rate": H, "skip": H, "scale": 2 * D}
    given(
        name,
        built(name),
        **maps(name, way_in=4 * D + 64 + H),
        **conv(name),
        **{part: ORACLES.drawn(f"{name} {part}", n) for part, n in parts.items()},
        **{"out.weight": ORACLES.weight(f"{name} out", D, 2 * D)},
    )


def test_gated_linear_attention_agrees():
    name = "gla"
    given(
        name,
        built(name),
        **maps(name, query=2 * H, key=2 * H, value=D, gate=D, out=D, narrow=16),
        **{"wide.weight": ORACLES.weight(f"{name} wide", 2 * H, 16)},
        decay_bias=ORACLES.drawn(f"{name} bias", 2 * H),
    )


def test_the_delta_net_agrees():
    given("delta_net", built("delta_net"), **delta("delta_net"))


def test_the_gated_delta_net_agrees():
    name = "gated_delta_net"
    more = {part: ORACLES.drawn(f"{name} {part}", H) for part in ("rate", "gate_bias")}
    given(name, built(name), **delta(name), **maps(name, gate=H), **more)


@pytest.mark.parametrize("chunk", [4, 12])
def test_scans_with_a_scalar_decay_agree(chunk):
    drawn = ORACLES.drawn
    q, k, v = (
        drawn(f"scalar_decay {z}", 2, T, H, n) for z, n in zip("qkv", (3, 3, 4), strict=True)
    )
    g = -drawn("scalar_decay g", 2, T, H).abs()
    q, k, v, g = (z.transpose(1, 2) for z in (q, k, v, g[..., None]))
    agree("scalar_decay", scan(Reading(q, k, v, g), chunk=chunk)[0].transpose(1, 2))
    v, g = drawn("ssd_minimal v", 2, 12, H, 4), -drawn("ssd_minimal a", 2, 12, H).abs()
    k, q = (drawn(f"ssd_minimal {z}", 2, 12, 1, 3) for z in "kq")
    q, k, v, g = (z.transpose(1, 2) for z in (q, k, v, g[..., None]))
    agree("ssd_minimal", scan(Reading(q, k, v, g), chunk=chunk)[0].transpose(1, 2))


def test_rwkv_agrees():
    name, drawn = "rwkv4", ORACLES.drawn
    theirs = {"receive": "receptance", "key": "key", "value": "value", "out": "output"}
    given(
        name,
        build_mixer(name, d_model=D, context_len=T),
        **{f"{our}.weight": ORACLES.weight(f"{name} {role}", D, D) for our, role in theirs.items()},
        newest=torch.stack(
            [drawn(f"{name} mix {role}", D).sigmoid() for role in ("receptance", "key", "value")]
        ),
        decay=drawn(f"{name} decay", D),
        bonus=drawn(f"{name} first", D),
    )


@pytest.mark.parametrize("order", [2, 3])
def test_hyena_and_its_filters_agree(order):
    name, n_stages = f"hyena_{order}", order - 1
    mixer = build_mixer("hyena", d_model=D, context_len=T, order=order)

    def part(role, *shape):
        return ORACLES.drawn(f"{name} {role}", *shape) / math.prod(shape[1:]) ** 0.5

    inner, width = (order + 1) * D, 64
    weights = {
        "project.weight": part("in_proj.weight", inner, D),
        "project.bias": part("in_proj.bias", inner),
        "out.weight": part("out_proj.weight", D, D),
        "out.bias": part("out_proj.bias", D),
        "short": part("short_filter.weight", inner, 1, 3)[:, 0].T.flip(0),
        "short_bias": part("short_filter.bias", inner),
        "filters.skip": part("filter_fn.bias", n_stages * D),
        "filters.last.weight": part("filter_fn.implicit_filter.6.weight", n_stages * D, width),
        "filters.omega": torch.ones(width),
        "filters.features": mixer.filters.features.detach().clone(),
    }
    for i, n_in in enumerate((3, width, width)):
        theirs = f"filter_fn.implicit_filter.{2 * i}"
        weights[f"filters.hidden.{i}.weight"] = part(f"{theirs}.weight", width, n_in)
        weights[f"filters.hidden.{i}.bias"] = part(f"{theirs}.bias", width)
    given(name, mixer, **weights)


def test_the_kernel_of_oscillators_agrees():
    drawn, kernel = ORACLES.drawn, KERNELS["s4d"](channels=3, n_state=8)
    with torch.no_grad():
        kernel.readout.copy_(drawn("s4d readout", 3, 4, 2))
        kernel.log_step.copy_(drawn("s4d log_step", 3) - 2)
        kernel.log_damping.copy_(drawn("s4d log_damping", 3, 4) / 2)
        kernel.frequency.copy_(3 * drawn("s4d frequency", 3, 4).abs())
    agree("s4d", kernel.make(21))
