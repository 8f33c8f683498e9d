"""The layers are PyTorch's: values, gradients, state, errors; and the checks catch planted mutants.

Every comparison takes a factory of layers, so that mutants run through the same functions.
"""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from nbutils import layers
from nbutils.layers import (
    BatchNorm,
    Derf,
    DyT,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
    standardize,
)

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
    tolerance = ulps * torch.finfo(expected.dtype).eps * max(1.0, expected.abs().max().item())
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


# What must hold for every norm. Each check takes (kind, args, options, shape).


def check_values_and_gradients(kind, args, options, shape) -> None:
    for dtype in (torch.float32, torch.float64):
        ours, theirs = pair(kind, args, options, shape, dtype)
        for training in (True, False):
            ours.train(training)
            theirs.train(training)
            x = (3 * normal(*shape, dtype=dtype) + 1).requires_grad_()
            x_theirs = x.detach().clone().requires_grad_()
            y, expected = ours(x), theirs(x_theirs)
            close(y, expected)
            cotangent = normal(*shape, seed=2, dtype=dtype)
            parameters, expected_parameters = list(ours.parameters()), list(theirs.parameters())
            gradients = torch.autograd.grad(y, [x, *parameters], cotangent)
            expected = torch.autograd.grad(expected, [x_theirs, *expected_parameters], cotangent)
            for gradient, expected_gradient in zip(gradients, expected, strict=True):
                close(gradient, expected_gradient, ulps=32)
            same_state(ours, theirs)


def check_gradcheck(kind, args, options, shape) -> None:
    layer = kind(*args, **options).double()
    randomize(layer)
    x = normal(*shape, dtype=torch.float64).requires_grad_()
    # The running statistics move at every call, and do not enter the output in train mode.
    assert torch.autograd.gradcheck(layer, (x,))


def check_state_travels(kind, args, options, shape) -> None:
    ours, theirs = pair(kind, args, options, shape)
    ours(normal(*shape, seed=5))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        same_state(copied, ours)
        assert copied.eval()(normal(*shape)).equal(ours.eval()(normal(*shape)))
    same_state(ours, theirs)
    assert f"eps={ours.eps}" in repr(ours)


def check_eval_changes_nothing(kind, args, options, shape) -> None:
    ours, _ = pair(kind, args, options, shape)
    ours.eval()
    before = copy.deepcopy(ours.state_dict())
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            ours(normal(*shape, seed=3))
    for name, tensor in ours.state_dict().items():
        assert tensor.equal(before[name]), name


def check_buffers_have_no_history(kind, args, options, shape) -> None:
    ours, _ = pair(kind, args, options, shape)
    names = [name for name, _ in ours.named_buffers()]
    for _ in range(2):
        ours(normal(*shape).requires_grad_())
    assert [name for name, _ in ours.named_buffers()] == names
    for name, buffer in ours.named_buffers():
        assert buffer.grad_fn is None, name
        assert not buffer.requires_grad, name


def check_large_mean(kind, args, options, shape) -> None:
    """mean 1e4, std 1: E[x^2] - E[x]^2 in float32 loses everything."""
    ours, theirs = pair(kind, args, options, shape)
    x = 1e4 + normal(*shape)
    y = ours(x)
    expected = theirs.double()(x.double())
    # x itself resolves 1e4 to 1e-3; the parameters of `pair` are below 4.
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-2)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(
            buffer.double(), theirs.get_buffer(name).double(), rtol=2e-3, atol=0
        )


def check_half_precision(kind, args, options, shape) -> None:
    """The dtype of PyTorch; statistics in float32, rounded once at the end."""
    for dtype in (torch.float16, torch.bfloat16):
        ours, theirs = pair(kind, args, options, shape)
        in_float32 = copy.deepcopy(ours)
        x = (20 * normal(*shape) + 300).to(dtype)  # the square overflows float16
        y = ours(x)
        assert y.dtype == dtype
        assert y.equal(in_float32(x.float()).to(dtype))
        same_state(ours, in_float32)
        if kind is not RMSNorm:  # PyTorch warns that its own is not fused here
            assert theirs(x).dtype == dtype
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        assert ours(x).dtype == theirs(x).dtype == dtype


def check_layout(kind, args, options, shape) -> None:
    """Views with other strides give what a contiguous copy gives."""
    axes = list(reversed(range(len(shape))))
    strided = normal(*reversed(shape)).permute(axes)
    for x in (strided, normal(shape[0] * 2, *shape[1:])[::2]):
        ours, _ = pair(kind, args, options, shape)
        contiguous = copy.deepcopy(ours)
        assert not x.is_contiguous()
        close(ours(x), contiguous(x.contiguous()))


