"""Layers with one planted mistake each, that people make."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from nbutils import norm
from nbutils.layers import BatchNorm, LayerNorm, RMSNorm, standardize


def with_standardize(kind: type, replacement: Callable) -> type:
    """The layer `kind`, computing with another `standardize`."""

    class Patched(kind):
        def forward(self, x: Tensor) -> Tensor:
            with mock.patch.object(norm, "standardize", replacement):
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
    def remember(self, mean, var, count, momentum):
        super().remember(mean, var * (count - 1) / count, count, momentum)


class ReversedMomentum(BatchNorm):
    def remember(self, mean, var, count, momentum):
        super().remember(mean, var, count, 1 - momentum)


class AveragedStd(BatchNorm):
    def remember(self, mean, var, count, momentum):
        std = self.running_var.sqrt()
        super().remember(mean, var, count, momentum)
        unbiased = var.detach() * count / (count - 1)
        self.running_var.copy_(std.lerp(unbiased.sqrt(), momentum).square())


class LeakingBuffer(BatchNorm):
    def remember(self, mean, var, count, momentum):
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
    def remember(self, mean, var, count, momentum):
        super().remember(mean, var, count, self.momentum or 0.1)


class AcceptsOneValue(BatchNorm):
    def forward(self, x):
        return torch.zeros_like(x) if x.numel() == self.num_features else super().forward(x)


class ReturnsFloat32(BatchNorm):
    def forward(self, x):
        y = super().forward(x)
        return y.float() if x.dtype in (torch.float16, torch.bfloat16) else y


# RMSNorm has no mean: the replacements above would centre it, and be caught for that alone.


def rms_detached(x, over, eps, center=True):
    _, mean, var = standardize(x.detach(), over, eps, center)
    return x * torch.rsqrt(var + eps), mean, var


def rms_eps_outside_the_root(x, over, eps, center=True):
    _, mean, var = standardize(x, over, eps, center)
    return x / (var.sqrt() + eps), mean, var


def rms_in_half_precision(x, over, eps, center=True):
    var = x.square().mean(tuple(over), keepdim=True)
    return x * torch.rsqrt(var + eps), x.new_zeros(()), var


def sum_of_squares(x, over, eps, center=True):
    var = x.square().sum(tuple(over), keepdim=True)
    return x * torch.rsqrt(var + eps), x.new_zeros(()), var


class CentredRMSNorm(RMSNorm):
    center = True


class EpsOfTheInput(RMSNorm):
    """eps=None as PyTorch's documentation once had it: the machine epsilon of the input's dtype."""

    def forward(self, x):
        eps, self.eps = self.eps, torch.finfo(x.dtype).eps if self.eps is None else self.eps
        try:
            return super().forward(x)
        finally:
            self.eps = eps


class EpsLikeLayerNorm(RMSNorm):
    def forward(self, x):
        eps, self.eps = self.eps, 1e-5 if self.eps is None else self.eps
        try:
            return super().forward(x)
        finally:
            self.eps = eps


class ForgetsTheBias(LayerNorm):
    def forward(self, x):
        y = super().forward(x)
        return y if self.bias is None else y - self.bias


class RemembersTheMean(LayerNorm):
    """Subtracts in eval mode what it saw in train mode."""

    def forward(self, x):
        y = super().forward(x)
        if self.training:
            self.seen = y.detach().mean()
            return y
        return y - getattr(self, "seen", 0.0) + 0.1


class NeedsContiguous(LayerNorm):
    """Reads the memory in the order in which it lies there."""

    def forward(self, x):
        if x.is_contiguous() or 0 in x.stride():
            return super().forward(x)
        return super().forward(x.as_strided(x.shape, torch.empty(x.shape).stride()))
