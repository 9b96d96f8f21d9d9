from itertools import product

import pytest

from bitwright.cost.liberty_function import parse_function

TEXTS = {
    "!(A * B) + C'": lambda A, B, C: (1 - A * B) | (1 - C),
    "(A&B)|!C": lambda A, B, C: (A & B) | (1 - C),
    "A B + C": lambda A, B, C: (A & B) | C,
    "A ^ B ^ C": lambda A, B, C: A ^ B ^ C,
    "A | B & C ^ A": lambda A, B, C: A | ((B & C) ^ A),
    "!A !B (C)": lambda A, B, C: (1 - A) & (1 - B) & C,
    "(A B)' C": lambda A, B, C: (1 - A * B) & C,
    "!!A & !(B | !C)": lambda A, B, C: A & (1 - (B | (1 - C))),
    "A'' | B' C": lambda A, B, C: A | ((1 - B) & C),
    " ( A & 1 ) | ( B & 0 ) | C ": lambda A, B, C: A | C,
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_what_the_format_says(text):
    function = parse_function(text)
    for row in product((0, 1), repeat=3):
        assert function(dict(zip("ABC", row))) == TEXTS[text](*row), row


@pytest.mark.parametrize("text", TEXTS)
def test_the_code_computes_the_same_in_all_lanes(text):
    lanes = {"A": 0b11110000, "B": 0b11001100, "C": 0b10101010, "m": 0b11111111}
    assert eval(parse_function(text).code(str), lanes) == parse_function(text)(lanes, mask=0xFF)


@pytest.mark.parametrize("text", ["", "A &", "& A", "(A", "A)", "A ? B", "!", "'", "A | | B", "A & '"])
def test_what_is_no_function_is_refused(text):
    with pytest.raises(ValueError, match="is no boolean function"):
        parse_function(text)


@pytest.mark.parametrize(
    ("text", "sense"),
    [("A & B", "positive_unate"), ("!(A | B)", "negative_unate"), ("A ^ B", "non_unate"), ("!B A", "positive_unate")],
)
def test_the_sense_of_an_input_follows_from_the_function(text, sense):
    assert parse_function(text).sense("A") == sense


def test_inputs_are_named_once_in_order():
    assert parse_function("B & A | !B").inputs == ("B", "A")
