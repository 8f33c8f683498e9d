"""The normalization layers, from scratch: one function, and each norm as axes + affine + state.

`standardize` is the whole idea: subtract the mean and divide by the standard deviation over some
axes. The layers differ in which axes they average over, in the shape of the learned scale and
shift, and in whether they remember statistics; DyT and Derf take the place of a norm and average
over none. Arguments, parameter and buffer names, and therefore checkpoints, are PyTorch's; the
tests hold every norm to `torch.nn`. At the end stand the norms of weights, as parametrizations:
`WeightNorm`, `WeightStandardization`, `SpectralNorm`.

Half precision input is standardized in float32 and comes back in its own dtype.
"""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def standardize(
    x: Tensor, over: Sequence[int], eps: float, center: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize `x` over the axes `over`: (x - mean) / sqrt(var + eps).

    Returns (y, mean, var): y has the shape of x; mean and var keep the averaged axes with size 1,
    so that they broadcast. The variance is the biased one, the mean of the squared deviations.
    With center=False the mean is taken to be 0 (RMSNorm), and var is the mean square.
    All three are float32 if x is half precision, else of the dtype of x.
    """
    over = tuple(over)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = x.mean(over, keepdim=True) if center else x.new_zeros(())
    deviation = x - mean if center else x
    # From the deviations: E[x^2] - E[x]^2 would cancel catastrophically where mean >> std.
    var = deviation.square().mean(over, keepdim=True)
    return deviation * torch.rsqrt(var + eps), mean, var


class _Norm(nn.Module):
    """What the norms share: learned scale and shift, and a refusal of input they cannot take."""

    eps: float | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def _register_affine(self, shape: Sequence[int], weight: bool, bias: bool) -> None:
        self.register_parameter("weight", nn.Parameter(torch.ones(shape)) if weight else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape)) if bias else None)

    def _affine(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """Scale and shift: weight and bias, viewed as `shape`, broadcast over y."""
        if self.weight is not None:
            y = y * self.weight.view(shape)
        if self.bias is not None:
            y = y + self.bias.view(shape)
        return y

    def _check_dtype(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} expects a tensor, got {type(x).__name__}.")
        if not x.is_floating_point():
            raise TypeError(f"{name} expects floating point input, got {x.dtype}: use x.float().")
        # Half precision input may meet float32 parameters (mixed precision); nothing else may mix.
        half = x.dtype in (torch.float16, torch.bfloat16)
        state = self.weight if self.weight is not None else getattr(self, "running_mean", None)
        if (
            state is not None
            and x.dtype != state.dtype
            and not (half and state.dtype == torch.float32)
        ):
            raise TypeError(
                f"{name} has {state.dtype} parameters and got {x.dtype} input: "
                f"use layer.to({x.dtype}) or x.to({state.dtype})."
            )

    def _check_channels(self, x: Tensor, channels: int, dims: Sequence[int], layouts: str) -> None:
        self._check_dtype(x)
        name = type(self).__name__
        if x.dim() not in dims:
            raise ValueError(f"{name} expects input of shape {layouts}, got {tuple(x.shape)}.")
        if x.shape[1] != channels:
            raise ValueError(
                f"{name} was built for {channels} channels and got {x.shape[1]} in input of shape "
                f"{tuple(x.shape)}: channels are axis 1 of {layouts}."
            )

    def _check_last_axes(self, x: Tensor, shape: tuple[int, ...]) -> None:
        self._check_dtype(x)
        axes = len(shape)
        if tuple(x.shape[-axes:]) != shape:
            raise ValueError(
                f"{type(self).__name__} expects input whose last {axes} axes are {shape}, "
                f"got shape {tuple(x.shape)}."
            )


def _positive(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return value


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape:
        raise ValueError("normalized_shape must name at least one axis, got ().")
    return tuple(_positive("normalized_shape", size) for size in shape)


class _RunningNorm(_Norm):
    """A norm that can remember statistics: running mean and variance of each channel."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = _positive("num_features", num_features)
        self.eps, self.momentum = eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._register_affine((num_features,), weight=affine, bias=affine)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(num_features) if tracked else None)
        self.register_buffer("running_var", torch.ones(num_features) if tracked else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if tracked else None)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, count: int, momentum: float) -> None:
        """Move the running statistics towards (mean, var) of a batch with `count` values each.

        Shapes (C,). The biased variance normalizes; the unbiased one, n / (n - 1) of it, is
        remembered, because it estimates the variance of the data.
        """
        if count == 0:  # an empty batch says nothing
            return
        unbiased = var * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)

    def _apply_running(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        mean, var = self.running_mean.view(shape), self.running_var.view(shape)
        return (x - mean) * torch.rsqrt(var + self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm(_RunningNorm):
    """Batch normalization: each channel over the batch and all positions.

    Input (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W); output of the same shape and dtype.
    train() normalizes by the batch and updates the running statistics; eval() normalizes by the
    running statistics. momentum is the weight of the new batch; None averages all batches equally.
    Raises ValueError for another shape, and for one value per channel in training (its variance is
    0); TypeError for a dtype that the parameters do not match.
    Source: Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167, algorithms 1 and 2.
    """

    def forward(self, x: Tensor) -> Tensor:
        layouts = "(N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W)"
        self._check_channels(x, self.num_features, (2, 3, 4, 5), layouts)
        over = [axis for axis in range(x.dim()) if axis != 1]
        per_channel = [1, -1] + [1] * (x.dim() - 2)

        if self.training or not self.track_running_stats:
            count = x.numel() // self.num_features
            if count == 1:
                message = "Expected more than 1 value per channel when training, got input size"
                raise ValueError(f"{message} {x.shape}")
            y, mean, var = standardize(x, over, self.eps)
            if self.training and self.track_running_stats:
                self.num_batches_tracked.add_(1)
                momentum = self.momentum
                if momentum is None:
                    momentum = 1 / self.num_batches_tracked.item()
                self._remember(mean.flatten(), var.flatten(), count, momentum)
        else:
            y = self._apply_running(x, per_channel)
        return self._affine(y, per_channel).to(x.dtype)


class InstanceNorm(_RunningNorm):
    """Instance normalization: each channel of each example over its positions.

    Input (N, C, L), (N, C, H, W) or (N, C, D, H, W); output of the same shape and dtype. No scale,
    shift or running statistics by default. With track_running_stats=True, eval() normalizes by the
    average of the examples' statistics; as in PyTorch, num_batches_tracked then stays 0, and
    momentum=None means 0.
    Raises ValueError for another shape (an unbatched one too) and for a single position.
    Source: Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        layouts = "(N, C, L), (N, C, H, W) or (N, C, D, H, W)"
        self._check_channels(x, self.num_features, (3, 4, 5), layouts)
        positions = list(range(2, x.dim()))
        per_channel = [1, -1] + [1] * len(positions)

        if self.training or not self.track_running_stats:
            count = math.prod(x.shape[2:])
            if count == 1:
                message = "Expected more than 1 spatial element when training, got input size"
                raise ValueError(f"{message} {x.shape}")
            y, mean, var = standardize(x, positions, self.eps)
            if self.training and self.track_running_stats:
                over_examples = [axis for axis in range(x.dim()) if axis != 1]
                mean, var = mean.mean(over_examples), var.mean(over_examples)
                self._remember(mean, var, count, self.momentum or 0.0)
        else:
            y = self._apply_running(x, per_channel)
        return self._affine(y, per_channel).to(x.dtype)


class GroupNorm(_Norm):
    """Group normalization: each group of channels of each example, over its positions.

    Input (N, C, ...) with C = num_channels; output of the same shape and dtype. One group averages
    like LayerNorm over (C, ...), one channel per group like InstanceNorm. No state.
    Warns where a group holds one value: it is its own mean, and the output the shift alone.
    Raises ValueError where num_groups does not divide num_channels, for another shape, and for one
    value per group in a batch of one.
    Source: Wu & He 2018, https://arxiv.org/abs/1803.08494.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True
    ) -> None:
        super().__init__()
        self.num_groups = _positive("num_groups", num_groups)
        self.num_channels = _positive("num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"num_channels must be divisible by num_groups, got {num_channels} channels and "
                f"{num_groups} groups."
            )
        self.eps, self.affine = eps, affine
        self._register_affine((num_channels,), weight=affine, bias=affine)

    def forward(self, x: Tensor) -> Tensor:
        self._check_channels(x, self.num_channels, range(2, 64), "(N, C, ...)")
        per_channel = [1, -1] + [1] * (x.dim() - 2)
        grouped = x.reshape(x.shape[0], self.num_groups, -1)  # (N, G, C / G * positions)
        if x.numel() == self.num_groups:
            size = [1, self.num_groups, *x.shape[2:]]
            message = "Expected more than 1 value per channel when training, got input size"
            raise ValueError(f"{message} {size}")
        if grouped.shape[2] == 1:
            warnings.warn(
                f"GroupNorm({self.num_groups}, {self.num_channels}) has one value per group in "
                f"input of shape {tuple(x.shape)}: it equals its own mean, so the output is the "
                "shift, whatever the input. Use fewer groups.",
                stacklevel=2,
            )
        y, _, _ = standardize(grouped, [2], self.eps)
        return self._affine(y.view(x.shape), per_channel).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class LayerNorm(_Norm):
    """Layer normalization: each example (or token) over its last axes, `normalized_shape`.

    Input (..., *normalized_shape); output of the same shape and dtype. The scale and the shift have
    one value per element of normalized_shape. No state.
    Raises ValueError where the input does not end in normalized_shape.
    Source: Ba, Kiros & Hinton 2016, https://arxiv.org/abs/1607.06450.
    """

    center = True

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._register_affine(
            self.normalized_shape, weight=elementwise_affine, bias=elementwise_affine and bias
        )

    def forward(self, x: Tensor) -> Tensor:
        self._check_last_axes(x, self.normalized_shape)
        eps = self.eps
        if eps is None:
            eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
        axes = range(-len(self.normalized_shape), 0)
        y, _, _ = standardize(x, axes, eps, center=self.center)
        return self._affine(y, self.normalized_shape).to(x.dtype)

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
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, bias=False)


