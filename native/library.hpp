// What the files of the library share: the levels of vector instructions, and threads for one call.
//
// native/kernels/*.cpp are loops, compiled once for each level as namespace LEVEL. native/*.cpp are the C interface,
// compiled once, which asks BEST for the loops of the level in use.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Declares a kernel, a pointer to a function, at every level.
#define KERNEL(Type, name)                      \
    namespace baseline { extern const Type name; } \
    namespace avx2 { extern const Type name; }     \
    namespace avx512 { extern const Type name; }

#ifdef HAS_X86_LEVELS
#define BEST(name) (level() >= 2 ? avx512::name : level() == 1 ? avx2::name : baseline::name)
#else
#define BEST(name) (baseline::name)
#endif

// 0 baseline, 1 AVX2, 2 AVX-512, 3 AVX-512 with VNNI's dot products: the level in use.
int32_t level();
inline bool has_dot_products() { return level() >= 3; }

// Whether the last calls from this thread ran out of memory, until `bitwright_ran_out_of_memory` is asked: no exception
// leaves the library.
extern thread_local bool is_out_of_memory;

template <class Work>
void guarded(const Work& work) {
    try {
        work();
    } catch (const std::bad_alloc&) {
        is_out_of_memory = true;
    }
}

// Does work(first, last) over [0, count) in parts, one a thread. Threads are started for each call and not kept:
// a forked process has none that it would wait for.
template <class Work>
void in_parts(int64_t count, int32_t threads, const Work& work) {
    const int64_t parts = std::max<int64_t>(std::min<int64_t>(threads, count), 1);
    std::atomic<bool> is_full{false};
    const auto run = [&](int64_t part) {
        try {
            work(count * part / parts, count * (part + 1) / parts);
        } catch (const std::bad_alloc&) {
            is_full = true;
        }
    };
    std::vector<std::thread> others;
    int64_t started = 1;
    try {
        others.reserve(parts);
        for (; started < parts; ++started) others.emplace_back(run, started);
    } catch (const std::system_error&) {  // the machine gives no more threads
    } catch (const std::bad_alloc&) {
    }
    for (int64_t part = started; part < parts; ++part) run(part);
    run(0);
    for (auto& other : others) other.join();
    is_out_of_memory |= is_full;
}
