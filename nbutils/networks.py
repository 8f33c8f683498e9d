"""The networks that the chapters study: plain and residual stacks. Chapter 02 builds the first.

Everything is a small module with a readable name (`layers.3.linear`, `blocks.3.branch.norm`), so
that `probes` can say where it measured. No forward here depends on what stands in front of the
features: `population` runs the same code with a model axis. The transformer is in `transformer`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from nbutils.layers import BatchNorm, Derf, DyT, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
    "gelu": nn.GELU,
}
INITS = ("default", "xavier", "he", "orthogonal", "normal")
RESIDUALS = (None, "identity", "scaled", "rezero", "skipinit", "fixup")
GROUPS = 4

# A name, and the module for so many channels in an input (N, *shape). A norm is added here.
NORMS: dict[str | None, Callable[[int, tuple[int, ...]], nn.Module | None]] = {
    None: lambda channels, shape: None,
    "batch": lambda channels, shape: BatchNorm(channels),
    "layer": lambda channels, shape: LayerNorm(shape),
    "rms": lambda channels, shape: RMSNorm(shape),
    "group": lambda channels, shape: GroupNorm(GROUPS, channels),
    "instance": lambda channels, shape: InstanceNorm(channels),
    "dyt": lambda channels, shape: DyT(shape),
    "derf": lambda channels, shape: Derf(shape),
}
Norm = str | Callable[[int], nn.Module] | None


class Scale(nn.Module):
    """Multiply by one learned number that starts at `initial`; the shape stays."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(float(initial)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Bias(nn.Module):
    """Add one learned number that starts at 0; the shape stays."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Residual(nn.Module):
    """skip * h + scale * branch(h) with fixed numbers. The branch keeps the shape of h."""

    def __init__(self, branch: nn.Module, scale: float = 1.0, skip: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.scale, self.skip = scale, skip

    def forward(self, h: Tensor) -> Tensor:
        kept = h if self.skip == 1 else self.skip * h
        return torch.add(kept, self.branch(h), alpha=self.scale)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, skip={self.skip:g}"


def initialize(
    layer: nn.Linear | nn.Conv2d, init: str, gain: float = 1.0, bias_std: float = 0.0
) -> None:
    """Draw the weights of a Linear or convolution in place, by one of the field's rules.

    With fan_in inputs and fan_out outputs per unit (times the kernel's positions):
    - "default": PyTorch's own, U(-b, b) with b = 1 / sqrt(fan_in), weights and bias alike.
    - "xavier": N(0, 2 / (fan_in + fan_out)); Glorot & Bengio 2010, equation 12 as a Gaussian.
    - "he": N(0, 2 / fan_in); He et al. 2015, arXiv:1502.01852, equation 10.
    - "orthogonal": orthonormal rows or columns; Saxe et al. 2014, arXiv:1312.6120.
    - "normal": N(0, 1 / fan_in), so that gain is the sigma_w of mean-field theory.
    The weights are multiplied by `gain`. The bias is N(0, bias_std^2), or 0 where bias_std is 0;
    "default" keeps PyTorch's bias there.
    Raises ValueError for an unknown rule.
    """
    check_known("init", init, INITS)
    fan_in = layer.weight[0].numel()
    with torch.no_grad():
        if init == "xavier":
            nn.init.xavier_normal_(layer.weight)
        elif init == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        elif init in ("he", "normal"):
            layer.weight.normal_(0.0, ((2 if init == "he" else 1) / fan_in) ** 0.5)
        layer.weight.mul_(gain)
        if layer.bias is not None and (init != "default" or bias_std > 0):
            layer.bias.normal_(0.0, bias_std)


class _Stack(nn.Module):
    """Hidden layers of one width between input and head; `MLP` and `CNN` say what a layer is."""

    def __init__(
        self,
        depth: int,
        width: int = 32,
        *,
        inputs: int = 64,
        outputs: int = 10,
        activation: str = "relu",
        norm: Norm = None,
        init: str = "default",
        gain: float = 1.0,
        bias_std: float = 0.0,
        residual: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_known("activation", activation, ACTIVATIONS)
        check_norm(norm)
        check_known("init", init, INITS)
        check_known("residual", residual, RESIDUALS)
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        if residual == "fixup" and (depth % 2 or norm is not None):
            raise ValueError(
                "residual='fixup' has branches of two layers and no norm: use an even depth and "
                f"norm=None, got depth={depth} and norm={norm!r}."
            )
        self.depth, self.width = depth, width
        self._activation, self._norm, self._residual = ACTIVATIONS[activation], norm, residual
        # These norms subtract the mean of each channel, and with it any bias: it would never learn.
        self._bias = norm not in ("batch", "instance")
        self._rule = {"init": init, "gain": gain, "bias_std": bias_std}
        # He's factor 2 pays for a ReLU; the stem has none before it, the head none behind.
        self._edge_rule = {"init": "normal" if init == "he" else init}

        with seeded(seed):
            if residual is None:
                self.layers = self._plain(inputs)
            else:
                self.stem = self.make_layer(inputs, width, bias=self._bias)
                initialize(self.stem, **self._edge_rule)
                self.blocks = self._blocks()
                if norm is not None:
                    self.norm = self._normalize(depth)
                    self.activation = self._activation()
            self._pool_positions()
            self.head = nn.Linear(width, outputs)
            initialize(self.head, **self._edge_rule)
        if residual == "fixup":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():  # in the order in which they were assigned
            x = part(x)
        return x

    def _plain(self, inputs: int) -> nn.Sequential:
        """(layer, norm, activation) x depth."""
        stack = nn.Sequential()
        for index in range(self.depth):
            fan_in = inputs if index == 0 else self.width
            layer = self.make_layer(fan_in, self.width, bias=self._bias)
            initialize(layer, **self._rule)
            parts = named(
                (self.layer_name, layer),
                ("norm", self._normalize(index)),
                ("activation", self._activation()),
            )
            stack.add_module(str(index), parts)
            self._pool_after(index, stack)
        return stack

    def _blocks(self) -> nn.Sequential:
        """h + scale * layer(activation(norm(h))) x depth, or Fixup's two-layer branches."""
        stack = nn.Sequential()
        fixup = self._residual == "fixup"
        layers_per_branch = 2 if fixup else 1
        scale = self.depth**-0.5 if self._residual == "scaled" else 1.0
        for block in range(self.depth // layers_per_branch):
            branch = self._fixup_branch() if fixup else self._branch(block)
            stack.add_module(str(block), Residual(branch, scale))
            self._pool_after((block + 1) * layers_per_branch - 1, stack)
        return stack

    def _branch(self, index: int) -> nn.Sequential:
        layer = self.make_layer(self.width, self.width, bias=self._bias)
        initialize(layer, **self._rule)
        learned = self._residual in ("rezero", "skipinit")
        return named(
            ("norm", self._normalize(index)),
            ("activation", self._activation()),
            (self.layer_name, layer),
            ("scale", Scale(0.0) if learned else None),
        )

    def _fixup_branch(self) -> nn.Sequential:
        first, last = (self.make_layer(self.width, self.width, bias=False) for _ in range(2))
        initialize(first, **self._rule)
        with torch.no_grad():  # L^(-1 / (2 m - 2)) with L branches of m = 2 layers
            first.weight.mul_((self.depth // 2) ** -0.5)
            last.weight.zero_()
        return named(
            ("bias1", Bias()),
            ("activation1", self._activation()),
            ("bias2", Bias()),
            (f"{self.layer_name}1", first),
            ("bias3", Bias()),
            ("activation2", self._activation()),
            ("bias4", Bias()),
            (f"{self.layer_name}2", last),
            ("scale", Scale(1.0)),
        )

    # What a layer is, for MLP and CNN to say.
    layer_name: str
    make_layer: Callable[..., nn.Linear | nn.Conv2d]

    def _normalize(self, index: int) -> nn.Module | None:
        """The norm at layer `index`, None for norm=None."""
        raise NotImplementedError

    def _pool_after(self, index: int, stack: nn.Sequential) -> None:
        """Add to `stack` what follows layer `index`, if anything does."""

    def _pool_positions(self) -> None:
        """Add what turns the last hidden layer into vectors for the head."""


class MLP(_Stack):
    """A stack of `depth` hidden Linear layers; input (N, inputs), output logits (N, outputs).

    residual=None: (Linear, norm, activation) x depth, then the head, one more Linear.
    Otherwise a Linear stem, then depth pre-activation blocks h + Linear(activation(norm(h))), a
    last norm and activation if there is a norm, and the head (He et al. 2016, arXiv:1603.05027):
    - "identity": just that.  "scaled": each branch times 1 / sqrt(depth), fixed.
    - "rezero": each branch times a learned scalar that starts at 0 (Bachlechner et al. 2020,
      arXiv:2003.04887). "skipinit" is the same network, found independently (De & Smith 2020,
      arXiv:2002.10444).
    - "fixup": branches of two Linear layers with scalar biases and a scalar multiplier; the last
      layer of each branch and the head start at 0, the first is multiplied by branches^(-1/2)
      (Zhang, Dauphin & Ma 2019, arXiv:1901.09321). depth counts Linear layers: it must be even.

    Initialization: see `initialize`. gain and bias_std act on the hidden layers. Stem and head take
    the same rule with gain 1, bias 0 and without He's factor 2. The weights depend on `seed` alone,
    and the global random number generator does not move.
    norm: a name of `NORMS`, or a function of the number of channels that returns a module, such as
    nn.BatchNorm1d. "group" uses 4 groups. With norm="batch", which would subtract it, hidden layers
    have no bias; with a function they keep it.
    Raises ValueError for an unknown name or a senseless combination, TypeError for any other norm.
    """

    layer_name, make_layer = "linear", nn.Linear

    def _normalize(self, index: int) -> nn.Module | None:
        return build_norm(self._norm, self.width, (self.width,))


class CNN(_Stack):
    """A stack of `depth` 3 x 3 convolutions; input (N, inputs, 8, 8), output logits (N, outputs).

    As `MLP`, with convolutions for Linear layers and the same options. 2 x 2 max pooling follows
    the first half of the layers; the mean over the 4 x 4 positions feeds the head. norm="layer" and
    "rms" average over (C, H, W). Initialization, sources and errors as for `MLP`.
    """

    layer_name = "conv"
    make_layer = staticmethod(partial(nn.Conv2d, kernel_size=3, padding=1))

    def __init__(self, depth: int, width: int = 16, *, inputs: int = 1, **options) -> None:
        super().__init__(depth, width, inputs=inputs, **options)

    def _large_layers(self) -> int:
        """How many layers stand before the pooling: half, an even number so that Fixup's fit."""
        half = (self.depth + 1) // 2
        return min(half + half % 2, self.depth)

    def _normalize(self, index: int) -> nn.Module | None:
        size = 8 if index < self._large_layers() else 4
        return build_norm(self._norm, self.width, (self.width, size, size))

    def _pool_after(self, index: int, stack: nn.Sequential) -> None:
        if index + 1 == self._large_layers():
            stack.add_module("pool", nn.MaxPool2d(2))

    def _pool_positions(self) -> None:
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()


def check_norm(norm: Norm) -> None:
    """Raise TypeError for a module, ValueError for an unknown name; a function is called later."""
    if isinstance(norm, nn.Module):
        raise TypeError(
            f"norm takes a name or a function of the number of channels, got a module, {norm}: "
            "every layer needs one of its own, such as norm=lambda channels: MyNorm(channels)."
        )
    if not callable(norm):
        check_known("norm", norm, NORMS)


def build_norm(norm: Norm, channels: int, shape: tuple[int, ...]) -> nn.Module | None:
    """A new norm for inputs (N, *shape), by its name or by the function; None for norm=None.

    Raises TypeError where the function returns no module, ValueError for InstanceNorm of vectors.
    """
    if norm == "instance" and len(shape) == 1:
        raise ValueError(
            "norm='instance' averages over positions, and a vector has none: use a CNN, or "
            "norm='layer' to average over the features."
        )
    module = norm(channels) if callable(norm) else NORMS[norm](channels, shape)
    if callable(norm) and not isinstance(module, nn.Module):
        raise TypeError(
            f"norm({channels}) must return an nn.Module, such as nn.BatchNorm1d({channels}), "
            f"got {type(module).__name__}."
        )
    return module


def named(*parts: tuple[str, nn.Module | None]) -> nn.Sequential:
    """A Sequential of the parts that exist."""
    return nn.Sequential(OrderedDict((name, part) for name, part in parts if part is not None))


def check_known(argument: str, value: str | None, known: object) -> None:
    if value not in known:
        raise ValueError(f"unknown {argument} {value!r}; known: {', '.join(map(repr, known))}.")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` inside the block; PyTorch's own generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
