"""Loops that are compiled when they are first called, kept on disk, and loaded from there the next time.

Numba compiles them (`jscan.compiler`). To import it, and to load what it keeps by itself, would take a second in every
process that scans; LLVM loads the machine code alone in a twentieth of that. What is kept is read only if it was made
of the same source, by the same compiler, and is undamaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from jscan import limits
from jscan.native import Function, Kinds, kind, load

_DIGEST = hashlib.sha256().digest_size


class Library:
    """The loops of a module, which is imported only to compile them, and the other modules that they are made of."""

    def __init__(self, module: str, *others: str) -> None:
        self._module = module
        self._parts = (module, *others)
        self._lock = threading.Lock()
        self._made_of: bytes | None = None

    def loop(self, name: str, room: Callable[..., Iterable[Any]] = lambda *_: ()) -> Loop:
        """The loop of that name, which is called with what `room` returns for its arguments behind them."""
        return Loop(self, name, room)

    def function(self, name: str, kinds: Kinds) -> Function:
        """The loop for arguments of these kinds: kept from before, or compiled now and kept where anything can be."""
        # What it takes of memory to compile, or to load from the disk, is no image's.
        with self._lock, limits.uncounted():
            file = f"{name}-{hashlib.sha256(repr((kinds, _processor())).encode()).hexdigest()[:16]}.o"
            symbol = "jscan_" + file.removesuffix(".o").replace("-", "_")
            for folder in _folders():
                code = self._kept(folder / file)
                with contextlib.suppress(Exception):  # LLVM's own: what it cannot load is compiled anew
                    if code is not None:
                        return load(code, symbol, kinds)
            from jscan import compiler

            loop = getattr(importlib.import_module(self._module), name)
            try:
                code = compiler.machine_code(loop, kinds, symbol)
                function = load(code, symbol, kinds)
            except Exception:  # another system, or another Numba than those known: it knows how to run its own
                return compiler.by_numba(loop)
            self._keep(file, code)
            return function

    def _kept(self, path: Path) -> bytes | None:
        """The machine code in a file, or None where there is none, it is damaged, or it was made of something else."""
        try:
            data = path.read_bytes()
        except OSError:
            return None
        made_of, digest, code = data[:_DIGEST], data[_DIGEST : 2 * _DIGEST], data[2 * _DIGEST :]
        fits = made_of == self._origin() and digest == hashlib.sha256(code).digest()
        return code if fits else None

    def _keep(self, file: str, code: bytes) -> None:
        """Nothing; the code is in the first folder that can be written to, if any can."""
        data = self._origin() + hashlib.sha256(code).digest() + code
        for folder in _folders():
            rough = folder / f".{file}.{os.getpid()}.tmp"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                rough.write_bytes(data)
                rough.replace(folder / file)
                return
            except OSError:
                with contextlib.suppress(OSError):
                    rough.unlink(missing_ok=True)

    def _origin(self) -> bytes:
        """The digest of the source and the compiler's version: of LLVM's, to which Numba's belongs."""
        if self._made_of is None:
            import llvmlite

            made_of = hashlib.sha256(llvmlite.__version__.encode())
            for part in self._parts:
                spec = importlib.util.find_spec(part)
                made_of.update(Path(spec.origin).read_bytes() if spec is not None and spec.origin else b"")
            self._made_of = made_of.digest()
        return self._made_of


class Loop:
    """A loop over arrays, called like a function that returns None. Other threads go on meanwhile."""

    def __init__(self, library: Library, name: str, room: Callable[..., Iterable[Any]]) -> None:
        self._library = library
        self._name = name
        self._room = room
        self._functions: dict[Kinds, Function] = {}

    def __call__(self, *args: Any) -> None:
        given = (*args, *self._room(*args))
        kinds = tuple(map(kind, given))
        function = self._functions.get(kinds)
        if function is None:
            function = self._functions[kinds] = self._library.function(self._name, kinds)
        function(*given)


def _folders() -> Iterator[Path]:
    """Where machine code may be kept: beside the package, or else in the user's cache folder."""
    yield Path(__file__).parent / "__pycache__"
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = Path.home()
        usual = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
        yield Path(os.environ.get("XDG_CACHE_HOME") or usual) / "jscan"


def _processor() -> tuple[str, str, str, str]:
    """What machine code is made for. A home may be shared by machines that differ."""
    import llvmlite.binding as llvm

    asked = (os.environ.get("NUMBA_CPU_NAME", ""), os.environ.get("NUMBA_CPU_FEATURES", ""))
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), *asked
