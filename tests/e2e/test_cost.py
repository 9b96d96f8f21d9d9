"""`bitwright cost` as a user runs it."""

import json

import pytest

LLAMA = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "vocab_size": 1000}  # fmt: skip


def test_a_task_is_priced_layer_by_layer(here):
    done = here("cost", "digits", "--scheme", "vs_quant(4, 4)", "--array", "32x32")
    assert done.status == 0
    assert "blocks.1.0           64    9   1      16      1" in done.out
    assert "MAC energy: fitted (generic45" in done.out  # its collector was measured for both signs of inputs
    assert "vs_quant(4, 4): element u4 × s4, sum of 12 bits, generic45" in done.out
    assert "DRAM energy: cited (LPDDR4" in done.out
    assert "not priced: 17 modules (Identity, ReLU, AdaptiveAvgPool2d): no matrix product" in done.out


def test_a_language_model_is_priced_from_its_configuration(here, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    done = here("cost", "config.json", "-s", "integer(8, 8); vs_quant(4, 4)", "--tokens", "16", "--equal-area")
    assert done.status == 0
    first, second = (line.split() for line in done.out.splitlines()[1:3])
    assert "32x32" in first
    assert "32x32" not in second  # smaller cells, so more of them


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("digits", "--array", "32"), "an array of '32' found"),
        (("digits", "-s", "integer(4, None)"), "leaves inputs in float"),
        (("missing.json",), "No such file or directory: missing.json"),
        (("digit",), "did you mean 'digits'?"),
        (("digits", "-s", "integer(8, 8); minifloat(5, 1)", "--equal-area"), "leave it out where areas are made equal"),
        (("digits", "-s", ";"), "no scheme in ';' found"),
        (
            ("digits", "-s", "integer(8, 8, accumulator_bits=12)"),
            "layer stem.0 (K = 9): these weights need a 19-bit inner accumulator, the datapath has 12; widen it",
        ),
        (("digits", "--tokens", "4"), "--tokens belongs to a language model's description, digits is a task"),
        (("digits", "--context", "4"), "--context belongs to a language model's description"),
        (("digits", "--library", "published", "--vectors"), "--vectors prices measured lanes, and published constants"),
        (("digits", "--library", "tsmc5"), "there is no measured library 'tsmc5'; choose from"),
    ],
)
def test_what_cannot_be_priced_is_one_sentence(here, arguments, sentence):
    done = here("cost", *arguments)
    assert done.status == 2
    assert sentence in done.sentence


def test_a_description_has_no_weights_so_its_shapes_decide_what_a_register_must_hold(here, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    arguments = ("config.json", "--tokens", "16", "-s")
    done = here("cost", *arguments, "integer(8, 8, accumulator_bits=24)")
    assert done.status == 2
    assert "layer layers.0.down (K = 512): a sum of 512 products needs a 25-bit accumulator, 24 bits" in done.sentence
    for fits in ("25)", "24, overflow=Overflow.WRAP)", "24, overflow=Overflow.SATURATE)"):
        assert here("cost", *arguments, f"integer(8, 8, accumulator_bits={fits}").status == 0


def test_a_recipe_gives_layers_of_a_description_their_own_schemes(here, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    uniform = here("cost", "config.json", "-s", "integer(4, 4)", "--tokens", "16")
    ends = here("cost", "config.json", "-s", "kept_ends(integer(4, 4), integer(8, 8))", "--tokens", "16")

    def moved(done):
        return {
            line.split()[0]: line.split()[8] for line in done.out.splitlines() if line.startswith(("layers", "head"))
        }

    changed = {name for name, kilobytes in moved(uniform).items() if moved(ends)[name] != kilobytes}
    assert changed == {"layers.0.query", "head"}


def test_machines_get_the_same_as_json(here, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (found,) = json.loads(here("cost", "config.json", "--tokens", "16", "--json").out)
    assert found["scheme"] == "integer(8, 8)"
    assert sum(layer["cycles"] for layer in found["layers"]) == found["cycles"]
    parts = sum(found[part]["value"] for part in ("mac_pj", "edge_pj", "sram_pj", "dram_pj"))
    assert found["energy_pj"]["value"] == pytest.approx(parts)
    assert found["energy_pj"]["origins"] == ["cited", "fitted", "measured"]
    cell = found["cell"]
    assert cell["uncalibrated_mac_pj"] * cell["calibration"] == pytest.approx(found["mac_pj"]["value"])
    assert cell["area_um2"]["origin"] in ("measured", "fitted")


def test_a_library_of_another_process_than_the_buffers_is_said(here, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    done = here("cost", "config.json", "--tokens", "16", "--library", "sky130hd")
    assert done.status == 0
    assert "the array's area is of 130 nm, the buffers' of 45 nm: compare arrays, not sums" in done.out


def test_published_constants_are_still_to_be_had(here, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    done = here("cost", "config.json", "--tokens", "16", "--library", "published")
    assert "MAC energy: fitted (after Horowitz" in done.out
    assert "published cells are a multiplier and an adder: left out registers, decoders" in done.out


@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        ("a2q(4, 8, 16)", "a bound on weights says nothing of products of two activations"),
        ("wrapnet(accumulator_bits=16)", "registers that are read through a function are simulated in layers only"),
    ],
)
def test_attention_that_stays_in_float_is_left_out_of_the_price_and_named(here, tmp_path, scheme, why):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    done = here("cost", "config.json", "--tokens", "16", "-s", scheme)
    assert done.status == 0
    assert "scores" not in done.out.split("not priced:")[0]
    assert f"not priced: layers.0.scores, layers.0.mixed and 2 more: stays in float, {why}" in done.out


def test_the_command_prints_counts_and_says_what_there_is_not(here):
    done = here("cost", "digits", "-s", "integer(8, 8); mine = integer(4, 4)", "--library", "xc7", "--array", "8x8")
    assert done.status == 0
    head, first, second, *_ = done.out.splitlines()
    assert head.split()[-9:] == ["LUT", "FF", "carry", "DSP", "BRAM", "time", "×", "LUT", "×"]
    assert int(first.split()[8].replace(",", "")) > int(second.split()[7].replace(",", ""))
    assert second.split()[0] == "mine"
    assert "no area and no energy: an FPGA's table has none" in done.out
    done = here("cost", "digits", "--library", "ecp5", "--json")
    (record,) = json.loads(done.out)
    assert record["counts"]["luts"]["origin"] in ("measured", "fitted")


@pytest.mark.parametrize("option", ["--vectors", "--equal-area"])
def test_what_needs_areas_is_refused_on_an_fpga(here, option):
    done = here("cost", "digits", "--library", "xc7", option)
    assert done.status == 2
    assert f"{option} needs areas of cells, and xc7 is an FPGA" in done.sentence
