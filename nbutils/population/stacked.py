"""The fast path: layers of one kind stacked by hand, one operation for all networks.

A Linear layer multiplies M matrices in one call, a convolution has M groups, and a norm sees M
times the channels. Inside, vectors are (M, B, C), tokens (M, B, T, C) and images (B, M * C, H, W),
for M networks and batches of B examples.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbutils import layers
from nbutils.networks import CNN, MLP, Bias, Residual, Scale
from nbutils.transformer import Attention, OverTokens, Positions, TokenMean, Tokens, Transformer


class NotStackableError(Exception):
    """A part, or the shape of what it is given, that this file does not know."""


class Layout:
    """What four axes mean in the network at hand: images (B, M * C, H, W), or tokens."""

    images = False


class _Stacked(nn.Module):
    """M modules of one kind; each parameter and buffer keeps its name and gains an axis M."""

    def __init__(self, modules: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__()
        self.networks, self.layout = len(modules), layout
        self.training = modules[0].training
        for name, parameter in modules[0]._parameters.items():
            stacked = None
            if parameter is not None:
                values = torch.stack([module._parameters[name].detach() for module in modules])
                stacked = nn.Parameter(values, requires_grad=parameter.requires_grad)
            self.register_parameter(name, stacked)
        for name, buffer in modules[0]._buffers.items():
            stacked = None
            if buffer is not None:
                stacked = torch.stack([module._buffers[name] for module in modules])
            self.register_buffer(name, stacked)

    def are_images(self, x: Tensor) -> bool:
        return self.layout.images and x.dim() == 4

    def check_vectors(self, x: Tensor, axes: Sequence[int] = (3, 4)) -> None:
        if x.dim() not in axes or x.shape[0] != self.networks or self.are_images(x):
            raise NotStackableError(f"{type(self).__name__} on shape {tuple(x.shape)}")

    def to_channels(self, x: Tensor) -> Tensor:
        """(M, B, C) to (B, M * C); images are (B, M * C, H, W) already."""
        if self.are_images(x):
            return x
        self.check_vectors(x, axes=(3,))
        return x.transpose(0, 1).flatten(1)

    def from_channels(self, y: Tensor) -> Tensor:
        """(B, M * C) back to (M, B, C)."""
        return y if y.dim() == 4 else y.unflatten(1, (self.networks, -1)).transpose(0, 1)

    def affine(self, y: Tensor) -> Tensor:
        """Scale and shift y (M, B, ..., *shape) by parameters (M, *shape)."""
        weight, bias = self.weight, getattr(self, "bias", None)  # torch.nn.RMSNorm has no bias
        if weight is None:
            return y
        between = [1] * (y.dim() - weight.dim())
        weight = weight.view(len(weight), *between, *weight.shape[1:])
        if bias is None:
            return y * weight
        return torch.addcmul(bias.view(weight.shape), y, weight)


def _flat(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.flatten()


class _Linear(_Stacked):
    def forward(self, x: Tensor) -> Tensor:
        self.check_vectors(x)
        rows = x if x.dim() == 3 else x.flatten(1, 2)
        if self.bias is None:
            y = torch.bmm(rows, self.weight.mT)
        else:
            y = torch.baddbmm(self.bias.unsqueeze(1), rows, self.weight.mT)
        return y if x.dim() == 3 else y.unflatten(1, x.shape[1:3])


class _Conv2d(_Stacked):
    def __init__(self, modules: Sequence[nn.Conv2d], layout: Layout) -> None:
        super().__init__(modules, layout)
        one = modules[0]
        if one.padding_mode != "zeros":
            raise NotStackableError(f"padding mode {one.padding_mode!r}")
        self.geometry = (one.stride, one.padding, one.dilation, one.groups * self.networks)

    def forward(self, x: Tensor) -> Tensor:
        if not self.are_images(x):
            raise NotStackableError(f"Conv2d on shape {tuple(x.shape)}")
        return functional.conv2d(x, self.weight.flatten(0, 1), _flat(self.bias), *self.geometry)


class _BatchNorm(_Stacked):
    def __init__(self, modules: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__(modules, layout)
        self.eps, self.momentum = modules[0].eps, modules[0].momentum
        tracked = self.num_batches_tracked
        if self.momentum is None and tracked is not None and tracked.unique().numel() > 1:
            raise ValueError(
                "momentum=None averages over all batches seen, and these networks have seen "
                f"different numbers of batches: {tracked.tolist()}."
            )

    def forward(self, x: Tensor) -> Tensor:
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / self.num_batches_tracked[0].item()
        y = functional.batch_norm(
            self.to_channels(x),
            None if self.running_mean is None else self.running_mean.view(-1),
            None if self.running_var is None else self.running_var.view(-1),
            _flat(self.weight),
            _flat(self.bias),
            training=self.training or self.running_mean is None,
            momentum=momentum or 0.0,
            eps=self.eps,
        )
        return self.from_channels(y)


class _InstanceNorm(_Stacked):
    def __init__(self, modules: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__(modules, layout)
        self.eps, self.momentum = modules[0].eps, modules[0].momentum

    def forward(self, x: Tensor) -> Tensor:
        if not self.are_images(x):
            raise NotStackableError(f"InstanceNorm on shape {tuple(x.shape)}")
        return functional.instance_norm(
            x,
            None if self.running_mean is None else self.running_mean.view(-1),
            None if self.running_var is None else self.running_var.view(-1),
            _flat(self.weight),
            _flat(self.bias),
            use_input_stats=self.training or self.running_mean is None,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )


class _GroupNorm(_Stacked):
    def __init__(self, modules: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__(modules, layout)
        self.eps, self.groups = modules[0].eps, modules[0].num_groups

    def forward(self, x: Tensor) -> Tensor:
        if self.are_images(x):
            groups = self.groups * self.networks
            return functional.group_norm(x, groups, _flat(self.weight), _flat(self.bias), self.eps)
        self.check_vectors(x, axes=(3,))
        y = functional.group_norm(x.flatten(0, 1), self.groups, eps=self.eps).view(x.shape)
        return self.affine(y)


class _LayerNorm(_Stacked):
    def __init__(self, modules: Sequence[nn.Module], layout: Layout) -> None:
        super().__init__(modules, layout)
        self.eps = getattr(modules[0], "eps", None)
        self.shape = tuple(modules[0].normalized_shape)

    def standardize(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.shape, eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        if self.are_images(x) and len(self.shape) == 3:
            images = x.unflatten(1, (self.networks, -1))  # (B, M, C, H, W)
            images = images.transpose(0, 1)
            return self.affine(self.standardize(images)).transpose(0, 1).flatten(1, 2)
        self.check_vectors(x, axes=range(3, 6))  # five: queries and keys of several heads
        if len(self.shape) != 1:
            raise NotStackableError(f"normalized_shape {self.shape} on shape {tuple(x.shape)}")
        return self.affine(self.standardize(x))


class _RMSNorm(_LayerNorm):
    def standardize(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.shape, eps=self.eps)


class _DyT(_LayerNorm):
    def like(self, value: Tensor, x: Tensor) -> Tensor:
        """(M,) to broadcast over x (M, ...)."""
        return value.view(-1, *[1] * (x.dim() - 1))

    def standardize(self, x: Tensor) -> Tensor:
        return torch.tanh(self.like(self.alpha, x) * x)


class _Derf(_DyT):
    def standardize(self, x: Tensor) -> Tensor:
        return torch.erf(self.like(self.alpha, x) * x + self.like(self.shift, x))


class _Positions(_Stacked):
    def forward(self, x: Tensor) -> Tensor:
        self.check_vectors(x, axes=(4,))
        return x + self.weight.unsqueeze(1)  # (M, 1, T, C)


class _OverTokens(_Stacked):
    """A norm of vectors that sees the tokens of a network's batch as its examples."""

    def __init__(self, modules: Sequence[OverTokens], layout: Layout) -> None:
        super().__init__(modules, layout)
        self.norm = stack([module.norm for module in modules], layout)

    def forward(self, x: Tensor) -> Tensor:
        self.check_vectors(x, axes=(4,))
        return self.norm(x.flatten(1, 2)).view(x.shape)


