// What the largest and the smallest products of the rows of a matrix with columns are.
#pragma once
#include "cpu/level/core_contraction.inl"
#include "cpu/level/word_dots.inl"

namespace tsm::TSM_LEVEL {
namespace {

// Columns that are made by whole vectors, some of them empty; the others one by one.
template <class P>
static int64_t by_tiles(int64_t columns) {
    const int64_t rest = columns % kLanes<P>;
    return rest <= 3 ? columns - rest : columns - rest + kLanes<P>;
}

template <class T, int MR, int NR>
static inline void extreme_tile(const T* rows, int64_t ld, int64_t depth, const T* q, int64_t ldq, Ahead ahead, T* most,
                                T* least) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MR][NR] = {};
    row_products<T, MR, NR>(rows, ld, depth, q, ldq, ahead, acc);
#pragma GCC unroll 3
    for (int v = 0; v < NR; ++v) {
        Vec<T> high = load(most + v * L), low = load(least + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
            high = acc[r][v] > high ? acc[r][v] : high;
            low = acc[r][v] < low ? acc[r][v] : low;
        }
        store(most + v * L, high);
        store(least + v * L, low);
    }
}
template <class T>
static inline T row_dot(const T* row, const T* b, int64_t n) {  // b is padded with zeros
    constexpr int L = kLanes<T>;
    Vec<T> sum{};
    int64_t j = 0;
    for (; j + L <= n; j += L) sum += load(row + j) * load(b + j);
    if (j < n) sum += load_first(row + j, n - j) * load(b + j);
    return sum_lanes<T>(sum);
}
// The largest and the smallest entry, or 0, of each column of (rows of `f`) b, b [f.n, columns] in double, without
// writing the product: whole vectors of columns by tiles, the rest by dots. high, low: [columns]
template <class T>
static void extremes(const Fibres& f, const Adjust& how, const double* b, int64_t ldb, int64_t columns, double* high,
                     double* low, Arena scratch) {
    constexpr int L = kLanes<T>, NR = 3, MR = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t whole = by_tiles<T>(columns), np = padded<T>(f.n);
    T* tiles = scratch.take<T>(f.n * whole);
    T* dots = scratch.take<T>((columns > whole ? columns - whole : 1) * np);
    T* most = scratch.take<T>(whole + L);
    T* least = scratch.take<T>(whole + L);
    for (int64_t i = 0; i < f.n; ++i)
        for (int64_t j = 0; j < whole; ++j) tiles[i * whole + j] = j < columns ? static_cast<T>(b[i * ldb + j]) : T(0);
    for (int64_t j = whole; j < columns; ++j)
        for (int64_t i = 0; i < np; ++i) dots[(j - whole) * np + i] = i < f.n ? static_cast<T>(b[i * ldb + j]) : T(0);
    for (int64_t j = 0; j < whole + L; ++j) most[j] = least[j] = 0;

    Panels<T> panels(f, how, scratch);
    for (int64_t k = 0; k < f.count; k += panels.per_panel) {
        const int64_t count = f.count - k < panels.per_panel ? f.count - k : panels.per_panel;
        const T* rows = panels.rows(k, count);
        for (int64_t j = 0; j < whole; j += NR * L) {
            const int64_t left = (whole - j) / L;
            int64_t r = 0;
            const Ahead none{nullptr, nullptr};
            for (; r + MR <= count; r += MR) {
                const Ahead ahead = j == 0 ? panels.ahead(k + r, MR) : none;
                const T* at = rows + r * panels.ld;
                if (left >= 3)
                    extreme_tile<T, MR, 3>(at, panels.ld, f.n, tiles + j, whole, ahead, most + j, least + j);
                else if (left == 2)
                    extreme_tile<T, MR, 2>(at, panels.ld, f.n, tiles + j, whole, ahead, most + j, least + j);
                else
                    extreme_tile<T, MR, 1>(at, panels.ld, f.n, tiles + j, whole, ahead, most + j, least + j);
            }
            for (; r < count; ++r)
                for (int64_t v = 0; v < (left < 3 ? left : 3); ++v)
                    extreme_tile<T, 1, 1>(rows + r * panels.ld, panels.ld, f.n, tiles + j + v * L, whole, none,
                                          most + j + v * L, least + j + v * L);
        }
        for (int64_t j = whole; j < columns; ++j)
            for (int64_t r = 0; r < count; ++r) {
                const T x = row_dot(rows + r * panels.ld, dots + (j - whole) * np, f.n);
                most[j] = x > most[j] ? x : most[j];
                least[j] = x < least[j] ? x : least[j];
            }
    }
    for (int64_t j = 0; j < columns; ++j) {
        high[j] = static_cast<double>(most[j]);
        low[j] = static_cast<double>(least[j]);
    }
}

