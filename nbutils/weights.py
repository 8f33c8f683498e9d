"""The norms of weights, as parametrizations: of a layer's weight, not of what flows through it.

`register_parametrization(layer, "weight", WeightNorm())` from `torch.nn.utils.parametrize` puts one
on a layer. `WeightNorm` and `SpectralNorm` are PyTorch's; `WeightStandardization` it does not have.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nbutils.norm import positive, standardize


class WeightNorm(nn.Module):
    """Weight normalization, a parametrization: w = g v / ||v||, with the length g and v learned.

    register_parametrization(layer, "weight", WeightNorm()) from `torch.nn.utils.parametrize` puts
    it on a layer, whose function stays the same at first. One length per index of axis `dim`, an
    output unit or channel for dim=0; one for all with dim=None or, as in PyTorch, dim=-1. g has the
    shape of the weight with size 1 on all other axes (one length for all: no axes); it is stored as
    `original0`, v as `original1`.
    Raises ValueError for an axis that the weight does not have.
    Source: Salimans & Kingma 2016, https://arxiv.org/abs/1602.07868, equation 2.
    """

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = None if dim == -1 else dim

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
        self.n_power_iterations = positive("n_power_iterations", n_power_iterations)
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
