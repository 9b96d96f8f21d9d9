import inspect
import sys
import textwrap

import pytest

from bitwright import recipes
from bitwright.comparison import DEFAULT_SCHEMES
from bitwright.config import FACTORIES, definition_of, from_text, scheme_texts_of
from bitwright.recipe import Promotion, Recipe, Rule
from bitwright.schemes import CATALOGUE, FOLDED, ant, integer, mxfp4, vs_quant


@pytest.mark.parametrize("factory", [*CATALOGUE, *FOLDED, *recipes.RECIPES], ids=lambda f: f.__name__)
def test_every_factory_is_made_by_its_name_and_by_its_call(factory):
    assert from_text(factory.__name__) == from_text(f"{factory.__name__}()") == factory()


@pytest.mark.parametrize("text", DEFAULT_SCHEMES)
def test_every_default_is_made_and_printed_as_text_for_the_same(text):
    made = from_text(text)
    assert from_text(repr(made)) == made


@pytest.mark.parametrize("factory", CATALOGUE, ids=lambda f: f.__name__)
def test_every_default_argument_can_be_written_out(factory):
    arguments = ", ".join(
        f"{name}={p.default!r}" for name, p in inspect.signature(factory).parameters.items() if p.default is not p.empty
    )
    assert from_text(f"{factory.__name__}({arguments})") == factory()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  integer( 4,\n 8 ) ", integer(4, 8)),
        ("integer(weight_bits=4, input_bits=None)", integer(4, None)),
        ("vs_quant(4, 8, 6, 10, vector=32)", vs_quant(4, 8, 6, 10, vector=32)),
        ("ant(4, 4, ('int', 'flint'))", ant(4, 4, ("int", "flint"))),
        ("ant(4, 4, ['int', 'flint'])", ant(4, 4, ("int", "flint"))),
        (
            "Recipe((Rule('first', integer(8, 8)), Rule('*', None)), Promotion(2, mxfp4()))",
            Recipe((Rule("first", integer(8, 8)), Rule("*", None)), Promotion(2, mxfp4())),
        ),
    ],
)
def test_a_text_is_the_call_it_looks_like(text, expected):
    assert from_text(text) == expected
    assert from_text(repr(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "integer.__globals__",
        "integer().__class__.__mro__",
        "integer(8, 8).input",
        "Overflow.__class__",
        "Overflow.mro",
        "Overflow.WRAP.value.__class__",
        "Rounding.FLOOR.__init__.__globals__",
        "(lambda: integer(8, 8))()",
        "[integer(b, b) for b in (8,)][0]",
        "(integer(8, 8), mxfp4())[0]",
        "integer(8, 8) if True else mxfp4()",
        "integer(*(8, 8))",
        "integer(**{'weight_bits': 8})",
        "integer(input_bits := 8)",
        "integer(f'{8}')",
        "integer(4 + 4)",
        "integer(2**2**70)",
        "integer(9**10**6)",
        "integer(0**-1)",
        "integer(weight_range=MinimumError.magnitude)",
        "integer(8, 8); mxfp4()",
        "import os",
        "eval('1')",
        "exec('1')",
        "builtins:eval('integer(8, 8)')",
        "os:system('true')",
        "subprocess:run(('true',))",
        "(" * 5000,
        "integer(" * 2000 + ")" * 2000,
        "\0",
        "",
    ],
)
def test_a_text_does_nothing_but_make_schemes(text, monkeypatch):
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("a text ran a command"))
    with pytest.raises(ValueError) as refusal:
        from_text(text)
    assert len(str(refusal.value)) < 700


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("intger(8, 8)", ("'intger'", "did you mean 'integer'")),
        ("integer(wieght_bits=8)", ("integer has no argument 'wieght_bits'", "did you mean 'weight_bits'")),
        ("integer(8, 8, overflow=Overflow.STATURATE)", ("Overflow has no 'STATURATE'", "did you mean 'SATURATE'")),
        ("integer(99, 8)", ("99 bits found",)),
        ("integer('8')", ("integer: weight_bits is '8'; it must be int",)),
        ("integer(8.0)", ("integer: weight_bits is 8.0",)),
        ("integer(True)", ("integer: weight_bits is True",)),
        ("nvfp4(four_over_six=1)", ("four_over_six is 1; it must be bool",)),
        ("integer(8, 8, weight_share=8)", ("weight_share is 8", "Granularity")),
        ("integer(8, 8, weight_share=PerRow)", ("weight_share is", "Granularity")),
        ("mxfp4(block=0)", ("block of 0",)),
        ("ant(4, 4, ('intt',))", ("intt",)),
        ("integer(8, 8, 8)", ("integer: too many positional arguments",)),
        ("vs_quant(4, vector=0)", ("block of 0",)),
        ("Int(8)", ("makes a Int; a scheme or a recipe is needed",)),
        ("PerRow(8)", ("PerRow",)),
    ],
)
def test_a_mistake_is_named_with_what_is_possible(text, words):
    with pytest.raises(ValueError) as refusal:
        from_text(text)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


@pytest.fixture
def third_party(tmp_path, monkeypatch) -> str:
    """A module of someone else's with a scheme."""
    (tmp_path / "third_party_schemes.py").write_text(
        textwrap.dedent("""
            from bitwright.scheme import Scheme
            from bitwright.schemes import integer

            def narrow(bits: int = 4) -> Scheme:
                return integer(bits, bits)

            def harm(bits: int = 4):
                raise AssertionError("a function that does not say that it makes a scheme")
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "third_party_schemes"
    sys.modules.pop("third_party_schemes", None)


def test_a_third_partys_scheme_is_called_by_module_and_name(third_party):
    assert from_text(f"{third_party}:narrow(bits=3)") == integer(3, 3)
    assert from_text(f"{third_party}:narrow") == integer(4, 4)


@pytest.mark.parametrize("call", ["harm()", "harm(3)", "narrow(harm())", "Scheme", "nowhere()"])
def test_of_another_module_only_functions_that_return_schemes_are_called(third_party, call):
    with pytest.raises(ValueError):
        from_text(f"{third_party}:{call}")


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'no_such_module' could not be imported"):
        from_text("no_such_module:scheme()")


def test_no_two_factories_share_a_name():
    assert len(FACTORIES) == len(CATALOGUE) + len(FOLDED) + len(recipes.RECIPES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine = nvfp4()", ("mine = nvfp4()",)),
        (
            "a = Recipe((Rule('x', nvfp4()), Rule(scheme=integer(4, 4), layers='y'), Rule('z', None), "
            "Rule('*', nvfp4())), promotion=Promotion(1, integer(8, 8)))",
            ("nvfp4()", "integer(4, 4)", "integer(8, 8)"),
        ),
        ("ant4_8()", ()),
    ],
)  # fmt: skip
def test_a_recipes_schemes_are_found_wherever_its_text_has_them(text, expected):
    assert sorted(scheme_texts_of(text)) == sorted(expected)


def test_a_definition_is_a_text_without_its_name():
    assert definition_of(" mine = nvfp4() ") == "nvfp4()"
    assert definition_of("integer(weight_bits=4)") == "integer(weight_bits=4)"
