"""The fast path of the CPU: the same windows, grids and tables are found as by looking at every shift."""

from __future__ import annotations

import threading
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from material import photo, rng

from jscan import candidates, comb, fastwindows, layout, qfmap, scouting, sparse, tiling, weights
from jscan.candidates import SHIFTS
from jscan.fastwindows import FastWindows, InFull
from jscan.jpegtables import N_COEFS, Q1_MAX, Q1_OFFSET, ZIGZAG, dct_basis, standard_table
from jscan.modelset import FEW_WINDOWS, Q1, QF, Kind
from jscan.q1map import decode
from jscan.records import WindowPosteriors
from jscan.scan import Scanner
from jscan.weights import Model
from jscan.windows import AllShifts
from train import fit, graphs, published
from train.dataset import TASKS
from train.export import prior_logit

KINDS = {"q1": Q1, "qf": QF}
EACH = pytest.mark.parametrize("name", sorted(KINDS))
CROP = (3, 6)
"""Pixels cut off between two compressions."""
PLACE = (-CROP[0] % 8) * 8 + -CROP[1] % 8
"""Where the blocks of the first compression begin then."""


def grey(pixels: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    """(H, W) luma of a compressed picture, read-only."""
    file = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    out = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), np.uint8)
    out.setflags(write=False)
    return out


@cache
def double(name: str, qf1: int, qf2: int) -> npt.NDArray[np.uint8]:
    """A photograph that was compressed twice, on two grids."""
    picture = cv2.cvtColor(photo(name), cv2.COLOR_RGB2GRAY)
    return grey(np.ascontiguousarray(grey(picture, qf1)[CROP[0] :, CROP[1] :]), qf2)


def inputs(name: str, qf2: int) -> dict[str, npt.NDArray[np.float32]]:
    return {"q2": standard_table(qf2)[None, :N_COEFS].astype(np.float32)} if name == "q1" else {}


@cache
def fast(name: str, threads: int = 1) -> FastWindows:
    """As a scan makes it, of the models that are shipped."""
    kind: Kind = KINDS[name]
    scout, reader = (weights.load(n, threads=threads) for n in (kind.scout, kind.reader))
    bands = [comb.from_manifest(weights.manifest(n)) for n in (kind.scout, kind.reader)]
    return FastWindows(scout, bands[0], reader, bands[1], kind.strata)


@cache
def slow(name: str) -> AllShifts:
    return AllShifts(weights.load(KINDS[name].model))


def same(a: WindowPosteriors, b: WindowPosteriors) -> bool:
    fields = ("logp", "shift", "present")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields) and (a.origin, a.size) == (
        b.origin,
        b.size,
    )


# --- against all shifts -------------------------------------------------------------------------------------


@cache
def with_the_same_weights(name: str) -> FastWindows:
    """A reader of the comb model's own weights; the one that is shipped was moved a little by training."""
    bands = TASKS[name]().bands()
    net: Any = fit.build(name)
    published.restore(net, bands, weights.folder() / KINDS[name].model / "model.onnx")
    graph = graphs.reader_onnx(net.eval(), bands, prior_logit(name))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    reader = Model("own", "CPU", session, tuple(o.name for o in session.get_outputs()))
    scout = KINDS[name].scout
    return FastWindows(
        weights.load(scout), comb.from_manifest(weights.manifest(scout)), reader, bands, KINDS[name].strata
    )


