"""`bitwright compare` and `bitwright report`."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli import hardware
from bitwright.cli.common import (
    CALIBRATION,
    DATA,
    MODEL,
    Screen,
    chosen_task,
    command,
    leave,
    one_sentence,
    run_folder,
    scheme_texts,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bitwright.model.task import Task
    from bitwright.report.silicon import PricedRow
    from bitwright.result import Comparison, SchemeResult

SCHEME_COLUMNS = 12
"""Of a scheme's text at least, in a terminal of few columns."""


def compare(
    model: Annotated[str, MODEL] = "digits",
    schemes: Annotated[
        list[str] | None,
        typer.Option(
            "--schemes",
            "-s",
            help="A scheme such as 'vs_quant(4, 8)'; repeat, or separate by ';'. Default: every family, 8 to 2 bits.",
        ),
    ] = None,
    data: Annotated[str | None, DATA] = None,
    calibration: Annotated[str | None, CALIBRATION] = None,
    window: Annotated[int | None, typer.Option(help="Tokens of texts that are judged together. Default: 1024.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens from one window to the next. Default: half.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate this many test samples only.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results and report. Default: runs/MODEL.")
    ] = None,
    evaluation: Annotated[
        str, typer.Option(help="'exact', 'simulated' or 'exact and simulated'.")
    ] = "exact and simulated",
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole comparison as JSON.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that torch uses.")] = None,
    array: Annotated[str | None, hardware.ARRAY] = None,
    dataflow: Annotated[str | None, hardware.DATAFLOW] = None,
    buffers: Annotated[str | None, hardware.BUFFERS] = None,
    dram: Annotated[str | None, hardware.DRAM] = None,
    dram_bits: Annotated[int | None, hardware.DRAM_BITS] = None,
    clock: Annotated[float | None, hardware.CLOCK] = None,
    library: Annotated[str | None, hardware.LIBRARY] = None,
) -> None:
    """Compare schemes on a network: accuracy, bits, accumulators; ends with a table, CSV files and report.html.

    With --array, for example 32x32, also area, energy and delay on that array.
    Results are saved row by row: run the same command again to continue one that was stopped.
    """
    with one_sentence():
        texts = scheme_texts(schemes)
        import warnings

        import torch

        from bitwright.comparison import DEFAULT_SCHEMES
        from bitwright.comparison import compare as run
        from bitwright.kernels import SlowKernel
        from bitwright.model.prepare import is_quantized

        if threads:
            torch.set_num_threads(threads)
        warnings.simplefilter("once", SlowKernel)
        words = {"dataflow": dataflow, "buffers": buffers, "dram": dram, "dram_bits": dram_bits, "clock_mhz": clock}
        pricing = _pricing(array, words, library)
        folder = out or run_folder(model)
        folder.mkdir(parents=True, exist_ok=True)
        with Screen(quiet=as_json) as screen:
            task = chosen_task(model, data, calibration, window=window, stride=stride)
            if is_quantized(task.load()):
                _print_stored(task, limit, texts)
                return
            comparison = run(
                task, texts or DEFAULT_SCHEMES, limit=limit, folder=folder, evaluation=evaluation,
                command=command(), progress=screen.progress, row_done=screen.row_done,
            )  # fmt: skip
            if pricing is not None:
                from bitwright.pricing import task_source
                from bitwright.store import write_json

                comparison = pricing(comparison, task_source(task), progress=screen.progress)
                write_json(folder / "comparison.json", comparison)
        _write_outputs(comparison, folder)
        if as_json:
            print(json.dumps(asdict(comparison), indent=1))
        else:
            _print_table(comparison, folder)
    if all(row.error for row in comparison.rows):
        leave("no scheme gave a result; each one's reason stands above", 1)


def _print_stored(task: "Task", limit: int | None, texts: list[str]) -> None:
    """A network that is quantized already, evaluated as it is."""
    from bitwright.model.evaluate import reference

    if texts:
        raise ValueError(f"{task.name} is quantized already, and evaluated as it is; leave the schemes out")
    found, metric = reference(task, task.load(), limit), task.metric
    print(f"{task.name} as stored: {metric.name} {found.metric:.4g} {metric.unit}, {found.samples} samples, exact")


