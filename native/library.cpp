// Which level of vector instructions is used.
#include "library.hpp"

#include <atomic>
#include <utility>

namespace {

int32_t best_level() {
#ifdef HAS_X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return __builtin_cpu_supports("avx512vnni") ? 3 : 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

std::atomic<int32_t> chosen{-1};

}  // namespace

thread_local bool is_out_of_memory = false;

int32_t level() {
    int32_t now = chosen.load(std::memory_order_relaxed);
    if (now < 0) chosen.store(now = best_level(), std::memory_order_relaxed);
    return now;
}

EXPORT int32_t bitwright_level() { return level(); }

// Uses this level, or the best one below it that this machine has. Returns it; -1 asks for the best.
EXPORT int32_t bitwright_use_level(int32_t wanted) {
    const int32_t best = best_level();
    chosen.store(wanted < 0 ? best : std::min(wanted, best));
    return level();
}

// Whether a call from this thread found no memory since this was last asked; what it wrote is of no use.
EXPORT int32_t bitwright_ran_out_of_memory() { return std::exchange(is_out_of_memory, false); }