@EACH
@pytest.mark.parametrize("origin", [(0, 0), (5, 2)])
def test_at_all_shifts_and_windows_the_answers_are_those_of_the_comb_model(
    monkeypatch: pytest.MonkeyPatch, name: str, origin: tuple[int, int]
) -> None:
    """In several tiles, with windows that reach beyond the image's edges."""
    luma = np.concatenate([double("coffee", 75, 90)[:171, :90], double("astronaut", 85, 80)[100:271, 3:126]], axis=1)
    monkeypatch.setattr(scouting, "OF_TILE", SHIFTS)
    monkeypatch.setattr(candidates, "LEAST", -1.0)  # shifts of which nothing speaks as well
    monkeypatch.setattr(scouting, "TILE", 4)
    monkeypatch.setattr(sparse, "disagreement", lambda p, *_: np.ones(p.shape[:2], bool))
    got = with_the_same_weights(name)(luma, origin, **inputs(name, 90))
    wanted = slow(name)(luma, origin, **inputs(name, 90))
    assert got.present.shape == wanted.present.shape == tiling.window_grid(171 - origin[0], 213 - origin[1])
    assert (got.origin, got.size) == (wanted.origin, wanted.size) == (origin, luma.shape)
    # A coefficient on the edge between two rows of a table may fall on either side, functions are rounded to 1 / 2000,
    # and answers are kept in half precision; 3.5e-3 was measured.
    for field in ("logp", "shift"):
        p, q = (np.exp(getattr(x, field).astype(np.float64)) for x in (got, wanted))
        assert np.abs(p - q).max() < 5e-3 and np.abs(p - q).mean() < 1e-4
        assert np.ptp(q, axis=(0, 1)).max() > 0.2  # windows differ, or little was compared
    assert np.abs(got.present - wanted.present).max() < 5e-3 and (name == "qf" or np.ptp(wanted.present) > 0.05)


def truth(name: str, qf1: int, qf2: int, found: WindowPosteriors) -> tuple[float, float]:
    """Shares of windows with the right shift, and of right steps (Q1) or qualities within 2 (QF)."""
    if name == "q1":
        steps = np.minimum(standard_table(qf1)[:N_COEFS], Q1_MAX)
        return float((found.shift.argmax(2) == PLACE).mean()), float((decode(found.logp) == steps).mean())
    return (
        float((found.shift.argmax(2) == 0).mean()),
        float((np.abs(qfmap.quality(found)[0] - qf2) <= 2).mean()),
    )


@EACH
@pytest.mark.parametrize(
    ("photograph", "qf1", "qf2"), [("astronaut", 75, 90), ("coffee", 60, 85), ("astronaut", 85, 90)]
)
def test_shift_and_table_are_found_as_often(name: str, photograph: str, qf1: int, qf2: int) -> None:
    luma = double(photograph, qf1, qf2)
    (got, more), (wanted, most) = (
        truth(name, qf1, qf2, look(luma, **inputs(name, qf2))) for look in (fast(name), slow(name))
    )
    assert wanted > 0.8 and most > 0.8  # or little was to be found
    assert got >= wanted - 0.01 and more >= most - 0.01


PART = (slice(480, 640), slice(600, 760))
"""Where a part of another picture is pasted in."""
PLACE_OF_PART = 4 * 8 + 7
"""Where its blocks begin: it is cut out of a picture that lost 4 rows and a column."""


@cache
def mosaic() -> npt.NDArray[np.uint8]:
    """(656, 784) of several photographs, compressed on one grid; a part of the lower right corner lies on another.

    The part is pasted out of a picture of the same quality before the last compression.
    """
    parts = [cv2.cvtColor(photo(n), cv2.COLOR_RGB2GRAY)[: 16 * 20, : 16 * 24] for n in ("astronaut", "coffee")]
    ground = np.block([[parts[0], parts[1]], [parts[1][:, ::-1], parts[0][::-1]]])
    ground = np.pad(ground, ((CROP[0], 16), (CROP[1], 16)), mode="reflect")
    ground = grey(ground, 70)[CROP[0] :, CROP[1] :].copy()
    donor = grey(cv2.cvtColor(photo("chelsea"), cv2.COLOR_RGB2GRAY), 70)[4:, 1:]
    ground[PART] = donor[: PART[0].stop - PART[0].start, : PART[1].stop - PART[1].start]
    return grey(ground, 90)


