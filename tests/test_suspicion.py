"""Where the consistency model's answers lie on the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jscan import history, suspicion, weights
from jscan.tiling import BLOCK, STRIDE, WINDOW, cells, window_grid

ORIGINS = st.integers(0, 7)


class Corners:
    """In place of a model: every window answers 1, 2, 3, 4 for its four cells, times 1 + its number."""

    def __call__(self, maps: npt.NDArray[np.float32]) -> dict[str, Any]:
        rows, cols = maps.shape[2:]
        number = 1 + np.arange(rows * cols, dtype=np.float32).reshape(rows, cols)
        return {"logits": np.stack([k * number for k in (1, 2, 3, 4)])[None]}


def test_a_window_answers_for_four_cells() -> None:
    answers = suspicion.estimate(Corners(), np.zeros((5, 2, 3)))  # type: ignore[arg-type]
    assert answers.tolist() == [
        [1, 2, 2, 4, 3, 6],
        [3, 4, 6, 8, 9, 12],
        [4, 8, 5, 10, 6, 12],
        [12, 16, 15, 20, 18, 24],
    ]


def hot_cells(size: tuple[int, int], origin: tuple[int, int], r: int, c: int) -> list[tuple[int, int]]:
    """The cells of an image in which a single hot window shows."""
    rows, cols = window_grid(size[0] - origin[0], size[1] - origin[1])
    answers = np.zeros((2 * rows, 2 * cols), np.float32)
    answers[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = 1
    shown = suspicion.to_cells(answers, size, origin)
    assert shown.shape == (cells(size[0]), cells(size[1]))
    return [(int(y), int(x)) for y, x in np.argwhere(shown)]


def test_a_hot_window_shows_at_its_centre() -> None:
    # Windows (3, 5) covers rows 48 to 112 and columns 80 to 144; its centre is the corner of four cells.
    assert hot_cells((320, 400), (0, 0), 3, 5) == [(9, 13), (9, 14), (10, 13), (10, 14)]


@given(ORIGINS, ORIGINS, st.integers(1, 9), st.integers(1, 9))
def test_a_hot_window_shows_there_on_any_grid(oy: int, ox: int, r: int, c: int) -> None:
    shown = hot_cells((320, 320), (oy, ox), r, c)
    assert len(shown) == 4
    for y, x in shown:
        for cell, window, origin in ((y, r, oy), (x, c, ox)):
            centre = origin + STRIDE * window + WINDOW / 2
            assert abs(BLOCK * cell + BLOCK / 2 - centre) <= BLOCK


@given(st.integers(64, 700), ORIGINS)
def test_every_cell_takes_the_nearest_answer(length: int, origin: int) -> None:
    if length - origin < WINDOW:
        return
    windows = window_grid(length - origin, WINDOW)[0]
    index = suspicion._axis(length, windows, origin)
    places = origin + WINDOW / 2 - STRIDE / 4 + STRIDE / 2 * np.arange(2 * windows)
    distance = np.abs(places[None, :] - (BLOCK * np.arange(cells(length)) + BLOCK / 2)[:, None])
    assert np.array_equal(distance[np.arange(len(index)), index], distance.min(axis=1))
    # One answer a cell between the outer ones, none left out and none twice.
    between = (index > 0) & (index < 2 * windows - 1)
    assert (np.diff(index[between]) == 1).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (17, 29)])
@pytest.mark.parametrize("name", [suspicion.JPEG_MODEL, suspicion.PIXEL_MODEL])
def test_the_models_take_any_grid_of_windows(name: str, shape: tuple[int, int]) -> None:
    names = history.JPEG_CHANNELS if name == suspicion.JPEG_MODEL else history.PIXEL_CHANNELS
    maps = np.random.default_rng(0).normal(0, 1, (len(names), *shape))
    maps.setflags(write=False)
    answers = suspicion.estimate(weights.load(name), maps)
    assert answers.shape == (2 * shape[0], 2 * shape[1]) and answers.dtype == np.float32
    assert np.isfinite(answers).all()
