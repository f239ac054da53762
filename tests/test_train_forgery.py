"""Made forgeries: their masks, kinds and histories."""

from __future__ import annotations

import random
from collections import Counter

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import photo

from jscan.jpegtables import ZIGZAG
from jscan.tiling import window_grid
from train import forgery
from train.cases import cell_labels, centres, made_of
from train.dataset import image_weights
from train.forgery import JPEG_KINDS, PIXEL_KINDS, Case

IMAGES = [np.ascontiguousarray(photo(name, 1.2)[..., ::-1]) for name in ("astronaut", "coffee")]
WEIGHTS = image_weights(IMAGES)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Sixty JPEG files and sixty lossless ones."""
    rng = random.Random(1)
    return [forgery.make(k < 60, IMAGES, WEIGHTS, rng) for k in range(120)]


SHAPES = ((320, 320), (504, 504), (200, 500))


def box_of(mask: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the smallest box around the mask."""
    rows, cols = (np.flatnonzero(mask.any(axis=k)) for k in (1, 0))
    return int(rows[0]), int(cols[0]), int(rows[-1] - rows[0] + 1), int(cols[-1] - cols[0] + 1)


def test_large_masks_are_of_moderate_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgery, "SMALL_SHARE", 0.0)
    rng = random.Random(0)
    for height, width in SHAPES:
        for _ in range(40):
            mask = forgery.draw_mask(rng, height, width)
            assert mask.shape == (height, width) and mask.dtype == bool
            assert 0.01 <= mask.mean() <= 0.3


def test_small_masks_are_one_part_with_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgery, "SMALL_SHARE", 1.0)
    rng = random.Random(0)
    strips = blobs = squares = 0
    for height, width in SHAPES:
        for _ in range(60):
            mask = forgery.draw_mask(rng, height, width)
            assert mask.shape == (height, width) and mask.dtype == bool
            assert cv2.connectedComponents(mask.astype(np.uint8))[0] == 2
            y, x, h, w = box_of(mask)
            thin, long = sorted((h, w))
            assert 24 <= thin <= 80 and long <= 160
            if long > 80:
                strips += 1
                assert thin <= 36
            filled = mask.sum() / (h * w)
            assert filled > 0.5
            squares, blobs = squares + (filled == 1 and thin == long), blobs + (filled < 0.95)
            # Labels reach to 24 pixels from the edge; of the smallest part they hold more than one cell.
            assert min(y, x, height - y - h, width - x - w) >= 24
            assert (cell_labels(mask, *window_grid(height, width)) > 0.5).sum() >= 4
    assert min(strips, blobs, squares) > 30


def test_a_third_of_the_masks_is_small() -> None:
    rng = random.Random(0)
    masks = [forgery.draw_mask(rng, 504, 504) for _ in range(300)]
    small = np.mean([max(box_of(mask)[2:]) <= 80 or min(box_of(mask)[2:]) <= 36 for mask in masks])
    assert 0.25 < small < 0.5
    # Parts of about 32 x 32 pixels, which were one training case in fifty.
    assert np.mean([mask.sum() < 30 * 64 for mask in masks]) > 0.1


def test_cases_are_whole(cases: list[Case]) -> None:
    for k, case in enumerate(cases):
        assert case.luma.dtype == np.uint8 and case.luma.ndim == 2 and min(case.luma.shape) >= 64
        assert case.mask.shape == case.luma.shape and case.mask.dtype == bool
        assert case.kind in (JPEG_KINDS if k < 60 else PIXEL_KINDS)
        assert (case.q2 is not None) == (k < 60)
        if case.q2 is not None:
            assert len(case.q2) == 64 and min(case.q2) >= 1


def test_only_forgeries_have_a_mask(cases: list[Case]) -> None:
    for case in cases:
        assert case.mask.any() == (not case.kind.startswith("ok_")), case.kind


def test_kinds_are_varied(cases: list[Case]) -> None:
    for part, kinds in ((cases[:60], JPEG_KINDS), (cases[60:], PIXEL_KINDS)):
        count = Counter(case.kind for case in part)
        assert len(count) >= len(kinds) - 2
        assert 0.2 < sum(n for kind, n in count.items() if kind.startswith("ok_")) / 60 < 0.8


