"""`bitwright certify` and `bitwright overflow`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

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
    scheme_text,
)


def certify(
    model: Annotated[str, MODEL] = "digits",
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", help="Such as 'a2q(4, 8, 16)'. Default: integer(8, 8), or its own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the certificate.")] = None,
    bias_inside: Annotated[bool, typer.Option("--bias-inside", help="The register holds the bias too.")] = False,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Products in one register; a wider one adds the tiles.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Test samples that show what sums are reached.")] = 32,
    data: Annotated[str | None, DATA] = None,
    calibration: Annotated[str | None, CALIBRATION] = None,
) -> None:
    """Prove how wide each layer's accumulator must be, and show how much of that data reaches.

    Exit status 1 where a register that forbids overflow is too narrow.
    """
    with one_sentence():
        from bitwright.model.certify import Placement, certify_task
        from bitwright.store import write_json

        if out is not None:  # before what takes long
            out.parent.mkdir(parents=True, exist_ok=True)
        with Screen(quiet=not sys.stderr.isatty()) as screen:
            certificate = certify_task(
                chosen_task(model, data, calibration),
                None if scheme is None else scheme_text(scheme),
                Placement(tile, bias_inside),
                samples=limit,
                progress=screen.progress,
            )
        print("\n".join(certificate.lines()))
        if out is not None:
            write_json(out, certificate)
            print(f"certificate: {out}")
    if certificate.shortfall:
        leave(certificate.shortfall, 1)


def overflow(
    model: Annotated[str, MODEL] = "digits",
    scheme: Annotated[str, typer.Option("--scheme", "-s", help="A scheme with scales per row.")] = "integer(8, 8)",
    widths: Annotated[
        str | None,
        typer.Option("--widths", "-w", help="Such as 12..22 or 14,16. Default: from what is proved down to 10 fewer."),
    ] = None,
    behaviours: Annotated[
        list[str] | None,
        typer.Option(
            "--behaviour",
            "-b",
            help="wrap, saturate, saturate_tiles, float, float_products, float_truncated, float_tiles or aligned; "
            "repeat, or separate by ','. Default: the first five.",
        ),
    ] = None,
    tile: Annotated[int, typer.Option(min=1, help="Products whose exact sum is added at once, by tiles.")] = 16,
    exponent_bits: Annotated[int, typer.Option(min=1, max=8, help="Of float accumulators.")] = 5,
    limit: Annotated[int | None, typer.Option(min=1, help="Evaluate this many test samples only.")] = 200,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder. Default: runs/MODEL-overflow.")] = None,
    data: Annotated[str | None, DATA] = None,
    calibration: Annotated[str | None, CALIBRATION] = None,
) -> None:
    """Compute a network with ever narrower accumulators: accuracy against width, and where sums overflow.

    Writes overflow.html, overflow.csv, needed_bits.csv and overflow.json.
    """
    names = [name.strip() for text in behaviours or [] for name in text.split(",") if name.strip()]
    with one_sentence():
        from bitwright.model.overflow import DEFAULT, Register, sweep, widths_of
        from bitwright.report import overflow_page
        from bitwright.store import write_json

        folder = out or run_folder(model, "-overflow")
        folder.mkdir(parents=True, exist_ok=True)
        with Screen(quiet=not sys.stderr.isatty()) as screen:
            found = sweep(
                chosen_task(model, data, calibration), scheme_text(scheme), widths_of(widths), names or DEFAULT,
                Register(tile, exponent_bits), samples=limit, command=command(), progress=screen.progress,
            )  # fmt: skip
        write_json(folder / "overflow.json", found)
        overflow_page.write_csv(found, folder / "overflow.csv")
        overflow_page.write_needed_bits_csv(found, folder / "needed_bits.csv")
        overflow_page.write_report(found, folder / "overflow.html")
        print("\n".join([*overflow_page.lines(found), f"report: {folder / 'overflow.html'}"]))
