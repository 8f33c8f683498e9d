"""The repository's address: the same in all its places, and rewritten in all of them."""

from __future__ import annotations

import re
from pathlib import Path

import address
import pytest
import setup_cell
from repository import ROOT, tracked


@pytest.mark.parametrize("path", address.places(ROOT), ids=lambda path: path.name)
def test_address_is_the_same_everywhere(path):
    url = setup_cell.address()
    text = path.read_text(encoding="utf-8")
    assert url in text
    if url != setup_cell.PLACEHOLDER:
        assert setup_cell.PLACEHOLDER not in text


def test_no_other_file_holds_the_address():
    """One that does would keep the old address when `make address` writes a new one."""
    elsewhere = {path for path in tracked() if holds(path, setup_cell.address())}
    assert elsewhere - {ROOT / "tools/setup_cell.py"} == set(address.places(ROOT))


def holds(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()


@pytest.mark.parametrize(
    "url",
    ["", "github.com/a/b", "http://github.com/a/b", "https://github.com/a", "https://x.org/a/b"],
)
def test_bad_address_is_refused_with_an_example(url):
    with pytest.raises(ValueError, match=re.escape(address.EXAMPLE)):
        address.cleaned(url)


def test_address_is_rewritten_in_all_places_and_back(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for path in address.places(ROOT):
        copy = tmp_path / path.relative_to(ROOT)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    before = {path: path.read_text(encoding="utf-8") for path in address.places(tmp_path)}
    old = setup_cell.address()
    new = old.replace("https://github.com/", "https://github.com/moved-")
    assert address.rewrite(tmp_path, old, address.cleaned(f"{new}.git")) == list(before)
    assert all(new in path.read_text(encoding="utf-8") for path in before)
    assert all(old not in path.read_text(encoding="utf-8") for path in before)
    address.rewrite(tmp_path, new, old)
    assert {path: path.read_text(encoding="utf-8") for path in before} == before


def test_a_longer_name_is_another_address(tmp_path):
    (tmp_path / "notebooks").mkdir()
    old, new = "https://github.com/a/b", "https://github.com/c/d"
    others = f"{old}-c {old}_c {old}c {old}2"
    for path in address.places(tmp_path):
        path.write_text(f"{old} {old}.git ({old}) {old}/issues {others}", encoding="utf-8")
    address.rewrite(tmp_path, old, new)
    for path in address.places(tmp_path):
        text = path.read_text(encoding="utf-8")
        assert text == f"{new} {new}.git ({new}) {new}/issues {others}"
