"""The engine on a Ray cluster: the same promises, whatever happens to actors and machines; and the scan upon it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import types
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fake_scanner
import pytest
from engine_protocol import Alive, ProtocolTests, _state
from fake_scanner import make_inputs
from faulty import scan_of
from material import file_of, photo

import jscan.run
from jscan import __version__
from jscan.config import ScanConfig
from jscan.engine import Ask, Engine, Outcome
from jscan.engine import host as far
from jscan.engine import ray as engine
from jscan.errors import DeviceError, EngineError, UsageError
from jscan.run import run_scan

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc"),
]

TESTS = Path(__file__).parent
MARK = "JSCAN_TEST_OF_RAY"
NODE = {"num_cpus": 3, "object_store_memory": 80_000_000}


def marked(mark: str) -> list[tuple[int, str]]:
    """(number, command line) of each living process in whose environment the mark stands."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
    return found


def gone(mark: str, *, within: float, but: str = "\0") -> bool:
    """Whether no such process is left after this many seconds at most, apart from those of this name."""
    deadline = time.monotonic() + within
    while (left := any(but not in c for _, c in marked(mark))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not left


@pytest.fixture(scope="module")
def mark() -> str:
    return f"{MARK}={uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def machines(mark: str) -> Iterator[Any]:
    """A cluster of one machine, which others may join."""
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS))), **dict([mark.split("=")])}
    engine.prepare("local")
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # a short name, for sockets
        os.environ["RAY_TMPDIR"] = folder
        made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        yield made
        made.shutdown()
    os.environ.clear()
    os.environ |= before


@pytest.fixture(scope="module")
def cluster(machines: Any) -> Iterator[engine.Cluster]:
    with engine.connected(machines.address, device="auto", cores=1, facts=dict) as found:
        yield found


@pytest.fixture
def run(cluster: engine.Cluster) -> Engine:
    return cluster.run


@pytest.fixture
def alive(mark: str) -> Alive:
    """Counts worker processes; actors themselves end a little later."""
    return lambda: sum("spawn_main" in command for _, command in marked(mark))


class TestProtocol(ProtocolTests):
    pass


# --- lost actors and machines -----------------------------------------------------------------------------------------


def _quick(state: str, item: str, ask: Ask) -> str:
    return f"{state} {item}"


def _tells_who_it_is(state: str, item: str, ask: Ask) -> str:
    """Tells its actor's and its own process, and works for a while."""
    ask((os.getppid(), os.getpid()))
    time.sleep(0.05)
    return f"{state} {item}"


class Killer:
    """An `answer` that kills the actor (0) or the worker (1) of some items, so many times each."""

    def __init__(self, which: int, times: dict[str, int], number: signal.Signals = signal.SIGKILL) -> None:
        self.which, self.times, self.number = which, times, number
        self.killed = dict.fromkeys(times, 0)

    def __call__(self, item: str, question: tuple[int, int]) -> None:
        if self.killed.get(item, 0) < self.times.get(item, 0):
            self.killed[item] += 1
            os.kill(question[self.which], self.number)


def by_item(outcomes: Iterator[Outcome[str, str]]) -> dict[str, Outcome[str, str]]:
    """The outcomes, of which every item has one."""
    found = list(outcomes)
    assert len({o.index for o in found}) == len(found)
    return {o.item: o for o in found}


@pytest.mark.parametrize(
    ("which", "times", "said"),
    [(0, 3, "the actor that worked on it, or its machine, was lost, 3 times"), (1, 2, "killed by SIGKILL")],
)
def test_what_is_killed_costs_at_most_itself(run: Engine, alive: Alive, which: int, times: int, said: str) -> None:
    killer = Killer(which, {"b": 1, "d": 99})
    found = by_item(run(_tells_who_it_is, "abcdef", init=_state, workers=2, answer=killer))
    assert {i: o.kind for i, o in found.items()} == {**dict.fromkeys("abcef", "done"), "d": "crashed"}
    assert {o.value for o in found.values() if o.value} == {f"state {i}" for i in "abcef"}
    assert killer.killed == {"b": 1, "d": times}
    assert said in found["d"].message
    assert isinstance(found["d"].asked, tuple), "the question outlives who put it"
    if which == 0:  # nobody is left to wait for the worker of a killed actor, which sees its pipe close and leaves
        deadline = time.monotonic() + 10
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert alive() == 0


def test_actors_that_are_killed_while_they_are_idle_cost_nothing(run: Engine, mark: str) -> None:
    def items() -> Iterator[str]:
        yield from "abc"
        time.sleep(2)  # all three are idle by then
        idle = [p for p, command in marked(mark) if command.startswith("ray::Host")]
        assert len(idle) == 3
        for process in idle:
            os.kill(process, signal.SIGKILL)
        yield "d"

    found = by_item(run(_quick, items(), init=_state, workers=3))
    assert [found[i].value for i in "abcd"] == [f"state {i}" for i in "abcd"]


