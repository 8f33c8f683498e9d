"""The normalization layers, from scratch: each norm as axes + affine + state.

A norm is a choice of axes, its `averages`: N for examples, C for channels, P for positions, G for
the channels of one group. `norm.Norm` does the rest, with `norm.standardize`. The layers differ,
besides, in the shape of the learned scale and shift, and in whether they remember statistics; DyT
and Derf take the place of a norm and average over none.

Arguments, parameter and buffer names, and therefore checkpoints, are those of PyTorch 2.13; the
tests hold every norm to `torch.nn`, on PyTorch's own samples. Two things are left out: the layers
are not for `torch.jit.script`, and a channels-last input may come back with other strides.
Half precision input is standardized in float32 and comes back in its own dtype.
"""

import math
import numbers
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nbutils.norm import Norm, RunningNorm, positive, standardize

__all__ = [
    "BatchNorm",
    "Derf",
    "DyT",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Norm",
    "RMSNorm",
    "RunningNorm",
    "standardize",
]


class BatchNorm(RunningNorm):
    """Batch normalization: each channel over the batch and all positions.

    Input (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W); output of the same shape and dtype.
    momentum is the weight of the new batch; None averages all batches equally.
    Raises ValueError for another shape, for one value per channel in training (its variance is 0),
    and for an eps that is not positive; TypeError for a dtype that the parameters do not match.
    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithms 1 and 2.
    """

    averages = "NP"

    def _check_shape(self, x: Tensor) -> None:
        layouts = "(N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W)"
        self._check_channels(x, self.num_features, (2, 3, 4, 5), layouts)

    def _check_statistics(self, x: Tensor, by_input: bool) -> None:
        if by_input and x.numel() == self.num_features:
            message = "Expected more than 1 value per channel when training, got input size"
            raise ValueError(f"{message} {x.shape}")
        eps = self._eps(x.dtype)
        if by_input and eps <= 0:
            raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
        if eps < 0:
            raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")

    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / self.num_batches_tracked.item()
        self.remember(mean.flatten(), var.flatten(), count, momentum)


class InstanceNorm(RunningNorm):
    """Instance normalization: each channel of each example over its positions.

    Input (N, C, L), (N, C, H, W) or (N, C, D, H, W); output of the same shape and dtype. No scale,
    shift or running statistics by default. With track_running_stats=True, eval() normalizes by the
    average of the examples' statistics; as in PyTorch, num_batches_tracked then stays 0, and
    momentum=None means 0.
    Raises ValueError for another shape (an unbatched one too) and for a single position.
    Source: Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022.
    """

    averages = "P"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        memory = (momentum, affine, track_running_stats)
        super().__init__(num_features, eps, *memory, device, dtype, bias=bias)

    def _check_shape(self, x: Tensor) -> None:
        layouts = "(N, C, L), (N, C, H, W) or (N, C, D, H, W)"
        self._check_channels(x, self.num_features, (3, 4, 5), layouts)

    def _check_statistics(self, x: Tensor, by_input: bool) -> None:
        if by_input and math.prod(x.shape[2:]) == 1:
            message = "Expected more than 1 spatial element when training, got input size"
            raise ValueError(f"{message} {x.shape}")

    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        if mean.numel():  # the mean over no examples is not a number
            over_examples = [axis for axis in range(mean.dim()) if axis != 1]
            mean, var = mean.mean(over_examples), var.mean(over_examples)
            self.remember(mean, var, count, self.momentum or 0.0)


