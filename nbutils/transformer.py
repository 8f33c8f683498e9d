"""A small transformer on the rows of a digit, for the norm placements of chapters 08 and 09.

Inside, tokens are (N, T, C): N examples of T tokens with C features. As in `networks`, every part
is a small module with a readable name, and counts its axes from the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbutils.layers import RMSNorm
from nbutils.networks import (
    ACTIVATIONS,
    INITS,
    Norm,
    Residual,
    Scale,
    build_norm,
    check_known,
    check_norm,
    initialize,
    named,
    seeded,
)

PLACEMENTS = ("none", "post", "pre", "peri", "deepnorm", "scaled", "rezero")


class Tokens(nn.Module):
    """Cut vectors (N, T * P) into T tokens of P features each, (N, T, P)."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.tokens, -1))

    def extra_repr(self) -> str:
        return f"{self.tokens}"


class Positions(nn.Module):
    """Add a learned vector to each of the T positions; tokens (N, T, C) keep their shape."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(tokens, width) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class TokenMean(nn.Module):
    """The mean over the T tokens of an example: (N, T, C) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-2)


class OverTokens(nn.Module):
    """Give a norm that expects (N, C) the tokens of all examples; (N, T, C) keeps its shape."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(-3, -2)).reshape(x.shape)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(P)) v for (..., heads, T, P), of the shape of `value`."""
    # PyTorch has a fused kernel for four axes only: all those in front of the heads become one.
    parts = (part.reshape(-1, *part.shape[-3:]) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*parts).view(value.shape)


class Attention(nn.Module):
    """Self-attention of the T tokens of an example to each other; (N, T, C) keeps its shape.

    Each of the `heads` sees C / heads of the features: softmax(q k^T / sqrt(C / heads)) v. With
    qk_norm, RMSNorms of that size act on queries and keys, shared by the heads.
    Raises ValueError where heads does not divide width.
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} heads and width {width}.")
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.query_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        query = self.query_norm(self._split(self.query(x)))
        key = self.key_norm(self._split(self.key(x)))
        value = self._split(self.value(x))
        y = attend(query, key, value)
        return self.output(y.transpose(-3, -2).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        """(N, T, C) to (N, heads, T, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Transformer(nn.Sequential):
    """`depth` blocks of attention and feed-forward network; (N, tokens * inputs) to (N, outputs).

    The tokens of a digit are its rows. A Linear layer and learned positions embed them, and the
    mean over tokens feeds the head. A block has two sublayers f, attention and Linear - activation
    - Linear with 4 * width units. Where the norm goes, `placement`:
    - "none": h + f(h).  "rezero": h + a f(h), where a is learned and starts at 0 (Bachlechner et
      al. 2020, arXiv:2003.04887). Both leave `norm` out.
    - "post": norm(h + f(h)) (Vaswani et al. 2017, arXiv:1706.03762).
    - "pre": h + f(norm(h)), and a last norm before the mean (Xiong et al. 2020, arXiv:2002.04745).
    - "peri": h + norm(f(norm(h))), and a last norm (Kim et al. 2025, arXiv:2502.02732).
    - "deepnorm": norm(a h + f(h)) with a = (2 depth)^(1/4); the weights of value, output and
      feed-forward times (8 depth)^(-1/4) at the start (Wang et al. 2022, arXiv:2203.00555).
    - "scaled": h + f(norm(h) / sqrt(l)) in block l = 1, 2, ..., and a last norm (Sun et al. 2025,
      arXiv:2502.05795).

    norm, init and gain as for `networks.MLP`; biases start at 0 unless init="default". A norm that
    a function makes, "batch" and "group" see the tokens of all examples as one batch of vectors.
    The weights depend on `seed` alone, and the global random number generator does not move.
    Raises ValueError for an unknown name and where heads does not divide width, TypeError for a
    norm that is, or returns, something else.
    """

    def __init__(
        self,
        depth: int,
        width: int = 32,
        *,
        heads: int = 4,
        inputs: int = 8,
        tokens: int = 8,
        outputs: int = 10,
        norm: Norm = "layer",
        placement: str = "pre",
        activation: str = "gelu",
        qk_norm: bool = False,
        init: str = "xavier",
        gain: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_known("activation", activation, ACTIVATIONS)
        check_norm(norm)
        check_known("init", init, INITS)
        check_known("placement", placement, PLACEMENTS)
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        self.depth, self.width = depth, width
        self._norm, self._placement = norm, placement
        self._heads, self._qk_norm, self._activation = heads, qk_norm, ACTIVATIONS[activation]
        self._rule = {"init": init, "gain": gain}
        edge_rule = {"init": "normal" if init == "he" else init}

        with seeded(seed):
            self.tokens = Tokens(tokens)
            self.embedding = nn.Linear(inputs, width)
            initialize(self.embedding, **edge_rule)
            self.positions = Positions(tokens, width)
            self.blocks = nn.Sequential(*(self._block(number) for number in range(1, depth + 1)))
            if placement in ("pre", "peri", "scaled") and norm is not None:
                self.norm = self._normalize()
            self.mean = TokenMean()
            self.head = nn.Linear(width, outputs)
            initialize(self.head, **edge_rule)

    def _block(self, number: int) -> nn.Sequential:
        """Block 1, 2, ..., depth: attention, then the feed-forward network."""
        attention = Attention(self.width, self._heads, self._qk_norm)
        ffn = named(
            ("up", nn.Linear(self.width, 4 * self.width)),
            ("activation", self._activation()),
            ("down", nn.Linear(4 * self.width, self.width)),
        )
        for layer in (attention.query, attention.key):
            initialize(layer, **self._rule)
        small = (8 * self.depth) ** -0.25 if self._placement == "deepnorm" else 1.0
        for layer in (attention.value, attention.output, ffn.up, ffn.down):
            initialize(layer, self._rule["init"], self._rule["gain"] * small)
        return named(
            ("attention", self._sublayer(attention, number)),
            ("ffn", self._sublayer(ffn, number)),
        )

    def _sublayer(self, layer: nn.Module, number: int) -> nn.Module:
        """One sublayer of block `number` with its skip and its norm."""
        place = self._placement
        if place in ("post", "deepnorm"):
            skip = (2 * self.depth) ** 0.25 if place == "deepnorm" else 1.0
            branch = Residual(named(("layer", layer)), skip=skip)
            return named(("residual", branch), ("norm", self._normalize()))
        normed = place in ("pre", "peri", "scaled")
        divided = Scale(number**-0.5).requires_grad_(False) if place == "scaled" else None
        return Residual(
            named(
                ("norm", self._normalize() if normed else None),
                ("divided", divided),
                ("layer", layer),
                ("scale", Scale(0.0) if place == "rezero" else None),
                ("output_norm", self._normalize() if place == "peri" else None),
            )
        )

    def _normalize(self) -> nn.Module | None:
        norm = build_norm(self._norm, self.width, (self.width,))
        reads_rows = callable(self._norm) or self._norm in ("batch", "group")
        return OverTokens(norm) if reads_rows else norm
