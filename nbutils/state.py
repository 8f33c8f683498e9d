"""A model's state, lent and put back: modes, buffers, plain tensors, hooks, gradients, randomness.

`traceless` protects all of it: a probe runs inside. `preserve_statistics` protects what is not
learned, around a reader's block. Both find what a model keeps in plain lists and dicts, put back
after an exception too, and refuse what they cannot protect. `call` gives a model a batch of any
kind, and `eager` makes compiled modules run their hooks.
"""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

# What every module has, and what of it is a dict or set that hooks and handles refer to.
_INTERNAL = frozenset(vars(nn.Module()))
_CONTENTS = [name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set))]


def modules_of(model: nn.Module) -> dict[nn.Module, str]:
    """All modules of the model and their names, those in plain lists and dicts included.

    Raises TypeError for what is not an `nn.Module`, and for modules of TorchScript: their tensors
    live outside Python, where they cannot be exchanged.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"expected an nn.Module, got {type(model).__name__}: pass the model itself, not a "
            "function that calls it or a program that was exported from it."
        )
    names = {module: name for name, module in model.named_modules()}
    waiting = list(names)
    for module in waiting:  # grows while it is read
        for attribute, value in vars(module).items():
            if attribute in _INTERNAL:
                continue
            prefix = f"{names[module]}.{attribute}".lstrip(".")
            for index, hidden in enumerate(_leaves(value)):
                if isinstance(hidden, nn.Module) and hidden not in names:
                    own = prefix if hidden is value else f"{prefix}.{index}"
                    found = {m: name for name, m in hidden.named_modules(prefix=own)}
                    waiting += [m for m in found if m not in names]
                    names |= {m: name for m, name in found.items() if m not in names}
    for module, name in names.items():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{name or 'the model'} is a module of TorchScript, whose state cannot be "
                "protected: pass the nn.Module that it was made from."
            )
    return names


@contextmanager
def traceless(model: nn.Module, batch: object = None) -> Iterator[nn.Module]:
    """Whatever happens to the model inside, everything is as it was afterwards.

    Inside, it computes on copies of its buffers and plain tensors, and has no gradients. Put back
    are attributes (modes with them), buffers, hooks, gradients, and the random states of Python,
    NumPy, PyTorch (on the GPUs that the model or `batch` uses) and the model's own generators.
    Parameters are not copied: a model that writes to them as it computes has written.
    """
    modules = list(modules_of(model))
    attributes = [(module, dict(vars(module))) for module in modules]
    contents = [
        (own[name], list(own[name]) if name == "_buffers" else own[name].copy())
        for _, own in attributes
        for name in _CONTENTS
    ]
    parameters = {p for module in modules for p in module.parameters(recurse=False)}
    gradients = [(parameter, parameter.grad) for parameter in parameters if not is_lazy(parameter)]
    loan = _Loan(modules)
    with _random_state(modules, batch), eager():
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            loan.lend()
            yield model
        finally:
            loan.put_back()
            for module, own in attributes:
                vars(module).clear()
                vars(module).update(own)
            for content, before in contents:
                # Of buffers the names alone: the loan has put back the tensors, converted or not.
                kept = {n: content[n] for n in before} if isinstance(before, list) else before
                content.clear()
                content.update(kept)
            for parameter, gradient in gradients:
                parameter.grad = gradient


@contextmanager
def preserve_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Whatever happens to the model's buffers inside, they are put back afterwards.

    Buffers are running statistics and all other state that is not learned; tensors in plain
    attributes, lists and dicts are put back too. Inside, the model works on copies, so that a graph
    that was built there can still run backward later. The mode is left alone: a model in train()
    normalizes by its batches, as ever. After model.half() or model.to(...) inside, the buffers are
    put back where the model is now. Yields the model.

    Raises TypeError for what is not an `nn.Module`, and for TorchScript.
    """
    loan = _Loan(list(modules_of(model)), tensors_only=True)
    try:
        loan.lend()
        yield model
    finally:
        loan.put_back()


class _Loan:
    """Copies of a model's buffers and plain attributes in the places of the originals."""

    def __init__(self, modules: list[nn.Module], tensors_only: bool = False) -> None:
        self.modules = modules
        self.buffers = [
            (m._buffers, name, own) for m in modules for name, own in m._buffers.items()
        ]
        self.plain = [
            (vars(module), name, value)
            for module in modules
            for name, value in vars(module).items()
            if name not in _INTERNAL and not (tensors_only and not _holds_tensor(value))
        ]
        self.kinds = self._kinds()

    def lend(self) -> None:
        memo: dict[int, object] = {}  # what is shared stays shared
        for places, name, value in self.buffers + self.plain:
            places[name] = _copied(value, memo)

    def put_back(self) -> None:
        for places, name, value in self.plain:
            places[name] = value
        converted = self._kinds() != self.kinds
        moved: dict[tuple, Tensor] = {}
        for places, name, value in self.buffers:
            now = places.get(name)
            places[name] = value
            if converted and value is not None and now is not None and not is_lazy(now):
                key = (id(value), now.device, now.dtype)
                places[name] = moved.setdefault(key, value.to(now.device, now.dtype))

    def _kinds(self) -> list[tuple]:
        """Device and dtype of the parameters: where they change, model.to() was called.

        A buffer that changes alone was replaced by the model. Without parameters nobody can tell,
        and the buffers stand for them.
        """
        tensors = [p for module in self.modules for p in module.parameters(recurse=False)]
        tensors = tensors or [b for module in self.modules for b in module._buffers.values()]
        return [(t.device, t.dtype) for t in tensors if t is not None]


