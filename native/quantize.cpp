#include "quantize.hpp"

#include <atomic>

// Of the structure that callers fill, by which they know that library and caller are of one version.
EXPORT int64_t bitwright_size() { return sizeof(Quantization); }

EXPORT int32_t bitwright_quantize(const Quantization* q, int32_t threads) {
    const Quantize run = BEST(quantize);
    std::atomic<int32_t> outcome{0};
    in_parts(q->rows, threads, [&](int64_t first, int64_t last) {
        if (const int32_t found = run(*q, first, last)) outcome = found;
    });
    return outcome;
}

EXPORT void bitwright_row_spans(const float* x, int64_t rows, int64_t k, int32_t is_signed, float* spans, int32_t threads) {
    const RowSpans run = BEST(row_spans);
    in_parts(rows, threads, [&](int64_t first, int64_t last) { run(x, k, is_signed, spans, first, last); });
}
