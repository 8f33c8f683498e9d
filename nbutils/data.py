"""Real data that ships with a dependency, its splits, and the order in which minibatches come."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor
from torch.nn import functional

_SHIFT = 10_000  # seeds of two values of NBUTILS_SEED never overlap below this many seeds
_TEST_SIZE = 500


class Split(NamedTuple):
    """Training and test examples: `x_*` float32 inputs, `y_*` int64 class labels."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def seeds(count: int) -> list[int]:
    """The seeds of an experiment: `count` integers, one per repetition.

    The environment variable NBUTILS_SEED (a whole number, 0 where it is not set) shifts all of
    them, so that every chapter can be run again on fresh randomness.

    Raises ValueError if `count` is below 1 or NBUTILS_SEED is not a whole number of at least 0.
    """
    if count < 1:
        raise ValueError(f"seeds(count) needs count >= 1, got {count}")
    text = os.environ.get("NBUTILS_SEED", "0")
    if not text.isdecimal():
        raise ValueError(
            f"the environment variable NBUTILS_SEED must be a whole number from 0, got {text!r}"
        )
    start = int(text) * _SHIFT
    return list(range(start, start + count))


def digits(seed: int = 0, images: bool = False) -> Split:
    """Scikit-learn's 1,797 handwritten digits: at random, 1,297 for training and 500 for test.

    One mean and one standard deviation, those of all training pixels together, standardize both
    parts. Returns inputs of shape (N, 64), or (N, 1, 8, 8) if `images`, and labels 0 to 9 of shape
    (N,).

    Source: UCI "Optical Recognition of Handwritten Digits", as `sklearn.datasets.load_digits` ships
    it.
    """
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(bunch.data, dtype=torch.float32)[order]
    y = torch.tensor(bunch.target, dtype=torch.int64)[order]
    train, test = slice(_TEST_SIZE, None), slice(_TEST_SIZE)
    x = (x - x[train].mean()) / x[train].std()
    if images:
        x = x.view(-1, 1, 8, 8)
    return Split(x[train], y[train], x[test], y[test])


def photographs(height: int = 96) -> Tensor:
    """Scikit-learn's two sample photographs: a Chinese temple and a flower, (2, 3, H, 3 H / 2).

    Each value is the mean over an area of the original (427 x 640 pixels), from 0 to 1; the
    channels are red, green and blue. float32.

    Raises ValueError unless `height` is an even number from 2 to 426.

    Source: photographs by danielbuechele and vultilion (Flickr, CC BY 2.0), as
    `sklearn.datasets.load_sample_images` ships them.
    """
    if not 2 <= height <= 426 or height % 2:
        raise ValueError(f"height must be an even number from 2 to 426, got {height}")
    pixels = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    size = (height, 3 * height // 2)
    return functional.interpolate(torch.stack(pixels).float() / 255, size=size, mode="area")


def minibatches(n: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Which examples each step sees: shape (steps, batch_size), indices into 0 .. n-1.

    Every epoch is a fresh random permutation of all `n` examples; an incomplete last batch is
    dropped.

    Raises ValueError unless 1 <= batch_size <= n and steps >= 0.
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must lie between 1 and the {n} examples, got {batch_size}")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    generator = torch.Generator().manual_seed(seed)
    per_epoch = n // batch_size
    epochs = -(-steps // per_epoch)
    order = [
        torch.randperm(n, generator=generator)[: per_epoch * batch_size] for _ in range(epochs)
    ]
    if not order:
        return torch.empty(0, batch_size, dtype=torch.int64)
    return torch.cat(order).view(-1, batch_size)[:steps]
