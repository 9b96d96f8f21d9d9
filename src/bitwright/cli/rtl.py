"""`bitwright rtl` and `bitwright verify`."""

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.common import leave, one_sentence


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


def verify(
    scheme: Annotated[str, typer.Argument(help="A scheme such as 'ant(4)'.")],
    longest: Annotated[int, typer.Option("--k", min=1, help="Products in the longest sum.")] = 4096,
    proof_s: Annotated[float, typer.Option("--proof-s", min=0, help="Seconds for the proof; 0 leaves it out.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the random cases.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file of what was found.")] = None,
) -> None:
    """Compare a scheme's circuits with its arithmetic: decoders and processing element, as gates, and by proof.

    Exit status 1 where they differ.
    """
    with one_sentence():
        from bitwright.cost.synthesis import user_cache
        from bitwright.cost.verify import verify as run
        from bitwright.store import write_json

        found = run(scheme, k=longest, proof_s=proof_s, seed=seed, cache=user_cache())
        print("\n".join(found.lines()))
        if out is not None:
            write_json(out, found)
            print(f"certificate: {out}")
    if not found.holds:
        leave("a circuit differs from its definition; the case stands above", 1)
