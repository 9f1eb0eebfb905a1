// A dense tensor and one factor after another, and the Gram matrices of its unfoldings, for tensors of small modes: X
// is read as it lies, once for all columns of a factor.
#pragma once
#include "cpu/level/core_contraction.inl"
#include "cpu/level/mode_gram.inl"

namespace tsm::TSM_LEVEL {
namespace {

// ---- y [outer, rank, inner] = x [outer, size, inner] times a [size, rank]: `inner` in vectors ----

constexpr int kTallest = TSM_VECTOR_BYTES == 64 ? 16 : 6;  // columns of a whose sums the registers hold
template <int MR>
constexpr int kWide = TSM_VECTOR_BYTES == 64 && MR > 12 ? 1 : 2;

// MR columns of a beside NR vectors of x; the last of these has `last` elements where PART.
template <class T, int MR, int NR, bool PART>
static void inner_tile(const T* x, int64_t inner, int64_t size, const T* a, int64_t rank, T* y, int64_t last) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MR][NR] = {};
    // What follows in the row is read next, unless the rows evict each other from the caches until then.
    const T* ahead = x + (inner * static_cast<int64_t>(sizeof(T)) % 4096 == 0 ? 8 * inner : NR * L);
    for (int64_t k = 0; k < size; ++k, x += inner, ahead += inner, a += rank) {
        __builtin_prefetch(ahead, 0, 3);
        if (NR > 1) __builtin_prefetch(ahead + L, 0, 3);
        Vec<T> b[NR];
#pragma GCC unroll 2
        for (int v = 0; v < NR; ++v) b[v] = PART && v == NR - 1 ? load_first(x + v * L, last) : load(x + v * L);
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const Vec<T> factor = splat(a[r]);
#pragma GCC unroll 2
            for (int v = 0; v < NR; ++v) acc[r][v] += factor * b[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < NR; ++v) {
            T* to = y + r * inner + v * L;
            PART&& v == NR - 1 ? store_first(to, acc[r][v], last) : store(to, acc[r][v]);
        }
}

template <class T>
struct InnerTiles {
    using Tile = void (*)(const T*, int64_t, int64_t, const T*, int64_t, T*, int64_t);
    int64_t width;
    Tile wide, whole, part;  // of `width` elements, of a vector, of less
};
template <class T, int MR = kTallest>
static InnerTiles<T> inner_tiles(int64_t rows) {
    if constexpr (MR > 1)
        if (rows < MR) return inner_tiles<T, MR - 1>(rows);
    return {kWide<MR> * kLanes<T>, inner_tile<T, MR, kWide<MR>, false>, inner_tile<T, MR, 1, false>,
            inner_tile<T, MR, 1, true>};
}

// Elements [begin, end) of `inner`.
template <class T>
static void multiply_inner(const T* x, int64_t outer, int64_t size, int64_t inner, int64_t begin, int64_t end,
                           const T* a, int64_t rank, T* y) {
    constexpr int64_t L = kLanes<T>;
    const int64_t count = (rank + kTallest - 1) / kTallest;
    for (int64_t tile = 0; tile < count; ++tile) {
        const int64_t row = rank * tile / count, next = rank * (tile + 1) / count;
        const InnerTiles<T> tiles = inner_tiles<T>(next - row);
        for (int64_t o = 0; o < outer; ++o) {
            const T* from = x + o * size * inner;
            T* to = y + (o * rank + row) * inner;
            int64_t j = begin;
            for (; j + tiles.width <= end; j += tiles.width)
                tiles.wide(from + j, inner, size, a + row, rank, to + j, 0);
            for (; j < end; j += L)
                (end - j < L ? tiles.part : tiles.whole)(from + j, inner, size, a + row, rank, to + j, end - j);
        }
    }
}

// ---- y [outer, rank] = x [outer, size] a: `rank` in vectors, or where half of one is enough, two elements of x at
// once ----

static inline Vec<float> splat_pair(const float* p) {
    double both;
    __builtin_memcpy(&both, p, 8);
    return reinterpret_cast<Vec<float>>(splat(both));
}
template <class T>
static bool by_pairs(int64_t rank) {
    return sizeof(T) == 4 && 2 * rank <= kLanes<T>;
}
// a as the tiles read it: rows of whole vectors; by pairs, the columns of two rows in turn.
template <class T>
static int64_t packed_size(int64_t size, int64_t rank) {
    return (size + 1) * padded<T>(rank);
}
template <class T>
static void pack_factor(const T* a, int64_t size, int64_t rank, T* packed) {
    const int64_t ld = padded<T>(rank), step = by_pairs<T>(rank) ? 2 : 1;
    for (int64_t i = 0; i < packed_size<T>(size, rank); ++i) packed[i] = 0;
    for (int64_t k = 0; k < size; ++k)
        for (int64_t j = 0; j < rank; ++j) packed[k / step * ld + step * j + k % step] = a[k * rank + j];
}

template <class T, int MR, int NR>
static void row_tile(const T* x, int64_t size, const T* packed, int64_t ld, T* y, int64_t rank, int64_t left) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MR][NR] = {};
    for (int64_t k = 0; k < size; ++k, packed += ld) {
        __builtin_prefetch(x + MR * (size + k), 0, 3);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
            const Vec<T> one = splat(x[r * size + k]);
#pragma GCC unroll 2
            for (int v = 0; v < NR; ++v) acc[r][v] += one * load(packed + v * L);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < NR; ++v) {
            T* to = y + r * rank + v * L;
            left - v* L >= L ? store(to, acc[r][v]) : store_first(to, acc[r][v], left - v * L);
        }
}

