#include "outputs.hpp"

#include <atomic>

EXPORT int64_t bitwright_rescaling_size() { return sizeof(Rescaling); }
EXPORT int64_t bitwright_taps_size() { return sizeof(Taps); }
EXPORT int64_t bitwright_scaled_taps_size() { return sizeof(ScaledTaps); }

EXPORT void bitwright_rescale(const Rescaling* job, int32_t threads) {
    const Rescale run = BEST(rescale);
    in_parts(job->rows, threads, [&](int64_t first, int64_t last) { run(*job, first, last); });
}

EXPORT void bitwright_depthwise(const Taps* job, int32_t threads) {
    const Depthwise run = BEST(depthwise);
    in_parts(job->batch * job->down, threads, [&](int64_t first, int64_t last) { run(*job, first, last); });
}

// Sums that overflow changed.
EXPORT int64_t bitwright_depthwise_integers(const ScaledTaps* job, int32_t threads) {
    const DepthwiseIntegers run = BEST(depthwise_integers);
    std::atomic<int64_t> overflows{0};
    in_parts(job->taps.batch * job->taps.down, threads, [&](int64_t first, int64_t last) { overflows += run(*job, first, last); });
    return overflows;
}