class DyT(_Norm):
    """Dynamic tanh, in the place of a norm: weight * tanh(alpha * x) + bias, without statistics.

    Input (..., *normalized_shape); output of the same shape and dtype. alpha is one learned number;
    scale and shift have one value per element of normalized_shape. No state.
    Raises ValueError where the input does not end in normalized_shape.
    Source: Zhu et al. 2025, https://arxiv.org/abs/2503.10622.
    """

    def __init__(self, normalized_shape: int | Sequence[int], alpha: float = 0.5) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self._register_affine(self.normalized_shape, weight=True, bias=True)

    def _squash(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x)

    def forward(self, x: Tensor) -> Tensor:
        self._check_last_axes(x, self.normalized_shape)
        y = self._squash(x.to(torch.promote_types(x.dtype, torch.float32)))
        return self._affine(y, self.normalized_shape).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}"


class Derf(DyT):
    """Dynamic erf, in the place of a norm: weight * erf(alpha * x + shift) + bias.

    As `DyT`, with the error function and one more learned number, a shift that starts at 0.
    Source: Chen et al. 2025, https://arxiv.org/abs/2512.10938, equation 10.
    """

    def __init__(self, normalized_shape: int | Sequence[int], alpha: float = 0.5) -> None:
        super().__init__(normalized_shape, alpha)
        self.shift = nn.Parameter(torch.tensor(0.0))

    def _squash(self, x: Tensor) -> Tensor:
        return torch.erf(self.alpha * x + self.shift)