CHECKS = [
    check_values_and_gradients,
    check_gradcheck,
    check_state_travels,
    check_eval_changes_nothing,
    check_buffers_have_no_history,
    check_large_mean,
    check_half_precision,
    check_layout,
]


@case
@pytest.mark.parametrize("check", CHECKS)
def test_norm(check, kind, args, options, shape):
    check(kind, args, options, shape)


# What must hold for BatchNorm beyond that. Each check takes a factory.


def check_running_statistics(make: Factory) -> None:
    """Three batches, every shape, momentum as a number and None."""
    for shape in BATCH_SHAPES:
        for momentum in (0.1, 0.75, None):
            ours = make(5, momentum=momentum)
            theirs = TORCH_BATCHNORM[len(shape)](5, momentum=momentum)
            for seed in range(3):
                x = 2 * normal(*shape, seed=seed) - 1
                ours(x)
                theirs(x)
                same_state(ours, theirs)


def check_cumulative_average(make: Factory) -> None:
    """momentum=None: the plain mean of the batches' means and unbiased variances."""
    batches = normal(6, 8, 5) * 2 + 1
    layer = make(5, momentum=None)
    for x in batches:
        layer(x)
    close(layer.running_mean, batches.mean(1).mean(0))
    close(layer.running_var, batches.var(1, correction=1).mean(0))


def check_modes(make: Factory) -> None:
    """train() and eval() switch, and nothing else does: not grad mode, not a frozen neighbour."""
    x = normal(8, 5) + 1
    layer = make(5)
    with torch.no_grad():
        layer(x)
    assert layer.num_batches_tracked.item() == 1
    layer.eval()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            expected = (x - layer.running_mean) / torch.sqrt(layer.running_var + layer.eps)
            close(layer(x), expected)
    frozen = nn.Sequential(make(5), make(5)).train()
    frozen[1].eval()
    frozen(x)
    assert [part.num_batches_tracked.item() for part in frozen] == [1, 0]
    assert frozen[1].running_mean.equal(torch.zeros(5))


def check_one_value_per_channel(make: Factory) -> None:
    for shape in ((1, 5), (1, 5, 1), (1, 5, 1, 1)):
        x = normal(*shape)
        with pytest.raises(ValueError, match="more than 1 value per channel") as theirs:
            TORCH_BATCHNORM[len(shape)](5)(x)
        with pytest.raises(ValueError, match="more than 1 value per channel") as ours:
            make(5)(x)
        assert str(ours.value) == str(theirs.value)
        assert make(5).eval()(x).shape == shape


def check_empty_batch(make: Factory) -> None:
    ours, theirs = make(5), nn.BatchNorm1d(5)
    assert ours(torch.empty(0, 5)).shape == theirs(torch.empty(0, 5)).shape
    same_state(ours, theirs)


BATCHNORM_CHECKS = [
    check_running_statistics,
    check_cumulative_average,
    check_modes,
    check_one_value_per_channel,
    check_empty_batch,
]


@pytest.mark.parametrize("check", BATCHNORM_CHECKS)
def test_batchnorm(check):
    check(BatchNorm)