// The same in 16-bit integers, where there are such. off[j]: how far that may have moved those of column j.
static void word_extremes(const Fibres& f, const Adjust& how, const double* b, int64_t ldb, int64_t columns,
                          double* high, double* low, double* off, Arena scratch) {
#if defined(__AVX2__)
    constexpr int64_t L = kLanes<float>;
    const int64_t whole = by_tiles<float>(columns), pairs = (f.n + 1) / 2, ld = (f.n + 2 * L - 1) / (2 * L) * 2 * L;
    WordColumns c{f.n, columns, whole, ld};
    c.tiles = scratch.take<int32_t>(pairs * whole);
    c.dots = scratch.take<int16_t>((columns > whole ? columns - whole : 1) * ld);
    c.rows = scratch.take<int16_t>(kWordRows * ld);
    c.inverse = scratch.take<float>(whole + L);
    c.most = scratch.take<float>(whole + L);
    c.least = scratch.take<float>(whole + L);
    for (int64_t j = 0; j < whole + L; ++j) c.inverse[j] = c.most[j] = c.least[j] = 0;
    double* factor = scratch.take<double>(columns);
    double* moved2 = scratch.take<double>(columns);
    double* sum = scratch.take<double>(columns);
    for (int64_t j = 0; j < columns; ++j) factor[j] = moved2[j] = sum[j] = 0;
    for (int64_t i = 0; i < f.n; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            const double x = b[i * ldb + j], size = __builtin_fabs(x);
            moved2[j] += x * x;
            factor[j] = size > factor[j] ? size : factor[j];
        }
    for (int64_t j = 0; j < columns; ++j) {
        const double by_length = kColumnLimit / __builtin_sqrt(moved2[j]), by_entry = kWordLimit / factor[j];
        factor[j] = !(factor[j] > 0) ? 0 : by_length < by_entry ? by_length : by_entry;
        c.inverse[j] = factor[j] > 0 ? static_cast<float>(1 / factor[j]) : 0;
        moved2[j] = 0;
    }
    int32_t* pair = scratch.take<int32_t>(columns);
    for (int64_t i = 0; i < pairs * c.whole; ++i) c.tiles[i] = 0;
    for (int64_t i = 0; i < (columns - c.whole) * ld; ++i) c.dots[i] = 0;
    for (int64_t i = 0; i < pairs; ++i) {
        const double *first = b + 2 * i * ldb, *second = 2 * i + 1 < f.n ? first + ldb : first, other = 2 * i + 1 < f.n;
        for (int64_t j = 0; j < columns; ++j) {
            const double x = first[j] * factor[j], y = second[j] * factor[j] * other;
            const double u = __builtin_rint(x), v = __builtin_rint(y);
            pair[j] = (static_cast<int32_t>(u) & 0xffff) | static_cast<int32_t>(v) * 65536;
            sum[j] += __builtin_fabs(u) + __builtin_fabs(v);
            moved2[j] += (x - u) * (x - u) + (y - v) * (y - v);
        }
        for (int64_t j = 0; j < columns && j < c.whole; ++j) c.tiles[i * c.whole + j] = pair[j];
        for (int64_t j = c.whole; j < columns; ++j)
            reinterpret_cast<int32_t*>(c.dots)[(j - c.whole) * ld / 2 + i] = pair[j];
    }
    // Of a row's entries each is moved by half a unit, and a bit for the rounding of floats.
    for (int64_t j = 0; j < columns; ++j)
        off[j] = factor[j] > 0 ? (__builtin_sqrt(moved2[j]) + 0.51 / kWordLimit * sum[j]) / factor[j] : 0;
    const WordPanel own = TSM_VECTOR_BYTES == 64 ? wide_word_panel() : nullptr, panel = own ? own : word_panel;
    Panels<float> panels(f, how, scratch);
    for (int64_t k = 0; k < f.count; k += panels.per_panel) {
        const int64_t count = f.count - k < panels.per_panel ? f.count - k : panels.per_panel;
        const float* rows = panels.rows(k, count);
        for (int64_t r = 0; r < count; r += kWordRows) {
            const int64_t some = count - r < kWordRows ? count - r : kWordRows;
            const Ahead ahead = panels.ahead(k + r, some);
            const float* at = rows + r * panels.ld;
            panel(c, at, panels.ld, some, ahead.lines() > 0 ? ahead.next : reinterpret_cast<const char*>(at),
                  ahead.lines());
        }
    }
    for (int64_t j = 0; j < columns; ++j) {
        high[j] = static_cast<double>(c.most[j]);
        low[j] = static_cast<double>(c.least[j]);
        off[j] *= c.longest;
    }
#else
    extremes<float>(f, how, b, ldb, columns, high, low, scratch);
    for (int64_t j = 0; j < columns; ++j) off[j] = 0;
#endif
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
