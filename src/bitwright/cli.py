"""The command line: each command parses to values, calls one library function and prints its result."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from bitwright.model.task import Task
    from bitwright.result import Comparison, SchemeResult

STOPPED = "stopped; finished rows are saved, run the same command again to continue"

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="From a trained neural network to a low-precision accelerator.",
)  # fmt: skip


@app.command()
def compare(
    model: Annotated[
        str,
        typer.Argument(
            help="A built-in task (see `bitwright tasks`), or module:function that returns a Task or a torch module."
        ),
    ] = "digits",
    schemes: Annotated[
        list[str] | None,
        typer.Option(
            "--schemes",
            "-s",
            help="A scheme such as 'vs_quant(4, 8)'; repeat, or separate by ';'. Default: every family, 8 to 2 bits.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data of the real tasks (default: $BITWRIGHT_DATA); for a model of your own an .npz with x and y, "
            "or a folder of images a class."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate this many test samples only.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results and report. Default: runs/MODEL.")
    ] = None,
    evaluation: Annotated[
        str, typer.Option(help="'exact', 'simulated' or 'exact and simulated'.")
    ] = "exact and simulated",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole comparison as JSON.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that torch uses.")] = None,
) -> None:
    """Compare schemes on a network: accuracy, bits, accumulators; ends with a table, a CSV file and report.html.

    Results are saved row by row: run the same command again to continue one that was stopped.
    """
    texts = [t.strip() for s in schemes or [] for t in s.split(";") if t.strip()]
    with _one_sentence():
        if model.partition(":")[1] == "":
            _use_data_folder(data)
        import warnings

        import torch

        from bitwright.comparison import DEFAULT_SCHEMES
        from bitwright.comparison import compare as run
        from bitwright.kernels import SlowKernel

        if threads:
            torch.set_num_threads(threads)
        warnings.simplefilter("once", SlowKernel)
        folder = out or Path("runs") / model.replace(":", ".")
        folder.mkdir(parents=True, exist_ok=True)
        with _Screen(quiet=as_json) as screen:
            comparison = run(
                _task(model, data), texts or DEFAULT_SCHEMES, limit=limit, folder=folder, evaluation=evaluation,
                command=_command(), progress=screen.progress, row_done=screen.row_done,
            )  # fmt: skip
        _write_outputs(comparison, folder)
        if as_json:
            print(json.dumps(asdict(comparison), indent=1))
        else:
            _print_table(comparison, folder)
    if all(row.error for row in comparison.rows):
        _leave("no scheme gave a result; each one's reason stands above", 1)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of an earlier comparison.")]) -> None:
    """Write report.html and results.csv again from a folder's comparison.json."""
    with _one_sentence():
        from bitwright.result import Comparison
        from bitwright.store import read_json

        path = folder / "comparison.json"
        if not path.exists():
            raise ValueError(f"{path} does not exist; run `bitwright compare -o {folder}` first")
        comparison = read_json(path, Comparison)
        _write_outputs(comparison, folder)
        _print_table(comparison, folder)


@app.command()
def certify(
    model: Annotated[str, typer.Argument(help="A built-in task, or module:function, as in compare.")] = "digits",
    scheme: Annotated[str, typer.Option("--scheme", "-s", help="A scheme such as 'a2q(4, 8, 16)'.")] = "integer(8, 8)",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the certificate.")] = None,
    bias_inside: Annotated[bool, typer.Option("--bias-inside", help="The register holds the bias too.")] = False,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Products in one register; a wider one adds the tiles.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Test samples that show what sums are reached.")] = 32,
    data: Annotated[Path | None, typer.Option(help="Data, as in compare.")] = None,
) -> None:
    """Prove how wide each layer's accumulator must be, and show how much of that data reaches.

    Exit status 1 where a register that forbids overflow is too narrow.
    """
    with _one_sentence():
        if model.partition(":")[1] == "":
            _use_data_folder(data)
        from bitwright.model.certify import Placement, certify_task
        from bitwright.store import write_json

        with _Screen(quiet=not sys.stderr.isatty()) as screen:
            certificate = certify_task(
                _task(model, data), scheme, Placement(tile, bias_inside), samples=limit, progress=screen.progress
            )
        print("\n".join(certificate.lines()))
        if out is not None:
            write_json(out, certificate)
            print(f"certificate: {out}")
    if certificate.shortfall:
        _leave(certificate.shortfall, 1)


@app.command()
def schemes() -> None:
    """List the catalogue: every scheme with its arguments and source."""
    import inspect

    from rich.console import Console

    from bitwright.recipes import RECIPES
    from bitwright.schemes import CATALOGUE

    console = Console(highlight=False)
    for factory in (*CATALOGUE, *RECIPES):
        parameters = ", ".join(
            f"{p.name}={p.default!r}" if p.default is not p.empty else p.name
            for p in inspect.signature(factory).parameters.values()
        )
        console.print(f"[bold]{factory.__name__}[/bold]({parameters})".replace("[0m", ""))
        console.print(f"    {(inspect.getdoc(factory) or '').splitlines()[0]}")


@app.command()
def tasks() -> None:
    """List the built-in tasks: embedded ones, and those that need $BITWRIGHT_DATA."""
    with _one_sentence():
        from bitwright.model.zoo import TASKS

        for name, task in TASKS.items():
            unit = f" {task.metric.unit}" if task.metric.unit else ""
            print(f"{name:20s} {task.metric.name:18s} {task.float_metric:8.3f}{unit:2s} {task.source}")


