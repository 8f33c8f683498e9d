"""Exercises of chapter 06, "Why does BatchNorm work?"."""

import math

WIDE = math.pi / (math.pi - 1)

QUESTIONS = {
    "6.1": {
        "right": WIDE**5,
        "mistakes": [
            (WIDE**10, "that is the factor on the *squared* norm; the norm is its root."),
            (1.0, "no initialization can bring the factor to one behind BatchNorm: equation 6.4."),
            (WIDE**-5, "it grows on the way down; you have its inverse."),
        ],
        "rel": 0.01,
    },
    "6.2": {
        "right": lambda a: (1 + a**2) / 2 / ((1 + a**2) / 2 - (1 - a) ** 2 / (2 * math.pi)),
        "mistakes": [
            (lambda a: 1.0, "that is LayerNorm, which divides by E[φ²]. BatchNorm's variance subtracts the mean."),
            (lambda a: (1 + a**2) / 2 / ((1 + a**2) / 2 - (1 - a) / math.sqrt(2 * math.pi)), "the variance subtracts the *square* of the mean."),
            (lambda a: (1 + a**2) / 2 * WIDE, "check a = 1: a straight line must give one."),
        ],
        "cases": [(0.0,), (0.1,), (0.5,), (-1.0,)],
    },
    "6.3": {
        "right": lambda lr, k: lr * k**2,
        "mistakes": [
            (lambda lr, k: lr * k, "that makes up for the smaller gradient; the weights to be turned are longer too."),
            (lambda lr, k: lr / k**2, "larger weights turn more slowly: the rate must grow."),
            (lambda lr, k: lr, "the loss is the same, its gradient is not."),
        ],
        "cases": [(0.1, 3.0), (0.5, 0.1)],
    },
    "6.4": {
        "right": math.degrees(math.sqrt(2 * 0.1 * 0.0005)),
        "mistakes": [
            (math.sqrt(2 * 0.1 * 0.0005), "that is in radians."),
            (math.degrees(math.sqrt(0.1 * 0.0005)), "a 2 is missing under the root: (1 - ηλ)² is 1 - 2ηλ."),
            (math.degrees(2 * 0.1 * 0.0005), "that is its square: take the root first."),
        ],
        "rel": 0.01,
    },
    "6.5": {
        "right": 400,
        "mistakes": [
            (20, "that would be noise of 1/B; a mean of B has 1/√B."),
            (200, "1/√B = 0.05 means B = 1/0.05²."),
        ],
    },
}  # fmt: skip
