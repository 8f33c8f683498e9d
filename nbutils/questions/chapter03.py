"""Exercises of chapter 03, "What does BatchNorm compute?"."""

import math

import torch


def _gradient(x, g, center=True, project=True, correction=0, scale=True):
    r = 1 / x.std(correction=correction) if scale else 1.0
    x_hat = (x - x.mean()) / x.std(correction=correction)
    mean = g.mean() if center else 0.0
    along = x_hat * (x_hat * g).mean() if project else 0.0
    return r * (g - mean - along)


def _standardize(x, over, correction=0):
    var, mean = torch.var_mean(x, over, correction=correction, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5)


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


QUESTIONS = {
    "3.1": {
        "right": math.sqrt(49),
        "mistakes": [
            (math.sqrt(50), "n − 1 stands under the root: the value moves its own mean."),
            (5.0, "that is the value itself: the layer moves and scales it."),
            (2.0, "that is the difference to the others, before the division."),
            (2 - 2 / 50, "that is the deviation from the mean, before the division."),
            (49 / math.sqrt(50), "that divides by the standard deviation with n − 1; BatchNorm divides by the one with n."),
            (1.0, "one is the standard deviation of the whole batch, not its largest value."),
        ],
        "rel": 0.005,
    },
    "3.2": {
        "right": _gradient,
        "mistakes": [
            (lambda x, g: _gradient(x, g, project=False), "the part through the variance is missing: subtract the component along x̂."),
            (lambda x, g: _gradient(x, g, center=False), "the part through the mean is missing: subtract the mean of g."),
            (lambda x, g: _gradient(x, g, scale=False), "multiply by r, one over the standard deviation."),
            (lambda x, g: _gradient(x, g, correction=1), "`torch.std` divides by n − 1 unless you pass correction=0."),
            (lambda x, g: g / x.std(correction=0), "that treats mean and variance as constants: detached statistics."),
        ],
        "cases": [(_draw(4), _draw(2, 4)[1]), (3 * _draw(9) + 1, _draw(2, 9)[1])],
    },
    "3.3": {
        "right": lambda x: _standardize(x, (0, 1)),
        "mistakes": [
            (lambda x: _standardize(x, (0, 2)), "that takes axis 1 for the channels, as the layer would: one mean per position."),
            (lambda x: _standardize(x, 2), "that is LayerNorm: the features of one token."),
            (lambda x: _standardize(x, (1, 2)), "that averages over one example and all its features."),
            (lambda x: _standardize(x, 0), "that has a mean for each feature *and position*; average over the positions too."),
            (lambda x: _standardize(x, (0, 1), correction=1), "BatchNorm divides by the variance with n: correction=0."),
        ],
        "cases": [(2 * _draw(4, 3, 5).float() + 1,), (_draw(2, 6, 3).float(),)],
    },
    "3.4": {
        "right": torch.tensor([2.0, -3.0]),
        "mistakes": [
            (torch.tensor([2.0, 1.0]), "β comes after the running mean has been subtracted: b = β − a · running_mean."),
            (torch.tensor([6 / 9, 1 - 12 / 9]), "divide by the root of the running variance."),
            (torch.tensor([2.0, 5.0]), "the running mean is subtracted, not added."),
            (torch.tensor([2.0, -1.0]), "the running mean is scaled too: b = β − a · running_mean."),
        ],
    },
    "3.5": {
        "right": lambda m, k: (1 - m) ** k,
        "mistakes": [
            (lambda m, k: m**k, "in PyTorch m is the weight of the new batch; the old value keeps 1 − m."),
            (lambda m, k: 1 - (1 - m) ** k, "that is what has been replaced."),
            (lambda m, k: 1 - m * k, "the steps multiply: every one keeps the share 1 − m of what is left."),
        ],
        "cases": [(0.1, 10), (0.01, 100), (0.5, 3)],
    },
}  # fmt: skip
