"""The command line: parsing, printing, exit codes; nothing else."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TextIO

import typer

from jscan import __version__
from jscan.config import DEFAULT_MAX_MEMORY, DEFAULT_MAX_PIXELS, DEFAULT_TIMEOUT
from jscan.errors import ExitCode, JscanError, OutputError, SetupError, UsageError
from jscan.limits import collect_garbage_rarely, one_thread_for_linear_algebra

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import TaskID

    from jscan.config import ScanConfig
    from jscan.records import ScanRecord
    from jscan.run import Progress

# Heavy modules (NumPy, OpenCV, ONNX Runtime, PyArrow) are imported inside the commands: --help does not wait for them.

PLAIN_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""
WARM = "jscan.warm"
"""What workers that are started early import."""
_SIZE = re.compile("0*[1-9][0-9]{0,4}")  # of a terminal, in lines or columns

Arguments = ParamSpec("Arguments")


class Estimator(StrEnum):
    """The values of --estimator; the same as `jscan.config.ESTIMATORS`."""

    comb = "comb"
    paper = "paper"


app = typer.Typer(
    name="jscan",
    help="Finds the regions of an image that have another JPEG compression history than the rest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help would bring its Markdown reader along: half of the time of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Never returns: runs the command line and exits with its code."""
    one_thread_for_linear_algebra()
    collect_garbage_rarely()
    _open_streams()
    with contextlib.suppress(ValueError, AttributeError):
        signal.signal(signal.SIGTERM, _interrupt)
    code: Any = ExitCode.INTERRUPTED
    try:
        _refuse_empty(sys.argv[1:])
        with _printing(), _first_worker(sys.argv[1:]):
            app(prog_name="jscan")
    except SystemExit as leaving:
        code = leaving.code
    except KeyboardInterrupt:
        pass
    except SetupError as error:  # of the arguments or from the help; commands turn theirs into a code themselves
        code = error.exit_code
        _complain(str(error))
    gc.freeze()  # an interpreter that ends looks through all that it holds, which takes longer than it seems worth
    sys.exit(code)


def _first_worker(arguments: list[str]) -> contextlib.AbstractContextManager[None]:
    """A context in which a worker has been started where the arguments look like a scan's.

    To understand them takes a third of the time that a worker needs to be ready.
    """
    names = {argument.partition("=")[0] for argument in arguments}
    if arguments[:1] != ["scan"] or names & {"-h", "--help", "--ray"}:
        return contextlib.nullcontext()
    from jscan.engine import local

    return local.started_early(1, WARM)


def _refuse_empty(arguments: list[str]) -> None:
    """Nothing. Raises UsageError for an empty argument: taken for a path, it would be the folder one is in."""
    for number, argument in enumerate(arguments, 1):
        name, equals, value = argument.partition("=")
        if not argument or (name.startswith("--") and equals and not value):
            where = f"the value of {name}" if argument else f"argument {number}"
            raise UsageError(f"{where} is empty, as that of a variable which is not set; leave it out or fill it in")


class _Heedless(io.TextIOWrapper):
    """Text that nobody need read: what cannot be written is lost, and does no more harm."""

    def write(self, text: str) -> int:
        """How long the text is."""
        try:
            return super().write(text)
        except OSError:
            _forget(self)
            return len(text)

    def flush(self) -> None:
        """Nothing."""
        try:
            super().flush()
        except OSError:
            _forget(self)