class _Scalar(_Stacked):
    """One number per network, shaped to broadcast over x."""

    def like(self, value: Tensor, x: Tensor) -> Tensor:
        if self.are_images(x):
            return value.repeat_interleave(x.shape[1] // self.networks).view(-1, 1, 1)
        return value.view(-1, *[1] * (x.dim() - 1))


class _Scale(_Scalar):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.like(self.weight, x)


class _Bias(_Scalar):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.like(self.bias, x)


class _Flatten(_Stacked):
    def __init__(self, modules: Sequence[nn.Flatten], layout: Layout) -> None:
        super().__init__(modules, layout)
        if (modules[0].start_dim, modules[0].end_dim) != (1, -1):
            raise NotStackableError("Flatten of some axes")

    def forward(self, x: Tensor) -> Tensor:
        return self.from_channels(x.flatten(1)) if self.are_images(x) else x.flatten(2)


# By exact type: a subclass may compute something else.
STACKED = {
    nn.Linear: _Linear,
    nn.Conv2d: _Conv2d,
    layers.BatchNorm: _BatchNorm,
    nn.BatchNorm1d: _BatchNorm,
    nn.BatchNorm2d: _BatchNorm,
    layers.InstanceNorm: _InstanceNorm,
    nn.InstanceNorm2d: _InstanceNorm,
    layers.GroupNorm: _GroupNorm,
    nn.GroupNorm: _GroupNorm,
    layers.LayerNorm: _LayerNorm,
    nn.LayerNorm: _LayerNorm,
    layers.RMSNorm: _RMSNorm,
    nn.RMSNorm: _RMSNorm,
    layers.DyT: _DyT,
    layers.Derf: _Derf,
    Positions: _Positions,
    OverTokens: _OverTokens,
    Scale: _Scale,
    Bias: _Bias,
    nn.Flatten: _Flatten,
}
# What treats every number alike, or only the last two axes.
UNCHANGED = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveMaxPool2d, Tokens, TokenMean),
)
# Containers whose forward is right with the model axis; the tests hold them to it.
CONTAINERS = (nn.Sequential, Residual, MLP, CNN, Attention, Transformer)


