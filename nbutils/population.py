"""Many networks trained at once: the same code with a model axis in front.

A sweep over seeds and settings trains M small networks of one architecture. One after the other,
the time goes into starting operations, not into arithmetic. Here the networks run side by side: a
Linear layer multiplies M matrices in one call, a convolution has M groups, and a norm sees M times
the channels. The result is that of M separate training loops; the tests hold the two equal.

Inside, vectors are (M, B, C) and images (B, M * C, H, W), for M networks and batches of B examples.
The T tokens of an example are vectors too, (M, B * T, C).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from nbutils import layers
from nbutils.data import minibatches
from nbutils.networks import Bias, Scale
from nbutils.transformer import Positions, TokenMean, Tokens


class _Stacked(nn.Module):
    """M modules of one kind; each parameter and buffer keeps its name and gains an axis M."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = len(modules)
        self.training = modules[0].training
        for name, parameter in modules[0]._parameters.items():
            stacked = None
            if parameter is not None:
                values = torch.stack([getattr(module, name).detach() for module in modules])
                stacked = nn.Parameter(values, requires_grad=parameter.requires_grad)
            self.register_parameter(name, stacked)
        for name, buffer in modules[0]._buffers.items():
            stacked = None
            if buffer is not None:
                stacked = torch.stack([getattr(module, name) for module in modules])
            self.register_buffer(name, stacked)

    def to_channels(self, x: Tensor) -> Tensor:
        """(M, B, C) to (B, M * C); images are (B, M * C, H, W) already."""
        if x.dim() == 4:
            return x
        self.check_vectors(x)
        return x.transpose(0, 1).flatten(1)

    def from_channels(self, y: Tensor) -> Tensor:
        """(B, M * C) back to (M, B, C)."""
        return y if y.dim() == 4 else y.unflatten(1, (self.networks, -1)).transpose(0, 1)

    def check_vectors(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[0] != self.networks:
            raise ValueError(
                f"{type(self).__name__} expects (networks, batch, features) with {self.networks} "
                f"networks, got shape {tuple(x.shape)}: turn images into vectors with nn.Flatten()."
            )

    def affine(self, y: Tensor) -> Tensor:
        """Scale and shift by parameters (M, C) of vectors or (M, C, H, W) of images."""
        weight, bias = self.weight, getattr(self, "bias", None)  # torch.nn.RMSNorm has no bias
        if weight is None:
            return y
        if y.dim() == 3:
            weight = weight.unsqueeze(1)
            bias = None if bias is None else bias.unsqueeze(1)
        return y * weight if bias is None else torch.addcmul(bias, y, weight)


def _flat(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.flatten()


class _Linear(_Stacked):
    def forward(self, x: Tensor) -> Tensor:
        self.check_vectors(x)
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


class _Conv2d(_Stacked):
    def __init__(self, modules: Sequence[nn.Conv2d]) -> None:
        super().__init__(modules)
        one = modules[0]
        if one.padding_mode != "zeros":
            raise ValueError(f"population convolves with zero padding, got {one.padding_mode!r}.")
        self.geometry = (one.stride, one.padding, one.dilation, one.groups * self.networks)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight.flatten(0, 1), _flat(self.bias), *self.geometry)


class _BatchNorm(_Stacked):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
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
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        self.eps, self.momentum = modules[0].eps, modules[0].momentum

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"InstanceNorm needs images, got {x.dim() - 1}-dimensional input.")
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
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        self.eps, self.groups = modules[0].eps, modules[0].num_groups

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            groups = self.groups * self.networks
            return functional.group_norm(x, groups, _flat(self.weight), _flat(self.bias), self.eps)
        self.check_vectors(x)
        y = functional.group_norm(x.flatten(0, 1), self.groups, eps=self.eps).view(x.shape)
        return self.affine(y)


class _LayerNorm(_Stacked):
    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(modules)
        self.eps = getattr(modules[0], "eps", None)
        self.shape = tuple(modules[0].normalized_shape)

    def standardize(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.shape, eps=self.eps)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.shape) != (1 if x.dim() == 3 else 3):
            raise ValueError(
                "population normalizes vectors over (C,) and images over (C, H, W), got "
                f"normalized_shape={self.shape} for {'vectors' if x.dim() == 3 else 'images'}."
            )
        if x.dim() == 3:
            self.check_vectors(x)
            return self.affine(self.standardize(x))
        images = x.unflatten(1, (self.networks, -1))  # (B, M, C, H, W)
        return self.affine(self.standardize(images)).flatten(1, 2)


class _RMSNorm(_LayerNorm):
    def standardize(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.shape, eps=self.eps)


