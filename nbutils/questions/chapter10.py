"""Exercises of chapter 10, "When is a batch too small, and what does GroupNorm do about it?"."""

import math

import torch

_tokens = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))


def _standardize(z, over):
    deviation = z - z.mean(over, keepdim=True)
    return deviation / (deviation.square().mean(over, keepdim=True) + 1e-5).sqrt()


def _of_tokens(z, groups):
    return _standardize(z.unflatten(-1, (groups, -1)), (-1,)).flatten(-2)


def _over_positions(z, groups):
    return _standardize(z.unflatten(-1, (groups, -1)), (1, 3)).flatten(-2)


QUESTIONS = {
    "10.1": {
        "right": 801,
        "mistakes": [
            (800, "equation 10.1 has n − 1 below the root."),
            (41, "square the 5 %: 2 / (n − 1) = 0.0025."),
        ],
    },
    "10.2": {
        "right": _of_tokens,
        "mistakes": [
            (_over_positions, "that averages over the positions as well; each token has its own."),
            (lambda z, groups: _standardize(z, (-1,)), "that is one group, LayerNorm."),
        ],
        "cases": [(_tokens, 2), (_tokens, 4)],
    },
    "10.3": {
        "right": 2,
        "mistakes": [
            (64, "each group has two channels; standardized, two values have no freedom left."),
            (1, "that is one channel per group: here there are two."),
        ],
    },
    "10.4": {
        "right": math.sqrt(391 / 97),
        "mistakes": [
            (4, "n grows fourfold, the noise falls with its root."),
            (2, "equation 10.1 has n − 1 below the root: 391 and 97."),
            (math.sqrt(97 / 391), "that is what is left of the noise; give its inverse."),
            (math.sqrt(7), "do not forget the 49 positions: n grows from 98 to 392."),
        ],
        "rel": 1e-3,
    },
}
