"""Imports point downward only. A module that this file does not know fails the test: place it in a layer first."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "jscan"

LAYERS = {
    0: (
        "errors", "records", "config", "names", "timestamps", "filetypes", "jpegtables", "pngdata", "tiling", "limits",
        "comb", "candidates", "coefficients", "stages", "inparallel", "binding", "wording",
    ),
    1: (
        "discover", "members", "archives", "reading", "jpegheader", "decode", "weights", "windows",
        "kernels", "loops", "looplibrary", "compiler", "native",
        "fastwindows", "scouting", "layout", "sparse",
        "qfmap", "q1map", "lastjpeg", "history", "trace", "firsttable", "suspicion", "context", "regions",
        "rescaled", "blockperiod", "clipping", "score", "parquet", "heatmap", "atomic", "blockedges", "doubts",
        "cellmaps", "warped",
        "likelihood", "kept",
        "papermap",
    ),
    2: ("modelset", "ledger", "journal", "tally", "installed"),
    3: ("engine",),
    4: ("estimate", "manifest", "unpack"),
    5: ("scan", "assemble", "inputs", "outputs", "workplace"),
    6: ("worker", "known", "verify"),
    7: ("rows", "warm"),
    8: ("run",),
    9: ("cli", "show", "__main__"),
}  # fmt: skip
OUTERMOST = max(LAYERS)
LEVEL = {name: level for level, names in LAYERS.items() for name in names}

# Layer 1 and the engines import layer 0 only, with these exceptions.
SIBLINGS = {
    ("atomic", "reading"),
    ("parquet", "atomic"),
    ("heatmap", "atomic"),
    ("discover", "members"),
    ("discover", "reading"),
    ("members", "archives"),
    ("members", "reading"),
    ("decode", "jpegheader"),
    ("qfmap", "windows"),
    ("q1map", "windows"),
    ("windows", "weights"),
    ("fastwindows", "weights"),
    ("fastwindows", "windows"),
    ("fastwindows", "kernels"),
    ("fastwindows", "sparse"),
    ("fastwindows", "scouting"),
    ("fastwindows", "layout"),
    ("kernels", "looplibrary"),
    ("looplibrary", "native"),
    ("looplibrary", "compiler"),
    ("compiler", "native"),
    ("loops", "compiler"),
    ("loops", "kernels"),
    ("scouting", "weights"),
    ("scouting", "kernels"),
    ("scouting", "sparse"),
    ("scouting", "layout"),
    ("layout", "kernels"),
    ("history", "kernels"),
    ("trace", "kernels"),
    ("q1map", "kernels"),
    ("suspicion", "weights"),
    ("context", "weights"),
    ("papermap", "weights"),
    ("likelihood", "clipping"),
    ("likelihood", "kernels"),
    ("lastjpeg", "clipping"),
    ("lastjpeg", "kernels"),
    ("likelihood", "trace"),
    ("kept", "trace"),
    ("firsttable", "kernels"),
    ("firsttable", "history"),
    ("firsttable", "trace"),
    ("doubts", "clipping"),
    ("doubts", "history"),
    ("doubts", "kept"),
    ("doubts", "likelihood"),
    ("regions", "clipping"),
    ("regions", "doubts"),
    ("regions", "history"),
    ("regions", "kept"),
    ("regions", "likelihood"),
    ("regions", "score"),
    ("rescaled", "blockperiod"),
    ("warped", "blockperiod"),
    ("warped", "doubts"),
    ("cellmaps", "firsttable"),
    ("cellmaps", "history"),
    ("cellmaps", "q1map"),
    ("cellmaps", "qfmap"),
}
NEVER = {"torch", "ray", "matplotlib", "train"}
BUT = {("engine/ray.py", "ray")}
"""Who may import one of these all the same, inside functions; a scan without it does not, says tests/test_cli.py."""


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "_weights" not in p.parts)


def unit(path: Path) -> str:
    """The name by which a file stands in a layer: `decode`, or `engine` for all below engine/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted module, line) of everything imported anywhere in a file, also inside functions and TYPE_CHECKING."""
    found = []
    here = ["jscan", *path.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            if module == "jscan":
                found += [(f"jscan.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((module, node.lineno))
    return found


def test_every_module_has_a_layer() -> None:
    unknown = {unit(p) for p in modules()} - set(LEVEL) - {"__init__"}
    assert not unknown, f"place {sorted(unknown)} in a layer of tests/test_layers.py"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    me = unit(path)
    if me not in LEVEL and me != "__init__":
        pytest.skip("in no layer yet, which the test above reports")
    for module, line in imports(path):
        where = f"{path.relative_to(PACKAGE.parent)}:{line} imports {module}"
        top, _, rest = module.partition(".")
        assert top not in NEVER or (path.relative_to(PACKAGE).as_posix(), top) in BUT, where
        if top != "jscan":
            continue
        other = rest.partition(".")[0]
        if other in ("", "__version__", "__init__"):
            continue  # the version, which stands above all of them and imports nothing
        if not (PACKAGE / f"{other}.py").exists() and not (PACKAGE / other).exists() and other not in LEVEL:
            # A name out of jscan/__init__.py, which reaches up to scan: for the outermost layer alone.
            assert LEVEL.get(me) == OUTERMOST, where
            continue
        assert other in LEVEL, where
        if me == "__init__":
            assert LEVEL[other] == 0 or other == "scan", where
        elif me != other:
            allowed = (LEVEL[other] == 0) if LEVEL[me] in (1, 3) else LEVEL[other] < LEVEL[me]
            if LEVEL[me] == 0:
                # The vocabulary may use its own words: records of errors, say, but not in a circle.
                allowed = LEVEL[other] == 0
            if LEVEL[me] == LEVEL[other] == OUTERMOST:
                allowed = True
            assert allowed or (me, other) in SIBLINGS, where


def test_no_circle_in_the_vocabulary() -> None:
    graph = {
        name: {m.removeprefix("jscan.") for m, _ in imports(PACKAGE / f"{name}.py") if m.startswith("jscan.")}
        for name in LAYERS[0]
        if (PACKAGE / f"{name}.py").exists()
    }
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs <= done}:
        done |= ready
    assert done == set(graph)
