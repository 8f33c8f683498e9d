"""Exercises: an untouched cell, a right answer, a named mistake; solutions must pass."""

import importlib
import pkgutil

import pytest
import torch
from torch import nn
from torch.nn import functional

from nbutils import exercises, layers, questions
from nbutils.exercises import RIGHT, Exercise

NUMBER = Exercise("9.1", right=0.5, mistakes=[(0.25, "that is the square.")])
FUNCTION = Exercise(
    "9.2", right=lambda t: 2 * t, mistakes=[(lambda t: t**2, "no square.")],
    cases=[(torch.ones(3) * 5,)],
)  # fmt: skip


def all_names():
    for module in pkgutil.iter_modules(questions.__path__):
        yield from importlib.import_module(f"nbutils.questions.{module.name}").QUESTIONS


@pytest.mark.parametrize("answer", [..., None])
def test_untouched_numbers(answer):
    assert NUMBER.remark(answer).startswith("Untouched")


def test_untouched_functions():
    assert FUNCTION.remark(...).startswith("Untouched")
    assert FUNCTION.remark(lambda t: ...).startswith("Untouched")


def test_right_answers():
    assert NUMBER.remark(0.5 * (1 + 1e-6)) == RIGHT
    assert FUNCTION.remark(lambda t: t + t) == RIGHT


@pytest.mark.parametrize("answer", [0.5 * (1 + 0.9e-4), 0.5 * (1 - 0.9e-4)])
def test_answers_within_the_tolerance_are_right(answer):
    assert NUMBER.remark(answer) == RIGHT
    assert Exercise("9.5", right=5.0, rel=0.1).remark(10 * answer) == RIGHT


@pytest.mark.parametrize(
    ("right", "answer"),
    [(0.5, 0.5 * (1 + 1.1e-4)), (0.5, 0.5 * (1 - 1.1e-4)), (0.0, 2e-8), (1e-6, 1.1e-6)],
)
def test_answers_beyond_the_tolerance_are_wrong(right, answer):
    assert Exercise("9.6", right=right).remark(answer).startswith("Not yet")


def test_nan_is_right_where_the_answer_is_nan_and_nowhere_else():
    nan, values = float("nan"), torch.tensor([1.0, float("nan")])
    assert NUMBER.remark(nan).startswith("Not yet")
    exercise = Exercise("9.7", right=values)
    assert exercise.remark(values.clone()) == RIGHT
    assert exercise.remark(torch.tensor([1.0, 0.0])).startswith("Not yet")
    assert exercise.remark(torch.tensor([nan, nan])).startswith("Not yet")


@pytest.mark.parametrize(
    ("exercise", "answer", "words"),
    [
        (NUMBER, 0.25, "that is the square."),
        (NUMBER, torch.ones(2), "expected shape (), got (2,)"),
        (NUMBER, lambda: 0.5, "Expected a number"),
        (NUMBER, "half", "raised"),
        (FUNCTION, 10.0, "Expected a function"),
        (FUNCTION, lambda t: t**2, "no square."),
        (FUNCTION, lambda t: t[:2], "expected shape (3,), got (2,)"),
        (FUNCTION, lambda t: t / 0 + undefined, "NameError"),  # noqa: F821
        (FUNCTION, lambda: 1, "TypeError"),
    ],
)
def test_wrong_answers_are_told_why(exercise, answer, words):
    assert words in exercise.remark(answer)


PAIR = Exercise("9.8", right=torch.tensor([2.0, -3.0]))


