"""What is said of formats and ports at the head of a generated file."""

import re

import pytest

from bitwright.formats import Int, Minifloat, Specials
from bitwright.rtl.describe import described, ports
from bitwright.rtl.generate import circuit
from bitwright.schemes.ant import flint
from bitwright.schemes.overq import Overwrite


@pytest.mark.parametrize(
    ("format", "words"),
    [
        (Int(4), "s4, -8 to 7"),
        (Int(4, narrow=True), "s4, -7 to 7"),
        (Int(6, signed=False, exponent=-2), "u6, 0 to 63 in units of 2**-2"),
        (Minifloat(2, 1), "E2M1, -6 to 6"),
        (Minifloat(4, 3, specials=Specials.NAN), "E4M3, -448 to 448, all ones is NaN, no infinity"),
        (Minifloat(3, 1, bias=1, signed=False), "uE3M1, bias 1, 0 to 96"),
        (flint(4), "a table of 16 values from -16 to 16"),
        (Overwrite(Int(4, signed=False), cascade=4), "Overwrite(lane=u4, cascade=4), codes of 5 bits"),
    ],
)
def test_a_format_is_said_as_the_field_writes_it(format, words):
    assert described(format) == words


CIRCUITS = [("integer(4, 4)", "array"), ("vs_quant(4, 4)", "array"), ("ant()", "output-stationary"),
            ("nvfp4()", "vector"), ("wrapnet()", "array"), ("integer(8, 8)", "engine"), ("ant()", "element"),
            ("term_revealing()", "term-mac")]  # fmt: skip


@pytest.mark.parametrize(("scheme", "kind"), CIRCUITS)
def test_every_port_is_described_and_no_other(scheme, kind):
    unit = circuit(scheme, kind, rows=16, columns=2).unit
    text = "\n".join(ports(unit))
    lines = [line for line in text.splitlines() if re.match(r"\S.*\s{2,}(in|out)", line)]
    named = [name for line in lines for name in re.split(r"\s{2,}", line)[0].split(", ")]
    patterns = [re.sub(r"\{part\}", "[a-z]+", name).replace("...", r"\w*") for name in named]
    patterns = [re.sub(r"\{\w+\}", r"\\d+", pattern) for pattern in patterns]
    members = unit.signature.members
    assert [p for p in patterns if not any(re.fullmatch(p, port) for port in members)] == []
    left = [port for port in members if not any(re.fullmatch(p, port) for p in patterns)]
    assert {port for port in left if port not in text} == set()


def test_a_port_that_only_some_schemes_have_is_not_spoken_of():
    plain, scaled = ("\n".join(ports(circuit(scheme, rows=16, columns=2).unit))
                     for scheme in ("integer(4, 4)", "vs_quant(4, 4)"))  # fmt: skip
    assert "w_scale_{c}      in, 4 bits: block scales" in scaled
    assert "w_scale" not in plain
    assert "Where scales vary" not in plain


def test_a_clock_says_whether_there_is_a_reset():
    array, engine = ("\n".join(ports(circuit("integer(4, 4)", kind, rows=4, columns=2).unit))
                     for kind in ("array", "engine"))  # fmt: skip
    assert array.endswith("without a reset, since a pipeline forgets what it held.")
    assert "without a reset" not in engine
    assert "rst            in, 1 bit: start again" in engine
