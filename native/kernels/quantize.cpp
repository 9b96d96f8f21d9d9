// Fake quantization in one pass, at the speed of memory. Compiled once for each instruction set, as LEVEL.
#include "ladder.hpp"
#include "levels.hpp"
#include "scales.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kShortRow = 256;  // below, a row's own thresholds cost more than they save
constexpr int32_t kDone = 0, kNotFinite = 1, kUnknown = -1;

// What a value times the scale inside is multiplied by: nothing, or the scales outside, in float32 where that holds them.
struct Once {
    float operator()(float scaled) const { return scaled; }
};
struct Narrow {
    float outside;
    float operator()(float scaled) const { return scaled * outside; }
};
struct Wide {
    double outside;
    float operator()(float scaled) const { return static_cast<float>(static_cast<double>(scaled) * outside); }
};

struct Factor {
    double outside;
    bool is_decoded, is_narrow;
    explicit Factor(const double* p)
        : outside(p ? *p : 1.0), is_decoded(p), is_narrow(static_cast<double>(static_cast<float>(outside)) == outside) {}
};

template <class Level, class Value, class Product>
INLINE void fill(const float* x, float* out, int64_t count, Level level, Value value, float inside, Product product) {
#pragma GCC ivdep
    for (int64_t i = 0; i < count; ++i) out[i] = product(value(level(x[i])) * inside);
}

// A block or a run of any scale.
template <class Value>
void write(const float* x, float* out, int64_t count, float by, const Value& value, float inside, Factor factor) {
    inside = factor.is_decoded ? inside : 1.0f;
    if (!(by > 0.0f)) {
        std::fill(out, out + count, 0.0f);
    } else if (factor.is_narrow) {
        fill(x, out, count, Divided{by}, value, inside, Narrow{static_cast<float>(factor.outside)});
    } else {
        fill(x, out, count, Divided{by}, value, inside, Wide{factor.outside});
    }
}

// Rows under one scale each, or all under one, in runs that stay in the first cache between the check and the work.
template <class MakeRow>
int32_t rows_of(const Quantization& q, int64_t first, int64_t last, MakeRow make) {
    constexpr int64_t kRun = 1024;
    const bool is_shared = q.coarse_rows == 1 && q.pitch == q.k;
    const int64_t runs = is_shared ? 1 : last - first, length = is_shared ? (last - first) * q.k : q.k;
    for (int64_t run = 0; run < runs; ++run) {
        const int64_t row = first + run, coarse = q.coarse_rows == 1 ? 0 : row;
        const float* x = q.x + row * q.k;
        float* out = q.out + row * q.pitch;
        const auto fill_run = make(coarse, q.coarse[coarse], Factor(q.outside ? q.outside + coarse : nullptr));
        for (int64_t start = 0; start < length; start += kRun) {
            const int64_t count = std::min(kRun, length - start);
            const int32_t largest = largest_bits(x + start, count);
            if (!is_finite(largest)) return kNotFinite;
            fill_run(x + start, out + start, count, float_of(largest));
        }
        if (!is_shared) std::fill(out + q.k, out + q.pitch, 0.0f);
    }
    return kDone;
}

template <class MakeValue>
int32_t rows_of(const Quantization& q, int64_t first, int64_t last, float least, MakeValue make) {
    return rows_of(q, first, last, [&](int64_t coarse, float by, Factor factor) {
        const auto value = make(coarse);
        const float inverse = 1.0f / by, outside = static_cast<float>(factor.outside);
        return [=](const float* x, float* out, int64_t count, float largest) {
            if (!kHasFma || !factor.is_narrow || !is_plain(by, inverse, largest, least))
                return write(x, out, count, by, value, 1.0f, factor);
            const Refined refined{by, inverse};
            if constexpr (Unclipped<decltype(value)>::kExists)
                if (is_below(largest * inverse, value.limit))
                    return fill(x, out, count, refined, Unclipped<decltype(value)>{value}, outside, Once{});
            fill(x, out, count, refined, value, outside, Once{});
        };
    });
}

#if defined(__AVX2__)
int32_t rows_of_table(const Quantization& q, int64_t first, int64_t last) {
    const Symmetric<7> table(q.element);
    return rows_of(q, first, last, [&](int64_t, float by, Factor factor) {
        const Ladder ladder(table, by > 0.0f ? by : 1.0f, by > 0.0f ? factor.outside : 0.0);
        return [=](const float* x, float* out, int64_t count, float) {
            ladder.fill(x, out, count);
        };
    });
}
#endif

template <int64_t kBlock, class LevelOf, class Value, class Product>
INLINE void fill_blocks(
    const float* x, float* out, int64_t elements, int64_t block, LevelOf level_of, Value value, const float* inside,
    Product product) {
    const int64_t whole = elements / block;
    for (int64_t b = 0; b < whole; ++b)
        fill(x + b * block, out + b * block, kBlock ? kBlock : block, level_of(b), value, inside[b], product);
    if (const int64_t rest = elements - whole * block)
        fill(x + whole * block, out + whole * block, rest, level_of(whole), value, inside[whole], product);
}

