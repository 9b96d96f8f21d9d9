"""The drawing of an array: well-formed, with the widths of the circuit."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bitwright.config import from_text
from bitwright.cost.wires import array_wires
from bitwright.gemm import Gemm, LayerGemm
from bitwright.report.array_drawing import drawing, standalone
from bitwright.result import Hardware

HARDWARE = Hardware(32, 16, "weight stationary", 128.0, 64.5, 32.0, "LPDDR4", 256, 500.0)
SVG = "{http://www.w3.org/2000/svg}"


def wires(text: str, k: int = 4096):
    return array_wires([(LayerGemm("layer", Gemm(1, k, 1)), from_text(text))])


def words(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("text", ["integer(8, 8)", "overq(4, 4)", "ant(4, 4)", "nvfp4()", "term_revealing()"])
@pytest.mark.parametrize("dataflow", ["weight stationary", "input stationary", "output stationary"])
def test_a_drawing_is_well_formed_and_within_its_frame(text, dataflow):
    root = ElementTree.fromstring(drawing(replace(HARDWARE, dataflow=dataflow), wires(text)))
    _, _, width, height = map(int, root.get("viewBox").split())
    places = [(float(t.get("x")), float(t.get("y"))) for t in root.iter(f"{SVG}text") if t.get("x")]
    assert all(0 < x < width and 0 < y < height for x, y in places)


@pytest.mark.parametrize("text", ["integer(8, 8)", "vs_quant(4, 4)", "ant(4, 4)", "overq(4, 8)", "mxfp8()"])
def test_a_drawing_carries_the_widths_of_the_circuit(text):
    plan = pytest.importorskip("bitwright.rtl.plan").plan(from_text(text)).elementwise()
    shapes = pytest.importorskip("bitwright.rtl.term").term_shapes
    shown = words(drawing(HARDWARE, wires(text)))
    for operand in (plan.x, plan.w):
        assert str(sum(shape.width for shape in shapes(operand.bounds).values())) in shown
    assert str(plan.inner.bits) in shown
    assert f"add, {plan.inner.bits}" in shown
    if wires(text).outer is not None:
        assert f"Σ {plan.outer.register.bits}" in shown


def test_a_drawing_names_sizes_of_array_and_buffers():
    shown = words(drawing(HARDWARE, wires("integer(4, 4)")))
    assert {"32 rows: K", "16 columns: outputs", "weight buffer, 128 KB", "64.5 KB", "sum buffer, 32 KB"} <= set(shown)


@pytest.mark.parametrize(("rows", "columns", "drawn"), [(32, 16, 9), (2, 3, 6), (1, 1, 1)])
def test_large_arrays_are_left_out_in_the_middle_and_small_ones_drawn_whole(rows, columns, drawn):
    shown = words(drawing(replace(HARDWARE, rows=rows, columns=columns), wires("integer(4, 4)")))
    assert shown.count("w") == drawn


def test_only_codes_that_are_no_integers_are_decoded():
    assert words(drawing(HARDWARE, wires("mxfp4()"))).count("dec") == 6
    assert words(drawing(HARDWARE, wires("mxint8()"))).count("dec") == 0


def test_a_float_outer_register_is_said():
    assert "Σ float" in words(drawing(HARDWARE, wires("mxfp4()")))


def test_a_file_of_its_own_follows_light_and_dark():
    svg = standalone(drawing(HARDWARE, wires("mxfp4()")))
    ElementTree.fromstring(svg)
    assert "prefers-color-scheme:dark" in svg


def test_an_unknown_dataflow_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'row stationary'.*weight stationary"):
        drawing(replace(HARDWARE, dataflow="row stationary"), wires("mxfp4()"))
