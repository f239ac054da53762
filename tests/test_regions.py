"""From suspicion to regions: where they lie, and what is said of their history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from material import mixed, posteriors

from jscan import doubts, history, regions, rescaled
from jscan.clipping import Colours
from jscan.doubts import Witnesses
from jscan.jpegtables import N_COEFS, standard_table
from jscan.kept import Left
from jscan.likelihood import Likelihood
from jscan.records import Agreement, Region, WindowPosteriors
from jscan.tiling import cells, nearest_window

CALIBRATION = {"counts": [40], "weights": [1.0], "bias": -1.0}
HEIGHT, WIDTH = 318, 403


def table(qf: int) -> tuple[int, ...]:
    return tuple(int(q) for q in standard_table(qf)[:N_COEFS])


def logits_with(*boxes: tuple[int, int, int, int], strength: float = 7, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Any:
    """Logits of -6, and `strength` in boxes of cells (top, left, bottom, right)."""
    out = np.full((cells(size[0]), cells(size[1])), -6, np.float32)
    for top, left, bottom, right in boxes:
        out[top:bottom, left:right] = strength
    out.setflags(write=False)
    return out


def windows_of(found: WindowPosteriors, box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    """The windows that the cells of a box show, and a few around."""
    rows = nearest_window(found.size[0], found.present.shape[0], found.origin[0])[box[0] : box[2]]
    cols = nearest_window(found.size[1], found.present.shape[1], found.origin[1])[box[1] : box[3]]
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(cols.min()), int(cols.max()) + 1)


BOX = (12, 16, 28, 36)  # cells


def result_with(
    ground: Any, pasted: Any, origin: tuple[int, int] = (0, 0), *, strength: float = 7, **more: Any
) -> regions.Consistency:
    """What is found with BOX suspicious, posteriors `ground`, and inside it `pasted`: (table, shift, present)."""
    made: list[WindowPosteriors] = [
        posteriors(t, s, present=p, height=HEIGHT, width=WIDTH, origin=origin) for t, s, p in (ground, pasted)
    ]
    found = mixed(made[0], made[1], *windows_of(made[0], BOX))
    texture = np.full(found.present.shape, 20.0)
    logits = logits_with(BOX, strength=strength)
    if len(ground[0]) == 1:  # decoded pixels, of which all but BOX lie on the multiples of their last table
        more = {"agreement": agreement_with(-30, 10), **more}
    return regions.find(logits, found, history.background(found), CALIBRATION, texture, Witnesses(**more))


def found_with(ground: Any, pasted: Any, origin: tuple[int, int] = (0, 0)) -> Region:
    """The region of BOX, as it is found in `result_with`."""
    result = result_with(ground, pasted, origin)
    assert result.suspicion.shape == (cells(HEIGHT), cells(WIDTH)) and result.suspicion.dtype == np.float32
    (region,) = result.regions
    return region


def find(logits: npt.NDArray[np.float32], least: float = 0.5, **more: Any) -> regions.Consistency:
    """What is found where the suspicious cells' windows have another history than the rest."""
    found = posteriors(table(70), 5, height=HEIGHT, width=WIDTH)
    other = posteriors(table(90), 20, height=HEIGHT, width=WIDTH)
    there = np.zeros(found.present.shape, bool)
    rows = nearest_window(HEIGHT, there.shape[0])
    cols = nearest_window(WIDTH, there.shape[1])
    y, x = np.nonzero(np.nan_to_num(logits) > 0)
    there[rows[y], cols[x]] = True
    mixture = replace(
        found,
        logp=np.where(there[..., None], other.logp, found.logp),
        shift=np.where(there[..., None], other.shift, found.shift),
    )
    texture = np.full(there.shape, 20.0)
    return regions.find(
        logits, mixture, history.background(found), CALIBRATION, texture, Witnesses(**more), least=least
    )


def test_a_region_lies_where_the_cells_are() -> None:
    (region,) = find(logits_with(BOX)).regions
    # Smoothing may add or take one cell on each side.
    assert abs(region.y - 8 * 12) <= 8 and abs(region.x - 8 * 16) <= 8
    assert abs(region.y + region.height - 8 * 28) <= 8 and abs(region.x + region.width - 8 * 36) <= 8
    assert region.area <= region.height * region.width
    assert 0.5 <= region.score <= 1


def test_a_region_ends_with_the_image() -> None:
    rows, cols = cells(HEIGHT), cells(WIDTH)
    (region,) = find(logits_with((20, 30, rows, cols))).regions
    assert region.y + region.height == HEIGHT and region.x + region.width == WIDTH
    rows_in, cols_in = HEIGHT - region.y, WIDTH - region.x
    assert rows_in * cols_in - 3 * 64 <= region.area <= rows_in * cols_in  # smoothing takes its inner corner


def test_two_regions_the_strongest_first() -> None:
    weak, strong = logits_with((3, 3, 15, 15), strength=3), logits_with((20, 30, 34, 45))
    result = find(np.maximum(weak, strong))
    first, second = result.regions
    assert first.y > second.y and first.score > second.score >= 0.5
    assert result.score >= first.score - 1e-6


@pytest.mark.parametrize(
    "logits",
    [
        logits_with(),
        logits_with((10, 10, 11, 12)),  # a speck
        np.full((cells(HEIGHT), cells(WIDTH)), np.nan, np.float32),
    ],
)
def test_nothing_stands_out(logits: npt.NDArray[np.float32]) -> None:
    result = find(logits)
    assert result.regions == () and result.score < 0.2
    assert np.isfinite(result.suspicion).all()


