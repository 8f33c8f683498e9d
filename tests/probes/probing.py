"""Inputs for the probes, and one number out of their table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8)


def loss(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, Y)


def value(table, layer, metric, call=0, output="") -> float:
    chosen = (table.layer == layer) & (table.metric == metric)
    chosen &= (table.call == call) & (table.output == output)
    assert chosen.sum() == 1, (layer, metric, call, output)
    return table[chosen].value.item()


def approx(tensor: Tensor) -> object:
    return pytest.approx(tensor.item(), rel=1e-5)
