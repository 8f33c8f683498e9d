"""Kinds of networks compared fairly: each at its own best learning rate, chosen on other data.

Three parts of the data, never the same images: `x, y` trains, `valid` chooses the rate, `test` is
reported. Chapter 02 writes this out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from nbutils.population.checks import check_data
from nbutils.population.model import Population
from nbutils.population.optimizer import Optimizer
from nbutils.population.training import Run, apart, diverged_of, population_of, score

Build = Callable[[int], nn.Module]


def sweep(
    build: Build | Mapping[object, Build],
    x: Tensor,
    y: Tensor,
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    valid: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None = None,
    at: int | Sequence[int],
    batch_size: int,
    optimizer: str = "sgd",
    schedule: Callable[[int, int], float] | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every kind of network at every rate with every seed, and score it on held-out data.

    build: seed to network, or a mapping of names of kinds ("arms") to such functions.
    x, y: training data (N, ...) and (N,), or (S, N, ...) and (S, N): a split for each of S seeds.
    valid, test: pairs like (x, y), shared or with a split per seed; `test` may be left out.
    at: one number of updates, or several. At a constant rate one run passes through all of them;
    with `schedule(step, steps)`, which multiplies the rate, each length is a run of its own.
    Other options as for `train`.

    Returns one row per arm, rate, seed and length: arm, rate, seed, steps, valid_loss,
    valid_accuracy, test_loss, test_accuracy, diverged. Scores of a diverged run are NaN.
    Raises ValueError for no rate, no seed, or a length below 1; errors as for `train`.
    """
    arms = dict(build) if isinstance(build, Mapping) else {"": build}
    lengths = sorted({at} if isinstance(at, int) else set(at))
    rates, seeds = list(rates), list(seeds)
    if not (arms and rates and seeds and lengths) or lengths[0] < 1:
        raise ValueError(
            "a sweep needs at least one arm, rate, seed and a length of at least 1, got "
            f"{len(arms)} arms, rates {rates}, seeds {seeds}, at={lengths}."
        )
    held_out = {"valid": valid} | ({} if test is None else {"test": test})
    runs = [lengths] if schedule is None else [[length] for length in lengths]
    options = {"batch_size": batch_size, "optimizer": optimizer, "weight_decay": weight_decay}
    options |= {"clip": clip, "progress": progress, "schedule": schedule}
    frames = [
        _run(each, (x, y), held_out, rates, seeds, stops, **options).assign(arm=arm)
        for arm, each in arms.items()
        for stops in runs
    ]
    found = pd.concat(frames, ignore_index=True)
    columns = list(found.columns.drop("arm"))
    return found[["arm", *columns] if isinstance(build, Mapping) else columns]


def _run(
    build: Build,
    trained_on: tuple[Tensor, Tensor],
    held_out: dict[str, tuple[Tensor, Tensor]],
    rates: list[float],
    seeds: list[int],
    stops: list[int],
    *,
    batch_size: int,
    optimizer: str,
    schedule: Callable[[int, int], float] | None,
    weight_decay: float,
    clip: float | None,
    progress: bool,
) -> pd.DataFrame:
    settings = pd.DataFrame(
        [(rate, seed) for rate in rates for seed in seeds], columns=["rate", "seed"]
    )
    nets = [build(seed) for seed in settings.seed]
    x, y = _for_each(*trained_on, len(rates), len(seeds))
    population = population_of(nets, x, y, None)
    sets = {name: _for_each(*pair, len(rates), len(seeds)) for name, pair in held_out.items()}
    for pair in sets.values():
        check_data(len(nets), set(), *pair, None)
    model, steps = population.model, stops[-1]
    if not model.training:
        model.train()
    modes = [module.training for module in model.modules()]
    optimize = Optimizer(model, len(nets), optimizer, list(settings.rate), weight_decay, clip)
    factor = None if schedule is None else partial(_factor, schedule, steps)
    drawn = list(settings.seed)
    run = Run(population, optimize, x, y, None, steps, batch_size, drawn, factor)
    frames = []
    bar = tqdm(
        range(steps), desc=f"training {len(nets)} networks", leave=False, disable=not progress
    )
    with apart(drawn):
        for step in bar:
            run.update(step)
            if step + 1 in stops:
                frames.append(_scored(population, sets, settings, step + 1))
                _set_modes(model, modes)
    return pd.concat(frames, ignore_index=True)