def stack(nets: Sequence[nn.Module], layout: Layout) -> nn.Module:
    """One module that computes what all `nets` do; raises NotStackableError for an unknown part."""
    replaced, within = {}, set()
    held = [p for module in nets[0].modules() for p in module._parameters.values()]
    if len({id(p) for p in held if p is not None}) < sum(p is not None for p in held):
        raise NotStackableError("a parameter that two modules share")
    for peers in zip(*(net.modules() for net in nets), strict=True):
        module = peers[0]
        if id(module) in within:
            continue
        state = chain(module.parameters(recurse=False), module.buffers(recurse=False))
        if type(module) in STACKED:
            replaced[id(module)] = STACKED[type(module)](peers, layout)
            within.update(id(part) for part in module.modules())
        elif type(module) not in (*UNCHANGED, *CONTAINERS) and (
            any(True for _ in state) or not any(True for _ in module.children())
        ):
            raise NotStackableError(f"a {type(module).__name__}")
    # deepcopy looks every object up in its memo first: the leaves come out stacked, and a
    # module that is used twice stays one module.
    return copy.deepcopy(nets[0], replaced)


def is_plain(net: nn.Module) -> bool:
    """Whether `net` holds nothing but parts that this file knows: no forward of a reader's own."""
    within = {part for m in net.modules() if type(m) in STACKED for part in list(m.modules())[1:]}
    known = {*STACKED, *UNCHANGED, *CONTAINERS}
    return all(
        type(module) in known and "forward" not in module.__dict__
        for module in net.modules()
        if module not in within
    )