// Blocks whose scales come from their own largest magnitudes; of kBlock elements, or of q.block where that is 0.
template <int64_t kBlock, class Value>
int32_t blocks_of(const Quantization& q, int64_t first, int64_t last, float least, const Value& value) {
    const int64_t block = kBlock ? kBlock : q.block, blocks = (q.k + block - 1) / block;
    Chunk chunk;
    for (int64_t row = first; row < last; ++row) {
        const int64_t coarse = q.coarse_rows == 1 ? 0 : row;
        const Factor factor(q.outside ? q.outside + coarse : nullptr);
        const Narrow narrow{static_cast<float>(factor.outside)};
        for (int64_t start = 0; start < q.k; start += kChunk * block) {
            const int64_t elements = std::min(kChunk * block, q.k - start), count = (elements + block - 1) / block;
            const float* x = q.x + row * q.k + start;
            float* out = q.out + row * q.pitch + start;
            const int32_t largest = find_spans<kBlock>(x, elements, block, q.is_signed, chunk.spans);
            if (!is_finite(largest)) return kNotFinite;
            if (!find_scales(q, count, q.coarse[coarse], chunk)) return kUnknown;
            if (q.inside) std::copy(chunk.inside, chunk.inside + count, q.inside + row * blocks + start / block);
            const float* inside = factor.is_decoded ? chunk.inside : chunk.ones;
            const Kinds is = kinds_of(chunk, count, float_of(largest), least);
            const auto shrunk = [&](int64_t b) { return Shrunk{chunk.inverse[b]}; };
            const auto refined = [&](int64_t b) { return Refined{chunk.by[b], chunk.inverse[b]}; };
            if (is.shrunk && factor.outside == 1.0) {
                fill_blocks<kBlock>(x, out, elements, block, shrunk, value, inside, Once{});
            } else if (is.plain && factor.is_narrow) {
                if constexpr (Unclipped<Value>::kExists) {
                    if (is_below(is.largest_level, value.limit)) {
                        fill_blocks<kBlock>(x, out, elements, block, refined, Unclipped<Value>{value}, inside, narrow);
                        continue;
                    }
                }
                fill_blocks<kBlock>(x, out, elements, block, refined, value, inside, narrow);
            } else {
                for (int64_t b = 0; b < count; ++b)
                    write(x + b * block, out + b * block, std::min(block, elements - b * block), chunk.by[b], value,
                          inside[b], factor);
            }
        }
        std::fill(q.out + row * q.pitch + q.k, q.out + (row + 1) * q.pitch, 0.0f);
    }
    return kDone;
}

template <class Value>
int32_t with(const Quantization& q, int64_t first, int64_t last, const Value& value, float least) {
    if (q.block) return blocks_of<0>(q, first, last, least, value);
    return rows_of(q, first, last, least, [&](int64_t) { return value; });
}

// The same with loops of fixed length for the blocks that are common.
template <class Value>
int32_t with_common_blocks(const Quantization& q, int64_t first, int64_t last, const Value& value) {
    const float least = least_of(q.element);
    if (q.block == 16) return blocks_of<16>(q, first, last, least, value);
    if (q.block == 32) return blocks_of<32>(q, first, last, least, value);
    return with(q, first, last, value, least);
}

template <template <class> class Values>
int32_t with_rounding(const Quantization& q, int64_t first, int64_t last) {
    const float never = 0.0f;  // directed roundings look at the smallest levels as well
    switch (q.element.rounding) {
        case 0: return with_common_blocks(q, first, last, Values<NearestEven>(q.element));
        case 1: return with(q, first, last, Values<NearestUp>(q.element), never);
        case 2: return with(q, first, last, Values<NearestAway>(q.element), never);
        case 3: return with(q, first, last, Values<NearestZero>(q.element), never);
        case 4: return with(q, first, last, Values<Floor>(q.element), never);
        case 5: return with(q, first, last, Values<Ceiling>(q.element), never);
        case 6: return with(q, first, last, Values<TowardZero>(q.element), never);
        default: return kUnknown;
    }
}

int32_t any(const Quantization& q, int64_t first, int64_t last) {
    const Format& element = q.element;
    if (q.zero)
        return rows_of(q, first, last, 0.5f, [&](int64_t row) { return Shifted{element.lowest, element.highest, q.zero[row]}; });
    switch (element.kind) {
        case 1:
            if (element.rounding == 0 && element.unit == 1.0f) return with_common_blocks(q, first, last, Whole(element));
            return with_rounding<Integers>(q, first, last);
        case 2: return with_rounding<Floats>(q, first, last);
        case 3:
#if defined(__AVX2__)
            if (!q.block && element.count <= 7 && q.k >= kShortRow) return rows_of_table(q, first, last);
#endif
            if (element.count <= 7) return with_common_blocks(q, first, last, Symmetric<7>(element));
            return with(q, first, last, Symmetric<16>(element), element.thresholds[0]);
        default: return kUnknown;
    }
}

void spans_of_rows(const float* x, int64_t k, int32_t is_signed, float* spans, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) find_spans<0>(x + row * k, k, k, is_signed, spans + row);
}

}  // namespace

extern const Quantize quantize = any;
extern const RowSpans row_spans = spans_of_rows;

}  // namespace LEVEL