def _copied(value: object, memo: dict[int, object]) -> object:
    """A copy of a tensor that is not learned, and of a plain container; else the value itself."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, Tensor):
        if is_lazy(value) or (value.requires_grad and value.is_leaf):
            return value
        if value.requires_grad:
            memo[id(value)] = value.clone()
            return memo[id(value)]
        return copy.deepcopy(value, memo)  # two views of one storage remain that
    kind = type(value)
    if kind is tuple:
        return tuple(_copied(item, memo) for item in value)
    if kind in (list, deque, dict, OrderedDict, set):
        other = memo[id(value)] = value.copy()  # before its items: it may hold itself
        if isinstance(value, (dict, list, deque)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                other[key] = _copied(item, memo)
        return other
    return value


def _leaves(value: object, seen: set[int] | None = None) -> Iterator[object]:
    """The values in nested lists, tuples, sets and dicts."""
    seen = set() if seen is None else seen
    if not isinstance(value, (list, tuple, set, frozenset, deque, Mapping)):
        yield value
    elif id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item, seen)


def _holds_tensor(value: object) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in _leaves(value))


@contextmanager
def _random_state(modules: list[nn.Module], batch: object) -> Iterator[None]:
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values())]
    tensors += _leaves(batch)
    devices = {t.device for t in tensors if isinstance(t, Tensor) and t.is_cuda}
    plain = [v for m in modules for name, v in vars(m).items() if name not in _INTERNAL]
    generators = [(g, g.get_state()) for g in _leaves(plain) if isinstance(g, torch.Generator)]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for generator, state in generators:
                generator.set_state(state)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def eager() -> AbstractContextManager:
    """Inside, what was compiled by torch.compile runs as it was written, with hooks.

    A module that has run compiled skips hooks that are registered later.
    """
    if "torch._dynamo" not in sys.modules:  # then nothing was compiled, and the import takes long
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def check_variance(norm: nn.Module, name: str) -> None:
    """Raise ValueError where the running variance of a layer is negative."""
    lowest = norm.running_var.min().item()
    if lowest < 0:
        raise ValueError(
            f"{name or 'the model'} has a negative running variance, {lowest:.3g}: no data has "
            "that. Was the checkpoint averaged or damaged? recalibrate(model, batches) replaces it."
        )


def call(model: nn.Module, batch: object) -> object:
    """model(batch), for a batch of any kind.

    - a tensor or a packed sequence: the input;
    - a dict: keyword inputs, or one input where `forward` knows none of its keys;
    - a tuple or list: as many of its entries as `forward` has inputs without a default, at least
      one; all where it takes *args. What follows, such as the labels of a DataLoader, is left out.
      Where `forward` could take it as an optional input, nobody can tell: TypeError. A list that is
      one input goes into a tuple of one, (images,).

    Raises ValueError for an empty batch, and for a batch of one in front of a BatchNorm in train().
    """
    first = next((t for t in _leaves(batch) if isinstance(t, Tensor)), None)
    if first is not None and first.numel() == 0:
        raise ValueError(f"the batch is empty: its first tensor has shape {tuple(first.shape)}.")
    args, keywords = _arguments(model, batch)
    try:
        return model(*args, **keywords)
    except ValueError as error:
        if "Expected more than 1" not in str(error):
            raise
        raise ValueError(
            f"{error}. A single value has no variance. If this is a last batch of one example, "
            "leave it out: DataLoader(..., drop_last=True)."
        ) from error


def _arguments(model: nn.Module, batch: object) -> tuple[tuple, dict]:
    several = isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence)
    if not several and not isinstance(batch, Mapping):
        return (batch,), {}
    signature = inspect.signature(_unwrapped(model).forward)
    parameters = list(signature.parameters.values())
    kinds = {p.kind for p in parameters}
    if several:
        if inspect.Parameter.VAR_POSITIONAL in kinds:
            return tuple(batch), {}
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        positional = [p for p in parameters if p.kind in by_place]
        required = sum(p.default is p.empty for p in positional) or 1
        if required < min(len(batch), len(positional)):
            raise TypeError(
                f"the batch has {len(batch)} entries, and forward{signature} takes {required} to "
                f"{len(positional)}: is the entry behind the first {required} an input, or labels? "
                f"Pass the inputs alone, as a dict {{{positional[0].name!r}: ...}} or as a tuple "
                f"of {required}."
            )
        return tuple(batch[:required]), {}
    unknown = [key for key in batch if key not in signature.parameters]
    if not unknown or inspect.Parameter.VAR_KEYWORD in kinds:
        return (), dict(batch)
    if len(unknown) == len(batch):
        return (batch,), {}
    raise TypeError(f"forward{signature} takes no {unknown[0]!r}: leave it out of the batch.")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The reader's own module inside of torch.compile's and data parallel wrappers."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return _unwrapped(model.module)
    compiled = model._modules.get("_orig_mod")
    return model if compiled is None else _unwrapped(compiled)
