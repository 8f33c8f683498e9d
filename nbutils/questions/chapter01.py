"""Exercises of chapter 01, "Where do gradients go?"."""

import math

QUESTIONS = {
    "1.1": {
        "right": (1 / 6) ** 0.5,
        "mistakes": [
            (1 / 6, "that is the factor of the *squared* gradient."),
            (1 / 3, "that is the weight variance alone; ReLU halves it, and the norm is a square root."),
            ((1 / 3) ** 0.5, "the ReLU is missing: half of its slopes are zero."),
            ((1 / 2) ** 0.5, "that would be weights of variance 1/n; the default has a third of it."),
        ],
        "rel": 0.01,
    },
    "1.2": {
        "right": lambda a: math.sqrt(2 / (1 + a**2)),
        "mistakes": [
            (lambda a: math.sqrt(2), "that ignores the negative side: its slope a contributes too."),
            (lambda a: math.sqrt(2 / (1 + a)), "the slopes enter squared."),
            (lambda a: 2 / (1 + a**2), "that is the variance σ_w²; take the root."),
            (lambda a: math.sqrt(1 / (1 + a**2)), "half of the pre-activations lie on each side: a factor two is missing."),
        ],
        "cases": [(0.0,), (0.2,), (0.9,)],
    },
    "1.3": {
        "right": lambda n: math.sqrt(6 / n),
        "mistakes": [
            (lambda n: math.sqrt(2 / n), "that is the standard deviation, as in pytorch#1667; U(-b, b) has variance b²/3."),
            (lambda n: 1 / math.sqrt(n), "that is PyTorch's default, with χ₁ = 1/6."),
            (lambda n: math.sqrt(3 / n), "that gives variance 1/n; ReLU needs 2/n."),
        ],
        "cases": [(1,), (64,), (1000,)],
    },
    "1.4": {
        "right": lambda c, k: 2 * math.log(k) / abs(math.log(c)),
        "mistakes": [
            (lambda c, k: math.log(k) / abs(math.log(c)), "χ₁ acts on the squared gradient; the norm needs twice as many layers."),
            (lambda c, k: math.log(k) / abs(math.log(c)) / 2, "the factor of two belongs on the other side."),
            (lambda c, k: 2 * math.log(k) / math.log(c), "the number of layers should be positive also when c < 1."),
        ],
        "cases": [(0.87, 1000), (0.5, 10), (1.3, 100)],
    },
}  # fmt: skip
