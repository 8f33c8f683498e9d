"""What flows through any `nn.Module`, as one tidy table: activations, gradients, weights, updates.

A probe never leaves a trace: mode, buffers, plain tensors, gradients, random number generators and
hooks of the model are as they were, also after an exception (`nbutils.state.traceless`).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nbutils.state import call, check_variance, modules_of, traceless

COLUMNS = ["layer", "kind", "call", "output", "metric", "value", "finite"]


def measure(
    model: nn.Module,
    batch: object,
    loss: Callable[[object], Tensor] | None = None,
    layers: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Run the model on a batch, with `loss` the backward pass of loss(output), and measure layers.

    The model runs in its current mode, and uncompiled. `batch` is what `nbutils.state.call` takes:
    an input, several in a tuple or list (the labels of a DataLoader are left out), or a dict of
    keyword inputs. `layers` names the modules to watch, as in `model.named_modules()`; by default
    all without submodules.

    Returns one row per measured number, in the order of the forward pass, then the parameters:
    - layer, kind: name and class of the module.
    - call: 0, 1, ... for a module that runs more than once; 0 for parameters.
    - output: "" for a tensor; the path ("0", "state.1") in a tuple, list or dict of tensors; for a
      parameter its name. Outputs of other types are left alone.
    - metric, value. Of each floating point output, as the module returned it:
      activation_rms, activation_mean;
      dead_fraction, the share of units (elements of the output beside its batch axis, 0) that are 0
      for every example: meaningful behind ReLU and its like only; NaN where not all are finite;
      gradient_norm and gradient_rms, of the loss with respect to the output, all examples together.
      Of each parameter: weight_norm and, if the loss reaches it, weight_gradient_norm.
    - finite: whether all the values behind the number are; False says that the run diverged.
    Norms are Euclidean. Half precision is measured in float32.

    The gradient at each layer, for a random gradient at the output, is one line:
        measure(net, x, lambda out: (out * torch.randn_like(out)).sum()).query(
            "metric == 'gradient_norm'")

    Warns of a norm with so few values that its output hardly depends on the input. Raises
    RuntimeError for a loss under no_grad or inference_mode, or one that needs no gradient, and
    where no watched layer ran; ValueError for an unknown layer, an empty batch, a negative running
    variance in use, a loss that is not one number, a model not yet initialized; TypeError for what
    is not an `nn.Module`, for TorchScript, and for a batch that can be read in two ways.
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
    with traceless(model, batch):
        handles = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
        for name, module in watched.items():
            handles.append(module.register_forward_pre_hook(_Look(name)))
        with torch.set_grad_enabled(loss is not None):
            result = call(model, batch)
        for handle in handles:  # before the backward pass: checkpointing runs forward again
            handle.remove()
        if watched and not calls:
            raise RuntimeError(
                f"none of the watched layers ran, from {next(iter(watched))!r} on: the model "
                "computes without calling them, as an exported program does. Pass the nn.Module."
            )
        if loss is not None:
            gradients = _backward(model, batch, _scalar(loss(result)))

    rows = [row for output in outputs for row in output.rows()]
    for name, module in model.named_modules():
        if layers is not None and name not in watched:
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            key = (name, type(module).__name__, 0, parameter_name)
            norm = _norm(parameter).item()
            rows.append((*key, "weight_norm", norm, _finite(norm, parameter)))
            if id(parameter) in gradients:
                gradient = gradients[id(parameter)]
                norm = _norm(gradient).item()
                rows.append((*key, "weight_gradient_norm", norm, _finite(norm, gradient)))
    return pd.DataFrame(rows, columns=COLUMNS)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters by name, for `updates`."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def updates(model: nn.Module, before: dict[str, Tensor]) -> pd.DataFrame:
    """How far each parameter moved since `before = snapshot(model)`.

    Returns the columns of `measure`, output being the parameter's name, with three metrics each:
    weight_norm (at the snapshot), update_norm (of the difference) and relative_update, the second
    over the first (infinite where a weight left 0, and NaN where it stayed there). `finite` speaks
    of the values at the snapshot for the first, of those and the present ones for the others.
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
        step = parameter.detach() - before[name]
        weight, update = _norm(before[name]), _norm(step)
        finite = _finite(update.item(), step)
        rows.append((*key, "weight_norm", weight.item(), _finite(weight.item(), before[name])))
        rows.append((*key, "update_norm", update.item(), finite))
        rows.append((*key, "relative_update", (update / weight).item(), finite))
    return pd.DataFrame(rows, columns=COLUMNS)


