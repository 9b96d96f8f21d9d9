// Weights as products read them. Compiled once for each instruction set, as LEVEL.
#include "slots.hpp"

namespace LEVEL {
namespace {

// Weights in panels, [K in blocks][panel][slot][kWidth]; then the scales of tiles, [panel][tile][kWidth].
int64_t packed_words(const Products& p, int64_t* panels) {
    *panels = parts_of(p.n, panel_columns(p));
    return *panels * kWidth * (stepped_cut(p).slots + (has_scales(p) ? parts_of(p.k, p.tile) : 0));
}

void pack_panel(const Products& p, int64_t panel, int64_t panels, int32_t* packed) {
    const Cut cut = stepped_cut(p);
    const int64_t columns = panel_columns(p);
    for (int64_t start = 0; start < cut.slots; start += cut.depth) {
        const int64_t count = std::min(cut.depth, cut.slots - start);
        pack_block(p, cut, panel * columns, columns, start, count, packed + (start * panels + panel * count) * kWidth);
    }
}

void pack_scales(const Products& p, int64_t panel, int32_t* packed) {
    const int64_t tiles = parts_of(p.k, p.tile);
    for (int64_t c = 0; c < kWidth; ++c) {
        const int64_t column = panel * kWidth + c;
        for (int64_t t = 0; t < tiles; ++t) {
            const float scale = column >= p.n ? 0.0f : p.w_inside ? p.w_inside[row_of(p, column) * tiles + t] : 1.0f;
            std::memcpy(packed + (panel * tiles + t) * kWidth + c, &scale, sizeof scale);
        }
    }
}

void pack(const Products& p, int32_t* packed, int64_t first, int64_t last) {
    const int64_t panels = parts_of(p.n, panel_columns(p));
    for (int64_t panel = first; panel < last; ++panel) {
        pack_panel(p, panel, panels, packed);
        if (has_scales(p)) pack_scales(p, panel, packed + panels * stepped_cut(p).slots * kWidth);
    }
}

}  // namespace

extern const PackedSize packed_size = packed_words;
extern const PackWeights pack_weights = pack;

}  // namespace LEVEL
