"""The graphs of the models: what torch computes, written out as ONNX nodes.

The graph of a comb network holds everything between the pixels of a tile and the posteriors of its windows: the DCT
at every position, the lookup of the comb functions, their sums over cells of 16 x 16 pixels, the sums over windows of
4 x 4 cells, and the network. The tables are computed when a session starts, so the file holds little but weights.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from jscan.comb import ROWS, STEPS_PER_UNIT, Band
from jscan.jpegtables import N_COEFS, Q1_OFFSET, ZIGZAG, dct_basis
from jscan.tiling import MARGIN, STRIDE
from train.comb import WINDOW
from train.networks.comb import Q1Net, QfNet
from train.networks.context import CLIP, FLOOR, SHIFTS, STEPS, ContextNet
from train.networks.region import RegionNet, RegionNets
from train.networks.scout import Glance, ScoutNet

CELL = STRIDE
"""Windows lie one cell apart and are added up from 4 x 4 of them."""
CELLS = WINDOW // CELL
OPSET = 18
LARGE = 1000
"""Numbers from which weights are large."""


class Graph:
    """Collects the nodes and constants of a graph; every method returns the name of its result."""

    def __init__(self, *, half: bool = False) -> None:
        """`half`: large weights are stored in half precision, and made float32 when the model is opened."""
        self.half = half
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[bytes, str] = {}
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def constant(self, value: Any, dtype: Any) -> str:
        array = np.asarray(value, dtype=dtype)
        key = array.dtype.str.encode() + repr(array.shape).encode() + array.tobytes()
        if key not in self._known:
            self._known[key] = self.name("c")
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def scalar(self, value: float) -> str:
        return self.constant(value, np.float32)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = self.name(op.lower())
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def cut(self, x: str, axis: int, start: int, end: int) -> str:
        return self.add("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def halved(self, array: npt.NDArray[np.float32]) -> str:
        """Weights that are stored in half precision: all models together are to stay below 20 MB."""
        return self.add("Cast", self.constant(array, np.float16), to=TensorProto.FLOAT)

    def weight(self, tensor: torch.Tensor, *, transpose: bool = False, exact: bool = False) -> str:
        """`exact`: in single precision however large they are."""
        array = tensor.detach().numpy().astype(np.float32)
        array = np.ascontiguousarray(array.T) if transpose else array
        if self.half and not exact and array.size >= LARGE:
            return self.halved(array)
        return self.constant(array, np.float32)

    def linear(self, x: str, layer: torch.nn.Linear) -> str:
        out = self.add("MatMul", x, self.weight(layer.weight, transpose=True))
        return out if layer.bias is None else self.add("Add", out, self.weight(layer.bias))


def _table(g: Graph, band: Band) -> str:
    """The band's table: a row of zeros for "no block", and below it the functions, computed from |c|."""
    c = g.constant(np.arange(ROWS, dtype=np.float32)[:, None] / STEPS_PER_UNIT, np.float32)
    waves = g.constant([[2 * np.pi / q for q in band.steps]], np.float32)
    parts = [g.add("Cos", g.add("Mul", c, waves))]
    if band.bells:
        scaled = g.add("Mul", c, g.constant([[1 / w for w in band.bells]], np.float32))
        parts.append(g.add("Exp", g.add("Neg", g.add("Mul", scaled, scaled))))
    rows = g.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    rows = g.add("Concat", g.constant(np.zeros((1, band.size)), np.float32), rows, axis=0)
    return g.add("Div", rows, g.scalar(len(band.coefs))) if len(band.coefs) > 1 else rows


def _four_in_a_row(g: Graph, cells: str) -> str:
    """(n - 3, n) matrix that adds up each four neighbours of n `cells`."""
    zero, one, three, four = (g.constant(k, np.int64) for k in (0, 1, 3, 4))
    n = g.add("Squeeze", cells)
    begin = g.add("Unsqueeze", g.add("Range", zero, g.add("Sub", n, three), one), g.ints(1))
    ahead = g.add("Sub", g.add("Unsqueeze", g.add("Range", zero, n, one), g.ints(0)), begin)
    inside = g.add("And", g.add("GreaterOrEqual", ahead, zero), g.add("Less", ahead, four))
    return g.add("Cast", inside, to=TensorProto.FLOAT)


