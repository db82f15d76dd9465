"""Let independent public programs compute what our mixers must agree with, once, into small files.

    python -m venv ORACLES
    ORACLES/bin/pip install flash-linear-attention transformers einops torch
    PYTHONPATH=. ORACLES/bin/python tools/oracles.py --files FOLDER

writes ``tests/fixtures/oracles/NAME.json``: source, versions, command and outputs. Inputs and
weights are not stored: both sides draw them from a stream with the case's name (``drawn``), and
each case below says which, so a test gives the same ones to our mixer (``tests/test_oracles.py``).

No code of these programs is part of this repository. Those that no registry has are single files
that are laid into FOLDER first, under their own names: see ``FILES``. Without FOLDER their cases
are left as they are.

Traps (each returns wrong numbers without a word):
    Layouts: ``b t h d`` or ``b h t d``, as each case says. The shapes allow both, and only the
    numbers tell.
    Scales: most naive functions multiply queries by ``d_head**-0.5`` inside.
    Rotary pairs: channels (i, i + d/2) there, (2 i, 2 i + 1) here; the test reorders rows.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlab.seeding import numpy_generator

PLACE = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "oracles"
FILES = {  # of FOLDER: where each is from; what they import beside torch and einops is stubbed
    "standalone_hyena.py": "HazyResearch/safari@07fba792, standalone_hyena.py",
    "ssd_minimal.py": "state-spaces/mamba@5d468df2, mamba_ssm/modules/ssd_minimal.py",
    "s4d.py": "state-spaces/s4@2ed46fcf, models/s4/s4d.py",
}
STUBS = {
    "mamba_ssm.ops.triton.ssd_combined": "mamba_chunk_scan_combined",
    "src.models.nn": "DropoutNd",
}
B, T, D, H = 2, 11, 6, 2  # batch, time, d_model, heads
NORM = 1e-6  # beside a mean square under a root
FLA, HUB = "flash-linear-attention", "transformers"

Case = Callable[..., Tensor]
CASES: dict[str, tuple[Case, str, str]] = {}


def drawn(name: str, *shape: int) -> Tensor:
    """Return numbers of variance one with three decimals, the same everywhere."""
    draws = numpy_generator(0, f"oracle {name}").random(shape)
    return torch.from_numpy(((2 * draws - 1) * math.sqrt(3)).round(3)).float()


def weight(name: str, n_out: int, n_in: int) -> Tensor:
    """Return a map that keeps the size of what it maps, ``(n_out, n_in)``."""
    return drawn(name, n_out, n_in) / n_in**0.5


def case(name: str, *, needs: str, source: str) -> Callable[[Case], Case]:
    """Enter a function that computes what is stored under ``name``.

    Args:
        needs: A package, or one of ``FILES``.
        source: Module and function.
    """

    def add(function: Case) -> Case:
        CASES[name] = (function, needs, source)
        return function

    return add


def naive(family: str) -> Any:
    """Return one module of naive functions, loaded by its path: the package wants a GPU."""
    found = importlib.util.find_spec("fla")
    return loaded(Path(found.submodule_search_locations[0]) / "ops" / family / "naive.py")


def loaded(path: Path) -> Any:
    """Return a file as a module."""
    spec = importlib.util.spec_from_file_location(f"oracle_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def projected(name: str, role: str, n_out: int = D) -> Tensor:
    """Return ``(batch, time, heads, width)`` of the input of a case, through one of its maps."""
    mapped = drawn(f"{name} x", B, T, D) @ weight(f"{name} {role}", n_out, D).T
    return mapped.unflatten(-1, (H, -1))


def out(name: str, heads: Tensor) -> Tensor:
    """Put ``(batch, time, heads, width)`` side by side and map it out."""
    flat = heads.flatten(2)
    return flat @ weight(f"{name} out", D, flat.shape[-1]).T


def by_head(*tensors: Tensor) -> list[Tensor]:
    """Change between ``b t h d`` and ``b h t d``."""
    return [z.transpose(1, 2) for z in tensors]


def qkv(name: str, *, n_key: int = D, n_value: int = D) -> list[Tensor]:
    """Return queries, keys and values, ``b t h d``."""
    widths = {"query": n_key, "key": n_key, "value": n_value}
    return [projected(name, role, n) for role, n in widths.items()]


def rms(x: Tensor) -> Tensor:
    """Normalise by the library's own function."""
    return F.rms_norm(x, x.shape[-1:], eps=NORM)


# The softmax family. Attention of torch itself, then positions and windows of public models.


