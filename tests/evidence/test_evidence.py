"""Evidence: a verdict follows the interval, and a check that cannot fail is refused."""

import json

import numpy as np
import pytest
from scipy import stats

from nbutils import evidence
from nbutils.evidence import EvidenceError, check, interval
from nbutils.intervals import wilson

CLAIMS = {
    "one": {
        "id": "one", "claim": "x < y & more", "said_by": ["somebody"], "verdict": "holds",
        "finding": "It is so.", "quantity": "size of x",
    },
    "two": {
        "id": "two", "claim": "parts", "said_by": [], "verdict": "false", "finding": "No.",
        "quantity": {"a": "first thing", "b": "second thing"},
    },
    "marked up": {
        "id": "marked up", "claim": "<i>c", "said_by": ["<i>s"], "verdict": "depends",
        "finding": "<i>f & more", "quantity": "<i>q",
    },
    "cited": {"id": "cited", "claim": "c", "said_by": [], "verdict": "holds", "finding": "f"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """What `check` displays, on a small set of claims."""
    displayed = []
    monkeypatch.setattr(evidence, "claims", lambda: CLAIMS)
    monkeypatch.setattr(evidence, "awaiting", list)
    monkeypatch.setattr(evidence, "display", displayed.append)
    return displayed


def test_interval_is_students():
    values = [1.0, 2.0, 4.0, 8.0]
    found = interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.n, found.exact) == (3.75, 4, False)


def test_one_number_is_exact():
    assert interval(2.5) == evidence.Interval(2.5, 2.5, 2.5, 1, True)


def test_an_interval_of_another_kind_is_taken_as_it_is(shown):
    check("one", measured=wilson(19, 20), above=0.76)
    assert (shown[0].measured, shown[0].n, shown[0].exact) == (0.95, 20, False)
    with pytest.raises(EvidenceError, match=r"0.95 \[0.76, 0.99\], n = 20"):
        check("one", measured=wilson(19, 20), above=0.77)
    with pytest.raises(ValueError, match="at least 3"):
        check("one", measured=wilson(2, 2), above=0)


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], float("inf"), np.ones((2, 2))])
def test_numbers_that_have_no_interval(bad):
    with pytest.raises(ValueError, match="measured must be"):
        interval(bad)


def test_the_interval_decides_not_the_mean(shown):
    values = [0.9, 1.0, 1.1]  # mean 1, half width 0.25
    check("one", measured=values, expected=1.0, tol=0.26)
    with pytest.raises(EvidenceError, match=r"size of x.*predicted 1 ± 0.24"):
        check("one", measured=values, expected=1.0, tol=0.24)
    with pytest.raises(EvidenceError):
        check("one", measured=values, above=0.9)
    with pytest.raises(EvidenceError):
        check("one", measured=values, below=1.1)
    assert len(shown) == 1  # a failed check shows no card


def test_relative_tolerance_and_bounds_meet(shown):
    check("one", measured=-2.0, expected=-2.1, rel=0.05, below=-1)
    assert shown[0].prediction == "-2.1 ± 0.05 of it and below -1"


@pytest.mark.parametrize(
    "bound", [{"above": 1.9}, {"below": 2.1}, {"above": 1.99, "below": 2.2}, {"below": 2.01}]
)
def test_an_expected_value_leaves_the_bounds_in_force(shown, bound):
    """Within the tolerance of what is expected, and still outside a bound."""
    wide = {"expected": 2.0, "tol": 0.5}
    outside = 1.8 if "above" in bound else 2.2
    check("one", measured=2.0, **wide, **bound)
    with pytest.raises(EvidenceError):
        check("one", measured=outside, **wide, **bound)


@pytest.mark.parametrize(("bound", "measured"), [({"above": 1.0}, 1.2), ({"below": 3.0}, 2.8)])
def test_a_bound_leaves_the_tolerance_in_force(bound, measured):
    with pytest.raises(EvidenceError):
        check("one", measured=measured, expected=2.0, tol=0.5, **bound)


@pytest.mark.parametrize(
    "prediction",
    [{}, {"expected": 1.0}, {"expected": 1.0, "rel": 0.1, "tol": 0.1}, {"rel": 0.1},
     {"above": 2.0, "below": 1.0}],
)  # fmt: skip
def test_a_prediction_that_says_nothing_is_refused(prediction):
    with pytest.raises(ValueError, match=r"expected=|prediction"):
        check("one", measured=1.0, **prediction)


def test_two_seeds_are_not_evidence():
    with pytest.raises(ValueError, match="at least 3"):
        check("one", measured=[1.0, 1.0], above=0)
    with pytest.raises(ValueError, match="at least 3"):
        check("one", measured=[1.0], above=0)


def test_unknown_claims_and_parts_name_the_remedy():
    with pytest.raises(KeyError, match="no claim 'three' in book/claims"):
        check("three", measured=1.0, above=0)
    with pytest.raises(KeyError, match="no quantity"):
        check("cited", measured=1.0, above=0)
    with pytest.raises(KeyError, match=r"parts \['a', 'b'\], got None"):
        check("two", measured=1.0, above=0)


def test_parts_choose_or_extend_the_quantity(shown):
    check("two", "b", measured=1.0, above=0)
    check("one", "at rest", measured=1.0, above=0)
    assert [verdict.statement for verdict in shown] == ["second thing", "size of x, at rest"]