def _pricing(array: str | None, given: dict[str, Any], library: str | None) -> "Callable[..., Comparison] | None":
    """What prices a comparison on the accelerator, if one is asked for."""
    words = {name: value for name, value in given.items() if value is not None}
    if array is None:
        if words or library:
            option = next(iter(words), "library").removesuffix("_mhz").replace("_", "-")
            raise ValueError(f"--{option} belongs to an accelerator; say how large its array is, as --array 32x32")
        return None
    from bitwright.cost.hardware import accelerator
    from bitwright.cost.table_cells import cells_of
    from bitwright.silicon import priced

    return partial(priced, accelerator=accelerator(array, **words), cells=cells_of(library or "generic45"))


def report(folder: Annotated[Path, typer.Argument(help="Folder of an earlier comparison.")]) -> None:
    """Write report.html, results.csv and layers.csv again from a folder's comparison.json."""
    with one_sentence():
        from bitwright.result import Comparison
        from bitwright.store import read_json

        path = folder / "comparison.json"
        if not path.exists():
            raise ValueError(f"{path} does not exist; run `bitwright compare -o {folder}` first")
        comparison = read_json(path, Comparison)
        _write_outputs(comparison, folder)
        _print_table(comparison, folder)


def _write_outputs(comparison: "Comparison", folder: Path) -> None:
    from bitwright.report import write_csv, write_layers_csv, write_report

    write_csv(comparison, folder / "results.csv")
    write_layers_csv(comparison, folder / "layers.csv")
    write_report(comparison, folder / "report.html")


def _print_table(comparison: "Comparison", folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from bitwright.report import silicon

    info = comparison.info
    console = Console(highlight=False)
    unit = f" {info.metric_unit}" if info.metric_unit else ""
    console.print(
        f"\n[bold]{info.task}[/bold]: float {info.metric} {info.float_metric:.4g}{unit}, {info.samples} samples"
    )
    prices = {found.row.scheme: found for found in silicon.priced_rows(comparison)}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("scheme", min_width=SCHEME_COLUMNS, overflow="fold")
    headings = [info.metric_unit or "metric", "Δ float", "agree", "W bits", "A bits", "kB", "acc", "ovf"]
    for heading in [*headings, *(("mm²", "µJ", "ms") if prices else ())]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        if row.error is None:
            table.add_row(*_cells(row, info.float_metric), *(_price_cells(prices[row.scheme]) if prices else ()))
    # figures are never cut; a file has no width, so schemes are whole too, not in the 80 columns that rich assumes
    width = console.measure(table, options=console.options.update(width=10_000)).maximum
    folds = max((len(row.scheme) for row in comparison.rows), default=0) - SCHEME_COLUMNS
    console.width = max(console.width, width - max(folds, 0) if console.is_terminal else width)
    console.print(table)
    for result in comparison.rows:
        if result.error is not None:
            console.print(f"[red]{result.scheme}[/red]: {result.error}", soft_wrap=True)
    for name, words in silicon.origins(comparison):
        console.print(f"{name}: {words}", soft_wrap=True)
    for note in comparison.silicon.notes if comparison.silicon else ():
        console.print(note, soft_wrap=True)
    apart = ", ".join(found.row.scheme for found in silicon.published(list(prices.values())))
    if apart:
        console.print(f"published multipliers, not to be compared with measured cells: {apart}", soft_wrap=True)
    for scheme, reason in silicon.missing(comparison):
        console.print(f"no price: {scheme}: {reason}", soft_wrap=True)
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


def _price_cells(found: "PricedRow") -> list[str]:
    from bitwright.report import notation

    price = found.price
    figures = (price.area_mm2, price.energy_uj, price.delay_ms)
    return ["–" if figure is None else notation.three_digits(figure.value) for figure in figures]
