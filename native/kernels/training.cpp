// The passes of a training step: to integers and back, and gradients in closed form. Compiled once for each
// instruction set, as LEVEL.
//
// Elementwise results are the reference's bit for bit. Sums have an order of their own, the same at every level and for
// any number of threads: terms in float32, added in float64 in 16 lanes over runs of 1024 elements (an element's lane is
// its place modulo 16), lanes pairwise, runs in order.
#include <cmath>
#include <cstring>
#include <vector>

#include "../training.hpp"
#include "bits.hpp"

namespace LEVEL {
namespace {

constexpr int64_t kLanes = 16;
constexpr double kHair = 1.0 + 0x1p-20;

template <class Float>
INLINE Float clip(Float x, Float low, Float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

struct Lanes {
    double of[kLanes] = {};
    INLINE double total() {
        for (int64_t half = kLanes / 2; half; half /= 2)
            for (int64_t j = 0; j < half; ++j) of[j] += of[j + half];
        return of[0];
    }
};

// Σ term(i) in the order of lanes; term gives a float or a double.
template <class Term>
INLINE double sum(int64_t count, Term term) {
    Lanes lanes;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (int64_t j = 0; j < kLanes; ++j) lanes.of[j] += static_cast<double>(term(i + j));
    for (int64_t j = 0; i + j < count; ++j) lanes.of[j] += static_cast<double>(term(i + j));
    return lanes.total();
}

struct Integers {
    float lowest, highest, unit, inverse;
    explicit Integers(const Straight& s)
        : lowest(s.lowest), highest(s.highest), unit(s.unit), inverse(1.0f / s.unit) {}
    INLINE float operator()(float level) const { return std::nearbyintf(clip(level * inverse, lowest, highest)) * unit; }
};

// What divides under a learned step: its range in float32, over the full scale.
float range_of(float step, float full_scale) {
    return static_cast<float>(static_cast<double>(step) * full_scale) / full_scale;
}

float positive_or_one(float scale) { return scale > 0.0f ? scale : 1.0f; }

INLINE int32_t write(
    const Straight& s, const float* __restrict x, float* __restrict out, int64_t count, float by, float inside,
    float outside) {
    const Integers value(s);
    const float least = s.least, most = s.most;
    int32_t is_clipped = 0, exponents = 0;
    if (!(by > 0.0f)) {
        for (int64_t i = 0; i < count; ++i) exponents |= (bits_of(x[i]) & 0x7f800000) == 0x7f800000;
        std::fill(out, out + count, 0.0f);
        return exponents ? kNotFinite | kClipped : kClipped;
    }
    for (int64_t i = 0; i < count; ++i) {
        const float level = x[i] / by;
        exponents |= (bits_of(x[i]) & 0x7f800000) == 0x7f800000;
        is_clipped |= (level < least) | (level > most);
        out[i] = value(level) * inside * outside;
    }
    return (exponents ? kNotFinite : 0) | (is_clipped ? kClipped : 0);
}

// Largest magnitude; of unsigned formats the largest value that is not negative.
INLINE float span_of(const float* x, int64_t count, bool is_signed) {
    int32_t largest = 0;
    if (is_signed) {
        for (int64_t i = 0; i < count; ++i) largest = std::max(largest, bits_of(x[i]) & 0x7fffffff);
    } else {  // negative numbers have the sign bit, so they are below all others as integers
        for (int64_t i = 0; i < count; ++i) largest = std::max(largest, bits_of(x[i]));
    }
    return float_of(largest);
}

// Consecutive blocks under one coarser scale; of kBlock elements, or of s.block where that is 0.
template <int64_t kBlock>
INLINE int32_t blocks_of(const Straight& s, const float* x, float* out, int64_t elements, float taken) {
    constexpr int64_t kChunk = 64;  // blocks whose scales are found together
    const int64_t block = kBlock ? kBlock : s.block;
    const bool is_integer = s.scale_highest > 0.0f;
    const float full_scale = s.full_scale, divisor = taken * full_scale, highest = s.scale_highest, unit = s.scale_unit;
    const float inverse = is_integer ? 1.0f / unit : 1.0f;
    float spans[kChunk], by[kChunk], inside[kChunk];
    int32_t found = 0;
    for (int64_t start = 0; start < elements; start += kChunk * block) {
        const int64_t here = std::min(kChunk * block, elements - start), whole = here / block;
        const int64_t count = (here + block - 1) / block;
        const float* from = x + start;
        float* to = out + start;
        for (int64_t b = 0; b < whole; ++b) spans[b] = span_of(from + b * block, kBlock ? kBlock : block, s.is_signed);
        for (int64_t b = whole; b < count; ++b) spans[b] = span_of(from + b * block, here - b * block, s.is_signed);
        for (int64_t b = 0; b < count; ++b) {
            const float ideal = divisor > 0.0f ? spans[b] / divisor : 0.0f;
            inside[b] = is_integer ? std::nearbyintf(clip(ideal * inverse, 0.0f, highest)) * unit : ideal;
            by[b] = spans[b] / full_scale;
        }
        for (int64_t b = 0; b < whole; ++b)
            found |= write(s, from + b * block, to + b * block, kBlock ? kBlock : block, by[b], inside[b], taken);
        for (int64_t b = whole; b < count; ++b)
            found |= write(s, from + b * block, to + b * block, here - b * block, by[b], inside[b], taken);
    }
    return found;
}

float coarse_of(const Straight& s, int64_t row) {
    if (s.has_dynamic_rows) return span_of(s.x + row * s.k, s.k, s.is_signed) / s.coarse_divisor;
    return s.scales ? s.scales[s.scale_rows == 1 ? 0 : row] : 1.0f;
}

int32_t forward(const Straight& s, int64_t first, int64_t last) {
    const bool is_one = is_one_run(s);
    const int64_t length = is_one ? kRun : s.k, all = s.rows * s.k;
    if (is_one && s.follows) {  // whole blocks, of which a part may be a thread's
        const int64_t from = std::min((first * kRun + s.block - 1) / s.block * s.block, all);
        const int64_t to = last * kRun >= all ? all : (last * kRun + s.block - 1) / s.block * s.block;
        const float taken = coarse_of(s, 0);
        if (s.block == 16) return blocks_of<16>(s, s.x + from, s.out + from, to - from, taken);
        if (s.block == 32) return blocks_of<32>(s, s.x + from, s.out + from, to - from, taken);
        return blocks_of<0>(s, s.x + from, s.out + from, to - from, taken);
    }
    int32_t found = 0;
    for (int64_t unit = first; unit < last; ++unit) {
        const float* x = s.x + unit * length;
        float* out = s.out + unit * length;
        const int64_t count = std::min(length, all - unit * length);
        if (s.follows) {
            const float taken = coarse_of(s, unit);
            found |= s.block == 16 ? blocks_of<16>(s, x, out, count, taken) : blocks_of<0>(s, x, out, count, taken);
            continue;
        }
        const float given = s.scales[s.scale_rows == 1 ? 0 : unit];
        if (s.is_learned && !(given > 0.0f)) return kNotPositive;
        const float by = s.is_learned ? range_of(given, s.full_scale) : given;
        found |= write(s, x, out, count, by, 1.0f, by);
    }
    return found;
}

// The gradient of x, and the sum over a run of what the scale's gradient is made of.
template <class Element>
INLINE double pass_run(
    const Straight& s, const float* __restrict x, const float* __restrict gradient, float* __restrict out, int64_t count,
    float scale, float zero, Element element, bool sums) {
    const float least = s.least, most = s.most;
    if (!sums) {
        for (int64_t i = 0; i < count; ++i) {
            const float level = x[i] / scale + zero;
            out[i] = (level >= least) & (level <= most) ? gradient[i] : 0.0f;
        }
        return 0.0;
    }
    float terms[kRun];
    if (out) {
        for (int64_t i = 0; i < count; ++i) {
            const float level = x[i] / scale;
            const bool is_open = (level >= least) & (level <= most);
            out[i] = is_open ? gradient[i] : 0.0f;
            terms[i] = gradient[i] * (element(i, level) - (is_open ? level : 0.0f));
        }
    } else {
        for (int64_t i = 0; i < count; ++i) {
            const float level = x[i] / scale;
            const bool is_open = (level >= least) & (level <= most);
            terms[i] = gradient[i] * (element(i, level) - (is_open ? level : 0.0f));
        }
    }
    return sum(count, [&](int64_t i) { return terms[i]; });
}

INLINE double pass(
    const Straight& s, int64_t start, int64_t count, float scale, float zero, const float* elements, bool sums) {
    const float *x = s.x + start, *gradient = s.gradient + start;
    float* out = s.out ? s.out + start : nullptr;
    const Integers value(s);
    const float by = s.is_learned ? range_of(scale, s.full_scale) : scale;
    double total = 0.0;
    for (int64_t i = 0; i < count; i += kRun) {
        const int64_t here = std::min(kRun, count - i);
        float* to = out ? out + i : nullptr;
        const auto with = [&](auto element) {
            return pass_run(s, x + i, gradient + i, to, here, scale, zero, element, sums);
        };
        if (elements) {
            total += with([=](int64_t j, float) { return elements[i + j]; });
        } else if (by == scale) {
            total += with([=](int64_t, float level) { return value(level); });
        } else {
            total += with([=](int64_t j, float) { return value(x[i + j] / by); });
        }
    }
    return total;
}

void backward(const Straight& s, int64_t first, int64_t last, double* found) {
    const bool is_one = is_one_run(s), sums = s.of_scale;
    const int64_t length = is_one ? kRun : s.k, all = s.rows * s.k;
    if (s.follows && is_one) {
        const int64_t from = std::min((first * kRun + s.block - 1) / s.block * s.block, all);
        const int64_t to = last * kRun >= all ? all : (last * kRun + s.block - 1) / s.block * s.block;
        for (int64_t b = from; b < to; b += s.block)
            pass(s, b, s.block, positive_or_one(span_of(s.x + b, s.block, s.is_signed) / s.full_scale), 0.0f, nullptr, false);
        return;
    }
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t start = unit * length, count = std::min(length, all - start);
        const int64_t row = s.scale_rows == 1 ? 0 : unit;
        const float zero = s.zero ? s.zero[row] : 0.0f;
        const float* elements = s.elements ? s.elements + (is_one ? start : unit * s.pitch) : nullptr;
        if (s.follows || s.scale_columns > 1) {
            for (int64_t b = 0; b < count; b += s.block) {
                const int64_t size = std::min(s.block, count - b);
                const float scale = s.follows ? span_of(s.x + start + b, size, s.is_signed) / s.full_scale
                                              : s.scales[row * s.scale_columns + b / s.block];
                pass(s, start + b, size, positive_or_one(scale), zero, nullptr, false);
            }
            continue;
        }
        const double total = pass(s, start, count, positive_or_one(s.scales[row]), zero, elements, sums);
        if (sums) found[unit] = total;
    }
}

// One tile: levels, and what they are made of.
struct Tile {
    const float* v;
    int64_t count;
    double mean, norm, slope;
    bool is_free;
    INLINE Tile(const Norms& n, int64_t row, int64_t tile) {
        const int64_t start = tile * n.tile, tiles = (n.k + n.tile - 1) / n.tile;
        v = n.v + row * n.k + start;
        count = std::min(n.tile, n.k - start);
        const float* from = v;
        mean = n.is_centred ? sum(count, [=](int64_t i) { return from[i]; }) / static_cast<double>(count) : 0.0;
        const double middle = mean;
        norm = sum(count, [=](int64_t i) { return std::fabs(static_cast<double>(from[i]) - middle); });
        const double free = n.norm[row * tiles + tile] / n.scale[row];
        slope = norm > 0.0 ? std::min(free, n.bound) / norm : 0.0;
        is_free = free <= n.bound;
    }
    INLINE double at(int64_t i) const { return static_cast<double>(v[i]) - mean; }
};

int32_t forward_norms(const Norms& n, int64_t first, int64_t last) {
    const int64_t tiles = (n.k + n.tile - 1) / n.tile;
    for (int64_t row = first; row < last; ++row) {
        for (int64_t t = 0; t < tiles; ++t) {
            const Tile tile(n, row, t);
            float* out = n.out + row * n.k + t * n.tile;
            const double largest = n.largest, slope = tile.slope;
            const float stored = n.stored[row];
            double above = 0.0, below = 0.0;  // sums of integers: exact in any order
            for (int64_t i = 0; i < tile.count; ++i) {
                const double whole = clip(std::trunc(tile.at(i) * slope * kHair), -largest, largest);
                above += whole > 0.0 ? whole : 0.0;
                below += whole < 0.0 ? whole : 0.0;
                out[i] = static_cast<float>(whole) * stored;
            }
            if (n.is_centred ? above > n.limit || -below > n.limit : above - below > n.limit) return kTooLong;
        }
    }
    return 0;
}

void backward_norms(const Norms& n, int64_t first, int64_t last) {
    const int64_t tiles = (n.k + n.tile - 1) / n.tile;
    const double largest = n.largest, log2 = std::log(2.0);
    std::vector<double> of_v(std::min(n.tile, n.k));
    for (int64_t row = first; row < last; ++row) {
        const double stored = n.stored[row], unit = log2 * stored;
        double of_scale = 0.0;
        for (int64_t t = 0; t < tiles; ++t) {
            const Tile tile(n, row, t);
            const float* gradient = n.gradient + row * n.k + t * n.tile;
            float* out = n.out + row * n.k + t * n.tile;
            const double slope = tile.slope;
            const auto whole = [&](int64_t i) { return std::trunc(tile.at(i) * slope * kHair); };
            const auto through = [&](int64_t i) {
                return std::fabs(whole(i)) <= largest ? static_cast<double>(gradient[i]) : 0.0;
            };
            const auto clipped = [&](int64_t i) { return gradient[i] * clip(whole(i), -largest, largest); };
            const double total = sum(tile.count, clipped);
            const double product = sum(tile.count, [&](int64_t i) { return through(i) * tile.at(i); });
            const double along = tile.norm > 0.0 ? product / tile.norm : 0.0;
            const double of_norm =
                tile.is_free ? sum(tile.count, [&](int64_t i) { return through(i) * (tile.at(i) * slope); }) : 0.0;
            for (int64_t i = 0; i < tile.count; ++i) {
                const double v = tile.at(i), sign = (v > 0.0) - (v < 0.0);
                of_v[i] = (tile.norm > 0.0 ? slope * (through(i) - sign * along) : through(i)) * stored;
            }
            const double mean =
                n.is_centred ? sum(tile.count, [&](int64_t i) { return of_v[i]; }) / static_cast<double>(tile.count) : 0.0;
            for (int64_t i = 0; i < tile.count; ++i) out[i] = static_cast<float>(of_v[i] - mean);
            n.of_norm[row * tiles + t] = static_cast<float>(of_norm * unit);
            of_scale += (total - of_norm) * unit;
        }
        n.of_scale[row] = static_cast<float>(of_scale);
    }
}

}  // namespace

extern const StraightForward straight_forward = forward;
extern const StraightBackward straight_backward = backward;
extern const NormsForward norms_forward = forward_norms;
extern const NormsBackward norms_backward = backward_norms;

}  // namespace LEVEL
