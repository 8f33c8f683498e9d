"""Chapter 03's `verify` passes right layers and catches faults, the chapter's own and others."""

import json
from pathlib import Path

import pytest

from nbutils import layers
from tests.layers import mutants

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks/03-batchnorm-from-scratch.ipynb"
# What `verify` is made of, by id. Nothing here draws or displays.
CELLS = (
    "imports",
    "standardize",
    "randn",
    "apart",
    "function",
    "layer",
    "batch",
    "observe",
    "verify",
    "fault-formula",
    "fault-formula-2",
    "fault-memory",
    "fault-backward",
    "fault-list",
)
NAMED = {
    "unbiased_for_the_batch": mutants.unbiased_for_the_batch,
    "detached_statistics": mutants.detached_statistics,
    "square_minus_square": mutants.square_minus_square,
    "eps_outside_the_root": mutants.eps_outside_the_root,
    "one_axis_too_few": mutants.one_axis_too_few,
    "one_axis_too_many": mutants.one_axis_too_many,
}
PLANTED = {
    name: mutants.with_standardize(layers.BatchNorm, fault) for name, fault in NAMED.items()
} | {
    kind.__name__: kind
    for kind in (
        mutants.BiasedRemembered,
        mutants.ReversedMomentum,
        mutants.AveragedStd,
        mutants.LeakingBuffer,
        mutants.ModeByGrad,
        mutants.UpdatesInEval,
    )
}


@pytest.fixture(scope="module")
def chapter():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    sources = {cell["id"]: "".join(cell["source"]) for cell in cells}
    names = {}
    for cell in CELLS:
        exec(compile(sources[cell], cell, "exec"), names)
    return names


def test_right_layers_pass(chapter):
    assert chapter["verify"](chapter["BatchNorm"]) == []
    assert chapter["verify"](layers.BatchNorm) == []


def test_every_fault_of_the_chapter_is_caught(chapter):
    assert len(chapter["faults"]) == 7
    for name, layer_class in chapter["faults"].items():
        assert chapter["verify"](layer_class), name


@pytest.mark.parametrize("name", PLANTED)
def test_every_fault_of_the_shared_layer_is_caught(chapter, name):
    assert chapter["verify"](PLANTED[name])


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("biased variance remembered", "running variance"),
        ("statistics detached", "gradcheck"),
        ("E[x²] − E[x]²", "mean of 10,000"),
        ("ε outside the root", "train output"),
        ("history in the buffers", "history"),
        ("mode by grad enabled", "eval output"),
        ("a forgotten term", "input gradient"),
    ],
)
def test_a_fault_is_caught_by_the_check_meant_for_it(chapter, fault, check):
    assert check in chapter["verify"](chapter["faults"][fault])
