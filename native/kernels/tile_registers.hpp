// Registers that tiles' sums enter. Included inside a file of kernels.
#pragma once
#include "slots.hpp"

namespace LEVEL {
namespace {

// Registers: a tile's sum enters in `add`; r, c and t are its row, vector and tile.
struct Clipped {
    using Lanes = Ints;
    using Total = int32_t;
    Ints low, high;
    INLINE Ints add(Ints total, Ints sum, int, int, int64_t) const { return smaller(larger(total + sum, low), high); }
};

// Left by no sum.
struct Added {
    using Lanes = Ints;
    using Total = int32_t;
    INLINE Ints add(Ints total, Ints sum, int, int, int64_t) const { return total + sum; }
};

// Odd once a sum was outside: low, high and sums are even.
struct Marked {
    using Lanes = Ints;
    using Total = int32_t;
    Ints low, high;
    INLINE Ints add(Ints total, Ints sum, int, int, int64_t) const {
        const Ints next = total + sum, even = next & ~1;
        return next | (((even < low) | (even > high)) & 1);
    }
};

struct Scaled {
    using Lanes = Floats;
    using Total = float;
    const float* x;
    const int32_t* w;
    int64_t pitch;
    INLINE Floats add(Floats total, Ints sum, int r, int c, int64_t t) const {
        return total + to_floats(sum) * (all(x[r * pitch + t]) * load<Floats>(w + t * kWidth + c * kLanes));
    }
};

// Scales are integers whose products float32 holds.
template <bool kClips>
struct ScaledInts {
    using Lanes = Ints;
    using Total = int32_t;
    const float* x;
    const int32_t* w;
    int64_t pitch;
    int32_t shift;
    Ints up, odd, most, low, high;
    ScaledInts(const Products& p, const float* xs, const int32_t* ws, int64_t tiles)
        : x(xs), w(ws), pitch(tiles), shift(p.shift), up(all(p.up)), odd(all(p.odd)), most(all(p.most)),
          low(all(lowest_of(p))), high(all(highest_of(p))) {}
    INLINE Ints add(Ints total, Ints sum, int r, int c, int64_t t) const {
        const Ints product = to_ints(all(x[r * pitch + t]) * load<Floats>(w + t * kWidth + c * kLanes));
        const Ints next = total + sum * smaller((product + up + ((product >> shift) & odd)) >> shift, most);
        return kClips ? smaller(larger(next, low), high) : next;
    }
};

// To nearest, ties to even: adding a number whose last bit is the step rounds to the step.
struct Nearest {
    Floats smallest, to_magic, highest;
    INLINE Floats operator()(Floats value) const {
        const Floats magic = larger((Floats)((Ints)value & 0x7f800000), smallest) * to_magic;
        return larger(smaller((value + magic) - magic, highest), -highest);
    }
};

struct TowardZero {
    Ints kept;
    Floats highest;
    INLINE Floats operator()(Floats value) const {
        return larger(smaller((Floats)((Ints)value & kept), highest), -highest);
    }
};

template <class Round, bool kTwice>
struct Narrow {
    using Lanes = Floats;
    using Total = float;
    Round round;
    INLINE Floats add(Floats total, Ints sum, int, int, int64_t) const {
        return round(total + (kTwice ? round(to_floats(sum)) : to_floats(sum)));
    }
};

}  // namespace
}  // namespace LEVEL
