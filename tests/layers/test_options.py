"""Arguments, resets, checkpoints and names beyond the numbers: as PyTorch's, where it has them."""

import copy

import pytest
import torch
from torch import nn

from nbutils.layers import BatchNorm, Derf, DyT, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from tests.layers.cases import normal, randomize, same_state

KINDS = (BatchNorm, InstanceNorm, GroupNorm, LayerNorm, RMSNorm, DyT, Derf)
each_kind = pytest.mark.parametrize("kind", KINDS)
# Ours and PyTorch's, from the same arguments.
PAIRS = [
    (BatchNorm, nn.BatchNorm2d, (6,), {}),
    (InstanceNorm, nn.InstanceNorm2d, (6,), {"affine": True, "track_running_stats": True}),
    (GroupNorm, nn.GroupNorm, (2, 6), {}),
    (LayerNorm, nn.LayerNorm, (6,), {}),
    (RMSNorm, nn.RMSNorm, (6,), {}),
]
each_pair = pytest.mark.parametrize(("ours", "theirs", "args", "options"), PAIRS)


@each_pair
def test_device_and_dtype(ours, theirs, args, options):
    for where in ({"dtype": torch.float64}, {"device": "meta"}):
        a, b = ours(*args, **options, **where), theirs(*args, **options, **where)
        assert list(a.state_dict()) == list(b.state_dict())
        for name, expected in b.state_dict().items():
            value = a.state_dict()[name]
            assert (value.dtype, value.device) == (expected.dtype, expected.device), name


@pytest.mark.parametrize("kind", [DyT, Derf])
def test_device_and_dtype_of_what_pytorch_does_not_have(kind):
    assert {p.dtype for p in kind(6, dtype=torch.float64).parameters()} == {torch.float64}
    assert {p.device.type for p in kind(6, device="meta").parameters()} == {"meta"}


@each_pair
def test_repr(ours, theirs, args, options):
    for bias in (True, False):
        more = options if ours is RMSNorm else options | {"bias": bias}
        a, b = repr(ours(*args, **more)), repr(theirs(*args, **more))
        assert a.partition("(")[2] == b.partition("(")[2]


@each_kind
def test_reset_parameters(kind):
    layer = kind.for_channels(6)
    fresh = copy.deepcopy(layer)
    randomize(layer)
    layer.reset_parameters()
    same_state(layer, fresh)


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_reset_running_stats_keeps_the_parameters(kind):
    layer, theirs = kind(6, affine=True, track_running_stats=True), nn.BatchNorm2d(6)
    layer.num_batches_tracked.fill_(3)
    randomize(layer)
    randomize(theirs)
    layer.reset_running_stats()
    theirs.reset_running_stats()
    same_state(layer, theirs)
    kind(6, track_running_stats=False).reset_running_stats()  # nothing to reset


@each_kind
def test_a_number_of_channels_is_enough(kind):
    for channels in (6, 8):
        x = normal(4, channels, 3, 2)
        over_features = kind not in (BatchNorm, InstanceNorm, GroupNorm)
        y = kind.for_channels(channels)(x.movedim(1, -1) if over_features else x)
        assert y.isfinite().all()
    assert [GroupNorm.for_channels(channels).num_groups for channels in (8, 6, 5)] == [4, 2, 1]


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (BatchNorm(6), "NP"),
        (InstanceNorm(6), "P"),
        (GroupNorm(2, 6), "GP"),
        (LayerNorm(6), "C"),
        (LayerNorm((6, 2)), "CP"),
        (RMSNorm(6), "C"),
        (DyT(6), ""),
    ],
)
def test_a_norm_names_its_axes(layer, axes):
    """tests/test_axes_cube.py holds these letters to what the layers do."""
    assert layer.averages == axes


def test_the_axes_are_what_is_averaged():
    """Another choice of axes is another norm: nothing else in the layer knows them."""

    class AsInstanceNorm(BatchNorm):
        averages = "P"

    x = normal(4, 6, 3, 2)
    torch.testing.assert_close(AsInstanceNorm(6, track_running_stats=False)(x), InstanceNorm(6)(x))


# Checkpoints from before version 2 have no num_batches_tracked.


def old_checkpoint(layer: nn.Module, version: int | None) -> dict:
    state = layer.state_dict()
    del state["num_batches_tracked"]
    state._metadata[""]["version"] = version
    return state


@pytest.mark.parametrize("version", [None, 1])
@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_an_old_checkpoint_loads(kind, version):
    theirs = nn.BatchNorm2d(6)
    randomize(theirs)
    ours = kind(6, affine=True, track_running_stats=True)
    ours.load_state_dict(old_checkpoint(theirs, version), strict=True)
    same_state(ours, theirs)


def test_a_new_checkpoint_without_the_count_does_not():
    with pytest.raises(RuntimeError, match="num_batches_tracked"):
        BatchNorm(6).load_state_dict(old_checkpoint(nn.BatchNorm2d(6), 2), strict=True)


def test_new_checkpoints_say_their_version():
    assert BatchNorm(6).state_dict()._metadata[""]["version"] == 2


@pytest.mark.parametrize("shape", [(0, 6), (0, 6, 3, 2), (2, 6, 0)])
def test_groupnorm_of_an_empty_batch(shape):
    x = torch.empty(shape)
    assert GroupNorm(6, 6)(x).shape == nn.GroupNorm(6, 6)(x).shape == shape


def test_tracking_instancenorm_in_an_empty_batch():
    ours = InstanceNorm(6, track_running_stats=True)
    assert ours(torch.empty(0, 6, 3)).shape == (0, 6, 3)
    assert ours.running_mean.equal(torch.zeros(6))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_derivatives_of_a_tracking_instancenorm():
    x, tangent = normal(4, 6, 3, 2), normal(4, 6, 3, 2, seed=1)
    pair = [kind(6, track_running_stats=True) for kind in (InstanceNorm, nn.InstanceNorm2d)]
    torch.testing.assert_close(*[torch.func.jvp(layer, (x,), (tangent,)) for layer in pair])
    same_state(*pair)


@pytest.mark.parametrize("kind", [BatchNorm, InstanceNorm])
def test_a_momentum_is_a_number(kind):
    with pytest.raises(TypeError, match=r"must be a number, such as 0.1, or None, got 'x'"):
        kind(6, momentum="x")


@pytest.mark.parametrize("eps", [0.0, -1.0])
@pytest.mark.parametrize("training", [True, False])
def test_eps_of_batchnorm(eps, training):
    x = normal(4, 6)
    ours, theirs = BatchNorm(6, eps=eps).train(training), nn.BatchNorm1d(6, eps=eps).train(training)
    if eps == 0.0 and not training:
        torch.testing.assert_close(ours(x), theirs(x))
        return
    with pytest.raises(ValueError, match="eps must be") as expected:
        theirs(x)
    with pytest.raises(ValueError, match="eps must be") as raised:
        ours(x)
    assert str(raised.value) == str(expected.value)