def _open_streams() -> None:
    """Nothing; stdout and stderr can be written to, and no file that is opened later takes a descriptor of theirs.

    A stdout or stderr that was closed goes nowhere. A stdin that was closed stays None.
    """
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # The lowest descriptor that is free is the one that was closed: those below it are open by now.
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(nowhere, True)  # by the workers
            if name != "stdin":
                opened = open(nowhere, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
                setattr(sys, name, opened)
                setattr(sys, f"__{name}__", opened)
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            # A name that the terminal's encoding lacks is shown escaped; it must not end the run.
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        # Progress and messages may lose their reader, or their disk its room, while the run has work to do.
        sys.stderr = _Heedless(
            sys.stderr.buffer, encoding=sys.stderr.encoding, errors="backslashreplace", line_buffering=True
        )


def _interrupt(number: int, frame: object) -> None:
    """Nothing: a SIGTERM is answered as Ctrl-C is."""
    raise KeyboardInterrupt


def _guarded(command: Callable[Arguments, ExitCode]) -> Callable[Arguments, None]:
    """The command with its exceptions turned into messages and exit codes; this is the one place that does so."""

    @functools.wraps(command)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        code = ExitCode.INTERNAL
        try:
            code = command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            code = ExitCode.INTERRUPTED
            _complain(str(interrupt) or "interrupted")
        except JscanError as error:
            code = error.exit_code if isinstance(error, SetupError) else ExitCode.INTERNAL
            _complain(str(error))
            _explain(error)
        except Exception as error:
            _complain(f"internal error: {type(error).__name__}: {error}; set JSCAN_DEBUG=1 for the whole story")
            _explain(error)
        raise typer.Exit(int(code))

    return guarded


def _complain(message: str) -> None:
    """Nothing; one line on stderr."""
    from jscan.names import display_path

    # A path in the message may hold control characters, which a terminal would obey.
    _say("jscan: " + display_path(message.encode("utf-8", "surrogateescape")))


def _say(line: str) -> None:
    """Nothing; the line on stderr."""
    print(line, file=sys.stderr, flush=True)


def _explain(error: BaseException) -> None:
    """Nothing; the traceback on stderr where JSCAN_DEBUG is set."""
    if os.environ.get("JSCAN_DEBUG"):
        import traceback

        traceback.print_exception(error)


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """A context that prints on stdout, and ends quietly where its reader has seen enough.

    Raises OutputError where stdout cannot be written for another reason.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _forget(sys.stdout)
    except OSError as error:
        _forget(sys.stdout)
        raise OutputError(f"stdout cannot be written: {error.strerror or error}") from error


def _forget(stream: TextIO) -> None:
    """Nothing; what is still to be written to this stream goes nowhere, quietly."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _console(*, stderr: bool = False) -> Console:
    """A console that leaves a broken pipe to us."""
    from rich.console import Console

    class HonestConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # what Rich is handling; it would end the process with 1

    return HonestConsole(stderr=stderr, highlight=False, markup=False, emoji=False, _environ=_environment())


def _environment() -> dict[str, str]:
    """The environment, but for a size of the terminal that is none, such as 0: Rich would print nothing at all."""
    return {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES") or _SIZE.fullmatch(v)}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jscan {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
@_guarded
def scan(
    out: Annotated[Path, typer.Option("--out", "-o", help="Parquet file to write, one row per input.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SRC",
            readable=False,  # a file that cannot be read has a row that says so
            help="Files, archives and folders; folders with all that is below them.",
        ),
    ] = None,
    files_from: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Scan the files that FILE (-: standard input) lists instead.")
    ] = None,
    null: Annotated[bool, typer.Option("--null", help="The names in that list end in NUL bytes.")] = False,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for <sha256>.png, the photo with its overlay.")] = None,
    maps: Annotated[Path | None, typer.Option(help="Folder for <sha256>.npz, the maps themselves.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes, or actors of --ray; 0: one per core.")] = 0,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Work on a Ray cluster: auto, local, host:port or ray://host:port; see the README."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda|cuda:N,...",
            help="auto takes a GPU where there is one that works; of several, workers take turns.",
        ),
    ] = "auto",
    estimator: Annotated[
        Estimator, typer.Option(help="paper: the networks of Tondi 2021 and Uchida 2019, maps without a score.")
    ] = Estimator.comb,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Look at all grid shifts and windows on the CPU too; many times slower.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=0, help="Windows that a GPU looks at together; 0: chosen from its free memory.")
    ] = 0,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Scan only paths or names like this; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave out paths or names like this; may be repeated.")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Larger images become error rows, `pixel_limit`.")
    ] = DEFAULT_MAX_PIXELS,
    timeout: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="An input that takes longer becomes an error row; 0: no limit."),
    ] = DEFAULT_TIMEOUT,
    max_memory: Annotated[
        int, typer.Option(min=0, metavar="MIB", help="Memory of a worker beyond its models; 0: no limit.")
    ] = DEFAULT_MAX_MEMORY,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many inputs.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Keep the rows of --out whose input is unchanged; scan the others.")
    ] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Let --update compare by content, not by size and time.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an unfinished run; with --update, scan everything anew.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    json_log: Annotated[Path | None, typer.Option(help="File to append events to, one JSON object a line.")] = None,
    profile_stages: Annotated[
        bool, typer.Option("--profile-stages", help="Say at the end which stage of the work took how long.")
    ] = False,
    fail_on_score: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, metavar="X", help="Exit with 4 if an image scores X or more.")
    ] = None,
) -> ExitCode:
    """Scan images and write what was found to a Parquet file. The same command again goes on where it was ended.

    Exit codes: 0 all well; 3 some inputs could not be read (their rows say why); 4 see --fail-on-score; 2 wrong
    arguments; 5 the results to update are not what their run wrote; 11 another run writes the same file; 12 the
    output could not be written; 130 interrupted.
    """
    from jscan.config import ScanConfig

    config = ScanConfig(
        sources=tuple(sources or ()),
        files_from=files_from,
        null=null,
        out=out,
        heatmaps=heatmaps,
        maps=maps,
        workers=workers,
        device=device,
        estimator=estimator.value,
        thorough=thorough,
        batch=batch,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        max_pixels=max_pixels,
        timeout=timeout,
        max_memory=max_memory,
        limit=limit,
        overwrite=overwrite,
        restart=restart,
        update=update,
        rehash=rehash,
        json_log=json_log,
        profile_stages=profile_stages,
        ray=ray,
    )
    with _workers_started_early(config):
        from jscan.run import run_scan

        with _progress(quiet=quiet, asked=device) as progress:
            run = run_scan(config, progress=progress)
    for sentence in run.missed:
        _complain(sentence)
    if not quiet:
        from jscan import show

        try:
            with _printing():
                _console().print(show.summary(run), crop=False)
                if run.times:
                    _console().print(show.profile(run.times), crop=False)
        except OutputError as error:
            _complain(f"the summary is lost, and the results are there: {error}")
    if fail_on_score is not None and run.max_score is not None and run.max_score >= fail_on_score:
        return ExitCode.SCORE
    return ExitCode.ERROR_ROWS if run.errors else ExitCode.OK