template <int MR>
static void pair_tile(const float* x, int64_t size, const float* packed, float* y, int64_t rank) {
    constexpr int L = kLanes<float>;
    Vec<float> acc[MR] = {};
    int64_t k = 0;
    for (; k + 2 <= size; k += 2, packed += L) {
        __builtin_prefetch(x + MR * (size + k), 0, 3);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) acc[r] += splat_pair(x + r * size + k) * load(packed);
    }
    if (k < size)
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) acc[r] += splat(x[r * size + k]) * load(packed);  // beside it stand zeros
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
        Vec<float> even = acc[r], odd = acc[r];
        swap_pair<float, 1>(even, odd);  // each of them twice
        even += odd;
        store_first(y + r * rank, even_lanes<float>(even, even), rank);
    }
}

template <class T>
static void multiply_fibres(const T* x, int64_t outer, int64_t size, const T* packed, int64_t rank, T* y) {
    constexpr int64_t L = kLanes<T>;
    constexpr int MR = 8, MR2 = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t ld = padded<T>(rank);
    if constexpr (sizeof(T) == 4)
        if (by_pairs<T>(rank)) {
            int64_t o = 0;
            for (; o + MR <= outer; o += MR) pair_tile<MR>(x + o * size, size, packed, y + o * rank, rank);
            for (; o < outer; ++o) pair_tile<1>(x + o * size, size, packed, y + o * rank, rank);
            return;
        }
    for (int64_t j = 0; j < rank;) {
        const int64_t left = rank - j;
        const bool two = left > L;
        const int64_t step = two ? MR2 : MR;
        int64_t o = 0;
        for (; o + step <= outer; o += step)
            (two ? row_tile<T, MR2, 2> : row_tile<T, MR, 1>)(x + o * size, size, packed + j, ld, y + o * rank + j, rank,
                                                             left);
        for (; o < outer; ++o)
            (two ? row_tile<T, 1, 2> : row_tile<T, 1, 1>)(x + o * size, size, packed + j, ld, y + o * rank + j, rank,
                                                          left);
        j += two ? 2 * L : L;
    }
}

