"""Register widths: the record's vectors (specs A12), laws that order the bounds, and brute force."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bitwright.datapath.widths import (
    Span,
    certify_sums,
    check_sums,
    data_type_bits,
    data_type_span,
    norm_bits,
    norm_span,
    outer_bits,
    raw_codes,
    zero_centred_bits,
    zero_centred_span,
)


def inputs(bits, signed):
    return Span(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Span(0, 2**bits - 1)


def symmetric(bits):
    return Span(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1)


def row(*values):
    return np.asarray([values], np.int64)


# K, weight bits, input bits, signed inputs; closed form, exact over the full range, exact over the narrow one
DATA_TYPES = [
    (576, 8, 8, 0, 26, 26, 26),
    (576, 4, 4, 0, 18, 18, 17),
    (4608, 8, 8, 0, 29, 29, 29),
    (4608, 4, 4, 0, 21, 21, 20),
    (27, 8, 8, 1, 20, 20, 20),
    (1024, 8, 8, 0, 27, 26, 26),
    (128, 4, 8, 0, 20, 19, 19),
    (128, 4, 8, 1, 19, 19, 18),
    (4096, 4, 8, 0, 25, 24, 24),
    (128, 4, 4, 0, 16, None, None),
]


@pytest.mark.parametrize(("k", "m", "n", "signed", "closed", "full", "narrow"), DATA_TYPES)
def test_data_type_bounds_are_the_records(k, m, n, signed, closed, full, narrow):
    x, w = inputs(n, signed), symmetric(m)
    assert data_type_bits(k, n, m, is_input_signed=bool(signed)) == closed
    if full is not None:
        assert data_type_span(x, w._replace(low=w.low - 1), k).bits == full
        assert data_type_span(x, w, k).bits == narrow


# weight bits, input bits, signed inputs, centred; integers; range of the sums; exact width, closed form's width
ROWS = [
    (4, 4, 0, 0, (7, -7, 7, 7, -7, 3, -7, 7), (-315, 465), 10, 11),
    (4, 4, 0, 0, (1, 0, 0, 1, -1, 0, 0, 1), (-15, 45), 7, 8),
    (4, 4, 1, 0, (3, -1, 0, 2, -3, 0, 0, 2), (-84, 81), 8, 8),
    (4, 4, 0, 1, (3, -2, 0, 2, -4, 0, -1, 1), (-105, 90), 8, 8),
    (4, 4, 0, 0, (3, -1, 0, 2, -3, 0, 0, 2), (-60, 105), 8, 9),
    (4, 4, 0, 1, (7, -5, 1, 5, -7, 0, -3, 4), (-225, 255), 9, 9),
    (8, 8, 0, 0, (28, -14, 7, 21, -28, 3, -7, 17), (-12495, 19380), 16, 16),
    (8, 8, 0, 1, (52, -37, 7, 37, -68, 0, -22, 30), (-32385, 32130), 16, 16),
    (4, 4, 0, 0, (2, 1, 0, 0, 2, 1, 1, 3), (0, 150), 9, 9),
    (8, 8, 0, 1, (42, 0, -42, -64, 21, 0, -21, 64), (-32385, 32385), 16, 16),
    (8, 8, 0, 1, (64, -64, 64, -64), (-32640, 32640), 16, 16),
    (8, 8, 0, 0, (1, -1, 1, -1), (-510, 510), 10, 12),
]


@pytest.mark.parametrize(("m", "n", "signed", "centred", "weights", "extremes", "exact", "closed"), ROWS)
def test_rows_need_what_brevitas_and_the_record_say(m, n, signed, centred, weights, extremes, exact, closed):
    certificate = certify_sums(row(*weights), inputs(n, signed), w=symmetric(m))
    assert (certificate.low, certificate.high) == extremes
    assert certificate.exact_bits == exact
    norm1 = sum(map(abs, weights))
    found = zero_centred_bits(norm1, n) if centred else norm_bits(norm1, n, is_input_signed=bool(signed))
    assert found == closed


def test_the_zero_centred_span_holds_where_the_closed_form_is_a_bit_short():
    # A13: Brevitas' helper gives 4 bits for a sum of up to 14
    certificate = certify_sums(row(0, 0, 0, 2), Span(0, 7))
    assert zero_centred_bits(2, 3) == 4
    assert certificate.zero_centred_bits == certificate.exact_bits == 5


WEIGHTS = arrays.arrays(np.int64, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.integers(-9, 9))
SPANS = st.tuples(st.integers(-9, 0), st.integers(0, 15)).map(lambda s: Span(*s))


@given(WEIGHTS, SPANS)
def test_more_knowledge_never_asks_for_more_bits(weights, x):
    c = certify_sums(weights, x, w=Span(-9, 9))
    assert c.exact_bits <= c.norm_bits <= c.data_type_bits
    assert c.exact_bits <= c.zero_centred_bits
    assert norm_span(x, c.norm1).bits == c.norm_bits
    assert zero_centred_span(x, c.positive, c.negative).bits == c.zero_centred_bits


@given(arrays.arrays(np.int64, st.tuples(st.just(2), st.integers(1, 4)), elements=st.integers(-3, 3)), SPANS)
def test_exact_extremes_are_reached_by_some_input_and_passed_by_none(weights, x):
    c = certify_sums(weights, x)
    corners = np.asarray(list(product(x, repeat=weights.shape[1])))
    partial = np.cumsum(corners[:, None, :] * weights[None], 2)
    assert (corners @ weights.T).min() == c.low
    assert (corners @ weights.T).max() == c.high
    assert c.low <= partial.min() <= partial.max() <= c.high


@given(WEIGHTS, SPANS, st.integers(1, 9), st.data())
def test_tiles_of_an_inner_register_add_up_in_the_outer_one(weights, x, tile, data):
    inner = certify_sums(weights, x, tile=tile)
    outer = certify_sums(weights, x)
    assert inner.tiles == -(-weights.shape[1] // inner.tile)
    assert inner.exact_bits <= outer.exact_bits <= outer_bits(inner.exact_bits, inner.tiles)
    values = data.draw(arrays.arrays(np.int64, weights.shape[1], elements=st.integers(*x)))
    for start in range(0, weights.shape[1], inner.tile):
        part = slice(start, start + inner.tile)
        assert np.all((weights[:, part] @ values[part] >= inner.low) & (weights[:, part] @ values[part] <= inner.high))


@pytest.mark.parametrize(
    ("inner", "k", "tile", "outer"), [(16, 4096, 128, 21), (16, 128, 128, 16), (16, 129, 128, 17), (12, 96, 32, 14)]
)
def test_the_outer_width_is_the_papers(inner, k, tile, outer):
    # arXiv:2409.17092: P_O = P_I + ceil(log2 K - log2 T)
    assert outer_bits(inner, -(-k // tile)) == outer
    assert -(-k // tile) * (2 ** (inner - 1) - 1) <= 2 ** (outer - 1) - 1


def test_a_bias_inside_the_register_counts_whenever_it_is_added():
    weights = np.asarray([[3, -2], [1, 1]])
    c = certify_sums(weights, Span(0, 10), constant=np.asarray([5, -40]))
    assert (c.low, c.high) == (-40, 35)  # the second row starts at -40; the first ends at 30 + 5
    assert (c.constant_low, c.constant_high) == (-40, 5)
    outside = certify_sums(weights, Span(0, 10))
    assert (outside.low, outside.high) == (-20, 30)


@given(WEIGHTS, st.integers(0, 15), st.data())
def test_raw_codes_with_their_correction_as_bias_give_the_sums_of_asymmetric_inputs(weights, zero_point, data):
    x, correction = raw_codes(weights, 4, zero_point)
    codes = data.draw(arrays.arrays(np.int64, weights.shape[1], elements=st.integers(*x)))
    corrected = weights @ codes + correction
    np.testing.assert_array_equal(corrected, weights @ (codes - zero_point))
    c = certify_sums(weights, x, constant=correction)
    assert np.all((corrected >= c.low) & (corrected <= c.high))


def test_integers_beyond_64_bits_are_summed_exactly():
    weights = np.asarray([[2**70, -(2**71)]], object)
    assert certify_sums(weights, Span(0, 2)).low == -(2**72)


def test_a_certificate_checks_against_its_integers_and_no_others():
    weights = np.asarray([[3, -2], [1, 1]])
    bias = np.asarray([5, -40])
    certificate = certify_sums(weights, Span(0, 10), constant=bias)
    check_sums(weights, certificate, bias)
    with pytest.raises(ValueError, match="SHA-256"):
        check_sums(weights + 1, certificate, bias)
    with pytest.raises(ValueError, match="exact_bits = 3"):
        check_sums(weights, replace(certificate, exact_bits=3), bias)
    with pytest.raises(ValueError, match="give them"):
        check_sums(weights, certificate)
    with pytest.raises(ValueError, match="of 2 rows of 2 weights"):
        check_sums(weights[:1], certificate, bias[:1])


@pytest.mark.parametrize(
    ("x", "changes", "words"),
    [
        (Span(1, 5), {}, "include 0"),
        (Span(0, 5), {"constant": np.zeros(2, int), "tile": 1}, "outer sum"),
        (Span(0, 5), {"w": Span(-1, 1)}, "format holds"),
    ],
)
def test_what_cannot_be_certified_is_said_in_one_sentence(x, changes, words):
    with pytest.raises(ValueError, match=words):
        certify_sums(np.asarray([[3, -2], [1, 1]]), x, **changes)
