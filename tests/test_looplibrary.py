"""Loops that are compiled, kept and loaded: when what is kept is believed, and what happens where nothing can be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jscan import compiler, limits, looplibrary
from jscan.looplibrary import Library
from jscan.native import kind

LOOPS = """
def doubled(values, times, out):
    for i in range(values.shape[0]):
        out[i] = values[i] * np.float32(2) * times


def shared_out(total, among, out):
    out[0] = total // among


def with_room_of_its_own(values, out):
    room = np.empty(values.shape[0], np.float32)
    for i in range(values.shape[0]):
        room[i] = values[i] + np.float32(1)
    for i in range(values.shape[0]):
        out[i] = room[i]


def with_logs(values, out):
    for i in range(values.shape[0]):
        out[i] = np.log(values[i]) + math.erf(values[i])


def columns(table, plus, out):
    for r in range(table.shape[0]):
        for c in range(table.shape[1]):
            out[c] += table[r, c] + plus
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where machine code is kept, and nowhere else; `write` puts the loops into a module of the tests' own."""
    monkeypatch.setattr(looplibrary, "_folders", lambda: iter([tmp_path / "kept"]))
    (tmp_path / "source").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "source"))
    write(tmp_path, LOOPS)
    yield tmp_path / "kept"
    sys.modules.pop("some_loops", None)


def write(tmp_path: Path, loops: str) -> None:
    (tmp_path / "source" / "some_loops.py").write_text("import math\nimport numpy as np\n" + loops)
    sys.modules.pop("some_loops", None)
    importlib.invalidate_caches()


