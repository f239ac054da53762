"""The command line: exit codes, messages, and nothing garbled."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_scanner
import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_scanner import make_inputs
from rich.console import Console
from typer.testing import CliRunner, Result

import jscan
import jscan.run
import jscan.worker
from jscan import cli, show
from jscan.config import ScanConfig
from jscan.engine import local
from jscan.errors import ModelError, UsageError
from jscan.jpegtables import Q1_MAX
from jscan.records import Region, ScanRecord

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)
    monkeypatch.setattr(local, "started_early", lambda *_: contextlib.nullcontext())  # a fake imports nothing
    monkeypatch.setattr(jscan.worker, "open_scanner", fake_scanner.open_fake)
    monkeypatch.delenv("JSCAN_DEBUG", raising=False)


def invoke(*arguments: object) -> Result:
    """What the command line answers, in this process."""
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def scan(folder: Path, *arguments: object) -> Result:
    """`jscan scan folder/in --out folder/out.parquet ...`."""
    return invoke("scan", folder / "in", "--out", folder / "out.parquet", "--workers", 1, *arguments)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["a.jpg"], 1),
        (["a.jpg", "b.jpg"], 2),
        (["a.jpg", "b.jpg", "--workers", "1"], 1),
        (["."], 3),
        ([".", "--workers", "5"], 5),
        (["a.jpg", "b.jpg", "--workers", "40"], 2),
        ([".", "--workers", "40", "--limit", "2"], 2),
        ([".", "--limit", "7"], 3),
        (["--files-from", "list", "--limit", "1"], 1),
        (["--files-from", "list"], 3),
        (["a.jpg", "missing.jpg"], None),
        (["a.jpg", "--ray", "local"], None),
    ],
)
def test_as_many_workers_start_early_as_there_will_be(
    given: list[str], wanted: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        Path(name).touch()
    monkeypatch.setattr("jscan.limits.usable_cores", lambda: 3)
    monkeypatch.setattr(local, "started_early", lambda *how: asked.append(how) or contextlib.nullcontext())
    monkeypatch.setattr(jscan.run, "run_scan", lambda *_, **__: (_ for _ in ()).throw(UsageError("enough")))
    assert invoke("scan", *given, "--out", "out.parquet").exit_code == 2
    assert asked == ([] if wanted is None else [(wanted, "jscan.warm")])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["scan", "a.jpg"], 1),
        (["scan", ".", "--out", "--ray.parquet"], 1),
        (["scan"], 1),
        (["scan", "--help"], 0),
        (["scan", "a.jpg", "-h"], 0),
        (["scan", "a.jpg", "--ray", "local"], 0),
        (["scan", "a.jpg", "--ray=local"], 0),
        (["show", "a.jpg"], 0),
        (["--help"], 0),
        ([], 0),
    ],
)
def test_a_worker_starts_before_a_scan_is_understood(
    arguments: list[str], wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    monkeypatch.setattr(local, "started_early", lambda *how: asked.append(how) or contextlib.nullcontext())
    monkeypatch.setattr(cli, "app", lambda **_: None)
    monkeypatch.setattr(cli, "_open_streams", lambda: None)
    monkeypatch.setattr(sys, "argv", ["jscan", *arguments])
    monkeypatch.setattr(cli.gc, "freeze", lambda: None)
    with pytest.raises(SystemExit):
        cli.main()
    assert asked == [(1, "jscan.warm")] * wanted


def test_version() -> None:
    assert invoke("--version").output == f"jscan {jscan.__version__}\n"


def test_every_command_is_documented() -> None:
    for command in ("scan", "show", "models", "verify"):
        assert invoke(command, "--help").exit_code == 0
    assert "--fail-on-score" in invoke("scan", "--help").output


def test_a_list_from_standard_input(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1", b="ok 0.2")
    arguments = ["scan", "--files-from", "-", "--null", "--out", str(tmp_path / "out.parquet"), "--workers", "1"]
    answer = CliRunner().invoke(cli.app, arguments, input=os.fsencode(folder / "b.jpg") + b"\0")
    assert answer.exit_code == 0
    assert pq.read_table(tmp_path / "out.parquet")["path"].to_pylist() == [str(folder / "b.jpg")]
    assert invoke("scan", "--out", tmp_path / "2.parquet").exit_code == 2


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from jscan.cli import app\n"
        "CliRunner().invoke(app, ['scan', '--help'])\n"
        "heavy = 'numpy', 'cv2', 'onnxruntime', 'pyarrow', 'torch', 'ray', 'PIL', 'rich.markdown'\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout == "[]\n"


def test_stages_are_shown_at_the_end(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.1")
    answer = invoke("scan", folder, "--out", tmp_path / "out.parquet", "--workers", "1", "--profile-stages")
    assert answer.exit_code == 0
    lines = [line.split() for line in answer.output.splitlines()]
    at = next(k for k, words in enumerate(lines) if words[:1] == ["stage"])
    shown = {words[0]: float(words[1]) for words in lines[at + 1 :] if len(words) > 2}
    assert {"read", "hash", "write", "other"} <= set(shown)
    assert abs(sum(shown.values()) - 100) < 1


def test_a_scanner_of_the_command_line_computes_in_its_own_threads_alone(tmp_path: Path) -> None:
    code = (
        "import os, sys, cv2; from jscan import cli, worker; from pathlib import Path\n"
        "cli.app = lambda **_: None\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "scanner = worker.open_scanner('cpu', 10**6, 3)\n"
        "tiled, whole = (scanner.estimator.models(name) for name in ('q1-comb', 'q1-context'))\n"
        "print(cv2.getNumThreads(), tiled.threads, whole.threads)\n"
        "options = [m.session.get_session_options() for m in (tiled, whole)]\n"
        "print(*(o.intra_op_num_threads for o in options), *(o.inter_op_num_threads for o in options))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, env=clean)
    assert answer.stdout.splitlines()[:2] == ["1 3 1", "1 1 1 1"]


def test_a_worker_loads_no_command_line_and_no_parquet() -> None:
    # A worker imports the main module, the engine, and what its callables need.
    code = (
        "import sys, jscan.__main__, jscan.engine.local, jscan.worker, jscan.scan, onnxruntime\n"
        "print([m for m in ('typer', 'rich', 'pyarrow', 'jscan.run', 'jscan.cli', 'torch', 'ray') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert answer.stdout == "[]\n"
    assert jscan.run.scan_one.__module__ == "jscan.worker"


def test_the_package_gives_its_names_lazily() -> None:
    assert jscan.ScanRecord is ScanRecord
    assert "ScanRecord" in dir(jscan)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = jscan.nonsense


def test_scan_says_what_it_found(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", good="ok 0.93", dull="ok 0.1", text="skipped")
    answer = scan(tmp_path)
    assert answer.exit_code == 0, answer.output
    for words in ("2  ok", "1  skipped", "unsupported_format", "0.93", "good.jpg", "another history", "out.parquet"):
        assert words in answer.stdout
    assert "dull.jpg" not in answer.stdout
    assert "--device auto took CPU" in answer.stderr
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 3


def test_scan_without_findings_says_so(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", dull="ok 0.1")
    assert "No image scores 0.5 or more; the highest is 0.10" in scan(tmp_path).stdout


def test_quiet_is_quiet(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", good="ok 0.93", bad="error")
    answer = scan(tmp_path, "--quiet")
    assert (answer.exit_code, answer.output) == (3, "")


@pytest.mark.parametrize(
    ("contents", "options", "code"),
    [
        ({"a": "ok 0.9"}, (), 0),
        ({"a": "skipped"}, (), 0),
        ({"a": "ok 0.9", "b": "error"}, (), 3),
        ({"a": "ok 0.9", "b": "kill"}, (), 3),
        ({"a": "ok 0.9"}, ("--fail-on-score", 0.9), 4),
        ({"a": "ok 0.9"}, ("--fail-on-score", 0.91), 0),
        ({"a": "ok 0.9", "b": "error"}, ("--fail-on-score", 0.5), 4),
        ({"a": "ok 0.9"}, ("--device", "cuda"), 2),
        ({"a": "ok 0.9"}, ("--device", "tpu"), 2),
        ({"a": "ok 0.9"}, ("--device", "cuda:"), 2),
        ({"a": "ok 0.9"}, ("--device", "cuda:0,0"), 2),
        ({"a": "ok 0.9"}, ("--workers", "-1"), 2),
        ({"a": "ok 0.9"}, ("--batch", "400"), 0),
        ({"a": "ok 0.9"}, ("--batch", "-1"), 2),
        ({"a": "ok 0.9"}, ("--batch", "4", "--estimator", "paper"), 2),
        ({"a": "ok 0.9"}, ("--limit", "0"), 2),
        ({"a": "ok 0.9"}, ("--limit", str(1 << 63)), 2),
        ({"a": "ok 0.9"}, ("--max-memory", str(1 << 50)), 2),
        ({"a": "ok 0.9"}, ("--out", "/"), 2),
    ],
)
def test_exit_codes(tmp_path: Path, contents: dict[str, str], options: tuple[object, ...], code: int) -> None:
    make_inputs(tmp_path / "in", **contents)
    answer = scan(tmp_path, *options)
    assert answer.exit_code == code, answer.output
    assert (tmp_path / "out.parquet").exists() == (code != 2)


def test_no_gpu_is_said_and_never_passed_over(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    answer = scan(tmp_path, "--device", "cuda")
    assert answer.stderr == "jscan: --device cuda: no GPU can be used here\n"


def test_a_cluster_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    make_inputs(tmp_path / "in", a="ok 0.9")
    answer = scan(tmp_path, "--ray", "local")
    assert answer.exit_code == 2 and not (tmp_path / "out.parquet").exists()
    assert "--ray needs Ray" in answer.stderr and "pip install 'jscan[ray]'" in answer.stderr


def test_a_missing_path(tmp_path: Path) -> None:
    answer = scan(tmp_path)
    assert answer.exit_code == 2
    assert "does not exist" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_output_that_exists(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", a="ok 0.9")
    assert scan(tmp_path).exit_code == 0
    answer = scan(tmp_path)
    assert answer.exit_code == 12
    assert "--overwrite" in answer.stderr
    assert scan(tmp_path, "--overwrite").exit_code == 0


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", a="kill")
    (tmp_path / "file").touch()
    answer = invoke("scan", tmp_path / "in", "--out", tmp_path / "file" / "out.parquet")
    assert answer.exit_code == 12
    assert "no folder" in answer.stderr


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    answer = scan(tmp_path)
    assert answer.exit_code == 0
    assert "Nothing to scan was found" in answer.stdout
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_a_disk_that_is_not_mounted_is_said(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.9")
    scan(tmp_path)
    (folder / "a.jpg").unlink()
    answer = scan(tmp_path, "--update", "--quiet")
    assert (answer.exit_code, answer.stdout) == (3, "")
    assert answer.stderr.startswith(f"jscan: {folder}: Nothing to scan was found") and "mounted?" in answer.stderr


def test_a_list_that_names_nothing_any_more(tmp_path: Path) -> None:
    names = tmp_path / "list"
    names.write_text(str(make_inputs(tmp_path / "in", a="ok 0.9") / "a.jpg"))
    options = ("--files-from", names, "--out", tmp_path / "out.parquet", "--workers", 1)
    assert invoke("scan", *options).exit_code == 0
    names.write_text("")
    answer = invoke("scan", *options, "--update")
    assert answer.exit_code == 0
    assert "the results hold only rows of what vanished: 1." in " ".join(answer.stdout.split())


def test_an_unforeseen_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(jscan.run, "run_scan", broken)
    answer = scan(tmp_path)
    assert answer.exit_code == 1
    assert "ZeroDivisionError: oh" in answer.stderr
    assert "Traceback" not in answer.stderr
    monkeypatch.setenv("JSCAN_DEBUG", "1")
    assert "Traceback" in scan(tmp_path).stderr


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", **{"red\x1b[31m[bold]": "ok 0.93"})
    answer = scan(tmp_path)
    assert answer.exit_code == 0
    assert "\x1b" not in answer.output
    assert "red\\x1b[31m[bold].jpg" in answer.stdout
    answer = invoke("show", tmp_path / "no\x1bthing")
    assert "\x1b" not in answer.output


# --- show -------------------------------------------------------------------------------------------------------------


def test_show_prints_the_findings(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.93")
    answer = invoke("show", folder / "a.jpg")
    assert answer.exit_code == 0, answer.output
    for words in ("64 x 48", "0.93", "1 region", "16, 8", "32 x 24", "75", "1, 2", "other first", "50%"):
        assert words in answer.stdout
    assert "▀" not in answer.stdout


def test_show_as_json(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.93")
    row = json.loads(invoke("show", folder / "a.jpg", "--json").stdout)
    assert row["score"] == 0.93
    assert row["regions"][0]["grid_shift"] == [1, 2]
    assert bytes.fromhex(row["path_bytes"]) == os.fsencode(folder / "a.jpg")


def test_show_saves_the_heatmap(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.93")
    save = tmp_path / "heat.png"
    assert invoke("show", folder / "a.jpg", "--save", save).exit_code == 0
    assert save.read_bytes().startswith(b"\x89PNG")
    answer = invoke("show", folder / "a.jpg", "--save", save)
    assert answer.exit_code == 12
    assert "--overwrite" in answer.stderr
    assert invoke("show", folder / "a.jpg", "--save", folder / "a.jpg", "--overwrite").exit_code == 2
    assert invoke("show", folder / "a.jpg", "--save", tmp_path / "nowhere" / "x.png").exit_code == 12
    assert (folder / "a.jpg").read_text() == "ok 0.93"


def test_show_of_what_cannot_be_shown(tmp_path: Path) -> None:
    folder = make_inputs(tmp_path / "in", bad="error", text="skipped")
    assert invoke("show", tmp_path / "nowhere").exit_code == 2
    assert "jscan scan" in invoke("show", folder).stderr
    answer = invoke("show", folder / "bad.jpg", "--save", tmp_path / "x.png")
    assert answer.exit_code == 3
    assert "corrupt_data" in answer.stdout
    assert "was not written" in answer.stderr
    assert invoke("show", folder / "text.jpg").exit_code == 0
    assert invoke("show", folder / "bad.jpg", "--device", "cuda").exit_code == 2


def test_a_file_that_cannot_be_looked_at_is_a_row(tmp_path: Path) -> None:
    """As in a folder that is shut; the name is too long, because root may enter every folder."""
    path, out = tmp_path / ("x" * 300), tmp_path / "out.parquet"
    answer = invoke("show", path)
    assert (answer.exit_code, "ENAMETOOLONG" in answer.stdout) == (3, True), answer.output
    answer = invoke("scan", path, "--out", out)
    assert (answer.exit_code, answer.stderr) == (3, "")
    assert pq.read_table(out)["error_code"].to_pylist() == ["os_error"]


def test_the_preview_has_two_pixels_in_each_character() -> None:
    picture = np.zeros((400, 300, 3), np.uint8)
    picture[:200] = (255, 0, 0)
    console = Console(force_terminal=True, color_system="truecolor", width=60, legacy_windows=False)
    with console.capture() as capture:
        console.print(show.Preview(picture, 60))
    lines = capture.get().rstrip("\n").split("\n")
    assert len(lines) == 40
    assert {line.count("▀") for line in lines} == {60}
    assert "38;2;255;0;0" in lines[0]
    assert "38;2;0;0;0" in lines[-1]


@pytest.mark.parametrize(("system", "terminal", "expected"), [("truecolor", True, True), ("256", True, False)])
def test_a_preview_only_where_it_can_be_shown(system: Any, terminal: bool, expected: bool) -> None:
    console = Console(force_terminal=terminal, color_system=system)
    assert show.can_preview(console) == (expected and console.encoding.startswith("utf"))
    assert not show.can_preview(Console(force_terminal=False, color_system=None))


def test_findings_of_every_kind_of_row() -> None:
    console = Console(width=100, force_terminal=False, color_system=None)
    region = Region(0, 0, 64, 64, 4096, 0.8, None, None, None, "no_first_compression")
    records = [
        ScanRecord("a", b"a"),
        ScanRecord("b", b"b", status="error", error_code="empty", error="It is empty."),
        ScanRecord("c", b"c", width=0, height=0, regions=(region,), warnings=("truncated",)),
        ScanRecord("d", b"d", q1_background=(2,) * 15, qf1_background=None, grid_shift=(1, 2), double_fraction=0.4),
        ScanRecord("e", b"e", qf2=90.0, encoder="ijg", qf_mean=90.0, score=0.2, coverage=0.5, double_fraction=0.3),
        ScanRecord("h", b"h", qf2=55.0, coverage=0.5),
        ScanRecord("i", b"i", qf2=90.0, coverage=0.5, double_fraction=0.7, grid_shift=(6, 4)),
        ScanRecord("g", b"g", qf2=91.0, warnings=("cmyk",), qf_mean=88.0, qf_p10=80.0, qf_p90=92.0),
        ScanRecord("f", b"f", compressed_fraction=0.5, camera_make="Make\x07r"),
    ]
    with console.capture() as capture:
        for record in records:
            console.print(show.findings(record))
    text = capture.get()
    for words in (
        "It is empty.",
        "no first compression",
        "truncated",
        "grid at (dy, dx) = (1, 2)",
        "quality 90, encoder ijg",
        "quality 91, estimated from the pixels: 88 (80 to 92)",
        "\\x07",
    ):
        assert words in text
    assert "pixels: 90" not in text, "a JPEG says its own quality"
    assert text.count("no first compression found") == 1, "where nothing was estimated nothing was looked for"
    assert "30%" not in text, "no share of what was not found"
    assert text.count("too little is left to tell of a first compression") == 1
    assert "compressed before, with a table that cannot be told" in text and "(6, 4)" in text


def test_steps_that_are_capped_are_shown_as_at_least() -> None:
    console = Console(width=200, force_terminal=False, color_system=None)
    table = (15, 11, *Q1_MAX[2:])
    region = Region(0, 0, 64, 64, 4096, 0.8, 50.0, table, None, "other_q1")
    png = Region(0, 0, 64, 64, 4096, 0.8, 50.0, None, None, "other_qf")
    with console.capture() as capture:
        console.print(show.findings(ScanRecord("a", b"a", q1_background=table, qf1_background=50.0)))
        console.print(show.findings(ScanRecord("b", b"b", width=640, height=640, regions=(region, png))))
    text = capture.get()
    assert "compressed before, quality at most 50, steps 15 >=11 >=12 >=14" in text
    assert "first steps of region 1: 15 >=11 >=12" in text
    rows = [line.split() for line in text.splitlines() if "64 x 64" in line]
    assert "<=50" in rows[0] and "50" in rows[1] and "<=50" not in rows[1]


# --- models -----------------------------------------------------------------------------------------------------------


def _fake_weights(monkeypatch: pytest.MonkeyPatch, *, damaged: bool) -> None:
    def check(name: str) -> None:
        if damaged and name == "qf":
            raise ModelError("weights/qf/model.onnx is damaged: its digest differs")

    def manifest(name: str) -> dict[str, Any]:
        return {
            "name": name,
            "version": "1.2",
            "digest": "ab" * 32,
            "training": {"command": "make weights", "commit": "abc", "data": {"images": 221}},
            "metrics": {"kodak": {"accuracy": 0.7512345, "mse": 0.8}, "patches": 100},
            "limits": ["windows of 64 x 64", "QF2 60 to 100"],
        }

    fake = SimpleNamespace(names=lambda: ("q1", "qf"), check=check, manifest=manifest)
    monkeypatch.setitem(sys.modules, "jscan.weights", fake)
    monkeypatch.setattr(jscan, "weights", fake, raising=False)


def test_models_lists_what_the_manifests_say(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_weights(monkeypatch, damaged=False)
    answer = invoke("models")
    assert answer.exit_code == 0, answer.output
    for words in (
        "q1",
        "qf",
        "1.2",
        "ab" * 20,
        "checked",
        "64 x 64",
        "QF2 60 to 100",
        "kodak: accuracy 0.7512",
        "221",
    ):
        assert words in answer.stdout


def test_a_damaged_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_weights(monkeypatch, damaged=True)
    answer = invoke("models")
    assert answer.exit_code == 1
    assert "is damaged" in answer.stdout
    assert "install jscan again" in answer.stderr


# --- real processes ---------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import fake_scanner, jscan.run, jscan.worker
from jscan.cli import main
jscan.run.open_in_worker = jscan.worker.open_scanner = fake_scanner.open_fake
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """A command that is `jscan` with a fake scanner."""
    path = tmp_path / "main.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    return [sys.executable, str(path)]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_python_m_jscan() -> None:
    answer = subprocess.run([sys.executable, "-m", "jscan", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout == f"jscan {jscan.__version__}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "group"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGTERM, False)],
)
def test_an_interrupt_ends_the_run_cleanly(
    tmp_path: Path, script: list[str], environment: dict[str, str], number: signal.Signals, group: bool
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1", b="slow 60")
    log = tmp_path / "log"
    process = subprocess.Popen(
        [*script, "scan", tmp_path / "in", "-o", tmp_path / "out.parquet", "--workers", "1", "--json-log", log],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and '"row"' in log.read_text()):
        time.sleep(0.05)
    # Ctrl-C and a service manager reach the whole group, `kill` the one process that somebody named.
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("jscan: interrupted; what is finished is kept, and the same command goes on\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "log", "main.py", "out.parquet.run"]
    assert sorted(p.name for p in (tmp_path / "out.parquet.run").iterdir()) == ["00000000.parquet", "lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_broken_pipe_is_quiet(tmp_path: Path, script: list[str], environment: dict[str, str]) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.93")
    for arguments in (["show", folder / "a.jpg"], ["show", folder / "a.jpg", "--json"], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        answer = subprocess.run(
            [*script, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
        os.close(writer)
        assert answer.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
@pytest.mark.parametrize("loud", [True, False])
def test_a_scan_goes_on_when_nobody_reads_what_it_says(
    tmp_path: Path, script: list[str], environment: dict[str, str], loud: bool
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.93", b="error")
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["scan", tmp_path / "in", "-o", tmp_path / "out.parquet", "--workers", "1"]
    arguments += [] if loud else ["--device", "cuda"]
    answer = subprocess.run([*script, *arguments], stdout=writer, stderr=writer, env=environment, check=False)
    os.close(writer)
    assert answer.returncode == (3 if loud else 2), "as if it had been read"
    assert (tmp_path / "out.parquet").exists() == loud


@pytest.mark.parametrize("none", ["0", "00", "", "-3", "\N{SUPERSCRIPT TWO}", "wide", "9" * 5000])
def test_a_terminal_of_no_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, none: str) -> None:
    """As some that cannot tell their size say; what is printed is what would be without that."""
    make_inputs(tmp_path / "in", a="ok 0.93")
    assert scan(tmp_path, "--quiet").exit_code == 0
    verify = ("verify", tmp_path / "out.parquet")

    def printed() -> list[str]:
        answers = invoke(*verify), invoke("models"), scan(tmp_path, "--overwrite")
        assert [a.exit_code for a in answers] == [0, 0, 0]
        return [re.sub(r"[0-9.]+ (s|images/s|MP/s)", "", a.output) for a in answers]

    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    wanted = printed()
    assert "all as its manifest says" in wanted[0] and "results" in wanted[2]
    for name in ("COLUMNS", "LINES"):
        monkeypatch.setenv(name, none)
    assert printed() == wanted
    monkeypatch.setenv("COLUMNS", "10")
    assert "manifest" in invoke(*verify).output.replace(" ", "").splitlines(), "a narrow one is heeded"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_scan_goes_on_when_its_terminal_is_gone(
    tmp_path: Path, script: list[str], environment: dict[str, str]
) -> None:
    pty = pytest.importorskip("pty")
    make_inputs(tmp_path / "in", a="ok 0.93", b="slow 0.5", c="error")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*script, "scan", tmp_path / "in", "-o", tmp_path / "out.parquet", "--workers", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert process.wait(60) == 3
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_broken_pipe_changes_no_exit_code(tmp_path: Path, script: list[str], environment: dict[str, str]) -> None:
    folder = make_inputs(tmp_path / "in", bad="error")
    assert scan(tmp_path, "--quiet").exit_code == 3
    (tmp_path / "out.parquet.manifest.json").unlink()
    for arguments, code in (
        (["show", folder / "bad.jpg"], 3),
        (["show", folder / "bad.jpg", "--json"], 3),
        (["verify", tmp_path / "out.parquet"], 5),
        (["models"], 0),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        answer = subprocess.run(
            [*script, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
        os.close(writer)
        assert (answer.returncode, answer.stderr) == (code, ""), arguments


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX descriptors")
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams(
    tmp_path: Path, script: list[str], environment: dict[str, str], closed: tuple[int, ...]
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.93", b="error")
    # The shell closes them as a user would: `>&-`.
    redirections = " ".join(f"{number}>&-" for number in closed)
    arguments = ["scan", tmp_path / "in", "-o", tmp_path / "out.parquet", "--workers", "1"]
    command = ["sh", "-c", f'"$@" {redirections}', "sh", *script, *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 3
    assert "Traceback" not in answer.stderr
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 2


def test_a_closed_stdin_is_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        jscan.run.run_scan(ScanConfig(sources=(), files_from=Path("-"), out=tmp_path / "out.parquet"))


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["scan", "", "-o", "out.parquet"], "argument 2"),
        (["scan", "in", "-o", "out.parquet", "--heatmaps", ""], "argument 6"),
        (["scan", "in", "-o", "out.parquet", "--heatmaps="], "the value of --heatmaps"),
        (["show", ""], "argument 2"),
    ],
)
def test_an_empty_argument_is_no_folder(
    tmp_path: Path, script: list[str], environment: dict[str, str], arguments: list[str], where: str
) -> None:
    make_inputs(tmp_path / "in", a="ok 0.1")
    answer = subprocess.run(
        [*script, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert answer.returncode == 2 and answer.stderr.startswith(f"jscan: {where} is empty"), answer.stderr
    assert not (tmp_path / "out.parquet").exists()


def _heed_modes() -> None:
    """Nothing; what this process executes next heeds the modes of files, though it be root's. Linux."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    for capability in (1, 2) if prctl else ():  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_source_that_cannot_be_read_has_a_row(tmp_path: Path, script: list[str], environment: dict[str, str]) -> None:
    folder = make_inputs(tmp_path / "in", good="ok 0.93", bad="ok 0.1")
    deep = make_inputs(tmp_path / "deep", worse="ok 0.1")
    out, sources = tmp_path / "out.parquet", [folder / "bad.jpg", folder / "good.jpg", deep / "worse.jpg"]
    (folder / "bad.jpg").chmod(0)
    deep.chmod(0)
    try:
        how: dict[str, Any] = {"capture_output": True, "text": True, "preexec_fn": _heed_modes, "check": False}
        if subprocess.run(["cat", folder / "bad.jpg"], **how).returncode == 0:
            pytest.skip("this user may read anything")
        answer = subprocess.run([*script, "scan", *sources, "-o", out], env=environment, **how)
        assert answer.returncode == 3, answer.stderr
        found = {Path(r["path"]).name: r["error_code"] for r in pq.read_table(out).to_pylist()}
        assert found == {"bad.jpg": "os_error", "good.jpg": None, "worse.jpg": "os_error"}
        for image in (folder / "bad.jpg", deep / "worse.jpg"):
            answer = subprocess.run([*script, "show", image], env=environment, **how)
            assert answer.returncode == 3 and "os_error" in answer.stdout, answer.stderr
        for path in (deep / "out.parquet", deep / "worse.jpg" / "out.parquet"):
            answer = subprocess.run([*script, "scan", folder, "-o", path], env=environment, **how)
            assert answer.returncode == 12 and "cannot be written" in answer.stderr
    finally:
        deep.chmod(0o700)


