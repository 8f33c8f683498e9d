"""Run a model under other normalization statistics, and put everything back.

Three context managers for any `nn.Module`: `frozen_batchnorm`, `preserve_statistics` and
`recalibrate`. They know a layer with running statistics by its buffers, `running_mean` and
`running_var`: those of `torch.nn` and `nbutils.layers`, and a reader's own. What they change is put
back when the block ends, also by an exception. Chapter 05 shows when to reach for which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from nbutils.layers import InstanceNorm
from nbutils.state import call, check_variance, eager, modules_of, preserve_statistics, traceless

__all__ = ["frozen_batchnorm", "preserve_statistics", "recalibrate"]

_INSTANCE = (_InstanceNorm, InstanceNorm)
_MEMORY = ("running_mean", "running_var", "num_batches_tracked")


@contextmanager
def frozen_batchnorm(model: nn.Module, affine: bool = False) -> Iterator[nn.Module]:
    """Inside, layers with running statistics normalize by them and do not update them.

    model.train() inside does not wake them. Their flag `training` is as ever what train() and
    eval() set, and so is the mode of all other layers. With affine=True their scale and shift are
    not trained either. What was compiled runs uncompiled inside. Yields the model.

    Raises ValueError where there is no layer with running statistics, or a BatchNorm that does not
    track any (it would go on using its batch), or one that is not initialized yet, or a negative
    running variance; TypeError for what is not an `nn.Module`, and for TorchScript. A pass through
    the model raises RuntimeError if a layer updates its statistics all the same: they are put back.
    """
    norms = _tracking(model, "freeze")
    for norm, name in norms.items():
        check_variance(norm, name)
    parameters = [
        (parameter, parameter.requires_grad)
        for norm in norms
        for parameter in norm.parameters(recurse=False)
        if affine
    ]
    frost = _Frost()
    handles = []
    try:
        handles.append(model.register_forward_pre_hook(frost.begin, prepend=True))
        handles.append(model.register_forward_hook(frost.end, always_call=True))
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(frost.before))
            # The last block to freeze is the first to give the mode back: prepend.
            hook = norm.register_forward_hook(frost.after, prepend=True, always_call=True)
            handles.append(hook)
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        with eager():
            yield model
    finally:
        frost.thawed = True
        for handle in handles:
            handle.remove()
        for parameter, required in parameters:
            parameter.requires_grad_(required)


class _Frost:
    """Puts a layer into evaluation mode for each forward pass, and sees whether that froze it."""

    def __init__(self) -> None:
        self.thawed = False
        self.modes: list[bool] = []
        self.memories: list[list[tuple]] = []

    def before(self, norm: nn.Module, inputs: tuple) -> None:
        self.modes.append(norm.training)
        if not self.thawed:
            norm.training = False

    def after(self, norm: nn.Module, inputs: tuple, output: object) -> None:
        norm.training = self.modes.pop()

    def begin(self, model: nn.Module, inputs: tuple) -> None:
        self.memories.append([] if self.thawed else _running(model))

    def end(self, model: nn.Module, inputs: tuple, output: object) -> None:
        """A layer of another make may update in evaluation mode, or be read by its parent alone."""
        moved = []
        for name, module, buffer, value, before in self.memories.pop():
            now = module._buffers.get(buffer)
            if now is None or not now.isclose(before, rtol=0, atol=0, equal_nan=True).all():
                moved.append(f"{name or 'the model'} ({type(module).__name__}.{buffer})")
                with torch.no_grad():
                    module._buffers[buffer] = value.copy_(before)
        if moved and output is not None:  # None after an exception, which says more
            raise RuntimeError(
                f"cannot freeze {', '.join(moved)}: updated in evaluation mode too, or by code "
                "outside of the layer. The values are put back, but the model has used its batch."
            )

    def __deepcopy__(self, memo: dict) -> _Frost:
        return self  # a copy made inside the block keeps the hooks, and thaws with the model

    def __getstate__(self) -> dict:
        # What is saved inside the block is not frozen for ever.
        return {"thawed": True, "modes": [], "memories": []}


@contextmanager
def recalibrate(
    model: nn.Module, batches: Iterable[object], keep: bool = False, for_good: bool = False
) -> Iterator[nn.Module]:
    """Inside, the running statistics are those of all values in `batches` together.

    Each batch is what `nbutils.state.call` takes: an input, a tuple or list as a DataLoader gives
    them (labels are left out), or a dict of keyword inputs. The batches go through the model once,
    without gradients, and with nothing but its normalization layers in training mode: dropout stays
    off. A layer that they do not reach keeps its statistics. Inside, the model has the mode that it
    had before. Yields the model.

    A batch weighs by its number of values per channel. The variance is the pooled one: within the
    batches, plus between their means, unbiased (n - 1 in the denominator), as PyTorch remembers
    it. At the first norm, the statistics are therefore those of all values, however they are split;
    at a later one, each batch has passed the norms before it by its own statistics. InstanceNorm
    remembers the mean of the variances within the examples, and gets that.

    keep=True continues from the statistics that are there. They weigh as much as the batches that
    they remember, num_batches_tracked but at most (2 - m) / m with momentum m, each as large as
    the average batch here. (A layer without a counter, and InstanceNorm, which leaves it at 0:
    (2 - m) / m.)
    for_good=True leaves the new statistics in the model when the block ends.

    `torch.optim.swa_utils.update_bn` is for good too, but differs: it changes torch's BatchNorm
    alone and does nothing, without a word, for the layers of `nbutils` and for torch's tracking
    InstanceNorm; dropout is on; it averages over the batches without weights and leaves out the
    variance between them; of a tuple it takes the first entry.

    Raises ValueError where there is no layer with running statistics, no batch, an empty one, or
    one value per channel; TypeError for a single batch in place of the batches, for what is not an
    `nn.Module`, and for TorchScript. Then the statistics are as before, also with for_good.
    Source: Wu & Johnson 2021, https://arxiv.org/abs/2105.07576 (PreciseBN).
    """
    if isinstance(batches, (Tensor, Mapping, PackedSequence)):
        raise TypeError(
            f"recalibrate expects batches, got one {type(batches).__name__}, and would take each "
            "of its parts for a batch: use [x] for a single batch, or x.split(64) of a tensor."
        )
    norms = _tracking(model, "recalibrate")
    pools = _pooled(model, norms, batches)
    if keep:
        for norm, pool in pools.items():
            check_variance(norm, norms[norm])
            pool.remember(norm)
    with nullcontext() if for_good else preserve_statistics(model):
        for norm, pool in pools.items():
            pool.write(norm, keep)
        yield model


@dataclass
class _Pool:
    """Mean and variance per channel over batches of different sizes."""

    between: bool  # whether the variance between the batches belongs to the statistics
    calls: int = 0
    count: float = 0.0  # values per channel
    mean: Tensor | float = 0.0
    squares: Tensor | float = 0.0  # of the deviations; without `between`, count times variance

    def add(self, count: float, mean: Tensor, var: Tensor) -> None:
        mean, var = mean.double(), var.double()
        total = self.count + count
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        if self.between:
            self.squares = self.squares + (count - 1) * var
            self.squares += step.square() * (self.count * count / total)
        else:
            self.squares = self.squares + count * var
        self.count = total

    def remember(self, norm: nn.Module) -> None:
        """Add what the layer remembers already, as so many batches of the average size."""
        momentum = norm.momentum
        span = float("inf") if momentum is None else (2 - momentum) / momentum if momentum else 0.0
        held, counter = span, norm._buffers.get("num_batches_tracked")
        if self.between and counter is not None:
            held = min(counter.item(), span)
        elif momentum is None:
            held = 0.0  # nobody counted; for InstanceNorm, None means that it never updates
        if self.calls and held:
            batch = self.count / self.calls
            self.add(held * batch, norm.running_mean, norm.running_var)

    @torch.no_grad()
    def write(self, norm: nn.Module, keep: bool) -> None:
        if not self.calls:
            return
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.squares / (self.count - 1 if self.between else self.count))
        counter = norm._buffers.get("num_batches_tracked")
        if self.between and counter is not None:  # InstanceNorm does not count
            counter.fill_(self.calls + (counter if keep else 0))


def _pooled(
    model: nn.Module, norms: dict[nn.Module, str], batches: Iterable[object]
) -> dict[nn.Module, _Pool]:
    """The statistics of the batches at each norm; the model is left as it was."""
    pools = {norm: _Pool(between=not isinstance(norm, _INSTANCE)) for norm in norms}
    with traceless(model), torch.no_grad():
        own = {norm: {name: norm._buffers.get(name) for name in _MEMORY} for norm in norms}

        def lend(norm: nn.Module, inputs: tuple) -> None:
            """An empty memory that takes over the batch: also where it was poisoned by a NaN."""
            for name, value in own[norm].items():
                if value is not None:
                    norm._buffers[name] = torch.full_like(value, float(name == "running_var"))
            norm.momentum = 1.0
            norm.training = True  # also inside frozen_batchnorm, whose hook came before

        def take(norm: nn.Module, inputs: tuple, keywords: dict, output: object) -> None:
            mean, var = norm.running_mean, norm.running_var
            norm._buffers.update({name: v for name, v in own[norm].items() if v is not None})
            x = next(iter((*inputs, *keywords.values())))
            if x.numel() == 0:  # nothing to remember
                return
            if (mean == 0).all() and (var == 1).all():
                raise ValueError(
                    f"cannot recalibrate {norms[norm] or 'the model'}: {type(norm).__name__} did "
                    "not take over a batch in training mode with momentum = 1."
                )
            pools[norm].calls += 1
            pools[norm].add(x.numel() // mean.numel(), mean, var)

        for module in modules_of(model):
            module.training = module in norms
        for norm in norms:
            norm.register_forward_pre_hook(lend)
            norm.register_forward_hook(take, with_kwargs=True)
        seen = 0
        for batch in batches:
            call(model, batch)
            seen += 1
    if not seen:
        raise ValueError("recalibrate got no batch: its iterable was empty, or used up before.")
    return pools


def _tracking(model: nn.Module, verb: str) -> dict[nn.Module, str]:
    """The layers of the model that have running statistics, and their names."""
    norms, unknown = {}, []
    for module, name in modules_of(model).items():
        buffers = module._buffers
        held = [n for n in (*buffers, *vars(module)) if n.startswith("running_")]
        if not held:
            continue
        known = "running_mean" in buffers and "running_var" in buffers
        if not known or (verb == "recalibrate" and not hasattr(module, "momentum")):
            unknown.append(f"{name or 'the model'} ({type(module).__name__}: {', '.join(held)})")
        elif is_lazy(module.running_mean):
            raise ValueError(
                f"cannot {verb} {name or 'the model'}: it is lazy and has seen no input yet. "
                "Run one batch through the model first."
            )
        elif module.running_mean is not None:
            norms[module] = name
        elif not isinstance(module, _INSTANCE):
            raise ValueError(
                f"cannot {verb} {name or 'the model'}: built with track_running_stats=False, it "
                "has no running statistics and normalizes by its batch in every mode."
            )
    if not norms:
        others = f" It holds some in layers of another make: {'; '.join(unknown)}."
        raise ValueError(
            f"nothing to {verb}: {type(model).__name__} has no layer with running statistics "
            "(BatchNorm, SyncBatchNorm, or InstanceNorm with track_running_stats=True)."
            f"{others if unknown else ''}"
        )
    return norms


def _running(model: nn.Module) -> list[tuple[str, nn.Module, str, Tensor, Tensor]]:
    """The running statistics of all layers, also of those that nobody here knows, with a copy."""
    return [
        (name, module, buffer, value, value.clone())
        for module, name in modules_of(model).items()
        for buffer, value in module._buffers.items()
        if buffer.startswith("running_")
        and value is not None
        and not is_lazy(value)
        # Under torch.func.vmap values cannot be compared.
        and not is_functorch_wrapped_tensor(value)
    ]
