// X x_n A_n^T, from one small matrix product with the vectors along the rows of the right factor.
#pragma once
#include "cpu/level/panels.inl"

namespace tsm::TSM_LEVEL {
namespace {

// acc[m][n] += sum_k rows[m * ld + k] q[k * ldq + n] for MR rows and NR vectors; memory ahead is fetched by the line,
// one a step, so that these never fill the queue that the rows wait in.
template <class T, int MR, int NR>
static inline __attribute__((always_inline)) void row_products(const T* rows, int64_t ld, int64_t depth, const T* q,
                                                               int64_t ldq, Ahead ahead, Vec<T> (&acc)[MR][NR]) {
    constexpr int L = kLanes<T>;
    const T* from = rows;
    const T* half = rows + MR / 2 * ld;  // two pointers and multiples of ld, not a register for every row
    auto step = [&]() __attribute__((always_inline)) {
        Vec<T> b[NR];
        for (int v = 0; v < NR; ++v) b[v] = load(q + v * L);
        q += ldq;
        for (int r = 0; r < MR; ++r) {
            const Vec<T> a = splat(r < MR / 2 ? from[r * ld] : half[(r - MR / 2) * ld]);
            for (int v = 0; v < NR; ++v) acc[r][v] += a * b[v];
        }
        ++from;
        ++half;
    };
    const int64_t fetched = ahead.lines() < depth ? ahead.lines() : depth;
    int64_t k = 0;
    for (; k < fetched; ++k) {
        __builtin_prefetch(ahead.next + k * 64, 0, 2);
        step();
    }
    for (; k < depth; ++k) step();
}

// c[m][n] = sum_k p(k, m) q[k * ldq + n] on MR rows and NR vectors, added to c where `more`; the last vector has `last`
// columns when `last` > 0. ALONG: p(k, m) = p[m * ldp + k], else p[k * ldp + m]. `lines` of the memory ahead a step.
template <class T, bool ALONG, int MR, int NR>
static inline void product_tile(int64_t depth, const T* p, int64_t ldp, const T* q, int64_t ldq, int64_t last, T* c,
                                int64_t ldc, bool more, Ahead& ahead, int64_t lines) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MR][NR] = {};
    if (more)
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 3
            for (int v = 0; v < NR; ++v) {
                const T* from = c + r * ldc + v * L;
                acc[r][v] = v == NR - 1 && last > 0 ? load_first(from, last) : load(from);
            }
    const T* row[MR];
    for (int r = 0; r < MR; ++r) row[r] = p + (ALONG ? r * ldp : r);
    auto step = [&](int64_t k) __attribute__((always_inline)) {
        Vec<T> b[NR];
        for (int v = 0; v < NR - 1; ++v) b[v] = load(q + v * L);
        b[NR - 1] = last > 0 ? load_first(q + (NR - 1) * L, last) : load(q + (NR - 1) * L);
        q += ldq;
        for (int r = 0; r < MR; ++r) {
            const Vec<T> a = splat(ALONG ? row[r][k] : p[r]);
            for (int v = 0; v < NR; ++v) acc[r][v] += a * b[v];
        }
        if (!ALONG) p += ldp;
    };
    const int64_t most = lines > 0 ? ahead.lines() / lines : 0, fetched = most < depth ? most : depth;
    const char* fetch = ahead.next;
    ahead.next += fetched * lines * 64;
    int64_t k = 0;
    for (; k < fetched; ++k) {
        for (int64_t l = 0; l < lines; ++l, fetch += 64) __builtin_prefetch(fetch, 0, 2);
        step(k);
    }
    for (; k < depth; ++k) step(k);
    // Unrolled, so that the sums stay in registers up to here.
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NR; ++v) {
            if (v == NR - 1 && last > 0)
                store_first(c + r * ldc + v * L, acc[r][v], last);
            else
                store(c + r * ldc + v * L, acc[r][v]);
        }
}