class GroupNorm(Norm):
    """Group normalization: each group of channels of each example, over its positions.

    Input (N, C, ...) with C = num_channels; output of the same shape and dtype. One group averages
    like LayerNorm over (C, ...), one channel per group like InstanceNorm. No state.
    Warns where a group holds one value: it is its own mean, and the output the shift alone.
    Raises ValueError where num_groups does not divide num_channels, for another shape, and for one
    value per group in a batch of one.
    Source: Wu & He 2018, https://arxiv.org/abs/1803.08494.
    """

    averages = "GP"

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = positive("num_groups", num_groups)
        self.num_channels = positive("num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups}): "
                "all groups have the same size."
            )
        self.eps, self.affine = eps, affine
        self._make_affine((num_channels,), affine, affine and bias, device=device, dtype=dtype)

    @classmethod
    def for_channels(cls, channels: int) -> "GroupNorm":
        """Four groups, or as many of them as divide the channels."""
        return cls(math.gcd(4, channels), channels)

    def _check_shape(self, x: Tensor) -> None:
        self._check_channels(x, self.num_channels, range(2, 64), "(N, C, ...)")
        if x.numel() == self.num_groups:
            size = [1, self.num_groups, *x.shape[2:]]
            message = "Expected more than 1 value per channel when training, got input size"
            raise ValueError(f"{message} {size}")
        if x.numel() == self.num_groups * x.shape[0] > 0:
            warnings.warn(
                f"GroupNorm({self.num_groups}, {self.num_channels}) has one value per group in "
                f"input of shape {tuple(x.shape)}: it equals its own mean, so the output is the "
                "shift, whatever the input. Use fewer groups.",
                stacklevel=3,
            )

    def _standardized(self, x: Tensor, layout: str = "NCG") -> Tensor:
        # The axis of channels becomes two: which group, and G within it.
        grouped = x.unflatten(1, (self.num_groups, -1))
        return super()._standardized(grouped, layout).flatten(1, 2)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class OverFeatures(Norm):
    """What looks at the last axes of its input, `normalized_shape`, and learns as many values."""

    def __init__(self, normalized_shape: int | Sequence[int]) -> None:
        super().__init__()
        one = isinstance(normalized_shape, numbers.Integral)
        shape = (normalized_shape,) if one else tuple(normalized_shape)
        if not shape:
            raise ValueError("normalized_shape must name at least one axis, got ().")
        self.normalized_shape = tuple(positive("normalized_shape", size) for size in shape)

    def _check_shape(self, x: Tensor) -> None:
        axes = len(self.normalized_shape)
        if tuple(x.shape[-axes:]) != self.normalized_shape:
            raise ValueError(
                f"{type(self).__name__} expects input whose last {axes} axes are "
                f"{self.normalized_shape}, got shape {tuple(x.shape)}."
            )

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        return values


class LayerNorm(OverFeatures):
    """Layer normalization: each example (or token) over its last axes, `normalized_shape`.

    Input (..., *normalized_shape); output of the same shape and dtype. The scale and the shift have
    one value per element of normalized_shape. No state.
    Raises ValueError where the input does not end in normalized_shape, TypeError for eps=None, as
    PyTorch does.
    Source: Ba, Kiros & Hinton 2016, https://arxiv.org/abs/1607.06450.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        learned = (elementwise_affine, elementwise_affine and bias)
        self._make_affine(self.normalized_shape, *learned, device=device, dtype=dtype)

    @property
    def averages(self) -> str:
        """The channels, of one token; and the positions where normalized_shape has them too."""
        return "C" if len(self.normalized_shape) == 1 else "CP"

    def _axes(self, x: Tensor, layout: str) -> list[int]:
        return list(range(-len(self.normalized_shape), 0))

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class RMSNorm(LayerNorm):
    """Root mean square normalization: LayerNorm without the mean and without the shift.

    Input (..., *normalized_shape); output of the same shape and dtype. eps=None means the machine
    epsilon of the dtype it computes in, as in PyTorch: float32's also for half precision.
    Raises ValueError where the input does not end in normalized_shape.
    Source: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467, equation 4.
    """

    center = False

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, False, device, dtype)

    def _eps(self, dtype: torch.dtype) -> float:
        if self.eps is None:
            return torch.finfo(torch.promote_types(dtype, torch.float32)).eps
        return self.eps

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class DyT(OverFeatures):
    """Dynamic tanh, in the place of a norm: weight * tanh(alpha * x) + bias, without statistics.

    Input (..., *normalized_shape); output of the same shape and dtype. alpha is one learned number;
    scale and shift have one value per element of normalized_shape. No state.
    Raises ValueError where the input does not end in normalized_shape.
    Source: Zhu et al. 2025, https://arxiv.org/abs/2503.10622.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        alpha: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(normalized_shape)
        where = {"device": device, "dtype": dtype}
        self._first_alpha = float(alpha)
        self.alpha = nn.Parameter(torch.tensor(self._first_alpha, **where))
        self._make_affine(self.normalized_shape, True, True, **where)

    def reset_parameters(self) -> None:
        """Scale 1, shift 0, and alpha as at first."""
        super().reset_parameters()
        nn.init.constant_(self.alpha, self._first_alpha)

    def _squash(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x)

    def _standardized(self, x: Tensor, layout: str = "") -> Tensor:
        return self._squash(x.to(torch.promote_types(x.dtype, torch.float32)))

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}"


class Derf(DyT):
    """Dynamic erf, in the place of a norm: weight * erf(alpha * x + shift) + bias.

    As `DyT`, with the error function and one more learned number, a shift that starts at 0.
    Source: Chen et al. 2025, https://arxiv.org/abs/2512.10938, equation 10.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        alpha: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(normalized_shape, alpha, device, dtype)
        self.shift = nn.Parameter(torch.tensor(0.0, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Scale 1, both shifts 0, and alpha as at first."""
        super().reset_parameters()
        nn.init.zeros_(self.shift)

    def _squash(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift)
