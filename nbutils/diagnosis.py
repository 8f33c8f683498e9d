"""Run a model under other normalization statistics, and put everything back.

Three context managers for any `nn.Module`: `frozen_batchnorm`, `preserve_statistics` and
`recalibrate`. They know the layers with running statistics of `torch.nn` (BatchNorm, SyncBatchNorm,
InstanceNorm) and of `nbutils.layers`. What they change is put back when the block ends, also by an
exception. Chapter 05 shows when to reach for which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from nbutils.layers import InstanceNorm, RunningNorm

_INSTANCE = (_InstanceNorm, InstanceNorm)


@contextmanager
def frozen_batchnorm(model: nn.Module, affine: bool = False) -> Iterator[nn.Module]:
    """Inside, layers with running statistics normalize by them and do not update them.

    model.train() inside does not wake them. Their flag `training` is as ever what train() and
    eval() set, and so is the mode of all other layers. With affine=True their scale and shift are
    not trained either. Yields the model.

    Raises ValueError where there is no layer with running statistics, or a BatchNorm that does not
    track any (it would go on using its batch), or one that is not initialized yet.
    """
    norms = _tracking(model, "freeze")
    parameters = [
        (parameter, parameter.requires_grad)
        for norm in norms
        for parameter in norm.parameters(recurse=False)
        if affine
    ]
    frost = _Frost()
    handles = []
    try:
        for norm in norms:
            handles.append(norm.register_forward_pre_hook(frost.before))
            # The last block to freeze is the first to give the mode back: prepend.
            hook = norm.register_forward_hook(frost.after, prepend=True, always_call=True)
            handles.append(hook)
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        yield model
    finally:
        frost.thawed = True
        for handle in handles:
            handle.remove()
        for parameter, required in parameters:
            parameter.requires_grad_(required)


class _Frost:
    """Puts a layer into evaluation mode for each forward pass, as a pair of hooks."""

    def __init__(self) -> None:
        self.thawed = False
        self.modes: list[bool] = []

    def before(self, norm: nn.Module, inputs: tuple) -> None:
        self.modes.append(norm.training)
        if not self.thawed:
            norm.training = False

    def after(self, norm: nn.Module, inputs: tuple, output: object) -> None:
        norm.training = self.modes.pop()

    def __deepcopy__(self, memo: dict) -> _Frost:
        return self  # a copy made inside the block keeps the hooks, and thaws with the model

    def __getstate__(self) -> dict:
        return {
            "thawed": True,
            "modes": [],
        }  # what is saved inside the block is not frozen for ever


@contextmanager
def preserve_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Whatever happens to the model's buffers inside, they are put back afterwards.

    Buffers are running statistics and all other state that is not learned. Inside, the model works
    on copies, so that a graph that was built there can still run backward later. The mode is left
    alone: a model in train() normalizes by its batches, as ever. Yields the model.
    """
    originals = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in originals}
    try:
        for module, name, buffer in originals:
            module._buffers[name] = copies[id(buffer)]
        yield model
    finally:
        for module, name, buffer in originals:
            now = module._buffers.get(name)
            # After model.half() or model.to("cuda") inside, it has to stay where the model is.
            module._buffers[name] = buffer if now is None else buffer.to(now.device, now.dtype)


@contextmanager
def recalibrate(model: nn.Module, batches: Iterable[Tensor | tuple]) -> Iterator[nn.Module]:
    """Inside, the running statistics are the plain average over the statistics of `batches`.

    Each batch is an input, or a tuple or list that starts with one, as a DataLoader gives them. The
    batches go through the model once, without gradients, and with nothing but its normalization
    layers in training mode: dropout stays off. A layer that they do not reach keeps its statistics.
    Inside, the model has the mode that it had before. To keep the new statistics, use
    `torch.optim.swa_utils.update_bn`, which does the same and nothing back. Yields the model.

    Raises ValueError where there is no layer with running statistics, or no batch; TypeError for a
    single tensor in place of the batches.
    Source: Wu & Johnson 2021, https://arxiv.org/abs/2105.07576 (PreciseBN), with the plain average
    of `update_bn` in place of pooled moments.
    """
    if isinstance(batches, Tensor):
        raise TypeError(
            "recalibrate expects batches, got one tensor, and would take each of its examples for "
            "a batch: use [x] for a single batch, or x.split(64)."
        )
    norms = _tracking(model, "recalibrate")
    with preserve_statistics(model):
        _average(model, norms, batches)
        yield model


def _average(model: nn.Module, norms: list[nn.Module], batches: Iterable[Tensor | tuple]) -> None:
    """Set the running statistics of `norms` to their average over the batches."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    calls = dict.fromkeys(norms, 0)

    def weigh(norm: nn.Module, inputs: tuple) -> None:
        # The k-th batch weighs 1/k. momentum=None does that too, but for InstanceNorm it means 0.
        if calls[norm] == 0:  # 0 * nan is nan: a poisoned average needs a new start
            norm.running_mean.zero_()
            norm.running_var.fill_(1)
            norm.num_batches_tracked.zero_()
        calls[norm] += 1
        norm.momentum = 1 / calls[norm]
        norm.training = True  # also inside frozen_batchnorm, whose hook came before

    handles = []
    try:
        for module, _ in modes:
            module.training = module in calls
        handles = [norm.register_forward_pre_hook(weigh) for norm in norms]
        seen = 0
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda(model)):
            for batch in batches:
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
                seen += 1
        if not seen:
            raise ValueError("recalibrate got no batch: its iterable was empty, or used up before.")
    finally:
        for handle in handles:
            handle.remove()
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


def _tracking(model: nn.Module, verb: str) -> list[nn.Module]:
    """The layers of the model that have running statistics."""
    norms = []
    for name, module in model.named_modules():
        if not isinstance(module, (_NormBase, RunningNorm)):
            continue
        if is_lazy(module.running_mean):
            raise ValueError(
                f"cannot {verb} {name or 'the model'}: it is lazy and has seen no input yet. "
                "Run one batch through the model first."
            )
        if module.running_mean is not None:
            norms.append(module)
        elif not isinstance(module, _INSTANCE):
            raise ValueError(
                f"cannot {verb} {name or 'the model'}: built with track_running_stats=False, it "
                "has no running statistics and normalizes by its batch in every mode."
            )
    if not norms:
        raise ValueError(
            f"nothing to {verb}: {type(model).__name__} has no layer with running statistics "
            "(BatchNorm, SyncBatchNorm, or InstanceNorm with track_running_stats=True)."
        )
    return norms


def _cuda(model: nn.Module) -> list[torch.device]:
    """The GPUs that the model uses: their random state is put back as well."""
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})
