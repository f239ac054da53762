"""From a loop in Python to machine code that needs nothing of Numba's to run, see `jscan.native`.

Only this imports Numba, which takes it half a second.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

# Without it, LLVM adds up a row of eight functions one by one; it is read when Numba is imported.
os.environ.setdefault("NUMBA_SLP_VECTORIZE", "1")
# Numba would import SciPy, where it is installed, for what none of the loops calls.
if "scipy" not in sys.modules:
    sys.modules["scipy"] = None  # type: ignore[assignment]
    import numba

    del sys.modules["scipy"]
else:
    import numba
import numpy as np
from numba.core import compiler as numba_compiler
from numba.core import registry, types

from jscan.native import Kinds, axes

Loop = TypeVar("Loop", bound=Callable[..., Any])

_HOW: dict[str, Any] = {"fastmath": True, "nogil": True, "boundscheck": False}
"""How every loop is compiled."""
_BARE = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Without the functions that are called from Python and C."""
_LAST_OWNER = "NRT_MemInfo_call_dtor"
"""Called when an array has lost its last owner; those that a loop is passed have none, so it never is."""
_MATHS = ("exp", "expf", "log", "logf", "erf", "floor", "floorf", "memset", "memcpy", "memmove")
"""Functions that a loop may call; every process has them, in C's own library."""


def part(*, inline: bool) -> Callable[[Loop], Loop]:
    """A decorator of functions that loops call: compiled as loops are, and `inline` by Numba, or left to LLVM."""
    made: Any = numba.njit(inline="always" if inline else "never", **_HOW)
    return made  # type: ignore[no-any-return]


def by_numba(loop: Callable[..., None]) -> Callable[..., None]:
    """The loop as Numba runs it, kept on disk in Numba's own way; for this process alone where nothing can be written.

    Numba raises RuntimeError where neither the folder of the source nor a cache of the user's can be written to.
    """
    try:
        return numba.njit(cache=True, **_HOW)(loop)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.njit(**_HOW)(loop)  # type: ignore[no-any-return]


def machine_code(loop: Callable[..., None], kinds: Kinds, symbol: str) -> bytes:
    """An object file in which the loop, for arguments of these kinds, is the function `symbol`.

    Raises whatever Numba and LLVM raise, and RuntimeError where other libraries would be needed to load it, or where
    the function does not take its arguments as said above.
    """
    import llvmlite.binding as llvm

    if sys.platform == "win32":
        raise RuntimeError("on Windows Numba lends C's functions to the code that it loads")
    core: Any = numba_compiler
    target: Any = registry.cpu_target
    flags = core.Flags()
    target.options.parse_as_flags(flags, {"nopython": True, **_BARE, **_HOW})
    flags.noalias = True
    contexts = target.typing_context, target.target_context
    for context in contexts:
        context.refresh()
    compiled = core.compile_extra(*contexts, loop, tuple(map(_type, kinds)), None, flags, {})
    library = compiled.library
    module = llvm.parse_assembly(library.get_llvm_str())
    name = compiled.fndesc.llvm_func_name
    for function in module.functions:
        if not function.is_declaration and function.name != name:
            function.linkage = llvm.Linkage.internal
    ownerless = next((f for f in module.functions if f.name == _LAST_OWNER), None)
    if ownerless is not None:
        takes = str(ownerless).strip().removeprefix("declare ").partition(")")[0]
        module.link_in(llvm.parse_assembly(f"define {takes}) {{\n ret void\n}}"))
        module.get_function(_LAST_OWNER).linkage = llvm.Linkage.internal
    machine = library.codegen._tm
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
    own = module.get_function(name)
    found = [str(argument.type) for argument in own.arguments]
    if [_register(of) for of in found] != ["i8", "i8", *(part for one in kinds for part in _parts(one))]:
        raise RuntimeError(f"{loop.__name__} takes its arguments in another way: {found}")
    process = ctypes.CDLL(None)
    needed = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    needed += [variable.name for variable in module.global_variables if variable.is_declaration]
    if any(n not in _MATHS for n in needed) or not all(hasattr(process, n) for n in _MATHS):
        raise RuntimeError(f"{loop.__name__} needs {', '.join(needed)}")
    own.name = symbol
    code: bytes = machine.emit_object(module)
    return code


def _type(kind: str) -> Any:
    """Numba's type of an argument of this kind."""
    n, array = axes(kind), cast(Any, types.Array)
    element = numba.from_dtype(np.dtype(kind.split("-")[0]))
    return element if n is None else array(element, n, kind[-1])


def _parts(kind: str) -> tuple[str, ...]:
    """What an argument of this kind is passed as: integers and pointers (`i8`), or floats."""
    n = axes(kind)
    return (kind,) if n is None else ("i8",) * (5 + 2 * n)


def _register(llvm_type: str) -> str:
    """`i8` for an integer of 64 bits or a pointer, `f4` and `f8` for floats, or the type itself."""
    if llvm_type == "i64" or llvm_type.startswith("ptr") or llvm_type.endswith("*"):
        return "i8"
    return {"float": "f4", "double": "f8"}.get(llvm_type, llvm_type)
