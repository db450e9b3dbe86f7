"""The command ``lit-ft``: decides what was asked for before it imports anything heavy."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lit_ft.command.build import Build
    from lit_ft.command.request import Request
    from lit_ft.command.run import Run

USAGE = """\
lit-ft: a modular trainer for fine-tuning research

  lit-ft fit -c FILE [-c FILE ...] [--KEY VALUE ...]     train; writes runs/<name>/<time>/
  lit-ft validate | test | predict -c FILE [--ckpt_path last | best | none | FILE]
  lit-ft predict --run DIR --data.predict_path FILE [--to FILE.jsonl]     new rows, without labels or answers
  lit-ft predict --run DIR --text "..." | --text -        one text, or a line each from standard input
  lit-ft methods [--json | --copy CONFIG]                what there is, by kind and by batch shape
  lit-ft runs [RUNS]                                     which go on, are finished or dead, and how to go on
  lit-ft report RUN ...                                  a table over runs, and their curves as one page
  lit-ft show-batch -c FILE | --run DIR                  one batch, tokens coloured by target and weight
  lit-ft estimate -c FILE | --run DIR                    the memory that a step needs, measured on one batch
  lit-ft study FILE ...                                  arms x seeds as real runs, then the verdict
  lit-ft compare -c FILE --arm NAME[:OVERLAY] ...        a study of your own, without a paper
  lit-ft export RUN --to DIR                             a folder that from_pretrained loads
  lit-ft merge METHOD RUN RUN ... --to DIR               one network from several: linear, ties, dare, lines ...
  lit-ft overlap FILE FILE ...                           which share of one saved selection is in another

  Later files and later keys win. Lists are replaced; callbacks+: in YAML or --trainer.callbacks+=NAME appends.
  --trainer.callbacks.CLASS.KEY=VALUE changes one callback of a list.
  fit also takes:
    --monitor val/accuracy    end when it stays away from its best, and keep the weights of the best
    --ckpt_path last          go on with the newest run of this name (bit-exact), or with --run DIR
    --from RUN                start from the weights of another run
    --name NAME, --run_dir DIR, --runs DIR
    --import MODULE           import a module of yours first, so that its classes have short names
    --print_config            show the resolved configuration (=skip_default for the short form)
    --model.help NAME, --data.help NAME, --trainer.callbacks.help NAME
    --debug                   show the traceback of an error
"""

STAGES = ("fit", "validate", "test", "predict")
TOOLS = {
    "methods": ("lit_ft.command.catalogue", "methods_command"),
    "report": ("lit_ft.command.report", "report_command"),
    "runs": ("lit_ft.command.runs", "runs_command"),
    "show-batch": ("lit_ft.command.show_batch", "show_batch_command"),
    "estimate": ("lit_ft.command.estimate", "estimate_command"),
    "export": ("lit_ft.command.export", "export_command"),
    "merge": ("lit_ft.command.merge", "merge_command"),
    "overlap": ("lit_ft.command.overlap", "overlap_command"),
    "study": ("lit_ft.studies.command", "study_command"),
    "compare": ("lit_ft.studies.command", "compare_command"),
}
OF_A_CONFIG = ("show-batch", "estimate")  # tools that take what a stage takes
OF_A_RUN = ("export", "merge", "overlap")  # tools that build what a run was made of
TERMINATED = 143  # exit status, as shells have it


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status: 0 done, 1 failed or diverged, 2 wrong input, 130 and 143 by a signal."""
    sys.exit(command(list(sys.argv[1:] if argv is None else argv)))


def command(argv: list[str]) -> int:
    """Run a command and return its exit status."""
    name, *args = argv or ["help"]
    if name in ("-h", "--help", "help") or (name in STAGES and args in (["-h"], ["--help"])):
        print(USAGE)
        return 0
    if name in ("-V", "--version"):
        from lit_ft import __version__

        print(__version__)
        return 0
    if name in (*STAGES, *TOOLS):
        return guarded(name, args)
    from lit_ft.core.errors import nearest

    known = [*STAGES, *TOOLS]
    print(f"lit-ft: unknown command {name!r}; allowed: {', '.join(known)}{nearest(name, known)}", file=sys.stderr)
    return 2


