#include "groups.hpp"

#include <atomic>

namespace {

template <class Kernel, class Job>
int32_t in_rows(Kernel kernel, const Job& job, int32_t threads) {
    std::atomic<int32_t> outcome{0};
    in_parts(job.matrix.rows, threads, [&](int64_t first, int64_t last) {
        if (const int32_t found = kernel(job, first, last)) outcome = found;
    });
    return outcome;
}

}  // namespace

EXPORT int64_t bitwright_overwriting_size() { return sizeof(Overwriting); }
EXPORT int64_t bitwright_term_budget_size() { return sizeof(TermBudget); }

EXPORT int32_t bitwright_overwrite(const Overwriting* job, int32_t threads) { return in_rows(BEST(overwrite), *job, threads); }

EXPORT int32_t bitwright_keep_terms(const TermBudget* job, int32_t threads) { return in_rows(BEST(keep_terms), *job, threads); }