def test_the_card_is_html_text_and_data(shown):
    check("one", measured=[1.0, 1.1, 1.2], above=0)
    bundle = shown[0]._repr_mimebundle_()
    assert 'id="evidence-one"' in bundle["text/html"]
    assert "x &lt; y &amp; more" in bundle["text/html"]
    assert "somebody" in bundle["text/html"]
    stored = json.loads(json.dumps(bundle[evidence.MIME]))
    assert stored["claim"] == "one"
    assert stored["n"] == 3
    assert stored["low"] < stored["measured"] < stored["high"]
    assert "n = 3" in bundle["text/plain"]


def test_no_word_of_a_claim_is_markup(shown):
    check("marked up", measured=1.0, above=0)
    html = shown[0]._repr_mimebundle_()["text/html"]
    for word in ("c", "s", "q", "f &amp; more"):
        assert f"&lt;i&gt;{word}" in html
    assert "<i>" not in html


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.90, 1.00, 1.10], "1.00 [0.75, 1.25], n = 3"),
        ([1e-9, 1.1e-9, 0.9e-9], "1e-09 [7.52e-10, 1.25e-09], n = 3"),
        ([2.0, 2.0, 2.0], "2 [2, 2], n = 3"),
        ([4.0, 4.0 + 1e-9, 4.0 - 1e-9], "4 [4, 4], n = 3"),
        (0.25, "0.25 (exact)"),
    ],
)
def test_numbers_are_shown_as_precisely_as_the_interval_earns(values, text):
    assert evidence.describe(interval(values)) == text


def test_the_books_claims_are_found_and_well_formed(monkeypatch):
    monkeypatch.undo()
    for name, claim in evidence.claims().items():
        assert claim["verdict"] in evidence.VERDICTS, name
        assert claim["finding"], name


def test_later_measurements_of_a_claim_do_not_repeat_its_words(shown, monkeypatch):
    class Shell:
        user_ns: dict = {}  # noqa: RUF012

    monkeypatch.setattr(evidence, "get_ipython", Shell)
    check("two", "a", measured=1.0, above=0)
    check("two", "b", measured=1.0, above=0)
    check("two", "a", measured=1.0, above=0)  # the cell was run again
    assert [verdict.anchor for verdict in shown] == [
        "evidence-two", "evidence-two-2", "evidence-two",
    ]  # fmt: skip
    first, second, _ = (verdict._repr_mimebundle_()["text/html"] for verdict in shown)
    assert "Verdict: false." in first
    assert "Verdict" not in second
    assert "second thing" in second


# --- checks that fell and are under review ---


@pytest.fixture
def listed(monkeypatch):
    entries = [
        {"claim": "one", "part": None, "number": "3", "reason": "The <rate> is at an edge."},
        {"claim": "two", "part": "b", "number": "0.2 [0, 0.4], n = 5", "reason": "Why?"},
    ]
    monkeypatch.setattr(evidence, "awaiting", lambda: entries)


@pytest.mark.usefixtures("listed")
def test_a_listed_check_that_fails_shows_its_number_and_no_verdict(shown):
    check("one", measured=[1.0, 1.1, 1.2], above=2)
    bundle = shown[0]._repr_mimebundle_()
    assert "1.10 [0.85, 1.35], n = 3</strong>, predicted above 2" in bundle["text/html"]
    assert "<strong>Under review.</strong> The &lt;rate&gt; is at an edge." in bundle["text/html"]
    assert "Verdict" not in bundle["text/html"]
    assert "It is so." not in bundle["text/html"]  # nor the finding
    assert bundle[evidence.MIME]["review"] == "under review"
    assert bundle["text/plain"].endswith("predicted above 2; under review")


@pytest.mark.usefixtures("listed")
def test_a_listed_check_that_passes_again_says_so(shown):
    check("one", measured=[1.0, 1.1, 1.2], above=0)
    assert shown[0].review == "passes again"
    assert "Under review" in shown[0]._repr_mimebundle_()["text/html"]  # until it leaves the list


@pytest.mark.usefixtures("listed")
def test_the_list_excuses_only_what_it_names(shown):
    check("two", "b", measured=0.0, above=1)
    with pytest.raises(EvidenceError):
        check("two", "a", measured=0.0, above=1)
    with pytest.raises(EvidenceError):
        check("one", "at rest", measured=0.0, above=1)
    with pytest.raises(ValueError, match="must be finite"):
        check("one", measured=[0.0, 1.0, float("nan")], above=1)
    with pytest.raises(ValueError, match="at least 3"):
        check("one", measured=[0.0, 0.0], above=1)
    assert len(shown) == 1


@pytest.mark.usefixtures("listed")
def test_one_part_under_review_leaves_the_claim_without_a_verdict(shown):
    check("two", "a", measured=2.0, above=1)
    assert shown[0].review == ""
    html = shown[0]._repr_mimebundle_()["text/html"]
    assert "<strong>Under review.</strong> Why?" in html
    assert "Verdict" not in html


def test_both_lists_are_found_where_nbutils_is(monkeypatch):
    monkeypatch.undo()
    assert evidence.claims()
    assert isinstance(evidence.awaiting(), list)
    with pytest.raises(FileNotFoundError, match=r"nothing.yml was looked for at .*reinstall"):
        evidence._read("nothing.yml")
