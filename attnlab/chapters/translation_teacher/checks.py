"""Exercises of chapter 07."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from attnlab.config import BOS, EOS, PAD, UNK
from attnlab.seeding import torch_generator
from attnlab.teach import Exercise
from attnlab.teach.modules import MAPS, with_maps
from attnlab.training import bleu_by_hand, n_grams

# Exercise 7.1: one head of cross-attention -------------------------------------------------------


FILLS = {"before": -math.inf, "words": -math.inf, "by zero": 0.0}


def look_up(
    *,
    turned=False,
    values_from_x=False,
    power=-0.5,
    hide="before",
    has_out=True,
    has_future=True,
    axis=-1,
    width=1,
):
    """Return a cross-attention head with these parts right or wrong."""

    def attend(x, memory, w_q, w_k, w_v, w_o, is_padding):
        asks, answers = (memory, x) if turned else (x, memory)
        scores = (asks @ w_q) @ (answers @ w_k).mT * w_q.shape[width] ** power
        if hide in FILLS:
            is_hidden = ~is_padding if hide == "words" else is_padding
            scores = scores.masked_fill(is_hidden, FILLS[hide])
        if not has_future:
            scores = scores.masked_fill(~torch.ones_like(scores).tril().bool(), -math.inf)
        weights = scores.softmax(axis)
        weights = weights if hide == "words" else weights.nan_to_num(0.0)
        weights = weights * ~is_padding if hide == "after" else weights
        mixed = weights @ ((x if values_from_x else answers) @ w_v)
        return mixed @ w_o if has_out else mixed

    return attend


cross_attention, generator = look_up(), torch_generator(7, "exercise 7.1")


def numbers(*shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sentence(label, time, n_words, n_padding, d, d_h):
    """Return a case: x, memory, four maps and the padding of the source."""
    maps = [numbers(*shape) for shape in [(d, d_h)] * 3 + [(d_h, d)]]
    is_padding = torch.arange(n_words) >= n_words - n_padding
    return label, numbers(time, d), numbers(n_words, d), *maps, is_padding


check_cross_attention = Exercise(
    cross_attention,
    [
        sentence("three target words, three source words", 3, 3, 0, 4, 4),
        sentence("four of each, one source place is padding", 4, 4, 1, 4, 4),
        sentence("one target word, five source places, two of them padding", 1, 5, 2, 6, 3),
        sentence("seven target words, two source words", 7, 2, 0, 6, 3),
    ],
    {
        look_up(turned=True): "Queries come from memory and keys from x: the wrong sentence asks. The target asks (x), the source answers (memory).",
        look_up(values_from_x=True): "The values come from x: then the source never reaches the decoder. Keys and values both come from memory.",
        look_up(hide="never"): "Padding gets weight: an output then depends on how far the batch was filled up. Set its scores to minus infinity.",
        look_up(hide="after"): "Padding was hidden after the softmax, so rows sum to less than one. Hide the scores.",
        look_up(has_future=False): "A causal mask hides part of the source. All of the source was there before the first target word: nothing of it is the future.",
        lambda x, memory, *rest: cross_attention(x, x, *rest): "Keys and values come from x: then the source never reaches the decoder. Both come from memory.",
        look_up(hide="words"): "The mask is turned round: it hides the words and leaves the padding.",
        look_up(hide="by zero"): "Masked scores were set to 0, and exp(0) = 1 is a weight like any other. Use minus infinity.",
        look_up(axis=0): "The softmax ran over the words that ask; each of them shares out its weight over the source, the last axis.",
        look_up(width=0): "The scale uses d, the columns of x; a dot product here has d_h terms.",
        lambda x, memory, w_q, w_k, *rest: cross_attention(x, memory, w_k, w_q, *rest): "W_q and W_k are exchanged: the target is asked for with W_q.",
        lambda x, memory, w_q, w_k, w_v, *rest: cross_attention(x, memory, w_q, w_k, w_k, *rest): "The values are the keys: they have a map of their own, W_v.",
        look_up(power=0.0): "The scores are not divided by sqrt(d_h).",
        look_up(has_out=False): "The mixture was not multiplied by W_o.",
    },
)  # fmt: skip


# Exercise 7.2: greedy search ---------------------------------------------------------------------


def search(*, start=BOS, row=-1, stops=True, keeps="words", memory=None, extra=0):
    """Return a greedy search with these parts right or wrong."""

    def write(next_scores, max_len):
        tokens = [start]
        for _ in range(max_len + extra):
            given = tokens if memory is None else tokens[-memory:]
            newest = int(next_scores(given)[row].argmax())
            if stops and newest == EOS:
                tokens += [EOS] if keeps == "words and end" else []
                break
            tokens.append(newest)
        return tokens if keeps == "start and words" else tokens[1:]

    return write


def scripted(*words):
    """Return scores ``(time, 9)`` that write these words after ``BOS``, then ``EOS``; else ``UNK``."""
    path = [BOS, *words]

    def next_scores(tokens):
        table = np.zeros((len(tokens), 9))
        for t in range(len(tokens)):
            is_on_path = list(tokens[: t + 1]) == path[: t + 1]
            table[t, [*words, EOS][t] if is_on_path and t <= len(words) else UNK] = 1.0
        return table

    return next_scores


greedy = search()
check_greedy = Exercise(
    greedy,
    [
        ("a sentence of one word", scripted(5), 6),
        ("a word that comes twice", scripted(4, 5, 4, 6), 8),
        ("an empty sentence", scripted(), 3),
        ("a sentence longer than max_len", scripted(4, 5, 6, 7, 8), 3),
    ],
    {
        search(start=PAD): "The search does not start with BOS: the model has never seen a sentence begin otherwise, and its first scores mean nothing.",
        search(row=0): "It always reads row 0: what comes after BOS. The newest token's row is the last one.",
        search(stops=False): "EOS is written and the search goes on: stop there, the sentence is over.",
        search(keeps="words and end"): "EOS stands in the result: it ends the sentence and is no word of it.",
        search(keeps="start and words"): "BOS stands in the result: it starts the sentence and is no word of it.",
        search(memory=1): "Only the newest token is given to the model: it needs the whole sentence so far.",
        search(extra=-1): "It writes one word too few where the model does not end: BOS is no word, and max_len words are allowed.",
        search(extra=99): "It writes on until EOS, however long: stop after max_len words.",
        search(extra=1): "It writes max_len + 1 words where the model does not end: count the words, not BOS.",
    },
)  # fmt: skip


# Exercise 7.3: BLEU ------------------------------------------------------------------------------


def scored(
    *,
    clips=True,
    mean=lambda p: math.prod(p) ** (1 / len(p)),
    brevity=lambda c, r: math.exp(min(0.0, 1 - r / c)),
    most=4,
    recall=False,
):
    """Return a corpus BLEU with these parts right or wrong."""

    def matches(written, reference):
        return (
            (written & reference).total()
            if clips
            else sum(n for run, n in written.items() if run in reference)
        )

    def corpus(hypotheses, references):
        pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
        precisions = []
        for order in range(1, most + 1):
            found = [[n_grams(words, order=order) for words in pair] for pair in pairs]
            total = sum((r if recall else h).total() for h, r in found)
            precisions.append(sum(matches(h, r) for h, r in found) / total if total else 0.0)
        c, r = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
        return 100 * brevity(c, r) * mean(precisions)

    return corpus


def sentence_by_sentence(hypotheses, references):
    each = [scored()([h], [r]) for h, r in zip(hypotheses, references, strict=True)]
    return sum(each) / len(each)


check_bleu = Exercise(
    bleu_by_hand,
    [
        ("the two sentences on paper", ["the cat sat on the the the mat", "a bird sang"], ["the cat sat on the mat today", "a bird sang in the old tree"]),
        ("a perfect translation", ["one two three four five"], ["one two three four five"]),
        ("too long", ["one two three four five six"], ["one two three four five"]),
        ("no common run of four", ["one two three"], ["one two three four"]),
        ("three sentences", ["a b c d e", "a a b c d a a", "d c"], ["a b c d", "b c d a", "d c b a e"]),
    ],
    {
        scored(clips=False): "Nothing is clipped: 'the the the' earns a point for each 'the'. A run counts at most as often as it stands in the reference.",
        scored(mean=lambda p: sum(p) / len(p)): "The precisions are averaged by a sum; BLEU takes their geometric mean, the fourth root of their product.",
        scored(mean=math.prod): "The precisions are multiplied, but the fourth root of the product is missing.",
        scored(brevity=lambda c, r: 1.0): "The brevity penalty is missing: leaving words out costs nothing.",
        scored(brevity=lambda c, r: min(1.0, c / r)): "The penalty is c / r; BLEU's is exp(1 - r / c), which is harsher.",
        scored(brevity=lambda c, r: math.exp(1 - r / c)): "The factor exceeds 1 where the translations are longer than the references: take its minimum with 1.",
        sentence_by_sentence: "This averages a BLEU of each sentence. Corpus BLEU adds the counts of all sentences first and divides once.",
        scored(recall=True): "You divide by the runs of the reference, which is recall. A precision divides by the runs that were written.",
        scored(most=1): "Single words only: BLEU also counts runs of two, three and four.",
        lambda hypotheses, references: bleu_by_hand(references, hypotheses): "Translations and references are exchanged.",
        scored(most=3): "Runs of four words are missing, or the root is not the fourth.",
    },
)  # fmt: skip


# Build 7: the cross site, as a module --------------------------------------------------------------


def site_of(*, reads="memory", values="memory", hides=True, sees="all", scale="head", cut="slices", joins=True, has_out=True, bias=False, axis=-1, turned=False):  # fmt: skip
    """Return a class of cross-attention with these parts right or wrong."""

    class Site(nn.Module):
        def __init__(self, d_model, n_heads):
            super().__init__()
            self.n_heads = n_heads
            for name in MAPS:
                self.add_module(name, nn.Linear(d_model, d_model, bias=bias))

        def split(self, z):
            if cut == "mixed":
                return z.reshape(len(z), self.n_heads, z.shape[1], -1)
            if cut == "interleaved":
                return z.unflatten(-1, (-1, self.n_heads)).permute(0, 3, 1, 2)
            return z.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

        def forward(self, x, memory, is_padding):
            from_x = {"memory": memory, "x": x}
            q, k = self.split(self.query(x)), self.split(self.key(from_x[reads]))
            v = self.split(self.value(from_x[values]))
            width = {"head": q.shape[-1], "model": x.shape[-1], "none": 1}[scale]
            scores = q @ k.mT / width**0.5
            if hides:
                hidden = ~is_padding if turned else is_padding
                scores = scores.masked_fill(hidden[:, None, None], -math.inf)
            if sees == "past":
                scores = scores.masked_fill(~torch.ones_like(scores).tril().bool(), -math.inf)
            mixed = scores.softmax(axis) @ v
            mixed = (mixed.transpose(1, 2) if joins else mixed).reshape(x.shape)
            return self.out(mixed) if has_out else mixed

    return Site


def look_up_with(build, d_model, n_heads, x, memory, is_padding, *maps):
    """Return the outputs of a site with these maps ``(d, d)``, and how many numbers it has."""
    module, n_weights = with_maps(build, d_model, n_heads, maps, kind=nn.Linear)
    return {"weights": n_weights, "output": module(x, memory, is_padding)}


def site_case(label, batch, time, n_words, n_padding, d, n_heads):
    """Return a case; the first sentence of the batch has padding."""
    is_padding = (torch.arange(n_words) >= n_words - n_padding).repeat(batch, 1)
    is_padding[1:] = False
    maps = [numbers(d, d) for _ in MAPS]
    return label, d, n_heads, numbers(batch, time, d), numbers(batch, n_words, d), is_padding, *maps


check_cross_site = Exercise(
    site_of(),
    [
        site_case("one head, two words ask two", 1, 2, 2, 0, 2, 1),
        site_case("three ask four, one of them padding", 1, 3, 4, 1, 4, 2),
        site_case("two sentences of unequal length", 2, 4, 4, 2, 6, 3),
        site_case("five ask three, as many heads", 2, 5, 3, 0, 6, 3),
        site_case("one asks five", 3, 1, 5, 1, 4, 2),
    ],
    {
        site_of(reads="x", values="x"): "Keys and values come from x: then the source never reaches the decoder. Both come from memory.",
        site_of(values="x"): "The values come from x: keys and values both come from memory.",
        site_of(hides=False): "Padding gets weight. Set its scores to minus infinity.",
        site_of(turned=True): "The mask is turned round: it hides the words and leaves the padding.",
        site_of(sees="past"): "A causal mask hides part of the source; all of it was there before the first target word.",
        site_of(scale="model"): "The scale uses d; a dot product of a head has d_h = d / H terms.",
        site_of(scale="none"): "The scores are not divided by sqrt(d_h).",
        site_of(cut="mixed"): "The heads were cut by view(B, H, T, d_h), which mixes tokens with channels. Cut the channels first, view(B, T, H, d_h), then transpose.",
        site_of(cut="interleaved"): "Each head took every H-th channel; they are H slices side by side.",
        site_of(joins=False): "The heads were joined without transposing back: (B, H, T, d_h) has to become (B, T, H, d_h) first.",
        site_of(has_out=False): "The joined heads were not mapped by out.",
        site_of(bias=True): "The maps have biases; give nn.Linear bias=False.",
        site_of(axis=-2): "The softmax ran over the words that ask; each of them shares out its weight over the source, the last axis.",
    },
    use=look_up_with,
)  # fmt: skip
