// Rows of a matrix divided by their scales, one after the other. Included inside a file of kernels.
#pragma once
#include <algorithm>

#include "../groups.hpp"
#include "rounding.hpp"

namespace LEVEL {
namespace {

constexpr int32_t kDone = 0, kNotFinite = 1, kNegative = 2, kUnknown = -1;

template <class Call>
int32_t with_rounding(int32_t rounding, Call call) {
    switch (rounding) {
        case 0: return call(NearestEven());
        case 1: return call(NearestUp());
        case 2: return call(NearestAway());
        case 3: return call(NearestZero());
        case 4: return call(Floor());
        case 5: return call(Ceiling());
        case 6: return call(TowardZero());
        default: return kUnknown;
    }
}

// Levels, and whether an x is not finite or a level negative; of kCount elements, or of count where that is 0.
template <int kCount>
INLINE void divide(const float* x, float* __restrict levels, int64_t count, float by, int32_t& bad, int32_t& negative) {
    int32_t odd = 0, below = 0;
    for (int64_t i = 0; i < (kCount ? kCount : count); ++i) {
        const float level = x[i] / by;
        odd |= (bits_of(x[i]) & 0x7f800000) == 0x7f800000 ? 1 : 0;
        below |= level < 0.0f ? 1 : 0;
        levels[i] = level;
    }
    bad |= odd, negative |= below;
}

// Calls work(x, out, by, factor, bad, negative) on each row.
template <class Work>
int32_t each_row(const Matrix& m, bool is_signed, int64_t first, int64_t last, Work work) {
    int32_t bad = 0, negative = 0;
    for (int64_t r = first; r < last; ++r) {
        const int64_t scale = m.scale_rows == 1 ? 0 : r;
        const float* x = m.x + r * m.k;
        float* out = m.out + r * m.k;
        const float by = m.by[scale];
        const double outside = m.outside ? m.outside[scale] : 1.0;
        const bool is_narrow = static_cast<double>(static_cast<float>(outside)) == outside;
        if (by > 0.0f) {
            work(x, out, by, is_narrow ? static_cast<float>(outside) : 1.0f, bad, negative);
            for (int64_t i = 0; !is_narrow && i < m.k; ++i) out[i] = static_cast<float>(static_cast<double>(out[i]) * outside);
        } else {
            for (int64_t i = 0; i < m.k; ++i) bad |= (bits_of(x[i]) & 0x7f800000) == 0x7f800000;
            std::fill(out, out + m.k, 0.0f);
        }
        if (bad) return kNotFinite;
        if (negative && !is_signed) return kNegative;
    }
    return kDone;
}

}  // namespace
}  // namespace LEVEL