def test_a_part_on_another_grid_is_found_by_its_own_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the image names but its own shift, as a larger one would."""
    monkeypatch.setattr(scouting, "TILE", 16)
    monkeypatch.setattr(candidates, "shifts_of_image", lambda *_: 1)
    luma, places = mosaic(), []
    real = candidates.choose

    def choosing(ranked: Any, most: int, strata: candidates.Strata) -> candidates.Candidates:
        places.append(real(ranked, most, strata).place.tolist())
        return real(ranked, most, strata)

    monkeypatch.setattr(candidates, "choose", choosing)
    best = fast("q1")(luma, **inputs("q1", 90)).shift.argmax(2)
    rows, cols = best.shape
    across = -(-cols // 16)
    assert len(places) == -(-rows // 16) * across == 9 and all(PLACE in p for p in places)
    of_part = [PLACE_OF_PART in p for p in places]
    assert of_part[across + 2] and of_part[2 * across + 2] and not all(of_part)
    # Windows that lie in the part, and those that do not touch it.
    inside = (slice(PART[0].start // 16, (PART[0].stop - 64) // 16 + 1), slice(38, (PART[1].stop - 64) // 16 + 1))
    assert (best[inside] == PLACE_OF_PART).mean() > 0.9
    far = np.ones(best.shape, bool)
    far[(PART[0].start - 64) // 16 :, (PART[1].start - 64) // 16 :] = False
    assert (best[far] == PLACE).mean() > 0.98


# --- the same answer every time -----------------------------------------------------------------------------


@EACH
def test_two_runs_are_the_same_to_the_last_bit(name: str) -> None:
    luma, first = double("coffee", 60, 85), fast(name)(double("coffee", 60, 85), **inputs(name, 85))
    assert same(first, fast(name)(luma, **inputs(name, 85)))
    assert same(first, fast.__wrapped__(name)(luma, **inputs(name, 85)))
    assert np.isfinite(first.logp).all() and np.isfinite(first.shift).all()


@EACH
def test_threads_change_nothing(name: str) -> None:
    """Neither those that a model shares its work out to, nor several images at once."""
    pictures = [double("coffee", 60, 85), double("astronaut", 75, 90)[:200], double("coffee", 60, 85)[100:]]
    alone = [fast(name)(luma, **inputs(name, 85)) for luma in pictures]
    out: list[WindowPosteriors | None] = [None] * len(pictures)

    def work(k: int) -> None:
        out[k] = fast(name)(pictures[k], **inputs(name, 85))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(b is not None and same(a, b) for a, b in zip(alone, out, strict=True))
    several = fast(name, threads=3)(pictures[0], **inputs(name, 85))
    assert same(alone[0], several)


# --- its parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("valid", [(112, 96), (105, 90), (57, 57), (64, 3)])
def test_blocks_of_windows(valid: tuple[int, int]) -> None:
    shifts = np.array([0, 9, 63, 56])
    down, across = layout.blocks(tiling.Tile(5, 7, 9, 10), valid, shifts)
    assert down.shape == (4, 4) and across.shape == (3, 4) and down.dtype == across.dtype == np.float32
    for r in range(4):
        for c in range(3):
            for s, (dy, dx) in enumerate(divmod(int(s), 8) for s in shifts):
                rows = [y for y in range(16 * r + dy, 16 * r + 64, 8) if y < valid[0]]
                cols = [x for x in range(16 * c + dx, 16 * c + 64, 8) if x < valid[1]]
                assert (down[r, s], across[c, s]) == (max(1, len(rows)), max(1, len(cols)))


class Spy:
    """Hands on what a scout is asked."""

    def __init__(self, scout: Model) -> None:
        self.session, self._scout, self.asked = scout.session, scout, []  # type: ignore[var-annotated]

    def __call__(self, **given: npt.NDArray[Any]) -> dict[str, Any]:
        self.asked.append({k: v.copy() for k, v in given.items()})  # the memory is used again
        return self._scout(**given)


@EACH
def test_the_scout_is_asked_what_it_was_trained_on(name: str) -> None:
    basis = dct_basis()
    kind, luma = KINDS[name], np.ascontiguousarray(double("coffee", 75, 90)[: 64 + 7 + 48, : 64 + 7 + 48])
    spy = Spy(weights.load(kind.scout))
    bands, more = (comb.from_manifest(weights.manifest(n)) for n in (kind.scout, kind.reader))
    FastWindows(spy, bands, weights.load(kind.reader), more, kind.strata)(luma, **inputs(name, 90))  # type: ignore[arg-type]
    first, asked = spy.asked  # the first time for the projection alone
    project = weights.load(kind.scout)(**first)["projection"]
    rows, cols = tiling.window_grid(*luma.shape)
    means = asked["means"].reshape(-(-rows // 2), -(-cols // 2), SHIFTS, -1)[..., :8]
    edge = rows - 1, cols - 1  # this one reaches beyond the image
    assert rows % 2 and cols % 2
    for r, c in ((0, 0), (2, 2), (0, 2), edge):
        patch, at, wanted = luma[16 * r : 16 * r + 71, 16 * c : 16 * c + 71] - np.float32(128), 0, np.zeros((64, 64, 8))
        inside = np.zeros((64, 64))  # where a block begins that lies in the image
        inside[: patch.shape[0] - 7, : patch.shape[1] - 7] = 1
        patch = np.pad(patch, [(0, 71 - n) for n in patch.shape])
        dct = np.einsum("ua,yxab,vb->yxuv", basis, np.lib.stride_tricks.sliding_window_view(patch, (8, 8)), basis)
        for band in bands:
            for i in band.coefs:
                c_i = np.abs(dct[..., ZIGZAG[i][0], ZIGZAG[i][1]])
                row = np.floor(c_i * comb.STEPS_PER_UNIT + 0.5).astype(np.int64)
                wanted += (band.table() @ project[at : at + band.size])[row]
            at += band.size
        blocks = inside.reshape(8, 8, 8, 8).sum((0, 2)).reshape(SHIFTS, 1)
        assert bool(blocks.min() == 64) is ((r, c) != edge)
        by_shift = (wanted * inside[..., None]).reshape(8, 8, 8, 8, 8).sum((0, 2)).reshape(SHIFTS, 8) / blocks
        # A coefficient on the edge between two rows may fall on either side.
        off = np.abs(means[r // 2, c // 2] - by_shift)
        # Its functions are rounded to 16 bits of a sum that they never reach.
        assert np.median(off) < 1e-3 and (off.max(axis=0) < 0.02 * np.ptp(by_shift, axis=0)).all()


def look_of(p: npt.NDArray[np.float64], asked: list[tuple[int, int]]) -> Any:
    """A reader's answers out of probabilities (rows, cols, 100); the shift is always the same."""

    def look(r: npt.NDArray[np.int64], c: npt.NDArray[np.int64]) -> dict[str, Any]:
        asked.extend(zip(r.tolist(), c.tolist(), strict=True))
        shift = np.full((len(r), SHIFTS), np.log(1 / SHIFTS), np.float32)
        logp = np.log(p[r, c]).astype(np.float32)
        return {"logp": logp, "shift": shift, "present": p[r, c, 0].astype(np.float32)}

    return look