def _workers_started_early(config: ScanConfig) -> contextlib.AbstractContextManager[None]:
    """A context in which workers import what they will want, while this process imports what it wants.

    There are as many of them as the run will have at least: how many inputs a folder or a list has nobody knows yet,
    unless `--limit` says how many count.
    """
    if config.ray is not None or not all(map(os.path.lexists, config.sources)):
        return contextlib.nullcontext()  # they work elsewhere, or have nothing to do
    from jscan.engine import local
    from jscan.limits import usable_cores

    wanted = config.workers or usable_cores()
    wanted = min(wanted, config.limit or wanted)
    if config.files_from is None and not any(map(os.path.isdir, config.sources)):
        wanted = min(wanted, len(config.sources))
    return local.started_early(wanted, WARM)


@app.command()
@_guarded
def show(
    image: Annotated[Path, typer.Argument(metavar="IMG", readable=False, help="The image.")],
    save: Annotated[Path | None, typer.Option(metavar="PNG", help="Write the heatmap to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the row as JSON instead.")] = False,
    device: Annotated[
        str,
        typer.Option(metavar="auto|cpu|cuda|cuda:N", help="auto takes a GPU where there is one that works."),
    ] = "auto",
    estimator: Annotated[
        Estimator, typer.Option(help="paper: the networks of Tondi 2021 and Uchida 2019, maps without a score.")
    ] = Estimator.comb,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Look at all grid shifts and windows on the CPU too; many times slower.")
    ] = False,
    max_pixels: Annotated[int, typer.Option(min=1, help="A larger image is not read.")] = DEFAULT_MAX_PIXELS,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --save file where it exists.")] = False,
) -> ExitCode:
    """Show what is found in one image.

    Prints its score, background, regions and reasons, and a preview of the heatmap.
    """
    try:
        os.lstat(image)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{image} does not exist; check the spelling of the path") from error
    except OSError:
        pass  # it cannot be looked at, as in a folder that is shut; its row will say why
    if os.path.isdir(image):
        raise UsageError(f"{image} is a folder; `jscan scan {image} --out results.parquet` scans it")
    if save is not None:
        _check_save(save, image, overwrite=overwrite)

    from jscan import show as pages
    from jscan.limits import usable_cores
    from jscan.worker import HEATMAP_SIDE, open_scanner

    console = _console()
    scanner = open_scanner(device, max_pixels, usable_cores(), estimator=estimator.value, thorough=thorough)
    preview = not as_json and pages.can_preview(console)
    result = scanner.scan(image, rgb=preview or save is not None)
    drawn = None
    if result.image is not None and result.maps is not None and (preview or save is not None):
        from jscan import heatmap

        drawn = heatmap.draw(result.image, result.maps, result.record, max_side=HEATMAP_SIDE)
    if save is not None:
        if drawn is None:
            _complain(f"{save} was not written: there is nothing to draw")
        else:
            heatmap.write_png(save, drawn)
    with _printing():
        if as_json:
            import json

            from jscan.rows import json_row

            typer.echo(json.dumps(json_row(result.record), indent=2))
        else:
            console.print(pages.findings(result.record), crop=False)
            if preview and drawn is not None:
                console.print(pages.Preview(drawn, console.width))
            if save is not None and drawn is not None:
                console.print(f"heatmap  {pages.plain(str(save))}", soft_wrap=True)
            console.print(f"device   {scanner.provider}")
    return ExitCode.ERROR_ROWS if result.record.status == "error" else ExitCode.OK


