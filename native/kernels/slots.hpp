// Rows of 16-bit integers as vectors want them.
//
// K is cut into slots of 32 bits: two neighbours of K, multiplied and added by one instruction, or one of K. Weights lie
// in panels of as many columns as two vectors hold, slot by slot.
#pragma once
#include <algorithm>

#include "../registers.hpp"
#include "vectors.hpp"

namespace LEVEL {
namespace {

constexpr int kVectors = 2, kWidth = kVectors * kLanes;  // 32-bit lanes of a panel
#ifdef __AVX512BW__
constexpr int kRows = 8;  // of x that meet a panel together
#else
constexpr int kRows = 6;
#endif
constexpr int kDepth = 256, kPitch = kDepth + 8;  // slots that stay in cache, and where rows start
constexpr int64_t kBlock = 1 << 16;                // registers that stay in cache

int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// How K is cut: `pairs` of slots to a tile, or slots of one element.
struct Cut {
    int64_t tile, slots_a_tile, slots, depth;
    bool is_twice;  // a single element fills both halves of its slot
    Cut(int64_t k, int64_t of_tile, bool twice = false)
        : tile(of_tile), slots_a_tile((of_tile + 1) / 2), slots(parts_of(k, of_tile) * slots_a_tile),
          depth(kDepth / slots_a_tile * slots_a_tile), is_twice(twice) {}
};

// Ends of an integer register, with its spare bits.
int32_t lowest_of(const Products& p) { return static_cast<int32_t>(p.low * (1 << p.spare_bits)); }
int32_t highest_of(const Products& p) { return static_cast<int32_t>((p.high + 1) * (1 << p.spare_bits) - 1); }

bool is_stepped_in_pairs(const Products& p) { return p.kind == kExact || p.kind == kStep || p.kind == kWatch; }
Cut stepped_cut(const Products& p) {
    return p.kind == kSaturate ? Cut(p.k, 1, true) : Cut(p.k, is_stepped_in_pairs(p) ? 2 : p.tile);
}
bool has_scales(const Products& p) { return p.kind == kScaled || p.kind == kScaledInt; }
Cut pairs_cut(const Products& p) { return Cut(p.k, 2); }
int64_t panel_columns(const Products& p) { return p.kind == kSaturate ? 2 * kWidth : kWidth; }
int64_t row_of(const Products& p, int64_t column) { return p.columns ? p.columns[column] : column; }

INLINE int32_t slot_of(int32_t low, int32_t high) {
    return static_cast<int32_t>(static_cast<uint32_t>(low & 0xffff) | static_cast<uint32_t>(high) << 16);
}

// Slots [first, first + count) of a row: elements times `by`, which are integers.
void fill_slots(const float* __restrict row, int64_t k, const Cut& cut, int64_t first, int64_t count, float by, int32_t* __restrict slots) {
    const bool is_twice = cut.is_twice;
    if (cut.tile % 2 == 0) {
        const int64_t start = 2 * first, whole = std::max<int64_t>(std::min(count, (k - start) / 2), 0);
        for (int64_t i = 0; i < whole; ++i)
            slots[i] = slot_of(static_cast<int32_t>(row[start + 2 * i] * by), static_cast<int32_t>(row[start + 2 * i + 1] * by));
        std::fill(slots + whole, slots + count, 0);
        if (whole < count && start + 2 * whole < k) slots[whole] = slot_of(static_cast<int32_t>(row[start + 2 * whole] * by), 0);
    } else if (cut.tile == 1) {
        for (int64_t i = 0; i < count; ++i) {
            const int32_t value = static_cast<int32_t>(row[first + i] * by);
            slots[i] = slot_of(value, is_twice ? value : 0);
        }
    } else {
        for (int64_t slot = 0; slot < count; ++slot) {
            const int64_t tile = (first + slot) / cut.slots_a_tile, within = 2 * ((first + slot) % cut.slots_a_tile);
            const int64_t at = tile * cut.tile + within;
            const bool has_high = within + 1 < cut.tile && at + 1 < k;
            slots[slot] = slot_of(
                at < k ? static_cast<int32_t>(row[at] * by) : 0, has_high ? static_cast<int32_t>(row[at + 1] * by) : 0);
        }
    }
}

// Slots of some columns, [count, columns]; of single elements in kSaturate, of 32 bits otherwise.
void pack_block(const Products& p, const Cut& cut, int64_t column, int64_t columns, int64_t start, int64_t count, int32_t* to) {
    int32_t slots[kDepth];
    const float by = static_cast<float>(p.w_by * (1 << p.spare_bits));
    for (int64_t c = 0; c < columns; ++c, ++column) {
        if (column < p.n) fill_slots(p.w + row_of(p, column) * p.w_pitch, p.k, cut, start, count, by, slots);
        else std::fill(slots, slots + count, 0);
        if (cut.is_twice) {
            char* lane = reinterpret_cast<char*>(to) + 2 * c;
            for (int64_t i = 0; i < count; ++i) {
                const int16_t value = static_cast<int16_t>(slots[i]);
                std::memcpy(lane + i * kWidth * 4, &value, 2);
            }
        } else {
            for (int64_t i = 0; i < count; ++i) to[i * kWidth + c] = slots[i];
        }
    }
}

}  // namespace
}  // namespace LEVEL
