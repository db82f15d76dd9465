"""The one table of symbols: what a letter means, what the code calls it, where it appears first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from IPython.display import Markdown, display

from attnlab.errors import AttnlabError, UnknownNameError

HEADINGS = ("Maths", "Code", "Space", "Meaning", "Paper", "First in")
NONE = "–"  # no code name, or a letter of the papers that is not known


@dataclass(frozen=True, kw_only=True)
class Symbol:
    """One row: a letter, its name in the code, the space it lives in and what it means."""

    key: str  # how a notebook asks for it
    maths: str  # LaTeX without dollars
    code: str
    space: str  # LaTeX without dollars; empty for a choice that is no number
    meaning: str
    notebook: int  # the first one that uses it
    paper: str = ""  # the letter in the papers, LaTeX without dollars, where it is known

    def cells(self) -> tuple[str, ...]:
        """Return the row as Markdown, one text for each column."""
        return (
            _formula(self.maths),
            f"`{self.code}`" if self.code else NONE,
            _formula(self.space),
            self.meaning,
            _formula(self.paper),
            f"{self.notebook:02d}",
        )


def _row(
    key: str,
    maths: str,
    space: str,
    meaning: str,
    notebook: int,
    *,
    code: str | None = None,
    paper: str = "",
) -> Symbol:
    name = key if code is None else code
    return Symbol(
        key=key,
        maths=maths,
        code=name,
        space=space,
        meaning=meaning,
        notebook=notebook,
        paper=paper,
    )


_COUNT = r"\mathbb{N}"
_D = r"\mathbb{R}^{d}"
_DD = r"\mathbb{R}^{d \times d}"
_REAL = r"\mathbb{R}"
_LOSS = r"\mathbb{R}_{\ge 0}"

SYMBOLS: tuple[Symbol, ...] = (
    # sizes
    _row("batch", "B", _COUNT, "sequences in a batch", 2),
    _row("time", "T", _COUNT, "time steps (tokens) of a sequence", 0),
    _row("d_model", "d", _COUNT, "width of the residual stream", 0, paper="d"),
    _row("n_heads", "H", _COUNT, "attention heads", 2),
    _row("d_head", "d_h", _COUNT, "width of a head, $d / H$", 2),
    _row("d_ff", r"d_\mathrm{ff}", _COUNT, "hidden width of the channel mixer", 2),
    _row("n_layers", "N", _COUNT, "layers (blocks) of a model", 0),
    _row("context_len", r"\ell", _COUNT, "longest context, in tokens", 0, paper="l"),
    _row("vocab_size", "V", _COUNT, "number of different tokens", 0),
    # sources
    _row("tokens", "v_t", r"\{0, \dots, V-1\}", "token at position $t$", 0),
    _row("prefix", "s_t", r"\{0, \dots, V-1\}^t", "state: the prefix $v_1 \\dots v_t$", 0),
    _row("states", "i, j", r"\{0, \dots, S-1\}", "current and next state of a chain", 1, code=""),
    _row("n_states", "S", _COUNT, "number of states of a chain", 1),
    _row(
        "transition",
        "P_{ij}",
        r"[0, 1]^{S \times S}",
        "chance of moving from state $i$ to state $j$; rows sum to one",
        1,
    ),
    _row("stationary", r"\pi_i", "[0, 1]^{S}", "long-run share of time in state $i$", 1),
    _row(
        "counts",
        "n_{ij}",
        r"\mathbb{N}^{S \times S}",
        "how often state $j$ followed state $i$ in a sample",
        1,
    ),
    _row("model_rows", "Q_{ij}", r"[0, 1]^{S \times S}", "what a predictor says instead of $P$", 1),
    _row(
        "entropy_rate_nats",
        "h",
        _LOSS,
        "entropy rate: mean surprise of the true source, nats per token",
        0,
    ),
    _row(
        "oracle_nats",
        r"\hat h",
        _LOSS,
        "oracle loss: surprise of the true source on these very tokens",
        0,
    ),
    _row("loss_nats", "L", _LOSS, "cross-entropy of a predictor, nats per token", 0),
    _row("kl_per_state", "D_i", _LOSS, "Kullback-Leibler divergence in state $i$, nats", 1),
    _row("order", "k", _COUNT, "tokens a table or a limited reader looks back", 1),
    _row(
        "best_loss_nats",
        "h_k",
        _LOSS,
        "staircase: best expected loss of any reader of the last $k$ tokens",
        1,
    ),
    _row("perplexity", r"e^{L}", r"\mathbb{R}_{\ge 1}", "perplexity: equal choices as hard", 0),
    # one sublayer, any mixer
    _row("x", "x_t", _D, "input vector at position $t$ (a row vector)", 2),
    _row("y", "y_t", _D, "output vector of a mixer at position $t$", 2),
    # attention
    _row("query", "W_q", _DD, "query map; $q_t = x_t W_q$", 2),
    _row("key", "W_k", _DD, "key map; $k_t = x_t W_k$", 2),
    _row("value", "W_v", _DD, "value map, $x_t W_v$; in HE shared by all lags", 2),
    _row("out", "W_o", _DD, "output map of a mixer ($W_\\mathrm{out}$ of the Extractor)", 2),
    _row("scores", "S_{ts}", r"\mathbb{R}^{T \times T}", "scaled product of query and key", 2),
    _row(
        "attention_weights",
        "A_{ts}",
        r"[0, 1]^{T \times T}",
        "weight of position $s$ in the mixture at $t$; zero for $s > t$",
        2,
    ),
    _row("temperature", r"\tau", r"\mathbb{R}_{> 0}", "divides scores before a softmax", 2),
    # Extractor
    _row("lag", "j", r"\{0, \dots, \ell-1\}", "lag: $0$ is the newest token", 3),
    _row("lag_weight", "W_j", _DD, "SHE: matrix of lag $j$", 3),
    _row("lag_weight_vector", "w_j", _D, "HE, WE, ME: vector of lag $j$", 3, code="lag_weight"),
    _row("extracted", "e_t", _D, "extraction: weighted sum over the lags", 3),
    _row("adjust", r"W_\mathrm{adj}", _DD, "map of the adjustment", 3),
    _row("gate", "g_t", _D, "adjustment of position $t$, computed from $x_t$ alone", 3),
    _row("adjusted", "a_t", _D, "$e_t \\odot g_t$, entry by entry", 3),
    # programs
    _row("sum_depth", "A(n)", _COUNT,
         "levels of additions over $n$ terms: $\\lceil \\log_2 n \\rceil$ in a tree", 5,
         code="accumulate"),
    _row("units", "P", _COUNT, "workers that can do one operation each at a time", 5),
    _row("level_sizes", "n_k", _COUNT, "operations whose depth is $k$", 5),
    # language model
    _row("token_embedding", "E", r"\mathbb{R}^{V \times d}", "token embedding, also the head", 2),
    _row("position_embedding", "p_t", _D, "position embedding", 2),
    _row("logits", "z_t", r"\mathbb{R}^{V}", "next-token scores before the softmax", 2),
    _row("mlp_keys", "K", r"\mathbb{R}^{d \times d_\mathrm{ff}}",
         "channel mixer: column $i$ is key $i$", 4, code="mlp.keys"),
    _row("mlp_values", "U", r"\mathbb{R}^{d_\mathrm{ff} \times d}",
         "channel mixer: row $i$ is what key $i$ adds", 4, code="mlp.values"),
    # fast convolutions
    _row("transform_length", "n", _COUNT, "length of a transform, padding included", 6, code="n"),
    _row("root_of_unity", r"\omega", r"\mathbb{C}", "$e^{-2\\pi i / n}$; $\\omega^n = 1$", 6,
         code="omega"),
    _row("transformed", r"\hat x_f", r"\mathbb{C}^{d}", "transform of $x$ at frequency $f$", 6,
         code="x_hat"),
    _row("tile_size", "U", _COUNT, "inputs, and outputs, of a tile: a power of two", 6, code="U"),
    _row("rank", "R", _COUNT, "matrices that the lags of a dialled SHE share", 6),
    _row("rank_map", "B_r", _DD, "shared matrix number $r$", 6, code="value"),
    _row("rank_vector", "a_r(j)", _D, "vector of lag $j$ for $B_r$", 6, code="lag_weight"),
    _row("init_std", r"\sigma", r"\mathbb{R}_{> 0}", "standard deviation of new lag weights", 6),
    # translator
    _row("source_tokens", "u_s", r"\{0, \dots, V-1\}", "source token at position $s$", 7),
    _row("source_time", "T'", _COUNT, "tokens of the source sentence", 7),
    _row("memory", "m_s", _D, "what the encoder made of source token $s$", 7),
    _row("length_penalty", r"\alpha", _REAL, "exponent of the length in a beam's score", 7),
    _row("precisions", "P_n", "[0, 1]", "BLEU: share of runs of $n$ words that are right", 7),
    _row("brevity_penalty", "b", "(0, 1]", "BLEU: factor for translations that are too short", 7),
    # distillation
    _row("slot_numbers", "W", _COUNT, "numbers in a filled-up sentence, $\\ell d$", 8, code=""),
    _row("student_width", "h", _COUNT, "hidden units of a student", 8, code="width"),
    _row("heads", "y_t", _D, "distillation: joined head outputs, before $W_o$", 8),
    _row("student_output", r"\hat y_t", _D, "what a student says in place of $y_t$", 8,
         code="student"),
    _row("relative_error", r"\rho", _LOSS,
         "squared error over that of the best constant, of what reaches the stream", 8),
    _row("norm_gain", r"\gamma", r"\mathbb{R}^{W}", "gain of a student's first norm", 8),
    _row("norm_shift", r"\beta", r"\mathbb{R}^{W}", "shift of a student's first norm", 8),
    # replaced attention
    _row("stand_in", "F", "", "net or control in place of a look-up", 9),
    _row("bleu", r"\beta", "[0, 100]", "BLEU of a translator", 9),
    _row("kept_share", r"\kappa", _REAL, "share of a teacher's score that counts as kept", 9),
    _row("cut", "c", _COUNT, "target positions that a cut lesson keeps", 9),
    _row("lr", r"\eta", r"\mathbb{R}_{> 0}", "learning rate per step", 4),
    _row("seed", "", _COUNT, "integer behind all named streams of chance", 0),
)  # fmt: skip


def notation_markdown(symbols: Iterable[str] | None = None) -> str:
    """Return the rows for these symbols as a Markdown table, in the order of the workbook.

    Args:
        symbols: Keys such as ``d_model`` or ``stationary``; None means every row.

    Raises:
        UnknownNameError: For a key the table does not hold.
        AttnlabError: For no key at all.
    """
    rows = _select(symbols)
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_notation(symbols: Sequence[str] | None = None) -> None:
    """Show the rows for these symbols (all without an argument) as a table.

    Example: ``show_notation(["d_model", "context_len", "transition"])``. The column *Paper*
    holds the letter of the paper where it is known; a dash says that it is not.
    """
    display(Markdown(notation_markdown(symbols)))


def list_symbols() -> tuple[str, ...]:
    """Return the keys of the table, in its order."""
    return tuple(symbol.key for symbol in SYMBOLS)


def _select(symbols: Iterable[str] | None) -> list[Symbol]:
    if symbols is None:
        return list(SYMBOLS)
    wanted = [symbols] if isinstance(symbols, str) else list(symbols)
    if not wanted:
        raise AttnlabError("No symbol was asked for. Leave the argument out to see them all.")
    known = list_symbols()
    for key in wanted:
        if key not in known:
            step = "Or add a row to SYMBOLS in attnlab/teaching/notation.py."
            raise UnknownNameError("symbol", key, known, next_step=step)
    return [symbol for symbol in SYMBOLS if symbol.key in wanted]


def _formula(latex: str) -> str:
    return f"${latex}$" if latex else NONE
