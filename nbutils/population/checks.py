"""What networks and data must be like to be trained side by side, and the sentences if not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from textwrap import shorten

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

_OWN = frozenset(nn.Module().__dict__) - {"training"}
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)


def check_alike(nets: list[nn.Module]) -> None:
    """Networks of a population differ in the values of their parameters and buffers alone."""
    if not nets:
        raise ValueError("a population needs at least one network, got none.")
    for index, net in enumerate(nets):
        if not isinstance(net, nn.Module):
            raise TypeError(f"networks must be nn.Module, got {type(net).__name__} at {index}.")
    first = list(_parts(nets[0]))
    seen = _parameters(first)
    for index, net in enumerate(nets[1:], start=1):
        parts = list(_parts(net))
        for expected, got in zip(first, parts, strict=False):
            if not _same(expected, got):
                _refuse(index, _text(expected, got), _text(got, expected))
        if len(first) != len(parts):
            longer = max(first, parts, key=len)[min(len(first), len(parts))]
            texts = _text(longer, longer), "nothing"
            _refuse(index, *(texts if len(first) > len(parts) else texts[::-1]))
        own = _parameters(parts)
        if own & seen:
            raise ValueError(f"network {index} shares a parameter with a network before it.")
        seen |= own


def _refuse(index: int, expected: str, got: str) -> None:
    raise ValueError(
        "networks must be alike but for their values: network 0 has "
        f"[{expected}] where network {index} has [{got}]. Train them in separate calls."
    )


def _parts(net: nn.Module) -> Iterator[tuple]:
    for name, module in net.named_modules():
        # The course's own networks keep the recipe that they were drawn by in private attributes.
        private = type(module).__module__.startswith("nbutils.")
        plain = {
            key: value
            for key, value in module.__dict__.items()
            if key not in _OWN and not (private and key.startswith("_"))
        }
        tensors = [
            (key, tensor.shape, tensor.dtype, tensor.requires_grad)
            for key, tensor in chain(module._parameters.items(), module._buffers.items())
            if tensor is not None
        ]
        # A parametrized module has a class of its own.
        kind = type(module).__base__ if is_parametrized(module) else type(module)
        yield name, kind, plain, tensors, module


def _parameters(parts: list[tuple]) -> set[int]:
    held = (parameter for part in parts for parameter in part[4]._parameters.values())
    return {id(parameter) for parameter in held if parameter is not None}


def _same(one: tuple, other: tuple) -> bool:
    return (
        one[:2] == other[:2]
        and one[3] == other[3]
        and one[2].keys() == other[2].keys()
        and all(_equal(value, other[2][key]) for key, value in one[2].items())
    )


def _equal(one: object, other: object) -> bool:
    """Plain values and tensors are compared; of other objects nobody can say."""
    if one is other or type(one) is not type(other):
        return one is other
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, _PLAIN):
        return one == other
    if isinstance(one, nn.Parameter):
        return True  # nn.GRU lists its own; running alone will show what is not registered
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return True


def _text(part: tuple, beside: tuple) -> str:
    name, kind, plain, tensors, module = part
    mode = "train" if plain["training"] else "eval"
    text = f"{name or 'network'}: {kind.__name__}({module.extra_repr()}), {mode} mode"
    differing = [
        f"{key}={shorten(repr(value), 60)}"
        for key, value in plain.items()
        if key != "training" and key in beside[2] and not _equal(value, beside[2][key])
    ]
    for key, shape, dtype, grad in tensors:
        if (key, shape, dtype, grad) not in beside[3]:
            differing.append(f"{key}: {tuple(shape)} {dtype} requires_grad={grad}")
    return ", ".join([text, *differing])


def check_data(
    networks: int, dtypes: set[torch.dtype], x: Tensor, y: Tensor, index: Tensor | None
) -> None:
    """x (N, ...) and y (N,), or both with an axis M in front; index (M, n) of rows."""
    own = y.dim() == 2
    if y.dim() not in (1, 2) or x.dim() < y.dim() + 1 or y.shape != x.shape[: y.dim()]:
        raise ValueError(
            "expected x of shape (N, ...) and y of shape (N,), or both with the networks in "
            f"front, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if own and (len(y) != networks or index is not None):
        raise ValueError(
            f"y of shape {tuple(y.shape)} holds the data of {len(y)} networks; there are "
            f"{networks}"
            + (", and index= is for data that they share." if index is not None else ".")
        )
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    if x.is_floating_point() and floats and floats != {x.dtype}:
        names = " and ".join(sorted(str(dtype) for dtype in floats))
        raise TypeError(f"the networks are {names}, and x is {x.dtype}: they must agree.")
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold int64 class labels, got {y.dtype}.")
    if index is not None:
        if index.dtype != torch.int64 or index.dim() != 2 or len(index) != networks:
            raise ValueError(
                f"index must be int64 of shape (networks, rows), {networks} networks, "
                f"got {index.dtype} of shape {tuple(index.shape)}."
            )
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < len(y):
            raise ValueError(f"index must name rows 0 to {len(y) - 1} of x.")


def per_network(name: str, values: Sequence, count: int) -> list:
    values = list(values)
    if len(values) != count:
        raise ValueError(f"{name} needs one value per network, {count}, got {len(values)}.")
    return values


def tag_columns(tags: Sequence[dict] | None, count: int) -> pd.DataFrame:
    columns = pd.DataFrame(per_network("tags", tags or [{}] * count, count), index=range(count))
    taken = {"network", "step", "loss", "accuracy", "diverged"} & set(columns)
    if taken:
        raise ValueError(f"tags must not be named {sorted(taken)}: these columns exist.")
    return columns
