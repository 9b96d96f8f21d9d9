// Rows of a product: as slots when they meet the weights, and as sums when they are written. Included inside a file of
// kernels.
#pragma once
#include <vector>

#include "slots.hpp"

namespace LEVEL {
namespace {

// Rows of x as slots, for one block of K; those beyond the last are zero.
struct Rows {
    const Products& p;
    int64_t first, count, padded;
    void fill(const Cut& cut, int64_t start, int64_t slots, int32_t* packed) const {
        for (int64_t r = 0; r < padded; ++r) {
            int32_t* to = packed + r * kPitch;
            if (r < count) fill_slots(p.x + (first + r) * p.x_pitch, p.k, cut, start, slots, static_cast<float>(p.x_by), to);
            else std::fill(to, to + slots, 0);
        }
    }
};

// As many of some rows as have their registers in cache.
int64_t rows_at_once(int64_t pitch, int64_t count) {
    return std::min(std::min<int64_t>(std::max<int64_t>(kBlock / pitch, 48), 192) / kRows, parts_of(count, kRows)) * kRows;
}

// Calls work(rows) on as many rows at a time as have their registers in cache, [padded, pitch].
template <class Work>
INLINE void in_blocks(const Products& p, int64_t first, int64_t last, int64_t pitch, Work work) {
    const int64_t most = rows_at_once(pitch, last - first);
    for (int64_t row = first; row < last; row += most) {
        const int64_t count = std::min(most, last - row);
        work(Rows{p, row, count, parts_of(count, kRows) * kRows});
    }
}

// Calls meet(x, w, first slot, slots, row, panel) for all panels that are wanted.
template <class Wanted, class Meet>
INLINE void for_all_panels(const Rows& rows, const Cut& cut, int64_t panels, const int32_t* weights, int32_t* x, Wanted wanted, Meet meet) {
    for (int64_t start = 0; start < cut.slots; start += cut.depth) {
        const int64_t slots = std::min(cut.depth, cut.slots - start);
        rows.fill(cut, start, slots, x);
        for (int64_t panel = 0; panel < panels; ++panel) {
            if (!wanted(panel)) continue;
            const int32_t* w = weights + (start * panels + panel * slots) * kWidth;
            for (int64_t r = 0; r < rows.padded; r += kRows) meet(x + r * kPitch, w, start, slots, r, panel);
        }
    }
}

const auto kEvery = [](int64_t) { return true; };

// Sums of pairs of products of a few rows and a panel.
INLINE void add_pairs(const int32_t* x, const int32_t* w, int64_t slots, int32_t* totals, int64_t pitch) {
    Ints total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) total[r][c] = load<Ints>(totals + r * pitch + c * kLanes);
    for (int64_t i = 0; i < slots; ++i)
        for (int r = 0; r < kRows; ++r) {
            const Ints a = all(x[r * kPitch + i]);
            for (int c = 0; c < kVectors; ++c) total[r][c] += pairs(a, load<Ints>(w + i * kWidth + c * kLanes));
        }
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) store(totals + r * pitch + c * kLanes, total[r][c]);
}

// By which sums of each column are multiplied.
std::vector<double> outside_of_columns(const Products& p) {
    std::vector<double> scales(p.n);
    for (int64_t c = 0; c < p.n; ++c) scales[c] = p.w_outside[row_of(p, c)];
    return scales;
}

// One row's registers to `out`.
template <class Total>
void write(const Products& p, int64_t row, const Total* totals, const double* w_outside) {
    const double outside = p.x_outside[row], unit = p.unit;
    double* out = p.out + row * p.out_pitch;
    if (p.columns) {
        for (int64_t c = 0; c < p.n; ++c) out[p.columns[c]] = totals[c] * unit * outside * w_outside[c];
    } else {
        for (int64_t c = 0; c < p.n; ++c) out[c] = totals[c] * unit * outside * w_outside[c];
    }
}

template <class Total>
void shift_out(const Products& p, Total* totals) {
    for (int64_t c = 0; c < p.n; ++c) totals[c] = static_cast<Total>(totals[c] >> p.spare_bits);
}

}  // namespace
}  // namespace LEVEL
