"""Exercises of chapter 08, "Where does the norm go in a residual stack?"."""

import math

QUESTIONS = {
    "8.1": {
        "right": 9.0,
        "mistakes": [
            (81.0, "that is the factor on the variance; the standard deviation is its root."),
            (2.0**40, "that is a stream without norms, whose variance doubles; behind a norm each branch adds 1."),
            (math.sqrt(80), "the stream had variance 1 before the first block: q = l + 1."),
        ],
    },
    "8.2": {
        "right": lambda L, M: math.sqrt((L + 1) / (M + 1)),
        "mistakes": [
            (lambda L, M: (L + 1) / (M + 1), "that is the factor on the *squared* gradient."),
            (lambda L, M: math.sqrt((M + 1) / (L + 1)), "upside down: a deeper stack gives its last block less."),
            (lambda L, M: 1.0, "that is Post-LN."),
        ],
        "cases": [(6, 48), (1, 99)],
    },
    "8.3": {
        "right": lambda L: 1 / math.sqrt(math.exp(1 / L) - 1),
        "mistakes": [
            (lambda L: 1 / (math.exp(1 / L) - 1), "that is α²."),
            (lambda L: math.sqrt(math.exp(1 / L) - 1), "upside down: the stream must be larger than the branch, not smaller."),
            (lambda L: 1 / math.sqrt(math.e - 1), "that keeps 1/e in *one* block; the share is raised to the power L."),
        ],
        "cases": [(1,), (6,), (48,)],
        "rel": 0.002,
    },
    "8.4": {
        "right": lambda step, warm_up: min(1.0, (step + 1) / warm_up),
        "mistakes": [
            (lambda step, warm_up: min(1.0, step / warm_up), "the first step, number 0, would have rate 0."),
            (lambda step, warm_up: (step + 1) / warm_up, "stop at one: after the warm-up the rate would go on rising."),
        ],
        "cases": [(0, 40), (20, 40), (39, 40), (79, 40)],
    },
}  # fmt: skip
