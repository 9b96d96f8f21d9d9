// Products of blocks whose sums only double holds, scaled and added in float32. Compiled once for each instruction set, as
// LEVEL.
//
// Every product and every sum of a block is exact, so it makes no difference that they are fused.
#include <algorithm>
#include <vector>

#include "../registers.hpp"
#include "vectors.hpp"

namespace LEVEL {
namespace {

typedef double Doubles __attribute__((vector_size(kBytes)));
typedef float Halves __attribute__((vector_size(kBytes / 2)));
constexpr int kDoubles = kBytes / 8, kVectors = 2, kWidth = kVectors * kDoubles;
#ifdef __AVX512BW__
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int64_t kDepth = 256;  // elements of K that stay in cache, or one block

int64_t parts_of(int64_t whole, int64_t part) { return (whole + part - 1) / part; }
int64_t row_of(const Products& p, int64_t column) { return p.columns ? p.columns[column] : column; }

INLINE Doubles widened(const float* from) { return __builtin_convertvector(load<Halves>(from), Doubles); }

#if defined(__AVX512BW__)
INLINE Doubles fused(Doubles a, Doubles b, Doubles c) { return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif defined(__FMA__)
INLINE Doubles fused(Doubles a, Doubles b, Doubles c) { return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#else
INLINE Doubles fused(Doubles a, Doubles b, Doubles c) { return a * b + c; }
#endif

// Weights in panels, [panel][K][kWidth]; then the scales of tiles, [panel][tile][kWidth].
int64_t words(const Products& p, int64_t* panels) {
    *panels = parts_of(p.n, kWidth);
    return *panels * kWidth * (p.k + parts_of(p.k, p.tile));
}

void pack(const Products& p, int32_t* packed, int64_t first, int64_t last) {
    const int64_t panels = parts_of(p.n, kWidth), tiles = parts_of(p.k, p.tile);
    float* elements = reinterpret_cast<float*>(packed);
    for (int64_t panel = first; panel < last; ++panel) {
        float* to = elements + panel * p.k * kWidth;
        float* scales = elements + (panels * p.k + panel * tiles) * kWidth;
        for (int64_t c = 0; c < kWidth; ++c) {
            const int64_t column = panel * kWidth + c;
            const bool is_there = column < p.n;
            const int64_t row = is_there ? row_of(p, column) : 0;
            for (int64_t i = 0; i < p.k; ++i) to[i * kWidth + c] = is_there ? p.w[row * p.w_pitch + i] : 0.0f;
            for (int64_t t = 0; t < tiles; ++t)
                scales[t * kWidth + c] = !is_there ? 0.0f : p.w_inside ? p.w_inside[row * tiles + t] : 1.0f;
        }
    }
}

// One block of K of some rows and a panel: its scaled sums are rounded and added.
INLINE void meet(
    const double* x, int64_t x_pitch, const float* w, int64_t count, const float* x_scales, int64_t tiles, const float* w_scales,
    bool is_single, float* totals, int64_t pitch) {
    Doubles sum[kRows][kVectors] = {};
    for (int64_t i = 0; i < count; ++i) {
        Doubles b[kVectors];
        for (int c = 0; c < kVectors; ++c) b[c] = widened(w + i * kWidth + c * kDoubles);
        for (int r = 0; r < kRows; ++r) {
            const Doubles a = Doubles{} + x[r * x_pitch + i];
            for (int c = 0; c < kVectors; ++c) sum[r][c] = fused(a, b[c], sum[r][c]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int c = 0; c < kVectors; ++c) {
            float* total = totals + r * pitch + c * kDoubles;
            Doubles scale = (Doubles{} + static_cast<double>(x_scales[r * tiles])) * widened(w_scales + c * kDoubles);
            if (is_single) scale = __builtin_convertvector(__builtin_convertvector(scale, Halves), Doubles);
            store(total, load<Halves>(total) + __builtin_convertvector(sum[r][c] * scale, Halves));
        }
}

int64_t multiply_rows(const Products& p, int64_t first, int64_t last) {
    const int64_t panels = parts_of(p.n, kWidth), pitch = panels * kWidth, tiles = parts_of(p.k, p.tile);
    const int64_t depth = std::max<int64_t>(kDepth / p.tile, 1) * p.tile;
    const int64_t block_rows = std::max<int64_t>(std::min<int64_t>((1 << 16) / pitch, 96) / kRows, 1) * kRows;
    const float* weights = reinterpret_cast<const float*>(p.packed);
    const float* w_scales = weights + panels * p.k * kWidth;
    const int64_t x_pitch = std::min(depth, p.k) + 8;  // rows that do not start in one set of the cache
    std::vector<double> x(block_rows * x_pitch), w_outside(p.n);
    std::vector<float> totals, scales;
    for (int64_t c = 0; c < p.n; ++c) w_outside[c] = p.w_outside[row_of(p, c)];
    for (int64_t row = first; row < last; row += block_rows) {
        const int64_t count = std::min(block_rows, last - row), padded = parts_of(count, kRows) * kRows;
        totals.assign(padded * pitch, 0.0f);
        scales.assign(padded * tiles, 1.0f);
        if (p.x_inside) std::copy(p.x_inside + row * tiles, p.x_inside + (row + count) * tiles, scales.begin());
        for (int64_t start = 0; start < p.k; start += depth) {
            const int64_t length = std::min(depth, p.k - start);
            for (int64_t r = 0; r < padded; ++r) {
                double* to = x.data() + r * x_pitch;
                if (r < count) std::copy(p.x + (row + r) * p.x_pitch + start, p.x + (row + r) * p.x_pitch + start + length, to);
                else std::fill(to, to + length, 0.0);
            }
            for (int64_t panel = 0; panel < panels; ++panel)
                for (int64_t r = 0; r < padded; r += kRows)
                    for (int64_t at = 0; at < length; at += p.tile) {
                        const int64_t t = (start + at) / p.tile;
                        meet(x.data() + r * x_pitch + at, x_pitch, weights + (panel * p.k + start + at) * kWidth,
                             std::min(p.tile, length - at), scales.data() + r * tiles + t, tiles,
                             w_scales + (panel * tiles + t) * kWidth, p.rounds_twice, totals.data() + r * pitch + panel * kWidth, pitch);
                    }
        }
        for (int64_t r = 0; r < count; ++r) {
            double* out = p.out + (row + r) * p.out_pitch;
            for (int64_t c = 0; c < p.n; ++c)
                out[p.columns ? p.columns[c] : c] = totals[r * pitch + c] * p.x_outside[row + r] * w_outside[c];
        }
    }
    return 0;
}

}  // namespace

extern const PackedSize packed_size_wide = words;
extern const PackWeights pack_weights_wide = pack;
extern const Multiply multiply_wide = multiply_rows;

}  // namespace LEVEL
