// Items as the kernels read them: fibres as rows of T, straight from memory or packed.
#pragma once
#include "cpu/arena.h"
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

// What is subtracted from (`mean`) and multiplied into (`scale`) the elements while a panel is read.
struct Adjust {
    bool center_fibres;   // every fibre minus its own mean
    const double* means;  // or, of what was scaled, means[(k / period) * n + j] for element j of fibre k; null: none
    int64_t period;
    double scale;     // a power of two
    double gain = 1;  // another one, for what is left after the mean
};

// to[r * ld + j] = from[j * step + r] * factor for r < run and j < n: `run` fibres that lie side by side. Where ld has
// room, whole vectors of a row are filled up with zeros.
template <class T, class S, class Wide>
static inline void pack_side_by_side(const S* from, int64_t step, int64_t n, int64_t run, Wide factor, T* to,
                                     int64_t ld) {
    constexpr int L = kLanes<T>;
    const auto by_one = [&](int64_t r0, int64_t r1, int64_t j0, int64_t j1) {
        for (int64_t j = j0; j < j1; ++j)
            for (int64_t r = r0; r < r1; ++r)
                to[r * ld + j] = static_cast<T>(static_cast<Wide>(to_float(from[j * step + r])) * factor);
    };
    const int64_t rows = run / L * L, columns = ld >= padded<T>(n) ? padded<T>(n) : n / L * L;
    for (int64_t r = 0; r < rows; r += L) {
        for (int64_t j = 0; j < columns; j += L) {
            Vec<T> v[L] = {};
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) {
                if (j + i >= n) continue;
                const S* at = from + (j + i) * step + r;
                __builtin_prefetch(at + L, 0, 2);
                for (int l = 0; l < L; ++l) v[i][l] = static_cast<T>(static_cast<Wide>(to_float(at[l])) * factor);
            }
            transpose<T>(v);
#pragma GCC unroll 16
            for (int i = 0; i < L; ++i) store(to + (r + i) * ld + j, v[i]);
        }
        by_one(r, r + L, columns, n);
    }
    by_one(rows, run, 0, n);
    for (int64_t r = rows; r < run; ++r)
        for (int64_t j = n; j < columns; ++j) to[r * ld + j] = 0;
}

// One fibre, its elements `step` apart.
template <class T, class S, class Wide>
static inline void pack_row(const S* from, int64_t step, int64_t n, Wide factor, T* to) {
    int64_t j = 0;
    if constexpr (kConvertsHalves<T, S>)
        for (; step == 1 && j + kLanes<T> <= n; j += kLanes<T>) store(to + j, load_halves(from + j) * factor);
    if constexpr (sizeof(T) == sizeof(S))
        for (; step == 2 && j + kLanes<T> < n; j += kLanes<T>) {
            const T* at = reinterpret_cast<const T*>(from + 2 * j);
            store(to + j, even_lanes<T>(load(at), load(at + kLanes<T>)) * static_cast<T>(factor));
        }
    if (step == 1)
        for (; j < n; ++j) to[j] = static_cast<T>(static_cast<Wide>(to_float(from[j])) * factor);
    else
        for (; j < n; ++j) to[j] = static_cast<T>(static_cast<Wide>(to_float(from[j * step])) * factor);
}

// The same for every second T, or for T side by side, with zeros behind them up to a whole vector.
template <class T>
static inline void pack_every_second(const T* from, int64_t n, T factor, T* to) {
    constexpr int L = kLanes<T>;
    for (int64_t j = 0; j < n; j += L, from += 2 * L) {
        const int64_t left = 2 * (n - j) - 1;
        const Vec<T> low = left < L ? load_first(from, left) : load(from);
        const Vec<T> high = left < 2 * L ? load_first(from + L, left > L ? left - L : 0) : load(from + L);
        store(to + j, even_lanes<T>(low, high) * factor);
    }
}
template <class T>
static inline void pack_whole_row(const T* from, int64_t n, T factor, T* to) {
    constexpr int L = kLanes<T>;
    int64_t j = 0;
    for (; j + L <= n; j += L) store(to + j, load(from + j) * factor);
    if (j < n) store(to + j, load_first(from + j, n - j) * factor);
}
template <class T, class S>
constexpr bool kIsSame = false;
template <class T>
constexpr bool kIsSame<T, T> = true;

