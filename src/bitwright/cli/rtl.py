"""`bitwright rtl`."""

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.common import one_sentence


def rtl(
    scheme: Annotated[str, typer.Argument(help="A scheme such as 'ant(4)' or 'overq(4, tile=16)'.")],
    rows: Annotated[int, typer.Option(help="Rows of the array: products along K. Lanes of a vector unit.")] = 16,
    columns: Annotated[int, typer.Option(help="Columns of the array: outputs.")] = 16,
    unit: Annotated[str, typer.Option(help="'array', 'output-stationary', 'vector' or 'element'.")] = "array",
    longest: Annotated[int, typer.Option("--k", min=1, help="Products in the longest sum.")] = 4096,
    inputs: Annotated[str, typer.Option(help="'both', 'unsigned' or 'signed' inputs.")] = "both",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the file.")] = Path("build"),
    as_rtlil: Annotated[bool, typer.Option("--rtlil", help="Write RTLIL, which needs no yosys.")] = False,
) -> None:
    """Write the circuit that computes a scheme, as Verilog: bit for bit what an exact evaluation computes.

    The first call on a machine compiles yosys, which takes a minute or two; later ones take seconds.
    """
    with one_sentence():
        from bitwright.rtl.generate import circuit

        made = circuit(scheme, unit, rows, columns, k=longest, inputs=inputs)
        path = made.write(out, as_rtlil=as_rtlil)
        print("\n".join([*made.facts(), f"circuit   {path}"]))
