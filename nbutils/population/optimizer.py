"""One optimizer for all networks at once, with a learning rate for each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Optimizer:
    """SGD, momentum and Adam, for all networks at once."""

    def __init__(
        self,
        model: nn.Module,
        networks: int,
        kind: str,
        rates: Sequence[float],
        weight_decay: float,
        clip: float | None,
    ) -> None:
        if kind not in ("sgd", "momentum", "adam"):
            raise ValueError(f"unknown optimizer {kind!r}; known: 'sgd', 'momentum', 'adam'.")
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("the networks have no parameter that requires a gradient.")
        self.names, self.parameters = zip(*named, strict=True)
        self.kind, self.weight_decay, self.clip = kind, weight_decay, clip
        # One vector of all values, and the parameters as views into it: an update is one operation.
        self.values = torch.cat([p.detach().flatten() for p in self.parameters])
        self.gradient = torch.empty_like(self.values)
        self.gradients = self._views(self.gradient)
        for parameter, values in zip(self.parameters, self._views(self.values), strict=True):
            parameter.data = values
        self.networks = networks
        self.rates = self._for_all(self.values.new_tensor(rates))
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.updates = 0

    def _views(self, vector: Tensor) -> list[Tensor]:
        """The part of `vector` that belongs to each parameter, in its shape (M, ...)."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def _for_all(self, numbers: Tensor) -> Tensor:
        """One number per network, (M,), beside each value of that network."""
        each = [p.numel() // self.networks for p in self.parameters]
        return torch.cat([numbers.repeat_interleave(count) for count in each])

    def _norms(self) -> Tensor:
        """The length of each network's gradient, (M,)."""
        squares = [part.flatten(1).square().sum(dim=1) for part in self.gradients]
        return torch.stack(squares).sum(dim=0).sqrt()

    def step(self, loss: Tensor, factor: float) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for name, gradient in zip(self.names, gradients, strict=True):
            if gradient is None:
                raise ValueError(
                    f"the loss does not depend on the parameter {name!r}: "
                    "remove it or set requires_grad=False."
                )
        with torch.no_grad():
            torch._foreach_copy_(self.gradients, gradients)
            gradient = self.gradient
            if self.clip is not None:
                gradient *= self._for_all((self.clip / (self._norms() + 1e-6)).clamp(max=1.0))
            if self.weight_decay:
                gradient.add_(self.values, alpha=self.weight_decay)
            self.values.addcmul_(self._direction(gradient), self.rates, value=-factor)

    def _direction(self, gradient: Tensor) -> Tensor:
        self.updates += 1
        if self.kind == "sgd":
            return gradient
        if self.kind == "momentum":
            return self.first.mul_(0.9).add_(gradient)
        # Adam: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1, with PyTorch's defaults.
        self.first.lerp_(gradient, 1 - 0.9)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        # The gradient is used up: its memory holds the direction.
        torch.sqrt(self.second, out=gradient)
        gradient.div_(math.sqrt(1 - 0.999**self.updates)).add_(1e-8)
        return torch.div(self.first, gradient, out=gradient).div_(1 - 0.9**self.updates)
