"""The run manifest: what a run was, what it ran with, and digests by which `jscan verify` proves its results."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jscan import __version__, installed
from jscan.atomic import replacing
from jscan.config import ScanConfig
from jscan.errors import OutputError
from jscan.journal import Header, Shard, digest
from jscan.tally import Tally


class InputsDigest:
    """A running SHA-256 over the keys of inputs, in the order of the results."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, path: bytes, container: str | None, member: int | None) -> None:
        """Nothing; one input more. Lengths go first, so that no two lists of inputs give the same bytes."""
        name = (container or "").encode("utf-8", "backslashreplace")
        number = -1 if member is None else member
        self._hash.update(b"%d %d %d\n%s%s" % (len(path), len(name), number, path, name))
        self.count += 1

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {"count": self.count, "sha256": self._hash.hexdigest()}


def beside(out: Path) -> Path:
    """Where the manifest of these results lies as JSON."""
    return out.with_name(out.name + ".manifest.json")


def build(
    config: ScanConfig,
    header: Header,
    tally: Tally,
    inputs: InputsDigest,
    shards: Sequence[Shard],
    *,
    workers: int,
    engine: Mapping[str, Any],
) -> dict[str, Any]:
    """What the run was, as values that JSON knows."""
    return {
        "run_id": header.run_id,
        "previous_run_id": header.previous,
        "jscan": __version__,
        "python": platform.python_version(),
        "libraries": installed.libraries(),
        "models": sorted(tally.models),
        "model_digests": dict(header.models),
        "device": config.device,
        "provider": sorted({provider for shard in shards for provider in shard.providers}),
        "host": platform.node(),
        "platform": platform.platform(),
        "started": header.started,
        "ended": datetime.now(UTC).isoformat(),
        "arguments": config.options(),
        "folder": header.folder,
        "limits": {
            "max_pixels": config.max_pixels,
            "timeout": config.timeout,
            "max_memory": config.max_memory,
            "limit": config.limit,
        },
        "workers": workers,
        "engine": dict(engine),
        "inputs": inputs.as_dict(),
        "rows": tally.rows,
        "by_status": dict(sorted(tally.by_status.items())),
        "by_error_code": dict(sorted(tally.by_code.items())),
        "duplicates": tally.duplicates,
        "vanished": tally.vanished,
        "shards": [{"name": s.path.name, "rows": s.rows, "sha256": s.sha256} for s in shards],
    }


def header_of(manifest: Mapping[str, Any]) -> Header | None:
    """The header of the finished run whose manifest this is, or None where it is of another version's kind."""
    names = {
        "run_id": "run_id",
        "started": "started",
        "version": "jscan",
        "models": "model_digests",
        "options": "arguments",
        "folder": "folder",
        "previous": "previous_run_id",
    }
    if not set(names.values()) <= set(manifest):
        return None
    return Header.from_dict({mine: manifest[name] for mine, name in names.items()})


def write_beside(out: Path, manifest: Mapping[str, Any]) -> None:
    """Nothing; the manifest stands beside the results as JSON, with the digest of their file. Raises OutputError."""
    file = {"name": out.name, "size": out.stat().st_size, "sha256": digest(out)}
    text = json.dumps({**manifest, "file": file}, indent=2, sort_keys=True, ensure_ascii=False)
    with replacing(beside(out)) as stream:
        stream.write(text.encode("utf-8", "backslashreplace") + b"\n")


def read_beside(out: Path) -> dict[str, Any]:
    """The manifest that lies beside the results. Raises OutputError, naming the file, where there is none."""
    path = beside(out)
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{path} cannot be read: {said}") from error
    if not isinstance(found, dict):
        raise OutputError(f"{path} is no manifest of jscan")
    return found


def mismatches(out: Path, inside: Mapping[str, Any]) -> list[tuple[str, Path, str]]:
    """Where results, their manifest `inside` and the one that lies beside them differ: what, which file, a sentence."""
    name = beside(out)
    try:
        said = read_beside(out)
        sha256 = digest(out)
    except OutputError as error:
        return [("manifest", name, f"{error}; the digest of the results cannot be checked.")]
    found = []
    file = said.pop("file", None)
    if not isinstance(file, Mapping) or file.get("sha256") != sha256:
        found.append(("results", out, f"It is not the file whose digest {name.name} states."))
    if said != inside:
        found.append(("manifest", name, f"{name.name} is not the manifest inside the results."))
    return found


def relative(sources: Iterable[Path]) -> bool:
    """Whether any of the sources depends on where the run was started."""
    return not all(source.is_absolute() for source in sources)
