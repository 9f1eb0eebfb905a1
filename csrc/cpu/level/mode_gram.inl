// G_n = X_(n) X_(n)^T of one item, from panels of fibres: rows of a panel are fibres, so G is a sum of outer products
// and needs no transpose. Products are summed in T over one panel, panels in T by kPanelsPerSum, and these in double.
#pragma once
#include "cpu/level/panels.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int kPanelsPerSum = 4;

// g[i0 + r][j0 + ...] += sum_k rows[k][i0 + r] * rows[k][j0 + ...] for MR rows and NR vectors of G. The last vector
// holds `last` valid columns when `last` > 0.
template <class T, int MR, int NR>
static inline void gram_tile(const T* rows, int64_t ld, int64_t kc, int64_t i0, int64_t j0, int64_t last, T* g,
                             int64_t ldg, Ahead& ahead) {
    constexpr int L = kLanes<T>;
    const char* fetch = ahead.take(kc, rows);
    const int64_t line = fetch == reinterpret_cast<const char*>(rows) ? 0 : 64;
    Vec<T> acc[MR][NR] = {};
    const T *left = rows + i0, *right = rows + j0;
    for (int64_t k = 0; k < kc; ++k, left += ld, right += ld) {
        __builtin_prefetch(fetch, 0, 2);
        fetch += line;
        Vec<T> b[NR];
        for (int v = 0; v < NR - 1; ++v) b[v] = load(right + v * L);
        b[NR - 1] = last > 0 ? load_first(right + (NR - 1) * L, last) : load(right + (NR - 1) * L);
        for (int r = 0; r < MR; ++r) {
            const Vec<T> a = splat(left[r]);
            for (int v = 0; v < NR; ++v) acc[r][v] += a * b[v];
        }
    }
    // Unrolled, so that the sums stay in registers up to here.
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NR; ++v) {
            T* to = g + (i0 + r) * ldg + j0 + v * L;
            store(to, load(to) + acc[r][v]);
        }
}

// The last `left` <= NR vectors of a block of rows.
template <class T, int MR, int NR>
static inline void gram_row_end(const T* rows, int64_t ld, int64_t kc, int64_t i0, int64_t j0, int64_t left,
                                int64_t last, T* g, int64_t ldg, Ahead& ahead) {
    if (left == NR) return gram_tile<T, MR, NR>(rows, ld, kc, i0, j0, last, g, ldg, ahead);
    if constexpr (NR > 1) gram_row_end<T, MR, NR - 1>(rows, ld, kc, i0, j0, left, last, g, ldg, ahead);
}
template <class T, int MR>
static inline void gram_row_block(const T* rows, int64_t ld, int64_t kc, int64_t i0, int64_t j0, int64_t j1,
                                  int64_t last, T* g, int64_t ldg, Ahead& ahead) {
    constexpr int L = kLanes<T>, NR = MR == 1 ? 8 : 3;  // enough sums that none waits for the one before
    int64_t j = j0;
    for (; j + NR * L < j1; j += NR * L) gram_tile<T, MR, NR>(rows, ld, kc, i0, j, 0, g, ldg, ahead);
    gram_row_end<T, MR, NR>(rows, ld, kc, i0, j, (j1 - j) / L, last, g, ldg, ahead);
}

// Upper triangle of G += rows^T rows; g is [n, padded n] and what lies left of the diagonal's vector is not written.
// The last n % L columns would fill one vector in L for every row, so they are computed as rows instead.
template <class T>
static void gram_panel(const T* rows, int64_t ld, int64_t kc, int64_t n, T* g, int64_t ldg, Ahead ahead) {
    constexpr int L = kLanes<T>;
    constexpr int MR = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t whole = n / L * L;
    constexpr int step = MR < L ? MR : L;
    const int64_t corner = L > step && whole > 0 ? whole - L : whole;  // the last diagonal block is one tall tile
    for (int64_t i = 0; i < corner; i += step)
        gram_row_block<T, step>(rows, ld, kc, i, i / L * L, whole, 0, g, ldg, ahead);
    if (corner < whole) gram_tile<T, L, 1>(rows, ld, kc, corner, corner, 0, g, ldg, ahead);
    for (int64_t i = whole; i < n;) {
        if (n - i >= 4) {
            gram_row_block<T, 4>(rows, ld, kc, i, 0, whole + L, n - whole, g, ldg, ahead);
            i += 4;
        } else {
            gram_row_block<T, 1>(rows, ld, kc, i, 0, whole + L, n - whole, g, ldg, ahead);
            i += 1;
        }
    }
}

// Where row i of a Gram matrix begins that gram_panel fills.
template <class T>
static inline int64_t row_begin(int64_t i, int64_t n) {
    constexpr int L = kLanes<T>;
    return i < n / L * L ? i / L * L : 0;
}

// Adds to sums [n, padded n] what fibres [first, last) give, as gram_panel does.
template <class T>
static void add_gram(const Fibres& f, const Adjust& how, int64_t first, int64_t last, double* sums, Arena arena) {
    const int64_t n = f.n, ldg = padded<T>(n);
    Panels<T> panels(f, how, arena);
    const auto add = [&](int64_t k, T* to) {
        const int64_t kc = last - k < panels.per_panel ? last - k : panels.per_panel;
        gram_panel<T>(panels.rows(k, kc), panels.ld, kc, n, to, ldg, panels.ahead(k + kc));
    };
    if constexpr (sizeof(T) == 8) {
        for (int64_t k = first; k < last; k += panels.per_panel) add(k, sums);
    } else {
        T* part = arena.take<T>(n * ldg);
        for (int64_t i = 0; i < n * ldg; ++i) part[i] = 0;
        int waiting = 0;
        for (int64_t k = first; k < last; k += panels.per_panel) {
            add(k, part);
            if (++waiting < kPanelsPerSum && k + panels.per_panel < last) continue;
            waiting = 0;
            for (int64_t i = 0; i < n; ++i)
                for (int64_t j = row_begin<T>(i, n); j < ldg; ++j) {
                    sums[i * ldg + j] += static_cast<double>(part[i * ldg + j]);
                    part[i * ldg + j] = 0;
                }
        }
    }
}