def test_an_actor_that_gives_no_sign_of_life_is_lost(run: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PULSE_SECONDS", 0.3)
    monkeypatch.setattr(engine, "SILENT_SECONDS", 2.0)
    monkeypatch.setattr(engine, "WAKE_SECONDS", 1.0)
    killer = Killer(0, {"b": 1}, signal.SIGSTOP)
    found = by_item(run(_tells_who_it_is, "abc", init=_state, workers=1, answer=killer))
    assert [found[i].value for i in "abc"] == ["state a", "state b", "state c"]


def _kills_its_actor() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def test_actors_that_die_again_and_again_end_the_run(run: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_LOSSES_A_PLACE", 4)
    outcomes = run(_tells_who_it_is, map(str, range(99)), init=_kills_its_actor, workers=1)
    assert next(outcomes).kind == "crashed"
    with pytest.raises(EngineError, match="again and again"):
        next(outcomes)


def _surroundings(state: str, item: str, ask: Ask) -> tuple[bool, str, bool]:
    silent = [os.readlink(f"/proc/self/fd/{n}") == os.devnull for n in (1, 2)]
    return "ray" in sys.modules, os.environ["OPENBLAS_NUM_THREADS"], all(silent)


def test_a_worker_process_knows_nothing_of_ray_and_prints_nothing_into_its_logs(run: Engine) -> None:
    (outcome,) = run(_surroundings, ["a"], init=_state, workers=1)
    assert outcome.value == (False, "1", True)


def _slow(state: str, item: int, ask: Ask) -> int:
    time.sleep(0.3)
    return item


def test_a_machine_that_dies_costs_nothing(machines: Any, run: Engine, mark: str) -> None:
    other = machines.add_node(**{**NODE, "num_cpus": 2})
    machines.wait_for_nodes()
    raylet = next(p.process.pid for p in other.all_processes["raylet"])
    there = {p for p, _ in marked(mark) if _parent(p) == raylet}
    outcomes = run(_slow, range(30), init=_state, workers=5)
    found: list[Any] = []
    workers: set[int] = set()
    while len(workers) < 2 and len(found) < 25:  # those of another machine may take longer to begin
        found.append(next(outcomes))
        workers = {p for p, command in marked(mark) if "spawn_main" in command and _parent(_parent(p)) == raylet}
    assert len(workers) == 2, "two of the five work on the machine that is to die"
    os.kill(raylet, signal.SIGKILL)
    found += outcomes
    assert sorted(o.index for o in found) == list(range(30))
    assert [o.value for o in sorted(found, key=lambda o: o.index)] == list(range(30))
    deadline = time.monotonic() + 20
    while (left := {p for p, _ in marked(mark)} & (workers | there)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "nobody works on after the machine has gone"
    machines.remove_node(other, allow_graceful=False)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def test_a_cluster_without_room_ends_the_run(monkeypatch: pytest.MonkeyPatch, cluster: engine.Cluster) -> None:
    monkeypatch.setattr(engine, "START_SECONDS", 1.0)
    monkeypatch.setattr(engine, "WAKE_SECONDS", 0.5)
    with_gpus = engine.Cluster((engine.Node("a", "10.0.0.1", 8, 1),), "cuda", dict)  # which this one has not
    with pytest.raises(EngineError, match="no room for an actor"):
        list(with_gpus.run(_quick, "abc", init=_state, workers=1))


# --- who may take part ------------------------------------------------------------------------------------------------


def _another_process() -> dict[str, str]:
    return {"pillow": str(os.getpid())}


def test_a_machine_with_other_libraries_is_refused_by_name(cluster: engine.Cluster) -> None:
    other = engine.Cluster(cluster.nodes, "cpu", _another_process)
    sentence = f"node {cluster.nodes[0].host} cannot take part: pillow is [0-9]+ there and {os.getpid()} here"
    with pytest.raises(EngineError, match=sentence):
        list(other.run(_slow, range(3), init=_state, workers=1))


def test_another_version_is_refused_before_anything_it_sent_is_read() -> None:
    kind, said = pickle.loads(far.Host().hello("0.0.7", b"nothing that could be read"))
    assert kind == "refused" and f"jscan is {__version__} there and 0.0.7 here" in said


def test_a_machine_without_jscan_is_refused(run: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = types.ModuleType("not_on_that_machine")
    exec("class Host:\n    def hello(self, *parts): pass", absent.__dict__)
    monkeypatch.setitem(sys.modules, absent.__name__, absent)
    monkeypatch.setattr(engine, "Host", absent.Host)
    with pytest.raises(
        EngineError, match="the node 127.0.0.1 cannot take part: is jscan .* installed .*No module named"
    ):
        list(run(_slow, range(3), init=_state, workers=1))


def test_a_machine_that_does_not_see_the_evidence_is_refused(tmp_path: Path) -> None:
    from jscan.installed import facts

    mounted, empty = make_inputs(tmp_path / "mounted", a="ok 0.1"), tmp_path / "empty"
    empty.mkdir()
    kinds = [facts([p], [])[str(p)] for p in (mounted, empty, tmp_path / "nowhere", mounted / "a.jpg")]
    assert kinds == ["a folder", "an empty folder", "missing", "a file"]
    assert facts([], [empty])[str(empty)] == "a folder"
    assert far._difference({"/evidence": kinds[1]}, {"/evidence": kinds[0]}) == (
        "/evidence is an empty folder there and a folder here"
    )


def test_gpus_are_shared_out_by_ray_alone() -> None:
    two = (engine.Node("a", "10.0.0.1", 8, 1), engine.Node("b", "10.0.0.2", 16, 3))
    assert (engine.Cluster(two, "auto", dict).device, engine.Cluster(two, "auto", dict).cores) == ("cuda", 4)
    assert (engine.Cluster(two, "cpu", dict).device, engine.Cluster(two, "cpu", dict).cores) == ("cpu", 24)
    with pytest.raises(UsageError, match="say --device cuda"):
        engine.Cluster(two, "cuda:0", dict)
    none = (engine.Node("a", "10.0.0.1", 8, 0),)
    assert engine.Cluster(none, "auto", dict).device == "cpu"
    with pytest.raises(DeviceError, match="no node"):
        engine.Cluster(none, "cuda", dict)


# --- scans ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scan(machines: Any, cluster: engine.Cluster, tmp_path: Path) -> Callable[..., Path]:
    """Scans `tmp_path/in`, on the cluster or not, and says where the results lie."""

    def scan_with(name: str, *, ray: bool, **options: Any) -> Path:
        out = tmp_path / f"{name}.parquet"
        address = machines.address if ray else None
        run_scan(ScanConfig(sources=(tmp_path / "in",), out=out, workers=2, ray=address, **options))
        return out

    return scan_with


def test_every_row_is_as_on_one_machine(
    tmp_path: Path, scan: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", fake_scanner.open_fake)
    verbs = ["ok 0.9", "ok 0.2", "ok 0.9", "error", "skipped", "segfault", "raise", "memory", "ok 0.9"]
    make_inputs(tmp_path / "in", **{f"i{n}": verb for n, verb in enumerate(verbs)})
    out = scan("far", ray=True)
    assert scan_of(out) == scan_of(scan("near", ray=False))
    assert sum(r.duplicate_of is not None for r in scan_of(out)) == 2
    manifest = json.loads(out.with_name(out.name + ".manifest.json").read_text())
    assert manifest["engine"]["name"] == "ray" and manifest["engine"]["worked"] == [os.uname().nodename]
    assert NODE["num_cpus"] in {node["cpus"] for node in manifest["engine"]["nodes"]}


def test_actors_are_told_how_many_windows_a_gpu_looks_at_together(
    tmp_path: Path, scan: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jscan.run, "open_in_worker", partial(fake_scanner.open_noting, tmp_path))
    make_inputs(tmp_path / "in", a="ok 0.1")
    scan("far", ray=True, batch=9)
    assert {p.read_text() for p in tmp_path.glob("*.batch")} == {"9 1"}


def test_pixels_give_the_same_bits_and_names_stay_out_of_rays_logs(tmp_path: Path, scan: Callable[..., Path]) -> None:
    import ray
    from packing import zip_of

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "very-secret-name.jpg").write_bytes(file_of(photo()[:190, :210], quality=85))
    (tmp_path / "in" / "b.png").write_bytes(file_of(photo("coffee")[:100, :100], "PNG"))
    members = {"very-secret-member": file_of(photo("coffee")[:90, :100], quality=70), "large": b"very-secret" * 99_999}
    (tmp_path / "in" / "c.zip").write_bytes(zip_of(members))
    for name, there in (("far", True), ("near", False)):
        scan(name, ray=there, heatmaps=tmp_path / name / "heat", maps=tmp_path / name / "maps")
    rows = scan_of(tmp_path / "far.parquet")
    assert rows == scan_of(tmp_path / "near.parquet")
    assert sum(r.score is not None for r in rows) == 3
    made = [{p.name: p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("far", "near")]
    assert made[0] == made[1] and len(made[0]) == 6
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    written = [p for p in session.rglob("*") if p.is_file()]
    assert len(written) > 5
    assert not [p for p in written if b"very-secret" in p.read_bytes()]


# --- a cluster of one's own -------------------------------------------------------------------------------------------

OWN = """
import sys
import jscan.run
from fake_scanner import open_fake
from pathlib import Path
from jscan.config import ScanConfig
jscan.run.open_in_worker = open_fake
jscan.run.SHARD_ROWS = 1
class Loud(jscan.run.Silent):
    def row(self, record):
        print("row", flush=True)
if __name__ == "__main__":
    folder, ray = Path(sys.argv[1]), sys.argv[2]
    config = ScanConfig(sources=(folder / "in",), out=folder / "out.parquet", workers=2, ray=ray or None)
    jscan.run.run_scan(config, progress=Loud())
    assert bool(ray) == ("ray" in sys.modules)
"""


def own(folder: Path, mark: str, address: str, files: Path) -> subprocess.Popen[str]:
    """A scan of `folder/in` in a process of its own, which says `row` for each; Ray's files lie below `files`."""
    script = folder / "main.py"
    script.write_text(OWN)
    clean = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    path = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, "PYTHONPATH": path, "HOME": str(folder), "TMPDIR": str(files), **dict([mark.split("=")])},
    )


@pytest.fixture
def files() -> Iterator[Path]:
    """An empty folder with a short name."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        yield Path(folder)


def listening(pids: set[int]) -> set[str]:
    """Addresses, in hexadecimal digits, at which these processes await connections."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(descriptor))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].partition(":")[0])
    return found


def test_a_killed_scan_leaves_nobody_and_is_gone_on_with(tmp_path: Path, files: Path) -> None:
    mine = f"{MARK}={uuid.uuid4().hex}"
    # No two alike: a copy that is committed before its original is not kept.
    make_inputs(tmp_path / "in", **{f"i{n}": f"slow {n / 10 if n < 3 else 3 + n / 10}" for n in range(6)})
    scan = own(tmp_path, mine, "local", files)
    assert scan.stdout is not None
    for _ in range(3):
        assert scan.stdout.readline() == "row\n"
    for _ in range(100):  # a row is told of before it is committed
        if len(list((tmp_path / "out.parquet.run").glob("0*.parquet"))) == 3:
            break
        time.sleep(0.02)
    running = marked(mine)
    assert sum("spawn_main" in command for _, command in running) == 2
    # 127.0.0.1, and the same as IPv6 writes it
    heard = listening({p for p, _ in running})
    assert heard and heard <= {"0100007F", "0000000000000000FFFF00000100007F"}
    scan.kill()
    _, complaints = scan.communicate()
    assert complaints == ""
    (left,) = files.iterdir()
    assert left.stat().st_mode & 0o077 == 0, "others cannot enter the folder of Ray's files"
    # The last two are Ray's own, which look only once a minute whether there is a cluster; they run no code of others.
    assert gone(mine, within=10, but="Agent"), marked(mine)
    assert not (tmp_path / ".ray").exists(), "no token is left in the home folder"
    again = own(tmp_path, mine, "", files)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and out.count("row") == 3
    assert [r.status for r in scan_of(tmp_path / "out.parquet")] == ["ok"] * 6


def test_ctrl_c_ends_a_scan_and_its_cluster(tmp_path: Path, files: Path) -> None:
    mine = f"{MARK}={uuid.uuid4().hex}"
    make_inputs(tmp_path / "in", a="ok 0.1", b="slow 60", c="slow 61")
    scan = own(tmp_path, mine, "local", files)
    assert scan.stdout is not None and scan.stdout.readline() == "row\n"
    os.kill(next(p for p, command in marked(mine) if command.startswith("ray::Host")), signal.SIGKILL)
    time.sleep(3)
    scan.send_signal(signal.SIGINT)
    said, complaints = scan.communicate(timeout=60)
    assert said == "", "Ray has nothing to say of an actor that died"
    assert "the same command goes on" in complaints.splitlines()[-1]
    assert gone(mine, within=10), marked(mine)
    assert list(files.iterdir()) == [], "nor are there logs"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there(tmp_path: Path, files: Path, address: str) -> None:
    started = time.monotonic()
    make_inputs(tmp_path / "in", a="ok 0.1")
    scan = own(tmp_path, f"{MARK}={uuid.uuid4().hex}", address, files)
    _, complaints = scan.communicate(timeout=60)
    assert f"UsageError: --ray {address}: the cluster cannot be reached" in complaints
    assert time.monotonic() - started < 30


def test_ray_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    make_inputs(tmp_path / "in", a="ok 0.1")
    with pytest.raises(UsageError, match=r"pip install 'jscan\[ray\]'"):
        run_scan(ScanConfig(sources=(tmp_path / "in",), out=tmp_path / "out.parquet", ray="local"))
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