def _windows(g: Graph, x: str, size: str, channels: int) -> str:
    """(nY, nX, ...) with this many channels -> (wY, wX, channels): sums over 4 x 4 cells, at every cell.

    As two products with narrow matrices: cut and added up piece by piece, every term would be copied first.
    """
    rows, cols = g.cut(size, 0, 0, 1), g.cut(size, 0, 1, 2)
    x = g.add("Reshape", x, g.add("Concat", rows, g.ints(-1), axis=0))
    x = g.add("MatMul", _four_in_a_row(g, rows), x)
    x = g.add("Reshape", x, g.add("Concat", g.ints(-1), cols, g.ints(channels), axis=0))
    return g.add("MatMul", _four_in_a_row(g, cols), x)


def _by_cell(g: Graph, x: str, size: str) -> str:
    """(1, 16 nY, 16 nX) -> (4 blocks, nY, nX, 64 shifts)."""
    rows, cols = g.cut(size, 0, 0, 1), g.cut(size, 0, 1, 2)
    x = g.add("Reshape", x, g.add("Concat", rows, g.ints(2, 8), cols, g.ints(2, 8), axis=0))
    x = g.add("Transpose", x, perm=[1, 4, 0, 3, 2, 5])
    return g.add("Reshape", x, g.add("Concat", g.ints(4), rows, cols, g.ints(64), axis=0))


def _rows(g: Graph, coefs: tuple[int, ...], ones: str) -> dict[int, str]:
    """For each zigzag index the rows of its table, plus one, at every position (16 nY, 16 nX); 0 where no block is.

    The DCT goes down the columns first and then, one vertical frequency at a time, along the rows: 576 multiplications
    a pixel in place of 4096, and every piece of it fits into a cache.
    """
    basis = dct_basis()
    pixels = g.add("Sub", g.add("Cast", "luma", to=TensorProto.FLOAT), g.scalar(128))
    down = g.add("Conv", pixels, g.constant(basis[:, None, :, None], np.float32))
    out: dict[int, str] = {}
    for u in sorted({ZIGZAG[i][0] for i in coefs}):
        mine = [i for i in coefs if ZIGZAG[i][0] == u]
        along = np.stack([STEPS_PER_UNIT * basis[ZIGZAG[i][1]] for i in mine])[:, None, None]
        dct = g.add("Conv", g.cut(down, 1, u, u + 1), g.constant(along, np.float32))
        for k, i in enumerate(mine):
            # Rounded by the cast that follows; no |c| of 8-bit pixels lies beyond the last row.
            one = g.add("Squeeze", g.add("Abs", g.cut(dct, 1, k, k + 1)), g.ints(0))
            out[i] = g.add("Mul", g.add("Add", one, g.scalar(1.5)), ones)
    return out


def _looked_up(g: Graph, table: str, where: str) -> str:
    """Sums over the 4 blocks of a cell of the table's rows: `where` (4, nY, nX, 64) -> (nY, nX, 64, size).

    Block by block, as what is looked up for one of them just fits into a cache; all at once took a fifth longer.
    """
    a, b, c, d = (
        g.add("Gather", table, g.add("Squeeze", g.cut(where, 0, k, k + 1), g.ints(0)), axis=0) for k in range(4)
    )
    return g.add("Add", g.add("Add", a, b), g.add("Add", c, d))