def doubled(times: float = 1.0) -> list[float]:
    """What a library that has loaded nothing yet computes."""
    out = np.zeros(3, np.float32)
    Library("some_loops").loop("doubled")(np.arange(3, dtype=np.float32), np.float32(times), out)
    return [float(x) for x in out]


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Nothing; who compiles from now on, in one of these ways, fails."""
    for name in names:
        monkeypatch.setattr(compiler, name, lambda *_: pytest.fail("nothing was to be compiled"))


def test_what_was_compiled_is_kept_and_loaded_the_next_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doubled(3) == [0, 6, 12]
    (kept,) = folder.iterdir()
    assert kept.name.startswith("doubled-") and kept.suffix == ".o"
    refuse(monkeypatch, "machine_code", "by_numba")
    assert doubled(3) == [0, 6, 12]


def test_what_a_loop_takes_to_be_made_or_loaded_is_no_image_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []
    for module, name in ((compiler, "machine_code"), (looplibrary, "load")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real: inside.append(limits._limit.lifted) or real(*args))
    doubled()
    doubled()
    assert inside == [1, 1, 1] and limits._limit.lifted == 0


def test_the_source_is_not_imported_where_machine_code_is_kept(folder: Path) -> None:
    doubled()
    sys.modules.pop("some_loops")
    doubled()
    assert "some_loops" not in sys.modules


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: b"",
        lambda data: data[:40],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
    ids=["cut", "empty", "no code", "a bit"],
)
def test_damaged_code_is_compiled_anew(
    folder: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    doubled()
    (kept,) = folder.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert doubled() == [0, 2, 4] and list(folder.iterdir()) == [kept]
    refuse(monkeypatch, "machine_code", "by_numba")
    assert doubled() == [0, 2, 4]


def test_code_that_cannot_be_loaded_is_compiled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled()
    load, refused = looplibrary.load, []

    def once(code: bytes, symbol: str, kinds: Any) -> Any:
        if not refused:
            refused.append(code)
            raise RuntimeError("no such relocation")
        return load(code, symbol, kinds)

    monkeypatch.setattr(looplibrary, "load", once)
    assert doubled() == [0, 2, 4] and refused


def test_code_of_another_source_is_compiled_anew(folder: Path, tmp_path: Path) -> None:
    assert doubled() == [0, 2, 4]
    write(tmp_path, LOOPS.replace("np.float32(2) * times", "np.float32(3) * times"))
    assert doubled() == [0, 3, 6]
    assert len(list(folder.iterdir())) == 1, "it takes the place of the old one"


def test_code_of_another_compiler_is_compiled_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import llvmlite

    doubled()
    monkeypatch.setattr(llvmlite, "__version__", "0.1")
    before = next(folder.iterdir()).stat().st_mtime_ns
    assert doubled() == [0, 2, 4]
    assert next(folder.iterdir()).stat().st_mtime_ns != before


def test_code_for_another_processor_is_another_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubled()
    monkeypatch.setattr(looplibrary, "_processor", lambda: ("another", "", "", ""))
    doubled()
    assert len(list(folder.iterdir())) == 2


def test_loops_are_compiled_where_nothing_can_be_kept(folder: Path) -> None:
    folder.write_text("a file is in the way")
    assert doubled() == [0, 2, 4]
    assert folder.is_file()


def test_they_are_kept_in_the_first_folder_that_can_be_written_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looplibrary, "_folders", lambda: iter([folder, tmp_path / "second", tmp_path / "third"]))
    folder.write_text("a file is in the way")
    doubled()
    assert len(list((tmp_path / "second").iterdir())) == 1 and not (tmp_path / "third").exists()
    refuse(monkeypatch, "machine_code", "by_numba")
    assert doubled() == [0, 2, 4]


def test_the_folders_are_the_packages_and_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    package, user = looplibrary._folders()
    assert package == Path(looplibrary.__file__).parent / "__pycache__" and user == tmp_path / "jscan"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("nobody")))
    assert list(looplibrary._folders()) == [package]


def test_what_needs_numba_to_run_is_run_by_numba(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, out = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    Library("some_loops").loop("with_room_of_its_own")(values, out)
    assert out.tolist() == [1, 2, 3, 4] and not folder.exists()
    monkeypatch.setattr(sys, "platform", "win32")
    assert doubled() == [0, 2, 4] and not folder.exists()


def test_functions_of_c_are_found(folder: Path) -> None:
    values, out = np.array([0.5, 2.0]), np.zeros(2)
    Library("some_loops").loop("with_logs")(values, out)
    assert np.allclose(out, [-0.172647, 1.688469], atol=1e-5) and len(list(folder.iterdir())) == 1


def test_arrays_are_taken_as_they_lie(folder: Path) -> None:
    loop = Library("some_loops").loop("columns")
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    table.flags.writeable = False
    for view in (table, table.T, table[::2], table[:, ::-1], table[1:1], np.broadcast_to(table[0], (3, 6))):
        out = np.zeros(view.shape[1], np.float32)
        loop(view, 2, out)
        assert np.array_equal(out, (view + np.float32(2)).sum(axis=0)), view.strides
    assert len(list(folder.iterdir())) == 2, "one for arrays in order, one for others"


def test_room_is_made_for_each_call(folder: Path) -> None:
    given: list[Any] = []

    def room(values: Any, times: Any) -> list[Any]:
        given.append((values, times))
        return [out]

    out, values = np.zeros(2, np.float32), np.ones(2, np.float32)
    Library("some_loops").loop("doubled", room)(values, np.float32(4))
    assert out.tolist() == [8, 8] and given == [(values, 4)]


def test_what_a_loop_raises_is_an_error(folder: Path) -> None:
    loop = Library("some_loops").loop("shared_out")
    out = np.zeros(1, np.int64)
    loop(7, 2, out)
    assert out[0] == 3
    with pytest.raises(ArithmeticError, match="shared_out"):
        loop(7, 0, out)


def test_kinds_of_arguments() -> None:
    assert [kind(x) for x in (3, np.int64(3), np.uint8(3), 3.0, np.float64(3), np.float32(3))] == [
        "i8", "i8", "i8", "f8", "f8", "f4",
    ]  # fmt: skip
    table = np.zeros((2, 3), np.uint16)
    assert kind(table) == "u2-2C" and kind(table.T) == "u2-2A" and kind(np.zeros((1, 2, 3), bool)) == "b1-3C"
    for other in (None, True, "a", [1], np.float16(1)):
        with pytest.raises(TypeError):
            kind(other)
