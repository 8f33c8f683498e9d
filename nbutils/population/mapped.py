"""Networks of any kind side by side: `torch.func.vmap`, or a plain loop where vmap cannot.

About two thirds of the speed of `stacked`. Inside, everything is as the network's own forward has
it; the model axis is PyTorch's business.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class _Stateful(nn.Module):
    """The values of M networks with an axis in front, and one network to call with them."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = len(nets)
        self.one = copy.deepcopy(nets[0])
        self.weights: dict[str, nn.Parameter] = {}
        self.states: dict[str, Tensor] = {}
        own = [dict(net.named_parameters()) for net in nets]
        for name, parameter in own[0].items():
            values = torch.stack([values[name].detach() for values in own])
            self.weights[name] = nn.Parameter(values, requires_grad=parameter.requires_grad)
        own = [dict(net.named_buffers()) for net in nets]
        for name in own[0]:
            self.states[name] = torch.stack([values[name] for values in own])

    def named_parameters(self, *args, **kwargs) -> list[tuple[str, nn.Parameter]]:
        return list(self.weights.items())

    def named_buffers(self, *args, **kwargs) -> list[tuple[str, Tensor]]:
        return list(self.states.items())


class Mapped(_Stateful):
    """M networks as one call of `torch.func.vmap`; random numbers differ between the networks."""

    def forward(self, x: Tensor) -> Tensor:
        def alone(weights: dict, states: dict, x: Tensor) -> tuple[Tensor, dict]:
            own = {**weights, **states}
            logits = functional_call(self.one, own, (x,))
            return logits, {name: own[name] for name in states}

        logits, states = _without_shortcuts(
            lambda: vmap(alone, randomness="different")(self.weights, self.states, x)
        )
        # Not copied in place: batch_norm may need the values of before for its gradient.
        self.states = {name: after.detach() for name, after in states.items()}
        return logits


class Looped(_Stateful):
    """M networks one after the other, for what vmap cannot do (`nn.GRU`, `.item()`, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        weights = {name: values.unbind() for name, values in self.weights.items()}
        logits, after = [], []
        for index, examples in enumerate(x):
            own = {name: values[index] for name, values in weights.items()}
            own |= {name: values[index].clone() for name, values in self.states.items()}
            logits.append(functional_call(self.one, own, (examples,)))
            after.append({name: own[name].detach() for name in self.states})
        self.states = {name: torch.stack([own[name] for own in after]) for name in self.states}
        return torch.stack(logits)


def _without_shortcuts(call: Callable[[], object]) -> object:
    """nn.TransformerEncoderLayer has a shortcut in evaluation that vmap cannot follow."""
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            # Where an operation has no rule, vmap loops over it by itself and says so each time.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            return call()
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)