def _features(g: Graph, bands: tuple[Band, ...]) -> tuple[str, str, str, str]:
    """What all windows show: sums (nw, 64, F), one over the blocks of each (nw, 1, 64), mean features, energies.

    The features are the sums divided by the numbers of blocks; their mean over shifts is (nw, 1, F), the energies are
    (nw, bands).
    """
    coefs = tuple(i for b in bands for i in b.coefs)
    shape = g.add("Shape", "luma")
    height, width = (g.add("Sub", g.cut(shape, 0, k, k + 1), g.ints(MARGIN)) for k in (2, 3))
    size = g.add("Div", g.add("Concat", height, width, axis=0), g.ints(CELL))

    def below(extent: str, limit: str) -> str:
        zero, one = g.constant(0, np.int64), g.constant(1, np.int64)
        return g.add("Less", g.add("Range", zero, g.add("Squeeze", extent), one), limit)

    rows = g.add("Unsqueeze", below(height, g.cut("valid", 0, 0, 1)), g.ints(1))
    cols = g.add("Unsqueeze", below(width, g.cut("valid", 0, 1, 2)), g.ints(0))
    ones = g.add("Cast", g.add("And", rows, cols), to=TensorProto.FLOAT)  # where a whole block fits into the image

    def sums(x: str, *axes: int) -> str:
        return g.add("ReduceSum", x, g.ints(*axes), keepdims=0)

    blocks = sums(_by_cell(g, g.add("Unsqueeze", ones, g.ints(0)), size), 0)
    blocks = g.add("Max", _windows(g, blocks, size, 64), g.scalar(1))  # wY, wX, 64
    positions = g.add("ReduceSum", blocks, g.ints(2), keepdims=1)
    cells = g.add("Concat", g.cut(size, 0, 0, 1), g.ints(CELL), g.cut(size, 0, 1, 2), g.ints(CELL), axis=0)

    parts, loud = [], []
    rows_of = _rows(g, coefs, ones)
    for band in bands:
        table, total = _table(g, band), ""
        for i in band.coefs:
            rows_at = rows_of[i]
            loud.append(g.add("Unsqueeze", sums(g.add("Reshape", rows_at, cells), 1, 3), g.ints(2)))  # nY, nX, 1
            where = _by_cell(g, g.add("Cast", rows_at, to=TensorProto.INT32), size)
            looked = _looked_up(g, table, where)
            total = g.add("Add", total, looked) if total else looked
        parts.append(g.add("Reshape", _windows(g, total, size, 64 * band.size), g.ints(0, 0, 64, band.size)))
    count = sum(b.size for b in bands)
    sums_of = g.add("Reshape", g.add("Concat", *parts, axis=3), g.ints(-1, 64, count))
    share = g.add("Div", g.scalar(1), g.add("Reshape", blocks, g.ints(-1, 1, 64)))  # nw, 1, 64
    mean = g.add("MatMul", g.add("Div", share, g.scalar(64)), sums_of)
    # Each coefficient's mean |c|, from its rows, and the mean of those of a band.
    level = g.add(
        "Sub", g.add("Div", _windows(g, g.add("Concat", *loud, axis=2), size, len(coefs)), positions), g.scalar(1.5)
    )
    energy = _energies(g, level, bands, 1 / STEPS_PER_UNIT)
    return sums_of, share, mean, g.add("Reshape", energy, g.ints(-1, len(bands)))


def _energies(g: Graph, level: str, bands: tuple[Band, ...], unit: float = 1.0) -> str:
    """log(1 + mean |c|) of each band from the mean |c| of each coefficient, in multiples of `unit`."""
    mix = np.zeros((sum(len(b.coefs) for b in bands), len(bands)))
    k = 0
    for b, band in enumerate(bands):
        for _ in band.coefs:
            mix[k, b] = unit / len(band.coefs)
            k += 1
    return g.add("Log", g.add("Add", g.add("MatMul", level, g.constant(mix, np.float32)), g.scalar(1)))