@pytest.mark.parametrize(
    ("exercise", "answer", "hint"),
    [
        (NUMBER, 0.7, "your answer is too large."),
        (NUMBER, 0.1, "your answer is too small."),
        (NUMBER, 0.0, "your answer is too small."),
        (NUMBER, -0.5, "look at the sign."),
        (NUMBER, -7.0, "look at the sign."),
        (NUMBER, 0.502, "close, but not close enough"),
        (NUMBER, float("inf"), "not finite"),
        (NUMBER, float("nan"), "not finite"),
        (PAIR, torch.tensor([-2.0, 3.0]), "look at the sign."),
        (PAIR, torch.tensor([2.0, 5.0]), "1 of 2 values are right"),
        (PAIR, torch.tensor([3.0, -2.0]), "look at their order"),
        (PAIR, torch.tensor([20.0, -30.0]), "your answer is too large."),
        (FUNCTION, lambda t: 3 * t, "your answer is too large."),
        (FUNCTION, lambda t: t + torch.tensor([5.0, 0, 0]), "1 of 3 values are right"),
    ],
)
def test_a_hint_does_not_give_the_answer_away(exercise, answer, hint):
    remark = exercise.remark(answer)
    assert remark.startswith("Not yet: ")
    assert hint in remark
    assert "times" not in remark


def test_near_zero_single_precision_is_enough():
    right = torch.tensor([1000.0, 1e-5], dtype=torch.float64)
    exercise = Exercise("9.9", right=right)
    assert exercise.remark(right + torch.tensor([0.0, 5e-4])) == RIGHT
    assert exercise.remark(right + torch.tensor([0.0, 5e-3])).startswith("Not yet")


NATURAL = {
    "nn.BatchNorm1d": ("3.3", lambda x: nn.BatchNorm1d(x.shape[2])(x.mT).mT),
    "nn.BatchNorm1d of all tokens": (
        "3.3", lambda x: nn.BatchNorm1d(x.shape[2])(x.flatten(0, 1)).view_as(x),
    ),
    "F.batch_norm": ("3.3", lambda x: functional.batch_norm(x.mT, None, None, training=True).mT),
    "layers.BatchNorm": ("3.3", lambda x: layers.BatchNorm(x.shape[2])(x.mT).mT),
    "F.group_norm, a channel to a group": (
        "3.3", lambda x: functional.group_norm(x.flatten(0, 1).T[None], x.shape[2])[0].T.view_as(x),
    ),
    "by hand": (
        "3.3", lambda x: (x - x.mean((0, 1))) / (x.var((0, 1), correction=0) + 1e-5).sqrt(),
    ),
    "F.group_norm of each token": (
        "10.2", lambda z, groups: functional.group_norm(z.flatten(0, 1), groups).view_as(z),
    ),
    "layers.GroupNorm of each token": (
        "10.2", lambda z, groups: layers.GroupNorm(groups, 8)(z.flatten(0, 1)).view_as(z),
    ),
    "nn.GroupNorm of each token": (
        "10.2", lambda z, groups: nn.GroupNorm(groups, 8)(z.flatten(0, 1)).view_as(z),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", NATURAL)
def test_every_natural_way_is_right(way):
    name, answer = NATURAL[way]
    assert exercises.find(name).remark(answer) == RIGHT


def test_a_mistake_that_would_pass_cannot_be_defined():
    with pytest.raises(ValueError, match="passes as the right answer"):
        Exercise("9.3", right=1.0, mistakes=[(1.00001, "too close")])


def test_functions_need_cases():
    with pytest.raises(ValueError, match="cases"):
        Exercise("9.4", right=lambda t: t)


@pytest.mark.parametrize("name", list(all_names()))
def test_every_question_of_the_book_names_each_of_its_mistakes(name):
    exercise = exercises.find(name)
    assert exercise.remark(exercise.right) == RIGHT
    assert len(exercise.mistakes) >= 2
    for wrong, remark in exercise.mistakes:
        assert exercise.remark(wrong) == f"Not yet: {remark}"


@pytest.mark.parametrize("name", ["99.1", "1.99", "one", ""])
def test_unknown_exercises(name):
    with pytest.raises(KeyError, match="there is no exercise"):
        exercises.find(name)


def test_check_never_raises_and_solve_does(capsys):
    exercises.check("1.1", 7.0)
    with pytest.raises(AssertionError, match="does not pass"):
        exercises.solve("1.1", 7.0)
    exercises.solve("1.1", 6**-0.5)
