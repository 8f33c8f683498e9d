"""DyT and Derf: PyTorch has none to compare with."""

import copy

import pytest
import torch

from nbutils.layers import Derf, DyT
from tests.layers.cases import close, normal, randomize


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
