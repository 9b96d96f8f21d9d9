// Squared errors of rows, summed in the reference's order. Compiled once a level, as LEVEL.
#include "../search.hpp"

namespace LEVEL {
namespace {

constexpr int kLanes = 16;

double row_error(const float* x, const float* elements, int64_t k, double outside) {
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= k; i += kLanes)
        for (int lane = 0; lane < kLanes; ++lane) {
            const double wrong = static_cast<double>(elements[i + lane]) * outside - static_cast<double>(x[i + lane]);
            lanes[lane] += wrong * wrong;
        }
    for (int lane = 0; i + lane < k; ++lane) {
        const double wrong = static_cast<double>(elements[i + lane]) * outside - static_cast<double>(x[i + lane]);
        lanes[lane] += wrong * wrong;
    }
    for (int half = kLanes / 2; half; half /= 2)
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

void of_rows(const float* x, const float* elements, int64_t rows, int64_t k, const double* outside, bool is_shared, double* errors) {
    for (int64_t row = 0; row < rows; ++row)
        errors[row] = row_error(x + row * k, elements + row * k, k, outside[is_shared ? 0 : row]);
}

}  // namespace

extern const SumErrors sum_errors = of_rows;

}  // namespace LEVEL