def plan_of(shape: tuple[int, int], quiet: npt.NDArray[np.bool_] | None = None) -> scouting.Plan:
    """Of a tile, all that there is, of which no window is quiet but those named."""
    return scouting.Plan(
        tiling.Tile(0, 0, *shape), candidates.ALL, np.zeros(shape, bool) if quiet is None else quiet
    )  # fmt: skip


def answered(plan: scouting.Plan, look: Any) -> dict[str, npt.NDArray[np.float32]]:
    whole = fastwindows._Posteriors.room(*plan.tile.shape, 100)
    whole.put_first(plan.tile, fastwindows._first(plan, look))
    r, c = np.nonzero(whole.fill(plan))
    whole.put(r, c, look(r, c) if len(r) else {})
    return {"logp": whole.logp.astype(np.float32), "shift": whole.shift.astype(np.float32), "present": whole.present}


def smooth_field(rows: int, cols: int) -> npt.NDArray[np.float64]:
    p = rng(5).uniform(0.5, 1, (rows, cols, 100))
    p[..., 0] = 30 + rng(6).uniform(0, 1, (rows, cols))
    return np.asarray(p / p.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (5, 7), (3, 3)])
def test_between_agreeing_windows_their_mean_is_taken(shape: tuple[int, int]) -> None:
    p, asked = smooth_field(*shape), []
    out = answered(plan_of(shape), look_of(p, asked))  # type: ignore[arg-type]
    rows, cols = (sparse.axis(n).tolist() for n in shape)
    assert sorted(asked) == [(r, c) for r in rows for c in cols]
    assert out["logp"].shape == (*shape, 100) and out["shift"].shape == (*shape, 64) and out["present"].shape == shape
    for r in range(shape[0]):
        for c in range(shape[1]):
            near = [
                (y, x) for y in rows for x in cols if abs(y - r) <= (r not in rows) and abs(x - c) <= (c not in cols)
            ]
            mean = np.mean([p[n] for n in near], axis=0)
            assert np.allclose(out["logp"][r, c], np.log(mean), rtol=1e-3)  # half precision
            assert out["present"][r, c] == pytest.approx(mean[0], abs=1e-6)
    assert np.allclose(out["shift"], np.log(1 / 64), rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 6), (4, 7), (5, 6), (2, 2)])
