// float32 and its bits; and loops that are inlined. Included inside a file of kernels.
#pragma once
#include <cstdint>
#include <cstring>

// Loops of a fixed length become straight vector code only where they are inlined.
#define INLINE inline __attribute__((always_inline))

namespace LEVEL {
namespace {

INLINE int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of(int32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

}  // namespace
}  // namespace LEVEL