template <class T, bool ALONG, int MR>
static inline void product_rows(int64_t columns, int64_t depth, const T* p, int64_t ldp, const T* q, int64_t ldq, T* c,
                                int64_t ldc, bool more, Ahead& ahead, int64_t lines) {
    constexpr int L = kLanes<T>, NR = 3;
    int64_t n = 0;
    for (; n + NR * L < columns; n += NR * L)
        product_tile<T, ALONG, MR, NR>(depth, p, ldp, q + n, ldq, 0, c + n, ldc, more, ahead, lines);
    const int64_t last = (columns - n) % L;
    switch ((columns - n + L - 1) / L) {
        case 3:
            product_tile<T, ALONG, MR, 3>(depth, p, ldp, q + n, ldq, last, c + n, ldc, more, ahead, lines);
            break;
        case 2:
            product_tile<T, ALONG, MR, 2>(depth, p, ldp, q + n, ldq, last, c + n, ldc, more, ahead, lines);
            break;
        case 1:
            product_tile<T, ALONG, MR, 1>(depth, p, ldp, q + n, ldq, last, c + n, ldc, more, ahead, lines);
            break;
        default:
            break;
    }
}

template <class T, bool ALONG>
static inline void product_block(int64_t rows, int64_t columns, int64_t depth, const T* p, int64_t ldp, const T* q,
                                 int64_t ldq, T* c, int64_t ldc, bool more, Ahead ahead) {
    constexpr int MR = TSM_VECTOR_BYTES == 64 ? 8 : 4, width = 3 * kLanes<T>;
    const int64_t step = ALONG ? ldp : 1;
    const int64_t steps = depth * ((rows + MR - 1) / MR) * ((columns + width - 1) / width);
    const int64_t lines = (ahead.lines() + steps - 1) / steps;
    int64_t m = 0;
    for (; m + MR <= rows; m += MR)
        product_rows<T, ALONG, MR>(columns, depth, p + m * step, ldp, q, ldq, c + m * ldc, ldc, more, ahead, lines);
    if (MR > 4 && m + 4 <= rows) {
        product_rows<T, ALONG, 4>(columns, depth, p + m * step, ldp, q, ldq, c + m * ldc, ldc, more, ahead, lines);
        m += 4;
    }
    if (m + 2 <= rows) {
        product_rows<T, ALONG, 2>(columns, depth, p + m * step, ldp, q, ldq, c + m * ldc, ldc, more, ahead, lines);
        m += 2;
    }
    if (m < rows)
        product_rows<T, ALONG, 1>(columns, depth, p + m * step, ldp, q, ldq, c + m * ldc, ldc, more, ahead, lines);
}

// c[m][n] = sum_k p[k * ldp + m] q[k * ldq + n] for NC columns, added to c where `more`: rows in vectors.
template <class T, int NC>
static inline void product_columns(int64_t rows, int64_t depth, const T* p, int64_t ldp, const T* q, int64_t ldq, T* c,
                                   int64_t ldc, bool more) {
    constexpr int L = kLanes<T>;
    for (int64_t m = 0; m < rows; m += L) {
        const int64_t count = rows - m < L ? rows - m : L;
        T sums[NC][L] = {};
        for (int n = 0; more && n < NC; ++n)
            for (int64_t r = 0; r < count; ++r) sums[n][r] = c[(m + r) * ldc + n];
        Vec<T> acc[NC];
        for (int n = 0; n < NC; ++n) acc[n] = load(sums[n]);
        for (int64_t k = 0; k < depth; ++k) {
            const T* from = p + k * ldp + m;
            const Vec<T> a = count < L ? load_first(from, count) : load(from);
            for (int n = 0; n < NC; ++n) acc[n] += a * splat(q[k * ldq + n]);
        }
        for (int n = 0; n < NC; ++n) {
            store(sums[n], acc[n]);
            for (int64_t r = 0; r < count; ++r) c[(m + r) * ldc + n] = sums[n][r];
        }
    }
}

// Bytes of what is read once in a product, that the tiles find again in a near cache while the next are fetched.
constexpr int64_t kReadBlock = 512 * TSM_VECTOR_BYTES;

