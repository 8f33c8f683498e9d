"""Exercises of chapter 09, "What do today's transformers normalize, and what is settled?"."""

import math

QUESTIONS = {
    "9.1": {
        "right": 16.75,
        "mistakes": [
            (16.8125, "that is the exact sum; from 16 on, neighbours in bfloat16 are 0.125 apart."),
            (16.875, "the sum is halfway between two neighbours, and a tie goes to the even one."),
        ],
        "rel": 1e-6,
    },
    "9.2": {
        "right": lambda d, g_q, g_k: g_q * g_k * math.sqrt(d),
        "mistakes": [
            (lambda d, g_q, g_k: g_q * g_k * d, "that is the product before it is divided by √d."),
            (lambda d, g_q, g_k: math.sqrt(d), "that is the bound for γ = 1; the learned weights lengthen both vectors."),
            (lambda d, g_q, g_k: (g_q + g_k) * math.sqrt(d), "lengths multiply in an inner product."),
        ],
        "cases": [(64, 2.0, 3.0), (16, 1.0, 0.5)],
    },
    "9.3": {
        "right": lambda d, tokens: 1 / (1 + (tokens - 1) * math.exp(-2 * math.sqrt(d))),
        "mistakes": [
            (lambda d, tokens: 1 / (1 + (tokens - 1) * math.exp(-math.sqrt(d))), "the others need not stay at 0: they can go down to -√d."),
            (lambda d, tokens: 1 / (1 + tokens * math.exp(-2 * math.sqrt(d))), "only T - 1 others compete with the token."),
        ],
        "cases": [(4, 10), (1, 3)],
    },
    "9.4": {
        "right": lambda A, d: math.sqrt(d / (A**2 + d - 1)),
        "mistakes": [
            (lambda A, d: 1 / A, "the mean square is over all d channels: only one of them is A."),
            (lambda A, d: d / (A**2 + d - 1), "that is the factor on the square."),
            (lambda A, d: math.sqrt((A**2 + d - 1) / d), "that is what it divides by; give its inverse."),
            (lambda A, d: math.sqrt(d) / A, "that is the limit of large A; the other channels count as well."),
        ],
        "cases": [(10.0, 64), (3.0, 16)],
    },
    "9.5": {
        "right": 0.1 / math.sqrt(9.01) / 0.9,
        "mistakes": [
            (1 / 9, "that is SGD: AdamW divides the gradient by its noise, so that a smaller decay does the same."),
            (1 / 3, "that is σλ = 1, which halves γ."),
            (0.1, "put γ = 0.9 into equation 9.5, with σ = 3."),
        ],
        "rel": 0.02,
    },
}  # fmt: skip