def test_the_last_ones_at_an_edge_are_asked_where_nothing_lies_behind_them(shape: tuple[int, int]) -> None:
    p, asked = smooth_field(*shape), []
    out = answered(plan_of(shape), look_of(p, asked))  # type: ignore[arg-type]
    last = {
        (r, c)
        for r, c in np.ndindex(shape)
        if any(n % 2 == 0 and k == n - 1 for n, k in zip(shape, (r, c), strict=True))
    }
    assert len(asked) == len(set(asked)) and set(asked) == last | {
        (r, c) for r, c in np.ndindex(shape) if not (r % 2 or c % 2)
    }
    assert all(np.allclose(out["logp"][at], np.log(p[at]), rtol=1e-3) for at in last)


def test_last_windows_of_a_tile_lie_between_its_own_and_those_of_the_next() -> None:
    p, asked = smooth_field(8, 6), []  # type: ignore[var-annotated]
    tiles = [tiling.Tile(0, 0, 4, 6), tiling.Tile(4, 0, 8, 6)]
    whole, look = fastwindows._Posteriors.room(8, 6, 100), look_of(p, asked)
    plans = [scouting.Plan(t, candidates.ALL, np.zeros(t.shape, bool)) for t in tiles]
    for plan in plans:
        moved = lambda r, c, top=plan.tile.row: look(top + r, c)  # noqa: E731
        whole.put_first(plan.tile, fastwindows._first(plan, moved))
    asks = [whole.fill(plan) for plan in plans]
    wanted = np.log((p[2, 2] + p[4, 2]) / 2)
    assert not asks[0][3, 2] and np.allclose(whole.logp[3, 2].astype(np.float32), wanted, rtol=1e-3)
    assert asks[1][3].all() and asks[0][:, 5].all()  # these lie at the image's edge


@pytest.mark.parametrize(
    ("shape", "odd", "wanted"),
    [
        ((5, 7), (2, 4), {(r, c) for r in range(1, 4) for c in range(3, 6)} - {(2, 4)}),
        ((5, 7), (0, 0), {(0, 1), (1, 0), (1, 1)}),
        ((1, 7), (0, 4), {(0, 3), (0, 5)}),
        ((7, 1), (6, 0), {(5, 0)}),
    ],
)
def test_around_one_that_disagrees_windows_are_asked(
    shape: tuple[int, int], odd: tuple[int, int], wanted: set[tuple[int, int]]
) -> None:
    p = smooth_field(*shape)
    p[odd] *= 0.3
    p[odd][0] = 1 - p[odd][1:].sum()
    asked: list[tuple[int, int]] = []
    out = answered(plan_of(shape), look_of(p, asked))
    first = {(r, c) for r in sparse.axis(shape[0]).tolist() for c in sparse.axis(shape[1]).tolist()}
    # Windows on the sides of a square that holds the odd one are asked as well: they lie in that square.
    assert len(asked) == len(set(asked)) and wanted <= set(asked) - first
    assert all(max(abs(r - odd[0]), abs(c - odd[1])) <= 2 for r, c in set(asked) - first)
    for r, c in asked:
        assert np.allclose(out["logp"][r, c], np.log(p[r, c]), rtol=1e-3)