// On the threads that `at` may take; how it is divided changes no sum.
template <class T>
static void contract_mode(const Arena& at, const T* x, int64_t outer, int64_t size, int64_t inner, const T* a,
                          int64_t rank, T* y) {
    constexpr int64_t kLeast = 2 << 20;  // products of a part
    const int64_t rounds = outer * size * inner * rank / (kLeast * at.threads);
    const int64_t parts = at.threads == 1 || rounds < 1 ? 1 : at.threads * (rounds < 4 ? rounds : 4);
    if (inner == 1) {
        Arena scratch = at;
        T* packed = scratch.take<T>(packed_size<T>(size, rank));
        pack_factor(a, size, rank, packed);
        in_ranges(scratch, outer, (outer + parts - 1) / parts, [&](int64_t first, int64_t last, const ArenaState&) {
            multiply_fibres(x + first * size, last - first, size, packed, rank, y + first * rank);
        });
    } else if (outer >= parts) {
        in_ranges(at, outer, (outer + parts - 1) / parts, [&](int64_t first, int64_t last, const ArenaState&) {
            multiply_inner(x + first * size * inner, last - first, size, inner, int64_t{0}, inner, a, rank,
                           y + first * rank * inner);
        });
    } else {
        constexpr int64_t width = 2 * kLanes<T>;
        const int64_t columns = ((inner + parts - 1) / parts + width - 1) / width * width;
        in_ranges(at, inner, columns, [&](int64_t first, int64_t last, const ArenaState&) {
            multiply_inner(x, outer, size, inner, first, last, a, rank, y);
        });
    }
}

template <class T>
static const T* contract_modes(const Arena& at, const T* x, int order, const int64_t* shape, const T* const* factors,
                               const int64_t* rank, T* const* spare) {
    return product_with_modes(x, order, shape, factors, rank, spare, [&](auto... of) { contract_mode<T>(at, of...); });
}

// ---- Gram matrices in double ----

// g [n, n] = rows^T rows for rows [depth, n]
static void gram_of_rows(const double* rows, int64_t depth, int64_t n, double* g, Arena scratch) {
    const int64_t ld = padded<double>(n);
    double* sums = scratch.take<double>(n * ld);
    for (int64_t i = 0; i < n * ld; ++i) sums[i] = 0;
    gram_panel<double>(rows, n, depth, n, sums, ld, Ahead{nullptr, nullptr});
    mirror_gram<double>(sums, n, ld, g);
}

// Small modes by dots: G = sum of z z^T over slabs z [n, W] of X, rows in double and side by side.
constexpr int64_t kSmallMode = 64;
constexpr int64_t kDots = TSM_VECTOR_BYTES == 64 ? 4 : 3;  // rows of z by which a tile has as many

template <class S>
static inline Vec<double> load_wide(const S* p) {
    typedef S Few __attribute__((vector_size(TSM_VECTOR_BYTES / 8 * sizeof(S))));
    Few few;
    __builtin_memcpy(&few, p, sizeof few);
    return __builtin_convertvector(few, Vec<double>);
}

// sums [n / kDots, n / kDots, kDots, kDots] vectors, blocks right of the diagonal and on it, of n a multiple of kDots
static void add_dots(const double* z, int64_t n, int64_t width, int64_t ld, Vec<double>* sums) {
    constexpr int L = kLanes<double>, D = kDots;
    for (int64_t i = 0; i < n; i += D)
        for (int64_t j = i; j < n; j += D) {
            Vec<double>* own = sums + (i / D * (n / D) + j / D) * D * D;
            Vec<double> acc[D][D];
#pragma GCC unroll 4
            for (int r = 0; r < D; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < D; ++c) acc[r][c] = own[r * D + c];
            const double *left = z + i * ld, *right = z + j * ld;
            for (int64_t k = 0; k < width; k += L) {
                Vec<double> b[D];
#pragma GCC unroll 4
                for (int c = 0; c < D; ++c) b[c] = load(right + c * ld + k);
#pragma GCC unroll 4
                for (int r = 0; r < D; ++r) {
                    const Vec<double> a = load(left + r * ld + k);
#pragma GCC unroll 4
                    for (int c = 0; c < D; ++c) acc[r][c] += a * b[c];
                }
            }
#pragma GCC unroll 4
            for (int r = 0; r < D; ++r)
#pragma GCC unroll 4
                for (int c = 0; c < D; ++c) own[r * D + c] = acc[r][c];
        }
}