def _trunk(
    g: Graph, net: Any, total: str, share: str, mean: str, context: str, place: str = "", stands_for: str = ""
) -> tuple[str, str]:
    """What `CombTrunk.forward` computes from sums, one over the blocks, and mean features.

    Dividing by the blocks and centring are linear, so they are done behind the products, on fewer numbers. Where only
    some shifts are looked at, `place` holds their part of `net.place`, and `stands_for` (shifts, 1) the logs of how
    many each of them stands for.
    """
    flat = g.add("Squeeze", mean, g.ints(1))
    around = g.add("Concat", flat, context, axis=1)
    weight = g.constant(4 * net.first.weight.detach().numpy().T, np.float32)
    here = g.add("Sub", g.linear(around, net.context), g.add("MatMul", flat, weight))
    per_block = g.add("Transpose", share, perm=[0, 2, 1])
    hidden = g.add("Add", g.add("Mul", g.add("MatMul", total, weight), per_block), place or g.weight(net.place))
    hidden = g.add("Relu", g.add("Add", hidden, g.add("Unsqueeze", here, g.ints(1))))
    hidden = g.add("Relu", g.linear(hidden, net.second))
    scores = g.linear(hidden, net.attention)
    if stands_for:
        scores = g.add("Add", scores, stands_for)
    weights = g.add("Transpose", g.add("Softmax", scores, axis=1), perm=[0, 2, 1])
    picked = g.add("Reshape", g.add("MatMul", weights, hidden), g.ints(-1, net.heads * net.inner))
    first = g.add("Mul", g.cut(weights, 1, 0, 1), share)
    comb = g.add("Sub", g.add("MatMul", first, total), mean)
    comb = g.add("Squeeze", g.add("Mul", comb, g.scalar(4)), g.ints(1))
    shift = g.add("Squeeze", g.cut(scores, 2, 0, 1), g.ints(2))
    return g.add("Concat", picked, comb, around, axis=1), g.add("LogSoftmax", shift, axis=1)


def build_onnx(net: Q1Net | QfNet, bands: tuple[Band, ...], prior: float = 0.0) -> onnx.ModelProto:
    """The model of a trained network.

    Inputs: `luma` (1, 1, 16 nY + 7, 16 nX + 7) uint8, the pixels of a tile; `valid` (2,) int64, how many rows and
    columns of block positions lie inside the image; for Q1 also `q2` (1, 15) float32. Outputs, for the (nY - 3) x
    (nX - 3) windows, row by row: `logp` (n, 226 or 100) log-posteriors, `shift` (n, 64) log-posterior, `present`
    (n,) the probability of the compression that is looked for. `prior` is taken off the log-odds of `present`.
    """
    g = Graph()
    is_q1 = isinstance(net, Q1Net)
    total, share, mean, energy = _features(g, bands)
    context = _context(g, energy, is_q1)
    x, shift = _trunk(g, net.trunk, total, share, mean, context)
    inputs = [
        helper.make_tensor_value_info("luma", TensorProto.UINT8, [1, 1, "height", "width"]),
        helper.make_tensor_value_info("valid", TensorProto.INT64, [2]),
    ]
    return _answers(g, net, x, shift, 64, inputs, prior)


def _context(g: Graph, energy: str, is_q1: bool) -> str:
    """What is known of a window beside its features: energies (n, bands) and, for Q1, the logs of the last table."""
    if not is_q1:
        return energy
    like = g.add("Shape", g.cut(energy, 1, 0, N_COEFS))
    return g.add("Concat", energy, g.add("Expand", g.add("Log", "q2"), like), axis=1)


