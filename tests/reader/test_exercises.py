"""Exercises: an untouched cell, a right answer, a named mistake; solutions must pass."""

import importlib
import pkgutil

import pytest
import torch

from nbutils import exercises, questions
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
        (NUMBER, 0.7, "1.4 times the right one"),
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
