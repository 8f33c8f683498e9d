"""The networks have the shapes, initial statistics and branches that the chapters rely on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nbutils.networks import (
    CNN,
    MLP,
    NORMS,
    RESIDUALS,
    Bias,
    Residual,
    Scale,
    initialize,
)
from nbutils.transformer import Transformer

VECTORS = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
IMAGES = VECTORS.view(6, 1, 8, 8)


def builds() -> list:
    """Every network that exists: kind, residual, norm."""
    found = []
    for kind in (MLP, CNN):
        for residual in RESIDUALS:
            for norm in NORMS:
                if (kind is MLP and norm == "instance") or (residual == "fixup" and norm):
                    continue
                found.append((kind, residual, norm))
    return found


def count(net: nn.Module, kinds: tuple | type) -> int:
    return sum(isinstance(module, kinds) for module in net.modules())


@pytest.mark.parametrize(("kind", "residual", "norm"), builds())
def test_shapes_and_counts(kind, residual, norm):
    x = VECTORS if kind is MLP else IMAGES
    for depth in (1, 2, 3, 4, 6, 7):
        if residual == "fixup" and depth % 2:
            continue
        net = kind(depth, width=8, residual=residual, norm=norm, outputs=3)
        y = net(x)
        assert y.shape == (6, 3)
        assert y.isfinite().all()
        edges = 1 if residual is None else 2  # the head; the stem and the head
        assert count(net, (nn.Linear, nn.Conv2d)) == depth + edges
        assert count(net, nn.ReLU) == depth + (residual is not None and norm is not None)
        branches = 0 if residual is None else depth // (2 if residual == "fixup" else 1)
        assert count(net, Residual) == branches
        loss = y.square().sum()
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("kind", [MLP, CNN, Transformer])
def test_seed_decides_and_the_readers_generator_stays(kind):
    state = torch.get_rng_state()
    one, same, other = kind(2, seed=3), kind(2, seed=3), kind(2, seed=4)
    assert torch.get_rng_state().equal(state)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert a.equal(b)
    assert not one.head.weight.equal(other.head.weight)
    torch.manual_seed(99)
    assert kind(2, seed=3).head.weight.equal(one.head.weight)


def test_generator_stays_when_building_fails():
    state = torch.get_rng_state()
    for kind in (MLP, Transformer):
        with pytest.raises(ValueError, match="divi"):
            kind(2, width=6, norm="group")
    assert torch.get_rng_state().equal(state)


def test_default_is_pytorchs_own():
    torch.manual_seed(5)
    expected = nn.Linear(64, 32)
    net = MLP(1, seed=5)
    assert net.layers[0].linear.weight.equal(expected.weight)
    assert net.layers[0].linear.bias.equal(expected.bias)


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("default", 1 / (3 * 400)),
        ("he", 2 / 400),
        ("xavier", 2 / (400 + 300)),
        ("normal", 1 / 400),
        ("orthogonal", 1 / 400),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(400, 300), nn.Conv2d(16, 12, 5)])
def test_variance_of_the_weights(layer, init, variance):
    for gain in (1.0, 1.5):
        torch.manual_seed(0)
        layer.reset_parameters()
        initialize(layer, init, gain=gain)
        # 4,800 weights at least: five standard errors are 5 sqrt(2 / 4800) = 0.10
        assert layer.weight.var().item() == pytest.approx(gain**2 * variance, rel=0.1)
        assert abs(layer.weight.mean().item()) < 5 * math.sqrt(variance / 4800) * gain
        assert layer.bias.any() == (init == "default")


def test_orthogonal_rows():
    layer = nn.Linear(30, 20)
    initialize(layer, "orthogonal", gain=2.0)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 4 * torch.eye(20))


@pytest.mark.parametrize("init", ["default", "he"])
def test_bias_std(init):
    layer = nn.Linear(4, 4000)
    initialize(layer, init, bias_std=0.5)
    assert layer.bias.std().item() == pytest.approx(0.5, rel=0.06)


def test_stem_and_head_take_the_rule_without_gain_and_without_hes_two():
    net = MLP(
        1, 300, inputs=400, outputs=300, init="he", gain=3.0, bias_std=1.0, residual="identity"
    )
    assert net.stem.weight.var().item() == pytest.approx(1 / 400, rel=0.05)
    assert net.blocks[0].branch.linear.weight.var().item() == pytest.approx(18 / 300, rel=0.05)
    assert net.head.weight.var().item() == pytest.approx(1 / 300, rel=0.05)
    assert not net.stem.bias.any()
    assert not net.head.bias.any()
    assert net.blocks[0].branch.linear.bias.std().item() == pytest.approx(1.0, rel=0.2)


def test_residual_forwards_by_hand():
    h = MLP(2, residual="identity").stem(VECTORS)
    for residual, scale in (("identity", 1.0), ("scaled", 2**-0.5)):
        net = MLP(2, residual=residual)
        expected = net.stem(VECTORS)
        for block in net.blocks:
            expected = expected + scale * block.branch.linear(expected.relu())
        torch.testing.assert_close(net(VECTORS), net.head(expected))
    for residual in ("rezero", "skipinit"):
        net = MLP(2, residual=residual)
        assert net(VECTORS).equal(net.head(h))  # every branch starts switched off
        torch.nn.init.constant_(net.blocks[1].branch.scale.weight, 0.5)
        expected = h + 0.5 * net.blocks[1].branch.linear(h.relu())
        torch.testing.assert_close(net(VECTORS), net.head(expected))


def test_final_norm_of_a_residual_stack():
    net = MLP(2, residual="identity", norm="layer")
    h = net.blocks(net.stem(VECTORS))
    assert net(VECTORS).equal(net.head(net.norm(h).relu()))


def test_fixup_starts_as_its_paper_says():
    net = MLP(8, 300, residual="fixup", init="he")
    first = net.blocks[0].branch.linear1.weight
    assert first.var().item() == pytest.approx(2 / 300 / 4, rel=0.05)  # times 4 branches ** -0.5
    for block in net.blocks:
        branch = block.branch
        assert not branch.linear2.weight.any()
        assert branch.scale.weight.item() == 1.0
        assert count(branch, Bias) == 4
        assert count(branch, Scale) == 1
        assert branch.linear1.bias is None
    assert not net(VECTORS).any()  # a head of zeros


def test_no_bias_where_the_norm_subtracts_it():
    kept = ("layer", "group", "rms", None, nn.BatchNorm2d)  # a function's norm is not known
    norms = {"batch": False, "instance": False, **dict.fromkeys(kept, True)}
    for residual in (None, "identity"):
        for norm, bias in norms.items():
            net = CNN(2, residual=residual, norm=norm)
            convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
            assert all((conv.bias is not None) == bias for conv in convolutions)
            assert net.head.bias is not None


@pytest.mark.parametrize(
    ("kind", "function", "name"),
    [
        (MLP, nn.LayerNorm, "layer"),
        (MLP, lambda channels: nn.GroupNorm(4, channels), "group"),
        (CNN, lambda channels: nn.GroupNorm(4, channels), "group"),
    ],
)
@pytest.mark.parametrize("residual", [None, "identity", "rezero"])
def test_a_function_makes_the_norm(kind, function, name, residual):
    made = kind(3, 8, residual=residual, norm=function)
    named = kind(3, 8, residual=residual, norm=name)
    x = VECTORS if kind is MLP else IMAGES
    torch.testing.assert_close(made(x), named(x))


@pytest.mark.parametrize(("residual", "norms"), [(None, 3), ("identity", 4)])
def test_every_norm_is_made_for_the_channels(residual, norms):
    made = []

    def norm(channels: int) -> nn.Module:
        made.append((channels, nn.BatchNorm1d(channels)))
        return made[-1][1]

    net = MLP(3, 8, residual=residual, norm=norm)
    assert [channels for channels, _ in made] == [8] * norms
    assert {id(module) for _, module in made} <= {id(module) for module in net.modules()}


def test_names_for_probes():
    names = dict(MLP(2, norm="batch").named_modules())
    assert {"layers.1.linear", "layers.1.norm", "layers.1.activation", "head"} <= set(names)
    names = dict(CNN(4, residual="rezero", norm="group").named_modules())
    assert {"stem", "blocks.3.branch.conv", "blocks.0.branch.scale", "blocks.pool"} <= set(names)
    assert {"norm", "activation", "flatten", "head"} <= set(names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"activation": "swish"}, "unknown activation 'swish'; known: 'relu', 'tanh'"),
        ({"norm": "Batch"}, "unknown norm 'Batch'; known: None, 'batch'"),
        ({"init": "kaiming"}, "unknown init 'kaiming'; known: 'default'"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("kind", [MLP, CNN, Transformer])
def test_errors_of_all(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**{"depth": 2, **options})


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (nn.Identity(), r"function of the number of channels, got a module, Identity\(\)"),
        (lambda channels: None, r"norm\(8\) must return an nn.Module.*got NoneType"),
        (lambda channels: nn.LayerNorm, r"norm\(8\) must return an nn.Module.*got type"),
    ],
)
@pytest.mark.parametrize("kind", [MLP, CNN, Transformer])
def test_a_norm_is_a_function_that_returns_a_module(kind, norm, words):
    with pytest.raises(TypeError, match=words):
        kind(2, 8, norm=norm)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"residual": "dense"}, "unknown residual 'dense'; known: None, 'identity'"),
        ({"residual": "fixup", "depth": 3}, "even depth.*got depth=3"),
        ({"residual": "fixup", "depth": 2, "norm": "batch"}, "norm=None, got.*norm='batch'"),
        ({"residual": "fixup", "depth": 2, "norm": nn.BatchNorm1d}, "norm=None, got.*BatchNorm1d"),
    ],
)
@pytest.mark.parametrize("kind", [MLP, CNN])
def test_errors(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**{"depth": 2, **options})


def test_instance_norm_of_vectors():
    for kind in (MLP, Transformer):
        with pytest.raises(ValueError, match="a vector has none: use a CNN"):
            kind(2, norm="instance")
    with pytest.raises(ValueError, match="unknown init 'lsuv'"):
        initialize(nn.Linear(2, 2), "lsuv")
