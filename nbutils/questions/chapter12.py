"""Exercises of chapter 12, "What changes when you normalize the weights instead?"."""

import math

import torch


def _projected(v, g, grad_w, scale=True, project=True):
    unit = v / v.norm()
    along = unit * (unit @ grad_w) if project else 0.0
    return (g / v.norm() if scale else 1.0) * (grad_w - along)


QUESTIONS = {
    "12.1": {
        "right": lambda r: math.log(1000) / (-4 * math.log(r)),
        "mistakes": [
            (lambda r: math.log(1000) / (-2 * math.log(r)), "that is the rate of the vector; the error of the value is its square."),
            (lambda r: math.log(1000) / (-math.log(r)), "a round multiplies by W and by its transpose, and the error of the value is a square."),
            (lambda r: math.log(1000) / (4 * math.log(r)), "the number of rounds should be positive: log r is negative."),
        ],
        "cases": [(0.5,), (0.9,), (0.99,)],
        "rel": 0.01,
    },
    "12.2": {
        "right": lambda k, L: float(k**L),
        "mistakes": [
            (lambda k, L: 1.0, "one is the bound for the reshaped kernels; a pixel is in many patches."),
            (lambda k, L: float(k * L), "constants of a composition multiply, they do not add."),
            (lambda k, L: float((k * k) ** L), "a pixel is in k² patches, but the squares are summed: take the root."),
        ],
        "cases": [(3, 2), (3, 5), (5, 3)],
    },
    "12.3": {
        "right": _projected,
        "mistakes": [
            (lambda v, g, grad_w: _projected(v, g, grad_w, project=False), "the part along v is still in it; it should be orthogonal to v."),
            (lambda v, g, grad_w: _projected(v, g, grad_w, scale=False), "the factor g / ‖v‖ is missing."),
            (lambda v, g, grad_w: _projected(v, g, grad_w, scale=False) * v.norm() / g, "the factor is g / ‖v‖, not its inverse: a longer v turns more slowly."),
        ],
        "cases": [
            (torch.tensor([3.0, 4.0]), 2.0, torch.tensor([1.0, 1.0])),
            (torch.tensor([1.0, -2.0, 0.5]), 0.7, torch.tensor([0.3, 0.1, -2.0])),
        ],
    },
    "12.4": {
        "right": (1 / 0.99 - 1) / 3e-5,
        "mistakes": [
            ((1 / 0.99**2 - 1) / 3e-5, "that keeps 99 % of the length; the question is about its square."),
            ((1 / 0.99 - 1) / 1e-5, "that would be weights of variance 1/n; the default has a third of it."),
            (0.01 / 3e-5 / 10, "the weights' variance is 1/(3n), and eps is 1e-5: check the power of ten."),
        ],
        "rel": 0.02,
    },
}  # fmt: skip
