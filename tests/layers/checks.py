"""What must hold for a norm. Every check takes a factory of layers, so that mutants run through it.

`CHECKS` are for every norm, `FEATURE_CHECKS` for LayerNorm and RMSNorm, `BATCHNORM_CHECKS` for
BatchNorm.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from nbutils.layers import RMSNorm
from tests.layers.cases import (
    BATCH_SHAPES,
    TORCH_BATCHNORM,
    Factory,
    close,
    normal,
    pair,
    randomize,
    same_state,
)

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


# What must hold for LayerNorm and RMSNorm beyond that, also against PyTorch in half precision.


def check_half_precision_is_pytorchs(kind, args, options, shape) -> None:
    """Parameters in half precision: PyTorch's output, and the gradients of its float32 layer.

    (PyTorch sums some of its own half precision gradients in half precision.)
    """
    for dtype in (torch.float16, torch.bfloat16):
        ours, theirs = pair(kind, args, options, shape, dtype)
        x = (20 * normal(*shape) + 300).to(dtype).requires_grad_()
        y = ours(x)
        close(y, theirs(x), ulps=2)
        cotangent = normal(*shape, seed=2, dtype=dtype)
        gradients = torch.autograd.grad(y, [x, *ours.parameters()], cotangent)
        exact, theirs = x.detach().float().requires_grad_(), theirs.float()
        inputs = [exact, *theirs.parameters()]
        expected = torch.autograd.grad(theirs(exact), inputs, cotangent.float())
        for gradient, expected_gradient in zip(gradients, expected, strict=True):
            close(gradient, expected_gradient.to(dtype), ulps=4)


def check_small_values_in_every_dtype(kind, args, options, shape) -> None:
    """Inputs of size sqrt(eps), where a wrong eps is seen: eps=None is float32's for half."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        ours, theirs = pair(kind, args, options, shape, dtype)
        for size in (1e-3, 2e-4):
            x = size * normal(*shape, dtype=dtype)
            close(ours(x), theirs(x), ulps=4 if dtype.itemsize == 2 else 64)


def check_layout_is_pytorchs(kind, args, options, shape) -> None:
    """Other strides, and a batch that is broadcast: values and input gradients."""
    axes = list(reversed(range(len(shape))))
    strided = normal(*reversed(shape)).permute(axes)
    for x in (strided, normal(shape[0] * 2, *shape[1:])[::2], normal(1, *shape[1:]).expand(shape)):
        assert not x.is_contiguous()
        ours, theirs = pair(kind, args, options, shape)
        x, x_theirs = x.detach().requires_grad_(), x.detach().clone().requires_grad_()
        y, expected = ours(x), theirs(x_theirs)
        close(y, expected)
        cotangent = normal(*reversed(shape), seed=2).permute(axes)
        gradients = [
            torch.autograd.grad(out, into, cotangent)[0]
            for out, into in ((y, x), (expected, x_theirs))
        ]
        close(*gradients, ulps=32)


def check_gradient_at_large_mean(kind, args, options, shape) -> None:
    ours, theirs = pair(kind, args, options, shape)
    x = (1e4 + normal(*shape)).requires_grad_()
    exact = x.detach().double().requires_grad_()
    cotangent = normal(*shape, seed=2)
    (gradient,) = torch.autograd.grad(ours(x), x, cotangent)
    (expected,) = torch.autograd.grad(theirs.double()(exact), exact, cotangent.double())
    scale = expected.abs().max().item()
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-2 * scale)


def check_no_state(kind, args, options, shape) -> None:
    """No buffer, no mode, and no other example."""
    layer, _ = pair(kind, args, options, shape)
    assert not list(layer.buffers())
    x = normal(*shape)
    y = layer.train()(x)
    assert layer.eval()(x).equal(y)
    close(layer(x[:1]), y[:1], ulps=2)


FEATURE_CHECKS = [
    check_half_precision_is_pytorchs,
    check_small_values_in_every_dtype,
    check_layout_is_pytorchs,
    check_gradient_at_large_mean,
    check_no_state,
]


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
