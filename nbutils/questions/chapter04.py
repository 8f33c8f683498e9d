"""Exercises of chapter 04, "Which variance does BatchNorm use?"."""

import math

import torch


def _maps() -> torch.Tensor:
    """A batch of feature maps, (N, C, H, W) = (2, 3, 2, 3), the same at every call."""
    return torch.randn(2, 3, 2, 3, generator=torch.Generator().manual_seed(4))


QUESTIONS = {
    "4.1": {
        "right": 7.2,
        "mistakes": [
            (9.0, "that is σ² itself: the biased variance sees only (n − 1)/n of it."),
            (11.25, "that is n/(n − 1) of σ²; the biased variance is too small, not too large."),
            (2.4, "that takes (n − 1)/n of the standard deviation; the *variance* is 9."),
            (3 * math.sqrt(4 / 5), "that is a standard deviation; the question is about the variance."),
        ],
    },
    "4.2": {
        "right": lambda batch: batch.var((0, 2, 3), correction=1),
        "mistakes": [
            (lambda batch: batch.var((0, 2, 3), correction=0), "that is what it divides by; it remembers the unbiased one."),
            (lambda batch: batch.var(0, correction=1).mean((1, 2)), "the positions share one mean: take the variance over axes 0, 2 and 3 at once."),
            (lambda batch: batch.var((2, 3), correction=1).mean(0), "that is InstanceNorm: each example has a mean of its own there."),
            (lambda batch: batch.var((0, 2, 3), correction=0) * len(batch) / (len(batch) - 1), "n counts all values of a channel, N·H·W, not the N examples."),
            (lambda batch: batch.std((0, 2, 3), correction=1), "that is the standard deviation; the layer remembers the variance."),
        ],
        "cases": [(_maps(),), (3 * _maps() + 1,)],
    },
    "4.3": {
        "right": 20001,
        "mistakes": [
            (100, "that is the bias, 1/n. Noise falls like the root of n."),
            (10000, "that would be a relative variance of 1/n; for Gaussian values it is 2/(n − 1)."),
            (200, "2/(n − 1) is the *square* of the relative standard deviation."),
        ],
        "rel": 0.001,
    },
    "4.4": {
        "right": lambda n, m, k: (1 - m) ** k + (1 - (1 - m) ** k) * n / (n - 1),
        "mistakes": [
            (lambda n, m, k: n / (n - 1), "that is the end of the drift; after k steps the old value still has a weight."),
            (lambda n, m, k: 1 - (1 - m) ** k + (1 - m) ** k * n / (n - 1), "the weights are swapped: (1 − m)^k belongs to the old value."),
            (lambda n, m, k: (1 - m) ** k + (1 - (1 - m) ** k) * (n - 1) / n, "the direction: PyTorch's memory is larger than Flax's, by n/(n − 1)."),
            (lambda n, m, k: m**k + (1 - m**k) * n / (n - 1), "PyTorch's m is the weight of the *new* value; the old one keeps 1 − m per step."),
        ],
        "cases": [(4, 0.1, 5), (8, 0.1, 20), (2, 0.3, 1)],
    },
    "4.5": {
        "right": lambda n: 2 / (2 * n - 1),
        "mistakes": [
            (lambda n: 1 / (2 * (n - 1)), "that is m/(2 − m); solve it for m."),
            (lambda n: 2 / (1 + math.sqrt(2 * (n - 1))), "an average keeps the *root* of m/(2 − m) of the noise."),
            (lambda n: 1 - 2 / (2 * n - 1), "that is the weight of the old value; PyTorch's m is that of the new one."),
            (lambda n: 4 * (n - 1) / (2 * n - 1), "the ratio is upside down: the noise is √(2(n − 1)) times the bias, before averaging."),
        ],
        "cases": [(3,), (4,), (32,)],
    },
}  # fmt: skip
