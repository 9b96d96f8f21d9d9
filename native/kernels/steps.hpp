// Vectors of sums that take one product after the other. Included inside a file of kernels.
#pragma once
#include "slots.hpp"

namespace LEVEL {
namespace {

// Vectors of sums of a few rows and a panel, to which the sums of a chunk were added that may have to be stepped.
struct Tile {
    const int32_t *slots, *x, *w;  // of the chunk; x as steps want them
    int32_t *totals, *errors;
    int64_t pitch;
    Ints sum[kRows * kVectors];
    template <class Step>
    INLINE void move(int64_t count) {
        slots += count, x += count * Step::kWords, w += count * kWidth;
    }
    INLINE int32_t* total(int64_t r, int64_t c) const { return totals + r * pitch + c * kLanes; }
    INLINE int32_t* error(int64_t r, int64_t c) const { return errors + r * pitch + c * kLanes; }
};

// Spare bits below clipped sums are of no meaning.
INLINE void add_error(Ints total, Ints exact, int32_t spare, int32_t* error) {
    store(error, sum_of(load<Ints>(error), difference_of(total >> spare, exact >> spare)));
}

// Both ends by a minimum and a maximum. A slot's two products are made apart from each other.
struct Clipping {
    static constexpr int kWords = 2;  // of x, a slot
    static constexpr int kMany = kRows * kVectors / 4;  // vectors from which on it is faster to step all of a tile
    struct State {
        Ints total;
    };
    Ints low, high;
    int32_t spare;
    explicit Clipping(const Products& p) : low(all(lowest_of(p))), high(all(highest_of(p))), spare(p.spare_bits) {}
    void fill(const int32_t* slots, int64_t count, int32_t* words) const {
        for (int64_t i = 0; i < count; ++i) words[2 * i] = slots[i] & 0xffff, words[2 * i + 1] = slots[i] & ~0xffff;
    }
    INLINE State enter(Ints total) const { return {total}; }
    INLINE void add(State& s, const int32_t* x, Ints w) const {
        for (int i = 0; i < 2; ++i) s.total = smaller(larger(s.total + pairs(all(x[i]), w), low), high);
    }
    // What saturation took is counted once all is added.
    INLINE int64_t leave(const State& s, Ints exact, int32_t* error, Ints& total) const {
        total = s.total;
        add_error(total, exact, spare, error);
        return 0;
    }
};

#ifdef __AVX512BW__
// The processor's own saturation at 32 bits, where x is shifted so far that the register's ends are those.
struct Saturating {
    static constexpr int kWords = 1, kMany = kRows * kVectors / 8;
    struct State {
        Ints total;
    };
    int32_t shift, spare;
    explicit Saturating(const Products& p) : shift(p.x_shift), spare(p.spare_bits) {}
    void fill(const int32_t* slots, int64_t count, int32_t* words) const {
        const uint32_t of_low = ((1u << shift) - 1) << 16;  // what a slot's lower half would push into its upper one
        for (int64_t i = 0; i < count; ++i) words[i] = static_cast<int32_t>(static_cast<uint32_t>(slots[i]) << shift & ~of_low);
    }
    INLINE State enter(Ints total) const { return {total << shift}; }
    INLINE void add(State& s, const int32_t* x, Ints w) const {
        const Ints a = all(x[0]);
        s.total = dot(s.total, a & 0xffff, w);
        s.total = dot(s.total, a & ~0xffff, w);
    }
    INLINE int64_t leave(const State& s, Ints exact, int32_t* error, Ints& total) const {
        total = s.total >> shift;
        add_error(total, exact, spare, error);
        return 0;
    }
    // By its name: the level is compiled for processors without it, too.
    INLINE static Ints dot(Ints total, Ints a, Ints b) {
        asm("vpdpwssds %2, %1, %0" : "+v"(total) : "v"(a), "v"(b));
        return total;
    }
};
#endif

// Nothing is clipped: how many sums left the register on their way.
struct Watching {
    static constexpr int kWords = 2, kMany = kRows * kVectors;
    struct State {
        Ints total, lowest, highest;
    };
    Clipping clipping;
    explicit Watching(const Products& p) : clipping(p) {}
    void fill(const int32_t* slots, int64_t count, int32_t* words) const { clipping.fill(slots, count, words); }
    INLINE State enter(Ints total) const { return {total, total, total}; }
    INLINE void add(State& s, const int32_t* x, Ints w) const {
        for (int i = 0; i < 2; ++i) {
            s.total = s.total + pairs(all(x[i]), w);
            s.lowest = smaller(s.lowest, s.total), s.highest = larger(s.highest, s.total);
        }
    }
    INLINE int64_t leave(const State& s, Ints, int32_t*, Ints& total) const {
        total = s.total;
        int64_t count = 0;
        for (int i = 0; i < kLanes; ++i) count += s.lowest[i] < clipping.low[i] || s.highest[i] > clipping.high[i];
        return count;
    }
};

constexpr int kTogether = 4;  // vectors whose steps do not wait for each other

// Steps the vectors whose bits are set, over kSlots, or `slots` where that is 0. Returns how many sums left their register,
// where that is watched.
template <int64_t kSlots, class Step>
INLINE int64_t step_again(const Step& step, const Tile& tile, uint32_t near, int64_t slots) {
    int64_t left = 0;
    while (near) {
        int64_t vector[kTogether], count = 0;
        for (int g = 0; g < kTogether; ++g) {
            vector[g] = __builtin_ctz(near | 1u << 31) % (kRows * kVectors);
            count += near != 0;
            near &= near - 1;
        }
        const int32_t *x[kTogether], *w[kTogether];
        typename Step::State state[kTogether];
        for (int g = 0; g < kTogether; ++g) {
            const int64_t r = vector[g] / kVectors, c = vector[g] % kVectors;
            x[g] = tile.x + r * kPitch * Step::kWords, w[g] = tile.w + c * kLanes;
            state[g] = step.enter(difference_of(load<Ints>(tile.total(r, c)), tile.sum[vector[g]]));
        }
        for (int64_t i = 0; i < (kSlots ? kSlots : slots); ++i)
            for (int g = 0; g < kTogether; ++g) step.add(state[g], x[g] + Step::kWords * i, load<Ints>(w[g] + i * kWidth));
        for (int g = 0; g < count; ++g) {
            const int64_t r = vector[g] / kVectors, c = vector[g] % kVectors;
            Ints total, exact = load<Ints>(tile.total(r, c));
            left += step.leave(state[g], exact, tile.error(r, c), total);
            store(tile.total(r, c), total);
        }
    }
    return left;
}

// Steps all vectors, and adds their exact sums up beside.
template <class Step>
int64_t step_through(const Step& step, const Tile& tile, int64_t slots) {
    constexpr int kHalf = kRows / 2;
    int64_t left = 0;
    for (int64_t first = 0; first < kRows; first += kHalf) {
        typename Step::State state[kHalf][kVectors];
        Ints exact[kHalf][kVectors];
        for (int r = 0; r < kHalf; ++r)
            for (int c = 0; c < kVectors; ++c) {
                exact[r][c] = load<Ints>(tile.total(first + r, c));
                state[r][c] = step.enter(exact[r][c]);
            }
        for (int64_t i = 0; i < slots; ++i)
            for (int r = 0; r < kHalf; ++r) {
                const Ints a = all(tile.slots[(first + r) * kPitch + i]);
                const int32_t* x = tile.x + ((first + r) * kPitch + i) * Step::kWords;
                for (int c = 0; c < kVectors; ++c) {
                    const Ints w = load<Ints>(tile.w + i * kWidth + c * kLanes);
                    exact[r][c] = sum_of(exact[r][c], pairs(a, w));
                    step.add(state[r][c], x, w);
                }
            }
        for (int r = 0; r < kHalf; ++r)
            for (int c = 0; c < kVectors; ++c) {
                Ints total;
                left += step.leave(state[r][c], exact[r][c], tile.error(first + r, c), total);
                store(tile.total(first + r, c), total);
            }
    }
    return left;
}

}  // namespace
}  // namespace LEVEL
