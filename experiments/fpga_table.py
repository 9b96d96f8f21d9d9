"""The table of FPGA counts that `bitwright cost --library xc7` answers from: src/bitwright/cost/data/fpga.parquet.

    python experiments/fpga_table.py --cache FOLDER                  # all families, as far as that goes
    python experiments/fpga_table.py --cache FOLDER --minutes 20     # new ones for so long; kept ones always

The circuits are those of the table of cells, found there by the hash of their RTLIL, so what was checked there holds
here; yosys' count of each family's cells is not placed. results/fpga_table.md says what is in the table, and how far
lines between registers lie from points that were left out.
"""

import argparse
import hashlib
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from cost_table_circuits import text_of
from cost_table_points import LONG, Point, edges, few_integers, folds, pairs, scheme_elements, vectors

from bitwright.cost.fpga import COUNTS, FAMILIES, RESOURCES, FpgaRow, FpgaTable, write_fpga_table
from bitwright.cost.synthesis_fpga import ECP5, ICE40, XILINX_7, Fpga, count_fpga
from bitwright.cost.table import Row, shipped_table
from bitwright.cost.table_find import lines_of
from bitwright.rtl.operand import Sign
from bitwright.store import key_of, read_json, write_json

VERSION = "1"
COMMAND = "python experiments/fpga_table.py --cache CACHE"
TABLE = Path(__file__).parents[1] / "src" / "bitwright" / "cost" / "data" / "fpga.parquet"
RESULT = Path(__file__).parent / "results" / "fpga_table.md"
PARTS = {part.name: part for part in (XILINX_7, ICE40, ECP5)}

KINDS = (
    "integer(4, 4)", "integer(8, 8)", "vs_quant(4, 4)", "vs_quant(8, 8)", "vs_quant_chip()", "mxfp4()", "nvfp4()",
    "mxfp6()", "mxfp8()", "mxint8()", "ant()", "ant_type('flint')", "minifloat(4, 3)", "overq(4, 8)", "overq(4, 4)",
    "overq(4, 8, tile=16)", "overq(4, 8, precision_overwrite=True)", "overq_on(vs_quant(4, 4))", "combined()",
    "wrapnet()", "term_revealing(8, 8, group=8, budget=12, data_terms=3)", "ant_type('flint', 8, 8)",
    "ant_type('pot')", "ant(types=('int', 'flint'))", "minifloat(2, 1)", "vs_quant(8, 8, 6, 6)",
    "a2q(4, 8, 16, tile=128)",
)  # fmt: skip
"""Schemes whose circuits come first; those of others in the table of cells follow while there is time."""


def points() -> list[Point]:
    """What the catalogue is made of, small units first, then integers of other registers, then all others."""
    others = [p for p in (*scheme_elements(), *edges(), *folds(), *pairs()) if p.k == LONG]
    first = [p for p in others if p.scheme in KINDS]
    is_large = [p for p in first if p.unit in ("pairs", "encoder") or (p.unit == "collector" and p.scheme[0] in "mn")]
    integers = [*few_integers(), *more_integers()]
    return list(dict.fromkeys([*common_integers(), *(p for p in first if p not in is_large), *integers, *is_large,
                               *others, *vectors()]))  # fmt: skip


def common_integers() -> Iterable[Point]:
    """Of the registers that sums of thousands of products need."""
    for w, x in ((8, 8), (4, 4), (4, 8)):
        yield from (Point("element", f"integer({w}, {x})", sign, 24) for sign in Sign)
        yield Point("element", f"integer({w}, {x})", Sign.SIGNED, 32)


def more_integers() -> Iterable[Point]:
    """Inputs of either sign and of none, which tasks have; and weights of 8 bits for inputs of 4."""
    yield from (Point("element", "integer(8, 4)", sign, 24) for sign in Sign)
    for w, x in ((4, 4), (8, 8), (4, 8)):
        for sign in (Sign.UNSIGNED, Sign.BOTH):
            yield from (Point("element", f"integer({w}, {x})", sign, bits) for bits in (16, 32))