def _answers(
    g: Graph, net: Q1Net | QfNet, x: str, shift: str, shifts: int | str, inputs: list[Any], prior: float
) -> onnx.ModelProto:
    """The model that ends in the network's head: outputs `logp`, `shift` and `present`."""
    is_q1 = isinstance(net, Q1Net)
    for layer in net.head:
        if isinstance(layer, torch.nn.Linear):
            x = g.linear(x, layer)
        elif isinstance(layer, torch.nn.ReLU):
            x = g.add("Relu", x)
    size = Q1_OFFSET[-1] if is_q1 else 100
    logits = g.cut(x, 1, 0, size)
    groups = Q1_OFFSET if is_q1 else (0, 100)
    parts = [g.add("LogSoftmax", g.cut(logits, 1, a, b), axis=1) for a, b in pairwise(groups)]
    logp = g.add("Concat", *parts, axis=1)
    odds = g.add("Sub", g.cut(x, 1, size, size + 1), g.scalar(prior))
    present = g.add("Squeeze", g.add("Sigmoid", odds), g.ints(1))
    for source, name in ((logp, "logp"), (shift, "shift"), (present, "present")):
        g.nodes.append(helper.make_node("Identity", [source], [name]))
    if is_q1:
        inputs.append(helper.make_tensor_value_info("q2", TensorProto.FLOAT, [1, 15]))
    outputs = [
        helper.make_tensor_value_info("logp", TensorProto.FLOAT, ["windows", size]),
        helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["windows", shifts]),
        helper.make_tensor_value_info("present", TensorProto.FLOAT, ["windows"]),
    ]
    graph = helper.make_graph(g.nodes, "jscan", inputs, outputs, g.constants)
    return finish(graph)


def reader_onnx(
    net: Q1Net | QfNet, bands: tuple[Band, ...], prior: float = 0.0, *, half: bool = False
) -> onnx.ModelProto:
    """The same network for features that were computed elsewhere, at some of the grid shifts only.

    Inputs: `features` (n, S, F) sums of the comb functions, `blocks` (n, S) how many they were summed over,
    `place` (S,) int64 the shifts, `stands_for` (S,) float32 how many of the 64 each stands for, `level` (n,
    coefficients) mean |c|, and for Q1 `q2` (1, 15). Outputs as those of `build_onnx`, but `shift` (n, S): what is said
    of a shift and those that it stands for together.
    """
    g = Graph(half=half)
    features = sum(b.size for b in bands)
    share = g.add("Div", g.scalar(1), g.add("Unsqueeze", g.add("Max", "blocks", g.scalar(1)), g.ints(1)))  # n, 1, S
    part = g.add("Div", g.add("Mul", share, "stands_for"), g.scalar(64))
    total = "features"
    mean = g.add("MatMul", part, total)
    context = _context(g, _energies(g, "level", bands), isinstance(net, Q1Net))
    place = g.add("Gather", g.weight(net.trunk.place), "place", axis=0)
    logs = g.add("Unsqueeze", g.add("Log", "stands_for"), g.ints(1))
    x, shift = _trunk(g, net.trunk, total, share, mean, context, place, logs)
    count = sum(len(b.coefs) for b in bands)
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["windows", "shifts", features]),
        helper.make_tensor_value_info("blocks", TensorProto.FLOAT, ["windows", "shifts"]),
        helper.make_tensor_value_info("place", TensorProto.INT64, ["shifts"]),
        helper.make_tensor_value_info("stands_for", TensorProto.FLOAT, ["shifts"]),
        helper.make_tensor_value_info("level", TensorProto.FLOAT, ["windows", count]),
    ]
    return _answers(g, net, x, shift, "shifts", inputs, prior)