// In how many parts a Gram matrix is summed: by its size alone, so that threads change nothing.
static inline int64_t gram_parts(int64_t n, int64_t count) {
    constexpr int64_t kLeast = 16 << 20, kBytes = 5 << 20;  // products of a part; sums of all parts
    int64_t parts = 1;
    while (parts < 8 && n * n * count >= 2 * parts * kLeast && 2 * parts * n * n * 8 <= kBytes) parts *= 2;
    return parts;
}

// g [n, n], both halves, from the sums that gram_panel leaves.
template <class T>
static void mirror_gram(const double* sums, int64_t n, int64_t ldg, double* g) {
    constexpr int L = kLanes<double>;
    const int64_t whole = n / kLanes<T> * kLanes<T>;
    for (int64_t i = 0; i < whole; i += L)
        for (int64_t j = i; j < whole; j += L) {
            Vec<double> v[L];
#pragma GCC unroll 8
            for (int r = 0; r < L; ++r) {
                v[r] = load(sums + (i + r) * ldg + j);
                if (j == i)
                    for (int l = 0; l < r; ++l) v[r][l] = sums[(i + l) * ldg + j + r];
                store(g + (i + r) * n + j, v[r]);
            }
            if (j == i) continue;
            transpose<double>(v);
#pragma GCC unroll 8
            for (int r = 0; r < L; ++r) store(g + (j + r) * n + i, v[r]);
        }
    for (int64_t i = whole; i < n; ++i)
        for (int64_t j = 0; j <= i; ++j) g[i * n + j] = g[j * n + i] = sums[i * ldg + j];
}

// The whole symmetric G of one item in double, g: [n, n].
template <class T>
static void gram_item(const Fibres& f, const Adjust& how, double* g, Arena arena) {
    const int64_t n = f.n, ldg = padded<T>(n), size = n * ldg, parts = gram_parts(n, f.count);
    const int64_t per_panel = Panels<T>::rows_per_panel(n), panels = (f.count + per_panel - 1) / per_panel;
    double* sums = arena.take<double>(parts * size);
    for (int64_t i = 0; i < parts * size; ++i) sums[i] = 0;
    in_parts(arena, parts, [&](int64_t part, const ArenaState& memory) {
        const int64_t first = panels * part / parts * per_panel, end = panels * (part + 1) / parts * per_panel;
        add_gram<T>(f, how, first, end < f.count ? end : f.count, sums + part * size, Arena(memory));
    });
    for (int64_t part = 1; part < parts; ++part)
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = row_begin<T>(i, n); j < ldg; ++j) sums[i * ldg + j] += sums[part * size + i * ldg + j];
    mirror_gram<T>(sums, n, ldg, g);
}

// The same of fibres less their means, from that of the fibres themselves; false, with g as it was, where the means are
// so large a part of it that what is left would lose digits.
static bool center_gram(double* g, int64_t n, Arena scratch) {
    double* mean = scratch.take<double>(n);
    double trace = 0, total = 0;
    for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += g[i * n + j];
        mean[i] = sum / static_cast<double>(n);
        total += mean[i];
        trace += g[i * n + i];
    }
    if (!(trace - total > trace / 4)) return false;
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) g[i * n + j] -= mean[i] + mean[j] - total / static_cast<double>(n);
    return true;
}

// means[(k / period) * n + j]: element j of fibre k times `scale`, averaged over the `period` fibres that differ in the
// last mode; of equal elements it is exactly their value.
static void last_mode_means(const Fibres& f, int64_t period, double scale, double* means, Arena scratch) {
    Panels<double> panels(f, Adjust{false, nullptr, 1, scale}, scratch);
    double* first = scratch.take<double>(f.n);
    for (int64_t k = 0; k < f.count; k += panels.per_panel) {
        const int64_t kc = f.count - k < panels.per_panel ? f.count - k : panels.per_panel;
        const double* rows = panels.rows(k, kc);
        for (int64_t r = 0; r < kc; ++r) {
            const double* row = rows + r * panels.ld;
            double* mean = means + (k + r) / period * f.n;
            const int64_t at = (k + r) % period;
            for (int64_t j = 0; at == 0 && j < f.n; ++j) {
                first[j] = row[j];
                mean[j] = 0;
            }
            for (int64_t j = 0; j < f.n; ++j) mean[j] += (row[j] - first[j]) / static_cast<double>(period);
            for (int64_t j = 0; at == period - 1 && j < f.n; ++j) mean[j] += first[j];
        }
    }
}

template <class T>
static void mode_gram_as(const Tensor& x, int mode, bool center, double* g, Arena arena) {
    const Fibres f = fibres_of(x, mode);
    Adjust how{center && mode == x.order - 1, nullptr, 1, 1};
    if (center && mode != x.order - 1) {
        how.period = x.shape[x.order - 1];
        double* means = arena.take<double>(f.count / how.period * f.n);
        last_mode_means(f, how.period, 1, means, arena);
        how.means = means;
    }
    gram_item<T>(f, how, g, arena);
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
