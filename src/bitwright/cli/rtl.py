"""`bitwright rtl` and `bitwright verify`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.common import chosen_task, leave, one_sentence, scheme_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from bitwright.proving import ArrayVerification

PANEL = "With --array"


def rtl(
    scheme: Annotated[
        str,
        typer.Argument(help="A scheme such as 'ant(4)' or 'overq(4, tile=16)'; @recipe.txt for each one of a recipe."),
    ],
    rows: Annotated[int, typer.Option(help="Rows of the array: products along K. Lanes of a vector unit.")] = 16,
    columns: Annotated[int, typer.Option(help="Columns of the array: outputs.")] = 16,
    unit: Annotated[
        str,
        typer.Option(
            help="'array' or 'output-stationary'; 'engine' or 'engine-output-stationary', with AXI4-Stream ports; "
            "'vector' or 'element'; 'term-mac', the serial cell of Term Revealing; 'fused-array' or 'type-fusion', "
            "which compute a wider scheme too."
        ),
    ] = "array",
    longest: Annotated[int, typer.Option("--k", min=1, help="Products in the longest sum.")] = 4096,
    inputs: Annotated[str, typer.Option(help="'both', 'unsigned' or 'signed' inputs.")] = "both",
    wide: Annotated[
        str | None, typer.Option(help="The second scheme of a fused unit, of twice the bits: 'ant(8, 8)'.")
    ] = None,
    vectors: Annotated[
        int | None, typer.Option(help="Vectors that an engine that keeps weights keeps sums of. Default: 256.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the file.")] = Path("build"),
    as_rtlil: Annotated[bool, typer.Option("--rtlil", help="Write RTLIL, which needs no yosys.")] = False,
) -> None:
    """Write the circuit that computes a scheme, as Verilog: bit for bit what an exact evaluation computes.

    The first call on a machine compiles yosys, which takes a minute or two; later ones take seconds.
    """
    with one_sentence():
        from bitwright.config import scheme_texts_of
        from bitwright.rtl.generate import circuit

        whole = scheme_text(scheme)
        for text in scheme_texts_of(whole) or (whole,):
            made = circuit(text, unit, rows, columns, k=longest, inputs=inputs, vectors=vectors, wide=wide)
            path = made.write(out, as_rtlil=as_rtlil)
            print("\n".join([*made.facts(), f"circuit   {path}"]))


def verify(
    scheme: Annotated[str, typer.Argument(help="A scheme such as 'ant(4)'.")],
    longest: Annotated[int, typer.Option("--k", min=1, help="Products in the longest sum.")] = 4096,
    proof_s: Annotated[
        float, typer.Option("--proof-s", min=0, help="Seconds for each proof; 0 leaves all out.")
    ] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the random cases.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file of what was found.")] = None,
    array: Annotated[
        str | None, typer.Option(help="Such as 16x16: run the layers of a network through a whole array as well.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The network: a built-in task or module:function. Default: digits.", rich_help_panel=PANEL),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples of its test data. Default: 1.", rich_help_panel=PANEL)
    ] = None,
    cycles: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Array cycles to spend, about; what takes more is compared in part. Default: 60000.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    dataflow: Annotated[
        str | None,
        typer.Option(help="What stays in the array: ws weights, os sums. Default: ws.", rich_help_panel=PANEL),
    ] = None,
    again: Annotated[
        str | None,
        typer.Option(
            help="Who repeats a slice of that from Verilog: 'icarus', 'verilator', 'both', 'none'. Default: icarus.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data, as in compare.", rich_help_panel=PANEL)] = None,
    calibration: Annotated[str | None, typer.Option(help="Data for ranges, as there.", rich_help_panel=PANEL)] = None,
) -> None:
    """Compare a scheme's circuits with its arithmetic: decoders and processing element, as gates, and by proof.

    With --array also whole layers of a trained network, clock by clock, while all streams pause at random. That needs
    yosys and a C++ compiler ($CXX, g++, clang++ or the package ziglang). Exit status 1 where anything differs.
    """
    with one_sentence():
        from dataclasses import asdict

        from bitwright.cost.synthesis import user_cache
        from bitwright.cost.verify import verify as run
        from bitwright.store import write_atomically

        layers_of, scheme = None, scheme_text(scheme)
        given: dict[str, Any] = {
            "model": model,
            "samples": samples,
            "cycles": cycles,
            "dataflow": dataflow,
            "again": again,
            "data": data,
            "calibration": calibration,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
        if array is not None:  # before proofs that take minutes: what is impossible is said at once
            layers_of = _array_run(scheme, array, seed, **given)
        elif given:
            raise ValueError(f"--{next(iter(given))} belongs to an array; say how large it is, as --array 16x16")
        found = run(scheme, k=longest, proof_s=proof_s, seed=seed, cache=user_cache())
        print("\n".join(found.lines()), flush=True)
        certificate, holds = asdict(found), found.holds
        if layers_of is not None:
            layers = layers_of()
            print("\n".join(layers.lines()))
            certificate, holds = certificate | {"array": layers.record()}, holds and layers.holds
        if out is not None:
            write_atomically(out, (json.dumps(certificate, indent=1) + "\n").encode())
            print(f"certificate: {out}")
    if not holds:
        leave("a circuit differs from its definition; the case stands above", 1)


def _array_run(
    scheme: str, array: str, seed: int, *, model: str = "digits", samples: int = 1, cycles: int = 60_000,
    dataflow: str = "ws", again: str = "icarus", data: str | None = None,
    calibration: str | None = None,
) -> "Callable[[], ArrayVerification]":  # fmt: skip
    """What runs the layers of the network in CXXRTL, and a slice of them in others.

    ValueError where one is missing, and where the array does not compute the scheme.
    """
    from bitwright.cost.hardware import accelerator
    from bitwright.cost.synthesis import user_cache
    from bitwright.proving import require_array, verify_array
    from bitwright.simulators import Cxxrtl, Icarus, Simulator, SimulatorError, Verilator
    from bitwright.simulators.product import engine_for, output_engine_for

    named: dict[str, tuple[type[Simulator], ...]] = {
        "icarus": (Icarus,), "verilator": (Verilator,), "both": (Icarus, Verilator), "none": (),
    }  # fmt: skip
    if again not in named:
        raise ValueError(f"{again!r} found for --again; choose from {', '.join(named)}")
    engines = {"ws": engine_for, "os": output_engine_for}
    if dataflow not in engines:
        raise ValueError(f"{dataflow!r} found for --dataflow; choose from {', '.join(engines)}")
    size = accelerator(array)
    require_array(scheme, size.rows, size.columns, engines[dataflow])
    task = chosen_task(model, data, calibration)
    others = []
    for simulator in named[again]:
        try:
            others.append(simulator())
        except ImportError as missing:
            print(f"no second opinion: {missing}")
    cxxrtl = Cxxrtl(os.environ.get("CXX"))

    def run() -> "ArrayVerification":
        try:
            return verify_array(
                scheme, task, size.rows, size.columns, cxxrtl, user_cache().with_name("simulators"),
                engine_of=engines[dataflow], others=others, samples=samples, cycles=cycles, seed=seed + 1,
            )  # fmt: skip
        except SimulatorError as failed:
            leave(str(failed), 2)

    return run
