"""What each framework remembers: measured where it is installed, and the book's record of it."""

import os
import sys
import threading

import numpy as np
import pytest

from nbutils import conventions
from nbutils.conventions import BIASED, UNBIASED, Step, X

MEASURED = {
    "torch": ["PyTorch BatchNorm1d", "PyTorch InstanceNorm1d, tracking"],
    "flax": ["Flax linen", "Flax nnx"],
    "keras": ["Keras 3"],
    "onnxruntime": ["ONNX Runtime, opset 15"],
}
WORDS = ["normalizes_with", "remembers", "momentum_weighs"]


@pytest.fixture
def blocked(monkeypatch, tmp_path):
    """Frameworks that raise at import, as those that are not installed do."""
    for name in ("flax", "jax", "keras", "onnx", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('blocked')\n")
    monkeypatch.syspath_prepend(tmp_path)


def rows(table):
    return table.set_index("framework")


def step(remembered, weight, normalized=BIASED, start=1.0, momentum=0.1):
    y = (X - X.mean(axis=0)) / np.sqrt(normalized + 1e-5)
    memory = (1 - weight) * start + weight * remembered
    return Step(y, memory, 1e-5, momentum, "1")


def test_bessels_factor_is_exact():
    np.testing.assert_allclose(UNBIASED / BIASED, 4 / 3, rtol=1e-15)


@pytest.mark.parametrize("name", conventions.ADAPTERS)
def test_measured_equals_recorded(name):
    """Fails, and does not skip, where the extra "frameworks" is not installed."""
    measured = conventions.measure(name)
    assert list(measured) == MEASURED[name], "install the extra: pip install -e .[frameworks]"
    recorded = rows(conventions.recorded())
    for framework, row in measured.items():
        assert row.how.startswith("measured here, version ")
        for column in WORDS:
            assert getattr(row, column) == recorded.loc[framework, column], (framework, column)
        assert row.eps == pytest.approx(recorded.loc[framework, "eps"])
        assert row.momentum == pytest.approx(recorded.loc[framework, "momentum"])


def test_table_holds_what_was_measured():
    table = rows(conventions.conventions())
    names = [framework for each in MEASURED.values() for framework in each]
    assert table.loc[names, "how"].str.startswith("measured here").all()
    assert not table.drop(index=names)["how"].str.startswith("measured here").any()
    assert table.index.is_unique
    assert list(table.index) == list(conventions.recorded().framework)


@pytest.mark.usefixtures("blocked")
def test_missing_framework_falls_back_to_the_record(capfd):
    table, recorded = rows(conventions.conventions()), rows(conventions.recorded())
    for name in ("flax", "keras", "onnxruntime"):
        for framework in MEASURED[name]:
            assert table.loc[framework, "how"].startswith("recorded, version ")
            assert table.loc[framework].equals(recorded.loc[framework])
    assert table.loc["PyTorch BatchNorm1d", "how"].startswith("measured here")
    assert capfd.readouterr() == ("", "")


def test_measuring_leaves_nothing_behind(capfd, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "elsewhere")
    before = dict(os.environ), threading.active_count(), set(sys.modules)
    for name in ("flax", "keras", "onnxruntime"):
        # On the processor, whatever this process prefers.
        assert list(conventions.measure(name)) == MEASURED[name]
    assert (dict(os.environ), threading.active_count()) == before[:2]
    assert not {"jax", "flax", "keras", "onnxruntime"} & (set(sys.modules) - before[2])
    assert capfd.readouterr() == ("", "")


def test_framework_that_hangs_counts_as_missing(monkeypatch):
    monkeypatch.setattr(conventions, "PATIENCE", 0.001)
    assert conventions.measure("onnxruntime") == {}


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (step(UNBIASED, 0.1), ("biased", "unbiased", "new")),
        (step(BIASED, 0.1), ("biased", "biased", "new")),
        (step(BIASED, 0.1, momentum=0.9), ("biased", "biased", "old")),
        (step(UNBIASED, 0.1, UNBIASED, momentum=0.9), ("unbiased", "unbiased", "old")),
        (step(BIASED, 1.0), ("biased", "biased, zero-debiased", "old")),
    ],
)
def test_what_a_layer_did_gets_its_name(done, words):
    row = conventions.describe("a layer", done)
    assert (row.normalizes_with, row.remembers, row.momentum_weighs) == words


@pytest.mark.parametrize("memory", [step(2 * UNBIASED, 0.1), step(BIASED, 0.1, start=0.0)])
def test_unknown_convention_is_told(memory):
    with pytest.raises(ValueError, match="a layer: its running variance should be one of"):
        conventions.describe("a layer", memory)


def test_unknown_adapter_is_told():
    with pytest.raises(KeyError, match="no adapter 'caffe'"):
        conventions.measure("caffe")