def test_groupnorm_needs_two_values():
    x = normal(1, 5, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel") as theirs:
        nn.GroupNorm(5, 5)(x)
    with pytest.raises(ValueError, match="more than 1 value per channel") as ours:
        GroupNorm(5, 5)(x)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("tracked", [True, False])
def test_instancenorm_needs_two_positions(tracked):
    x = normal(4, 5, 1)
    with pytest.raises(ValueError, match="more than 1 spatial element") as theirs:
        nn.InstanceNorm1d(5, track_running_stats=tracked)(x)
    with pytest.raises(ValueError, match="more than 1 spatial element") as ours:
        InstanceNorm(5, track_running_stats=tracked)(x)
    assert str(ours.value) == str(theirs.value)


# DyT and Derf: PyTorch has none to compare with.


@pytest.mark.parametrize(("kind", "squash"), [(DyT, torch.tanh), (Derf, torch.erf)])
@pytest.mark.parametrize(("sizes", "shape"), [(6, (2, 3, 6)), ((4, 6), (3, 4, 6))])
def test_elementwise(kind, squash, sizes, shape):
    x = normal(*shape, dtype=torch.float64)
    layer = kind(sizes).double()
    assert layer.alpha.item() == 0.5
    close(layer(x), squash(x / 2))  # as it starts
    randomize(layer)
    shift = layer.shift if kind is Derf else 0.0
    close(layer(x), layer.weight * squash(layer.alpha * x + shift) + layer.bias)
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))
    layer(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    names = ["alpha", "weight", "bias"] + ["shift"] * (kind is Derf)
    assert sorted(layer.state_dict()) == sorted(names)
    for dtype in (torch.float16, torch.bfloat16):
        half = normal(*shape).to(dtype)
        single = layer.float()
        assert single(half).equal(single(half.float()).to(dtype))
        assert copy.deepcopy(layer).to(dtype)(half).dtype == dtype


# Any shape. In float64, so that the comparison is strict where the statistics are ill-conditioned.

sizes = st.integers(1, 5)


@settings(deadline=None, max_examples=60)
@given(st.lists(sizes, min_size=2, max_size=5), st.integers(0, 99), st.booleans())
def test_any_shape_with_channels(shape, seed, training):
    channels, positions = shape[1], shape[2:]
    x = 3 * normal(*shape, seed=seed, dtype=torch.float64) + 1
    counts = [g for g in range(1, channels + 1) if channels % g == 0 and x.numel() > g]
    kinds = [(GroupNorm, (groups, channels)) for groups in counts]
    if x.numel() > channels:
        kinds.append((BatchNorm, (channels,)))
    if torch.Size(positions).numel() > 1 and positions:
        kinds.append((InstanceNorm, (channels,)))
    for kind, args in kinds:
        ours, theirs = pair(kind, args, {}, shape, torch.float64)
        ours.train(training)
        theirs.train(training)
        one_element_groups = kind is GroupNorm and x.numel() == shape[0] * args[0]
        warned = pytest.warns(UserWarning, match="one value per group")
        with warned if one_element_groups else contextlib.nullcontext():
            y = ours(x)
        torch.testing.assert_close(y, theirs(x), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(sizes, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_any_shape_with_features(shape, axes, seed):
    normalized = shape[-axes:]
    x = 3 * normal(*shape, seed=seed, dtype=torch.float64) + 1
    for kind in (LayerNorm, RMSNorm):
        ours, theirs = pair(kind, (normalized,), {}, shape, torch.float64)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.data())
def test_standardize(shape, data):
    over = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    over = sorted(over)
    x = 3 * normal(*shape, dtype=torch.float64) + 1
    y, mean, var = standardize(x, over, eps=0.0)
    expected = torch.var_mean(x, over, correction=0, keepdim=True)
    torch.testing.assert_close((var, mean), expected)
    torch.testing.assert_close(y.mean(over), torch.zeros_like(y.mean(over)), rtol=0, atol=1e-9)
    torch.testing.assert_close(y.square().mean(over), torch.ones_like(y.mean(over)))
    y, mean, var = standardize(x, over, eps=0.5, center=False)
    assert mean.item() == 0
    torch.testing.assert_close(var, x.square().mean(over, keepdim=True))
    torch.testing.assert_close(y, x / (var + 0.5).sqrt())


# Errors say what was expected, what came, and what to do.


@pytest.mark.parametrize(
    ("make", "x", "error", "words"),
    [
        (lambda: BatchNorm(5), normal(5), ValueError, r"\(N, C\).*got \(5,\)"),
        (lambda: BatchNorm(5), normal(2, 5, 1, 1, 1, 1), ValueError, r"got \(2, 5, 1, 1, 1, 1\)"),
        (lambda: BatchNorm(5), normal(2, 4), ValueError, "built for 5 channels and got 4.*axis 1"),
        (
            lambda: BatchNorm(5),
            normal(2, 5).double(),
            TypeError,
            r"float64 input.*x.to\(torch.float32",
        ),
        (lambda: BatchNorm(5).double(), normal(2, 5), TypeError, "float64 parameters"),
        (lambda: BatchNorm(5), torch.ones(2, 5).long(), TypeError, r"got torch.int64.*x.float\(\)"),
        (lambda: BatchNorm(5), [[1.0] * 5], TypeError, "expects a tensor, got list"),
        (lambda: InstanceNorm(5), normal(2, 5), ValueError, r"\(N, C, L\)"),
        (lambda: InstanceNorm(5), normal(2, 4, 3), ValueError, "built for 5 channels and got 4"),
        (lambda: GroupNorm(2, 6), normal(2, 5, 3), ValueError, "built for 6 channels and got 5"),
        (lambda: GroupNorm(2, 6), normal(6), ValueError, r"got \(6,\)"),
        (
            lambda: LayerNorm(6),
            normal(2, 5),
            ValueError,
            r"last 1 axes are \(6,\), got shape \(2, 5\)",
        ),
        (lambda: LayerNorm((2, 6)), normal(6), ValueError, r"last 2 axes are \(2, 6\)"),
        (lambda: RMSNorm(6), normal(2, 5), ValueError, "RMSNorm expects"),
        (lambda: RMSNorm(6), torch.ones(2, 6).int(), TypeError, "floating point"),
        (lambda: DyT(6), normal(2, 5), ValueError, r"DyT expects.*\(6,\), got shape \(2, 5\)"),
        (lambda: Derf(6), normal(2, 6).double(), TypeError, "Derf has torch.float32 parameters"),
        (lambda: GroupNorm(4, 6), None, ValueError, "6 channels and 4 groups"),
        (lambda: GroupNorm(0, 6), None, ValueError, "num_groups must be at least 1, got 0"),
        (lambda: BatchNorm(0), None, ValueError, "num_features must be at least 1"),
        (lambda: BatchNorm(2.5), None, TypeError, "num_features must be an int, got 2.5"),
        (lambda: LayerNorm(()), None, ValueError, "at least one axis"),
        (lambda: LayerNorm((3, -1)), None, ValueError, "at least 1, got -1"),
    ],
)
def test_errors(make, x, error, words):
    with pytest.raises(error, match=words):
        make()(x)


def test_checkpoints_are_pytorchs():
    """A whole model's file, both ways."""
    theirs = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.LayerNorm(6)
    )
    ours = nn.Sequential(nn.Conv2d(1, 6, 3), BatchNorm(6), GroupNorm(2, 6), LayerNorm(6))
    x = normal(2, 1, 8, 8)
    theirs(x)
    for source, target in ((theirs, ours), (ours, theirs)):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file), strict=True)
        close(target.eval()(x), source.eval()(x), ulps=32)


