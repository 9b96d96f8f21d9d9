#include "search.hpp"

#include <atomic>

namespace {

constexpr int64_t kChunk = 4096;  // elements that stay in the first cache while every trial looks at them

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

int32_t search(const Search& s, int64_t first, int64_t last) {
    const int64_t height = std::max<int64_t>(kChunk / s.k, 1);
    const bool is_shared = s.cells == 1;
    std::vector<float> elements(std::min(height, last - first) * s.k);
    for (int64_t row = first; row < last; row += height)
        for (int64_t trial = 0; trial < s.trials; ++trial) {
            const int64_t rows = std::min(height, last - row), scale = trial * s.cells + (is_shared ? 0 : row);
            const Matrix matrix{s.x + row * s.k, elements.data(), rows, s.k, s.by + scale, nullptr, is_shared ? 1 : rows};
            int32_t outcome;
            if (s.kind == 0) outcome = quantized(s.job, matrix, s.zero ? s.zero + scale : nullptr);
            else if (s.kind == 1) outcome = elements_of<Overwrite, Overwriting>(BEST(overwrite), s.job, matrix);
            else outcome = elements_of<KeepTerms, TermBudget>(BEST(keep_terms), s.job, matrix);
            if (outcome) return outcome;
            BEST(sum_errors)(matrix.x, elements.data(), rows, s.k, s.outside + scale, is_shared, s.errors + trial * s.rows + row);
        }
    return 0;
}

}  // namespace

EXPORT int64_t bitwright_search_size() { return sizeof(Search); }

EXPORT int32_t bitwright_search(const Search* s, int32_t threads) {
    std::atomic<int32_t> outcome{0};
    in_parts(s->rows, threads, [&](int64_t first, int64_t last) {
        if (const int32_t found = search(*s, first, last)) outcome = found;
    });
    return outcome;
}
