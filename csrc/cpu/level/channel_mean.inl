// The mean over channels of one item [C, H, W]: a few channels at a time in P, and these sums in double.
#pragma once
#include "cpu/level/panels.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int64_t kChannelsPerSum = 32;

template <class P>
static inline void add_vector(Vec<P> sum, int64_t count, double* sums) {
    P part[kLanes<P>];
    store(part, sum);
    for (int64_t l = 0; l < kLanes<P> && l < count; ++l) sums[l] += static_cast<double>(part[l]);
}

// sums [n] += the `count` rows, each ld apart. What stands one sum behind is fetched meanwhile.
template <class P>
static void add_rows(const P* rows, int64_t ld, int64_t count, int64_t n, double* sums) {
    constexpr int L = kLanes<P>;
    const auto at = [&](int64_t r, int64_t j) {
        const P* from = rows + r * ld + j;
        __builtin_prefetch(from + kChannelsPerSum * ld, 0, 2);
        return n - j < L ? load_first(from, n - j) : load(from);
    };
    for (int64_t j = 0; j < n; j += L) {
        Vec<P> acc[4] = {};
        int64_t r = 0;
        for (; r + 4 <= count; r += 4)
            for (int i = 0; i < 4; ++i) acc[i] += at(r + i, j);
        for (; r < count; ++r) acc[0] += at(r, j);
        add_vector<P>((acc[0] + acc[1]) + (acc[2] + acc[3]), n - j, sums + j);
    }
}
// The same for rows of at most NV vectors, row after row: the machine fetches by itself what is read in order.
template <class P, int NV>
static void add_short_rows(const P* rows, int64_t ld, int64_t count, int64_t n, double* sums) {
    constexpr int L = kLanes<P>, whole = NV - 1;
    if constexpr (NV > 1)
        if (n <= whole * L) return add_short_rows<P, NV - 1>(rows, ld, count, n, sums);
    Vec<P> acc[NV] = {};
    for (int64_t r = 0; r < count; ++r, rows += ld) {
        for (int v = 0; v < whole; ++v) acc[v] += load(rows + v * L);
        acc[whole] += n < NV * L ? load_first(rows + whole * L, n - whole * L) : load(rows + whole * L);
    }
    for (int v = 0; v < NV; ++v) add_vector<P>(acc[v], n - v * L, sums + v * L);
}

template <class P>
static void add_channels(const Tensor& matrix, double scale, double* sums, Arena scratch) {  // [C, S]
    const int64_t channels = matrix.shape[0], n = matrix.shape[1];
    Panels<P> panels(fibres_of(matrix, 1), Adjust{false, nullptr, 1, scale}, scratch);
    for (int64_t i = 0; i < n; ++i) sums[i] = 0;
    for (int64_t k = 0; k < channels; k += panels.per_panel) {
        const int64_t kc = channels - k < panels.per_panel ? channels - k : panels.per_panel;
        const P* rows = panels.rows(k, kc);
        const auto add = n <= 8 * kLanes<P> ? add_short_rows<P, 8> : add_rows<P>;
        for (int64_t i = 0; i < kc; i += kChannelsPerSum)
            add(rows + i * panels.ld, panels.ld, kc - i < kChannelsPerSum ? kc - i : kChannelsPerSum, n, sums);
    }
}

// map: [H, W], of x times a power of two; false where that is not finite
template <class P>
static bool channel_mean_as(const Tensor& x, double scale, double* map, Arena arena) {
    const int64_t height = x.shape[1], width = x.shape[2], size = height * width;
    Tensor matrix;
    if (as_matrix(x, 0, &matrix)) {
        add_channels<P>(matrix, scale, map, arena);
    } else {
        for (int64_t h = 0; h < height; ++h) {
            const char* row = static_cast<const char*>(x.data) + h * x.stride[1] * size_of(x.dtype);
            matrix = {row, x.dtype, 2, {x.shape[0], width}, {x.stride[0], x.stride[2]}};
            add_channels<P>(matrix, scale, map + h * width, arena);
        }
    }
    for (int64_t i = 0; i < size; ++i) map[i] /= static_cast<double>(x.shape[0]) * scale;
    return largest_of(map, size) <= 1.7976931348623157e308;
}

// Sums may leave the range of their type where the mean does not. An item with NaN or Inf has a map of NaN.
static bool channel_mean(bool wide, const Tensor& x, double* map, Arena arena) {
    const bool finite = (!wide && channel_mean_as<float>(x, 1, map, arena)) ||
                        channel_mean_as<double>(x, 1, map, arena) || channel_mean_as<double>(x, 0x1p-64, map, arena);
    for (int64_t i = 0; !finite && i < x.shape[1] * x.shape[2]; ++i) map[i] = __builtin_nan("");
    return finite;
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