# Mutants: each plants one mistake that people make, and must be caught by a check that it names.


def with_standardize(kind: type, replacement: Callable) -> type:
    """The layer `kind`, computing with another `standardize`."""

    class Patched(kind):
        def forward(self, x: Tensor) -> Tensor:
            with mock.patch.object(layers, "standardize", replacement):
                return super().forward(x)

    return Patched


def unbiased_for_the_batch(x, over, eps, center=True):
    _, mean, var = standardize(x, over, eps, center)
    count = x.numel() // var.numel()
    return (x - mean) * torch.rsqrt(var * count / (count - 1) + eps), mean, var


def detached_statistics(x, over, eps, center=True):
    _, mean, var = standardize(x.detach(), over, eps, center)
    return (x - mean) * torch.rsqrt(var + eps), mean, var


def square_minus_square(x, over, eps, center=True):
    mean = x.mean(tuple(over), keepdim=True)
    var = x.square().mean(tuple(over), keepdim=True) - mean.square()
    return (x - mean) * torch.rsqrt(var + eps), mean, var


def eps_outside_the_root(x, over, eps, center=True):
    _, mean, var = standardize(x, over, eps, center)
    return (x - mean) / (var.sqrt() + eps), mean, var


def no_eps(x, over, eps, center=True):
    return standardize(x, over, 0.0, center)


def statistics_in_half_precision(x, over, eps, center=True):
    mean = x.mean(tuple(over), keepdim=True)
    var = (x - mean).square().mean(tuple(over), keepdim=True)
    return (x - mean) * torch.rsqrt(var + eps), mean, var


def one_axis_too_few(x, over, eps, center=True):
    y, mean, var = standardize(x, over, eps, center)
    over = list(over)
    return (standardize(x, over[:-1], eps, center)[0] if len(over) > 1 else y), mean, var


def one_axis_too_many(x, over, eps, center=True):
    _, mean, var = standardize(x, over, eps, center)
    return standardize(x, range(x.dim()), eps, center)[0], mean, var


class BiasedRemembered(BatchNorm):
    def _remember(self, mean, var, count, momentum):
        super()._remember(mean, var * (count - 1) / count, count, momentum)


class ReversedMomentum(BatchNorm):
    def _remember(self, mean, var, count, momentum):
        super()._remember(mean, var, count, 1 - momentum)


