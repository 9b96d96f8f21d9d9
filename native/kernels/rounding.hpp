// Quotients to integers, for every rounding but the stochastic one. Included inside a file of kernels.
#pragma once
#include <cmath>

#include "bits.hpp"

namespace LEVEL {
namespace {

// Each rounds a quotient whose integers float32 holds.
struct NearestEven { float operator()(float q) const { return std::nearbyintf(q); } };
struct NearestUp {
    float operator()(float q) const { const float floor = std::floor(q); return floor + (q - floor >= 0.5f ? 1.0f : 0.0f); }
};
struct NearestAway {
    float operator()(float q) const {
        const float magnitude = std::fabs(q), inward = std::floor(magnitude);
        return std::copysign(inward + (magnitude - inward >= 0.5f ? 1.0f : 0.0f), q);
    }
};
struct NearestZero {
    float operator()(float q) const {
        const float magnitude = std::fabs(q), inward = std::floor(magnitude);
        return std::copysign(inward + (magnitude - inward > 0.5f ? 1.0f : 0.0f), q);
    }
};
struct Floor { float operator()(float q) const { return std::floor(q); } };
struct Ceiling { float operator()(float q) const { return std::ceil(q); } };
struct TowardZero { float operator()(float q) const { return std::trunc(q); } };

}  // namespace
}  // namespace LEVEL
