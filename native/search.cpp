#include "search.hpp"

#include <atomic>

namespace {

template <class Kernel, class Job>
int32_t elements_of(Kernel kernel, const void* job, const Matrix& matrix) {
    Job made = *static_cast<const Job*>(job);
    made.matrix = matrix;
    return kernel(made, 0, matrix.rows);
}

int32_t quantized(const void* job, const Matrix& matrix, const float* zero) {
    Quantization made = *static_cast<const Quantization*>(job);
    made.x = matrix.x, made.out = matrix.out, made.rows = matrix.rows, made.k = made.pitch = matrix.k;
    made.coarse = matrix.by, made.coarse_rows = matrix.scale_rows, made.zero = zero, made.outside = nullptr;
    return BEST(quantize)(made, 0, matrix.rows);
}

int32_t elements(const Search& s, const Matrix& matrix, int64_t scale) {
    if (s.kind == 0) return quantized(s.job, matrix, s.zero ? s.zero + scale : nullptr);
    if (s.kind == 1) return elements_of<Overwrite, Overwriting>(BEST(overwrite), s.job, matrix);
    return elements_of<KeepTerms, TermBudget>(BEST(keep_terms), s.job, matrix);
}

// Each row under scales of its own: some rows at a time stay in the first cache while every trial looks at them.
int32_t of_rows(const Search& s, int64_t first, int64_t last) {
    const SumErrors sum = BEST(sum_errors);
    const int64_t height = std::max<int64_t>(kBlock / s.k, 1);
    std::vector<float> made(std::min(height, last - first) * s.k);
    for (int64_t row = first; row < last; row += height)
        for (int64_t trial = 0; trial < s.trials; ++trial) {
            const int64_t rows = std::min(height, last - row), scale = trial * s.cells + row;
            const float* x = s.x + row * s.k;
            if (const int32_t outcome = elements(s, {x, made.data(), rows, s.k, s.by + scale, nullptr, rows}, scale)) return outcome;
            for (int64_t i = 0; i < rows; ++i)
                s.errors[trial * s.rows + row + i] = sum(x + i * s.k, made.data() + i * s.k, s.k, s.outside[scale + i]);
        }
    return 0;
}

// One scale: rows do not matter to formats that look at one element at a time.
int32_t of_blocks(const Search& s, int64_t first, int64_t last) {
    const SumErrors sum = BEST(sum_errors);
    const int64_t all = s.rows * s.k, blocks = (all + kBlock - 1) / kBlock;
    float made[kBlock];
    for (int64_t block = first; block < last; ++block) {
        const float* x = s.x + block * kBlock;
        const int64_t count = std::min(kBlock, all - block * kBlock);
        for (int64_t trial = 0; trial < s.trials; ++trial) {
            if (const int32_t outcome = elements(s, {x, made, 1, count, s.by + trial, nullptr, 1}, trial)) return outcome;
            s.errors[trial * blocks + block] = sum(x, made, count, s.outside[trial]);
        }
    }
    return 0;
}

int32_t of_trials(const Search& s, int64_t first, int64_t last) {
    const SumErrors sum = BEST(sum_errors);
    const int64_t all = s.rows * s.k, blocks = (all + kBlock - 1) / kBlock;
    std::vector<float> made(all);
    for (int64_t trial = first; trial < last; ++trial) {
        if (const int32_t outcome = elements(s, {s.x, made.data(), s.rows, s.k, s.by + trial, nullptr, 1}, trial)) return outcome;
        for (int64_t block = 0; block < blocks; ++block)
            s.errors[trial * blocks + block] =
                sum(s.x + block * kBlock, made.data() + block * kBlock, std::min(kBlock, all - block * kBlock), s.outside[trial]);
    }
    return 0;
}

}  // namespace

EXPORT int64_t bitwright_search_size() { return sizeof(Search); }

EXPORT int32_t bitwright_search(const Search* s, int32_t threads) {
    std::atomic<int32_t> outcome{0};
    const auto work = s->cells > 1 ? of_rows : s->kind == 0 ? of_blocks : of_trials;
    const int64_t count = s->cells > 1 ? s->rows : s->kind == 0 ? (s->rows * s->k + kBlock - 1) / kBlock : s->trials;
    in_parts(count, threads, [&](int64_t first, int64_t last) {
        if (const int32_t found = work(*s, first, last)) outcome = found;
    });
    return outcome;
}

EXPORT void bitwright_summarize(const float* x, int64_t count, Summary* found) {
    guarded([&] { *found = BEST(summarize)(x, count); });
}

EXPORT void bitwright_count_bins(const float* x, int64_t count, double width, int64_t* counts) {
    guarded([&] { BEST(count_bins)(x, count, width, counts); });
}

EXPORT int64_t bitwright_choice_size() { return sizeof(Choice); }

EXPORT void bitwright_choose(const Choice* c, int32_t threads) {
    const Choose run = BEST(choose);
    in_parts(c->rows, threads, [&](int64_t first, int64_t last) { run(*c, first, last); });
}