// Columns that would fill little of a vector stand in vectors of rows instead, where p lies so.
template <class T, bool ALONG>
static void product_part(int64_t rows, int64_t columns, int64_t depth, const T* p, int64_t ldp, const T* q, int64_t ldq,
                         T* c, int64_t ldc, bool more, Ahead ahead) {
    constexpr int64_t L = kLanes<T>;
    const int64_t few = columns % L * ((rows + L - 1) / L), alone = !ALONG && few < rows ? columns % L : 0;
    int64_t n = columns - alone;
    if (n > 0) product_block<T, ALONG>(rows, n, depth, p, ldp, q, ldq, c, ldc, more, ahead);
    for (; n + 4 <= columns; n += 4) product_columns<T, 4>(rows, depth, p, ldp, q + n, ldq, c + n, ldc, more);
    for (; n < columns; ++n) product_columns<T, 1>(rows, depth, p, ldp, q + n, ldq, c + n, ldc, more);
}

// Where q is larger than what stays in the second cache it is read once, block after block, and c is added to.
template <class T, bool ALONG>
static void product_by_tiles(int64_t rows, int64_t columns, int64_t depth, const T* p, int64_t ldp, const T* q,
                             int64_t ldq, T* c, int64_t ldc) {
    const auto row = static_cast<int64_t>(sizeof(T)) * ldq;
    int64_t block = kReadBlock / row > 16 ? kReadBlock / row : 16;
    if (depth <= 2 * block) block = depth;
    const char* end = reinterpret_cast<const char*>(q + (depth - 1) * ldq + columns);
    for (int64_t k = 0; k < depth; k += block) {
        const int64_t kc = depth - k < block ? depth - k : block;
        const char* next = reinterpret_cast<const char*>(q + kc * ldq);
        const char* last = next + block * row < end ? next + block * row : end;
        const Ahead ahead = next < end ? Ahead{next, last} : Ahead{nullptr, nullptr};
        product_part<T, ALONG>(rows, columns, kc, p, ldp, q, ldq, c, ldc, k > 0, ahead);
        p += kc * (ALONG ? 1 : ldp);
        q += kc * ldq;
    }
}

// The same for elements that are vectors themselves, one product a lane.
template <class V, int MR, int NR>
static inline void lanes_tile(int64_t depth, const V* p, int64_t along_m, int64_t along_k, const V* q, int64_t ldq,
                              V* c, int64_t ldc) {
    V acc[MR][NR] = {};
    for (int64_t k = 0; k < depth; ++k, p += along_k, q += ldq)
#pragma GCC unroll 4
        for (int r = 0; r < MR; ++r) {
            const V a = p[r * along_m];
#pragma GCC unroll 4
            for (int v = 0; v < NR; ++v) acc[r][v] += a * q[v];
        }
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < NR; ++v) c[r * ldc + v] = acc[r][v];
}

template <class V, int MR>
static inline void lanes_rows(int64_t columns, int64_t depth, const V* p, int64_t along_m, int64_t along_k, const V* q,
                              int64_t ldq, V* c, int64_t ldc) {
    constexpr int NR = TSM_VECTOR_BYTES == 64 ? 4 : 2;  // sums stay in registers
    int64_t n = 0;
    for (; n + NR <= columns; n += NR) lanes_tile<V, MR, NR>(depth, p, along_m, along_k, q + n, ldq, c + n, ldc);
    if (columns - n == 3) lanes_tile<V, MR, 3>(depth, p, along_m, along_k, q + n, ldq, c + n, ldc);
    if (columns - n == 2) lanes_tile<V, MR, 2>(depth, p, along_m, along_k, q + n, ldq, c + n, ldc);
    if (columns - n == 1) lanes_tile<V, MR, 1>(depth, p, along_m, along_k, q + n, ldq, c + n, ldc);
}

