// Squared errors and statistics, summed in the reference's order. Compiled once a level, as LEVEL.
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>

#include "../search.hpp"

namespace LEVEL {
namespace {

constexpr int kLanes = 16;

// value(i) is added for i from 0 to count, at most a block.
template <class Value>
inline double sum(int64_t count, Value value) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += value(i + lane);
    for (int lane = 0; i + lane < count; ++lane) lanes[lane] += value(i + lane);
    for (int half = kLanes / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

double sum_sums(std::vector<double> sums) {
    while (sums.size() > 1) {
        std::vector<double> blocks;
        for (int64_t i = 0, count = static_cast<int64_t>(sums.size()); i < count; i += kBlock)
            blocks.push_back(sum(std::min(kBlock, count - i), [&](int64_t j) { return sums[i + j]; }));
        sums.swap(blocks);
    }
    return sums[0];
}

double errors_of(const float* __restrict x, const float* __restrict elements, int64_t count, double outside) {
    const auto block = [=](int64_t start) {
        return sum(std::min(kBlock, count - start), [=](int64_t i) {
            const double wrong = static_cast<double>(elements[start + i]) * outside - static_cast<double>(x[start + i]);
            return wrong * wrong;
        });
    };
    if (count <= kBlock) return block(0);
    std::vector<double> sums;
    for (int64_t start = 0; start < count; start += kBlock) sums.push_back(block(start));
    return sum_sums(sums);
}

// The same of 16 elements, one a lane.
inline double errors_of_16(const float* __restrict x, const float* __restrict elements, double outside) {
    double lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        const double wrong = static_cast<double>(elements[i]) * outside - static_cast<double>(x[i]);
        lanes[i] = wrong * wrong;
    }
    double eight[8], four[4];
    for (int i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

void choose_rows(const Choice& c, int64_t first, int64_t last) {
    const int64_t blocks = (c.k + c.block - 1) / c.block;
    for (int64_t row = first; row < last; ++row) {
        const double outside = c.outside[c.outside_rows == 1 ? 0 : row];
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t at = row * blocks + b, count = std::min(c.block, c.k - b * c.block);
            const float* x = c.x + row * c.k + b * c.block;
            float* elements = c.elements + at * c.block;
            const float* others = c.others + at * c.block;
            const double scale = static_cast<double>(c.inside[at]) * outside, other = static_cast<double>(c.others_inside[at]) * outside;
            const bool is_less = count == kLanes ? errors_of_16(x, others, other) < errors_of_16(x, elements, scale)
                                                 : errors_of(x, others, count, other) < errors_of(x, elements, count, scale);
            if (is_less) {
                std::copy(others, others + count, elements);
                c.inside[at] = c.others_inside[at];
            }
        }
    }
}

// float32 in the order of integers, and back.
inline int32_t ordered(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

inline double unordered(int32_t bits) {
    bits ^= (bits >> 31) & 0x7fffffff;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

Summary summary_of(const float* x, int64_t count) {
    int32_t low = INT32_MAX, high = INT32_MIN;
    int64_t zeros = 0;
    std::vector<double> totals, magnitudes, squares;
    for (int64_t start = 0; start < count; start += kBlock) {
        const int64_t size = std::min(kBlock, count - start);
        const float* from = x + start;
        int32_t none = 0;
        for (int64_t i = 0; i < size; ++i) {
            low = std::min(low, ordered(from[i])), high = std::max(high, ordered(from[i]));
            none += from[i] == 0.0f ? 1 : 0;
        }
        zeros += none;
        totals.push_back(sum(size, [=](int64_t i) { return static_cast<double>(from[i]); }));
        magnitudes.push_back(sum(size, [=](int64_t i) { return std::fabs(static_cast<double>(from[i])); }));
        squares.push_back(sum(size, [=](int64_t i) { return static_cast<double>(from[i]) * static_cast<double>(from[i]); }));
    }
    return {unordered(low), unordered(high), sum_sums(totals), sum_sums(magnitudes), sum_sums(squares), zeros};
}

void bins_of(const float* x, int64_t count, double width, int64_t* counts) {
    constexpr int kParts = 4;  // neighbours that fall into one bin, as zeros do, do not wait for each other
    std::vector<int64_t> found(kParts * kBins);
    int32_t bins[kBlock];
    for (int64_t start = 0; start < count; start += kBlock) {
        const int64_t size = std::min(kBlock, count - start);
        for (int64_t i = 0; i < size; ++i) {
            const double bin = std::fabs(static_cast<double>(x[start + i])) / width;
            bins[i] = static_cast<int32_t>(bin < kBins - 1 ? bin : kBins - 1);
        }
        for (int64_t i = 0; i < size; ++i) ++found[i % kParts * kBins + bins[i]];
    }
    for (int64_t i = 0; i < kParts * kBins; ++i) counts[i % kBins] += found[i];
}

}  // namespace

extern const SumErrors sum_errors = errors_of;
extern const Choose choose = choose_rows;
extern const Summarize summarize = summary_of;
extern const CountBins count_bins = bins_of;

}  // namespace LEVEL
