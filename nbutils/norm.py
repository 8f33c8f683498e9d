"""What every norm does: one function, `standardize`, and the base classes of the layers.

`standardize` is the whole idea: subtract the mean and divide by the standard deviation over some
axes. `Norm` checks the input, standardizes it over its `averages`, scales and shifts; `RunningNorm`
remembers statistics besides. Which axes, and for whom, stands in `layers`.
"""

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor, nn


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


class Norm(nn.Module):
    """Check the input, standardize it over the axes in `averages`, scale and shift.

    Raises TypeError for input that is no floating point tensor, or whose dtype the parameters do
    not match.
    """

    averages = ""  # letters: N examples, C channels, P positions, G the channels of one group
    center = True
    eps: float | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    @classmethod
    def for_channels(cls, channels: int) -> "Norm":
        """The layer for (N, channels, ...), over features for (..., channels); all else default."""
        return cls(channels)

    def forward(self, x: Tensor) -> Tensor:
        self._check_dtype(x)
        self._check_shape(x)
        y = self._standardized(x)
        if self.weight is not None:
            y = y * self._spread(self.weight, x)
        if self.bias is not None:
            y = y + self._spread(self.bias, x)
        return y.to(x.dtype)

    def _standardized(self, x: Tensor, layout: str = "NC") -> Tensor:
        return standardize(x, self._axes(x, layout), self._eps(x.dtype), center=self.center)[0]

    def _axes(self, x: Tensor, layout: str) -> list[int]:
        """The axes that `averages` names, in x of axes `layout` and then positions."""
        letters = layout + "P" * (x.dim() - len(layout))
        return [axis for axis, letter in enumerate(letters) if letter in self.averages]

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        """One value per channel, in a shape that broadcasts over x."""
        return values.view(1, -1, *[1] * (x.dim() - 2))

    def _eps(self, dtype: torch.dtype) -> float:
        if self.eps is None:
            raise TypeError(
                f"{type(self).__name__} needs a number as eps, such as 1e-5, got None: "
                "only RMSNorm takes None, for the machine epsilon."
            )
        return self.eps

    def _make_affine(self, shape: Sequence[int], weight: bool, bias: bool, **where) -> None:
        scale = nn.Parameter(torch.ones(shape, **where)) if weight else None
        shift = nn.Parameter(torch.zeros(shape, **where)) if bias else None
        self.register_parameter("weight", scale)
        self.register_parameter("bias", shift)

    def reset_parameters(self) -> None:
        """Scale 1 and shift 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _check_shape(self, x: Tensor) -> None:
        raise NotImplementedError

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
        name = type(self).__name__
        if x.dim() not in dims:
            raise ValueError(f"{name} expects input of shape {layouts}, got {tuple(x.shape)}.")
        if x.shape[1] != channels:
            raise ValueError(
                f"{name} was built for {channels} channels and got {x.shape[1]} in input of shape "
                f"{tuple(x.shape)}: channels are axis 1 of {layouts}."
            )


def positive(name: str, value: int) -> int:
    """The value as an int; TypeError unless it is a whole number, ValueError unless above 0."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


class RunningNorm(Norm):
    """A norm that can remember statistics: running mean and variance of each channel.

    train() normalizes by the input and moves the running statistics, eval() normalizes by them.
    `torch.optim.swa_utils.update_bn` and `nn.SyncBatchNorm.convert_sync_batchnorm` know only
    PyTorch's classes and pass this one by without a word: `diagnosis.recalibrate` measures the
    running statistics again, of this one too.
    Raises TypeError for a momentum that is neither a number nor None.
    """

    _version = 2  # as PyTorch's: num_batches_tracked came with version 2

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not (momentum is None or isinstance(momentum, numbers.Real)):
            raise TypeError(f"momentum must be a number, such as 0.1, or None, got {momentum!r}.")
        self.num_features = positive("num_features", num_features)
        self.eps, self.momentum = eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        where = {"device": device, "dtype": dtype}
        self._make_affine((num_features,), affine, affine and bias, **where)
        buffers = {
            "running_mean": torch.zeros(num_features, **where),
            "running_var": torch.ones(num_features, **where),
            "num_batches_tracked": torch.tensor(0, device=device),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer if track_running_stats else None)

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Scale 1 and shift 0, and `reset_running_stats`."""
        self.reset_running_stats()
        super().reset_parameters()

    def _standardized(self, x: Tensor, layout: str = "NC") -> Tensor:
        by_input = self.training or not self.track_running_stats
        self._check_statistics(x, by_input)
        if not by_input:
            mean, var = self._spread(self.running_mean, x), self._spread(self.running_var, x)
            return (x - mean) * torch.rsqrt(var + self.eps)
        over = self._axes(x, layout)
        y, mean, var = standardize(x, over, self._eps(x.dtype))
        if self.training and self.track_running_stats:
            self._update(mean, var, count=math.prod(x.shape[axis] for axis in over))
        return y

    def _check_statistics(self, x: Tensor, by_input: bool) -> None:
        raise NotImplementedError

    def _update(self, mean: Tensor, var: Tensor, count: int) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def remember(self, mean: Tensor, var: Tensor, count: int, momentum: float) -> None:
        """Move the running statistics towards (mean, var) of a batch with `count` values each.

        Shapes (C,). The biased variance normalizes; the unbiased one, n / (n - 1) of it, is
        remembered, because it estimates the variance of the data.
        """
        if count == 0:  # an empty batch says nothing
            return
        unbiased = var * (count / (count - 1))
        for running, seen in ((self.running_mean, mean), (self.running_var, unbiased)):
            # Detached, it leaves no forward derivative in the buffer. torch.func refuses changes of
            # what it has not seen, so PyTorch's own InstanceNorm writes through an alias, too.
            torch.ops.aten.alias(running).lerp_(seen.detach().to(running.dtype), momentum)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args) -> None:
        if self.track_running_stats and (local_metadata.get("version") or 1) < 2:
            count = self.num_batches_tracked
            count = torch.tensor(0) if count.is_meta else count
            state_dict.setdefault(f"{prefix}num_batches_tracked", count)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )
