"""Exercises of chapter 11, "What does InstanceNorm remove?"."""

import torch


def _adain(content, style):
    axes = (2, 3)
    mean, std = content.mean(axes, keepdim=True), content.std(axes, keepdim=True, correction=0)
    standardized = (content - mean) / std
    scale = style.std(axes, keepdim=True, correction=0)
    return scale * standardized + style.mean(axes, keepdim=True)


def _image(seed, height):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, height, 6, generator=generator, dtype=torch.float64)
    return (1 + seed) * x + seed


QUESTIONS = {
    "11.1": {
        "right": -1.0,
        "mistakes": [
            (1.0, "the gain is negative: σ becomes |a|σ, and the sign of a is left over."),
            (-2.0, "the size of the gain cancels: numerator and σ both grow by 2."),
        ],
    },
    "11.2": {
        "right": lambda content, style, weight: (1 - weight) * content + weight * _adain(content, style),
        "mistakes": [
            (lambda content, style, weight: _adain(content, style), "the weight is not used: at 0 the content must come back."),
            (lambda content, style, weight: weight * content + (1 - weight) * _adain(content, style), "the weight is the wrong way round: 0 is the content."),
            (lambda content, style, weight: (1 - weight) * content + weight * _adain(style, content) if content.shape == style.shape else content, "content and style are swapped in equation 11.3."),
            (lambda content, style, weight: (1 - weight) * content + weight * style if content.shape == style.shape else content, "mix with AdaIN of the two, not with the style image itself."),
        ],
        "cases": [(_image(0, 5), _image(1, 5), 0.3), (_image(2, 5), _image(3, 5), 1.0), (_image(2, 5), _image(1, 5), 0.0)],
    },
    "11.3": {
        "right": lambda sigma, eps: (eps / 3) ** 0.5 / sigma,
        "mistakes": [
            (lambda sigma, eps: eps**0.5 / sigma, "there the output is 1/√2; solve equation 11.2 for one half."),
            (lambda sigma, eps: (eps / 3) ** 0.5, "that is a σ, the standard deviation after the gain; divide by σ."),
            (lambda sigma, eps: eps / 3 / sigma**2, "that is a²; take the root."),
        ],
        "cases": [(0.3, 1e-5), (0.05, 1e-3)],
    },
    "11.4": {
        "right": lambda L, C: 2.0 * L * C,
        "mistakes": [
            (lambda L, C: 1.0 * L * C, "γ and β: two numbers per channel."),
            (lambda L, C: 2.0 * C, "every one of the L layers has its own."),
        ],
        "cases": [(1, 16), (5, 32)],
    },
}  # fmt: skip
