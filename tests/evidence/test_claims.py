"""The files of claims and references, as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def read(name: str) -> list[dict]:
    return yaml.safe_load((ROOT / "book" / name).read_text(encoding="utf-8"))


def test_no_claim_says_a_thing_twice():
    """YAML keeps the last of two equal keys and is silent about the first; so would an id."""
    source = (ROOT / "book/claims.yml").read_text(encoding="utf-8")
    entries = yaml.compose(source).value
    for entry in entries:
        keys = [key.value for key, _ in entry.value]
        assert len(keys) == len(set(keys)), f"line {entry.start_mark.line + 1}: {keys}"
    names = [claim["id"] for claim in yaml.safe_load(source)]
    assert sorted(names) == sorted(set(names))


def test_claims_stand_in_the_order_of_the_chapters():
    order = [claim["chapter"] for claim in read("claims.yml")]
    assert order == sorted(order)


def test_references_are_complete_entries():
    source = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([\w:-]+),\n(?:  \w+ = \{.*\},?\n)+\}$", source, re.MULTILINE)
    assert len(entries) == source.count("\n@") + source.startswith("@")
    assert len(entries) == len(set(entries))


def test_the_list_of_checks_under_review_names_claims_and_parts():
    claims = {claim["id"]: claim for claim in read("claims.yml")}
    for entry in read("awaiting.yml"):
        assert set(entry) == {"claim", "part", "number", "reason"}, entry
        assert all(entry[field] for field in ("claim", "number", "reason")), entry
        assert entry["claim"] in claims, f"no claim {entry['claim']!r} in claims.yml"
        quantity = claims[entry["claim"]]["quantity"]
        if isinstance(quantity, dict):
            assert entry["part"] in quantity, f"{entry['claim']} has the parts {list(quantity)}"
