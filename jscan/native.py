"""Machine code of one loop: loaded by LLVM alone, and called like a function of Python.

Numba's functions take an array as its `ArrayModel` lays it out: two pointers to owners, its size, the size of an
element, where it begins, its shape and its strides. `jscan.compiler` makes the code.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

Function = Callable[..., None]
Kinds = tuple[str, ...]
"""What a loop is called with, see `kind`."""

_SCALARS = {"i8": ctypes.c_int64, "f4": ctypes.c_float, "f8": ctypes.c_double}
_FINE = (0, -2)
"""What Numba's functions return where nothing was raised: 0, and -2 for None."""


def kind(value: Any) -> str:
    """How an argument is passed: `f4` or `f8` for a float, `i8` for an integer, and of an array type, axes and order.

    Such as `u2-3C` for three axes of uint16, C-contiguous; `A` stands for any other order. Raises TypeError.
    """
    if isinstance(value, np.ndarray):
        return f"{value.dtype.str[1:]}-{value.ndim}{'C' if value.flags.c_contiguous else 'A'}"
    if isinstance(value, np.float32):
        return "f4"
    if isinstance(value, float):
        return "f8"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return "i8"
    raise TypeError(f"a loop takes arrays, int, float and float32, not {type(value).__name__}")


def axes(kind: str) -> int | None:
    """How many axes an array of this kind has; None for a number."""
    return int(kind.split("-")[1][:-1]) if "-" in kind else None


_engines: list[Any] = []
"""What holds the memory of loaded code, for as long as this process lives."""


def load(code: bytes, symbol: str, kinds: Kinds) -> Function:
    """The function of this name in an object file that `jscan.compiler.machine_code` made. Raises what LLVM raises."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    passed: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
    for one in kinds:
        n = axes(one)
        if n is None:
            passed.append(_SCALARS[one])
        else:
            passed += [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2 + [ctypes.c_void_p] + [ctypes.c_int64] * 2 * n
    # Foreign functions are called without the interpreter's lock.
    native = ctypes.CFUNCTYPE(ctypes.c_int32, *passed)(engine.get_function_address(symbol))
    nothing, error = ctypes.c_void_p(), ctypes.c_void_p()
    places = ctypes.addressof(nothing), ctypes.addressof(error)

    def call(*args: Any) -> None:
        flat: list[Any] = []
        for value in args:
            if isinstance(value, np.ndarray):
                data = value.__array_interface__["data"][0]
                # Who owns the memory (nobody who would need to be told), its size, where it is, and how it is laid out.
                flat += (None, None, value.size, value.itemsize, data, *value.shape, *value.strides)
            else:
                flat.append(value)
        status = native(*places, *flat)
        # `nothing` and `error` are written to, so they have to outlive the call.
        if status not in _FINE:
            raise ArithmeticError(f"{symbol} ended with status {status} ({nothing}, {error})")

    return call