template <class V>
static void lanes_product(int64_t rows, int64_t columns, int64_t depth, const V* p, int64_t along_m, int64_t along_k,
                          const V* q, int64_t ldq, V* c, int64_t ldc) {
    for (; rows >= 4; rows -= 4, p += 4 * along_m, c += 4 * ldc)
        lanes_rows<V, 4>(columns, depth, p, along_m, along_k, q, ldq, c, ldc);
    if (rows == 3) lanes_rows<V, 3>(columns, depth, p, along_m, along_k, q, ldq, c, ldc);
    if (rows == 2) lanes_rows<V, 2>(columns, depth, p, along_m, along_k, q, ldq, c, ldc);
    if (rows == 1) lanes_rows<V, 1>(columns, depth, p, along_m, along_k, q, ldq, c, ldc);
}

// c [rows, columns] = p q, q [depth, columns], and p [rows, depth] (ALONG) or its transpose. T: a number, or a vector
// of numbers that belong to different products.
template <class T, bool ALONG>
static void product(int64_t rows, int64_t columns, int64_t depth, const T* p, int64_t ldp, const T* q, int64_t ldq,
                    T* c, int64_t ldc) {
    if constexpr (sizeof(T) > 8)
        lanes_product(rows, columns, depth, p, ALONG ? ldp : 1, ALONG ? 1 : ldp, q, ldq, c, ldc);
    else
        product_by_tiles<T, ALONG>(rows, columns, depth, p, ldp, q, ldq, c, ldc);
}

// y [outer, rank, inner] = x [outer, size, inner] contracted with a [size, rank]
template <class T>
static void mode_product(const T* x, int64_t outer, int64_t size, int64_t inner, const T* a, int64_t rank, T* y) {
    if (inner == 1) {
        product<T, true>(outer, rank, size, x, size, a, rank, y, rank);
        return;
    }
    for (int64_t o = 0; o < outer; ++o)
        product<T, false>(rank, inner, size, a, rank, x + o * size * inner, inner, y + o * rank * inner, inner);
}

// The same on the threads that `at` may take; how it is divided changes no sum.
template <class T>
static void mode_product_in_parts(const ArenaState& at, const T* x, int64_t outer, int64_t size, int64_t inner,
                                  const T* a, int64_t rank, T* y) {
    if constexpr (sizeof(T) > 8) return mode_product<T>(x, outer, size, inner, a, rank, y);
    constexpr int64_t kLeast = 2 << 20, width = 3 * kLanes<T>;  // products of a part
    const int64_t most = 4 * at.threads, worth = outer * size * inner * rank / kLeast;
    const int64_t parts = worth < most ? worth : most;
    if (at.threads == 1 || parts < 2) return mode_product<T>(x, outer, size, inner, a, rank, y);
    if (outer >= parts) {
        in_ranges(at, outer, (outer + parts - 1) / parts, [&](int64_t first, int64_t last, const ArenaState&) {
            mode_product<T>(x + first * size * inner, last - first, size, inner, a, rank, y + first * rank * inner);
        });
        return;
    }
    const int64_t columns = ((inner + parts - 1) / parts + width - 1) / width * width;
    for (int64_t o = 0; o < outer; ++o)
        in_ranges(at, inner, columns, [&](int64_t first, int64_t last, const ArenaState&) {
            product<T, false>(rank, last - first, size, a, rank, x + o * size * inner + first, inner,
                              y + o * rank * inner + first, inner);
        });
}

// Every mode of x (contiguous, [shape]) that has a factor [shape[n], rank[n]] is contracted with it. `spare` holds two
// buffers of x's size; the result lies in one of them, or is x itself when there is no factor.
template <class T, class Product>
static const T* product_with_modes(const T* x, int order, const int64_t* shape, const T* const* factors,
                                   const int64_t* rank, T* const* spare, Product product) {
    int64_t now[kMaxOrder];
    bool done[kMaxOrder] = {};
    for (int i = 0; i < order; ++i) now[i] = shape[i];
    for (int to = 0;; to ^= 1) {
        // The mode that shrinks most goes first.
        int next = -1;
        for (int i = 0; i < order; ++i)
            if (factors[i] && !done[i] && (next < 0 || rank[i] * shape[next] < rank[next] * shape[i])) next = i;
        if (next < 0) return x;
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < next; ++i) outer *= now[i];
        for (int i = next + 1; i < order; ++i) inner *= now[i];
        product(x, outer, shape[next], inner, factors[next], rank[next], spare[to]);
        x = spare[to];
        now[next] = rank[next];
        done[next] = true;
    }
}
template <class T>
static const T* multi_mode_product(const ArenaState& at, const T* x, int order, const int64_t* shape,
                                   const T* const* factors, const int64_t* rank, T* const* spare) {
    return product_with_modes(x, order, shape, factors, rank, spare,
                              [&](auto... of) { mode_product_in_parts<T>(at, of...); });
}

