"""Exercises of chapter 02, "Do plain deep networks collapse without normalization?"."""

import math

import torch

QUESTIONS = {
    "2.1": {
        "right": lambda L: 2 ** (L / 2),
        "mistakes": [
            (lambda L: 2**L, "that is the factor on the mean square; the standard deviation is its root."),
            (lambda L: (L + 1) ** 0.5, "that is the growth with a *normalized* branch, which adds a constant each time."),
            (lambda L: 2 * L, "the doublings multiply, they do not add."),
        ],
        "cases": [(1,), (10,), (80,)],
    },
    "2.2": {
        "right": 0.0,
        "mistakes": [
            (1 / math.pi, "that is ReLU, whose outputs are never negative. Tanh is odd: E[tanh z] = 0."),
            (1.0, "that would be parallel vectors."),
        ],
    },
    "2.3": {
        "right": lambda c: ((1 - c**2).sqrt() + c * (math.pi - c.acos())) / math.pi,
        "mistakes": [
            (lambda c: ((1 - c**2).sqrt() + c * (math.pi - c.acos())) / (2 * math.pi), "divide by E[φ²] = 1/2 too: the result must be 1 at c = 1."),
            (lambda c: ((1 - c**2).sqrt() + c * c.acos()) / math.pi, "the angle enters as π minus arccos c."),
            (lambda c: ((1 - c**2).sqrt() + math.pi - c.acos()) / math.pi, "the second term is multiplied by c."),
        ],
        "cases": [(torch.tensor([0.0, 0.3, 0.9]),), (torch.tensor([-0.5]),)],
    },
    "2.4": {
        "right": math.sqrt(math.exp(1 / 24) - 1),
        "mistakes": [
            (1 / 24, "that is s², nearly: the branch's *variance* adds up, so take the root."),
            (math.sqrt(math.e - 1), "that is for one block; the factor of all 24 must be e."),
        ],
        "rel": 0.03,
    },
}  # fmt: skip