def main() -> None:
    """Entry point: an interrupt leaves with what is saved so far."""
    try:
        status = app(standalone_mode=False)
    except KeyboardInterrupt:
        _leave(STOPPED, 130)
    except typer.Exit as leaving:
        sys.exit(leaving.exit_code)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            message = getattr(error, "format_message", lambda: str(error))()
            if not message:  # the help was shown instead
                sys.exit(2)
            _leave(message, 2)
        raise
    if isinstance(status, int) and status:
        sys.exit(status)


class _one_sentence:
    """Errors that a user can mend leave with one sentence and exit status 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyboardInterrupt):  # here, as typer turns it into an exit without a word
            _leave(STOPPED, 130)
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("bitwright"):
            _leave(f"{error.name} is not installed; pip install 'bitwright[compare]'", 2)
        if isinstance(error, ImportError | ValueError | OverflowError):
            _leave(str(error), 2)
        if isinstance(error, OSError):
            _leave(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), 2)


def _leave(sentence: str, status: int) -> NoReturn:
    print(f"bitwright: {sentence}", file=sys.stderr)
    raise SystemExit(status)


def _command() -> str:
    return " ".join(["bitwright", *(f"'{a}'" if any(c in a for c in " (;") else a for a in sys.argv[1:])])


def _use_data_folder(data: Path | None) -> None:
    if data is not None:
        import os

        os.environ["BITWRIGHT_DATA"] = str(data)


def _task(name: str, data: Path | None) -> "Task":
    import importlib
    from difflib import get_close_matches

    from torch import nn

    from bitwright.model.task import Task
    from bitwright.model.zoo import TASKS

    if name in TASKS:
        return TASKS[name]
    module, colon, function = name.partition(":")
    if not colon:
        near = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(TASKS)}, or give module:function"
        raise ValueError(f"there is no task {name!r}; {hint}")
    sys.path.insert(0, "")  # modules of the working directory, as `python -m` finds them
    try:
        made = getattr(importlib.import_module(module), function, None)
    except (ImportError, SyntaxError) as error:
        raise ValueError(
            f"module {module} cannot be imported ({error}); correct the name, or run where it lies"
        ) from None
    if made is None:
        raise ValueError(f"module {module} has no {function!r}; name a function that returns a Task or a torch module")
    task = made() if callable(made) and not isinstance(made, nn.Module) else made
    if isinstance(task, Task):
        return task
    if not isinstance(task, nn.Module):
        raise ValueError(f"{name} gives a {type(task).__name__}; it must return a bitwright Task or a torch module")
    if data is None:
        raise ValueError(f"{name} is a torch module; say what to test it on with --data FILE.npz or --data FOLDER")
    from bitwright.comparison import ModelTask
    from bitwright.model.data.user import read_batches

    calibration, test = read_batches(data)
    return ModelTask(task, calibration, test, name=name, source=name, data_source=str(data))


def _write_outputs(comparison: "Comparison", folder: Path) -> None:
    from bitwright.report import write_csv, write_report

    write_csv(comparison, folder / "results.csv")
    write_report(comparison, folder / "report.html")


def _print_table(comparison: "Comparison", folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    info = comparison.info
    console = Console(highlight=False)
    unit = f" {info.metric_unit}" if info.metric_unit else ""
    console.print(
        f"\n[bold]{info.task}[/bold]: float {info.metric} {info.float_metric:.4g}{unit}, {info.samples} samples"
    )
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("scheme", no_wrap=True)
    for heading in (info.metric_unit or "metric", "Δ float", "agree", "W bits", "A bits", "kB", "acc", "ovf"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        if row.error is None:
            table.add_row(*_cells(row, info.float_metric))
    if not console.is_terminal:  # a file has no width: whole words rather than the 80 columns that rich assumes
        console.width = max(console.width, console.measure(table, options=console.options.update(width=10_000)).maximum)
    console.print(table)
    for result in comparison.rows:
        if result.error is not None:
            console.print(f"[red]{result.scheme}[/red]: {result.error}", soft_wrap=True)
    left = sorted(
        {(c.name, c.kind, c.reason) for r in comparison.rows for c in r.coverage if c.status == "unsupported"}
    )
    for name, kind, reason in left:
        console.print(f"not quantized: {name} ({kind}): {reason}", soft_wrap=True)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True)


def _cells(row: "SchemeResult", float_metric: float) -> list[str]:
    def text(value: float | int | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    change = None if row.metric is None else row.metric - float_metric
    kilobytes = None if row.model_bytes is None else row.model_bytes / 1000
    return [
        row.scheme, text(row.metric, ".2f"), text(change, "+.2f"), text(row.agreement, ".1f"),
        text(row.weight_bits, ".2f"), text(row.input_bits, ".2f"),
        text(kilobytes, ",.0f" if (kilobytes or 0) >= 100 else ".1f"),
        text(row.accumulator_bits, "d"), text(row.overflow_rate, ".1%"),
    ]  # fmt: skip


class _Screen:
    """A progress bar with time left, and a line for each finished row."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self.console, transient=True, disable=quiet,
        )  # fmt: skip
        self.current: tuple[str, int] | None = None

    def __enter__(self) -> "_Screen":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        if self.current is None or self.current[0] != what:
            if self.current is not None:
                self.bar.remove_task(self.current[1])  # type: ignore[arg-type]
            self.current = (what, self.bar.add_task(what, total=total or None))
        self.bar.update(self.current[1], completed=done, total=total or None)  # type: ignore[arg-type]

    def row_done(self, row: "SchemeResult", was_saved: bool) -> None:
        figure = f"{row.metric:.4g}" if row.metric is not None else row.error
        how = "read from an earlier run" if was_saved else f"{row.seconds:.1f} s"
        self.console.print(f"{row.scheme}: {figure} ({how})", soft_wrap=True)


if __name__ == "__main__":
    main()
