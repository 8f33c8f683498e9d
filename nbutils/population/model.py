"""M networks as one model: the fast path where all parts are known, torch.func for the rest."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from nbutils.population.checks import check_alike
from nbutils.population.mapped import Looped, Mapped
from nbutils.population.stacked import Layout, NotStackableError, is_plain, stack

_EXAMPLES = 5
_LOOPED: set[type] = set()


class Population:
    """M networks of one architecture as one model, `self.model`, with a copy of their values.

    nets: any nn.Modules that differ in their values alone and return (batch, outputs).
    x: some examples of the data, (N, ...); the first five are used.
    Calling it with inputs (M, B, ...) gives logits (M, B, outputs). `write_back` copies parameters
    and buffers into the networks that it was made from. A network in train mode keeps the modes of
    its parts, so that a BatchNorm in eval mode stays frozen.

    `self.path` says how the networks run. Networks of known parts (layers, norms, activations,
    pooling, the parts of `networks` and `transformer` in `nn.Sequential`) are "stacked" by hand.
    All others are "mapped" by `torch.func.vmap`, or "looped" where vmap cannot follow. Unless all
    parts are known, the first and the last network are held against themselves run alone, in train
    and in eval mode, before anything is trained.
    Raises ValueError if the architectures differ, if networks share parameters, if a plain
    attribute differs between networks, or if a network run alone gives something else.
    """

    def __init__(self, nets: Sequence[nn.Module], x: Tensor) -> None:
        self.nets = list(nets)
        check_alike(self.nets)
        for name, module in self.nets[0].named_modules():
            if module._forward_hooks or module._forward_pre_hooks:
                raise TypeError(
                    f"the module {name!r} has forward hooks, which expect one network at a time: "
                    "remove them, or train in a plain loop."
                )
        self.layout = Layout()
        with torch.random.fork_rng(devices=[]):
            self.path = _path_of(self.nets, x[:_EXAMPLES])
        self.model = _build(self.path, self.nets, self.layout)

    def __call__(self, x: Tensor) -> Tensor:
        logits = _forward(self.model, self.layout, x)
        if logits.dim() != 3:
            raise ValueError(
                f"the networks must return (batch, outputs), got {logits.dim() - 1}-d."
            )
        return logits

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy parameters and buffers into the networks that this was made from."""
        values = _values_of(self.model)
        own = [_values_of(net) for net in self.nets]
        targets = [net[name] for name in values for net in own]
        torch._foreach_copy_(targets, [value for name in values for value in values[name].unbind()])


def _values_of(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _build(path: str, nets: Sequence[nn.Module], layout: Layout) -> nn.Module:
    if path == "stacked":
        return stack(nets, layout)
    return Mapped(nets) if path == "mapped" else Looped(nets)


def _forward(model: nn.Module, layout: Layout, x: Tensor) -> Tensor:
    if not isinstance(model, (Mapped, Looped)):
        layout.images = x.dim() == 5
        if layout.images:
            x = x.transpose(0, 1).flatten(1, 2)  # (B, M * C, H, W)
            # A convolution in many groups is three times as fast with the channels last in memory.
            x = x.contiguous(memory_format=torch.channels_last)
    return model(x)


def _path_of(nets: list[nn.Module], x: Tensor) -> str:
    """The fastest way that computes what each network computes alone."""
    ends = [nets[0], nets[-1]]
    if _runs_stacked(ends, x) and (is_plain(nets[0]) or _is_right("stacked", ends, x)):
        return "stacked"
    try:
        if _is_right("mapped", ends, x):
            return "mapped"
        found = "computes something else with torch.func.vmap than alone"
    except (RuntimeError, NotImplementedError) as error:
        found = f"cannot be mapped by torch.func.vmap ({str(error).splitlines()[0][:120]})"
    if not _is_right("looped", ends, x):
        raise ValueError(
            f"{type(nets[0]).__name__} gives other logits when its parameters and buffers are "
            "handed to it from outside. A layer in a plain list, a tensor that is no buffer, or a "
            "counter of its own would do that: register them (nn.ModuleList, register_buffer), or "
            "train in a plain loop."
        )
    if type(nets[0]) not in _LOOPED:
        _LOOPED.add(type(nets[0]))
        warnings.warn(
            f"{type(nets[0]).__name__} {found}: the networks run one after the other, which is "
            "right and slow.",
            stacklevel=4,
        )
    return "looped"


def _runs_stacked(ends: list[nn.Module], x: Tensor) -> bool:
    """Whether all parts, and all shapes that they see, are known to the fast path."""
    layout = Layout()
    try:
        model = stack(ends, layout).eval()
        with torch.no_grad():
            _forward(model, layout, torch.stack([x, x]))
    except (NotStackableError, RuntimeError, ValueError, TypeError, IndexError):
        # A part that is not known, a foreign forward, or the network's own fault, which running it
        # alone will show.
        return False
    return True


def _is_right(path: str, ends: list[nn.Module], x: Tensor) -> bool:
    """Hold two networks, side by side, against each of them run alone in both modes.

    In float64, where a deep network does not blow rounding up. Dropout is switched off. Where
    other random numbers enter, only torch.func keeps the networks apart by construction.
    """
    ends, x = _as_double(ends, x)
    own = torch.stack([x, x.roll(1, dims=0)])  # another order for each
    for mode in (True, False):
        alone = [_run(net, examples, mode) for net, examples in zip(ends, own, strict=True)]
        if _is_random(ends[0], own[0], mode, alone[0][0]):
            if path == "stacked":
                return False
            continue
        layout = Layout()
        model = _build(path, ends, layout)
        _set_mode(model, mode)
        with torch.no_grad():
            logits = _forward(model, layout, own)
        values = dict(model.named_buffers())
        for index, (expected, buffers) in enumerate(alone):
            if not _close(logits[index], expected):
                return False
            if not all(_close(values[name][index], buffer) for name, buffer in buffers.items()):
                return False
    return True


def _as_double(ends: list[nn.Module], x: Tensor) -> tuple[list[nn.Module], Tensor]:
    """Copies in float64, or as they are where the network insists on its own dtype."""
    double = [copy.deepcopy(net).double() for net in ends]
    wide = x.double() if x.is_floating_point() else x
    try:
        _run(double[0], wide, train=False)
    except (RuntimeError, TypeError, ValueError):
        return [copy.deepcopy(net) for net in ends], x
    return double, wide


def _set_mode(model: nn.Module, train: bool) -> None:
    model.train(train)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.eval()


@torch.no_grad()
def _run(net: nn.Module, x: Tensor, train: bool) -> tuple[Tensor, dict[str, Tensor]]:
    net = copy.deepcopy(net)
    _set_mode(net, train)
    logits = net(x)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the networks must return (batch, outputs), got {got} for a batch of {len(x)}."
        )
    return logits, dict(net.named_buffers())


def _is_random(net: nn.Module, x: Tensor, train: bool, once: Tensor) -> bool:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch.initial_seed() + 1)
        return not torch.equal(_run(net, x, train)[0].nan_to_num(), once.nan_to_num())


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    tolerance = 1e-7 if one.dtype == torch.float64 else 1e-3
    size = other.abs().nan_to_num(posinf=0.0).max().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * size, equal_nan=True)
