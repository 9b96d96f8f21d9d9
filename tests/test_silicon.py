"""Prices of a comparison: of each scheme that has one, a sentence for each other."""

from dataclasses import replace

import pytest

from bitwright.config import from_text
from bitwright.cost.hardware import accelerator
from bitwright.cost.parts import parts_of
from bitwright.gemm import Gemm, LayerGemm
from bitwright.pricing import price
from bitwright.recipe import Recipe
from bitwright.result import Comparison, RunInfo, SchemeResult
from bitwright.silicon import priced, shares
from bitwright.store import read_json, write_json

INFO = RunInfo("task", "", "", "accuracy", "%", True, 99.0, 4000, 100, 10, 0, "exact", "", "", {}, {}, "")
MACHINE = accelerator("16x16", buffers="8,8,8")


def row(scheme: str, error: str | None = None) -> SchemeResult:
    metric = None if error else 98.0
    return SchemeResult(scheme, scheme, metric, metric, None, None, None, None, None, None, None, 1.0, error=error)


def source(recipe):
    """Two layers under a scheme; recipes have no price here."""
    if isinstance(recipe, Recipe):
        raise ValueError("no recipes")
    return tuple((LayerGemm(name, Gemm(10, k, 20)), recipe) for name, k in (("first", 64), ("second", 320))), ("relu",)


def silicon(*rows: SchemeResult):
    return priced(Comparison(INFO, rows), source, MACHINE).silicon


def test_a_price_is_that_of_pricing():
    (found,) = silicon(row("vs_quant(4, 4)")).prices
    (wanted,) = price(source, ["vs_quant(4, 4)"], MACHINE)
    assert found.area_mm2.value == wanted.cost.area_um2.value / 1e6
    assert found.energy_uj.value == wanted.cost.energy_pj.value / 1e6
    assert found.delay_ms.value == 1e3 * wanted.cost.seconds
    assert found.energy_uj.origins == wanted.cost.energy_pj.origins
    assert found.left_out == ("relu",)


def test_what_cannot_be_priced_has_a_sentence_and_costs_nobody_else_anything():
    found = silicon(row("ant4_8(promoted=2)"), row("integer(4, 4)"), row("integer(8, 8)", error="it failed"))
    assert [each.scheme for each in found.prices] == ["ant4_8(promoted=2)", "integer(4, 4)", "integer(8, 8)"]
    assert [each.error for each in found.prices] == ["no recipes", None, "the scheme gave no result"]
    assert found.prices[0].area_mm2 is None
    assert found.prices[1].area_mm2.value > 0


def test_wires_serve_the_widest_layer():
    (found,) = silicon(row("integer(4, 4)")).prices
    assert found.wires.accumulator == 4 + 4 + 9  # 320 products of up to 15 · 8 in magnitude, and a sign
    assert found.wires.outer is None


def test_shares_of_the_edge_shrink_with_the_array():
    parts = parts_of(from_text("vs_quant(4, 4)"))
    small, large = (shares(parts, accelerator(size)) for size in ("4x4", "32x32"))
    assert small["multiplier"] == large["multiplier"]
    assert small["scales, outer register"] == pytest.approx(8 * large["scales, outer register"])
    bare = shares(replace(parts, collector_um2=0.0, input_decoder_um2=0.0, weight_decoder_um2=0.0), MACHINE)
    assert sum(bare.values()) == pytest.approx(parts.element_um2)


def test_the_hardware_is_told_as_it_was_given():
    hardware = silicon(row("integer(4, 4)")).hardware
    assert (hardware.rows, hardware.columns, hardware.weight_kilobytes, hardware.dram) == (16, 16, 8, "LPDDR4")


def test_a_priced_comparison_is_read_back_unchanged(tmp_path):
    comparison = priced(Comparison(INFO, (row("vs_quant(4, 4)"), row("term_revealing()"))), source, MACHINE)
    write_json(tmp_path / "comparison.json", comparison)
    assert read_json(tmp_path / "comparison.json", Comparison) == comparison