def scout_onnx(net: ScoutNet, bands: tuple[Band, ...], glance: Glance | None = None) -> onnx.ModelProto:
    """The model of a scout: which grid shifts are worth a look, and with a `glance` also which windows are.

    Inputs: `means` (n, 64, 16) of its functions, first a shift's own, then the means of all, and for Q1 `q2` (1, 15).
    Outputs: `shift` (n, 64) log-posterior, `projection` (F, 8), which makes its functions from those of its bands, and
    with a `glance` `present` (n,), the probability of a compression that a closer look is expected to find.

    What all shifts of a window share is read again with each of them: to add it to 64 others takes ONNX Runtime as long
    as all the rest.
    """
    g = Graph()
    inputs = [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["windows", 64, 2 * net.size])]
    around = g.add("Squeeze", g.cut(g.cut("means", 1, 0, 1), 2, net.size, 2 * net.size), g.ints(1))
    centred = g.add("Mul", g.weight(net.centred.weight, transpose=True), g.scalar(4))
    context = g.weight(net.context.weight, transpose=True)
    place = g.add("Add", g.weight(net.place), g.weight(net.context.bias))
    if net.has_table:
        inputs.append(helper.make_tensor_value_info("q2", TensorProto.FLOAT, [1, N_COEFS]))
        table = g.add("Log", "q2")
        like = g.add("Concat", g.add("Shape", around, end=1), g.ints(N_COEFS), axis=0)
        around = g.add("Concat", around, g.add("Expand", table, like), axis=1)
        place = g.add("Add", place, g.add("MatMul", table, g.cut(context, 0, net.size, net.size + N_COEFS)))
        context = g.cut(context, 0, 0, net.size)
    # Constant, and computed when the model is opened: (16, width).
    first = g.add("Concat", centred, g.add("Sub", context, centred), axis=0)
    hidden = g.add("Relu", g.add("Add", g.add("MatMul", "means", first), place))
    scores = g.add("Squeeze", g.add("MatMul", hidden, g.weight(net.score.weight, transpose=True)), g.ints(2))
    g.nodes.append(helper.make_node("LogSoftmax", [scores], ["shift"], axis=1))
    g.nodes.append(helper.make_node("Identity", [g.weight(net.project.weight, transpose=True)], ["projection"]))
    outputs = [
        helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["windows", 64]),
        helper.make_tensor_value_info("projection", TensorProto.FLOAT, [sum(b.size for b in bands), net.size]),
    ]
    if glance is not None:
        p = g.add("Exp", "shift")
        picked = g.add("Squeeze", g.add("MatMul", g.add("Unsqueeze", p, g.ints(1)), hidden), g.ints(1))
        of_grid = g.add("Squeeze", g.cut(hidden, 1, 0, 1), g.ints(1))
        mean = g.add("ReduceMean", hidden, g.ints(1), keepdims=0)
        sure = g.add("ReduceMax", p, g.ints(1), keepdims=1)
        spread = g.add("ReduceSum", g.add("Mul", p, "shift"), g.ints(1), keepdims=1)
        x = g.add("Concat", picked, of_grid, mean, around, sure, spread, axis=1)
        x = g.add("Relu", g.linear(g.add("Relu", g.linear(x, glance.first)), glance.second))
        odds = g.add("Squeeze", g.linear(x, glance.last), g.ints(1))
        g.nodes.append(helper.make_node("Sigmoid", [odds], ["present"]))
        outputs.append(helper.make_tensor_value_info("present", TensorProto.FLOAT, ["windows"]))
    return finish(helper.make_graph(g.nodes, "jscan", inputs, outputs, g.constants))


CONTEXT_MAPS = ("present", "texture", "saturated")
CONTEXT_OUTPUTS = ("refined_logp", "refined_shift", "refined_present")


