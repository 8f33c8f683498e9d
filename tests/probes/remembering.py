"""Models with running statistics, batches for them, and all that a helper could leave behind."""

import pytest
import torch
from torch import nn

from nbutils import layers


def vectors(norm):
    return nn.Sequential(nn.Linear(3, 5), norm, nn.Dropout(0.5), nn.Linear(5, 2))


def images(norm):
    return nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.Dropout(0.5), nn.Conv2d(5, 2, 1))


KINDS = {
    "BatchNorm1d": (vectors, lambda: nn.BatchNorm1d(5)),
    "BatchNorm2d": (images, lambda: nn.BatchNorm2d(5)),
    "no affine": (vectors, lambda: nn.BatchNorm1d(5, affine=False)),
    "momentum None": (vectors, lambda: nn.BatchNorm1d(5, momentum=None)),
    "SyncBatchNorm": (vectors, lambda: nn.SyncBatchNorm(5)),
    "InstanceNorm2d": (images, lambda: nn.InstanceNorm2d(5, track_running_stats=True)),
    "nbutils BatchNorm": (images, lambda: layers.BatchNorm(5)),
    "nbutils InstanceNorm": (images, lambda: layers.InstanceNorm(5, track_running_stats=True)),
}
BATCH = ("BatchNorm1d", "BatchNorm2d", "no affine", "momentum None", "SyncBatchNorm")
each_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind, passes=3):
    """A model in train(), with statistics that it has seen `passes` batches for."""
    torch.manual_seed(0)
    build, norm = KINDS[kind]
    model = build(norm())
    for x in batches_for(model, passes):
        model(x)
    return model


def batches_for(model, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (8, 3) if isinstance(model[0], nn.Linear) else (8, 3, 6, 6)
    return [2 + 3 * torch.randn(shape, generator=generator) for _ in range(count)]


def state(model):
    """All that a helper could leave behind: parameters, buffers, modes, momenta, hooks, flags."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    rest = [
        (module.training, getattr(module, "momentum", None), list(module._forward_hooks),
         list(module._forward_pre_hooks), sorted(vars(module)))
        for module in model.modules()
    ]  # fmt: skip
    return tensors, rest, [p.requires_grad for p in model.parameters()], torch.get_rng_state()


def same(a, b):
    tensors, other = a[0], b[0]
    assert tensors.keys() == other.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert a[1:3] == b[1:3]
    assert torch.equal(a[3], b[3])