class WeightNorm(nn.Module):
    """Weight normalization, a parametrization: w = g v / ||v||, with the length g and v learned.

    register_parametrization(layer, "weight", WeightNorm()) from `torch.nn.utils.parametrize` puts
    it on a layer, whose function stays the same at first. One length per index of axis `dim`, an
    output unit or channel for dim=0; one for all with dim=None. g has the shape of the weight with
    size 1 on all other axes (for dim=None: no axes); it is stored as `original0`, v as `original1`.
    Raises ValueError for an axis that the weight does not have.
    Source: Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868, equation 2.
    """

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self._norm(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The g and v of a given weight."""
        return self._norm(weight), weight

    def _norm(self, v: Tensor) -> Tensor:
        if self.dim is None:
            return torch.linalg.vector_norm(v)
        kept = _axis(self.dim, v, "WeightNorm")
        others = [axis for axis in range(v.dim()) if axis != kept]
        return torch.linalg.vector_norm(v, dim=others, keepdim=True)


class WeightStandardization(nn.Module):
    """Weight standardization, a parametrization: mean 0 and variance 1 for each output's weights.

    register_parametrization(layer, "weight", WeightStandardization()). The weight is (out, in,
    ...); mean and biased variance run over the inputs and positions of each output, and eps adds to
    that variance. With scaled=True the result is divided by the root of their number, so that a sum
    of as many independent inputs keeps their mean square (Brock et al. 2021,
    https://arxiv.org/abs/2101.08692).
    Raises ValueError for fewer than two weights per output, whose variance is 0.
    Source: Qiao et al. 2019, https://arxiv.org/abs/1903.10520.
    """

    def __init__(self, eps: float = 1e-5, scaled: bool = False) -> None:
        super().__init__()
        self.eps, self.scaled = eps, scaled

    def forward(self, weight: Tensor) -> Tensor:
        inputs = weight[0].numel() if weight.dim() > 1 else 1
        if inputs < 2:
            raise ValueError(
                "WeightStandardization needs at least 2 weights per output unit, got weight of "
                f"shape {tuple(weight.shape)}: standardized, a single weight is 0."
            )
        y, _, _ = standardize(weight, range(1, weight.dim()), self.eps)
        return (y / math.sqrt(inputs) if self.scaled else y).to(weight.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A given weight is taken as it is, and standardized when it is used."""
        return weight

    def extra_repr(self) -> str:
        return f"eps={self.eps}, scaled={self.scaled}"


class SpectralNorm(nn.Module):
    """Spectral normalization, a parametrization: w / σ, with σ the largest singular value of w.

    register_parametrization(layer, "weight", SpectralNorm(layer.weight)). The weight is read as a
    matrix with axis `dim` as its rows. σ is estimated by power iteration on two vectors, buffers
    `_u` and `_v`: 15 iterations at first, then n_power_iterations in each forward pass in train(),
    none in eval(). Their gradient is not taken.
    Raises ValueError for a weight of fewer than two axes, an axis that it does not have, or fewer
    than one iteration.
    Source: Miyato et al. 2018, https://arxiv.org/abs/1802.05957, algorithm 1.
    """

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        if weight.dim() < 2:
            raise ValueError(
                f"SpectralNorm needs a weight of at least 2 axes, got shape {tuple(weight.shape)}."
            )
        self.n_power_iterations = _positive("n_power_iterations", n_power_iterations)
        self.dim, self.eps = _axis(dim, weight, "SpectralNorm"), eps
        matrix = self._matrix(weight.detach())
        for name, size in (("_u", matrix.shape[0]), ("_v", matrix.shape[1])):
            start = torch.randn(size, dtype=matrix.dtype, device=matrix.device)
            self.register_buffer(name, functional.normalize(start, dim=0, eps=eps))
        self._iterate(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, times: int) -> None:
        for _ in range(times):
            self._u.copy_(functional.normalize(matrix @ self._v, dim=0, eps=self.eps))
            self._v.copy_(functional.normalize(matrix.T @ self._u, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix, self.n_power_iterations)
        # Copies: the next forward pass moves the buffers, and this one may still run backward.
        sigma = self._u.clone() @ (matrix @ self._v.clone())
        return weight / sigma

    def right_inverse(self, weight: Tensor) -> Tensor:
        """A given weight is taken as it is, and normalized when it is used."""
        return weight

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.n_power_iterations}, dim={self.dim}, eps={self.eps}"


def _axis(dim: int, weight: Tensor, name: str) -> int:
    if not -weight.dim() <= dim < weight.dim():
        raise ValueError(
            f"{name} got dim={dim} for a weight of shape {tuple(weight.shape)}: expected "
            f"{-weight.dim()} to {weight.dim() - 1}."
        )
    return dim % weight.dim()