def ramp(rows: int, cols: int) -> npt.NDArray[np.float64]:
    """Probabilities that change evenly down and across."""
    p = np.full((rows, cols, 100), 1.0)
    p[..., 0] = 30 + np.arange(rows)[:, None] + 2 * np.arange(cols)
    p[..., 1] = 200 - p[..., 0]
    return np.asarray(p / p.sum(axis=2, keepdims=True))


def test_of_quiet_windows_few_are_asked_and_the_others_interpolated() -> None:
    p, asked = ramp(32, 21), []  # type: ignore[var-annotated]
    plan = plan_of((32, 21), np.ones((32, 21), bool))
    out = answered(plan, look_of(p, asked))
    assert asked == [(r, c) for r in (4, 12, 20, 28) for c in (4, 12, 20)]
    inner = (slice(4, 29), slice(4, 21))
    for name, wanted in (("logp", np.log(p)), ("present", p[..., 0])):
        assert np.allclose(out[name][inner], wanted[inner], rtol=1e-3)
        assert np.allclose(out[name][:5, :5], out[name][4, 4], rtol=1e-3)  # beyond the outermost: as these
    assert np.allclose(np.exp(out["logp"]).sum(axis=2), 1, atol=2e-3)
    assert np.allclose(out["shift"], np.log(1 / 64), rtol=1e-3)


def test_windows_that_are_not_quiet_are_looked_at_as_ever() -> None:
    p = smooth_field(24, 24)
    p[9:15, 9:15] = np.roll(p[9:15, 9:15], 40, axis=2)
    quiet = np.ones((24, 24), bool)
    quiet[6:18, 6:18] = False
    asked: list[tuple[int, int]] = []
    plan = plan_of((24, 24), quiet)
    out = answered(plan, look_of(p, asked))
    everywhere: list[tuple[int, int]] = []
    plain = answered(plan_of((24, 24)), look_of(p, everywhere))
    inside = (slice(8, 17), slice(8, 17))
    assert np.array_equal(out["logp"][inside], plain["logp"][inside])
    assert len(set(asked)) == len(asked) < len(everywhere)
    allowed = ~quiet
    allowed[np.ix_(*plan.far)] = True
    assert all(allowed[a] for a in asked)