@pytest.fixture
def full_device(tmp_path: Path) -> Path:
    """A device on which there is never room."""
    path = tmp_path / "full"
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 7))
        os.close(os.open(path, os.O_WRONLY))
    except (AttributeError, OSError):
        pytest.skip("no device can be made here")
    return path


def test_a_stdout_that_is_full(
    tmp_path: Path, script: list[str], environment: dict[str, str], full_device: Path
) -> None:
    folder = make_inputs(tmp_path / "in", a="ok 0.93")
    arguments = ["scan", tmp_path / "in", "-o", tmp_path / "out.parquet", "--workers", "1"]
    for command, code in ((["--help"], 12), (["show", folder / "a.jpg"], 12), (["models"], 12), (arguments, 0)):
        with open(full_device, "w") as full:
            answer = subprocess.run(
                [*script, *command], stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False
            )
        assert answer.returncode == code
        assert "stdout cannot be written: No space left on device\n" in answer.stderr
        assert "Traceback" not in answer.stderr and "internal" not in answer.stderr
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_a_terminal_gets_a_bar_and_is_left_as_it_was(
    tmp_path: Path, script: list[str], environment: dict[str, str], number: signal.Signals | None
) -> None:
    pty = pytest.importorskip("pty")
    make_inputs(tmp_path / "in", a="ok 0.93", b="slow 120" if number else "slow 0.3", c="error")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*script, "scan", tmp_path / "in", "-o", tmp_path / "out.parquet", "--workers", "1"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen, sent = b"", False
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
        if number and b"1/3" in seen:
            process.send_signal(number)
            number, sent = None, True
    os.close(ours)
    assert process.wait(30) == (130 if sent else 3)
    assert seen.count(b"\x1b[?25h") == seen.count(b"\x1b[?25l") >= 1, "the cursor is shown again"
    if sent:
        return
    assert b"images/s" in seen
    assert b"3/3" in seen or b"2/3" in seen or b"1/3" in seen
    assert b"good" not in seen
    assert b"0.93" in seen
