"""Which variance each framework's batch normalization uses, measured where it is installed.

One training step on four values per channel, `X`: the biased variance divides by 4, the unbiased
one by 3, and no rounding hides which was used. See chapter 04, "Which variance does BatchNorm use?"

Every framework but PyTorch is imported in a process of its own: its threads, its messages and its
environment variables stay there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

X = np.array([[1, 2, 0], [2, 7, 3], [3, 1, 9], [6, 4, 2]], dtype=np.float32)  # (N, C) = (4, 3)
START = np.ones(3)  # the running variance before the step, in every framework
BIASED, UNBIASED = X.astype(np.float64).var(axis=0), X.astype(np.float64).var(axis=0, ddof=1)
PATIENCE = 120  # seconds for one framework to be imported and run


class Step(NamedTuple):
    """What a layer did with `X` in its first training step, and its defaults."""

    y: np.ndarray  # (4, 3), the output
    running_var: np.ndarray  # (3,), after the step
    eps: float
    momentum: float
    version: str


class Row(NamedTuple):
    """What one framework does: the columns of the table beside its name."""

    normalizes_with: str
    remembers: str
    momentum_weighs: str
    eps: float
    momentum: float
    how: str


def conventions() -> pd.DataFrame:
    """One row per framework: measured here where it can be imported, else as recorded.

    Columns: framework; normalizes_with and remembers ("biased", "unbiased", or "biased,
    zero-debiased", an average divided by the weight it has gathered); momentum_weighs ("new":
    running = (1 - m) running + m batch; "old": the other way round); eps and momentum, the
    defaults, NaN where there is none; how: "measured here, version ...", "recorded, version ..."
    (measured for this book elsewhere) or "not measured, from ...".
    Raises ValueError if a framework did something that none of these words describes.
    """
    table = recorded().set_index("framework")
    for name in ADAPTERS:
        for framework, row in measure(name).items():
            table.loc[framework] = list(row)
    return table.reset_index()


def recorded() -> pd.DataFrame:
    """The table as it was measured for this book, in `conventions.csv` beside this file."""
    return pd.read_csv(Path(__file__).with_suffix(".csv"))


def measure(name: str) -> dict[str, Row]:
    """Rows of one of `ADAPTERS`, measured now; none if it is not installed or cannot run here.

    Raises KeyError for an unknown name, ValueError for a convention that has no word here.
    """
    if name not in ADAPTERS:
        raise KeyError(f"no adapter {name!r}: there are {list(ADAPTERS)}")
    steps = _torch() if name == "torch" else _in_its_own_process(name)
    return {framework: describe(framework, step) for framework, step in steps.items()}


def _in_its_own_process(name: str) -> dict[str, Step]:
    with tempfile.TemporaryDirectory() as folder:  # for the settings that Keras writes
        quiet = {"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax", "KERAS_HOME": folder}
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-W", "ignore", "-m", "nbutils.conventions", name]
        pipes = {"capture_output": True, "text": True, "timeout": PATIENCE}
        try:
            run = subprocess.run(command, env=os.environ | quiet | path, **pipes)
        except subprocess.TimeoutExpired:
            return {}
    if run.returncode:
        return {}
    steps = json.loads(run.stdout.splitlines()[-1])
    return {framework: Step(*step) for framework, step in steps.items()}


def describe(framework: str, step: Step) -> Row:
    """Name what a layer did: the one combination of words that gives its output and its memory.

    Raises ValueError if no combination, or more than one, does.
    """
    variances = {"biased": BIASED, "unbiased": UNBIASED}
    deviation = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    outputs = {word: deviation / np.sqrt(var + step.eps) for word, var in variances.items()}
    weights = {"new": step.momentum, "old": 1 - step.momentum}  # of the new variance
    memories = {
        (word, which): (1 - weight) * START + weight * var
        for word, var in variances.items()
        for which, weight in weights.items()
    } | {("biased, zero-debiased", "old"): BIASED}
    normalizes_with = _only(framework, "output", step.y, outputs)
    remembers, weighs = _only(framework, "running variance", step.running_var, memories)
    how = f"measured here, version {step.version}"
    return Row(normalizes_with, remembers, weighs, step.eps, step.momentum, how)


def _only(framework: str, what: str, got: np.ndarray, candidates: dict) -> object:
    fits = [key for key, each in candidates.items() if np.allclose(got, each, rtol=1e-3, atol=1e-4)]
    if len(fits) != 1:
        raise ValueError(
            f"{framework}: its {what} should be one of {list(candidates)} and fits {fits}; it is "
            f"{np.round(got, 4).tolist()}. Has the framework changed? Then name what it does here."
        )
    return fits[0]


def _torch() -> dict[str, Step]:
    import torch
    from torch import nn

    x, steps, version = torch.from_numpy(X), {}, torch.__version__.partition("+")[0]
    batch, instance = nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)
    outputs = {batch: batch(x), instance: instance(x.T[None])[0].T}  # (1, C, L) = (1, 3, 4)
    for layer, y in outputs.items():
        name = f"PyTorch {type(layer).__name__}" + ", tracking" * (layer is instance)
        var = layer.running_var.numpy()
        steps[name] = Step(y.detach().numpy(), var, layer.eps, layer.momentum, version)
    return steps


def _flax() -> dict[str, Step]:
    import flax
    import jax
    from flax import linen, nnx

    layer = linen.BatchNorm(use_running_average=False)
    state = layer.init(jax.random.key(0), X)
    y, state = layer.apply(state, X, mutable=["batch_stats"])
    var, version = state["batch_stats"]["var"], flax.__version__
    steps = {"Flax linen": Step(y, var, layer.epsilon, layer.momentum, version)}
    layer = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    y = layer(jax.numpy.asarray(X), use_running_average=False)
    steps["Flax nnx"] = Step(y, layer.var[...], layer.epsilon, layer.momentum, version)
    return steps


def _keras() -> dict[str, Step]:
    import keras

    layer = keras.layers.BatchNormalization()
    y = keras.ops.convert_to_numpy(layer(X, training=True))
    var = keras.ops.convert_to_numpy(layer.moving_variance)
    return {"Keras 3": Step(y, var, layer.epsilon, layer.momentum, keras.__version__)}


def _onnxruntime() -> dict[str, Step]:
    import onnxruntime
    from onnx import TensorProto, defs, helper

    defaults = defs.get_schema("BatchNormalization", 15).attributes
    eps, momentum = (round(defaults[key].default_value.f, 6) for key in ("epsilon", "momentum"))
    names = [["x", "scale", "bias", "mean", "var"], ["y", "running_mean", "running_var"]]
    node = helper.make_node("BatchNormalization", *names, training_mode=1)
    shapes = {"x": (4, 3), "y": (4, 3)}

    def declare(name: str):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name, (3,)))

    values = [[declare(name) for name in each] for each in names]
    graph = helper.make_graph([node], "one step", *values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=10)
    on_cpu = {"providers": ["CPUExecutionProvider"]}
    session = onnxruntime.InferenceSession(model.SerializeToString(), **on_cpu)
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    feed = {"x": X, "scale": ones, "bias": zeros, "mean": zeros, "var": ones}
    y, _, var = session.run(None, feed)
    return {"ONNX Runtime, opset 15": Step(y, var, eps, momentum, onnxruntime.__version__)}


ADAPTERS: dict[str, Callable[[], dict[str, Step]]] = {
    "torch": _torch, "flax": _flax, "keras": _keras, "onnxruntime": _onnxruntime,
}  # fmt: skip

if __name__ == "__main__":
    measured = ADAPTERS[sys.argv[1]]().items()
    print(json.dumps({key: [np.asarray(part).tolist() for part in step] for key, step in measured}))