def test_a_jpeg_lies_on_the_grid_of_its_table(cases: list[Case]) -> None:
    """Its coefficients are multiples of the steps that the case states."""
    row, col = ZIGZAG[3]
    for case in cases[:60]:
        if case.q2 is None or case.q2[3] < 4:
            continue
        height, width = (8 * (s // 8) for s in case.luma.shape)
        blocks = (
            case.luma[:height, :width].reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
        )
        inside = blocks[(blocks.min(axis=(1, 2)) > 0) & (blocks.max(axis=(1, 2)) < 255)][::7]
        c = np.array([cv2.dct(b.astype(np.float32) - 128)[row, col] for b in inside])
        off = np.abs(c / case.q2[3] - np.rint(c / case.q2[3])) * case.q2[3]
        assert np.median(off) < 1 and (off < 1.5).mean() > 0.9, case.kind


def test_the_same_seed_gives_the_same_case() -> None:
    a, b = (forgery.make(True, IMAGES, WEIGHTS, random.Random(7)) for _ in range(2))
    assert a.kind == b.kind and np.array_equal(a.luma, b.luma) and np.array_equal(a.mask, b.mask)


def test_pictures_brought_back_to_a_scale() -> None:
    """A compression that was resized away shows on a grid of 8 pixels again, where something was pasted in."""
    rng, kinds, edges = random.Random(3), set(), []
    for _ in range(60):
        case = forgery.make_restored(IMAGES, WEIGHTS, rng)
        assert case.q2 is None and case.ground.table is None and case.mask.shape == case.luma.shape
        assert min(abs(case.luma.shape[0] - side) for side in forgery.SIDES) <= 1
        table = case.piece.table
        assert case.mask.any() == (case.kind == "splice_restored") == (table is not None)
        if table is not None and table[0] > 10 and case.mask.mean() > 0.05:
            steps = np.abs(np.diff(case.luma.astype(float), 2, axis=1))
            by_phase = np.array([steps[:, k::8][case.mask[:, 1:-1][:, k::8]].mean() for k in range(8)])
            edges.append(by_phase / by_phase.mean())
        kinds.add(case.kind)
    assert kinds == {"splice_restored", "ok_restored"} and len(edges) >= 5
    assert np.argmax(np.mean(edges, axis=0)) in (6, 7)  # before and after an edge


def test_pictures_that_were_processed_unevenly() -> None:
    """Most are pristine; what was pasted in before is still where it was."""
    for jpeg in (True, False):
        rng = random.Random(5)
        made = [forgery.make_uneven(jpeg, IMAGES, WEIGHTS, rng) for _ in range(40)]
        count = Counter(case.kind for case in made)
        assert set(count) == {"ok_uneven", "splice_uneven"} and count["splice_uneven"] < 12
        assert len({case.ground.table is None for case in made}) == 2
        for case in made:
            assert (case.q2 is not None) == jpeg and case.mask.shape == case.luma.shape
            assert case.mask.any() == (case.kind == "splice_uneven") == (case.piece.table is not None)


def test_every_file_holds_cases_of_one_maker() -> None:
    restored = [k for k in range(30) if made_of("pixels", k) is forgery.make_restored]
    assert restored == [9, 19, 29] and made_of("jpeg", 9) is not forgery.make_restored
    for name in ("jpeg", "pixels"):
        makers = [made_of(name, k) for k in range(10)]
        uneven = [k for k, maker in enumerate(makers) if getattr(maker, "func", None) is forgery.make_uneven]
        assert uneven == [2, 7]
        assert makers[0].func is forgery.make and makers[0].args == (name == "jpeg",)  # type: ignore[attr-defined]


def test_labels_lie_where_the_answers_do() -> None:
    """The label of a window's four answers is the mask at the four cells around its centre."""
    mask = np.zeros((320, 320), bool)
    mask[80:120, 144:160] = True  # cells 10 to 14 down and 18 to 19 across
    labels = cell_labels(mask, 17, 17)
    assert labels.shape == (34, 34)
    hot = np.argwhere(labels == 1)
    # The first answer stands for cell 3, as `suspicion.to_cells` has it.
    assert hot.min(axis=0).tolist() == [10 - 3, 18 - 3] and hot.max(axis=0).tolist() == [14 - 3, 19 - 3]
    assert labels.sum() == 5 * 2


def test_histories_tell_what_the_parts_went_through(cases: list[Case]) -> None:
    for case in cases[:60]:
        there = {"ground": case.ground.table is not None, "piece": case.piece.table is not None}
        wanted = {
            "splice_double": (True, True),
            "copy_move": (True, True),
            "splice_clean_region": (True, False),
            "splice_clean_background": (False, True),
            "ok_double": (True, False),
            "ok_aligned": (True, False),
            "ok_single": (False, False),
            "ok_resized": (False, False),
            "ok_processed": (True, False),
            "splice_processed": (True, True),
        }[case.kind]
        assert (there["ground"], there["piece"]) == wanted, case.kind
        assert 0 <= case.ground.shift < 64 and 0 <= case.piece.shift < 64
        if case.kind == "copy_move":
            assert case.ground.shift != case.piece.shift and case.ground.table == case.piece.table


def test_the_shift_is_where_blocks_begin() -> None:
    """A coarse first compression leaves steps between its blocks at the shift that the history tells."""
    rng, seen = random.Random(4), 0
    while seen < 6:
        case = forgery.make(False, IMAGES, WEIGHTS, rng)
        table = case.ground.table
        if case.kind != "ok_single" or table is None or table[0] < 16:
            continue
        seen += 1
        steps = np.abs(np.diff(case.luma.astype(float), 2, axis=1)).mean(axis=0)  # peaks before and after an edge
        by_phase = [steps[k::8].mean() + steps[(k + 1) % 8 :: 8].mean() for k in range(8)]
        assert (int(np.argmax(by_phase)) + 2) % 8 == case.ground.shift % 8


def test_centres() -> None:
    mask = np.zeros((128, 96), bool)
    mask[60:, 40:] = True
    inside = centres(mask, 5, 3)
    assert inside.shape == (5, 3) and not inside[:2].any() and np.array_equal(inside[2], [False, True, True])
