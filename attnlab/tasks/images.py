"""Naming what an image shows, read as a sequence: its pixels in a row, or its patches."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from attnlab.analysis.accuracy import linear_control
from attnlab.corpora import SPLITS, list_corpora, load_corpus
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.tasks.classification import LabelDataset

N_VALIDATION = 2000  # images that are judged, of those that are held out
MEAN, DEVIATION = 0.13, 0.31  # of the grey of digits, 0 to 1, about
PENALTIES = (1e-3,)  # of the linear control; for digits others end within half a point


def pixels_in_a_row(images: ArrayLike) -> NDArray[np.float32]:
    """Halve images and read them row by row: a step is the mean of 2 x 2 pixels.

    Shapes:
        images: ``(n, height, width)`` of greys; returns ``(n, height / 2 * width / 2, 1)``.
    """
    n, height, width = (images := _of_blocks(images, 2)).shape
    halved = images.reshape(n, height // 2, 2, width // 2, 2).mean((2, 4))
    return halved.reshape(n, -1, 1).astype(np.float32)


def patches(images: ArrayLike, *, size: int = 7) -> NDArray[np.float32]:
    """Cut images into squares and read those row by row: a step is all pixels of one.

    Shapes:
        images: ``(n, height, width)`` of greys; returns
        ``(n, height / size * width / size, size**2)``.
    """
    n, height, width = (images := _of_blocks(images, size)).shape
    cut = images.reshape(n, height // size, size, width // size, size).swapaxes(2, 3)
    return cut.reshape(n, -1, size**2).astype(np.float32)


def _of_blocks(images: ArrayLike, size: int) -> NDArray[Any]:
    images = np.asarray(images)
    if images.ndim != 3 or images.shape[1] % size or images.shape[2] % size:
        raise AttnlabError(
            f"Images {images.shape} do not cut into squares of {size} x {size}: they are "
            f"(n, height, width), both sides multiples of {size}."
        )
    return images


VIEWS: dict[str, Callable[[Any], NDArray[np.float32]]] = {
    "pixels": pixels_in_a_row,
    "patches": patches,
}


def list_image_datasets() -> tuple[str, ...]:
    """Return the names that ``prepare_images`` takes, as ``mnist_pixels``: a corpus and a view."""
    return tuple(f"{name}_{view}" for name in list_corpora(kind="images") for view in VIEWS)


@lru_cache(maxsize=2)
def prepare_images(name: str) -> LabelDataset:
    """Return images as sequences of vectors, greys about 0 and 1 apart, ready for training."""
    if name not in list_image_datasets():
        step, known = "See what there is with: attnlab data list.", list_image_datasets()
        raise UnknownNameError("set of images", name, known, next_step=step)
    corpus_name, _, view = name.rpartition("_")
    corpus = load_corpus(corpus_name)
    parts = {split: corpus.split(split) for split in SPLITS}
    parts["validation"] = parts["validation"][:N_VALIDATION]
    inputs, labels = {}, {}
    for split, items in parts.items():
        greys = VIEWS[view](np.stack([item.pixels for item in items]))
        inputs[split] = (greys / 255 - np.float32(MEAN)) / np.float32(DEVIATION)
        labels[split] = np.array([item.label for item in items])
    _, time, width = inputs["train"].shape
    control = partial(
        linear_control,
        {split: torch.from_numpy(part.reshape(len(part), -1)) for split, part in inputs.items()},
        labels, n_features=time * width, n_classes=len(corpus.classes), penalties=PENALTIES,
    )  # fmt: skip
    return LabelDataset(
        name=name,
        classes=corpus.classes,
        inputs=inputs,
        labels=labels,
        sizes={"n_classes": len(corpus.classes), "context_len": time, "n_inputs": width},
        control=control,
        facts={
            "name": name,
            "fingerprint": corpus.fingerprint,
            "notes": corpus.notes,
            **{split: len(part) for split, part in inputs.items()},
            "n_control_features": time * width,
        },
    )