template <class T>
static const T* multi_mode_product(const T* x, int order, const int64_t* shape, const T* const* factors,
                                   const int64_t* rank, T* const* spare) {
    return multi_mode_product<T>(ArenaState{}, x, order, shape, factors, rank, spare);
}

// How many of `columns` columns are too few beside whole vectors for one of their own.
template <class P>
static inline int64_t few_columns(int64_t columns) {
    const int64_t rest = columns % kLanes<P>;
    return columns > kLanes<P> && 4 * rest <= kLanes<P> ? rest : 0;
}

template <class P, int MR, int NR>
static inline void multiply_row_tile(const P* rows, int64_t ld, int64_t depth, const P* b, int64_t ldb, int64_t columns,
                                     int64_t lda, P* a, Ahead ahead) {
    constexpr int L = kLanes<P>;
    Vec<P> acc[MR][NR] = {};
    row_products<P, MR, NR>(rows, ld, depth, b, ldb, ahead, acc);
    const int64_t last = columns - (NR - 1) * L;
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NR; ++v) {
            P* to = a + r * lda + v * L;
            v < NR - 1 || last >= L ? store(to, acc[r][v]) : store_first(to, acc[r][v], last);
        }
}

// One column for MR rows: a[m * lda] = sum_k rows[m * ld + k] b[k], b with zeros up to a whole vector.
template <class P, int MR>
static inline void multiply_row_dots(const P* rows, int64_t ld, int64_t depth, const P* b, int64_t lda, P* a) {
    constexpr int L = kLanes<P>;
    Vec<P> acc[MR] = {};
    int64_t k = 0;
    for (; k + L <= depth; k += L)
        for (int r = 0; r < MR; ++r) acc[r] += load(rows + r * ld + k) * load(b + k);
    if (k < depth)
        for (int r = 0; r < MR; ++r) acc[r] += load_first(rows + r * ld + k, depth - k) * load(b + k);
    for (int r = 0; r < MR; ++r) a[r * lda] = sum_lanes<P>(acc[r]);
}

// a[m][n] = sum_k rows[m * ld + k] b[k * ldb + n] for MR rows and `columns` columns; b is padded to whole vectors. The
// last columns, where they are few_columns, are read from `turned` instead, one a row.
template <class P, int MR>
static inline void multiply_row_block(const P* rows, int64_t ld, int64_t depth, const P* b, int64_t ldb,
                                      int64_t columns, const P* turned, int64_t ldt, P* a, Ahead ahead) {
    constexpr int L = kLanes<P>;
    const int64_t whole = columns - few_columns<P>(columns);
    int64_t j = 0;
    for (; whole - j > 2 * L; j += 3 * L) {
        multiply_row_tile<P, MR, 3>(rows, ld, depth, b + j, ldb, whole - j, columns, a + j, ahead);
        ahead = {nullptr, nullptr};
    }
    if (whole - j > L)
        multiply_row_tile<P, MR, 2>(rows, ld, depth, b + j, ldb, whole - j, columns, a + j, ahead);
    else if (j < whole)
        multiply_row_tile<P, MR, 1>(rows, ld, depth, b + j, ldb, whole - j, columns, a + j, ahead);
    for (j = whole; j < columns; ++j, turned += ldt) multiply_row_dots<P, MR>(rows, ld, depth, turned, columns, a + j);
}