@case("attention", needs="torch", source="torch.nn.functional.scaled_dot_product_attention")
def attention() -> Tensor:
    """Layout b h t d."""
    mixed = F.scaled_dot_product_attention(*by_head(*qkv("attention")), is_causal=True)
    return out("attention", mixed.transpose(1, 2))


@case("alibi_attention", needs=HUB, source="models.bloom: BloomAttention, build_alibi_tensor")
def alibi_attention() -> Tensor:
    """Slopes of two heads."""
    from transformers import BloomConfig
    from transformers.models.bloom import modeling_bloom as bloom

    name = "alibi_attention"
    layer = bloom.BloomAttention(
        BloomConfig(hidden_size=D, n_head=H, hidden_dropout=0.0, attention_dropout=0.0), layer_idx=0
    ).eval()
    maps = [weight(f"{name} {r}", D, D).unflatten(0, (H, -1)) for r in ("query", "key", "value")]
    with torch.no_grad():
        layer.query_key_value.weight.copy_(torch.stack(maps, 1).reshape(3 * D, D))
        layer.dense.weight.copy_(weight(f"{name} out", D, D))
        layer.query_key_value.bias.zero_()
        layer.dense.bias.zero_()
    alibi = bloom.build_alibi_tensor(torch.ones(B, T), H, torch.float32)
    past = torch.full((T, T), torch.finfo(torch.float32).min).triu(1).expand(B, 1, T, T)
    x = drawn(f"{name} x", B, T, D)
    return layer(x, torch.zeros_like(x), alibi, past)[0]


