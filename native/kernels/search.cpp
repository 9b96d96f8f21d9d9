// Squared errors, summed in the reference's order. Compiled once a level, as LEVEL.
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

}  // namespace

extern const SumErrors sum_errors = errors_of;

}  // namespace LEVEL