class AveragedStd(BatchNorm):
    def _remember(self, mean, var, count, momentum):
        std = self.running_var.sqrt()
        super()._remember(mean, var, count, momentum)
        unbiased = var.detach() * count / (count - 1)
        self.running_var.copy_(std.lerp(unbiased.sqrt(), momentum).square())


class LeakingBuffer(BatchNorm):
    def _remember(self, mean, var, count, momentum):
        unbiased = var * count / max(count - 1, 1)
        self.running_mean = (1 - momentum) * self.running_mean + momentum * mean
        self.running_var = (1 - momentum) * self.running_var + momentum * unbiased


class ModeByGrad(BatchNorm):
    def forward(self, x):
        mode, self.training = self.training, torch.is_grad_enabled()
        try:
            return super().forward(x)
        finally:
            self.training = mode


class UpdatesInEval(BatchNorm):
    def forward(self, x):
        y = super().forward(x)
        if not self.training:
            self.running_mean.lerp_(x.detach().transpose(0, 1).flatten(1).mean(1), 0.1)
        return y


class ForgetsToCount(BatchNorm):
    def forward(self, x):
        before = None if self.num_batches_tracked is None else self.num_batches_tracked.clone()
        y = super().forward(x)
        if before is not None and self.momentum is not None:
            self.num_batches_tracked.copy_(before)
        return y


class NoneMeansTenPercent(BatchNorm):
    def _remember(self, mean, var, count, momentum):
        super()._remember(mean, var, count, self.momentum or 0.1)


class AcceptsOneValue(BatchNorm):
    def forward(self, x):
        return torch.zeros_like(x) if x.numel() == self.num_features else super().forward(x)


class ReturnsFloat32(BatchNorm):
    def forward(self, x):
        y = super().forward(x)
        return y.float() if x.dtype in (torch.float16, torch.bfloat16) else y


BATCHNORM_MUTANTS = [
    (BiasedRemembered, check_running_statistics),
    (with_standardize(BatchNorm, unbiased_for_the_batch), check_values_and_gradients),
    (with_standardize(BatchNorm, detached_statistics), check_gradcheck),
    (with_standardize(BatchNorm, square_minus_square), check_large_mean),
    (with_standardize(BatchNorm, eps_outside_the_root), check_values_and_gradients),
    (with_standardize(BatchNorm, statistics_in_half_precision), check_half_precision),
    (with_standardize(BatchNorm, one_axis_too_few), check_values_and_gradients),
    (with_standardize(BatchNorm, one_axis_too_many), check_values_and_gradients),
    (LeakingBuffer, check_buffers_have_no_history),
    (ModeByGrad, check_modes),
    (AveragedStd, check_running_statistics),
    (ReversedMomentum, check_running_statistics),
    (UpdatesInEval, check_eval_changes_nothing),
    (ForgetsToCount, check_running_statistics),
    (NoneMeansTenPercent, check_cumulative_average),
    (AcceptsOneValue, check_one_value_per_channel),
    (ReturnsFloat32, check_half_precision),
]
OTHER_MUTANTS = [
    (with_standardize(kind, replacement), args, shape, check)
    for kind, args, shape in (
        (LayerNorm, ((4, 6),), (3, 4, 6)),
        (GroupNorm, (2, 6), (3, 6, 4)),
        (InstanceNorm, (5,), (3, 5, 4, 2)),
    )
    for replacement, check in (
        (unbiased_for_the_batch, check_values_and_gradients),
        (detached_statistics, check_gradcheck),
        (square_minus_square, check_large_mean),
        (eps_outside_the_root, check_values_and_gradients),
        (no_eps, check_values_and_gradients),
        (statistics_in_half_precision, check_half_precision),
        (one_axis_too_many, check_values_and_gradients),
    )
]


# A crash of the mutant is none of these. pytest.raises that saw no error raises the second.
CAUGHT = (AssertionError, pytest.fail.Exception, GradcheckError)


def name_of(value: object) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("mutant", "check"), BATCHNORM_MUTANTS, ids=name_of)
def test_batchnorm_mutant_is_caught(mutant, check):
    arguments = (mutant,) if check in BATCHNORM_CHECKS else (mutant, (5,), {}, (4, 5, 3, 2))
    with pytest.raises(CAUGHT):
        check(*arguments)


@pytest.mark.parametrize(("mutant", "args", "shape", "check"), OTHER_MUTANTS, ids=name_of)
def test_other_mutant_is_caught(mutant, args, shape, check):
    with pytest.raises(CAUGHT):
        check(mutant, args, {}, shape)