// a [rows, r] = matrix b for a matrix [rows, s] read as P times scale; b [s, r]. seen(rows of a, count) is called as
// they are made.
template <class P, class Seen>
static void multiply_rows(const Tensor& matrix, double scale, const double* b, int64_t r, P* a, Arena scratch,
                          Seen seen) {
    constexpr int MR = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t s = matrix.shape[1], ldb = padded<P>(r);
    P* bp = scratch.take<P>(s * ldb);
    for (int64_t i = 0; i < s; ++i)
        for (int64_t j = 0; j < ldb; ++j) bp[i * ldb + j] = j < r ? static_cast<P>(b[i * r + j]) : P(0);
    const int64_t few = few_columns<P>(r), ldt = padded<P>(s);
    P* turned = scratch.take<P>(few * ldt);
    for (int64_t j = 0; j < few; ++j)
        for (int64_t i = 0; i < ldt; ++i) turned[j * ldt + i] = i < s ? bp[i * ldb + r - few + j] : P(0);
    Panels<P> panels(fibres_of(matrix, 1), Adjust{false, nullptr, 1, scale}, scratch);
    for (int64_t k = 0; k < matrix.shape[0]; k += panels.per_panel) {
        const int64_t kc = matrix.shape[0] - k < panels.per_panel ? matrix.shape[0] - k : panels.per_panel;
        const P* rows = panels.rows(k, kc);
        int64_t i = 0;
        for (; i + MR <= kc; i += MR)
            multiply_row_block<P, MR>(rows + i * panels.ld, panels.ld, s, bp, ldb, r, turned, ldt, a + (k + i) * r,
                                      panels.ahead(k + i, MR));
        for (; i < kc; ++i)
            multiply_row_block<P, 1>(rows + i * panels.ld, panels.ld, s, bp, ldb, r, turned, ldt, a + (k + i) * r,
                                     panels.ahead(k + i, 1));
        seen(a + k * r, kc);
    }
}
// t [s, r] = matrix^T a for a [rows, r].
template <class P, class A>
static void multiply_columns(const Tensor& matrix, double scale, const A* a, int64_t r, double* t, Arena scratch) {
    const int64_t s = matrix.shape[1];
    Panels<P> panels(fibres_of(matrix, 1), Adjust{false, nullptr, 1, scale}, scratch);
    P* ap = scratch.take<P>(panels.per_panel * r);
    P* out = scratch.take<P>(s * r);
    for (int64_t i = 0; i < s * r; ++i) t[i] = 0;
    for (int64_t k = 0; k < matrix.shape[0]; k += panels.per_panel) {
        const int64_t kc = matrix.shape[0] - k < panels.per_panel ? matrix.shape[0] - k : panels.per_panel;
        for (int64_t i = 0; i < kc * r; ++i) ap[i] = static_cast<P>(a[k * r + i]);
        product<P, false>(s, r, kc, panels.rows(k, kc), panels.ld, ap, r, out, r);
        for (int64_t i = 0; i < s * r; ++i) t[i] += static_cast<double>(out[i]);
    }
}

