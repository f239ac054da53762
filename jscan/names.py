"""Names of files as people read them."""

from __future__ import annotations


def display_path(path_bytes: bytes) -> str:
    r"""The path as one line of text: bytes that are not UTF-8, and control characters, as backslash escapes.

    Marks that reorder text (U+202E and its like) are escaped as well, so that a name reads as it is stored.
    """
    text = path_bytes.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