template <class T, class S>
static void pack_fibres(const Fibres& f, double scale, int64_t k0, int64_t kc, T* out, int64_t ld) {
    const S* data = static_cast<const S*>(f.data);
    using Wide = decltype(T{} * to_float(S{}));
    const auto factor = static_cast<Wide>(scale);
    int64_t index[kMaxOrder];
    int64_t rest = k0, offset = 0;
    for (int d = f.others - 1; d >= 0; --d) {
        index[d] = rest % f.shape[d];
        rest /= f.shape[d];
        offset += index[d] * f.stride[d];
    }
    const int last = f.others - 1;
    for (int64_t k = 0; k < kc;) {
        // A run of fibres whose starts are evenly spaced.
        const int64_t left = f.shape[last] - index[last];
        const int64_t run = left < kc - k ? left : kc - k;
        const int64_t gap = f.stride[last];
        const S* from = data + offset;
        T* to = out + k * ld;
        int64_t filled = f.n;
        if (kIsSame<T, S> && (f.step == 1 || f.step == 2) && ld >= padded<T>(f.n)) {
            filled = padded<T>(f.n);
            const T* typed = reinterpret_cast<const T*>(from);
            const T by = static_cast<T>(factor);
            for (int64_t r = 0; r < run; ++r, typed += gap)
                f.step == 1 ? pack_whole_row(typed, f.n, by, to + r * ld)
                            : pack_every_second(typed, f.n, by, to + r * ld);
        } else if (f.step == 1 || gap != 1) {
            for (int64_t r = 0; r < run; ++r) pack_row<T, S, Wide>(from + r * gap, f.step, f.n, factor, to + r * ld);
        } else {
            pack_side_by_side<T, S, Wide>(from, f.step, f.n, run, factor, to, ld);
            if (ld >= padded<T>(f.n)) filled = padded<T>(f.n);
        }
        for (int64_t r = 0; r < run; ++r)
            for (int64_t j = filled; j < ld; ++j) to[r * ld + j] = 0;
        k += run;
        index[last] += run;
        offset += run * gap;
        for (int d = last; d > 0 && index[d] == f.shape[d]; --d) {
            offset += f.stride[d - 1] - index[d] * f.stride[d];
            index[d] = 0;
            ++index[d - 1];
        }
    }
}

// A row less its mean. Less its first entry before, a constant one is exactly 0, and one of little contrast keeps its
// digits.
template <class T>
static inline void center_row(T* row, int64_t n, T gain, bool to_whole_vectors) {
    constexpr int L = kLanes<T>;
    const T first = row[0];
    const int64_t last = n % L, full = n - last;
    const Vec<T> one = splat(T(1)), on = load_first(reinterpret_cast<const T*>(&one), last);
    const Vec<T> tail = (load_first(row + full, last) - first) * on;
    Vec<T> sums = tail;
    for (int64_t j = 0; j < full; j += L) sums += load(row + j) - first;
    const T mean = sum_lanes<T>(sums) / static_cast<T>(n);
    for (int64_t j = 0; j < full; j += L) store(row + j, (load(row + j) - first - mean) * gain);
    if (last > 0 && to_whole_vectors)
        store(row + full, (tail - mean * on) * gain);
    else if (last > 0)
        store_first(row + full, (tail - mean * on) * gain, last);
}

