"""Buffers by CACTI: units, banks, and where it is installed the shipped table's own points."""

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from bitwright.cost import cacti
from bitwright.cost.cacti import CactiSram
from bitwright.cost.hardware import accelerator
from bitwright.cost.memory import Sram


@pytest.fixture
def cacti_runs(monkeypatch):
    """What the package's class is asked for; it answers one square millimetre, 2 and 3 pJ."""
    asked = []

    def sram(**arguments):
        asked.append(arguments)
        energy = {"read": 2e-12, "write": 3e-12}
        return SimpleNamespace(
            area=1e-6, **{name: lambda pj=pj: SimpleNamespace(energy=pj) for name, pj in energy.items()}
        )

    monkeypatch.setitem(sys.modules, "hwcomponents_cacti", SimpleNamespace(SRAM=sram))
    monkeypatch.setattr(cacti, "_package", lambda: "a package")
    cacti._run.cache_clear()
    yield asked
    cacti._run.cache_clear()


def test_square_metres_and_joules_become_ours_for_each_bank(cacti_runs):
    buffer = CactiSram(64, word_bits=128, banks=2, node_nm=22)
    assert buffer.area_um2.value == pytest.approx(2e6)
    assert buffer.read_pj_per_bit.value == pytest.approx(2 / 128)
    assert buffer.write_pj_per_bit.value == pytest.approx(3 / 128)
    assert cacti_runs == [{"tech_node": 22 * 1e-9, "width": 128, "depth": 2048, "size": 32 * 8192}], "run once"
    assert buffer.bits == 64 * 8192


def test_an_accelerator_takes_them(cacti_runs):
    machine = accelerator(buffers="64,32,16", memory=CactiSram)
    assert machine.input_buffer == CactiSram(32.0, 128, banks=1)
    assert machine.input_buffer.read_pj_per_bit.source == "CACTI, a package, 45 nm"


@pytest.mark.skipif(importlib.util.find_spec("hwcomponents_cacti") is not None, reason="CACTI is installed")
def test_its_absence_says_what_to_install():
    with pytest.raises(ImportError, match=r"bitwright\[cacti\]"):
        _ = CactiSram(32).area_um2


@pytest.mark.skipif(importlib.util.find_spec("hwcomponents_cacti") is None, reason="CACTI is not installed")
@pytest.mark.parametrize(("kilobytes", "word_bits", "node_nm"), [(32, 64, 45), (256, 128, 45), (64, 64, 22)])
def test_points_of_the_shipped_table_come_out(kilobytes, word_bits, node_nm):
    here, table = (kind(kilobytes, word_bits, node_nm=node_nm) for kind in (CactiSram, Sram))
    assert here.area_um2.value == pytest.approx(table.area_um2.value, rel=1e-6)
    assert here.read_pj_per_bit.value == pytest.approx(table.read_pj_per_bit.value, rel=1e-6)
    assert here.write_pj_per_bit.value == pytest.approx(table.write_pj_per_bit.value, rel=1e-6)
