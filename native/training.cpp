#include "training.hpp"

#include <atomic>
#include <numeric>

namespace {

int64_t units(const Straight& s) { return is_one_run(s) ? (s.rows * s.k + kRun - 1) / kRun : s.rows; }

}  // namespace

// Of the structures that callers fill, by which they know that library and caller are of one version.
EXPORT int64_t bitwright_training_size() { return sizeof(Straight) * 1000 + sizeof(Norms); }

// 0, or what was found: not finite, clipped, a step that is not positive.
EXPORT int32_t bitwright_straight_forward(const Straight* s, int32_t threads) {
    const StraightForward run = BEST(straight_forward);
    std::atomic<int32_t> found{0};
    in_parts(units(*s), threads, [&](int64_t first, int64_t last) { found |= run(*s, first, last); });
    return found;
}

EXPORT void bitwright_straight_backward(const Straight* s, int32_t threads) {
    const StraightBackward run = BEST(straight_backward);
    std::vector<double> sums(s->of_scale ? units(*s) : 0);
    in_parts(units(*s), threads, [&](int64_t first, int64_t last) { run(*s, first, last, sums.data()); });
    if (!s->of_scale) return;
    // in the order of units, however many threads there were
    if (s->scale_rows == 1) sums = {std::accumulate(sums.begin(), sums.end(), 0.0)};
    for (size_t i = 0; i < sums.size(); ++i) s->of_scale[i] = static_cast<float>(sums[i] * s->factor);
}

// 0, or `kTooLong`: integers pass their bound by a rounding, and `out` holds nothing of use.
EXPORT int32_t bitwright_norms_forward(const Norms* n, int32_t threads) {
    const NormsForward run = BEST(norms_forward);
    std::atomic<int32_t> found{0};
    in_parts(n->rows, threads, [&](int64_t first, int64_t last) { found |= run(*n, first, last); });
    return found;
}

EXPORT void bitwright_norms_backward(const Norms* n, int32_t threads) {
    const NormsBackward run = BEST(norms_backward);
    in_parts(n->rows, threads, [&](int64_t first, int64_t last) { run(*n, first, last); });
}
