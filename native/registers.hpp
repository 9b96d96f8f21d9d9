// What Python hands over for matrix products whose registers are of some width. kernels/native/registers.py mirrors it.
#pragma once
#include "library.hpp"

// How the sums of tiles of K enter a register.
enum RegisterKind : int32_t {
    kExact = 0,     // int32 that no sum leaves; `low`, `high` and `slope` say how it is read
    kSaturate = 1,  // int16, saturating after every product
    kClip = 2,      // int32, clipped to low ... high after every tile
    kScaled = 3,    // float32: each tile's sum times the product of the block scales, rounded, and added
    kFloat = 4,     // a narrow float, in units that float32 counts: rounded after every tile
    kScaledInt = 5, // int32: each tile's sum times the rounded product of the block scales; clipped, or read as kExact
    kWide = 6,      // as kScaled, of elements and sums that double holds
    kStep = 7,      // int32, clipped to low ... high after every product
    kWatch = 8,     // int32, not clipped: counts chunks of products on whose way a sum leaves low ... high
    kAdd = 9,       // int32 that no sum of tiles leaves
    kMark = 10,     // the same, with a spare bit: counts sums that leave low ... high after a tile
};

// How the products of a tile enter its own register.
enum InnerKind : int32_t {
    kUnlimited = 0,
    kSaturates = 1,  // after every product
    kWraps = 2,      // a power of two values
    kWatches = 3,    // exact: counts sums that leave their register after any product
};

struct Products {
    const float *x, *w;                  // [m, x_pitch] and [n of w, w_pitch]: multiples of their units
    const float *x_inside, *w_inside;    // [m, tiles] and [n of w, tiles]: scales of tiles
    const double *x_outside, *w_outside; // [m] and [n of w]: they multiply what is written, x's first
    double* out;                         // [m, out_pitch]
    const int64_t* columns;              // [n]: rows of w that are columns of out, or null for the first n
    const int32_t *packed, *pairs;       // w as `pack` leaves it for this kind, and for kExact where sums are counted
    int64_t m, n, k, x_pitch, w_pitch, out_pitch;
    int64_t tile;        // elements of K that are summed before they enter the register
    double x_by, w_by;   // turn elements into integers of 16 bits: one over the units
    double unit;         // of the products
    int32_t kind;        // a RegisterKind
    int32_t spare_bits;  // below the register's integers: of kClip and kScaledInt, 2 tell whether a sum was ever clipped
    int64_t low, high;   // of an integer register
    int64_t slope;       // of `Cyclic`, or 0
    int32_t wraps;
    int32_t rounding;  // of a narrow float: 0 to nearest, ties to even, 1 toward zero
    int32_t mantissa_bits, smallest_exponent;
    int32_t rounds_twice;  // what is added is rounded before
    float highest;
    // How kScaledInt rounds the product of two scales s: (s + up + (s >> shift & odd)) >> shift, at most `most`.
    int32_t shift, up, odd, most;
    int64_t largest;  // product of elements, of kSaturate
    int32_t x_shift;  // kStep: by which x moves so that 32 bits are the register's, beside the spare bits of w; or -1
    int32_t inner;    // an InnerKind, of all but kExact, kSaturate, kWide, kStep and kWatch
    int64_t inner_low, inner_high;
};

// Words that w takes when it is packed, and its panels. Where they lie depends on the level of instructions.
using PackedSize = int64_t (*)(const Products&, int64_t* panels);
using PackWeights = void (*)(const Products&, int32_t* packed, int64_t first_panel, int64_t last_panel);
// Rows of out. Returns how many sums overflow changed.
using Multiply = int64_t (*)(const Products&, int64_t first_row, int64_t last_row);

KERNEL(PackedSize, packed_size)
KERNEL(PackWeights, pack_weights)
KERNEL(Multiply, multiply)
KERNEL(Multiply, multiply_stepped)
KERNEL(PackedSize, packed_size_wide)
KERNEL(PackWeights, pack_weights_wide)
KERNEL(Multiply, multiply_wide)
