from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from jscan import rescaled
from jscan.blockperiod import Candidate
from jscan.rescaled import Scale

PICTURE = np.ascontiguousarray(data.astronaut()[..., 1])


def test_restoring_moves_by_the_phase() -> None:
    assert np.array_equal(rescaled.restore(PICTURE, Scale(1.0)), PICTURE)
    assert np.array_equal(rescaled.restore(PICTURE, Scale(1.0, (1.0, 2.0)))[:-1, :-2], PICTURE[1:, 2:])
    assert rescaled.restore(PICTURE, Scale(8 / 7, (0.5, 0.0))).shape == rescaled.size(PICTURE, 8 / 7)


def test_a_phase_brings_blocks_back_to_whole_pixels() -> None:
    """Blocks of 8 pixels, seen half a pixel away: at phase 0 no pixel lies on the middle of a flat block's edge."""
    blocks = np.kron(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4), np.ones((8, 8), np.uint8))
    moved = cv2.warpAffine(blocks, np.array([[1.0, 0, 0.5], [0, 1, 0]]), (32, 32), borderMode=cv2.BORDER_REPLICATE)
    back = rescaled.restore(moved, Scale(1.0, (0.0, 0.5)))
    edges = np.abs(np.diff(back[:, 4:28].astype(int), axis=1)).sum(axis=0)
    blurred = np.abs(np.diff(moved[:, 4:28].astype(int), axis=1)).sum(axis=0)
    assert edges.max() > 1.2 * blurred.max()


def test_a_piece_is_restored_as_the_whole_is_there() -> None:
    scale, corner = Scale(1.171, (0.3, 0.8)), (57, 130)
    whole = rescaled.restore(PICTURE, scale)
    piece = rescaled.restore(np.ascontiguousarray(PICTURE[57:257, 130:330]), scale.within(corner))
    y, x = (
        round(at * scale.factor + here - there)
        for at, here, there in zip(corner, scale.within(corner).phase, scale.phase, strict=True)
    )
    inner = whole[y + 8 : y + 208, x + 8 : x + 208].astype(int)
    assert np.abs(inner - piece[8:208, 8:208]).max() <= 2  # but for the last bits of where pixels lie


def test_at_its_place_another_scale_leaves_blocks_where_they_were() -> None:
    scale, place = Scale(1.25, (0.4, 0.1)), (300, 211)
    other = scale.about(place, 0.99)
    assert other.factor == pytest.approx(1.2375)

    def between_pixels(of: Scale) -> np.ndarray:
        return (np.add(place, 0.5) * of.factor - np.array(of.phase)) % 1

    assert between_pixels(other) == pytest.approx(between_pixels(scale))
    assert between_pixels(scale.about(place, move=(0.25, 0.5))) == pytest.approx(
        (between_pixels(scale) - (0.25, 0.5)) % 1
    )


def checkered(factor: float, phase: tuple[float, float]) -> np.ndarray:
    """Blocks of 8 pixels that were resized, with their edges between pixels."""
    cells = np.random.default_rng(3).integers(40, 216, (80, 80)).astype(np.uint8)
    blocks = np.kron(cells, np.ones((8, 8), np.uint8))
    back = np.array([[factor, 0, phase[1]], [0, factor, phase[0]]])
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(blocks, back, (512, 512), flags=how))


def sharpness(luma: np.ndarray) -> float:
    """How much of all steps between pixels lies at every eighth: most where blocks are whole again."""
    total = 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(luma.astype(int), axis=axis)).sum(axis=1 - axis)
        own = np.array([steps[k::8].sum() for k in range(8)])
        total += float(own.max() / max(own.sum(), 1))
    return total


def test_the_scale_and_where_blocks_lie_between_pixels_are_found() -> None:
    factor, place = 1.09, (180, 330)
    luma = checkered(factor, (0.7, 0.4))
    near = Candidate(8 / factor * 1.003, place)
    found = rescaled.find(luma, near, lambda pixels: 10 * sharpness(pixels))
    assert found is not None and abs(found.factor / factor - 1) < 0.001
    assert sharpness(rescaled.restore(luma, found)) > 1.2 * sharpness(rescaled.restore(luma, Scale(8 / near.period)))


def test_only_a_square_around_the_place_is_looked_at() -> None:
    seen: list[tuple[int, ...]] = []

    def shown(pixels: np.ndarray) -> float:
        seen.append(pixels.shape)
        return 100.0

    assert rescaled.find(np.zeros((900, 1300), np.uint8), Candidate(8.0, (890, 10)), shown) is not None
    assert max(max(shape) for shape in seen) <= rescaled.FINE_SQUARE * 1.01
    assert len(seen) <= 30


@pytest.mark.parametrize("much", [0.0, rescaled.LEAST_SHOWN - 0.1])
def test_where_too_little_shows_there_is_no_scale(much: float) -> None:
    assert rescaled.find(PICTURE, Candidate(7.0, (200, 200)), lambda pixels: much) is None


def test_the_scales_around_a_candidate_begin_with_its_own() -> None:
    scales = rescaled.around(Candidate(6.4, (10, 20)))
    assert {s.factor for s in scales[:4]} == {1.25} and len({s.phase for s in scales[:4]}) == 4
    assert sorted(abs(s.factor / 1.25 - 1) for s in scales) == [abs(s.factor / 1.25 - 1) for s in scales]