// Fibres [k0, k0 + kc) as rows of T: [kc, ld], zeros behind column n.
template <class T>
static void pack_panel(const Fibres& f, const Adjust& how, int64_t k0, int64_t kc, T* rows, int64_t ld) {
    switch (f.dtype) {
        case DType::f16:
            pack_fibres<T, Half>(f, how.scale, k0, kc, rows, ld);
            break;
        case DType::bf16:
            pack_fibres<T, BFloat>(f, how.scale, k0, kc, rows, ld);
            break;
        case DType::f32:
            pack_fibres<T, float>(f, how.scale, k0, kc, rows, ld);
            break;
        case DType::f64:
            pack_fibres<T, double>(f, how.scale, k0, kc, rows, ld);
            break;
    }
    if (!how.center_fibres && !how.means) return;
    const T gain = static_cast<T>(how.gain);
    for (int64_t k = 0; k < kc; ++k) {
        T* row = rows + k * ld;
        if (how.center_fibres) {
            center_row(row, f.n, gain, ld >= padded<T>(f.n));
        } else {
            const double* mean = how.means + (k0 + k) / how.period * f.n;
            for (int64_t j = 0; j < f.n; ++j) row[j] = static_cast<T>((row[j] - mean[j]) * how.gain);
        }
    }
}

// Memory that will be read soon; take() hands out the next lines of it.
struct Ahead {
    const char *next, *end;
    int64_t lines() const { return (end - next + 63) / 64; }
    const char* take(int64_t lines, const void* otherwise) {
        if (next >= end) return static_cast<const char*>(otherwise);
        const char* from = next;
        next += lines * 64;
        return from;
    }
};

// Rows of one item as the kernels read them: straight from memory where it already looks like that, else packed.
template <class T>
struct Panels {
    Fibres f;
    Adjust how;
    bool direct;
    int64_t ld;  // of the rows handed out
    int64_t per_panel;
    T* buffer;  // [per_panel, ld] unless direct

    // A panel fits the first-level cache where its rows do, and the second where they are longer.
    static int64_t rows_per_panel(int64_t n) {
        const int64_t rows = (n <= 64 ? 24576 : 524288) / (padded<T>(n) * static_cast<int64_t>(sizeof(T)));
        return rows < 16 ? 16 : rows > 128 ? 128 : rows / 8 * 8;
    }

    Panels(const Fibres& fibres, const Adjust& adjust, Arena& arena) : f(fibres), how(adjust) {
        const DType own = sizeof(T) == 4 ? DType::f32 : DType::f64;
        direct = f.dtype == own && f.step == 1 && f.others == 1 && how.scale == 1 && !how.center_fibres && !how.means;
        per_panel = rows_per_panel(f.n);
        const int64_t packed = padded<T>(f.n);  // off the distance at which rows would share a few sets of the cache
        ld = direct ? f.stride[0] : packed % 128 == 0 ? packed + kLanes<T> : packed;
        buffer = direct ? nullptr : arena.take<T>(per_panel * ld);
    }
    const T* rows(int64_t k0, int64_t kc) const {
        if (direct) return static_cast<const T*>(f.data) + k0 * ld;
        pack_panel<T>(f, how, k0, kc, buffer, ld);
        return buffer;
    }
    // The `count` rows that stand one panel behind row k.
    Ahead ahead(int64_t k, int64_t count) const {
        const Ahead rows = ahead(k + per_panel);
        const int64_t bytes = count * f.n * size_of(f.dtype);
        return {rows.next, rows.end - rows.next < bytes ? rows.end : rows.next + bytes};
    }
    // Where the panel after this one lies, if in one piece: the kernels fetch it meanwhile, a line a step.
    Ahead ahead(int64_t k0) const {
        if (f.step != 1 || f.others != 1 || f.stride[0] != f.n || k0 >= f.count) return {nullptr, nullptr};
        const int64_t kc = f.count - k0 < per_panel ? f.count - k0 : per_panel, row = f.n * size_of(f.dtype);
        const char* from = static_cast<const char*>(f.data) + k0 * row;
        return {from, from + kc * row};
    }
};