class _DyT(_LayerNorm):
    def like(self, value: Tensor) -> Tensor:
        """(M,) to broadcast over vectors (M, B, C) or images (B, M, C, H, W)."""
        return value.view(-1, *[1] * max(2, len(self.shape)))

    def standardize(self, x: Tensor) -> Tensor:
        return torch.tanh(self.like(self.alpha) * x)


class _Derf(_DyT):
    def standardize(self, x: Tensor) -> Tensor:
        return torch.erf(self.like(self.alpha) * x + self.like(self.shift))


class _Positions(_Stacked):
    def forward(self, x: Tensor) -> Tensor:
        self.check_vectors(x)
        weight = self.weight.unsqueeze(1)  # (M, 1, T, C)
        return (x.unflatten(1, (-1, weight.shape[2])) + weight).flatten(1, 2)


class _Scalar(_Stacked):
    """One number per network, shaped to broadcast over x."""

    def like(self, value: Tensor, x: Tensor) -> Tensor:
        if x.dim() == 3:
            return value.view(-1, 1, 1)
        return value.repeat_interleave(x.shape[1] // self.networks).view(-1, 1, 1)


class _Scale(_Scalar):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.like(self.weight, x)


class _Bias(_Scalar):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.like(self.bias, x)


class _Flatten(_Stacked):
    def __init__(self, modules: Sequence[nn.Flatten]) -> None:
        super().__init__(modules)
        if (modules[0].start_dim, modules[0].end_dim) != (1, -1):
            raise ValueError("population flattens all axes but the batch: use nn.Flatten().")

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 3 else self.from_channels(x.flatten(1))


# By exact type: a subclass may compute something else.
_STACKED = {
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
    Scale: _Scale,
    Bias: _Bias,
    nn.Flatten: _Flatten,
}
_UNCHANGED = (
    *(nn.Identity, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Tanh, nn.Sigmoid, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(Tokens, TokenMean),
)


class Population:
    """M networks of one architecture as one model, `self.model`, with a copy of their values.

    Calling it with inputs (M, B, C) or (M, B, C, H, W) gives logits (M, B, outputs). `write_back`
    copies parameters and buffers into the networks that it was made from. A network in train mode
    keeps the modes of its parts, so that a BatchNorm in eval mode stays frozen.

    The parts may be Linear, Conv2d, norms (`layers` and `torch.nn`), Scale, Bias, Flatten,
    activations, pooling and the parts of a `transformer.Transformer`, in any containers whose own
    forward treats every example alike.
    Raises TypeError for another part, ValueError if the architectures differ or share parameters.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        self.nets = list(nets)
        _check_alike(self.nets)
        replaced = {}
        for peers in zip(*(net.named_modules() for net in self.nets), strict=True):
            name, module = peers[0]
            if module._forward_hooks or module._forward_pre_hooks:
                raise TypeError(
                    f"the module {name!r} has forward hooks, which expect one network at a time: "
                    "remove them, or train in a plain loop."
                )
            if type(module) in _STACKED:
                stacked = _STACKED[type(module)]([peer for _, peer in peers])
                replaced[id(module)] = stacked
            else:
                _check_passes(name, module)
        # deepcopy looks every object up in its memo first: the leaves come out stacked, and a
        # module that is used twice stays one module.
        self.model = copy.deepcopy(self.nets[0], replaced)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            x = x.transpose(0, 1).flatten(1, 2)  # (B, M * C, H, W)
        logits = self.model(x)
        if logits.dim() != 3:
            raise ValueError(
                f"the networks must return (batch, outputs), got {logits.dim() - 1}-d."
            )
        return logits

    @torch.no_grad()
    def write_back(self) -> None:
        stacked = dict(_state(self.model))
        for index, net in enumerate(self.nets):
            for name, tensor in _state(net):
                tensor.copy_(stacked[name][index])


def train(
    nets: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch_size: int,
    lr: float | Sequence[float],
    optimizer: str = "sgd",
    seeds: Sequence[int],
    tags: Sequence[dict] | None = None,
    every: int | None = None,
    schedule: Callable[[int], float] | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train M classifiers in place on cross-entropy, as M separate loops would.

    nets: M networks of one architecture; see `Population` for what they may contain.
    x, y: examples (N, C) or (N, C, H, W) and int64 labels (N,).
    lr: one learning rate, or one per network. `schedule(step)` multiplies it, step from 0.
    optimizer: "sgd", "momentum" (0.9) or "adam", as `torch.optim.SGD` and `Adam` define them, with
    their `weight_decay`. clip: largest global gradient norm of a network; each has its own.
    seeds: M integers; seed m gives the minibatch order of network m (`data.minibatches`).
    tags: M dicts, copied into the rows of their network.

    Returns one row per network and recorded step: network, step, loss, accuracy, and the tags. Loss
    and accuracy are those of the minibatch, after `step` updates. Every `every`-th step is recorded
    (by default about 100 of them), and the last.

    What was trained is written into the networks, also when an exception or an interrupt ends it
    early. Their train or eval mode stays; a network in eval mode is trained in train mode. The
    global random number generator does not move. A network that diverges does not touch the others.
    While it trains, denormal floats count as 0 (`torch.set_flush_denormal`): vanishing gradients of
    that size cannot move a weight, and slow many processors down. Then the setting is put back.
    Raises TypeError and ValueError for input that does not fit, before anything is trained.
    """
    population = Population(nets)
    count = len(population.nets)
    _check_data(population, x, y)
    rates = _per_network("lr", [lr] * count if isinstance(lr, (int, float)) else lr, count)
    seeds = _per_network("seeds", seeds, count)
    tags = _tag_columns(tags, count)
    if every is None:
        every = max(1, steps // 100)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    order = torch.stack([minibatches(len(x), batch_size, steps, seed) for seed in seeds], dim=1)
    if not population.model.training:
        population.model.train()
    optimize = _Optimizer(population.model, count, optimizer, rates, weight_decay, clip)

    recorded, losses, accuracies = [], [], []
    bar = tqdm(range(steps), desc=f"training {count} networks", leave=False, disable=not progress)
    try:
        with _flush_denormals():
            for step in bar:
                batch = order[step]  # (M, B)
                loss, accuracy = _score(population(x[batch]), y[batch])
                if step % every == 0 or step == steps - 1:
                    recorded.append(step)
                    losses.append(loss.detach())
                    accuracies.append(accuracy)
                # Each network's loss depends on its own parameters only: the sum separates.
                optimize.step(loss.sum(), 1.0 if schedule is None else schedule(step))
    finally:
        population.write_back()

    rows = pd.DataFrame({"network": range(count)}).merge(
        pd.DataFrame({"step": recorded}, dtype="int64"), how="cross"
    )
    rows["loss"] = _column(losses)
    rows["accuracy"] = _column(accuracies)
    return rows.join(tags, on="network")


@torch.no_grad()
def evaluate(
    nets: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    train_mode: bool = False,
    tags: Sequence[dict] | None = None,
) -> pd.DataFrame:
    """Loss and accuracy of M classifiers on all of x (N, C) or (N, C, H, W) and y (N,).

    In eval mode; with train_mode=True in train mode, where BatchNorm normalizes by the statistics
    of x. Returns one row per network: network, loss, accuracy, and the tags. The networks, their
    modes and their running statistics stay as they are. Errors as for `train`.
    """
    population = Population(nets)
    count = len(population.nets)
    _check_data(population, x, y)
    tags = _tag_columns(tags, count)
    population.model.train(train_mode)
    loss, accuracy = _score(population(x.expand(count, *x.shape)), y.expand(count, -1))
    rows = {"network": range(count), "loss": loss.tolist(), "accuracy": accuracy.tolist()}
    return pd.DataFrame(rows).join(tags, on="network")


class _Optimizer:
    """SGD, momentum and Adam, for all networks at once; a row of `values` is one network."""

    def __init__(
        self,
        model: nn.Module,
        networks: int,
        kind: str,
        rates: Sequence[float],
        weight_decay: float,
        clip: float | None,
    ) -> None:
        if kind not in ("sgd", "momentum", "adam"):
            raise ValueError(f"unknown optimizer {kind!r}; known: 'sgd', 'momentum', 'adam'.")
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("the networks have no parameter that requires a gradient.")
        self.names, self.parameters = zip(*named, strict=True)
        self.kind, self.weight_decay, self.clip = kind, weight_decay, clip
        # One matrix of all values, and the parameters as views into it: an update is one operation.
        self.values = torch.cat([p.detach().view(networks, -1) for p in self.parameters], dim=1)
        self.gradient = torch.empty_like(self.values)
        self.gradients = self._views(self.gradient)
        for parameter, values in zip(self.parameters, self._views(self.values), strict=True):
            parameter.data = values
        self.rates = self.values.new_tensor(rates).unsqueeze(1)  # (M, 1)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.updates = 0

    def _views(self, matrix: Tensor) -> list[Tensor]:
        """The columns of `matrix` (M, P) that belong to each parameter, in its shape (M, ...)."""
        columns = matrix.split([p[0].numel() for p in self.parameters], dim=1)
        return [c.view(p.shape) for c, p in zip(columns, self.parameters, strict=True)]

    def step(self, loss: Tensor, factor: float) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for name, gradient in zip(self.names, gradients, strict=True):
            if gradient is None:
                raise ValueError(
                    f"the loss does not depend on the parameter {name!r}: "
                    "remove it or set requires_grad=False."
                )
        with torch.no_grad():
            torch._foreach_copy_(self.gradients, gradients)
            gradient = self.gradient
            if self.clip is not None:
                norm = gradient.norm(dim=1, keepdim=True)
                gradient *= (self.clip / (norm + 1e-6)).clamp(max=1.0)
            if self.weight_decay:
                gradient.add_(self.values, alpha=self.weight_decay)
            self.values.addcmul_(self._direction(gradient), self.rates, value=-factor)

    def _direction(self, gradient: Tensor) -> Tensor:
        self.updates += 1
        if self.kind == "sgd":
            return gradient
        if self.kind == "momentum":
            return self.first.mul_(0.9).add_(gradient)
        # Adam: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1, with PyTorch's defaults.
        self.first.lerp_(gradient, 1 - 0.9)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        # The gradient is used up: its memory holds the direction.
        torch.sqrt(self.second, out=gradient)
        gradient.div_(math.sqrt(1 - 0.999**self.updates)).add_(1e-8)
        return torch.div(self.first, gradient, out=gradient).div_(1 - 0.9**self.updates)


def _score(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of each network: (M, B, K) and (M, B) to (M,) and (M,)."""
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    accuracy = (logits.detach().argmax(dim=-1) == labels).float().mean(dim=1)
    return loss.view(labels.shape).mean(dim=1), accuracy


@contextmanager
def _flush_denormals() -> Iterator[None]:
    # PyTorch cannot say whether it flushes. A denormal float can: it arrives as 0.
    before = torch.tensor([1e-39], dtype=torch.float32).item() == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _column(recorded: list[Tensor]) -> list[float]:
    """Recorded steps of (M,) values, network by network."""
    return torch.stack(recorded, dim=1).flatten().tolist() if recorded else []


def _check_alike(nets: list[nn.Module]) -> None:
    if not nets:
        raise ValueError("a population needs at least one network, got none.")
    for index, net in enumerate(nets):
        if not isinstance(net, nn.Module):
            raise TypeError(f"networks must be nn.Module, got {type(net).__name__} at {index}.")
    first = list(_describe(nets[0]))
    for index, net in enumerate(nets):
        for expected, got in zip_longest(first, _describe(net), fillvalue="nothing"):
            if expected != got:
                raise ValueError(
                    "networks must be alike but for their values: network 0 has "
                    f"[{expected}] where network {index} has [{got}]. Train them in separate calls."
                )
    values = chain.from_iterable(m._parameters.values() for net in nets for m in net.modules())
    owned = [id(parameter) for parameter in values if parameter is not None]
    if len(set(owned)) < len(owned):
        raise ValueError("two networks, or two layers of a network, share a parameter.")


def _describe(net: nn.Module) -> Iterator[str]:
    """Everything that the networks of a population must have in common, line by line."""
    for name, module in net.named_modules():
        mode = "train" if module.training else "eval"
        yield f"{name or 'network'}: {type(module).__name__}({module.extra_repr()}), {mode} mode"
        # Not named_parameters(), which would walk through the whole network once more.
        for own, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                yield (
                    f"{name}.{own}: {tuple(tensor.shape)} {tensor.dtype} "
                    f"requires_grad={tensor.requires_grad}"
                )


def _check_passes(name: str, module: nn.Module) -> None:
    """A module that is not stacked must be known, or only contain others."""
    state = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    container = any(True for _ in module.children()) and not any(True for _ in state)
    if type(module) not in _UNCHANGED and not container:
        known = ", ".join(sorted({kind.__name__ for kind in (*_STACKED, *_UNCHANGED)}))
        raise TypeError(
            f"population does not know {type(module).__name__} (at {name or 'the top'!r}). "
            f"It knows {known}, and containers of these without parameters of their own. "
            "Train other networks in a plain loop."
        )


def _check_data(population: Population, x: Tensor, y: Tensor) -> None:
    if x.dim() not in (2, 4) or y.shape != x.shape[:1]:
        raise ValueError(
            "expected x of shape (N, C) or (N, C, H, W) and y of shape (N,), "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    dtypes = {parameter.dtype for parameter in population.model.parameters()}
    if dtypes != {x.dtype}:
        names = " and ".join(sorted(str(dtype) for dtype in dtypes))
        raise TypeError(f"the networks are {names}, and x is {x.dtype}: they must agree.")
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold int64 class labels, got {y.dtype}.")


def _per_network(name: str, values: Sequence, count: int) -> list:
    values = list(values)
    if len(values) != count:
        raise ValueError(f"{name} needs one value per network, {count}, got {len(values)}.")
    return values


def _tag_columns(tags: Sequence[dict] | None, count: int) -> pd.DataFrame:
    columns = pd.DataFrame(_per_network("tags", tags or [{}] * count, count), index=range(count))
    taken = {"network", "step", "loss", "accuracy"} & set(columns)
    if taken:
        raise ValueError(f"tags must not be named {sorted(taken)}: these columns exist.")
    return columns
