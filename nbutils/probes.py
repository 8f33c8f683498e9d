"""What flows through any `nn.Module`, as one tidy table: activations, gradients, weights, updates.

A probe never leaves a trace: mode, buffers, gradients, random number generators and hooks of the
model are as they were, also after an exception.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

COLUMNS = ["layer", "kind", "call", "output", "metric", "value"]


def measure(
    model: nn.Module,
    x: Tensor | tuple,
    loss: Callable[[object], Tensor] | None = None,
    layers: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Run model(x), and with `loss` the backward pass of loss(model(x)), and measure every layer.

    The model runs in its current mode. `x` is its input, a tuple its positional arguments. `layers`
    names the modules to watch, as in `model.named_modules()`; by default all without submodules.

    Returns one row per measured number, in the order of the forward pass, then the parameters:
    - layer, kind: name and class of the module.
    - call: 0, 1, ... for a module that runs more than once; 0 for parameters.
    - output: "" for a tensor; the path ("0", "state.1") in a tuple, list or dict of tensors; for a
      parameter its name. Outputs of other types are left alone.
    - metric, value. Of each floating point output, as the module returned it:
      activation_rms, activation_mean;
      dead_fraction, the share of units (elements of the output beside its batch axis, 0) that are 0
      for every example: meaningful behind ReLU and its like only;
      gradient_norm and gradient_rms, of the loss with respect to the output, all examples together.
      Of each parameter: weight_norm and, if the loss reaches it, weight_gradient_norm.
    Norms are Euclidean. Half precision is measured in float32.

    Raises RuntimeError for a loss under no_grad or inference_mode, or one that needs no gradient;
    ValueError for an unknown layer, a loss that is not one number, a model not yet initialized.
    """
    if loss is not None and not torch.is_grad_enabled():
        raise RuntimeError(
            "measure(..., loss=...) needs gradients, and they are off here: call it outside of "
            "torch.no_grad() and torch.inference_mode(), or without a loss."
        )
    watched = _watched(model, layers)
    outputs: list[_Output] = []
    calls: Counter[str] = Counter()

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, result: object) -> None:
            for path, tensor in _tensors(result):
                outputs.append(_Output(name, module, calls[name], path, tensor))
            calls[name] += 1

        return hook

    gradients: dict[int, Tensor] = {}
    with _traceless(model, x):
        handles = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
        try:
            with torch.set_grad_enabled(loss is not None):
                result = model(*x) if isinstance(x, tuple) else model(x)
        finally:
            for handle in handles:  # before the backward pass: checkpointing runs forward again
                handle.remove()
        if loss is not None:
            gradients = _backward(model, x, _scalar(loss(result)))

    rows = [row for output in outputs for row in output.rows()]
    for name, module in model.named_modules():
        if layers is not None and name not in watched:
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            key = (name, type(module).__name__, 0, parameter_name)
            rows.append((*key, "weight_norm", _norm(parameter).item()))
            if id(parameter) in gradients:
                rows.append((*key, "weight_gradient_norm", _norm(gradients[id(parameter)]).item()))
    return pd.DataFrame(rows, columns=COLUMNS)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters by name, for `updates`."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def updates(model: nn.Module, before: dict[str, Tensor]) -> pd.DataFrame:
    """How far each parameter moved since `before = snapshot(model)`.

    Returns the columns of `measure`, output being the parameter's name, with three metrics each:
    weight_norm (at the snapshot), update_norm (of the difference) and relative_update, the second
    over the first (infinite where a weight left 0, and NaN where it stayed there).
    Raises ValueError if the snapshot is of another model.
    """
    after = {name: (p.shape, p.device) for name, p in model.named_parameters()}
    if after != {name: (tensor.shape, tensor.device) for name, tensor in before.items()}:
        raise ValueError(
            "the snapshot has other parameters than the model: "
            "take it from the same model with before = snapshot(model)."
        )
    rows = []
    for name, parameter in model.named_parameters():
        layer, _, parameter_name = name.rpartition(".")
        key = (layer, type(model.get_submodule(layer)).__name__, 0, parameter_name)
        weight, update = _norm(before[name]), _norm(parameter.detach() - before[name])
        rows.append((*key, "weight_norm", weight.item()))
        rows.append((*key, "update_norm", update.item()))
        rows.append((*key, "relative_update", (update / weight).item()))
    return pd.DataFrame(rows, columns=COLUMNS)


