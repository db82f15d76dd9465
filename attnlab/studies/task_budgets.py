"""Sizes of small teachers of what is no translation: headlines, replies, code, actions, forms.

Each learns within eight minutes of one quiet core, an arm within two. Positions are added at the
scale of the embeddings and nobody stops at a validation loss of the training distribution: what
Csordas et al. 2021 (arXiv:2108.12284) found to decide whether a Transformer generalises at all.
"""

from __future__ import annotations

from dataclasses import replace

from attnlab.studies.replaced import Budget

PROSE = Budget(
    d_model=64, n_heads=4, n_layers=2, d_ff=128, max_len=64, max_tokens=2048, lr=4e-3,
    warmup_steps=400, dropout=0.2, label_smoothing=0.1, n_passes=25, vocab_size=2000,
    n_averaged=5, share_embeddings=True, precision="fp32_onednn",
)  # fmt: skip
SYMBOLS = replace(  # few words, which all occur often: nothing to smooth
    PROSE, max_len=50, max_tokens=1024, lr=2e-3, dropout=0.1, label_smoothing=0.0, n_passes=30,
)  # fmt: skip
OF_TASKS = {
    "headlines": replace(PROSE, dropout=0.3),  # 4,999 pairs: seen often, so forgotten on purpose
    "dialogue": replace(PROSE, n_passes=5, n_averaged=2, dropout=0.1, vocab_size=1500),
    "code": replace(PROSE, max_tokens=1024, n_passes=20, lr=3e-3),
    "scan/simple": SYMBOLS,
    "scan/length": SYMBOLS,
    "scan/jump": SYMBOLS,
    **dict.fromkeys(
        ("cogs", "cogs/gen"), replace(SYMBOLS, max_len=64, max_tokens=2048, n_passes=24)
    ),
}
ARM_PASSES = {  # over the training pairs: of an arm, all stages together
    "headlines": 5.0, "dialogue": 0.8, "code": 3.5, "scan/simple": 5.0, "scan/length": 5.0,
    "scan/jump": 5.0, "cogs": 4.0, "cogs/gen": 4.0,
}  # fmt: skip
TASK_BUDGETS = {
    (scale, corpus): budget
    for scale in ("classroom", "paper")
    for corpus, budget in OF_TASKS.items()
}
