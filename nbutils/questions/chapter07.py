"""Exercises of chapter 07, "Where does LayerNorm put a vector?"."""

import math

import torch
from torch.nn import functional

EPS = 1e-5


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def backward(x, g, mean=True, along=True, divide=True):
    deviation = x - x.mean(1, keepdim=True)
    s = torch.sqrt(deviation.square().mean(1, keepdim=True) + EPS)
    x_hat = deviation / s
    out = g - mean * g.mean(1, keepdim=True) - along * x_hat * (g * x_hat).mean(1, keepdim=True)
    return out / s if divide else out


def masked(x, mask, count_all=False, mask_deviation=True):
    mask = mask[..., None].to(x.dtype)
    real = mask.sum((1, 2), keepdim=True) * x.shape[-1]
    count = torch.full_like(real, x[0].numel()) if count_all else real
    mean = (x * mask).sum((1, 2), keepdim=True) / count
    deviation = x - mean
    var = (deviation * (mask if mask_deviation else 1)).square().sum((1, 2), keepdim=True) / count
    return mask * deviation / torch.sqrt(var + EPS)


MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
PADDED = (draw(2, 5, 3) + 1) * MASK[..., None]

QUESTIONS = {
    "7.1": {
        "right": 2.0,
        "mistakes": [
            (1.0, "the sign is left: which of the two features is larger."),
            (4.0, "that would be all pairs of signs, but the two outputs add up to zero."),
            (3.0, "equal features are 0/0 without epsilon; that is no output."),
        ],
    },
    "7.2": {
        "right": lambda w: math.sqrt(len(w)) * (w - w.mean()).norm(),
        "mistakes": [
            (lambda w: math.sqrt(len(w)) * w.norm(), "true, but not the smallest: the output is orthogonal to the vector of ones."),
            (lambda w: (w - w.mean()).norm(), "the output has length √d, not one."),
            (lambda w: len(w) * (w - w.mean()).norm(), "d is the *squared* length of the output."),
        ],
        "cases": [(draw(5) + 1,), (draw(32, seed=1),)],
    },
    "7.3": {
        "right": backward,
        "mistakes": [
            (lambda x, g: backward(x, g, along=False), "the spread depends on x too: the part of g along x̂ is missing."),
            (lambda x, g: backward(x, g, mean=False), "the mean depends on x too: subtract the mean of g."),
            (lambda x, g: backward(x, g, divide=False), "divide by s: larger inputs get smaller gradients."),
            (lambda x, g: g / torch.sqrt(x.var(1, correction=0, keepdim=True) + EPS), "that treats mean and spread as constants."),
        ],
        "cases": [(3 * draw(4, 8) + 1, draw(4, 8, seed=1))],
    },
    "7.4": {
        "right": masked,
        "mistakes": [
            (lambda x, mask: masked(x, mask, count_all=True), "divide by the number of *real* values, not by all."),
            (lambda x, mask: masked(x, mask, mask_deviation=False), "padded positions deviate from the mean by −mean: mask the deviations before you square them."),
            (lambda x, mask: functional.layer_norm(x, x.shape[1:]) * mask[..., None], "masking the output does not take the padding out of the statistics."),
            (lambda x, mask: functional.layer_norm(x, x.shape[-1:]) * mask[..., None], "that normalizes each token by itself; the question is about the whole sequence."),
        ],
        "cases": [(PADDED, MASK)],
    },
    "7.5": {
        "right": lambda p, mean, variance: p * variance + p * (1 - p) * mean**2,
        "mistakes": [
            (lambda p, mean, variance: p * variance, "that is the case of mean zero; real and padded values also differ in their means."),
            (lambda p, mean, variance: p * (variance + mean**2), "that is the mean square: subtract the square of the mean, p·μ."),
            (lambda p, mean, variance: p * (variance + mean**2) - mean**2, "the mean that the norm sees is p·μ, not μ."),
        ],
        "cases": [(0.5, 0.0, 1.0), (0.25, 2.0, 0.5), (1.0, 3.0, 2.0)],
    },
}  # fmt: skip