// y[n][r] = sum_k a[k][r] x[n][k] for N matrices x [depth, columns] one behind another, rows of NV vectors, and MR
// columns of a [depth, rank].
template <class T, int N, int NV, int MR>
static inline void short_tile(const T* x, int64_t depth, int64_t columns, const T* a, int64_t rank, T* y,
                              Ahead& ahead) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[MR][N * NV] = {};
    const int64_t size = depth * columns, last = columns - (NV - 1) * L;
    for (int64_t k = 0; k < depth; ++k, x += columns, a += rank) {
        for (int v = 0; v < N * NV; ++v) __builtin_prefetch(ahead.take(1, x), 0, 2);
        Vec<T> row[N * NV];
        for (int v = 0; v < N * NV; ++v) {
            const T* at = x + v / NV * size + v % NV * L;
            row[v] = v % NV < NV - 1 ? load(at) : load_first(at, last);
        }
        for (int r = 0; r < MR; ++r) {
            const Vec<T> factor = splat(a[r]);
            for (int v = 0; v < N * NV; ++v) acc[r][v] += row[v] * factor;
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < N * NV; ++v)
#pragma GCC unroll 4
        for (int r = 0; r < MR; ++r) {
            T* to = y + (v / NV * rank + r) * columns + v % NV * L;
            v % NV < NV - 1 ? store(to, acc[r][v]) : store_first(to, acc[r][v], last);
        }
}
template <class T, int N, int NV>
static inline void short_product(const T* x, int64_t depth, int64_t columns, const T* a, int64_t rank, T* y,
                                 Ahead& ahead) {
    int64_t r = 0;
    for (; r + 4 <= rank; r += 4) short_tile<T, N, NV, 4>(x, depth, columns, a + r, rank, y + r * columns, ahead);
    if (r + 2 <= rank) {
        short_tile<T, N, NV, 2>(x, depth, columns, a + r, rank, y + r * columns, ahead);
        r += 2;
    }
    if (r < rank) short_tile<T, N, NV, 1>(x, depth, columns, a + r, rank, y + r * columns, ahead);
}
// mode_product for rows of one or two vectors.
template <class T>
static void short_products(const T* x, int64_t outer, int64_t size, int64_t inner, const T* a, int64_t rank, T* y,
                           Ahead ahead) {
    const bool pairs = inner <= kLanes<T>;
    int64_t o = 0;
    for (; pairs && o + 2 <= outer; o += 2)
        short_product<T, 2, 1>(x + o * size * inner, size, inner, a, rank, y + o * rank * inner, ahead);
    for (; o < outer; ++o) {
        const T* from = x + o * size * inner;
        T* to = y + o * rank * inner;
        pairs ? short_product<T, 1, 1>(from, size, inner, a, rank, to, ahead)
              : short_product<T, 1, 2>(from, size, inner, a, rank, to, ahead);
    }
}

