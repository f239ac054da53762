"""The background's history, and the maps in which each window is compared with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from material import frozen, mixed, photo, posteriors, rng

from jscan import history
from jscan.history import JPEG_CHANNELS, PIXEL_CHANNELS, Background
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET, standard_table
from jscan.records import WindowPosteriors
from jscan.tiling import STRIDE, WINDOW, window_grid

GROUND = tuple(int(q) for q in standard_table(70)[:N_COEFS])
PASTED = tuple(int(q) for q in standard_table(90)[:N_COEFS])
Q2 = tuple(int(q) for q in standard_table(95))
ODD = (3, 9, 2, 7, 12, 1, 16, 4, 13, 5, 18, 6, 11, 10, 24)
PATCH = (slice(6, 10), slice(8, 13))


def luma(height: int = 320, width: int = 400) -> npt.NDArray[np.uint8]:
    grey = cv2.cvtColor(photo(), cv2.COLOR_RGB2GRAY)[:height, :width]
    out = np.asarray(grey, np.uint8).copy()
    out.setflags(write=False)
    return out


def channel(maps: npt.NDArray[Any], names: tuple[str, ...], name: str) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = maps[names.index(name)]
    return found


# --- background ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [GROUND, PASTED, ODD, Q1_MAX, (1,) * 15])
@pytest.mark.parametrize("shift", [0, 19, 63])
def test_the_background_is_found(table: tuple[int, ...], shift: int) -> None:
    base = history.background(posteriors(table, shift, p=0.5))
    assert (base.table, base.shift) == (table, shift) and base.fraction > 0.9


@pytest.mark.parametrize("qf", [1, 37, 100])
def test_the_background_of_pixels_is_found(qf: int) -> None:
    base = history.background(posteriors((qf,), 8, p=0.5))
    assert (base.table, base.shift) == ((qf,), 8) and base.fraction > 0.9


def test_the_minority_does_not_decide() -> None:
    found = mixed(posteriors(GROUND, 5, p=0.4), posteriors(PASTED, 40, p=0.99), *PATCH)
    base = history.background(found)
    assert (base.table, base.shift) == (GROUND, 5)


def test_table_and_grid_are_those_of_the_same_windows() -> None:
    """Of two histories that are about as large one may have the surer steps, the other the surer grid."""
    steps_sure, grid_sure = posteriors(GROUND, 5, p=0.9), posteriors(PASTED, 40, p=0.9)
    one = replace(steps_sure, shift=posteriors(GROUND, 5, p=0.3).shift)
    two = replace(grid_sure, logp=posteriors(PASTED, 40, p=0.3).logp)
    rows = slice(0, one.present.shape[0] // 2)
    base = history.background(mixed(one, two, rows, slice(None)))
    assert (base.table, base.shift) == (PASTED, 40)


def test_windows_that_are_left_out_are_not_the_background() -> None:
    found = mixed(posteriors(PASTED, 40, p=0.99), posteriors(GROUND, 5, p=0.4, present=0.2), *PATCH)
    without = np.ones(found.present.shape, bool)
    without[PATCH] = False
    base = history.background(found, without)
    assert (base.table, base.shift) == (GROUND, 5) and base.fraction == pytest.approx(0.2, abs=0.01)
    assert history.background(found, ~without).fraction > 0.9


def test_unsure_windows_do_not_count() -> None:
    found = posteriors(PASTED, 40, p=0.99, present=0.02)
    found = mixed(found, posteriors(GROUND, 5, p=0.4), *PATCH)
    base = history.background(found)
    assert (base.table, base.shift) == (GROUND, 5)
    assert base.fraction < 0.2


@pytest.mark.parametrize("present", [0.0, 0.5, 1.0])
def test_the_share_of_windows_that_show_it(present: float) -> None:
    assert history.background(posteriors(GROUND, 0, present=present)).fraction == pytest.approx(
        0 if present == 0.5 else present, abs=1e-6
    )


def test_sureness() -> None:
    found = posteriors(GROUND, 0, present=0.25)
    assert np.allclose(history.sureness(found), 0.5)


# --- channels -----------------------------------------------------------------------------------------------


def channels(found: WindowPosteriors, base: Background | None = None) -> npt.NDArray[Any]:
    base = base or history.background(found)
    pixels = history.content(luma(*found.size), found)
    if found.logp.shape[2] == 100:
        return history.pixel_channels(found, base, pixels)
    return history.jpeg_channels(found, base, Q2, pixels, np.full((3, *found.present.shape), 0.5, np.float32))


@pytest.mark.parametrize("present", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("table", [GROUND, (1,) * 15, (1,), (80,), (100,)])
def test_channels_are_finite_and_in_order(table: tuple[int, ...], present: float) -> None:
    found = posteriors(table, 63, present=present, p=0.99999)
    names = PIXEL_CHANNELS if len(table) == 1 else JPEG_CHANNELS
    maps = channels(found)
    assert maps.shape == (len(names), *found.present.shape) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and np.abs(maps).max() < 20
    pixels = history.content(luma(*found.size), found)
    assert np.array_equal(channel(maps, names, "texture"), pixels.texture)
    assert np.array_equal(channel(maps, names, "saturated"), pixels.saturated)
    # What is told of the whole image is the same everywhere.
    for name in names:
        if name.startswith("mean_") or name in ("background_over_q2", "log_q2", "background_qf_value"):
            assert len(np.unique(channel(maps, names, name))) == 1, name


@pytest.mark.parametrize("size", [100, Q1_OFFSET[-1]])
def test_the_lowest_posteriors_stay_finite(size: int) -> None:
    shape = window_grid(200, 300)
    lowest, none = np.full((*shape, size), -30, np.float16), np.zeros(shape, np.float32)
    found = frozen(WindowPosteriors(lowest, np.full((*shape, 64), -30, np.float16), none, (0, 0), (200, 300)))
    assert np.isfinite(channels(found)).all()


def test_steps_of_a_16_bit_table() -> None:
    found = posteriors(GROUND, 3)
    pixels, against = history.content(luma(), found), np.zeros((3, *found.present.shape), np.float32)
    maps = history.jpeg_channels(found, history.background(found), (65535,) * 64, pixels, against)
    assert np.isfinite(maps).all()


@pytest.mark.parametrize(("ground", "pasted"), [(GROUND, PASTED), ((70,), (90,))])
def test_a_pasted_part_stands_out(ground: tuple[int, ...], pasted: tuple[int, ...]) -> None:
    found = mixed(posteriors(ground, 5), posteriors(pasted, 40), *PATCH)
    base = history.background(found)
    maps = channels(found, base)
    names = JPEG_CHANNELS if len(ground) > 1 else PIXEL_CHANNELS
    inside = np.zeros(found.present.shape, bool)
    inside[PATCH] = True
    other = "table_elsewhere_3" if len(ground) > 1 else "qf_elsewhere_3"
    here = "background_low" if len(ground) > 1 else "background_qf"
    for name in ("shift_elsewhere_3", other):
        values = channel(maps, names, name)
        assert values[8, 10] > 0.5 and values[0, 0] <= 0, name
    for name in ("shift_background", here):
        values = channel(maps, names, name)
        assert values[inside].max() < values[~inside].min(), name
    if len(ground) > 1:
        coarser = channel(maps, names, "coarser_low")
        assert coarser[inside].max() < -0.3 and np.abs(coarser[~inside]).max() < 0.25
    else:
        difference = channel(maps, names, "qf_difference")
        assert difference[inside].min() > 0.5 and np.abs(difference[~inside]).max() < 0.3


def test_a_part_that_was_compressed_once() -> None:
    found = mixed(posteriors(GROUND, 5), posteriors(GROUND, 5, present=0.03), *PATCH)
    logit = channel(channels(found), JPEG_CHANNELS, "double_logit")
    assert logit[8, 10] < -0.5 and logit[0, 0] > 0.5


@pytest.mark.parametrize("side", [3, 7])
def test_elsewhere_equals_its_definition(side: int) -> None:
    scores = rng(1).normal(0, 2, (9, 12, 6)).astype(np.float32)
    got = history._elsewhere(np.ascontiguousarray(scores.transpose(2, 0, 1)), 2)[0 if side == 3 else 1]
    half = side // 2
    for r in range(9):
        for c in range(12):
            near = [
                scores[min(max(r + dy, 0), 8), min(max(c + dx, 0), 11)]
                for dy in range(-half, half + 1)
                for dx in range(-half, half + 1)
            ]
            means = np.mean(near, axis=0)
            lead = max(np.delete(means, 2)) - means[2]
            assert got[r, c] == pytest.approx(np.clip(lead, -8, 8) / 3, abs=1e-4)


@pytest.mark.parametrize("strip", [1, 5])
def test_strips_leave_no_trace(monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    found = mixed(posteriors((70,), 5, p=0.3), posteriors((90,), 40, p=0.7), *PATCH)
    whole, base = channels(found), history.background(found)
    monkeypatch.setattr(history, "_STRIP", strip)
    assert history.background(found) == base
    assert np.allclose(channels(found), whole, atol=1e-5)


# --- content ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [(0, 0), (3, 5), (7, 7)])
@pytest.mark.parametrize("size", [(64, 64), (73, 300), (150, 143), (320, 400)])
def test_texture_and_saturation_equal_their_definition(size: tuple[int, int], origin: tuple[int, int]) -> None:
    image = luma(size[0] + origin[0], size[1] + origin[1]).copy()
    image[20:40, 30:50] = 255
    image[10:20, 5:30] = 0
    image.setflags(write=False)
    found = posteriors((80,), 0, height=image.shape[0], width=image.shape[1], origin=origin)
    pixels = history.content(image, found)
    texture, saturated = pixels.texture, pixels.saturated
    assert np.allclose(history.deviation(pixels), np.expm1(3 * texture))
    for r, c in np.ndindex(texture.shape):
        y, x = origin[0] + r * STRIDE, origin[1] + c * STRIDE
        window = image[y : y + WINDOW, x : x + WINDOW].astype(float)
        assert texture[r, c] == pytest.approx(np.log1p(window.std()) / 3, abs=1e-4)
        assert saturated[r, c] == pytest.approx(((window < 2) | (window > 253)).mean(), abs=1e-6)


def test_flat_and_saturated_windows_are_mute() -> None:
    image = luma().copy()
    image[:128, :128] = 120
    image[:128, 128:256] = 255
    image[200:264, :64] = 100 + np.arange(64) % 2 * 2  # faint, but no more than one grey level away from its mean
    found = posteriors((80,), 0)
    mute = history.mute(history.content(image, found))
    assert mute.shape == found.present.shape and mute.dtype == bool
    assert mute[:5, :5].all() and mute[:5, 8:13].all()
    assert not mute[13, 0], "a deviation of 1 is more than rounding noise"
    assert not mute[10:, 5:].all()