def context_onnx(net: ContextNet, prior: float) -> onnx.ModelProto:
    """The model of a context network: posteriors of (1, R, C) windows -> the same, refined.

    Inputs: `logp` (1, R, C, 226), `shift` (1, R, C, 64), `present`, `texture` and `saturated` (1, R, C), `q2` (1, 15).
    `prior` is taken off the log-odds of `present`.
    """
    g = Graph()

    def read(logp: str) -> tuple[str, str]:
        floored = g.add("Log", g.add("Add", g.add("Exp", logp), g.scalar(FLOOR)))
        return floored, g.add("Div", floored, g.scalar(5))

    bounded = g.add("Clip", "present", g.scalar(1e-4), g.scalar(1 - 1e-4))
    odds = g.add("Log", g.add("Div", bounded, g.add("Sub", g.scalar(1), bounded)))
    odds = g.add("Clip", odds, g.scalar(-CLIP), g.scalar(CLIP))
    (own_steps, steps), (own_shift, shift) = read("logp"), read("shift")
    own = [g.add("Unsqueeze", x, g.ints(3)) for x in (g.add("Div", odds, g.scalar(CLIP)), "texture", "saturated")]
    table = g.add("Reshape", g.add("Div", g.add("Log", "q2"), g.scalar(4)), g.ints(1, 1, 1, N_COEFS))
    like = g.add("Concat", g.add("Shape", "present"), g.ints(N_COEFS), axis=0)
    x = g.add("Concat", steps, shift, *own, g.add("Expand", table, like), axis=3)
    x = g.add("Transpose", g.add("Relu", g.linear(x, net.first)), perm=[0, 3, 1, 2])
    for layer in net.convs:
        x = g.add("Add", x, g.add("Relu", _conv(g, x, layer)))
    out = g.linear(g.add("Transpose", x, perm=[0, 2, 3, 1]), net.last)
    steps = g.add("Add", own_steps, g.cut(out, 3, 0, STEPS))
    parts = [g.add("LogSoftmax", g.cut(steps, 3, a, b), axis=3) for a, b in pairwise(Q1_OFFSET)]
    places = g.add("Add", own_shift, g.cut(out, 3, STEPS, STEPS + SHIFTS))
    more = g.add("Squeeze", g.cut(out, 3, STEPS + SHIFTS, STEPS + SHIFTS + 1), g.ints(3))
    double = g.add("Sigmoid", g.add("Sub", g.add("Add", odds, more), g.scalar(prior)))
    answers = (g.add("Concat", *parts, axis=3), g.add("LogSoftmax", places, axis=3), double)
    for source, name in zip(answers, CONTEXT_OUTPUTS, strict=True):
        g.nodes.append(helper.make_node("Identity", [source], [name]))
    grid: list[Any] = [1, "rows", "cols"]
    shapes: dict[str, list[Any]] = {
        "logp": [*grid, STEPS],
        "shift": [*grid, SHIFTS],
        **dict.fromkeys(CONTEXT_MAPS, grid),
        "q2": [1, N_COEFS],
    }
    outputs = zip(CONTEXT_OUTPUTS, ([*grid, STEPS], [*grid, SHIFTS], grid), strict=True)
    graph = helper.make_graph(
        g.nodes,
        "jscan",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        g.constants,
    )
    return finish(graph)


def _conv(g: Graph, x: str, layer: Any) -> str:
    """A convolution whose borders repeat the outermost values."""
    pad = int(layer.dilation[0]) if layer.kernel_size[0] == 3 else 0
    if pad:
        x = g.add("Pad", x, g.ints(0, 0, pad, pad, 0, 0, pad, pad), mode="edge")
    bias = g.weight(layer.bias) if layer.bias is not None else ""
    return g.add("Conv", x, g.weight(layer.weight), bias, dilations=list(layer.dilation))


def regions_onnx(model: RegionNets) -> onnx.ModelProto:
    """The model of consistency networks: `maps` (1, channels, R, C) -> `logits` (1, 4, R, C), the mean of theirs."""
    g = Graph()
    answers, channels = [], 0
    for net in model.nets:
        assert isinstance(net, RegionNet)
        channels = net.offset.numel()
        x = g.add("Sub", "maps", g.weight(net.offset[None, :, None, None]))
        x = g.add("Mul", x, g.weight(net.scale[None, :, None, None]))
        for layer in (net.first, net.second, net.third):
            x = g.add("Relu", _conv(g, x, layer))
        mean = g.add("Relu", _conv(g, g.add("ReduceMean", x, g.ints(2, 3), keepdims=1), net.whole))
        x = g.add("Concat", x, g.add("Expand", mean, g.add("Shape", x)), axis=1)
        answers.append(_conv(g, g.add("Relu", _conv(g, x, net.fourth)), net.last))
    g.nodes.append(helper.make_node("Mean", answers, ["logits"]))
    graph = helper.make_graph(
        g.nodes,
        "jscan",
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, [1, channels, "rows", "cols"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, "rows", "cols"])],
        g.constants,
    )
    return finish(graph)


def finish(graph: Any) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="jscan")
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return model