def guarded(name: str, args: list[str]) -> int:
    """Read what is asked for and do it; turn what the user can mend into one line and status 2."""
    request = None
    try:
        from lit_ft.command.request import Request

        request = Request.of(args, name)
        with sigterm_unwinds():
            status = perform(request)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("lit-ft: interrupted", file=sys.stderr)
        return 130
    except SystemExit as ended:
        if ended.code != TERMINATED:
            raise
        print("lit-ft: terminated", file=sys.stderr)
        return TERMINATED
    except BrokenPipeError:  # the reader, such as head, has seen enough; nothing is left to be flushed at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        from lit_ft.command.complaint import complaint
        from lit_ft.core.errors import Diverged

        if isinstance(error, Diverged):
            print(f"lit-ft: {error}", file=sys.stderr)
            return 1
        message = complaint(error, request)
        if "--debug" in args or message is None:  # reading the request may be what failed
            raise
        print(f"lit-ft: {message}", file=sys.stderr)
        return 2


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does, so that it tidies up; a fit saves first, and takes both signals over."""
    if current_thread() is not main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end), signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:  # Lightning leaves SIGINT ignored after a Ctrl-C before the first step
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)


def perform(request: "Request") -> int:
    """Import what a command needs, and run it."""
    from lit_ft.command.names import import_own

    if request.command in (*STAGES, *OF_A_CONFIG, *OF_A_RUN):
        from lit_ft.command.preload import quick_imports, quiet

        with quick_imports(for_good=True):
            if request.command == "merge":  # most need no run
                import_module("lit_ft.command.merge")
            else:
                from lit_ft.command.run import execute
        quiet()
    if request.command in STAGES:
        run = execute(request.command, request)
        if run.trainer.is_global_zero:
            summary(run)
        return 0
    import_own(request.imports)
    module, function = TOOLS[request.command]
    args = [*request.args, *(f"--import={name}" for name in request.imports if request.command in OF_A_RUN)]
    return getattr(import_module(module), function)(request if request.command in OF_A_CONFIG else args)


def summary(run: "Run") -> None:
    """The last values and where the report is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=None, show_header=False)
    for key, value in sorted(run.metrics.items()):
        if not key.startswith("lr-"):
            grid.add_row(escape(key), f"{value:.4g}")
    console = Console()
    if grid.row_count:
        console.print(grid)
    for callback in run.trainer.callbacks if run.trainer.state.fn == "fit" else ():  # type: ignore[attr-defined]
        if getattr(callback, "best_step", None) is not None:
            console.print(f"best: {callback.best_of} {callback.best:.4g} at step {callback.best_step}", markup=False)
    profiler = run.trainer.profiler  # type: ignore[attr-defined]
    if getattr(profiler, "filename", "") is None and (told := profiler.summary()):  # else it is in a file
        console.print(told, markup=False, soft_wrap=True)
    if run.predictions is not None:
        if run.predictions.exists():  # texts of the command line are shown
            console.print(f"predictions: {run.predictions}", soft_wrap=True, markup=False)
        return
    report = run.folder / "report.html"
    written = str(report) if report.exists() else "none, as no step was made"
    console.print(f"report: {written}", soft_wrap=True, markup=False)


def build(args: Sequence[str]) -> "Build":
    """Objects from the arguments of a command, for a notebook; see ``lit_ft.command.run.build``."""
    from lit_ft.command.run import build as build_run

    return build_run(args)


def load_run(run_dir: "str | Path") -> "Build":
    """What a run was made of, with its trained weights; see ``lit_ft.command.run.load_run``."""
    from lit_ft.command.run import load_run as load

    return load(run_dir)
