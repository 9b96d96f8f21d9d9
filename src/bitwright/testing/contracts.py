"""The laws as pytest classes: subclass one and give it a fixture.

    class TestMyFormat(FormatContract):
        @pytest.fixture(params=[my_format(3), my_format(4)], ids=repr)
        def format(self, request):
            return request.param

A law that does not concern a format or scheme (rounding of a group format,
sums of a weight-only scheme) skips and says why.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from bitwright.datapath import Accumulator, Datapath, Overflow
from bitwright.formats import Format, Int, Rounding, pack, unpack
from bitwright.quantization import BySign
from bitwright.scheme import Scheme
from bitwright.testing.exact import exact_product
from bitwright.testing.levels import (
    allowed,
    codes_of,
    expected_values,
    far_levels,
    is_scalar,
    levels_between,
    neighbours,
)
from bitwright.testing.operands import Operands, extreme_bounds, largest_inputs, operands, resolve

DETERMINISTIC = tuple(r for r in Rounding if r is not Rounding.STOCHASTIC)
DRAWS = 4096
SHORT, RAGGED = 3, 67  # elements along K: sums that fit any register, and two blocks of 64 or less with a cut last one


class FormatContract:
    """Laws F1 to F5. Override the fixture `format`."""

    @pytest.fixture
    def format(self) -> Format:
        raise NotImplementedError(f"{type(self).__name__}: override the fixture `format`")

    @pytest.mark.parametrize("rounding", DETERMINISTIC)
    def test_encoding_a_decoded_value_returns_the_same_value(self, format: Format, rounding: Rounding) -> None:
        values = format.decode(codes_of(format, rounding))
        np.testing.assert_array_equal(format.decode(format.encode(values, rounding)), values)

    @pytest.mark.parametrize("rounding", DETERMINISTIC)
    def test_no_representable_value_is_nearer_and_ties_follow_the_rounding(
        self, format: Format, rounding: Rounding
    ) -> None:
        _require_scalar(format)
        lower, upper = neighbours(format)
        for level in levels_between(lower, upper):
            found = format.decode(format.encode(level, rounding))
            allowed = expected_values(format, level, lower, upper, rounding)
            wrong = ~np.any([found == a for a in allowed], axis=0)
            first = int(wrong.argmax())
            assert not wrong.any(), (
                f"{rounding}: {level[first]!r} between {lower[first]} and {upper[first]} became {found[first]}"
            )

    def test_stochastic_rounding_takes_one_of_two_neighbours_and_is_right_on_average(self, format: Format) -> None:
        _require_scalar(format)
        lower, upper = neighbours(format)
        pick = np.unique(np.linspace(0, len(lower) - 1, 12).astype(int))
        lower, upper = lower[pick, None], upper[pick, None]
        fraction = np.asarray([0.125, 0.25, 0.5, 0.75])[np.arange(len(pick)) % 4, None]
        level = lower + (upper - lower) * fraction
        is_exact = ((level - lower) == (upper - lower) * fraction)[:, 0]  # the widest integers leave no float between
        level, lower, upper, fraction = (a[is_exact] for a in (level, lower, upper, fraction))
        level = np.broadcast_to(level, (len(level), DRAWS))
        drawn = format.decode(format.encode(level, Rounding.STOCHASTIC, np.random.default_rng(0)))
        assert np.all((drawn == lower) | (drawn == upper))
        # the mean of n draws of probability p deviates by sqrt(p(1-p)/n); five of those miss once in a million
        frequency = (drawn == upper).mean(1, keepdims=True)
        assert np.all(np.abs(frequency - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / DRAWS))

    def test_stochastic_rounding_keeps_representable_values(self, format: Format) -> None:
        values = format.decode(codes_of(format))
        again = format.encode(values, Rounding.STOCHASTIC, np.random.default_rng(1))
        np.testing.assert_array_equal(format.decode(again), values)

    @pytest.mark.parametrize("rounding", DETERMINISTIC)
    def test_encoding_is_monotone(self, format: Format, rounding: Rounding) -> None:
        _require_scalar(format)
        lower, upper = neighbours(format)
        if rounding is Rounding.TOWARD_ZERO and np.any((lower < 0) & (upper > 0)):
            pytest.skip("without a zero there is nothing toward zero between its neighbours")
        levels = np.unique(np.concatenate([*levels_between(lower, upper), far_levels(format), -far_levels(format)]))
        assert np.all(np.diff(format.decode(format.encode(levels, rounding))) >= 0)

    @pytest.mark.parametrize("rounding", DETERMINISTIC)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_encoding_saturates(self, format: Format, rounding: Rounding, dtype: type) -> None:
        _require_scalar(format)
        far = far_levels(format)
        far = far[(far <= np.finfo(dtype).max) | np.isinf(far)].astype(dtype)
        far = far[np.abs(far) >= max(abs(format.bounds().lowest), format.bounds().highest)]
        assert set(format.decode(format.encode(far, rounding))) == {format.bounds().highest}
        assert set(format.decode(format.encode(-far, rounding))) == {format.bounds().lowest}

    def test_the_full_scale_is_a_positive_representable_value(self, format: Format) -> None:
        assert format.full_scale > 0
        if format.bounds().highest > 0:
            level = np.asarray([format.full_scale])
            np.testing.assert_array_equal(format.decode(format.encode(level)), level)

    def test_nan_has_no_code_and_its_index_is_named(self, format: Format) -> None:
        level = np.ones((3, 4))
        level[1, 2] = np.nan
        with pytest.raises(ValueError, match=r"\(1, 2\)"):
            format.encode(level)

    def test_codes_fit_in_bits_and_are_not_reserved(self, format: Format) -> None:
        reach = format.full_scale * np.linspace(-1.5, 1.5, 997)
        codes = format.encode(allowed(format, np.concatenate([reach, far_levels(format), -far_levels(format)])))
        assert codes.min() >= 0
        assert codes.max() < 2**format.bits
        assert not format.is_reserved(codes).any()

    def test_terms_and_elements_stay_in_bounds(self, format: Format) -> None:
        codes, bounds = codes_of(format), format.bounds()
        significand, exponent, source = format.terms(codes)
        assert np.abs(significand).max() <= bounds.significand
        assert np.isin(exponent, np.asarray(bounds.exponent)).all()
        lane = np.arange(source.shape[-1]) // bounds.per_lane
        assert np.all((lane - source >= 0) & (lane - source <= bounds.reach))
        elements = format.decode(codes)
        assert bounds.lowest <= elements.min()
        assert elements.max() <= bounds.highest

    def test_bounds_of_a_scalar_format_are_reached(self, format: Format) -> None:
        _require_scalar(format)
        elements = format.decode(codes_of(format))
        assert (elements.min(), elements.max()) == (format.bounds().lowest, format.bounds().highest)

    def test_every_element_is_a_multiple_of_the_unit(self, format: Format) -> None:
        units = np.ldexp(format.decode(codes_of(format)), -format.bounds().exponent.start)
        np.testing.assert_array_equal(units, np.rint(units))
        assert (min(units.min(), 0), units.max()) >= (min(format.bounds().units[0], 0), 0)

    def test_decoding_is_the_sum_of_terms(self, format: Format) -> None:
        codes = codes_of(format)
        significand, exponent, source = format.terms(codes)
        exact = [Fraction(0)] * len(codes)
        for s, e, lane in zip(significand.tolist(), exponent.tolist(), source.tolist()):
            exact[lane] += s * Fraction(2) ** e
        assert [Fraction(v) for v in format.decode(codes).tolist()] == exact

    @pytest.mark.parametrize("count", [1, 2, 5, 7, 32])
    def test_unpacking_packed_codes_returns_them(self, format: Format, count: int) -> None:
        codes = np.random.default_rng(count).integers(0, 2**format.bits, (3, count))
        packed = pack(codes, format.bits)
        assert packed.shape == (3, -(-count * format.bits // 8))
        np.testing.assert_array_equal(unpack(packed, format.bits, count), codes)

    def test_element_i_occupies_bits_from_i_times_bits_of_a_little_endian_row(self, format: Format) -> None:
        codes = np.random.default_rng(3).integers(0, 2**format.bits, 13)
        row = sum(code << (i * format.bits) for i, code in enumerate(codes.tolist()))
        assert int.from_bytes(pack(codes, format.bits).tobytes(), "little") == row


class SchemeContract:
    """Laws S1 and S5 to S8, for inputs with and without a sign. Override the fixture `scheme`."""

    @pytest.fixture(params=[True, False], ids=["signed", "unsigned"])
    def signed(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def scheme(self) -> Scheme:
        raise NotImplementedError(f"{type(self).__name__}: override the fixture `scheme`")

    def test_matmul_equals_the_exact_product_of_decoded_operands(self, scheme: Scheme, signed: bool) -> None:
        _require_input(scheme)
        compared = 0
        for k in (SHORT, RAGGED):
            both = _operands(scheme, k, signed)
            product = _multiply_or_none(scheme.datapath, both)
            if product is None or product.overflows:
                continue
            compared += 1
            exact, tolerance = exact_product(scheme.datapath, both)
            error = np.abs(np.vectorize(Fraction, otypes=[object])(product.values) - exact)
            assert np.all(error <= tolerance), f"k = {k}: {error.max()} off, {tolerance.max()} allowed"
        assert compared, "the sums of three products fit any sensible accumulator"

    def test_worst_case_inputs_do_not_overflow_a_register_of_certified_width(
        self, scheme: Scheme, signed: bool
    ) -> None:
        _require_input(scheme)
        for datapath, worst, weight in _worst_cases(scheme, signed, narrower=0):
            assert datapath.matmul(worst, weight).overflows == 0

    def test_worst_case_inputs_overflow_a_register_one_bit_narrower(self, scheme: Scheme, signed: bool) -> None:
        _require_input(scheme)
        for datapath, worst, weight in _worst_cases(scheme, signed, narrower=1):
            with pytest.raises(OverflowError):
                datapath.matmul(worst, weight)

    def test_a_register_narrower_than_the_certificate_is_refused(self, scheme: Scheme, signed: bool) -> None:
        _require_input(scheme)
        both = _operands(scheme, RAGGED, signed)
        certificate = scheme.datapath.certify(both.w, both.x.quantizer, extreme_bounds(both.x))
        _require_width(certificate.inner_bits)
        fits = replace(scheme.datapath, inner=Accumulator(Int(certificate.inner_bits)), outer=Accumulator())
        fits.require_fit(certificate)
        with pytest.raises(ValueError, match=f"{certificate.inner_bits}-bit inner"):
            replace(fits, inner=Accumulator(Int(certificate.inner_bits - 1))).require_fit(certificate)

    def test_the_examples_of_the_source_hold(self, scheme: Scheme) -> None:
        for example in scheme.examples:
            chosen = scheme.weight if example.operand == "weight" else scheme.input
            assert chosen is not None
            row = np.asarray([example.values])
            quantizer, ranges = resolve(chosen, row)
            represented = quantizer.quantize(row, ranges).decode()[0]
            # float32 scales are within 2**-24 of the source's reals, and two levels of them within twice that
            np.testing.assert_allclose(represented, example.represented, rtol=2.0**-23, atol=0, err_msg=example.source)

    def test_reading_what_a_scheme_prints_returns_the_scheme(self, scheme: Scheme) -> None:
        config = pytest.importorskip("bitwright.config", reason="this installation has no bitwright.config")
        assert config.from_text(repr(scheme)) == scheme

    def test_permuting_input_rows_permutes_results(self, scheme: Scheme, signed: bool) -> None:
        _require_input(scheme)
        both = _operands(scheme, RAGGED, signed)
        order = np.asarray([2, 3, 1, 0])
        permuted = both.x.quantizer.quantize(both.x_values[order], both.x_ranges)
        expected = scheme.datapath.matmul(both.x, both.w)
        found = scheme.datapath.matmul(permuted, both.w)
        np.testing.assert_array_equal(found.values, expected.values[order])
        assert found.overflows == expected.overflows

    def test_permuting_weight_rows_permutes_result_columns(self, scheme: Scheme, signed: bool) -> None:
        _require_input(scheme)
        both = _operands(scheme, RAGGED, signed)
        if any(1 < s.share.cell(*both.w.shape)[0] < 3 for s in both.w.quantizer.scales):
            pytest.skip("tiles of several rows share a scale, so their rows are not independent")
        order = np.asarray([2, 0, 1])
        w_ranges = _permuted_ranges(both.w_ranges, order)
        permuted = both.w.quantizer.quantize(both.w_values[order], w_ranges)
        expected = scheme.datapath.matmul(both.x, both.w).values[:, order]
        np.testing.assert_array_equal(scheme.datapath.matmul(both.x, permuted).values, expected)

    def test_a_row_alone_gives_the_same_results_as_among_others(self, scheme: Scheme, signed: bool) -> None:
        _require_input(scheme)
        both = _operands(scheme, RAGGED, signed)
        quantizer = both.x.quantizer
        if any(
            r is None and s.share.cell(4, RAGGED)[0] > 1 for r, s in zip(both.x_ranges, quantizer.scales, strict=True)
        ):
            pytest.skip("a dynamic scale that rows share depends on all of them")
        whole = scheme.datapath.matmul(both.x, both.w).values
        for i in range(4):
            alone = quantizer.quantize(both.x_values[i : i + 1], both.x_ranges)
            np.testing.assert_array_equal(scheme.datapath.matmul(alone, both.w).values, whole[i : i + 1])


def _require_scalar(format: Format) -> None:
    if not is_scalar(format):
        pytest.skip("a group format: what is nearest depends on the neighbours")


def _require_input(scheme: Scheme) -> None:
    if scheme.input is None:
        pytest.skip("weight-only: products are computed in float")


def _require_width(bits: int) -> None:
    if bits > 62:
        pytest.skip(f"the exact sum needs {bits} bits; Int has up to 62")


def _multiply_or_none(datapath: Datapath, both: Operands):
    try:
        return datapath.matmul(both.x, both.w)
    except OverflowError:
        return None


def _operands(scheme: Scheme, k: int, signed: bool) -> Operands:
    if not signed and not isinstance(scheme.input, BySign):
        pytest.skip("the scheme does not ask for the sign")
    return operands(scheme, rows=4, columns=3, k=k, signed_input=signed)


def _worst_cases(scheme: Scheme, signed: bool, *, narrower: int):
    """Datapaths with a register of the certified width less some bits, and the inputs that fill it."""
    for k in (SHORT, RAGGED):
        both = _operands(scheme, k, signed)
        if narrower and not is_scalar(both.x.quantizer.format):
            pytest.skip("a group format: not all elements are at an extreme at once")
        bounds = extreme_bounds(both.x)
        wide = replace(scheme.datapath, inner=Accumulator(), outer=scheme.datapath.outer)
        certificate = wide.certify(both.w, both.x.quantizer, bounds)
        _require_width(certificate.inner_bits)
        worst = largest_inputs(both, wide)
        inner = replace(wide, inner=Accumulator(Int(certificate.inner_bits - narrower)))
        if inner.outer.is_integer:
            inner = replace(inner, outer=Accumulator())
        yield inner, worst, both.w
        if certificate.outer_bits is not None and certificate.outer_bits <= 62:
            yield (
                replace(wide, outer=Accumulator(Int(certificate.outer_bits - narrower), Overflow.FORBID)),
                worst,
                both.w,
            )


def _permuted_ranges(ranges, order: np.ndarray):
    """Calibrated ranges for permuted rows: those that have one a row follow."""
    rows = len(order)
    return tuple(r if r is None or len(r.low) != rows else type(r)(r.low[order], r.high[order]) for r in ranges)
