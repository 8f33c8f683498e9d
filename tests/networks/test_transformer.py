"""The transformer against PyTorch's own, against its formulas, and against its recorded values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbutils.layers import BatchNorm
from nbutils.networks import NORMS, Scale
from nbutils.transformer import PLACEMENTS, Attention, OverTokens, Transformer, attend

VECTORS = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
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
    ours = Attention(32, heads).double()
    theirs = nn.MultiheadAttention(32, heads, batch_first=True).double()
    copy_attention(ours, theirs)
    cotangent = TOKENS.flip(0)
    first = [ours.output.weight, ours.output.bias]
    got = outputs_and_gradients(ours, TOKENS, first, cotangent)
    own = [theirs.out_proj.weight, theirs.out_proj.bias, theirs.in_proj_weight]
    expected = outputs_and_gradients(
        lambda x: theirs(x, x, x, need_weights=False)[0], TOKENS, own, cotangent
    )
    for a, b in zip(got, expected[:-1], strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape))
    projections = [ours.query.weight, ours.key.weight, ours.value.weight]
    got = outputs_and_gradients(ours, TOKENS, projections, cotangent)
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
    got = outputs_and_gradients(block, TOKENS, own, cotangent)
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
        expected = net.head(h.mean(1))
        torch.testing.assert_close(net(VECTORS), expected)


# Logits of the first example, for seed 7: what the chapters measured must not move by itself.
RECORDED = [
    ("none", None, False, "xavier", (1.03271342, -0.45534323, 1.01878177)),
    ("rezero", "rms", True, "he", (0.48816803, 0.77527435, -0.36800001)),
    ("post", "batch", False, "default", (0.18028987, -0.28324658, -0.01615556)),
    ("pre", "layer", False, "xavier", (0.89079005, -0.4742561, -0.0683006)),
    ("pre", "batch", True, "xavier", (0.32219078, -0.58262672, 0.19940953)),
    ("peri", "rms", True, "normal", (0.30468057, -0.17250475, 0.51958481)),
    ("deepnorm", "group", False, "xavier", (0.8092734, 1.03722088, -0.6892799)),
    ("scaled", "dyt", True, "he", (0.23553299, -0.05927064, 0.08060338)),
    ("pre", "derf", False, "he", (0.34510393, -0.15390621, 0.22482425)),
]


@pytest.mark.parametrize(("placement", "norm", "qk_norm", "init", "logits"), RECORDED)
def test_logits_stay(placement, norm, qk_norm, init, logits):
    options = {"placement": placement, "norm": norm, "qk_norm": qk_norm, "init": init}
    net = Transformer(2, 16, heads=2, outputs=3, seed=7, **options).double()
    assert net(VECTORS.double())[0].tolist() == pytest.approx(logits, abs=1e-6)


def test_names_stay():
    parts = [f"attention.{name}" for name in ("query", "key", "value", "output")]
    expected = ["attention.query_norm.weight", "attention.key_norm.weight", "ffn.up", "ffn.down"]
    blocks = []
    for name in parts + expected:
        sublayer, _, part = name.partition(".")
        path = f"blocks.0.{sublayer}.branch.layer.{part}"
        blocks += [path] if part.endswith("weight") else [f"{path}.weight", f"{path}.bias"]
    norms = [f"blocks.0.{name}.branch.norm" for name in ("attention", "ffn")] + ["norm"]
    ends = [
        f"{name}.{kind}" for name in ("embedding", "head", *norms) for kind in ("weight", "bias")
    ]
    names = set(Transformer(1, qk_norm=True).state_dict())
    assert names == {*blocks, *ends, "positions.weight"}


COUNTS = {"none": 0, "rezero": 0, "post": 4, "pre": 5, "peri": 9, "deepnorm": 4, "scaled": 5}
# Every placement with a norm of rows and one of tokens; every other norm before and behind.
SHAPES = [(placement, norm) for placement in PLACEMENTS for norm in ("layer", "batch")]
SHAPES += [("peri", norm) for norm in NORMS if norm not in ("layer", "batch", "instance")]


@pytest.mark.parametrize(("placement", "norm"), SHAPES)
def test_transformer_shapes(placement, norm):
    net = Transformer(2, 16, heads=2, placement=placement, norm=norm, outputs=3)
    assert net(VECTORS).shape == (6, 3)
    net(VECTORS).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    if norm is not None:
        kind = type(NORMS[norm](16, (16,)))
        found = [module for module in net.modules() if isinstance(module, kind)]
        assert len(found) == COUNTS[placement]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.LayerNorm, "layer"),
        (nn.BatchNorm1d, "batch"),
        (lambda channels: nn.GroupNorm(4, channels), "group"),
    ],
)
@pytest.mark.parametrize("placement", ["peri", "post"])
def test_a_function_makes_the_norm(function, name, placement):
    made = Transformer(2, placement=placement, norm=function)
    named = Transformer(2, placement=placement, norm=name)
    torch.testing.assert_close(made(VECTORS), named(VECTORS))
    torch.testing.assert_close(made.eval()(VECTORS), named.eval()(VECTORS))


def test_over_tokens_is_one_batch_of_vectors():
    norm, alone = OverTokens(BatchNorm(32)), nn.BatchNorm1d(32)
    x = TOKENS.float()
    torch.testing.assert_close(norm(x), alone(x.view(40, 32)).view(5, 8, 32))
    torch.testing.assert_close(norm.norm.running_var, alone.running_var)
    groups = OverTokens(nn.GroupNorm(4, 32))
    one = groups.norm(x[2, 3:4])
    torch.testing.assert_close(groups(x)[2, 3:4], one)  # a token does not see the others


def test_attend_takes_any_axes_in_front():
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 2, 3, 5, 4, 8, 7, generator=generator).double()
    logits = query @ key.mT / math.sqrt(7)
    torch.testing.assert_close(attend(query, key, value), logits.softmax(-1) @ value)
    one = attend(query[1, 2], key[1, 2], value[1, 2])
    torch.testing.assert_close(
        one, functional.scaled_dot_product_attention(query[1, 2], key[1, 2], value[1, 2])
    )
    torch.testing.assert_close(attend(query[1, 2, 0], key[1, 2, 0], value[1, 2, 0]), one[0])


def test_attend_gives_pytorch_four_axes(monkeypatch):
    """With five it computes the same and takes more than twice the time (measured on a CPU)."""
    seen = []

    def attention(*parts):
        seen.extend(part.dim() for part in parts)
        return parts[-1]

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    parts = torch.zeros(3, 2, 6, 4, 8, 7)
    assert attend(*parts).shape == (2, 6, 4, 8, 7)
    assert seen == [4, 4, 4]


def test_axes_count_from_the_end():
    net = Transformer(2, qk_norm=True)
    torch.testing.assert_close(net(VECTORS.view(2, 3, 64)), net(VECTORS).view(2, 3, 10))


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
    net = Transformer(1, 300)
    assert net.tokens(VECTORS).equal(VECTORS.view(6, 8, 8))
    moved = net.positions(torch.zeros(6, 8, 300))
    assert all(example.equal(net.positions.weight) for example in moved)
    # 2400 numbers: five standard errors of their deviation are 5 / sqrt(2 * 2400) = 0.07
    assert net.positions.weight.std().item() == pytest.approx(0.5, rel=0.07)
    assert net.mean(moved).allclose(net.positions.weight.mean(0))


def test_transformer_errors():
    with pytest.raises(ValueError, match="heads must divide width, got 3 heads and width 32"):
        Transformer(1, heads=3)
    with pytest.raises(ValueError, match="unknown placement 'dense'; known: 'none', 'post'"):
        Transformer(1, placement="dense")


def test_qk_norm_bounds_the_logits():
    attention = Attention(32, 4, qk_norm=True).double()
    seen = []
    for norm in (attention.query_norm, attention.key_norm):
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    attention(1e3 * TOKENS)
    query, key = seen  # (N, heads, T, C / heads), each of mean square 1
    assert query.shape == (5, 4, 8, 8)
    torch.testing.assert_close(query.square().mean(-1), torch.ones_like(query[..., 0]))
    assert (query @ key.mT).abs().max() / math.sqrt(8) <= math.sqrt(8) + 1e-6
