"""Every kind of region has its words, and the README explains it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jscan.wording import KINDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_all_kinds_that_a_region_may_have_are_there() -> None:
    named = set(
        re.findall(r'"([a-z0-9]+(?:_[a-z0-9]+)+)"', (ROOT / "jscan" / "regions.py").read_text(encoding="utf-8"))
    )
    assert named == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_differ_and_are_explained(kind: str) -> None:
    assert f"`{kind}`" in README
    for others in zip(*(KINDS[k] for k in KINDS if k != kind), strict=True):
        assert not set(KINDS[kind]) & set(others)
    assert all(text.isascii() for text in KINDS[kind]), "a heatmap's font draws no more"
