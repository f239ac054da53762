from __future__ import annotations

from jscan.names import display_path


def test_display_path() -> None:
    assert display_path("größe/a b.jpg".encode()) == "größe/a b.jpg"
    assert display_path(b"\x00\x7f\xff") == "\\x00\\x7f\\xff"
    assert display_path("\x85\u2028\U000e0001".encode()) == "\\x85\\u2028\\U000e0001"