class _Output:
    """One tensor that a module returned, measured at once: what follows may change it in place."""

    def __init__(self, name: str, module: nn.Module, call: int, path: str, tensor: Tensor) -> None:
        self.key = (name, type(module).__name__, call, path)
        values = _measurable(tensor)
        self.metrics = {
            "activation_rms": _rms(values),
            "activation_mean": values.mean().item(),
        }
        if values.dim() > 0:
            dead = (values == 0).all(dim=0)
            self.metrics["dead_fraction"] = dead.float().mean().item()
        if tensor.requires_grad:
            # A hook on the tensor sees the gradient of the value before any change in place.
            tensor.register_hook(self.receive)

    def receive(self, gradient: Tensor) -> None:
        self.metrics["gradient_norm"] = _norm(gradient).item()
        self.metrics["gradient_rms"] = _rms(_measurable(gradient))

    def rows(self) -> list[tuple]:
        return [(*self.key, metric, value) for metric, value in self.metrics.items()]


def _measurable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_measurable(tensor))


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def _tensors(result: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating point tensors in nested tuples, lists and dicts, each with its path."""
    if isinstance(result, Tensor):
        if result.is_floating_point():
            yield path, result
    elif isinstance(result, (tuple, list, dict)):
        items = result.items() if isinstance(result, dict) else enumerate(result)
        for key, part in items:
            yield from _tensors(part, f"{path}.{key}" if path else str(key))


def _watched(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        raise ValueError(
            "the model has lazy layers without a shape yet: run it once, then measure."
        )
    modules = dict(model.named_modules())
    if layers is None:
        return {name: m for name, m in modules.items() if not any(True for _ in m.children())}
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, got the string {layers!r}.")
    unknown = [name for name in layers if name not in modules]
    if unknown:
        known = ", ".join(repr(name) for name in modules)
        raise ValueError(f"the model has no layer {unknown[0]!r}; it has {known}.")
    return {name: modules[name] for name in layers}


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss(output) must be a tensor with one element, got {got}.")
    if not value.requires_grad:
        raise RuntimeError(
            "loss(output) does not depend on anything that requires a gradient: "
            "was a parameter frozen, or the output detached?"
        )
    return value


def _backward(model: nn.Module, x: Tensor | tuple, loss: Tensor) -> dict[int, Tensor]:
    """Gradients by id of the parameter; autograd.grad, unlike backward(), touches no .grad."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    inputs = [t for _, t in _tensors(x) if t.requires_grad]
    found = torch.autograd.grad(loss, leaves + inputs, allow_unused=True)
    return {
        id(leaf): gradient
        for leaf, gradient in zip(leaves, found, strict=False)
        if gradient is not None
    }


@contextmanager
def _traceless(model: nn.Module, x: Tensor | tuple) -> Iterator[None]:
    """Inside, the model computes on copies of its buffers; after, everything is as it was."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    buffers = [dict(module._buffers) for module in modules]
    copies: dict[int, Tensor] = {id(b): b.clone() for b in model.buffers()}
    tensors = chain(model.parameters(), model.buffers(), (t for _, t in _tensors(x)))
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices=devices):
        try:
            for module in modules:
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = copies[id(buffer)]
            yield
        finally:
            for module, mode, originals in zip(modules, modes, buffers, strict=True):
                module.training = mode
                module._buffers.clear()
                module._buffers.update(originals)