class _Output:
    """One tensor that a module returned, measured at once: what follows may change it in place."""

    def __init__(self, name: str, module: nn.Module, call: int, path: str, tensor: Tensor) -> None:
        self.key = (name, type(module).__name__, call, path)
        values = _measurable(tensor)
        rms = _rms(values)
        finite = _finite(rms, values)
        self.metrics = {
            "activation_rms": (rms, finite),
            "activation_mean": (values.mean().item(), finite),
        }
        if values.dim() > 0:
            dead = (values == 0).all(dim=0).float().mean().item()
            self.metrics["dead_fraction"] = (dead if finite else float("nan"), finite)
        if tensor.requires_grad:
            # A hook on the tensor sees the gradient of the value before any change in place.
            tensor.register_hook(self.receive)

    def receive(self, gradient: Tensor) -> None:
        norm = _norm(gradient).item()
        finite = _finite(norm, gradient)
        self.metrics["gradient_norm"] = (norm, finite)
        self.metrics["gradient_rms"] = (_rms(_measurable(gradient)), finite)

    def rows(self) -> list[tuple]:
        return [(*self.key, metric, *measured) for metric, measured in self.metrics.items()]


class _Look:
    """Before a norm runs: is there a variance in what it gets, and in what it remembers?"""

    def __init__(self, name: str) -> None:
        self.name, self.warned = name, False

    def __call__(self, module: nn.Module, inputs: tuple) -> None:
        if module._buffers.get("running_var") is not None and not module.training:
            check_variance(module, self.name)
        few = _few_values(module, inputs[0]) if inputs and isinstance(inputs[0], Tensor) else ""
        if few and not self.warned:
            self.warned = True
            shape = tuple(inputs[0].shape)
            warnings.warn(f"{self.name or 'the model'} has {few}, in {shape}.", stacklevel=2)


def _few_values(module: nn.Module, x: Tensor) -> str:
    """What is wrong with a norm that has one or two values to average over; "" if nothing is."""
    kind = type(module).__name__
    if kind in ("LayerNorm", "RMSNorm") and math.prod(module.normalized_shape) == 1:
        output = "the shift" if kind == "LayerNorm" else "the scale, with the sign of its input"
        return f"one value to normalize ({kind}): its output is {output}"
    if isinstance(module, nn.GroupNorm) and x[0].numel() == module.num_groups:
        return "one value per group (GroupNorm): its output is the shift"
    if "running_var" in module._buffers and "Instance" not in kind:
        by_batch = module.training or module.running_var is None
        if by_batch and x.dim() > 1 and x.numel() == 2 * x.shape[1]:
            return f"two values per channel ({kind}): normalized they are 1 and -1, nearly always"
    return ""


def _measurable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.layout != torch.strided:  # the gradient of Embedding(sparse=True)
        tensor = tensor.to_dense()
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _finite(norm: float, tensor: Tensor) -> bool:
    """Whether all values are finite: where their norm is; where it is not, it may have overflowed.

    An empty tensor has a root mean square of NaN and no value that is not finite.
    """
    return math.isfinite(norm) or _measurable(tensor).isfinite().all().item()


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
    modules_of(model)  # refuses what cannot be protected
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


def _backward(model: nn.Module, batch: object, loss: Tensor) -> dict[int, Tensor]:
    """Gradients by id of the parameter; autograd.grad, unlike backward(), touches no .grad."""
    leaves = [p for p in model.parameters() if p.requires_grad]
    inputs = [t for _, t in _tensors(batch) if t.requires_grad]
    found = torch.autograd.grad(loss, leaves + inputs, allow_unused=True)
    return {
        id(leaf): gradient
        for leaf, gradient in zip(leaves, found, strict=False)
        if gradient is not None
    }