def _check_save(save: Path, image: Path, *, overwrite: bool) -> None:
    from jscan.atomic import refuse_special

    if os.path.realpath(save) == os.path.realpath(image):
        raise UsageError(f"--save {save} is the image itself, which is never written to; name another file")
    if os.path.isdir(save):
        raise OutputError(f"--save {save} is a folder; name a file in it, such as {save / 'heatmap.png'}")
    refuse_special(save, f"--save {save}")
    if not overwrite and os.path.lexists(save):
        raise OutputError(f"--save {save} exists already; name another file, or add --overwrite to replace it")
    if not os.path.isdir(save.parent):
        raise OutputError(f"--save {save} cannot be written: there is no folder {save.parent}; make it first")


@app.command()
@_guarded
def models() -> ExitCode:
    """List the models and check them.

    Says whether their digests hold, what they are valid for, and their measured errors.
    """
    from jscan import show as pages
    from jscan import weights
    from jscan.errors import ModelError

    console = _console()
    code = ExitCode.OK
    parts: list[RenderableType] = []
    for name in weights.names():
        trouble = None
        try:
            weights.check(name)
        except ModelError as error:
            trouble, code = str(error), ExitCode.INTERNAL
        try:
            manifest = weights.manifest(name)
        except ModelError as error:
            manifest, trouble, code = {"name": name}, str(error), ExitCode.INTERNAL
        parts.append(pages.model(manifest, trouble))
    if not parts:
        raise ModelError("no models were found; jscan was not installed completely")
    with _printing():
        for part in parts:
            console.print(part)
            console.print()
    if code is not ExitCode.OK:
        _complain("a model is not what its manifest says; install jscan again")
    return code


