// What becomes of the sum of a tile on its way. Included inside a file of kernels.
#pragma once
#include "slots.hpp"

namespace LEVEL {
namespace {

// Each takes slots of two products in `step`, and says in `leave` what the tile's sum is. Sums that overflow changed, or of
// `Watches` those that left the register, are counted down in `changed`.
struct Limits {
    Ints low, high;
    explicit Limits(const Products& p)
        : low(all(static_cast<int32_t>(p.inner_low * (1 << p.spare_bits)))),
          high(all(static_cast<int32_t>(p.inner_high * (1 << p.spare_bits)))) {}
};

struct Saturates {
    Limits limits;
    struct State {
        Ints sum, exact;
    };
    INLINE void step(State& s, int32_t x, Ints w) const {
        for (const int32_t half : {x & 0xffff, x & ~0xffff}) {
            const Ints product = pairs(all(half), w);
            s.sum = smaller(larger(s.sum + product, limits.low), limits.high);
            s.exact += product;
        }
    }
    INLINE Ints leave(const State& s, Ints& changed) const {
        changed += s.sum != s.exact;
        return s.sum;
    }
};

// Of a power of two values.
struct Wraps {
    Limits limits;
    int32_t spare;  // the bits
    struct State {
        Ints sum;
    };
    INLINE void step(State& s, int32_t x, Ints w) const { s.sum += pairs(all(x), w); }
    INLINE Ints leave(const State& s, Ints& changed) const {
        const Ints mask = difference_of(limits.high, limits.low) | spare;
        const Ints held = sum_of(difference_of(s.sum, limits.low) & mask, limits.low);
        changed += held != s.sum;
        return held;
    }
};

struct Watches {
    Limits limits;
    struct State {
        Ints sum, is_outside;
    };
    INLINE void step(State& s, int32_t x, Ints w) const {
        for (const int32_t half : {x & 0xffff, x & ~0xffff}) {
            s.sum += pairs(all(half), w);
            s.is_outside |= (s.sum < limits.low) | (s.sum > limits.high);
        }
    }
    INLINE Ints leave(const State& s, Ints& changed) const {
        changed += s.is_outside;
        return s.sum;
    }
};

#ifdef __AVX512BW__
constexpr int kSteppedRows = 4;
#else
constexpr int kSteppedRows = 2;
#endif

// Rows of x meet a panel: `tiles` of `slots` each. Returns how many sums were changed.
template <class Inner, class Register>
int64_t meet_stepped(
    const Inner& inner, const Register& at, const int32_t* x, const int32_t* w, int64_t tiles, int64_t slots,
    typename Register::Total* totals, int64_t pitch) {
    Ints changed = {};
    for (int64_t t = 0; t < tiles; ++t, x += slots, w += slots * kWidth)
        for (int first = 0; first < kRows; first += kSteppedRows) {
            typename Inner::State state[kSteppedRows][kVectors] = {};
            for (int64_t j = 0; j < slots; ++j)
                for (int r = 0; r < kSteppedRows; ++r)
                    for (int c = 0; c < kVectors; ++c)
                        inner.step(state[r][c], x[(first + r) * kPitch + j], load<Ints>(w + j * kWidth + c * kLanes));
            for (int r = 0; r < kSteppedRows; ++r)
                for (int c = 0; c < kVectors; ++c) {
                    auto* total = totals + (first + r) * pitch + c * kLanes;
                    const auto before = load<typename Register::Lanes>(total);
                    store(total, at.add(before, inner.leave(state[r][c], changed), first + r, c, t));
                }
        }
    int64_t count = 0;
    for (int i = 0; i < kLanes; ++i) count -= changed[i];
    return count;
}

}  // namespace
}  // namespace LEVEL
