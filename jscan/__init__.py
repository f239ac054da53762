"""jscan: which parts of an image have another JPEG history than the rest.

>>> from jscan import scan_image
>>> result = scan_image("photo.jpg")
>>> result.record.score, result.record.reasons

Many images: make one `Scanner` and call its `scan`. Whole folders: `jscan scan`, or `jscan.run.run_scan`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jscan.config import ScanConfig
    from jscan.errors import DeviceError, ErrorCode, ExitCode, InputError, JscanError, ModelError, SetupError
    from jscan.records import DecodedImage, ImageRef, Maps, Region, ScanRecord, ScanResult
    from jscan.scan import Scanner, scan_image

__version__ = "0.1.0"

__all__ = [
    "DecodedImage",
    "DeviceError",
    "ErrorCode",
    "ExitCode",
    "ImageRef",
    "InputError",
    "JscanError",
    "Maps",
    "ModelError",
    "Region",
    "ScanConfig",
    "ScanRecord",
    "ScanResult",
    "Scanner",
    "SetupError",
    "__version__",
    "scan_image",
]

# Where each name lives. They are imported when they are asked for, so that `import jscan` and `jscan --help` do not
# wait for NumPy, OpenCV and ONNX Runtime.
_HOMES = {
    "jscan.config": ("ScanConfig",),
    "jscan.errors": ("DeviceError", "ErrorCode", "ExitCode", "InputError", "JscanError", "ModelError", "SetupError"),
    "jscan.records": ("DecodedImage", "ImageRef", "Maps", "Region", "ScanRecord", "ScanResult"),
    "jscan.scan": ("Scanner", "scan_image"),
}


def __getattr__(name: str) -> Any:
    """The public object of that name, imported now. Raises AttributeError where there is none."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'jscan' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *__all__})
