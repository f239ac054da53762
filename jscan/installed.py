"""What is installed here that decides what stands in a row: jscan's models and the libraries they are run with."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path

from jscan import weights

COMPUTING = ("numpy", "opencv-python-headless", "pillow", "simplejpeg", "numba", "onnxruntime", "onnxruntime-gpu")
"""Distributions that workers compute with."""
LIBRARIES = (*COMPUTING, "pyarrow")
"""Distributions whose versions stand in the manifest."""


def libraries(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of these distributions by name, without those that are not installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_digests() -> dict[str, str]:
    """SHA-256 of each model that is installed, by name, as its manifest states it. Raises ModelError."""
    return {name: str(weights.manifest(name)["digest"]) for name in weights.names()}


def facts(sources: Sequence[Path], outputs: Sequence[Path]) -> dict[str, str]:
    """What must be the same on all machines of a run: libraries, models, and what these paths are. Raises ModelError.

    A folder of sources without anything in it is told from others: that is how a disk that is not mounted looks.
    """
    found = libraries(COMPUTING)
    found |= {f"the model {name}": digest[:12] for name, digest in model_digests().items()}
    found |= {str(path): _kind(path, look_inside=True) for path in sources}
    found |= {str(path): _kind(path, look_inside=False) for path in outputs}
    return found


def _kind(path: Path, *, look_inside: bool) -> str:
    if not os.path.isdir(path):
        return "a file" if os.path.lexists(path) else "missing"
    if not look_inside:
        return "a folder"
    try:
        with os.scandir(path) as entries:
            return "a folder" if next(entries, None) is not None else "an empty folder"
    except OSError as error:
        return f"a folder that cannot be read ({error.strerror})"