def test_the_cells_of_all_windows_that_are_asked_first_are_computed() -> None:
    quiet = np.ones((20, 13), bool)
    quiet[2, 10] = False
    quiet[3, 5] = False  # between those
    plan = plan_of((20, 13), quiet)
    wanted, first = np.zeros((11, 8), bool), np.zeros((10, 7), bool)
    for r, c in [(2, 10), *((r, c) for r in (4, 12) for c in (4, 12))]:
        first[r // 2, c // 2] = True
        wanted[r // 2 : r // 2 + 2, c // 2 : c // 2 + 2] = True
    assert np.array_equal(plan.first, first) and np.array_equal(plan.cells, wanted)
    assert plan_of((20, 13)).cells.all()
    assert np.array_equal(scouting.made_of(np.eye(2, dtype=bool), 4).sum(axis=1), [4, 5, 5, 5, 4])


def mostly_once(inside: bool) -> npt.NDArray[np.uint8]:
    """(656, 784) saved once at quality 90; with a part `inside` that was saved before, at quality 70."""
    parts = [cv2.cvtColor(photo(n), cv2.COLOR_RGB2GRAY)[: 16 * 20, : 16 * 24] for n in ("astronaut", "coffee")]
    ground = np.block([[parts[0], parts[1]], [parts[1][:, ::-1], parts[0][::-1]]])
    ground = np.pad(ground, ((0, 16), (0, 16)), mode="reflect")
    if inside:
        donor = grey(cv2.cvtColor(photo("chelsea"), cv2.COLOR_RGB2GRAY), 70)[4:, 1:]
        ground[PART] = donor[: PART[0].stop - PART[0].start, : PART[1].stop - PART[1].start]
    return grey(np.ascontiguousarray(ground), 90)


def test_where_a_glance_finds_nothing_few_windows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a picture that was saved once; a part that was saved before is looked at as closely as ever."""
    plans: list[scouting.Plan] = []
    real = fastwindows._first

    def first(plan: scouting.Plan, look: Any) -> Any:
        plans.append(plan)
        return real(plan, look)

    monkeypatch.setattr(fastwindows, "_first", first)
    monkeypatch.setattr(sparse, "SMALL", 0)
    once = fast("q1")(mostly_once(inside=False), **inputs("q1", 90))
    quiet = np.mean(np.concatenate([p.quiet.ravel() for p in plans]))
    assert quiet > 0.6 and np.median(once.present) < 0.4
    plans.clear()
    found = fast("q1")(mostly_once(inside=True), **inputs("q1", 90))
    # Windows that lie in the part.
    inner = (slice(PART[0].start // 16, (PART[0].stop - 64) // 16 + 1), slice(38, (PART[1].stop - 64) // 16 + 1))
    assert (found.present[inner] > 0.9).all()
    for p in plans:
        here = np.zeros(found.present.shape, bool)
        here[inner] = True
        assert not (here[p.tile.row : p.tile.row_end, p.tile.col : p.tile.col_end] & p.quiet).any()
    assert np.mean(np.concatenate([p.quiet.ravel() for p in plans])) > 0.4


def test_small_images_have_no_quiet_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their time is no matter, and parts of them are small."""
    luma = mostly_once(inside=False)
    plain = fast("q1")(luma, **inputs("q1", 90))
    monkeypatch.setattr(sparse, "QUIET", 0.0)
    assert plain.present.size < sparse.SMALL and same(plain, fast("q1")(luma, **inputs("q1", 90)))


def test_too_small_for_a_window() -> None:
    with pytest.raises(ValueError, match="no window"):
        fast("qf")(np.zeros((70, 70), np.uint8), (7, 0))


@pytest.mark.parametrize("shape", [(64, 64), (64, 300), (79, 65)])
@EACH
def test_few_windows(name: str, shape: tuple[int, int]) -> None:
    luma = np.ascontiguousarray(double("coffee", 75, 90)[: shape[0], : shape[1]])
    luma.setflags(write=False)
    got, wanted = (look(luma, **inputs(name, 90)) for look in (fast(name), slow(name)))
    assert got.present.shape == wanted.present.shape == tiling.window_grid(*shape)
    # The reader's weights are not quite those of the comb model.
    assert np.abs(got.present - wanted.present).mean() < 0.05
    assert (got.shift.argmax(2) == wanted.shift.argmax(2)).mean() >= 0.9


@EACH
def test_flat_and_stark_pixels(name: str) -> None:
    stark = np.kron(rng(1).integers(0, 2, (30, 30)), np.ones((8, 8))).astype(np.uint8) * 255
    for luma in (np.zeros((200, 240), np.uint8), np.full((200, 240), 255, np.uint8), stark):
        found = fast(name)(luma, **inputs(name, 90))
        for part in (found.logp, found.shift, found.present):
            assert np.isfinite(part).all()
        groups = Q1_OFFSET if name == "q1" else (0, 100)
        for a, b in pairwise(groups):
            assert np.allclose(np.exp(found.logp[..., a:b].astype(np.float32)).sum(2), 1, atol=0.02)
        assert np.allclose(np.exp(found.shift.astype(np.float32)).sum(2), 1, atol=0.02)


def test_what_a_scan_looks_with() -> None:
    """The fast way for many windows, all shifts for few, and wherever that was asked for."""
    large, small = np.zeros((64 + 16 * 7, 64 + 16 * 7), np.uint8), np.zeros((64 + 16 * 7, 64 + 16 * 6), np.uint8)
    assert FEW_WINDOWS == 64
    scanner, thorough = Scanner(device="cpu"), Scanner(device="cpu", thorough=True)
    fast, plain = (s.estimator.models for s in (scanner, thorough))
    look = fast.windows(QF, large)
    assert isinstance(look, FastWindows) and fast.windows(QF, large) is look
    assert isinstance(fast.windows(QF, small), InFull) and isinstance(plain.windows(QF, small), AllShifts)
    assert isinstance(plain.windows(QF, large), AllShifts)
    named, others = ({label.partition("@")[0] for label in s.models} for s in (scanner, thorough))
    assert named - others == {"q1-scout", "q1-reader", "qf-scout", "qf-reader"}
    assert others - named == {"q1-comb", "qf-comb"}


@EACH
@pytest.mark.parametrize("size", [(64, 64), (131, 170)])
def test_small_images_are_looked_at_in_full(name: str, size: tuple[int, int]) -> None:
    """What all shifts of all windows tell, of which only the last bits depend on how they are computed."""
    luma = np.ascontiguousarray(double("coffee", 75, 85)[20 : 20 + size[0], 30 : 30 + size[1]])
    origin = (3, 6) if min(size) > 64 + 6 else (0, 0)
    found, plain = InFull(fast(name))(luma, origin, **inputs(name, 85)), slow(name)(luma, origin, **inputs(name, 85))
    assert found.origin == plain.origin and found.size == plain.size == size
    assert np.allclose(found.present, plain.present, atol=5e-3)
    for a, b in ((found.logp, plain.logp), (found.shift, plain.shift)):
        assert a.shape == b.shape and np.allclose(np.exp(a.astype(float)), np.exp(b.astype(float)), atol=0.02)


# --- once more, where something was found ------------------------------------------------------------------------


@EACH
def test_windows_looked_at_again_are_seen_as_by_looking_at_everything(name: str) -> None:
    luma = double("chelsea", 70, 92)
    found, all_shifts = fast(name)(luma, **inputs(name, 92)), slow(name)(luma, **inputs(name, 92))
    where = rng(3).random(found.present.shape) < 0.2
    again = fast(name).again(found, where, luma, **inputs(name, 92))
    for field in ("logp", "shift", "present"):
        new, old, full = (getattr(x, field).astype(np.float32) for x in (again, found, all_shifts))
        assert np.array_equal(new[~where], old[~where])
        assert np.abs(np.exp(new[where]) - np.exp(full[where])).max() < 0.02
    assert same(fast(name).again(found, np.zeros_like(where), luma, **inputs(name, 92)), found)


def test_looking_again_is_the_same_by_several_threads() -> None:
    luma = double("chelsea", 70, 92)
    found = fast("q1")(luma, **inputs("q1", 92))
    where = np.ones(found.present.shape, bool)
    assert same(*(fast("q1", threads).again(found, where, luma, **inputs("q1", 92)) for threads in (1, 2)))


@pytest.mark.parametrize("height", [160, 175, 176, 177, 240])  # the last strip has few rows, or hardly one
def test_what_strips_share_is_what_it_would_be_in_one(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    luma, spy = double("coffee", 75, 90)[:height, :200], Spy(weights.load(Q1.scout))
    bands, more = (comb.from_manifest(weights.manifest(n)) for n in (Q1.scout, Q1.reader))
    look = FastWindows(spy, bands, weights.load(Q1.reader), more, Q1.strata)  # type: ignore[arg-type]
    rows, cols = tiling.window_grid(*luma.shape)
    found = []
    for side in (2, 64):
        monkeypatch.setattr(scouting, "TILE", side)
        monkeypatch.setattr(scouting, "STRIP", 2 * side)
        spy.asked.clear()
        list(look.scouting(luma, (0, 0), rows, cols, inputs("q1", 90)))
        means = np.full(((rows + 1) // 2, (cols + 1) // 2, 64, 16), np.nan, np.float32)
        asked = iter(spy.asked)
        for strip in tiling.tiles(rows, cols, side, 2 * side):
            there = means[scouting._first(strip)]
            there[:] = next(asked)["means"].reshape(there.shape)
        found.append(means)
    # Where a row of pixels is cut, its last ones are added up in another order: a coefficient on the edge between two
    # rows of a table may fall on either side.
    off = np.abs(found[0] - found[1])
    assert np.quantile(off, 0.95) < 1e-5 and off.max() < 0.02