def _set_modes(model: nn.Module, modes: list[bool]) -> None:
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode


def _factor(schedule: Callable[[int, int], float], steps: int, step: int) -> float:
    return schedule(step, steps)


def _for_each(x: Tensor, y: Tensor, rates: int, seeds: int) -> tuple[Tensor, Tensor]:
    """Data with a split per seed, repeated for every rate; shared data as they are."""
    if y.dim() == 1:
        return x, y
    if len(y) != seeds or len(x) != seeds:
        raise ValueError(f"expected data for each of {seeds} seeds, got {len(x)} and {len(y)}.")
    return x.repeat(rates, *[1] * (x.dim() - 1)), y.repeat(rates, 1)


@torch.no_grad()
def _scored(
    population: Population, sets: dict[str, tuple], settings: pd.DataFrame, steps: int
) -> pd.DataFrame:
    rows = settings.assign(steps=steps)
    diverged = torch.zeros(len(rows), dtype=torch.bool)
    for name, (x, y) in sets.items():
        loss, accuracy, finite = score(population, x, y, None)
        rows[f"{name}_loss"], rows[f"{name}_accuracy"] = loss.tolist(), accuracy.tolist()
        diverged |= diverged_of(loss, finite)
    rows["diverged"] = diverged.numpy()
    scores = [column for column in rows if column.endswith(("_loss", "_accuracy"))]
    rows.loc[rows.diverged, scores] = np.nan
    return rows


def at_best_rate(
    runs: pd.DataFrame,
    *,
    by: str | Sequence[str] = (),
    metric: str = "valid_accuracy",
    chance: float = 0.1,
) -> pd.DataFrame:
    """The runs of each setting at its own best rate, chosen by the mean of `metric` over seeds.

    runs: rows of `sweep`. by: columns that make up a setting, besides "steps": the best rate is
    chosen for each length. Where `metric` is an accuracy, a diverged run counts as 0, where it is a
    loss, as infinite. A rate in the middle of the grid is preferred to one at its edge unless the
    edge is better by more than the standard error of the difference, paired over seeds; then the
    grid is too narrow, and ValueError says so.

    Returns the rows at the best rates with one column more, `best`: the rate as text, or "none"
    where no rate is above `chance` by two standard errors; the rows are then those of the rate with
    the largest mean. With a loss as metric nothing is held against chance.
    Raises KeyError for a missing column, ValueError for fewer than three rates.
    """
    by = [by] if isinstance(by, str) else list(by)
    missing = [name for name in [*by, "rate", "seed", "steps", metric] if name not in runs]
    if missing:
        raise KeyError(f"no column {missing} in the runs; there are {list(runs.columns)}.")
    keys = [*by, *(["steps"] if "steps" not in by else [])]
    chosen = []
    for setting, rows in runs.groupby(keys, sort=False):
        rate, best = _best(rows, metric, chance, dict(zip(keys, setting, strict=True)))
        chosen.append(rows[rows.rate == rate].assign(best=best))
    return pd.concat(chosen, ignore_index=True)


def _best(rows: pd.DataFrame, metric: str, chance: float, setting: dict) -> tuple[float, str]:
    loss = metric.endswith("loss")
    worst = -np.inf if loss else 0.0
    signed = -rows[metric] if loss else rows[metric]
    merit = rows.assign(merit=signed.where(~rows.diverged, worst)).pivot(
        index="seed", columns="rate", values="merit"
    )
    if merit.shape[1] < 3:
        raise ValueError(
            f"{setting}: a best rate needs a grid of at least 3, got {len(merit.columns)}."
        )
    means = merit.mean().sort_index()
    best, interior = means.idxmax(), means.iloc[1:-1].idxmax()
    if not loss:
        error = merit[best].sem() if len(merit) > 1 else 0.0
        if means[best] <= chance + 2 * error:
            return best, "none"
    if best in (means.index[0], means.index[-1]):
        gain = (merit[best] - merit[interior]).to_numpy()
        error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
        if not np.isfinite(gain).all() or gain.mean() > error:
            raise ValueError(
                f"{setting}: the best rate, {best:g}, is at the edge of {list(means.index)}: "
                f"{means[best]:.4g} against {means[interior]:.4g} at {interior:g}. Widen the grid."
            )
        best = interior
    return best, f"{best:g}"