def collect(cache: Path, until: float) -> list[FpgaRow]:
    """Rows of all families, those of one circuit together."""
    cells = {(row.unit, row.scheme, row.sha256): row for row in shipped_table().of("generic45")}
    rows = []
    for point in points():
        texts: list[str] = []
        for part in PARTS.values():
            path = cache / "fpga" / f"{key_of(VERSION, point, part)}.json"
            if not path.exists():
                if time.monotonic() > until:
                    continue
                texts = texts or [text_of(point)]
                row = cells.get((point.unit, point.scheme, hashlib.sha256(texts[0].encode()).hexdigest()))
                if row is None:
                    print("not in the table of cells, so left out:", point, flush=True)
                    break
                started = time.monotonic()
                write_json(path, counted(row, texts[0], part, cache / "netlists"))
                print(part.name, point.unit, point.scheme, f"{time.monotonic() - started:.1f} s", flush=True)
            rows.append(read_json(path, FpgaRow))
    return rows


def counted(row: Row, text: str, part: Fpga, cache: Path) -> FpgaRow:
    found = count_fpga(text, part, cache=cache)
    return FpgaRow(
        row.unit, row.scheme, row.x, row.w, row.register_bits, row.saturates, row.scales, row.lanes, part.name,
        found.luts, found.flip_flops, found.carries, found.blocks, found.memories, row.sha256, found.tool,
    )  # fmt: skip


def page(table: FpgaTable) -> str:
    lines = [
        "# Circuits on FPGAs", "",
        f"Made by `{table.command}` with {', '.join(table.tools.values())}. {len(table.rows)} counts. `synth_xilinx`, "
        "`synth_ice40 -dsp` and `synth_ecp5` of yosys, not placed, nothing timed; the circuits are those of "
        "`cost_table.md`, whose netlists in cells were compared with integer arithmetic. Their products are spelled "
        "out as partial products, so yosys makes look-up tables of them and no multiplier blocks. A carry serves 1 bit "
        "(iCE40), 2 (ECP5) or 4 (Xilinx 7).", "",
        "Largest ratio of a count to its estimate from other registers of the same circuit, on straight lines between "
        "them, and from one of them by the family's median slope, up to eight bits away:", "",
        "| family | circuits | LUT | FF | LUT, beyond | FF, beyond |", "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for family in FAMILIES:
        rows = [row for row in table.rows if row.family == family]
        luts, registers, *_ = lines_of([row for row in rows if row.unit == "element"], COUNTS)
        ratios = luts.worst_ratio, registers.worst_ratio, luts.worst_ratio_of_one, registers.worst_ratio_of_one
        lines.append(f"| {FAMILIES[family].title} | {len(rows)} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    short = " / ".join(RESOURCES.values())
    lines += [
        "", "## Counts", "", f"{short}.", "",
        "| unit | scheme | x | w | bits | lanes | " + " | ".join(part.title for part in FAMILIES.values()) + " |",
        "| --- | --- | --- | --- | ---: | ---: |" + " ---: |" * len(FAMILIES),
    ]  # fmt: skip
    circuits: dict[tuple[object, ...], dict[str, FpgaRow]] = {}
    for row in table.rows:
        key = (row.unit, row.scheme, row.x, row.w, row.register_bits, row.lanes)
        circuits.setdefault(key, {})[row.family] = row
    for key, found in circuits.items():
        names = " | ".join(str(part).replace("|", ", ") for part in key)
        counts = [" / ".join(str(getattr(found[f], r)) for r in RESOURCES) if f in found else "–" for f in FAMILIES]
        lines.append(f"| {names} | " + " | ".join(counts) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e6, help="of new counts")
    given = parser.parse_args()
    rows = tuple(collect(given.cache, time.monotonic() + 60 * given.minutes))
    tools = {"amaranth": f"amaranth {version('amaranth')}", "yosys": ", ".join(sorted({row.tool for row in rows}))}
    table = FpgaTable(rows, COMMAND, tools)
    write_fpga_table(table, TABLE)
    RESULT.write_text(page(table))


if __name__ == "__main__":
    main()
