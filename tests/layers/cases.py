"""Every norm in several forms, PyTorch's layer for it, and what "equal" means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nbutils.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

Factory = Callable[..., nn.Module]

TORCH_BATCHNORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
TORCH_INSTANCENORM = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
TORCH = {LayerNorm: nn.LayerNorm, RMSNorm: nn.RMSNorm, GroupNorm: nn.GroupNorm}

BATCH_SHAPES = [(8, 5), (4, 5, 6), (4, 5, 3, 2), (2, 5, 2, 3, 2)]
CASES = [
    *[(BatchNorm, (5,), {}, shape) for shape in BATCH_SHAPES],
    (BatchNorm, (5,), {"affine": False}, (8, 5)),
    (BatchNorm, (5,), {"track_running_stats": False}, (8, 5)),
    (BatchNorm, (5,), {"momentum": None, "eps": 1e-3}, (8, 5)),
    (LayerNorm, (6,), {}, (4, 6)),
    (LayerNorm, (6,), {"bias": False}, (2, 3, 6)),
    (LayerNorm, ((4, 6),), {"eps": 1e-2}, (3, 4, 6)),
    (LayerNorm, ([5, 3, 2],), {"elementwise_affine": False}, (2, 5, 3, 2)),
    (RMSNorm, (6,), {}, (4, 6)),
    (RMSNorm, ((4, 6),), {"eps": 1e-2}, (3, 4, 6)),
    (RMSNorm, (6,), {"elementwise_affine": False}, (2, 3, 6)),
    (GroupNorm, (1, 6), {}, (3, 6)),
    (GroupNorm, (2, 6), {}, (3, 6, 4)),
    (GroupNorm, (3, 6), {"affine": False}, (3, 6, 4, 2)),
    (GroupNorm, (6, 6), {"eps": 1e-2}, (3, 6, 4)),
    (InstanceNorm, (5,), {}, (3, 5, 6)),
    (InstanceNorm, (5,), {"affine": True}, (3, 5, 4, 2)),
    (InstanceNorm, (5,), {"affine": True, "track_running_stats": True}, (3, 5, 4, 2)),
    (InstanceNorm, (5,), {"track_running_stats": True, "momentum": None}, (2, 5, 2, 3, 2)),
]
case = pytest.mark.parametrize(("kind", "args", "options", "shape"), CASES)


def reference(kind: Factory, args: tuple, options: dict, dims: int) -> nn.Module:
    """PyTorch's layer for ours."""
    if issubclass(kind, BatchNorm):
        return TORCH_BATCHNORM[dims](*args, **options)
    if issubclass(kind, InstanceNorm):
        return TORCH_INSTANCENORM[dims](*args, **options)
    return next(TORCH[base] for base in kind.__mro__ if base in TORCH)(*args, **options)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def randomize(layer: nn.Module, seed: int = 1) -> None:
    """Parameters and running statistics that are not 0 and 1."""
    for index, (name, tensor) in enumerate(layer.state_dict().items()):
        if tensor.is_floating_point():
            values = normal(*tensor.shape, seed=seed + index, dtype=tensor.dtype)
            tensor.copy_(values.abs() + 0.5 if name == "running_var" else values)


def pair(kind, args, options, shape, dtype=torch.float32) -> tuple[nn.Module, nn.Module]:
    theirs = reference(kind, args, options, len(shape)).to(dtype)
    ours = kind(*args, **options).to(dtype)
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def close(actual: Tensor, expected: Tensor, ulps: float = 16) -> None:
    """Equal to `ulps` machine epsilons of the largest value."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    largest = expected.abs().max().item() if expected.numel() else 0.0
    tolerance = ulps * torch.finfo(expected.dtype).eps * max(1.0, largest)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def same_state(ours: nn.Module, theirs: nn.Module) -> None:
    actual, expected = ours.state_dict(), theirs.state_dict()
    assert list(actual) == list(expected)
    for name in expected:
        if expected[name].is_floating_point():
            close(actual[name], expected[name])
        else:
            assert actual[name].equal(expected[name])
            assert actual[name].dtype == expected[name].dtype
