"""`preserve_statistics` and `call`: a state is put back, and a batch reaches its forward."""

import contextlib
import copy
import functools

import pytest
import torch
from remembering import batches_for, each_kind, model_of
from torch import nn

from nbutils.diagnosis import frozen_batchnorm, preserve_statistics, recalibrate
from nbutils.probes import measure
from nbutils.state import call


@each_kind
@pytest.mark.parametrize("fails", [False, True])
def test_preserve_puts_buffers_back(kind, fails):
    model = model_of(kind)
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    expectation = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with expectation, preserve_statistics(model):
        model(batches_for(model, 1, seed=7)[0])
        assert not torch.equal(model[1].running_mean, buffers["1.running_mean"][1])
        model[1].running_var = None
        if fails:
            1 / 0  # noqa: B018
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])


def test_preserve_in_preserve():
    model = model_of("BatchNorm1d")
    first, second = batches_for(model, 2)
    with preserve_statistics(model):
        model(first)
        middle = model[1].running_mean.clone()
        with preserve_statistics(model):
            model(second)
        assert torch.equal(model[1].running_mean, middle)


@pytest.mark.parametrize("training", [True, False])
def test_backward_may_come_after_the_block(training):
    model = model_of("BatchNorm1d").train(training)
    x = batches_for(model, 1)[0]
    twin = copy.deepcopy(model)
    gradients = []
    for net, keep in ((model, preserve_statistics), (twin, contextlib.nullcontext)):
        torch.manual_seed(3)
        with keep(net):
            loss = net(x).square().sum()
        loss.backward()
        gradients.append(net[0].weight.grad)
    assert torch.equal(*gradients)


def test_preserve_follows_a_conversion():
    model = model_of("BatchNorm1d")
    with preserve_statistics(model):
        model.double()
        model(batches_for(model, 1)[0].double())
    assert model[1].running_mean.dtype == torch.float64
    assert torch.equal(model[1].running_mean.float(), model_of("BatchNorm1d")[1].running_mean)


