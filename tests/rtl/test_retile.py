"""An array whose rows cut neighbours is refused with the text to type instead."""

import pytest

pytest.importorskip("amaranth", reason="circuits need amaranth: pip install 'bitwright[rtl]'")

from bitwright.rtl.generate import circuit


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("overq(4)", "overq(4, tile=16)"),
        ("overq", "overq(tile=16)"),
        ("overq(4, 8, tile=32)", "overq(4, 8, tile=16)"),
        ("combined(overq(4), ant(4))", "combined(overq(4, tile=16), ant(4))"),
    ],
)
def test_the_text_to_type_is_named(text, use):
    with pytest.raises(ValueError) as refused:
        circuit(text, rows=16, columns=2)
    assert f"16 rows found; use {use}, or a multiple of" in str(refused.value)
    circuit(use, rows=16, columns=1)