// ---- whole items ----

constexpr int64_t kPartOfCopy = 1 << 17;  // elements

// The item's own memory where it is contiguous T already, else null.
template <class T>
static const T* dense_data(const Tensor& x) {
    if (x.dtype != (sizeof(T) == 4 ? DType::f32 : DType::f64)) return nullptr;
    int64_t expected = 1;
    for (int i = x.order - 1; i >= 0; --i) {
        if (x.shape[i] != 1 && x.stride[i] != expected) return nullptr;
        expected *= x.shape[i];
    }
    return static_cast<const T*>(x.data);
}

// The item times a power of two as contiguous T.
template <class T>
static void copy_dense(const Tensor& x, double scale, T* out, const ArenaState& at) {
    const Fibres f = fibres_of(x, x.order - 1);
    in_ranges(at, f.count, 1 + kPartOfCopy / f.n, [&](int64_t first, int64_t last, const ArenaState&) {
        pack_panel<T>(f, Adjust{false, nullptr, 1, scale}, first, last - first, out + first * f.n, f.n);
    });
}

// The same item as a matrix [I_first, product of the others]; false where the others do not lie in memory like one
// mode.
static inline bool as_matrix(const Tensor& x, int first, Tensor* matrix) {
    const Fibres f = fibres_of(x, first);
    if (f.others != 1) return false;
    *matrix = Tensor{x.data, x.dtype, 2, {f.n, f.count}, {f.step, f.stride[0]}};
    return true;
}

static inline Tensor dense_tensor(const void* data, DType dtype, int order, const int64_t* shape) {
    Tensor t{data, dtype, order, {}, {}};
    int64_t step = 1;
    for (int i = order - 1; i >= 0; --i) {
        t.shape[i] = shape[i];
        t.stride[i] = step;
        step *= shape[i];
    }
    return t;
}

// The largest magnitude of an item; NaN or Inf where it holds one.
static inline double largest_magnitude(const Fibres& f, const Adjust& how, Arena arena) {
    double* row = arena.take<double>(f.n);
    double largest = 0;
    for (int64_t k = 0; k < f.count; ++k) {
        pack_panel<double>(f, how, k, 1, row, f.n);
        for (int64_t j = 0; j < f.n; ++j) {
            const double size = __builtin_fabs(row[j]);
            if (!(size <= 1.7976931348623157e308)) return size;
            largest = size > largest ? size : largest;
        }
    }
    return largest;
}
static inline double largest_magnitude(const Tensor& x, Arena arena) {
    return largest_magnitude(fibres_of(x, x.order - 1), Adjust{false, nullptr, 1, 1}, arena);
}

// The power of two to multiply an item with before squaring, so that the squares keep their digits in T.
template <class T>
static inline double safe_scale(double largest) {
    int exponent = 0;
    if (largest > 0) __builtin_frexp(largest, &exponent);
    const int limit = sizeof(T) == 4 ? 126 : 1000;
    exponent = exponent > limit ? limit : exponent < -limit ? -limit : exponent;
    return __builtin_ldexp(1.0, -exponent);
}

// The scale that brings an item whose squares are out of range of P into it; false where there is nothing to decompose.
template <class P, class Item>
static bool find_scale(Item& item, Arena scratch) {
    const double largest = largest_magnitude(item.x, scratch);
    item.finite = largest <= 1.7976931348623157e308;
    if (!item.finite || largest == 0) return false;
    item.scale = safe_scale<P>(largest);
    return true;
}

// Whether no square in a sum of them that matters has vanished or overflowed in T.
template <class T>
static bool squares_in_range(double sum) {
    const double low = sizeof(T) == 4 ? 1e-20 : 1e-250, high = sizeof(T) == 4 ? 1e30 : 1e250;
    return sum > low && sum < high;
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
