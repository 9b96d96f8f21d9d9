// The C interface: the best instruction set that this machine has, over as many threads as asked for.
#include "library.hpp"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

// 0 baseline, 1 AVX2, 2 AVX-512
int32_t best_level() {
#ifdef HAS_X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

std::atomic<int32_t> chosen{-1};

int32_t level() {
    int32_t now = chosen.load(std::memory_order_relaxed);
    if (now < 0) chosen.store(now = best_level(), std::memory_order_relaxed);
    return now;
}

Quantize quantize_of(int32_t level) {
#ifdef HAS_X86_LEVELS
    if (level == 2) return avx512::quantize;
    if (level == 1) return avx2::quantize;
#endif
    return baseline::quantize;
}

}  // namespace

// Of the structure that callers fill, by which they know that library and caller are of one version.
EXPORT int64_t bitwright_size() { return sizeof(Quantization); }

EXPORT int32_t bitwright_level() { return level(); }

// Uses this level, or the best one below it that this machine has. Returns it; -1 asks for the best.
EXPORT int32_t bitwright_use_level(int32_t wanted) {
    const int32_t best = best_level();
    chosen.store(wanted < 0 ? best : std::min(wanted, best));
    return level();
}

// Threads are started for each call and not kept: a forked process has none that it would wait for.
EXPORT int32_t bitwright_quantize(const Quantization* q, int32_t threads) {
    const Quantize run = quantize_of(level());
    const int64_t rows = q->rows, parts = std::max<int64_t>(std::min<int64_t>(threads, rows), 1);
    if (parts == 1) return run(*q, 0, rows);
    std::vector<std::thread> others;
    std::vector<int32_t> outcomes(parts, 0);
    const auto work = [&](int64_t part) { outcomes[part] = run(*q, rows * part / parts, rows * (part + 1) / parts); };
    others.reserve(parts);
    int64_t started = 1;
    try {
        for (; started < parts; ++started) others.emplace_back(work, started);
    } catch (const std::system_error&) {  // the machine gives no more threads
    }
    for (int64_t part = started; part < parts; ++part) work(part);
    work(0);
    for (auto& other : others) other.join();
    for (const int32_t outcome : outcomes)
        if (outcome) return outcome;
    return 0;
}