// Slabs of x [outer, n, inner] for outer in [first, last), `end` where x ends.
template <class S>
static void add_slabs(const S* x, int64_t first, int64_t last, int64_t n, int64_t inner, const S* end,
                      Vec<double>* sums, Arena scratch) {
    constexpr int64_t L = kLanes<double>;
    const int64_t rows = (n + kDots - 1) / kDots * kDots;
    const int64_t room = 98304 / (8 * rows) / L * L, width = room < 256 ? room : 256;
    const int64_t ld = width + 2 * L;
    double* z = scratch.take<double>(rows * ld);
    for (int64_t i = 0; i < rows * ld; ++i) z[i] = 0;
    int64_t filled = 0;
    const auto flush = [&] {
        const int64_t whole = (filled + L - 1) / L * L;
        for (int64_t i = 0; i < n; ++i)
            for (int64_t c = filled; c < whole; ++c) z[i * ld + c] = 0;
        add_dots(z, rows, whole, ld, sums);
        filled = 0;
    };
    if (inner == 1) {
        for (int64_t o = first; o < last; o += L) {
            const int64_t count = last - o < L ? last - o : L;
            if (filled + count > width) flush();
            for (int64_t k = 0; k < n; k += L) {
                Vec<double> v[L];
                for (int64_t r = 0; r < L; ++r) {
                    const S* from = x + (o + (r < count ? r : 0)) * n + k;
                    v[r] = Vec<double>{};
                    if (r < count && from + L <= end)
                        v[r] = load_wide(from);
                    else
                        for (int64_t c = 0; r < count && k + c < n && c < L; ++c)
                            v[r][c] = static_cast<double>(from[c]);
                }
                transpose<double>(v);
                for (int64_t c = 0; c < L && k + c < n; ++c) store(z + (k + c) * ld + filled, v[c]);
            }
            filled += count;
        }
        flush();
        return;
    }
    for (int64_t o = first; o < last; ++o)
        for (int64_t begin = 0; begin < inner;) {
            if (filled == width) flush();
            const int64_t count = inner - begin < width - filled ? inner - begin : width - filled;
            for (int64_t k = 0; k < n; ++k) {
                const S* from = x + (o * n + k) * inner + begin;
                double* to = z + k * ld + filled;
                int64_t c = 0;
                for (; c < count && from + c + L <= end; c += L) store(to + c, load_wide(from + c));
                for (; c < count; ++c) to[c] = static_cast<double>(from[c]);
            }
            begin += count;
            filled += count;
        }
    flush();
}

// g [n, n] of the unfolding of x [outer, n, inner], n <= kSmallMode
template <class S>
static void small_mode_gram(const S* x, int64_t outer, int64_t n, int64_t inner, double* g, Arena arena) {
    constexpr int64_t D = kDots;
    const int64_t rows = (n + D - 1) / D * D, size = rows * rows;
    const int64_t wanted = gram_parts(n, outer * inner), parts = wanted < outer ? wanted : outer;
    auto* sums = arena.take<Vec<double>>(parts * size);
    for (int64_t i = 0; i < parts * size; ++i) sums[i] = Vec<double>{};
    in_parts(arena, parts, [&](int64_t part, const ArenaState& memory) {
        add_slabs(x, outer * part / parts, outer * (part + 1) / parts, n, inner, x + outer * n * inner,
                  sums + part * size, Arena(memory));
    });
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = i; j < n; ++j) {
            const int64_t at = (i / D * (rows / D) + j / D) * D * D + i % D * D + j % D;
            Vec<double> sum = sums[at];
            for (int64_t part = 1; part < parts; ++part) sum += sums[part * size + at];
            g[i * n + j] = g[j * n + i] = sum_lanes<double>(sum);
        }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
