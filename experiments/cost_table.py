"""The table of measured cells that `bitwright cost` answers from: src/bitwright/cost/data/cells.parquet.

    python experiments/cost_table.py --cache FOLDER                          # a table of the embedded library alone
    python experiments/cost_table.py --cache FOLDER --liberty FOLDER         # and the open ones of that folder
    python experiments/cost_table.py --cache FOLDER --liberty FOLDER --minutes 60   # as far as that goes

Every circuit is kept in the cache as soon as it is measured, so a run that is stopped goes on where it was; one whose
RTLIL is another by now is measured again. The mapped netlist of each is compared with integer arithmetic before its
figures count. results/cost_table.md says what is in the table, how libraries differ, and how far interpolation lies
from points that were left out.
"""

import argparse
import hashlib
import time
from dataclasses import replace
from functools import cache as remembered
from importlib.metadata import version
from math import exp, log
from pathlib import Path

from cost_table_circuits import text_of
from cost_table_page import page
from cost_table_points import Point, points
from cost_table_units import measure
from pe_costs import HOROWITZ_PJ, operator_pj

from bitwright.config import from_text
from bitwright.cost.cells import generic_library
from bitwright.cost.library import Library
from bitwright.cost.library_open import read_open
from bitwright.cost.table import CellTable, Origin, Row, write_table
from bitwright.rtl.operand import choices
from bitwright.store import key_of, read_json, write_json

FEATURE_NM = {"generic45": 45, "sky130hd": 130, "sg13g2": 130, "osu018": 180, "asap7": 7, "gt2n": 2}
VERSION = "1"
"""Of how a point is measured: another one measures all of them again, mapped netlists are kept by their circuit."""
COMMAND = "python experiments/cost_table.py --cache CACHE --liberty LIBERTY"
TABLE = Path(__file__).parents[1] / "src" / "bitwright" / "cost" / "data" / "cells.parquet"
RESULT = Path(__file__).parent / "results" / "cost_table.md"


def collect(library: Library, cache: Path, until: float) -> list[Row]:
    """Rows of one library: those kept, and new ones until the time is up."""
    rows, failed = [], []
    for point in points(library.name):
        path = cache / "rows" / f"{key_of(VERSION, point, library.name)}.json"
        if not path.exists() or read_json(path, Row).sha256 != digest_of(point):
            if time.monotonic() > until:
                continue
            started = time.monotonic()
            try:
                write_json(path, measure(point, library, cache / "netlists"))
            except (AssertionError, RuntimeError, ValueError) as error:  # it is named, and the others go on
                failed.append(f"{point.unit} {point.scheme} {point.sign.name} {point.bits} {point.k}: {error!r}"[:300])
                print("failed", failed[-1], flush=True)
                continue
            print(library.name, point, f"{time.monotonic() - started:.1f} s", flush=True)
        rows.append(replace(read_json(path, Row), is_rectified=is_rectified(point)))
    print(f"{library.name}: {len(rows)} circuits, {len(failed)} failed", flush=True)
    return rows


@remembered
def digest_of(point: Point) -> str:
    """Of its circuit as it is generated today."""
    return hashlib.sha256(text_of(point).encode()).hexdigest()


def is_rectified(point: Point) -> bool:
    """Circuits are driven by the first format that inputs have."""
    scheme = from_text(point.scheme)
    return bool(choices(scheme.input, point.sign)[0].format.bounds().lowest >= 0)


def origin(library: Library, cache: Path) -> Origin:
    """Its energies times `calibration` are Horowitz': the geometric mean over his integer operators."""
    own = operator_pj(library, cache / "netlists")
    factor = exp(sum(log(HOROWITZ_PJ[name] / pj) for name, pj in own.items()) / len(own))
    digest = hashlib.sha256("".join(library.liberty).encode()).hexdigest()
    return Origin(library.source or "rules of cost.cells", FEATURE_NM[library.name], float(f"{factor:.2g}"), digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--liberty", type=Path)
    parser.add_argument("--only", nargs="*", help="libraries; without --liberty the embedded one")
    parser.add_argument("--minutes", type=float, default=1e6, help="of new measurements; kept ones are always taken")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    rows: list[Row] = []
    origins: dict[str, Origin] = {}
    for name in given.only or (FEATURE_NM if given.liberty else ["generic45"]):
        library = generic_library() if name == "generic45" else read_open(name, given.liberty)
        found = collect(library, given.cache, until)
        if found:
            rows, origins[name] = rows + found, origin(library, given.cache)
            table = CellTable(tuple(rows), COMMAND, tools(rows), origins)
            write_table(table, TABLE)
            RESULT.write_text(page(table))


def tools(rows: list[Row]) -> dict[str, str]:
    packages = {name: version(name) for name in ("amaranth", "numpy", "pyarrow")}
    return packages | {"yosys": ", ".join(sorted({row.tool for row in rows}))}


if __name__ == "__main__":
    main()