def test_preserve_keeps_shared_buffers_shared_and_other_buffers_too():
    first, second = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    second.running_mean = first.running_mean
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5))
    model = nn.Sequential(first, second, spectral)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with preserve_statistics(model):
        model(torch.randn(8, 5))
        assert first.running_mean is second.running_mean
    after = dict(model.named_buffers())
    assert before.keys() == after.keys()
    assert any("_u" in name for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_preserve_a_model_without_buffers():
    model = nn.Linear(3, 3)
    with preserve_statistics(model):
        model(torch.ones(2, 3))


class Hidden(nn.Module):
    """State where named_buffers() does not look: attributes, lists, dicts, views."""

    def __init__(self):
        super().__init__()
        self.register_buffer("memory", torch.zeros(4))
        self.half = self.memory[:2]  # a view
        self.plain = torch.zeros(4)
        self.history = [torch.zeros(4)]
        self.alias = self.history
        self.branches = {"norm": [nn.BatchNorm1d(4)]}
        self.passes = 0

    def forward(self, x):
        self.memory += 1
        assert (self.half == self.memory[:2]).all()
        self.plain += 1
        self.history[0] += 1
        self.alias.append(x)
        assert len(self.history) == len(self.alias)
        self.passes += 1
        return self.branches["norm"][0](x)

    def read(self):
        norm = self.branches["norm"][0]
        kept = [self.memory, self.half, self.plain, *self.history, *norm.buffers()]
        return [(id(t), t.clone()) for t in kept], norm.training, id(self.history)


def preserved(model, x):
    with preserve_statistics(model):
        model(x)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("run", [measure, preserved])
def test_plain_tensors_and_hidden_modules(run, fails):
    model = Hidden()
    before, mode, history = model.read()
    expectation = pytest.raises((RuntimeError, ValueError)) if fails else contextlib.nullcontext()
    with expectation:
        run(model, torch.randn(8, 5 if fails else 4))
    after, *rest = model.read()
    assert [key for key, _ in after] == [key for key, _ in before]
    for (_, value), (_, expected) in zip(after, before, strict=True):
        assert torch.equal(value, expected)
    assert rest == [mode, history]
    assert model.alias is model.history
    assert model.passes == (run is preserved)  # a reader's own counter is no tensor


def test_preserve_puts_a_replaced_buffer_back_as_it_was():
    """A buffer of another dtype is no sign of model.to(): the parameters did not move."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with preserve_statistics(model):
        model[1].running_mean = torch.zeros(3, dtype=torch.float16)
    assert model[1].running_mean.dtype == torch.float32


def test_preserve_follows_a_conversion_without_parameters_and_keeps_sharing():
    first, second = (nn.BatchNorm1d(5, affine=False) for _ in range(2))
    second.running_mean = first.running_mean
    model = nn.Sequential(first, second)
    with preserve_statistics(model):
        model.half()
    assert first.running_mean.dtype == torch.float16
    assert first.num_batches_tracked.dtype == torch.int64
    assert first.running_mean is second.running_mean


REFUSED = {
    "scripted": (lambda net: torch.jit.script(net), "module of TorchScript"),
    "traced": (lambda net: torch.jit.trace(net.eval(), torch.ones(4, 3)), "module of TorchScript"),
    "part": (lambda net: nn.Sequential(nn.ReLU(), torch.jit.script(net)), "1 is a module of Torch"),
    "function": (lambda net: net.forward, "expected an nn.Module, got method"),
    "program": (lambda net: torch.export.export(net, (torch.ones(4, 3),)), "got ExportedProgram"),
}
MANAGERS = {
    "measure": lambda model: contextlib.nullcontext(measure(model, torch.ones(4, 3))),
    "preserve_statistics": preserve_statistics,
    "frozen_batchnorm": frozen_batchnorm,
    "recalibrate": lambda model: recalibrate(model, [torch.ones(4, 3)]),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_protected_is_refused(kind, manager):
    make, words = REFUSED[kind]
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model = make(net)
    owner = model if isinstance(model, nn.Module) else net
    before = [buffer.clone() for buffer in owner.buffers()]
    with pytest.raises(TypeError, match=words), MANAGERS[manager](model):
        pass
    assert all(map(torch.equal, owner.buffers(), before))


def one(x): ...
def two(a, b): ...
def optional(x, mask=None): ...
def only_optional(input_ids=None, labels=None): ...
def several(*xs): ...
def keywords(x, **rest): ...


x, y = torch.ones(2, 3), torch.zeros(2)
IMAGES, NAMED = [x, y], {"image": x}
PACKED = nn.utils.rnn.pack_sequence([torch.ones(2, 3)])
CALLS = [
    (one, x, ((x,), {})),
    (one, (x,), ((x,), {})),
    (one, (x, y), ((x,), {})),
    (one, [x, y, "index"], ((x,), {})),
    (one, (IMAGES,), ((IMAGES,), {})),
    (one, PACKED, ((PACKED,), {})),
    (one, (PACKED, y), ((PACKED,), {})),
    (one, {"x": x}, ((), {"x": x})),
    (one, NAMED, ((NAMED,), {})),
    (two, (x, y), ((x, y), {})),
    (two, [x, y, y], ((x, y), {})),
    (optional, (x,), ((x,), {})),
    (optional, {"x": x, "mask": y}, ((), {"x": x, "mask": y})),
    (only_optional, [x], ((x,), {})),
    (only_optional, {"input_ids": x}, ((), {"input_ids": x})),
    (several, [x, y, y], ((x, y, y), {})),
    (keywords, {"x": x, "other": y}, ((), {"x": x, "other": y})),
]


class Told(nn.Module):
    """A module with the signature of a function, which returns its arguments."""

    def __init__(self, function):
        super().__init__()
        self.forward = functools.wraps(function)(lambda *args, **kwargs: (args, kwargs))


def same_arguments(got, expected):
    """Identity: tensors have no single truth value."""
    return [*map(id, got[0])] == [*map(id, expected[0])] and got[1].keys() == expected[1].keys()


@pytest.mark.parametrize(("function", "batch", "expected"), CALLS)
@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel])
def test_a_batch_reaches_forward(function, batch, expected, wrap):
    assert same_arguments(call(wrap(Told(function)), batch), expected)


@pytest.mark.parametrize(
    ("function", "batch", "error", "words"),
    [
        (optional, (x, y), TypeError, r"2 entries.*takes 1 to 2: .*an input, or labels\?.*'x'"),
        (only_optional, [x, y], TypeError, "takes 1 to 2"),
        (two, {"a": x, "b": y, "c": y}, TypeError, "takes no 'c'"),
        (one, x[:0], ValueError, r"empty: its first tensor has shape \(0, 3\)"),
        (two, {"a": x[:0], "b": y}, ValueError, "empty"),
    ],
)
def test_batches_that_nobody_can_read(function, batch, error, words):
    with pytest.raises(error, match=words):
        call(Told(function), batch)