def _sizes(width: int) -> dict[str, Any]:
    heads = {"num_attention_heads": H, "num_key_value_heads": H, "head_dim": width // H}
    return {"hidden_size": width, **heads, "attn_implementation": "eager"}


def _attended(name: str, layer: Any, turns: Any, mask: Tensor) -> Tensor:
    """Return what a layer with four maps of one width makes of the input of a case."""
    width = layer.q_proj.in_features
    with torch.no_grad():
        for role in ("query", "key", "value", "out"):
            proj = getattr(layer, f"{role[0]}_proj")
            proj.weight.copy_(weight(f"{name} {role}", width, width))
    return layer.eval()(drawn(f"{name} x", B, T, width), turns, mask)[0]


@case("rotary_attention", needs=HUB, source="models.llama: LlamaAttention, LlamaRotaryEmbedding")
def rotary_attention() -> Tensor:
    """Two heads of width 4, so that there are two frequencies."""
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama as llama

    config = LlamaConfig(**_sizes(8))
    turns = llama.LlamaRotaryEmbedding(config)(torch.zeros(B, T, 8), torch.arange(T)[None])
    past = torch.full((T, T), -torch.inf).triu(1)[None, None]
    return _attended("rotary_attention", llama.LlamaAttention(config, 0), turns, past)


@case("window_attention", needs=HUB, source="models.mistral: MistralAttention; masking_utils")
def window_attention() -> Tensor:
    """A window of 4; cosines of one and sines of zero turn nothing."""
    from transformers import MistralConfig
    from transformers.masking_utils import create_sliding_window_causal_mask
    from transformers.models.mistral import modeling_mistral as mistral

    config = MistralConfig(**_sizes(D), sliding_window=4)
    keywords = {"cache": None, "position_ids": torch.arange(T)[None]}
    mask = create_sliding_window_causal_mask(
        config, torch.zeros(B, T, D), attention_mask=None, **keywords
    )
    still = torch.ones(1, T, D // H), torch.zeros(1, T, D // H)
    return _attended("window_attention", mistral.MistralAttention(config, 0), still, mask)


# Tables without decay.


@case("linear_attention", needs=FLA, source="ops.linear_attn: naive_recurrent_linear_attn")
def linear_attention() -> Tensor:
    """Layout b t h d, scale given."""
    q, k, v = qkv("linear_attention")
    run = naive("linear_attn").naive_recurrent_linear_attn
    return out("linear_attention", run(F.elu(q) + 1, F.elu(k) + 1, v, scale=1.0, normalize=True)[0])


@case("based", needs=FLA, source="ops.based: naive_parallel_based")
def based() -> Tensor:
    """Layout b h t d, scale inside."""
    mixed = naive("based").naive_parallel_based(*by_head(*qkv("based")))
    return out("based", mixed.transpose(1, 2))


# Tables that fade.


@case("retention", needs=FLA, source="ops.retention: naive_retention")
def retention() -> Tensor:
    """Layout b h t d, scale and rates inside."""
    mixed = naive("retention").naive_retention(*by_head(*qkv("retention", n_value=2 * D)))
    gate = projected("retention", "gate", 2 * D)
    return out("retention", rms(mixed.transpose(1, 2)) * F.silu(gate))


@case("gla", needs=FLA, source="ops.gla: naive_recurrent_gla")
def gla() -> Tensor:
    """Layout b t h d, scale inside."""
    q, k, v = qkv("gla", n_key=H * 2)
    narrow = drawn("gla x", B, T, D) @ weight("gla narrow", 16, D).T
    logits = narrow @ weight("gla wide", H * 2, 16).T + drawn("gla bias", H * 2)
    log_gate = (F.logsigmoid(logits) / 16).unflatten(-1, (H, -1))
    mixed = naive("gla").naive_recurrent_gla(q, k, v, log_gate)[0]
    return out("gla", rms(mixed) * F.silu(projected("gla", "gate")))


@case("scalar_decay", needs=FLA, source="ops.simple_gla: naive_recurrent_simple_gla")
def scalar_decay() -> Tensor:
    """Layout b t h d, scale given; the table alone, without a mixer."""
    q, k, v = (
        drawn(f"scalar_decay {z}", B, T, H, n) for z, n in zip("qkv", (3, 3, 4), strict=True)
    )
    g = -drawn("scalar_decay g", B, T, H).abs()
    return naive("simple_gla").naive_recurrent_simple_gla(q, k, v, g, scale=1.0)[0]


@case("ssd", needs=HUB, source="models.mamba2: Mamba2Mixer")
def ssd() -> Tensor:
    """Two heads of width 6, tables with 32 keys."""
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": D, "num_heads": H, "head_dim": 2 * D // H, "state_size": 32}
    more = {"n_groups": 1, "num_hidden_layers": 1, "layer_norm_epsilon": NORM, "chunk_size": 4}
    layer = Mamba2Mixer(Mamba2Config(**sizes, **more), 0).eval()
    channels = 2 * D + 64
    parts = {
        "in_proj.weight": weight("ssd way_in", 4 * D + 64 + H, D),
        "conv1d.weight": drawn("ssd taps", channels, 1, 4) / 2,
        "conv1d.bias": drawn("ssd conv bias", channels) / 4,
        "dt_bias": drawn("ssd step_bias", H),
        "A_log": drawn("ssd rate", H),
        "D": drawn("ssd skip", H),
        "norm.weight": drawn("ssd scale", 2 * D),
        "out_proj.weight": weight("ssd out", D, 2 * D),
    }
    layer.load_state_dict(parts)
    return layer(drawn("ssd x", B, T, D))


@case("ssd_minimal", needs="ssd_minimal.py", source="ssd_minimal_discrete")
def ssd_minimal(files: Any) -> Tensor:
    """Layout b t h d, values times the step already; the table alone."""
    v, a = drawn("ssd_minimal v", B, 12, H, 4), -drawn("ssd_minimal a", B, 12, H).abs()
    k, q = (drawn(f"ssd_minimal {z}", B, 12, 1, 3) for z in "kq")
    return files.ssd_minimal_discrete(v, a, k, q, 4)[0]


# Tables that are corrected.


def _unit_qkv(name: str) -> list[Tensor]:
    """Return what passed convolutions over 4 tokens, queries and keys of length one."""
    x = torch.cat([projected(name, role).flatten(2) for role in ("query", "key", "value")], -1)
    taps, bias = drawn(f"{name} taps", 3 * D, 1, 4) / 2, drawn(f"{name} conv bias", 3 * D) / 4
    mixed = F.silu(F.conv1d(F.pad(x.mT, (3, 0)), taps, bias, groups=3 * D)).mT
    q, k, v = (z.unflatten(-1, (H, -1)) for z in mixed.chunk(3, -1))
    return [*(z / (z.square().sum(-1, keepdim=True) + NORM).sqrt() for z in (q, k)), v]


@case("delta_net", needs=FLA, source="ops.delta_rule: delta_rule_recurrence")
def delta_net() -> Tensor:
    """Layout b h t d, scale inside: taken off before."""
    q, k, v = by_head(*_unit_qkv("delta_net"))
    beta = projected("delta_net", "strength", H)[..., 0].sigmoid().transpose(1, 2)
    mixed = naive("delta_rule").delta_rule_recurrence(q * (D // H) ** 0.5, k, v, beta)[0]
    return out("delta_net", rms(mixed.transpose(1, 2)))


@case(
    "gated_delta_net",
    needs=FLA,
    source="ops.gated_delta_rule: naive_recurrent_gated_delta_rule",
)
def gated_delta_net() -> Tensor:
    """Layout b t h d, scale given."""
    name = "gated_delta_net"
    q, k, v = _unit_qkv(name)
    beta = projected(name, "strength", H)[..., 0].sigmoid()
    steps = F.softplus(projected(name, "gate", H)[..., 0] + drawn(f"{name} gate_bias", H))
    g = -drawn(f"{name} rate", H).exp() * steps
    run = naive("gated_delta_rule").naive_recurrent_gated_delta_rule
    return out(name, rms(run(q=q, k=k, v=v, beta=beta, g=g, scale=1.0)[0]))


# Averages that fade, and long convolutions.


@case("rwkv4", needs=HUB, source="models.rwkv: RwkvSelfAttention, rwkv_linear_attention_cpu")
def rwkv4() -> Tensor:
    """Time mixing of one layer."""
    from transformers import RwkvConfig
    from transformers.models.rwkv.modeling_rwkv import RwkvSelfAttention

    layer = RwkvSelfAttention(RwkvConfig(hidden_size=D, num_hidden_layers=1)).eval()
    mix = {
        f"time_mix_{role}": drawn(f"rwkv4 mix {role}", D).sigmoid()[None, None]
        for role in ("receptance", "key", "value")
    }
    maps = ("receptance", "key", "value", "output")
    parts = {f"{role}.weight": weight(f"rwkv4 {role}", D, D) for role in maps}
    times = {f"time_{part}": drawn(f"rwkv4 {part}", D) for part in ("decay", "first")}
    layer.load_state_dict({**mix, **parts, **times})
    return layer(drawn("rwkv4 x", B, T, D))[0]


def hyena(files: Any, order: int) -> Tensor:
    """Return what the stand-alone operator makes of 11 tokens with filters of 11 lags."""
    name = f"hyena_{order}"
    layer = files.HyenaOperator(D, T, order=order).eval()
    with torch.no_grad():
        for role, part in layer.named_parameters():
            if role not in ("filter_fn.pos_emb.z", "filter_fn.implicit_filter.1.freq"):
                n_in = math.prod(part.shape[1:])
                part.copy_(drawn(f"{name} {role}", *part.shape) / n_in**0.5)
    return layer(drawn(f"{name} x", B, T, D))


for _order in (2, 3):
    CASES[f"hyena_{_order}"] = (
        lambda files, order=_order: hyena(files, order),
        "standalone_hyena.py",
        f"HyenaOperator, order={_order}",
    )


@case("s4d", needs="s4d.py", source="S4DKernel")
def s4d(files: Any) -> Tensor:
    """Three channels of 8 numbers, 21 lags; ``(lags, channels)``."""
    kernel = files.S4DKernel(3, N=8)
    with torch.no_grad():
        kernel.C.copy_(drawn("s4d readout", 3, 4, 2))
        kernel.log_dt.copy_(drawn("s4d log_step", 3) - 2)
        kernel.log_A_real.copy_(drawn("s4d log_damping", 3, 4) / 2)
        kernel.A_imag.copy_(3 * drawn("s4d frequency", 3, 4).abs())
    return kernel(21).T


def main() -> None:
    """Compute all cases, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases; without any, all")
    parser.add_argument("--files", type=Path, help="folder with the single files")
    options = parser.parse_args()
    for path, thing in STUBS.items():
        for depth in range(1, path.count(".") + 2):
            part = ".".join(path.split(".")[:depth])
            sys.modules.setdefault(part, types.ModuleType(part))
        setattr(sys.modules[path], thing, None)
    packages = ("torch", "transformers", "flash-linear-attention", "einops")
    versions = {name: importlib.metadata.version(name) for name in packages}
    for name, (function, needs, source) in CASES.items():
        if options.names and name not in options.names:
            continue
        if needs in FILES and options.files is None:
            sys.stdout.write(f"{name}: left as it is, {needs} is not here\n")
            continue
        torch.manual_seed(0)
        arguments = [loaded(options.files / needs)] if needs in FILES else []
        with torch.no_grad():
            y = function(*arguments)
        if not y.isfinite().all():
            sys.exit(f"{name}: {source} returned numbers that are not finite")
        stored = {
            "source": f"{FILES.get(needs, needs)}: {source}",
            "versions": {n: v for n, v in versions.items() if n in ("torch", needs)},
            "command": "PYTHONPATH=. python tools/oracles.py --files FOLDER",
            "shape": list(y.shape),
            "y": [float(f"{number:.7g}") for number in y.flatten().tolist()],
        }
        path = PLACE / f"{name}.json"
        path.write_text(json.dumps(stored, separators=(", ", ": ")) + "\n", "utf-8")
        sys.stdout.write(f"{name}: {tuple(y.shape)}, {path.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