// Which mode to contract together with the first one, entry by entry of that: where this takes fewer products of
// vectors than the whole item does with the first factor. 0: the first alone; -1: it does not shrink most.
template <class T>
static int mode_beside_first(int order, const int64_t* shape, const T* const* factors, const int64_t* rank) {
    for (int i = 0; i < order; ++i)
        if (!factors[0] || (factors[i] && rank[i] * shape[0] < rank[0] * shape[i])) return -1;
    if (order == 1) return -1;
    const auto vectors = [](int64_t n) { return padded<T>(n) / kLanes<T>; };
    int64_t size = 1, outer = 1;
    for (int i = 1; i < order; ++i) size *= shape[i];
    int best = 0;
    int64_t least = rank[0] * vectors(size), inner = size;
    for (int i = 1; i + 1 < order; ++i, outer *= shape[i - 1]) {
        inner /= shape[i];
        if (!factors[i]) continue;
        const int64_t products =
            outer * shape[i] * rank[i] * vectors(inner) + rank[0] * vectors(outer * rank[i] * inner);
        if (4 * products > 3 * least) continue;
        least = products;
        best = i;
    }
    return best;
}
// y [rank_0, .., rank_mode, ..] = x contracted in both, or in the first alone where `mode` is 0: in one pass over x by
// blocks of its first mode. next: what is read after it, or null.
template <class T>
static void contract_first(const T* x, int order, const int64_t* shape, int mode, const T* const* factors,
                           const int64_t* rank, const void* next, T* y, Arena arena) {
    constexpr int64_t kLeast = 256 << 10;  // entries of a part
    int64_t outer = 1, inner = 1;
    for (int i = 1; i < mode; ++i) outer *= shape[i];
    for (int i = mode + 1; i < order; ++i) inner *= shape[i];
    const int64_t depth = mode > 0 ? shape[mode] : 1, size = outer * depth * inner,
                  left = mode > 0 ? outer * rank[mode] * inner : size, row = size * static_cast<int64_t>(sizeof(T));
    const int64_t block = kReadBlock / row > 16 ? kReadBlock / row : 16, blocks = (shape[0] + block - 1) / block;
    // By its size alone, so that threads change no sum.
    const int64_t by_size = mode > 0 ? shape[0] * size / kLeast : 1, by_sums = shape[0] / (8 * rank[0]),
                  most = by_size < by_sums ? by_size : by_sums,
                  parts = most < 1   ? 1
                          : most < 8 ? most
                                     : 8,
                  sums = rank[0] * left;
    T* more = arena.take<T>((parts - 1) * sums);
    in_parts(arena, parts, [&](int64_t n, const ArenaState& memory) {
        Arena own(memory);
        T* part = mode > 0 ? own.take<T>(block * left) : nullptr;
        T* to = n > 0 ? more + (n - 1) * sums : y;
        const int64_t first = blocks * n / parts * block, end = blocks * (n + 1) / parts * block;
        for (int64_t k = first; k < end && k < shape[0]; k += block) {
            const int64_t count = shape[0] - k < block ? shape[0] - k : block, after = shape[0] - k - count;
            const T* from = x + k * size;
            const char* soon =
                after > 0 ? reinterpret_cast<const char*>(from + count * size) : static_cast<const char*>(next);
            const Ahead none{nullptr, nullptr},
                ahead = soon ? Ahead{soon, soon + (after > 0 && after < block ? after : block) * row} : none;
            const bool rows_are_short = inner <= 2 * kLanes<T>;
            if (mode > 0 && rows_are_short)
                short_products<T>(from, count * outer, depth, inner, factors[mode], rank[mode], part, ahead);
            else if (mode > 0)
                mode_product<T>(from, count * outer, depth, inner, factors[mode], rank[mode], part);
            product_part<T, false>(rank[0], left, count, factors[0] + k * rank[0], rank[0], mode > 0 ? part : from,
                                   left, to, left, k > first, mode > 0 && rows_are_short ? none : ahead);
        }
    });
    for (int64_t i = 0; i < (parts - 1) * sums; ++i) y[i % sums] += more[i];
}

// The item as contiguous T: its own memory, or a copy.
template <class T>
static const T* as_dense(const Tensor& x, Arena& arena) {
    if (const T* own = dense_data<T>(x)) return own;
    T* copy = arena.take<T>(x.size());
    copy_dense<T>(x, 1, copy, arena);
    return copy;
}

// factors[n]: [I_n, R_n], or without data where mode n stays. next: an item that will be read after x, or null.
template <class T>
static void core_contraction_as(const Tensor& x, const Tensor* factors, const void* next, void* out, Arena arena) {
    const T* dense = as_dense<T>(x, arena);
    const T* typed[kMaxOrder];
    int64_t rank[kMaxOrder], size = 1, largest = 1;  // of what lies between X and the result, in whatever order
    for (int i = 0; i < x.order; ++i) {
        typed[i] = factors[i].data ? as_dense<T>(factors[i], arena) : nullptr;
        rank[i] = typed[i] ? factors[i].shape[1] : x.shape[i];
        size *= rank[i];
        largest *= rank[i] > x.shape[i] ? rank[i] : x.shape[i];
    }
    T* spare[2];
    for (auto& buffer : spare) buffer = arena.take<T>(largest);
    int64_t shape[kMaxOrder];
    for (int i = 0; i < x.order; ++i) shape[i] = x.shape[i];
    const int mode = mode_beside_first<T>(x.order, shape, typed, rank);
    if (mode > 0 || (mode == 0 && arena.threads == 1)) {
        T* made = arena.take<T>(largest);
        contract_first<T>(dense, x.order, shape, mode, typed, rank, next, made, arena);
        dense = made;
        typed[0] = typed[mode] = nullptr;
        shape[0] = rank[0];
        shape[mode] = rank[mode];
    }
    const T* y = multi_mode_product<T>(arena, dense, x.order, shape, typed, rank, spare);
    __builtin_memcpy(out, y, static_cast<size_t>(size) * sizeof(T));
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
