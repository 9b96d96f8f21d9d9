"""`bitwright export`: a network under a scheme as files for other engines, each run there and compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.common import CALIBRATION, DATA, MODEL, chosen_task, leave, one_sentence, run_folder, scheme_text

if TYPE_CHECKING:
    from torch import nn

    from bitwright.export import Target, Tracing
    from bitwright.model.task import Batch

# said here, as reading the table would import torch for --help
NAMES = "bundle, onnx, onnx-integers, onnx-native, qonnx, compressed-tensors"


def export(
    model: Annotated[str, MODEL] = "digits",
    scheme: Annotated[str, typer.Option("--scheme", "-s", help="Such as 'integer(4, 8)'.")] = "integer(8, 8)",
    targets: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help=f"{NAMES}, or 'all'; repeat, or separate by ','. Default: bundle, onnx."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/MODEL-export.")] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples of the batch that the files are written for and checked with.")
    ] = 2,
    data: Annotated[str | None, DATA] = None,
    calibration: Annotated[str | None, CALIBRATION] = None,
) -> None:
    """Calibrate and quantize a network, write it for other engines, run it there and compare with exact arithmetic.

    For weights of a large checkpoint, without calibration and without a network, see `bitwright quantize`.
    """
    with one_sentence():
        import bitwright
        from bitwright.export import TARGETS, Tracing, ways_out

        names = [name.strip() for text in targets or ["bundle", "onnx"] for name in text.split(",") if name.strip()]
        chosen = list(TARGETS.values()) if names == ["all"] else [_target(name) for name in names]
        if not chosen:
            raise ValueError(f"no target in {', '.join(targets or ())!r} found; choose from {NAMES}, or all")
        text = scheme_text(scheme)
        folder = out or run_folder(model, "-export")
        folder.mkdir(parents=True, exist_ok=True)  # before what takes long
        task = chosen_task(model, data, calibration)
        network, batches = task.load(), list(task.calibration())
        frozen = bitwright.quantize(network, text, batches)
        stem = folder / run_folder(model).name
        sample, trace = batches[0].first(samples), Tracing()
        rows = [_exported(target, stem, frozen, network, sample, trace) for target in chosen]
    _print_table(f"{model} under {scheme}", rows)
    if any(row.is_wrong for row in rows):
        leave("a file differs from exact arithmetic; what was found stands above", 1)
    if not any(row.path for row in rows):
        leave(f"nothing was written; {ways_out(frozen)}", 1)


@dataclass(frozen=True)
class _Row:
    """What became of one target; without a path it was refused."""

    target: str
    checked: str
    path: Path | None = None
    is_wrong: bool = False

    @property
    def kilobytes(self) -> str:
        if self.path is None:
            return ""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return f"{sum(f.stat().st_size for f in files) / 1000:,.0f}"


def _target(name: str) -> "Target":
    from difflib import get_close_matches

    from bitwright.export import TARGETS

    if name not in TARGETS:
        near = get_close_matches(name, TARGETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(TARGETS)}, or all"
        raise ValueError(f"there is no target {name!r}; {hint}")
    return TARGETS[name]


def _exported(
    target: "Target", stem: Path, frozen: "nn.Module", network: "nn.Module", batch: "Batch", trace: "Tracing"
) -> _Row:
    refusal = target.refusal(frozen)
    if refusal is not None:
        return _Row(target.name, refusal)
    path = stem.with_name(stem.name + target.suffix)
    target.write(frozen, path, batch.inputs, trace)
    try:
        found = target.verify(path, frozen, network, batch.inputs)
    except ValueError as error:
        return _Row(target.name, str(error), path, is_wrong=True)
    return _Row(target.name, f"{found} ({target.engine})", path)


def _print_table(title: str, rows: list[_Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for heading, justify in (("target", "left"), ("file", "left"), ("kB", "right"), ("checked", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]  # one of rich's words
    for row in rows:
        style = "red" if row.is_wrong else "dim" if row.path is None else None
        table.add_row(row.target, str(row.path or ""), row.kilobytes, row.checked, style=style)
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=10_000)).maximum)
    console.print(table)
