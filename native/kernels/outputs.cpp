// Sums of one channel, and sums to outputs. Compiled once for each instruction set, as LEVEL.
#include <algorithm>
#include <vector>

#include "../outputs.hpp"
#include "bits.hpp"

namespace LEVEL {
namespace {

template <class Sum, bool kHasBias>
INLINE void rescale_row(const Sum* sums, float* out, int64_t n, double of_row, const double* of_columns, const float* bias) {
    for (int64_t i = 0; i < n; ++i) {
        const float value = static_cast<float>(static_cast<double>(sums[i]) * of_row * of_columns[i]);
        out[i] = kHasBias ? value + bias[i] : value;
    }
}

template <class Sum>
void rescale_rows(const Rescaling& job, int64_t first, int64_t last) {
    const Sum* sums = static_cast<const Sum*>(job.sums);
    for (int64_t row = first; row < last; ++row) {
        const double of_row = job.of_rows[job.row_scales == 1 ? 0 : row];
        const int64_t start = row * job.n;
        if (job.bias) rescale_row<Sum, true>(sums + start, job.out + start, job.n, of_row, job.of_columns, job.bias);
        else rescale_row<Sum, false>(sums + start, job.out + start, job.n, of_row, job.of_columns, nullptr);
    }
}

void rescale_any(const Rescaling& job, int64_t first, int64_t last) {
    if (job.is_wide) rescale_rows<double>(job, first, last);
    else rescale_rows<float>(job, first, last);
}

// First tap that lies inside the image, and the one after the last.
struct Inside {
    int64_t first, last;
    Inside(int64_t start, int64_t dilation, int64_t taps, int64_t size)
        : first(std::min(start < 0 ? (-start + dilation - 1) / dilation : 0, taps)),
          last(std::min(start < size ? (size - start + dilation - 1) / dilation : 0, taps)) {}
};

// The taps of one output that lie inside its image.
struct Window {
    const Taps& t;
    int64_t image, y_start, x_start;  // first pixel of the image; where the window starts in it
    Inside rows, columns;
    // Calls work(pixel of all images, tap) in the order of taps.
    template <class Work>
    INLINE void each_tap(Work work) const {
        for (int64_t i = rows.first; i < rows.last; ++i)
            for (int64_t j = columns.first; j < columns.last; ++j)
                work(image + (y_start + i * t.dilation_y) * t.width + x_start + j * t.dilation_x, i * t.kernel_width + j);
    }
};

// Calls work(window, number of the output) for all outputs of some lines.
template <class Work>
INLINE void each_output(const Taps& t, int64_t first, int64_t last, Work work) {
    for (int64_t line = first; line < last; ++line) {
        const int64_t y_start = line % t.down * t.stride_y - t.top;
        const Inside rows(y_start, t.dilation_y, t.kernel_height, t.height);
        for (int64_t across = 0; across < t.across; ++across) {
            const int64_t x_start = across * t.stride_x - t.left;
            const Inside columns(x_start, t.dilation_x, t.kernel_width, t.width);
            work(Window{t, line / t.down * t.height * t.width, y_start, x_start, rows, columns}, line * t.across + across);
        }
    }
}

// kChannels of one output; where kChannels is 0, `channels`, at most 16.
template <int kChannels, class Sum>
INLINE void one_output(const Window& window, int64_t channel, int64_t channels, Sum* out) {
    constexpr int kSize = kChannels ? kChannels : 16;
    const int64_t count = kChannels ? kChannels : channels;
    const Taps& t = window.t;
    Sum total[kSize];
    for (int64_t i = 0; i < kSize; ++i) total[i] = 0;
    window.each_tap([&](int64_t pixel, int64_t tap) {
        const float* __restrict from = t.x + pixel * t.pitch + channel;
        const float* __restrict weight = t.weight + tap * t.channels + channel;
        for (int64_t c = 0; c < count; ++c) total[c] += static_cast<Sum>(from[c]) * static_cast<Sum>(weight[c]);
    });
    for (int64_t c = 0; c < count; ++c) out[channel + c] = total[c];
}

template <class Sum>
void depthwise_lines(const Taps& t, int64_t first, int64_t last) {
    constexpr int64_t kMany = 256 / sizeof(Sum);
    each_output(t, first, last, [&](const Window& window, int64_t output) {
        Sum* out = static_cast<Sum*>(t.out) + output * t.channels;
        int64_t channel = 0;
        for (; channel + kMany <= t.channels; channel += kMany) one_output<kMany>(window, channel, kMany, out);
        for (; channel + 16 <= t.channels; channel += 16) one_output<16>(window, channel, 16, out);
        if (channel < t.channels) one_output<0>(window, channel, t.channels - channel, out);
    });
}

// Sixteen channels of one output, or fewer.
INLINE int64_t one_output_of_integers(const ScaledTaps& s, const Window& window, int64_t channel, const int32_t* block_of, float* out) {
    const Taps& t = s.taps;
    const int64_t count = std::min<int64_t>(16, t.channels - channel);
    const bool is_whole = count == 16;
    int32_t total[16] = {0}, exact[16] = {0};
    const auto add = [&](int64_t channels, const float* from, const float* weight, const float* of_x, const float* of_w) {
        for (int64_t c = 0; c < channels; ++c) {
            const int32_t scale = static_cast<int32_t>(of_x[block_of[channel + c]] * of_w[c]);
            const int32_t rounded = std::min((scale + s.up + ((scale >> s.shift) & s.odd)) >> s.shift, s.most);
            const int32_t addend = static_cast<int32_t>(from[c] * s.x_by) * static_cast<int32_t>(weight[c]) * rounded;
            exact[c] += addend;
            total[c] = std::min(std::max(total[c] + addend, s.low), s.high);
        }
    };
    window.each_tap([&](int64_t pixel, int64_t tap) {
        const int64_t weight = tap * t.channels + channel;
        const float *from = t.x + pixel * t.pitch + channel, *of_x = s.x_inside + pixel * s.blocks;
        if (is_whole) add(16, from, t.weight + weight, of_x, s.w_inside + weight);
        else add(count, from, t.weight + weight, of_x, s.w_inside + weight);
    });
    int64_t overflows = 0;
    for (int64_t c = 0; c < count; ++c) {
        out[channel + c] = static_cast<float>(total[c]);
        overflows += total[c] != exact[c];
    }
    return overflows;
}

int64_t integer_lines(const ScaledTaps& s, int64_t first, int64_t last) {
    const Taps& t = s.taps;
    std::vector<int32_t> block_of(t.channels);
    for (int64_t c = 0; c < t.channels; ++c) block_of[c] = static_cast<int32_t>(c / s.block);
    int64_t overflows = 0;
    each_output(t, first, last, [&](const Window& window, int64_t output) {
        float* out = static_cast<float*>(t.out) + output * t.channels;
        for (int64_t channel = 0; channel < t.channels; channel += 16)
            overflows += one_output_of_integers(s, window, channel, block_of.data(), out);
    });
    return overflows;
}

void depthwise_any(const Taps& t, int64_t first, int64_t last) {
    if (t.is_wide) depthwise_lines<double>(t, first, last);
    else depthwise_lines<float>(t, first, last);
}

}  // namespace

extern const Rescale rescale = rescale_any;
extern const Depthwise depthwise = depthwise_any;
extern const DepthwiseIntegers depthwise_integers = integer_lines;

}  // namespace LEVEL
