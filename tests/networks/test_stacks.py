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
    PLACEMENTS,
    RESIDUALS,
    Attention,
    Bias,
    Residual,
    Scale,
    Transformer,
    initialize,
)

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
    for residual in (None, "identity"):
        for norm, bias in (("batch", False), ("instance", False), ("layer", True), (None, True)):
            net = CNN(2, residual=residual, norm=norm)
            convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
            assert all((conv.bias is not None) == bias for conv in convolutions)
            assert net.head.bias is not None


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
    ("options", "words"),
    [
        ({"residual": "dense"}, "unknown residual 'dense'; known: None, 'identity'"),
        ({"residual": "fixup", "depth": 3}, "even depth.*got depth=3"),
        ({"residual": "fixup", "depth": 2, "norm": "batch"}, "norm=None, got.*norm='batch'"),
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


# The transformer.

TOKENS = torch.randn(5, 8, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def copy_attention(attention: Attention, theirs: nn.MultiheadAttention) -> None:
    """Give PyTorch's attention the same values."""
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(attention.output.state_dict())


def outputs_and_gradients(module, x, parameters, cotangent) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = module(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], cotangent.reshape(y.shape))]


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_pytorchs(heads):
    ours = Attention(32, heads, tokens=8).double()
    theirs = nn.MultiheadAttention(32, heads, batch_first=True).double()
    copy_attention(ours, theirs)
    cotangent = TOKENS.flip(0)
    first = [ours.output.weight, ours.output.bias]
    got = outputs_and_gradients(ours, TOKENS.flatten(0, 1), first, cotangent)
    own = [theirs.out_proj.weight, theirs.out_proj.bias, theirs.in_proj_weight]
    expected = outputs_and_gradients(
        lambda x: theirs(x, x, x, need_weights=False)[0], TOKENS, own, cotangent
    )
    for a, b in zip(got, expected[:-1], strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape))
    projections = [ours.query.weight, ours.key.weight, ours.value.weight]
    got = outputs_and_gradients(ours, TOKENS.flatten(0, 1), projections, cotangent)
    torch.testing.assert_close(torch.cat(got[2:]), expected[-1])


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_block_is_pytorchs(placement, activation):
    block = Transformer(1, placement=placement, activation=activation).double().blocks[0]
    theirs = nn.TransformerEncoderLayer(
        *(32, 4, 128, 0.0, activation), batch_first=True, norm_first=placement == "pre"
    ).double()
    if placement == "pre":
        (norm1, attention), (norm2, ffn) = (part.branch for part in block)
    else:
        (attention, norm1), (ffn, norm2) = ((s.residual.branch.layer, s.norm) for s in block)
    for norm in (norm1, norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    copy_attention(attention, theirs.self_attn)
    pairs = [(norm1, theirs.norm1), (norm2, theirs.norm2)]
    pairs += [(ffn.up, theirs.linear1), (ffn.down, theirs.linear2)]
    for ours, other in pairs:
        other.load_state_dict(ours.state_dict())
    cotangent = TOKENS.flip(0)
    own = [ours.weight for ours, _ in pairs]
    got = outputs_and_gradients(block, TOKENS.flatten(0, 1), own, cotangent)
    own = [other.weight for _, other in pairs]
    expected = outputs_and_gradients(theirs, TOKENS, own, cotangent)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape))


def test_placements_by_hand():
    """Two blocks of every placement, from their formulas."""
    norm = nn.LayerNorm(32)
    formulas = {
        "none": lambda h, f, block: h + f(h),
        "rezero": lambda h, f, block: h + 0.25 * f(h),
        "post": lambda h, f, block: norm(h + f(h)),
        "pre": lambda h, f, block: h + f(norm(h)),
        "peri": lambda h, f, block: h + norm(f(norm(h))),
        "deepnorm": lambda h, f, block: norm(4**0.25 * h + f(h)),
        "scaled": lambda h, f, block: h + f(norm(h) / math.sqrt(block)),
    }
    assert set(formulas) == set(PLACEMENTS)
    for placement, formula in formulas.items():
        net = Transformer(2, placement=placement)
        for module in net.modules():
            if isinstance(module, Scale) and placement == "rezero":
                assert module.weight.item() == 0.0
                nn.init.constant_(module.weight, 0.25)
        h = net.positions(net.embedding(net.tokens(VECTORS)))
        for number, block in enumerate(net.blocks, start=1):
            for sublayer in block:
                branch = getattr(sublayer, "residual", sublayer).branch
                h = formula(h, branch.layer, number)
        h = norm(h) if placement in ("pre", "peri", "scaled") else h
        expected = net.head(h.view(6, 8, 32).mean(1))
        torch.testing.assert_close(net(VECTORS), expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("norm", [n for n in NORMS if n != "instance"])
def test_transformer_shapes(placement, norm):
    net = Transformer(2, 16, heads=2, placement=placement, norm=norm, outputs=3, qk_norm=True)
    assert net(VECTORS).shape == (6, 3)
    assert count(net, Attention) == 2
    net(VECTORS).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    kinds = type(Transformer(1, norm=norm).blocks[0].attention.branch[0])
    norms = {"none": 0, "rezero": 0, "post": 4, "pre": 5, "peri": 9, "deepnorm": 4, "scaled": 5}
    expected = 0 if norm is None else norms[placement]
    if norm is not None:
        others = 4 if norm in ("layer", "rms") else 0  # the RMSNorms of queries and keys
        assert count(net, kinds) == expected + others


def test_deepnorm_starts_small():
    options = {"depth": 2, "width": 128, "init": "normal", "placement": "deepnorm"}
    for layer in Transformer(**options).blocks[1]:
        parts = layer.residual.branch.layer
        for name, part in parts.named_children():
            if isinstance(part, nn.Linear):
                gain = 1.0 if name in ("query", "key") else 16**-0.25
                fan_in = part.weight.shape[1]
                assert part.weight.std().item() == pytest.approx(gain / fan_in**0.5, rel=0.05)
                assert not part.bias.any()


def test_tokens_are_rows():
    net = Transformer(1)
    assert net.tokens(VECTORS).equal(VECTORS.view(48, 8))
    moved = net.positions(torch.zeros(48, 32)).view(6, 8, 32)
    assert all(example.equal(net.positions.weight) for example in moved)


def test_transformer_errors():
    with pytest.raises(ValueError, match="heads must divide width, got 3 heads and width 32"):
        Transformer(1, heads=3)
    with pytest.raises(ValueError, match="unknown placement 'dense'; known: 'none', 'post'"):
        Transformer(1, placement="dense")


def test_qk_norm_bounds_the_logits():
    attention = Attention(32, 4, tokens=8, qk_norm=True).double()
    seen = []
    for norm in (attention.query_norm, attention.key_norm):
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    attention(1e3 * TOKENS.flatten(0, 1))
    query, key = seen  # (N * T * heads, C / heads), each of mean square 1
    assert query.shape == (5 * 8 * 4, 8)
    torch.testing.assert_close(query.square().mean(-1), torch.ones_like(query[:, 0]))
    assert (query @ key.T).abs().max() / math.sqrt(8) <= math.sqrt(8) + 1e-6
