import os
from pathlib import Path

import pytest

from bitwright.cost.library_open import OPEN, read_open

FOLDER = Path(os.environ.get("BITWRIGHT_DATA", "")) / "liberty"
here = [pytest.mark.data, pytest.mark.skipif(not FOLDER.is_dir(), reason="no $BITWRIGHT_DATA/liberty")]
SLOW = {"asap7": [pytest.mark.slow]}  # 46 MB of text
# area of the NAND, volts, and the smallest flip-flop in NANDs, as the files say
FIGURES = {
    "sky130hd": (3.7536, 1.8, 5.33),
    "sg13g2": (7.2576, 1.2, 6.75),
    "osu018": (24.0, 1.8, 4.0),
    "asap7": (0.05832, 0.7, 5.0),
    "gt2n": (0.018144, 0.7, 10.0),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[*here, *SLOW.get(name, [])]) for name in OPEN])
def test_every_cell_of_an_open_library_is_read(name):
    area, volts, flip_flop = FIGURES[name]
    library = read_open(name, FOLDER)
    assert (library.gate_area_um2, library.voltage_v) == pytest.approx((area, volts))
    cells = [library.cell(kind) for kind in library.cells]
    smallest = min(cell.area_um2 for cell in cells if cell.flip_flop)
    assert smallest / area == pytest.approx(flip_flop, abs=0.01)
    logic = [cell for cell in cells if all(cell.by_name[pin].function for pin in cell.outputs) and cell.inputs]
    assert len(logic) > 20
    for cell in logic:
        arcs = [arc for pin in cell.outputs for arc in cell.by_name[pin].arcs if arc.kind != "setup"]
        assert cell.leakage_nw >= 0
        assert all(arc.rise or arc.fall for arc in arcs), cell.name


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"osu018_stdcells\.lib nor osu018_stdcells\.lib\.gz"):
        read_open("osu018", tmp_path)


def test_an_unknown_library_is_told_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="none of the open libraries sky130hd"):
        read_open("nangate", tmp_path)