@app.command()
@_guarded
def verify(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The Parquet file that `jscan scan` wrote.")],
    source: Annotated[
        bool, typer.Option("--source", help="Read all inputs again and compare them with their digests.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes for --source; 0: one per core.")] = 0,
) -> ExitCode:
    """Check results against their manifest.

    Each input is there once, and nothing was changed. Exits with 5 where something is wrong.
    """
    from jscan import show as pages
    from jscan.limits import usable_cores
    from jscan.verify import verify as check

    report = check(results, source=source, workers=workers or usable_cores())
    with _printing():
        _console().print(pages.verified(results, report), crop=False)
    return ExitCode.VERIFY if report.count else ExitCode.OK


# --- progress ---------------------------------------------------------------------------------------------------------


class _Counts:
    """What both kinds of progress show."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.rows = 0
        self.pixels = 0
        self.by_status: Counter[str] = Counter()

    def add(self, record: ScanRecord) -> None:
        """Nothing; counts the row."""
        self.rows += 1
        self.by_status[record.status] += 1
        if record.status == "ok":
            self.pixels += (record.width or 0) * (record.height or 0)

    def words(self) -> str:
        """Counts and rates, such as `ok 12, skipped 1, error 0; 3.4 images/s, 2.1 MP/s`."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        counts = ", ".join(f"{status} {self.by_status[status]:,}" for status in ("ok", "skipped", "error"))
        return f"{counts}; {self.rows / seconds:.1f} images/s, {self.pixels / 1e6 / seconds:.1f} MP/s"


class _PlainProgress:
    """A line every few seconds, for logs and pipes."""

    wants_total = False

    def __init__(self, asked: str) -> None:
        self._asked = asked
        self._counts = _Counts()
        self._last = time.monotonic()

    def total(self, inputs: int) -> None:
        """Nothing."""

    def device(self, provider: str, workers: int) -> None:
        """Nothing; one line."""
        _say(_device_line(self._asked, provider, workers))

    def row(self, record: ScanRecord) -> None:
        """Nothing; a line if the last one is old enough."""
        self._counts.add(record)
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            _say(f"{self._counts.rows:,} done: {self._counts.words()}")

    def kept(self) -> None:
        """Nothing."""


class _BarProgress:
    """A bar with counts, rates, elapsed and remaining time."""

    wants_total = True

    def __init__(self, asked: str, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        counts = _Counts()

        class TwoLines(RichProgress):
            def get_renderables(self) -> Iterator[RenderableType]:
                yield from super().get_renderables()
                yield Text(counts.words(), style="dim", overflow="ellipsis", no_wrap=True)

        self._asked = asked
        self._counts = counts
        self.bar = TwoLines(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
            transient=True,
        )
        self._task: TaskID = self.bar.add_task("scan", total=None)

    def total(self, inputs: int) -> None:
        """Nothing; the bar knows its length from here on."""
        self.bar.update(self._task, total=inputs)

    def device(self, provider: str, workers: int) -> None:
        """Nothing; one line above the bar."""
        self.bar.console.print(_device_line(self._asked, provider, workers))

    def row(self, record: ScanRecord) -> None:
        """Nothing; moves the bar."""
        self._counts.add(record)
        self.bar.advance(self._task)

    def kept(self) -> None:
        """Nothing; moves the bar, but adds to no rate."""
        self.bar.advance(self._task)


def _device_line(asked: str, provider: str, workers: int) -> str:
    took = f"--device auto took {provider}" if asked == "auto" else f"device {provider}"
    return f"{took}, at most {workers} worker{'s' * (workers != 1)}"


@contextlib.contextmanager
def _progress(*, quiet: bool, asked: str) -> Iterator[Progress]:
    """The progress that fits: none, a bar on a terminal, or plain lines. The terminal is restored at the end."""
    if quiet:
        from jscan.run import Silent

        yield Silent()
        return
    console = _console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal:
        shown = _BarProgress(asked, console)
        with shown.bar:
            yield shown
    else:
        yield _PlainProgress(asked)