@pytest.mark.parametrize("clearer", [True, False])
def test_a_part_is_named_by_its_more_suspicious_half(clearer: bool) -> None:
    """It often reaches over places that tell nothing: here half of it shows no compression."""
    top, left, bottom, right = BOX
    half = (top, left, bottom, (left + right) // 2)
    made = [posteriors((q,), s, present=p, height=HEIGHT, width=WIDTH) for q, s, p in ((90, 0, 0.02), (70, 20, 0.98))]
    found = mixed(made[0], made[1], *windows_of(made[0], half))
    logits = np.maximum(logits_with(BOX, strength=2), logits_with(half, strength=7 if clearer else 2))
    result = regions.find(logits, found, history.background(found), CALIBRATION, np.full(found.present.shape, 20.0))
    assert [r.kind for r in result.regions] == ["jpeg_in_uncompressed"] * clearer
    if clearer:
        assert result.regions[0].qf1 == 70 and result.regions[0].grid_shift == (2, 4)
    else:
        assert result.score < 0.5


def test_the_least_score_of_a_region() -> None:
    faint = logits_with((10, 10, 16, 16), strength=1.5)
    assert find(faint).regions == ()
    assert len(find(faint, least=0.001).regions) == 1


GROUND = (table(70), 11, 0.95)


@pytest.mark.parametrize(
    ("ground", "pasted", "kind", "says_table"),
    [
        (GROUND, (table(90), 11, 0.95), "other_q1", True),
        (GROUND, (table(90), 40, 0.95), "other_q1", True),
        (GROUND, (table(70), 40, 0.95), "other_shift", True),
        (GROUND, (table(70), 11, 0.05), "no_first_compression", False),
        ((table(70), 11, 0.03), (table(80), 40, 0.97), "first_compression", True),
    ],
)
def test_kinds_of_a_jpeg(ground: Any, pasted: Any, kind: str, says_table: bool) -> None:
    region = found_with(ground, pasted)
    assert region.kind == kind
    if says_table:
        assert region.q1 == pasted[0] and region.grid_shift == divmod(pasted[1], 8)
        assert region.qf1 is not None and table(int(region.qf1)) == pasted[0]
    else:
        assert (region.q1, region.qf1, region.grid_shift) == (None, None, None)


@pytest.mark.parametrize(
    ("ground", "pasted", "kind"),
    [
        (((70,), 11, 0.95), ((90,), 11, 0.95), "other_qf"),
        (((70,), 11, 0.95), ((70,), 40, 0.95), "other_shift"),
        (((70,), 11, 0.95), ((70,), 11, 0.05), "uncompressed_in_jpeg"),
        (((70,), 11, 0.03), ((80,), 40, 0.97), "jpeg_in_uncompressed"),
    ],
)
def test_kinds_of_pixels(ground: Any, pasted: Any, kind: str) -> None:
    region = found_with(ground, pasted)
    assert region.kind == kind and region.q1 is None
    if kind == "uncompressed_in_jpeg":
        assert region.qf1 is None and region.grid_shift is None
    else:
        assert region.qf1 == pasted[0][0] and region.grid_shift == divmod(pasted[1], 8)


@pytest.mark.parametrize("origin", [(0, 0), (3, 6), (7, 4)])
def test_the_grid_is_that_of_the_image(origin: tuple[int, int]) -> None:
    region = found_with(GROUND, (table(90), 8 * 2 + 5, 0.95), origin)
    assert region.grid_shift == ((2 + origin[0]) % 8, (5 + origin[1]) % 8)


def test_large_regions_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found_with(GROUND, (table(90), 40, 0.95))
    monkeypatch.setattr(regions, "MOST_WINDOWS", 4)
    assert found_with(GROUND, (table(90), 40, 0.95)) == whole


def test_a_textured_part_of_a_plain_image_is_compared_with_nothing() -> None:
    made = [posteriors(table(q), h, height=HEIGHT, width=WIDTH) for q, h in ((70, 5), (90, 20))]
    inside = windows_of(made[0], BOX)
    found = mixed(made[0], made[1], *inside)
    base, logits = history.background(found), logits_with(BOX)
    plain = np.full(found.present.shape, 1.0)
    plain[inside] = 30.0
    alone = regions.find(logits, found, base, CALIBRATION, plain)
    among = regions.find(logits, found, base, CALIBRATION, np.full(plain.shape, 30.0))
    assert among.score > 0.5 and len(among.regions) == 1 and not np.isnan(among.suspicion).any()
    assert alone.score < 0.5 and alone.regions == () and np.isnan(alone.suspicion).any()
    assert among.incomparable == 0
    assert alone.incomparable == pytest.approx(np.isnan(alone.suspicion).mean()) and alone.incomparable > 0.1
    faint = regions.find(logits, found, base, CALIBRATION, plain, least=1.0)
    assert np.isnan(faint.suspicion).any() and faint.incomparable == 0, "it would have been no region anyway"


@pytest.mark.parametrize(("share", "score", "names"), [(0.1, 0.9, True), (0.3, 0.96, True), (0.3, 0.94, False)])
def test_the_edge_of_a_frame_is_doubt(monkeypatch: pytest.MonkeyPatch, share: float, score: float, names: bool) -> None:
    """Windows there see nothing but that edge: they must be very sure."""
    monkeypatch.setattr(regions, "_strength", lambda *of: score)
    asked: list[npt.NDArray[np.bool_]] = []

    def in_frame(here: npt.NDArray[np.bool_]) -> float:
        asked.append(here)
        return share

    result = find(logits_with(BOX), in_frame=in_frame)
    assert bool(result.regions) == (result.score > 0.5) == names
    assert [here.sum() > 100 for here in asked] == ([True] if score < doubts.SURELY_INSIDE else [])


def test_whoever_is_accused_is_told_of_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weak parts come to no score together, nor do parts that cannot be named."""
    other = (30, 4, 36, 14)
    found = posteriors(table(70), 5, height=HEIGHT, width=WIDTH)
    texture, strengths = np.full(found.present.shape, 20.0), {1: 0.3, 2: 0.4}
    monkeypatch.setattr(regions, "_strength", lambda *of: 1.0 if of[3] == 1 else strengths[of[0].label])
    result = find(logits_with(BOX, other), least=0.5)
    assert result.score == regions.NOT_NAMED and result.regions == ()
    strengths[2] = 0.5
    result = find(logits_with(BOX, other), least=0.5)
    assert result.score > 0.9 and [r.score for r in result.regions] == [0.5]
    monkeypatch.setattr(regions, "UNNAMED", 7.0)
    doubt = regions.find(logits_with(BOX), found, history.background(found), CALIBRATION, texture)
    assert doubt.score == regions.NOT_NAMED and doubt.regions == ()


def test_a_difference_that_cannot_be_named_is_doubt() -> None:
    found = posteriors(table(70), 5, height=HEIGHT, width=WIDTH)
    texture = np.full(found.present.shape, 20.0)
    result = regions.find(logits_with(BOX), found, history.background(found), CALIBRATION, texture)
    assert result.regions == () and result.score < 0.5
    assert 0.2 < np.nanmax(result.suspicion) < 0.5
    assert result.strongest > 0.5, "a closer look may find a name for it"


NEXT_TO = 12
"""One column from the ground's shift, 11."""


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
@pytest.mark.parametrize(
    ("pasted", "asks"),
    [
        ((table(70), 11, 0.05), True),  # none
        ((table(70), NEXT_TO, 0.95), True),
        ((table(72), NEXT_TO - 8, 0.95), True),
        ((table(90), NEXT_TO, 0.95), False),  # another table, surely
        ((table(70), NEXT_TO + 1, 0.95), False),  # another grid, surely
    ],
)
def test_a_part_that_may_have_the_background_s_history_must_lack_its_trace(
    pasted: Any, asks: bool, origin: tuple[int, int]
) -> None:
    asked: list[npt.NDArray[np.bool_]] = []

    def lacks(by: float) -> Any:
        def tell(part: npt.NDArray[np.bool_]) -> float:
            asked.append(part)
            return by

        return tell

    assert len(result_with(GROUND, pasted, origin, lacks=lacks(0)).regions) == 1 and not asked  # the windows are sure
    doubt = result_with(GROUND, pasted, origin, strength=4, lacks=lacks(doubts.SHORT - 0.1))
    assert len(asked) == asks and len(doubt.regions) == (not asks)
    if asks:
        assert doubt.score < 0.5 and 0.2 < np.nanmax(doubt.suspicion) < 0.5
        inside = np.zeros(asked[0].shape, bool)
        inside[BOX[0] - 1 : BOX[2] + 1, BOX[1] - 1 : BOX[3] + 1] = True
        assert asked[0].sum() > 200 and not asked[0][~inside].any()
    for known in (lacks(doubts.SHORT), None):
        assert len(result_with(GROUND, pasted, origin, strength=4, lacks=known).regions) == 1


@pytest.mark.parametrize("pasted", [(table(70), 12, 0.05), (table(90), 30, 0.95), (table(70), 30, 0.95)])
def test_a_part_that_shows_the_background_s_compression_is_doubt_however_sure_its_windows_are(pasted: Any) -> None:
    nothing = np.full(logits_with(BOX).shape, -20, np.float32)
    # A tenth of a nat for each of some three hundred cells.
    for shown, short, regions_found in ((20, 4.4, 1), (60, None, 1), (60, 4.4, 0), (60, 4.6, 1)):
        lacks = None if short is None else (lambda _, short=short: short)
        result = result_with(GROUND, pasted, (0, 0), likely=Said(nothing, shown), lacks=lacks)
        assert len(result.regions) == regions_found and (result.score > 0.5) == regions_found
        assert regions_found or 0.2 < np.nanmax(result.suspicion) < 0.5


def test_a_part_whose_blocks_lack_nothing_either_way_is_doubt_however_sure_its_windows_are() -> None:
    """Only where the windows say that it has no first compression; of another one they speak for themselves."""
    nothing = np.full(logits_with(BOX).shape, -20, np.float32)
    for pasted, short, spoken, found in (
        ((table(70), 12, 0.05), 1.9, 9.9, 0),
        ((table(70), 12, 0.05), 1.9, 10.1, 1),
        ((table(70), 12, 0.05), 2.1, 9.9, 1),
        ((table(90), 30, 0.95), 1.9, 9.9, 1),
    ):
        likely = Said(nothing, spoken=spoken)
        result = result_with(GROUND, pasted, likely=likely, lacks=lambda _, short=short: short)
        assert len(result.regions) == found
    assert len(result_with(GROUND, (table(70), 12, 0.05), likely=Said(nothing, spoken=0)).regions) == 1


@pytest.mark.parametrize("pasted", [(table(70), 12, 0.05), (table(90), 30, 0.95), (table(70), 30, 0.95)])
def test_a_part_of_which_neither_windows_nor_blocks_are_sure_is_doubt(pasted: Any) -> None:
    """As where the first compression was about as fine as the last one, and hardly shows anywhere."""
    nothing = np.full(logits_with(BOX).shape, -20, np.float32)
    for strength, spoken, found in ((2.6, 9.9, 0), (2.6, 10.1, 1), (2.9, 9.9, 1)):
        result = result_with(GROUND, pasted, strength=strength, likely=Said(nothing, spoken=spoken))
        assert len(result.regions) == found and (result.score > 0.5) == found
        assert found or 0.2 < np.nanmax(result.suspicion) < 0.5
    for spoken, short, found in ((30, 1.9, 0), (30, 2.1, 1), (9, 4.9, 0), (9, 5.1, 1)):
        likely = Said(nothing, spoken=spoken)
        result = result_with(GROUND, pasted, strength=2.6, likely=likely, lacks=lambda _, short=short: short)
        assert len(result.regions) == found
    assert len(result_with(GROUND, pasted, strength=2.6).regions) == 1  # nothing is known of its blocks


def test_another_quality_of_decoded_pixels_is_doubt_where_nothing_tells_it() -> None:
    for strength, count, found in ((3.4, 0, 0), (3.4, 10, 1), (3.8, 0, 1)):
        agreement = agreement_with(-2 * count, count)
        for pasted in (((60,), 30, 0.95), ((90,), 30, 0.95)):
            result = result_with(((90,), 11, 0.95), pasted, strength=strength, agreement=agreement)
            assert len(result.regions) == found


def test_what_is_left_without_some_regions() -> None:
    weak, strong = logits_with((3, 3, 15, 15), strength=3), logits_with((20, 30, 34, 45))
    result = find(np.maximum(weak, strong))
    first, second = result.regions
    less = regions.without(result, (first,))
    assert less.regions == (second,) and less.score == second.score < result.score
    inside = np.s_[first.y // 8 : (first.y + first.height) // 8, first.x // 8 : (first.x + first.width) // 8]
    assert less.suspicion[inside].max() < 0.5 < result.suspicion[inside].max()
    assert less.suspicion[second.y // 8 + 2, second.x // 8 + 2] > 0.5
    none = regions.without(result, (first, second))
    assert none.regions == () and none.score < 0.5 and np.nanmax(none.suspicion) <= 0.5
    assert regions.without(result, ()) is result


@pytest.mark.parametrize(
    ("ground", "pasted"), [(GROUND, (table(90), 11, 0.95)), (((70,), 11, 0.95), ((90,), 11, 0.95))]
)
def test_another_table_on_the_background_s_grid_is_doubt_unless_the_windows_are_sure(ground: Any, pasted: Any) -> None:
    """Of pasted parts one in 64 has the grid by chance; what was made brighter in places keeps it."""
    elsewhere = (pasted[0], 30, 0.95)
    for strength, found in ((8, 1), (4, 0)):
        assert len(result_with(ground, pasted, (0, 0), strength=strength).regions) == found
        assert len(result_with(ground, elsewhere, (0, 0), strength=strength).regions) == 1


def test_a_jpeg_in_uncompressed_pixels_that_show_its_grid_as_well_is_doubt() -> None:
    """However sure its windows are: in a blurred or noisy JPEG most windows show nothing, and together they do."""
    for p, found in ((0.06, 0), (1 / 64, 1)):
        rest = posteriors((80,), 0, height=HEIGHT, width=WIDTH, present=0.03, p=p)
        part = posteriors((80,), 0, height=HEIGHT, width=WIDTH, present=0.97)
        windows = mixed(rest, part, *windows_of(rest, BOX))
        base, texture = history.background(windows), np.full(rest.present.shape, 20.0)
        result = regions.find(logits_with(BOX), windows, base, CALIBRATION, texture)
        assert [r.kind for r in result.regions] == ["jpeg_in_uncompressed"] * found


@pytest.mark.parametrize("pasted", [((70,), 11, 0.05), ((90,), 30, 0.95), ((70,), 30, 0.95)])
def test_pixels_that_were_processed_since_their_compression_have_no_regions_of_another_one(pasted: Any) -> None:
    """They lie on the multiples of no table, and what the windows say of it differs with the content."""
    ground = ((70,), 11, 0.95)
    odd, few, none = (agreement_with(-30, 10) for _ in range(3))
    odd.nats[:] = 4
    few.count[:] = 5
    for agreement, found in ((agreement_with(-30, 10), 1), (odd, 0), (few, 0), (None, 0)):
        result = result_with(ground, pasted, agreement=agreement)
        assert len(result.regions) == found and (result.score > 0.5) == found
    none.count[:] = 0
    size = (HEIGHT, WIDTH)
    assert not doubts.settled(none, None, size) and not doubts.settled(few, None, size)
    assert doubts.settled(agreement_with(-30, 10), None, size)


def clipped_in(*here: slice) -> Colours:
    """Colours of an image that are clipped in some of its cells."""
    share = np.zeros((cells(HEIGHT), cells(WIDTH)), np.float32)
    share[here] = 0.1
    return Colours(lambda: share, lambda: False)


def test_nearly_all_blocks_must_lie_there_but_those_with_clipped_colours() -> None:
    """As a filter that keeps edges leaves many as they were, and clipping moves a block off all multiples."""
    size, unknown = (HEIGHT, WIDTH), Colours(lambda: None, lambda: False)
    agreement = agreement_with(9, 10)
    agreement.nats[:4] = -20
    share = 4 / agreement.nats.shape[0]
    assert 0.07 < share < 0.5, "more than a twentieth, and less than the median"
    assert doubts.settled(agreement, None, size) and doubts.settled(agreement, unknown, size)
    assert not doubts.settled(agreement, clipped_in(slice(20, 30)), size)
    assert doubts.settled(agreement, clipped_in(slice(4)), size)
    # Where nearly all colours are clipped the few other blocks do not speak for all.
    assert not doubts.settled(agreement, clipped_in(slice(agreement.nats.shape[0] - 2)), size)
    agreement.nats[4:] = -20
    agreement.nats[-8:] = 9
    assert doubts.settled(agreement, clipped_in(slice(-8)), size)


@pytest.mark.parametrize(
    ("nats", "restored", "found"), [(0.24, False, 0), (0.26, False, 1), (None, False, 1), (0.1, True, 1)]
)
def test_a_jpeg_in_uncompressed_pixels_lies_on_the_multiples_of_its_table(
    nats: Any, restored: bool, found: int
) -> None:
    """What a filter left of a compression in one place only, and what a warp left, does not."""
    asked = []

    def lies(history: doubts.History, here: npt.NDArray[np.bool_]) -> float | None:
        asked.append((history.qf1, history.grid_shift))
        assert here[BOX[0] + 1 : BOX[2] - 1, BOX[1] + 1 : BOX[3] - 1].all()
        return nats

    result = result_with(((80,), 0, 0.03), ((80,), 11, 0.97), agreement=None, lies=lies, restored=restored)
    assert len(result.regions) == found and (result.score > 0.5) == found
    assert asked == [(80.0, (1, 3))] * (not restored)


@pytest.mark.parametrize("origin", [(0, 0), (3, 5)])
def test_a_part_does_not_speak_for_the_rest(origin: tuple[int, int]) -> None:
    """However large it is: its blocks may lie on the multiples of another table."""
    agreement = agreement_with(-30, 10, origin)
    part = np.zeros((cells(HEIGHT), cells(WIDTH)), bool)
    part[:, :35] = True
    agreement.nats[:, :34], agreement.nats[:, 37:] = -30, 9
    size = (HEIGHT, WIDTH)
    assert not doubts.settled(agreement, None, size) and doubts.settled(agreement, None, size, part)
    agreement.nats[:, 37:] = -30
    assert not doubts.settled(agreement, None, size, part)


@pytest.mark.parametrize(("pasted", "kinds"), [(GROUND[0], []), (table(90), ["other_q1"])])
def test_a_part_that_shows_the_ground_s_own_compression_does_not_lack_it(pasted: Any, kinds: list[str]) -> None:
    """Not surely, but with its table and its grid."""
    result = result_with(GROUND, (pasted, 30 if kinds else GROUND[1], 0.5))
    assert [r.kind for r in result.regions] == kinds


@pytest.mark.parametrize("pasted", [(table(70), 12, 0.05), (table(90), 30, 0.95), (table(70), 30, 0.95)])
def test_parts_of_a_picture_that_was_processed_after_its_first_compression_are_doubt(pasted: Any) -> None:
    """What is left of that compression is looked at far from the parts; where it is not known nothing is doubted."""
    asked = []

    def kept(left: Left | None) -> Any:
        def tell(part: Any, where: npt.NDArray[np.bool_]) -> Left | None:
            asked.append((part, where))
            return left

        return tell

    # What few coefficients tell may be more off.
    told = ((Left(0.74, 250), 0), (Left(0.76, 250), 1), (Left(0.84, 10_000), 0), (Left(0.86, 10_000), 1))
    for left, found in (*told, (None, 1)):
        said = Said(np.full((cells(HEIGHT), cells(WIDTH)), -9))
        result = result_with(GROUND, pasted, kept=kept(left), likely=said, lacks=lambda part: 9)
        assert len(result.regions) == found and result.kept == left and (result.score > 0.5) == found
    # Where what surely shows it is too little to tell, all that is no part is asked.
    assert len(asked) == 6 and all(part is None for part, _ in asked) and (asked[4][1] == asked[5][1]).all()
    inside = np.zeros(asked[0][1].shape, bool)
    inside[BOX[0] : BOX[2], BOX[1] : BOX[3]] = True
    assert not (asked[0][1] & inside).any() and asked[0][1].mean() > 0.6


def test_what_is_left_is_asked_of_what_shows_the_compression() -> None:
    """More may have been pasted in than is suspicious; that lacks the compression by itself."""
    made = [posteriors(t, s, present=p, height=HEIGHT, width=WIDTH) for t, s, p in (GROUND, (table(90), 30, 0.95))]
    box = (0, 0, 8, cells(WIDTH))
    found = mixed(made[0], made[1], *windows_of(made[0], box))
    asked = []
    for enough in (True, False):
        asked.clear()

        def tell(part: Any, where: npt.NDArray[np.bool_], enough: bool = enough) -> Left | None:
            asked.append(where)
            return Left(0.9, 500) if enough or len(asked) == 2 else None

        nowhere = np.zeros((cells(HEIGHT), cells(WIDTH)), bool)
        colours = Colours(lambda: pytest.fail("enough is left"), lambda: False)
        assert regions.kept_by_rest(tell, nowhere, found, history.background(made[0]), colours) == Left(0.9, 500)
        assert len(asked) == (1 if enough else 2)
        assert not asked[0][:7].any() and asked[0][14:].all() and asked[-1].all() != enough


def test_clipped_colours_take_nothing_of_what_is_left() -> None:
    """Where little is left, what has none is asked again, and what it tells counts where it is enough."""
    found = posteriors(*GROUND[:2], present=0.95, height=HEIGHT, width=WIDTH)
    clipped = np.zeros((cells(HEIGHT), cells(WIDTH)), np.float32)
    clipped[:6] = 0.1
    nowhere = clipped > 1
    for share, without, colours, wanted in (
        (0.6, Left(0.95, 500), clipped, Left(0.95, 500)),
        (0.6, None, clipped, Left(0.6, 900)),
        (0.6, Left(0.95, 500), None, Left(0.6, 900)),
        (0.6, Left(0.95, 500), 0 * clipped, Left(0.6, 900)),
        (0.9, Left(0.95, 500), clipped, Left(0.9, 900)),
    ):

        def tell(part: Any, where: npt.NDArray[np.bool_], share: Any = share, without: Any = without) -> Left | None:
            assert where[7:].all() and where[:7].all() == where[:7].any()
            return Left(share, 900) if where.all() else without

        said = Colours(lambda colours=colours: colours, lambda: False)  # type: ignore[misc]
        assert regions.kept_by_rest(tell, nowhere, found, history.background(found), said) == wanted
    assert regions.kept_by_rest(tell, nowhere, found, history.background(found), None) == Left(0.9, 900)


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
def test_a_first_compression_of_a_part_is_doubt_where_too_little_of_it_is_left(origin: tuple[int, int]) -> None:
    """On the last compression's own grid, where other codecs' blocks lie, it is doubt unless enough is seen of it."""
    ground = (table(70), 3, 0.05)
    for shift, share, found in ((20, 0.6, 0), (20, 0.8, 1), (20, None, 1), (0, 0.6, 0), (0, 0.8, 1), (0, None, 0)):
        asked: list[tuple[int, int]] = []

        def tell(part: Any, where: npt.NDArray[np.bool_], share: Any = share, asked: Any = asked) -> Any:
            asked.append(part.grid_shift)
            assert 0.5 < where.sum() / ((BOX[2] - BOX[0]) * (BOX[3] - BOX[1])) < 1
            return None if share is None else Left(share, 10_000)

        result = result_with(ground, (table(80), shift, 0.95), origin, kept=tell)
        assert [r.kind for r in result.regions] == ["first_compression"] * found and result.kept is None
        assert asked == [((shift // 8 + origin[0]) % 8, (shift % 8 + origin[1]) % 8)]


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
def test_another_table_is_doubt_where_the_rest_may_have_it_too(origin: tuple[int, int]) -> None:
    """Where no grid of the rest is sure, and what is left of the part's compression there, for all that is known."""
    told: tuple[tuple[Left | None, float, int], ...] = (
        (Left(0.0, 100), 4, 1),
        (Left(0.4, 100), 4, 1),
        (Left(0.4, 30), 4, 0),  # which may be more
        (Left(1.0, 10_000), 9, 0),
        (Left(-0.3, 100), 4, 1),
        (Left(-2.0, 100), 4, 0),  # which is none
        (Left(-2.0, 100), 9, 1),
        (None, 4, 0),
        (None, 9, 1),
    )
    for left, strength, found in told:
        asked: list[tuple[int, int]] = []

        def tell(part: Any, where: Any, *, least: float = 200, left: Any = left, asked: Any = asked) -> Left | None:
            if part is None:
                return None
            asked.append(part.grid_shift)
            assert least == doubts.FEW_TOLD and not where[BOX[0] : BOX[2], BOX[1] : BOX[3]].any() and where.any()
            return left

        pasted, more = (table(90), 30, 0.95), dict[str, Any](shared=False, kept=tell)
        result = result_with(GROUND, pasted, origin, strength=strength, **more)
        assert [r.kind for r in result.regions] == ["other_q1"] * found
        assert asked == [((3 + origin[0]) % 8, (6 + origin[1]) % 8)]
        # A grid of the rest that is sure is not that of the part.
        sure = result_with(
            GROUND, pasted, origin, strength=strength, **{**more, "shared": True, "lacks": lambda part: 9}
        )
        assert len(sure.regions) == 1 and len(asked) == 1


@pytest.mark.parametrize("steps", [(80,), table(80)])
def test_a_compression_of_a_part_alone_has_a_grid(steps: Any) -> None:
    """In a picture that was warped after its compression each window shows another one, and most show none."""
    rest = posteriors(steps, 0, height=HEIGHT, width=WIDTH, present=0.03, p=1 / 64)
    windows = windows_of(rest, BOX)
    for p, found in ((0.9, 1), (0.1, 0)):
        part = posteriors(steps, 9, height=HEIGHT, width=WIDTH, present=0.97, p=0.9)
        part = replace(part, shift=posteriors(steps, 9, height=HEIGHT, width=WIDTH, p=p).shift)
        mixture = mixed(rest, part, *windows)
        base, texture = history.background(mixture), np.full(rest.present.shape, 20.0)
        assert len(regions.find(logits_with(BOX), mixture, base, CALIBRATION, texture).regions) == found
        # Brought back to a scale, which is never quite right, its grid moves as well.
        assert (
            len(regions.find(logits_with(BOX), mixture, base, CALIBRATION, texture, Witnesses(restored=True)).regions)
            == 1
        )


@pytest.mark.parametrize("steps", [(80,), table(80)])
def test_a_compression_of_a_part_alone_does_not_show_elsewhere(steps: Any) -> None:
    """Unless its windows are all but certain: on whatever grid it shows there."""
    rest = posteriors(steps, 0, height=HEIGHT, width=WIDTH, present=0.03, p=1 / 64)
    part, other = (posteriors(steps, shift, height=HEIGHT, width=WIDTH, present=0.97) for shift in (9, 27))
    one = mixed(rest, part, *windows_of(rest, BOX))
    far = mixed(one, other, *windows_of(rest, (0, 0, 40, 9)))
    far = mixed(far, other, *windows_of(rest, (0, 43, 40, 50)))
    base, texture = history.background(one), np.full(rest.present.shape, 20.0)
    for mixture, strength, restored, found in (
        (one, 4, False, 1), (far, 4, False, 0), (far, 8, False, 1), (far, 4, True, 1)
    ):  # fmt: skip
        result = regions.find(
            logits_with(BOX, strength=strength), mixture, base, CALIBRATION, texture, Witnesses(restored=restored)
        )
        assert len(result.regions) == found


@pytest.mark.parametrize("steps", [(80,), table(80)])
def test_a_compression_of_a_part_alone_has_one_grid(steps: Any) -> None:
    """However sure its windows are: where a picture was warped the grid moves on by a pixel from place to place."""
    rest = posteriors(steps, 0, height=HEIGHT, width=WIDTH, present=0.03, p=1 / 64)
    for shift, origin, found in (
        (10, (0, 0), 0),
        (17, (0, 0), 0),
        (9 + 7, (0, 0), 0),
        (11, (0, 0), 1),
        (10, (3, 6), 0),
    ):
        empty, part, next_to_it = (
            replace(x, origin=origin)
            for x in (rest, *(posteriors(steps, s, height=HEIGHT, width=WIDTH, present=0.97) for s in (9, shift)))
        )
        whole = mixed(empty, part, *windows_of(empty, BOX))
        mixture = mixed(whole, next_to_it, *windows_of(empty, (BOX[0], BOX[1] - 7, BOX[2], BOX[1])))
        base, texture = history.background(mixture), np.full(rest.present.shape, 20.0)
        for which, count in ((whole, 1), (mixture, found)):
            result = regions.find(logits_with(BOX, strength=8), which, base, CALIBRATION, texture)
            assert len(result.regions) == count
        restored = regions.find(
            logits_with(BOX, strength=8), mixture, base, CALIBRATION, texture, Witnesses(restored=True)
        )
        assert len(restored.regions) == 1, "a grid brought back to a scale moves as well"


def test_uncompressed_pixels_in_a_jpeg_that_show_the_edges_of_its_blocks_are_doubt() -> None:
    asked: list[tuple[int, int]] = []

    def edges(down: float, across: float) -> Any:
        def tell(part: npt.NDArray[np.bool_], grid: tuple[int, int]) -> tuple[float, float]:
            asked.append(grid)
            assert part.sum() > 200
            return down, across

        return tell

    for origin in ((0, 0), (3, 6)):
        for stands_out, found in (((9, 3.2), 1), ((3.2, 9), 1), ((3.4, 3.4), 0)):
            result = result_with(((70,), 11, 0.95), ((70,), 11, 0.03), origin, edges=edges(*stands_out))
            assert [r.kind for r in result.regions] == ["uncompressed_in_jpeg"] * found
        assert asked[-1] == ((1 + origin[0]) % 8, (3 + origin[1]) % 8)


@pytest.mark.parametrize("origin", [(0, 0), (3, 6)])
def test_a_compression_that_the_rest_shares_is_no_region(origin: tuple[int, int]) -> None:
    """Where the first quality was above the last one, few windows show it, and all together show its grid."""
    pasted = (table(80), 40, 0.97)
    rest = posteriors(table(80), 40, height=HEIGHT, width=WIDTH, origin=origin, present=0.03, p=0.06)
    logits, texture = logits_with(BOX, strength=4), np.full(rest.present.shape, 20.0)
    part = posteriors(*pasted[:2], height=HEIGHT, width=WIDTH, origin=origin, present=pasted[2])
    found = mixed(rest, part, *windows_of(rest, BOX))
    assert not regions.find(logits, found, history.background(found), CALIBRATION, texture).regions
    # The rest prefers another grid, or none.
    for ground in ((table(80), 41, 0.03), (table(80), 30, 0.03)):
        (region,) = result_with(ground, pasted, origin, strength=4).regions
        assert region.kind == "first_compression"


def test_the_grid_that_the_rest_prefers_to_all_others_is_shared_by_less() -> None:
    """But the last one's: that shows in any JPEG."""
    for p, other, found in ((0.026, None, 0), (0.02, None, 1), (0.026, 50, 1)):
        rest = posteriors(table(80), 40, height=HEIGHT, width=WIDTH, present=0.03, p=0.6)
        shift = np.full(rest.shift.shape, 0.012)
        shift[..., 0], shift[..., 40] = 0.1, p
        if other is not None:
            shift[..., other] = p + 0.01
        rest = replace(rest, shift=np.log(shift / shift.sum(axis=2, keepdims=True)).astype(np.float16))
        part = posteriors(table(80), 40, height=HEIGHT, width=WIDTH, present=0.97)
        mixture = mixed(rest, part, *windows_of(rest, BOX))
        logits, texture = logits_with(BOX, strength=4), np.full(rest.present.shape, 20.0)
        seen = regions.find(logits, mixture, history.background(mixture), CALIBRATION, texture)
        assert len(seen.regions) == found, (p, other)


def test_the_last_grid_is_not_what_the_rest_shares() -> None:
    """A compression on the file's own grid: the blocks that are there show it in all windows."""
    (region,) = result_with((table(80), 0, 0.03), (table(80), 0, 0.97), strength=4).regions
    assert region.kind == "first_compression" and region.grid_shift == (0, 0)


SMALL = (14, 20, 18, 24)
"""Cells of a square of 32 pixels: its windows show mostly the background."""


def agreement_with(nats: float, count: float, origin: tuple[int, int] = (0, 0)) -> Agreement:
    """Blocks that agree with the last compression, but for BOX, whose blocks have so many nats and coefficients."""
    rows, cols = ((n - o) // 8 for n, o in zip((HEIGHT, WIDTH), origin, strict=True))
    out = Agreement(np.full((rows, cols), 9, np.float32), np.full((rows, cols), 10, np.float32), origin)
    top, left, bottom, right = BOX
    out.nats[top:bottom, left:right], out.count[top:bottom, left:right] = nats, count
    return out


@pytest.mark.parametrize("origin", [(0, 0), (3, 5)])
def test_what_agrees_with_the_last_compression_is_no_region(origin: tuple[int, int]) -> None:
    """However odd it looks to the models, as clipped colours do."""
    other = (30, 4, 36, 14)
    plain = find(logits_with(BOX, other))
    assert len(plain.regions) == 2
    agrees, not_, unknown = (
        find(logits_with(BOX, other), agreement=agreement_with(n, c, origin)) for n, c in ((-4, 10), (-17, 10), (1, 0))
    )
    assert not agrees.regions  # nor the other part, which lies where all blocks agree
    assert agrees.score < 0.1 < 0.9 < plain.score and np.nanmax(agrees.suspicion) < 0.5
    for result in (not_, unknown):
        (region,) = result.regions
        assert abs(region.y - 8 * BOX[0]) <= 8 and abs(region.x - 8 * BOX[1]) <= 8 and result.score > 0.9


@pytest.mark.parametrize("origin", [(0, 0), (3, 5)])
def test_what_was_changed_since_the_last_compression_says_nothing_of_what_was_before(origin: tuple[int, int]) -> None:
    other = (30, 4, 36, 14)
    changed, kept, unknown = (
        find(logits_with(BOX, other), since=agreement_with(n, c, origin)) for n, c in ((-17, 10), (-4, 10), (-9, 0))
    )
    (region,) = changed.regions
    assert abs(region.y - 8 * other[0]) <= 8 and (changed.suspicion[15:25, 20:30] < 0.4).all()
    assert find(logits_with(BOX), since=agreement_with(-17, 10, origin)).score < 0.5
    assert len(kept.regions) == len(unknown.regions) == 2


def test_a_part_with_clipped_colours_is_no_region() -> None:
    """Nobody asks where they are before there is a part; it counts as doubt, and the rest as ever."""
    other, asked = (30, 4, 36, 14), []

    def clipped(share: float) -> Colours:
        def tell() -> npt.NDArray[np.float32]:
            asked.append(share)
            out = np.zeros((cells(HEIGHT), cells(WIDTH)), np.float32)
            out[BOX[0] - 1 : BOX[2] + 1, BOX[1] - 1 : BOX[3] + 1] = share
            return out

        return Colours(tell, lambda: False)

    assert not find(logits_with(), colours=clipped(0.9)).regions and not asked
    assert len(find(logits_with(BOX, other), colours=clipped(0.4)).regions) == 2
    result = find(logits_with(BOX, other), colours=clipped(0.9))
    (region,) = result.regions
    assert abs(region.y - 8 * other[0]) <= 8 and result.score > 0.9
    assert (result.suspicion[15:25, 20:30] < 0.4).all() and (result.suspicion[31:35, 5:13] > 0.9).all()
    assert find(logits_with(BOX), colours=clipped(0.9)).score < 0.5
    assert len(find(logits_with(BOX), colours=Colours(lambda: None, lambda: False)).regions) == 1


def test_a_part_that_surely_lacks_the_trace_is_a_region_whatever_its_colours() -> None:
    """Blocks without a clipped colour are enough to tell."""
    clipped = Colours(lambda: np.ones((cells(HEIGHT), cells(WIDTH)), np.float32), lambda: False)
    nothing = np.full((cells(HEIGHT), cells(WIDTH)), -20, np.float32)
    for spoken, found in ((doubts.SURELY_AGAINST, 1), (doubts.SURELY_AGAINST - 1, 0)):
        result = result_with(GROUND, (table(70), 30, 0.05), likely=Said(nothing, 0, spoken), colours=clipped)
        assert len(result.regions) == found and (result.score > 0.5) == found


def test_a_part_that_alone_was_compressed_is_a_region_whatever_its_colours() -> None:
    """Clipping hides a compression; it makes none."""
    clipped = Colours(lambda: np.ones((cells(HEIGHT), cells(WIDTH)), np.float32), lambda: False)
    (region,) = result_with((table(70), 3, 0.05), (table(80), 20, 0.95), colours=clipped).regions
    assert region.kind == "first_compression"
    assert not result_with(GROUND, (table(90), 30, 0.95), colours=clipped).regions


def test_nothing_lacks_what_the_rest_does_not_share() -> None:
    """A table of its own may still be told; that the rest has another grid, or any compression, is not known."""
    for pasted, kind, left in (
        ((table(70), 30, 0.05), "no_first_compression", []),
        ((table(70), 30, 0.95), "other_shift", []),
        ((table(90), 30, 0.95), "other_q1", ["other_q1"]),
    ):
        assert [r.kind for r in result_with(GROUND, pasted).regions] == [kind]
        result = result_with(GROUND, pasted, shared=False)
        assert [r.kind for r in result.regions] == left and (result.score > 0.5) == bool(left)
    small = (15, 20, 18, 24)
    assert small_parts(small).regions and not small_parts(small, shared=False).regions


def test_a_table_without_a_grid_is_another_one_only_beside_a_sure_grid() -> None:
    """Where a picture was straightened, soft windows show its table, each on another grid, and others nothing."""
    ground = posteriors(table(70), 11, height=HEIGHT, width=WIDTH)
    part = posteriors(table(90), 30, height=HEIGHT, width=WIDTH)
    part = replace(part, shift=posteriors(table(90), 30, height=HEIGHT, width=WIDTH, p=0.1).shift)
    mixture = mixed(ground, part, *windows_of(ground, BOX))
    base, texture = history.background(ground), np.full(ground.present.shape, 20.0)
    for shared in (True, False):
        result = regions.find(logits_with(BOX), mixture, base, CALIBRATION, texture, Witnesses(shared=shared))
        assert [(r.kind, r.grid_shift) for r in result.regions] == [("other_q1", None)] * shared


def test_a_mosaic_is_no_compression() -> None:
    """A part that somebody pixelated says nothing of a history; it is asked of what was compressed there alone."""
    asked = []

    def mosaic(answer: bool) -> Any:
        def tell(part: npt.NDArray[np.bool_], grid: tuple[int, int]) -> bool:
            asked.append(grid)
            return answer

        return tell

    for ground, pasted, found in (
        ((table(70), 3, 0.05), (table(80), 20, 0.95), True),
        (((70,), 3, 0.05), ((60,), 20, 0.95), True),
        (GROUND, (table(90), 30, 0.95), False),
    ):
        asked.clear()
        assert len(result_with(ground, pasted, mosaic=mosaic(False)).regions) == 1
        assert asked == ([(2, 4)] if found else [])
        result = result_with(ground, pasted, mosaic=mosaic(True))
        assert bool(result.regions) != found and (result.score < 0.5) == found
    # Of a quality at which nobody saves, it is one whose squares are not told.
    for quality, found in ((doubts.COARSEST - 1, False), (doubts.COARSEST, True)):
        result = result_with(((70,), 3, 0.05), ((int(quality),), 20, 0.95), mosaic=mosaic(False))
        assert bool(result.regions) == found


def test_a_part_of_a_grey_picture_must_lack_the_trace_clearly() -> None:
    """Colours that were clipped before it was made grey cannot be seen any more, and hide the trace."""
    here, nothing = np.zeros((cells(HEIGHT), cells(WIDTH)), np.float32), (cells(HEIGHT), cells(WIDTH))
    enough = regions.GREY_AGAINST
    for grey, spoken, found in ((False, 99, 1), (True, 99, 0), (True, enough, 1), (True, enough - 1, 0)):
        colours = Colours(lambda: np.zeros(nothing, np.float32), lambda grey=grey: grey)  # type: ignore[misc]
        result = result_with(GROUND, (table(70), 30, 0.05), likely=Said(here - 20, 0, spoken), colours=colours)
        assert len(result.regions) == found and (result.score > 0.5) == found
        # A part with a table and a grid of its own needs no such proof.
        assert len(result_with(GROUND, (table(90), 30, 0.95), likely=Said(here - 20), colours=colours).regions) == 1
    small = (15, 20, 18, 24)
    colours = Colours(lambda: np.zeros(nothing, np.float32), lambda: True)
    assert small_parts(small).regions and not small_parts(small, colours=colours).regions


def test_on_the_last_grid_a_part_lacks_a_compression_only_where_its_blocks_speak_against_it() -> None:
    """The rounding of the last compression is no noise there, and what seems to be lacking tells nothing."""
    nothing = np.full((cells(HEIGHT), cells(WIDTH)), -20, np.float32)
    for shift in (0, 11):
        for spoken in (doubts.AGAINST - 1, doubts.AGAINST):
            likely, ground = Said(nothing, 0, spoken), (table(70), shift, 0.95)
            result = result_with(ground, (table(70), 30, 0.05), likely=likely, lacks=lambda _: doubts.SHORT + 1)
            assert len(result.regions) == (shift == 11 or spoken == doubts.AGAINST)


def test_the_edge_of_a_part_does_not_speak_for_it() -> None:
    """It often reaches into the background, which agrees."""
    agreement = agreement_with(-17, 10)
    top, left, bottom, right = BOX
    edge = np.zeros(agreement.nats.shape, bool)
    edge[top:bottom, left:right] = True
    edge[top + 2 : bottom - 2, left + 3 : right - 3] = False
    agreement.nats[edge] = 9
    logits = logits_with(BOX).copy()
    logits[top + 2 : bottom - 2, left + 3 : right - 3] += 3
    assert agreement.nats[top:bottom, left:right].mean() > -8
    assert len(find(logits, agreement=agreement).regions) == 1


class Said(Likelihood):
    """What speaks against the background in each cell, and by how much any part shows its compression."""

    def __init__(self, missing: npt.NDArray[np.float32], shown: float = 0.0, spoken: float = 99.0) -> None:
        self.missing, self.shown, self.spoken = missing, shown, spoken

    def around_cells(self, least: float) -> npt.NDArray[np.float32]:
        assert least == regions.least_missing(self.missing.size)
        return self.missing

    def shows(self, part: npt.NDArray[np.bool_]) -> float:
        assert part.shape == self.missing.shape
        return self.shown

    def against(self, part: npt.NDArray[np.bool_], off: tuple[int, int] = (0, 0)) -> float:
        assert part.shape == self.missing.shape and off == (0, 0)
        return self.spoken


def small_parts(
    *boxes: tuple[int, int, int, int],
    inside: float | None = 60,
    outside: float = -20,
    suspicious: bool = True,
    lacks: Any = None,
    **more: Any,
) -> regions.Consistency:
    """What is found in an image of one history with suspicious boxes, in which this many nats speak against it."""
    found = posteriors(table(70), 5, height=HEIGHT, width=WIDTH)
    logits = logits_with(*(boxes if suspicious else ()))
    missing = None
    if inside is not None:
        missing = np.full(logits.shape, outside, np.float32)
        for top, left, bottom, right in boxes:
            missing[top:bottom, left:right] = inside
    calibration, texture = {**CALIBRATION, "counts": [16]}, np.full(found.present.shape, 20.0)
    likely = None if missing is None else Said(missing)
    return regions.find(
        logits, found, history.background(found), calibration, texture, Witnesses(likely=likely, lacks=lacks, **more)
    )


def test_a_small_part_without_the_trace_of_the_background_is_a_region() -> None:
    result = small_parts(SMALL)
    (region,) = result.regions
    assert region.kind == "no_background_trace" and region.score >= 0.5 and result.score >= 0.5
    assert (region.qf1, region.q1, region.grid_shift) == (None, None, None)
    assert abs(region.y - 8 * SMALL[0]) <= 8 and abs(region.x - 8 * SMALL[1]) <= 8
    assert max(region.height, region.width) <= 48


def test_a_small_part_that_as_a_whole_does_not_lack_the_trace_is_doubt() -> None:
    for by, found in ((doubts.SHORT - 0.1, 0), (doubts.SHORT, 1)):
        result = small_parts(SMALL, lacks=lambda _, by=by: by)
        assert len(result.regions) == found and (result.score >= 0.5) == found


@pytest.mark.parametrize("shift", [0, 30])
def test_the_last_compression_itself_is_not_what_a_part_showed_before(shift: int) -> None:
    """It lacks the rest's, which is looked into; on another grid it is another compression."""
    nothing = np.full((cells(HEIGHT), cells(WIDTH)), -20, np.float32)
    for spoken in (doubts.AGAINST - 1, doubts.AGAINST):
        more: Any = {"likely": Said(nothing, 0, spoken), "lacks": lambda _: 0.0, "q2": table(90)}
        result = result_with(GROUND, (table(90), shift, 0.95), **more)
        kinds = [r.kind for r in result.regions]
        assert kinds == (["other_q1"] if shift else ["no_first_compression"] * (spoken >= doubts.AGAINST))


def test_two_small_parts_do_not_hide_each_other() -> None:
    kinds = [r.kind for r in small_parts(SMALL, (28, 6, 32, 10)).regions]
    assert kinds == ["no_background_trace"] * 2


@pytest.mark.parametrize(
    "how",
    [
        {"inside": None},  # no table to look for
        {"inside": -5},  # the trace is there
        {"inside": 60, "outside": 31},  # missing in many places, as where colours are clipped
    ],
)
def test_when_the_trace_says_nothing_a_small_part_is_doubt(how: dict[str, float]) -> None:
    result = small_parts(SMALL, **how)
    assert result.regions == () and result.score < 0.5


def test_a_place_that_nothing_else_suspects_is_a_region_of_which_nobody_is_sure() -> None:
    (region,) = small_parts(SMALL, suspicious=False).regions
    assert region.kind == "no_background_trace" and 0.5 <= region.score < 0.9
    assert abs(region.y - 8 * SMALL[0]) <= 8 and abs(region.x - 8 * SMALL[1]) <= 8
    faint = float(np.log(cells(HEIGHT) * cells(WIDTH) / regions.BY_CHANCE)) - 0.1
    for how in ({"outside": 31}, {"inside": faint}, {"inside": None}):
        nothing = small_parts(SMALL, suspicious=False, **how)
        assert nothing.regions == () and nothing.score < 0.5 and np.nanmax(nothing.suspicion) < 0.5
    assert small_parts(BOX, suspicious=False).regions == (), "a part that holds windows is named by these"
    two = small_parts(SMALL, (28, 6, 32, 10), suspicious=False)
    assert two.regions == (), "one alone stands out, or none"


def test_what_is_asked_of_a_small_part_grows_with_the_image() -> None:
    limit = float(np.log(cells(HEIGHT) * cells(WIDTH) / regions.BY_CHANCE))
    assert 15 < limit < 25
    assert small_parts(SMALL, inside=limit - 0.1).regions == ()
    assert len(small_parts(SMALL, inside=limit + 0.1).regions) == 1
    near, few = np.zeros((9, 9), np.int32), np.zeros((9, 9), np.float32)
    near[4, 4], few[4, 4] = 1, np.log(81 / regions.BY_CHANCE) + 0.1
    assert regions._lacks_trace(near > 0, near > 0, near, few)
    wide = [np.pad(x, ((0, 400), (0, 400))) for x in (near, few)]
    assert not regions._lacks_trace(near > 0, wide[0] > 0, wide[0], wide[1])


def test_a_part_that_holds_windows_is_named_by_these() -> None:
    """Windows inside it show the background, so that what its blocks lack must have another reason."""
    assert small_parts(BOX).regions == ()


def test_suspicion_everywhere_leaves_nothing_to_compare_with() -> None:
    label = np.ones((9, 9), np.int32)
    assert not regions._lacks_trace(label > 0, label > 0, label, np.full((9, 9), 60, np.float32))


def test_a_region_of_an_enlarged_image_is_brought_back_into_the_image_itself() -> None:
    inner = Region(80, 40, 120, 176, 15_000, 0.9, 75.0, table(75), (1, 2), "jpeg_in_uncompressed")
    corner = replace(inner, y=72, x=192, height=254 - 72, width=404 - 192, area=182 * 212)
    size = (203, 323)
    assert rescaled.size(np.zeros(size, np.uint8), 1.25) == (254, 404)  # a little more than there is
    enlarged = regions.Consistency(np.zeros((32, 51), np.float32), (inner, corner), 0.9)
    found = regions.rescale(enlarged, 1.25, size)
    assert found.suspicion.shape == (26, 41) and found.score == 0.9
    assert found.regions[0] == Region(64, 32, 96, 141, 9600, 0.9, 75.0, None, None, "jpeg_in_uncompressed")
    cut = found.regions[1]
    assert (cut.y, cut.x, cut.height, cut.width) == (58, 154, 203 - 58, 323 - 154)
    assert cut.area == cut.height * cut.width
