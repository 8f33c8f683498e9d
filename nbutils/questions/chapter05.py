"""Exercises of chapter 05, "Why does accuracy collapse at model.eval()?"."""

import math

QUESTIONS = {
    "5.1": {
        "right": lambda m, p: math.log(p) / math.log(1 - m),
        "mistakes": [
            (lambda m, p: math.log(p) / math.log(m), "m is the weight of the *newest* batch in PyTorch; the old value keeps 1 - m."),
            (lambda m, p: math.log(1 - p) / math.log(1 - m), "that is where the share p has been *replaced*; p of the start shall be left."),
            (lambda m, p: (1 - p) / m, "that would be a linear decay; each batch takes the share m of what is left."),
        ],
        "cases": [(0.1, 0.01), (0.01, 0.5), (0.3, 0.001)],
    },
    "5.2": {
        "right": lambda m, parts: 1 - (1 - m) ** (1 / parts),
        "mistakes": [
            (lambda m, parts: m / parts, "nearly, for small m; but the parts compound: (1 - m')^parts = 1 - m."),
            (lambda m, parts: 1 - (1 - m) ** parts, "that is the momentum per step that `parts` updates amount to; here it goes the other way."),
            (lambda m, parts: m ** (1 / parts), "what compounds is the share that is kept, 1 - m."),
        ],
        "cases": [(0.1, 16), (0.5, 4), (0.9, 2)],
    },
    "5.3": {
        "right": lambda m, v, n: (v * (1 - m) / m) ** 2 + m / (2 - m) / n,
        "mistakes": [
            (lambda m, v, n: v * (1 - m) / m + m / (2 - m) / n, "the lag enters a squared error squared."),
            (lambda m, v, n: (v * (1 - m) / m) ** 2 + m / (2 - m), "a batch mean of n values has variance σ²/n, of which m/(2-m) remains."),
            (lambda m, v, n: (v / m) ** 2 + m / (2 - m) / n, "the newest batch is not late: (1 - m)/m batches, not 1/m."),
            (lambda m, v, n: (v * (1 - m) / m) ** 2 + m**2 / n, "m²/n is what the newest batch adds; sum over all batches that are remembered."),
        ],
        "cases": [(0.1, 0.01, 8), (0.5, 0.1, 2), (0.01, 0.001, 256)],
    },
    "5.4": {
        "right": lambda a: 1 + a**2,
        "mistakes": [
            (lambda a: 1.0, "that would be so if it divided by the variance of all data, as after joint passes."),
            (lambda a: math.sqrt(1 + a**2), "that is the standard deviation."),
            (lambda a: 1 + 4 * a**2, "the two means are 2a apart, but each is a away from their middle."),
        ],
        "cases": [(0.5,), (1.0,), (8.0,)],
    },
}  # fmt: skip
