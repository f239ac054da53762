"""What is found in images that were saved losslessly after a double compression: last grid and table, then Q1."""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from jscan.jpegtables import N_COEFS, ZIGZAG
from jscan.tiling import BLOCK
from train import compress
from train.measure_metrics import accuracy
from train.measure_q1 import Job, Windows, by_line, source, steps_of, twice
from train.measure_rows import LOSSLESS_ROWS
from train.measure_sets import Images, scanner

WINDOWS_PER_SCAN = 40
"""Windows asked for that one image, scanned as a JPEG and as pixels, stands for."""
TRACE = 0.001
"""Share of blocks in which a coefficient must not be zero for its step to count as one that leaves a trace."""


def traced(luma: npt.NDArray[np.uint8], table: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """(64,) whether a step leaves a trace in the luma (H, W) of a JPEG with this table; both in zigzag order."""
    rows, cols = (s // BLOCK for s in luma.shape)
    centred = luma[: rows * BLOCK, : cols * BLOCK].astype(np.float64) - 128
    blocks = centred.reshape(rows, BLOCK, cols, BLOCK).transpose(0, 2, 1, 3).reshape(-1, BLOCK, BLOCK)
    coefficients = np.stack([cv2.dct(block) for block in blocks])[:, *np.array(ZIGZAG).T]
    seen: npt.NDArray[np.bool_] = (np.abs(coefficients) > np.array(table) / 2).mean(axis=0) >= TRACE
    return seen


def lossless(job: Job) -> Windows:
    """What was found in `count` double JPEGs of one image and in their pixels, and the truth, a value each.

    The pixels are cropped at random once more, so that the last grid does not begin in the corner. `last`, `grid`,
    `table`, `first_15`, `trace`: whether a last compression was found, its grid, all 64 steps, the first 15, and those
    that leave a trace were right; `steps` (0 to 1) the share of right steps; `qf_error`, NaN where none was found. Of
    the Q1 map of the pixels, and with `file_` of the JPEG: `cells`, `said` that have an answer, and of these `right`,
    the sum over cells of the share of right steps, and `square`, the same of the square error.
    """
    path, row, count, seed = job
    rng, image = random.Random(seed), source(path, row)
    parts: list[dict[str, Any]] = []
    for _ in range(count):
        data, _, true = twice(image, row, rng)
        y, x = rng.randrange(BLOCK), rng.randrange(BLOCK)
        pixels = cv2.cvtColor(compress.decode(data), cv2.COLOR_BGR2RGB)
        by_file = scanner().scan(data)
        by_pixels = scanner().scan(np.ascontiguousarray(pixels[y:, x:], np.uint8))
        if by_file.maps is None or by_pixels.maps is None:
            raise ValueError(f"{path} could not be scanned: {by_file.record.error or by_pixels.record.error}")
        last, table, whole = by_pixels.last, by_file.record.q2_luma, by_file.image
        assert table is not None and whole is not None
        found = np.zeros(64, int) if last is None else np.array(last.table)
        same = found == np.array(table)
        parts.append(
            {
                "last": last is not None,
                "grid": last is not None and last.origin == (-y % BLOCK, -x % BLOCK),
                "table": same.all(),
                "first_15": same[:N_COEFS].all(),
                "trace": same[traced(whole.luma, table)].all(),
                "steps": same.mean(),
                "qf_error": np.nan if last is None else abs(last.qf - true["qf2"]),
                **_counts("", steps_of(by_pixels.maps), true["truth"]),
                **_counts("file_", steps_of(by_file.maps), true["truth"]),
            }
        )
    return {name: np.array([p[name] for p in parts]) for name in parts[0]}


def _counts(name: str, found: npt.NDArray[np.int16], truth: npt.NDArray[np.int16]) -> dict[str, float]:
    """Counts of the cells of one map (n, 15) whose truth is (15,), under `<name>cells` and so on; see `lossless`."""
    said = found[found[:, 0] > 0]
    return {
        f"{name}cells": len(found),
        f"{name}said": len(said),
        f"{name}right": float((said == truth).mean(axis=1).sum()),
        f"{name}square": float(((said.astype(np.float64) - truth) ** 2).mean(axis=1).sum()),
    }


def figures(w: Windows) -> dict[str, Any]:
    """Figures of the images of one line: how often the last compression was found and right, and Q1.

    Q1's figures are of the cells that have an answer; `accuracy_all` counts the others as wrong. Those that end in
    `_file` are of the same images as JPEG files, which hold their table; `accuracy_known` and `accuracy_mistaken` of
    the images whose last grid and first 15 steps were right, and of the others.
    """
    known = w["grid"] & w["first_15"]
    errors = w["qf_error"][w["last"]]

    def mean(of: str, by: str, here: npt.NDArray[np.bool_] | slice = slice(None)) -> float | None:
        total = float(w[by][here].sum())
        return float(w[of][here].sum()) / total if total else None

    everything = np.ones(len(known), bool)
    return {
        "images": len(known),
        "last_found": accuracy(w["last"], everything),
        "grid_right": accuracy(w["grid"], everything),
        "table_right": accuracy(w["table"], everything),
        "first_15_right": accuracy(w["first_15"], everything),
        "traced_right": accuracy(w["trace"], everything),
        "steps_right": float(w["steps"].mean()),
        "qf_error": float(errors.mean()) if errors.size else None,
        "accuracy": mean("right", "said"),
        "mse": mean("square", "said"),
        "accuracy_all": mean("right", "cells"),
        "accuracy_file": mean("file_right", "file_said"),
        "mse_file": mean("file_square", "file_said"),
        "accuracy_all_file": mean("file_right", "file_cells"),
        "accuracy_known": mean("right", "said", known),
        "accuracy_mistaken": mean("right", "said", ~known),
    }


def measure_lossless(sets: Images, count: int, workers: int) -> dict[str, Any]:
    """Figures by set and line, each from a fortieth of `count` images; see `figures`."""
    return by_line(sets, LOSSLESS_ROWS, max(1, count // WINDOWS_PER_SCAN), workers, lossless, figures)
