// Symmetric matrices to tridiagonal form and back (LAPACK sytd2, ormtr), in two layouts:
//   lockstep  one matrix per SIMD lane: each scalar operation of the textbook is one vector operation
//   one       one matrix, vectors along its rows; eigenvectors in strips of kLanes, [strips, n] vectors
#pragma once
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

// A sum of squares below this has lost digits to underflow, and what it makes is no reflector and no rotation. Beside a
// matrix with entries about 1 it is nothing: its root is far below kEpsilon.
template <class T>
constexpr T kNoSquare = (sizeof(T) == 8 ? T(2.2250738585072014e-308) : T(1.1754944e-38)) / kEpsilon<T>;

// Rows [i, i + RB) of the pass below, from column k + 1.
template <class V, int RB>
static inline void update_and_multiply(V* a, int ld, int first, int i, const V* v0, const V* w0, const V* v, V* p) {
    V* row[RB];
    V vi[RB], wi[RB], ui[RB], acc[RB];
    for (int r = 0; r < RB; ++r) {
        row[r] = a + (i + r) * ld;
        vi[r] = v0[i + r];
        wi[r] = w0[i + r];
        ui[r] = v[i + r];
        acc[r] = V{};
    }
    for (int j = first; j < i; ++j) {
        V pj = p[j];
        for (int r = 0; r < RB; ++r) {
            const V x = row[r][j] - vi[r] * w0[j] - wi[r] * v0[j];
            row[r][j] = x;
            acc[r] += x * v[j];
            pj += x * ui[r];
        }
        p[j] = pj;
    }
    for (int r = 0; r < RB; ++r) {
        for (int c = 0; c <= r; ++c) {
            const V x = row[r][i + c] - vi[r] * w0[i + c] - wi[r] * v0[i + c];
            row[r][i + c] = x;
            acc[r] += x * v[i + c];
            if (c < r) acc[c] += x * ui[r];
        }
    }
    for (int r = 0; r < RB; ++r) p[i + r] += acc[r];
}

// The sum of the squares of `one` and at(i), i < count; of floats in double.
template <class T, class At>
static inline Vec<T> squares_of(int count, Vec<T> one, At at) {
    if constexpr (sizeof(T) == 8) {
        Vec<T> sum = one * one;
        for (int i = 0; i < count; ++i) sum += at(i) * at(i);
        return sum;
    } else {
        constexpr int L = kLanes<double>, parts = kLanes<T> / L;
        Vec<double> sums[parts] = {};
        for (int i = -1; i < count; ++i) {
            const Vec<T> x = i < 0 ? one : at(i);
            for (int q = 0; q < parts; ++q) {
                Vec<double> wide;
                for (int l = 0; l < L; ++l) wide[l] = static_cast<double>(x[q * L + l]);
                sums[q] += wide * wide;
            }
        }
        Vec<T> sum;
        for (int l = 0; l < kLanes<T>; ++l) sum[l] = static_cast<T>(sums[l / L][l % L]);
        return sum;
    }
}

// A = Q T Q^T, T with diagonal d and off-diagonal e [n - 1]. On entry A's lower triangle; on return reflector k is in
// row k right of the diagonal. work: [4, n].
template <class T>
static void tridiagonalize(Vec<T>* a, int n, int ld, Vec<T>* d, Vec<T>* e, Vec<T>* tau, Vec<T>* work) {
    using V = Vec<T>;
    V *v0 = work, *w0 = work + n, *v = work + 2 * n, *p = work + 3 * n;  // reflector and companion, previous and new
    for (int i = 0; i < n; ++i) v0[i] = w0[i] = V{};
    for (int k = 0; k < n; ++k) {
        for (int i = k; i < n; ++i) a[i * ld + k] -= v0[i] * w0[k] + w0[i] * v0[k];
        d[k] = a[k * ld + k];
        if (k == n - 1) break;
        const V alpha = a[(k + 1) * ld + k];
        const auto column = [&](int i) { return a[(k + 2 + i) * ld + k]; };
        const V rest = squares_of<T>(n - k - 2, V{}, column), norm = vsqrt<T>(alpha * alpha + rest);
        const V beta = alpha < 0 ? norm : -norm;
        const auto none = rest < kNoSquare<T>;
        e[k] = none ? alpha : beta;
        const V scale = none ? V{} : T(1) / (alpha - beta);
        v[k + 1] = splat<T>(1);
        for (int i = k + 2; i < n; ++i) v[i] = a[i * ld + k] * scale;
        tau[k] = (beta - alpha) / beta;
        if constexpr (sizeof(T) == 4)
            tau[k] = T(2) / squares_of<T>(n - k - 2, v[k + 1], [&](int i) { return v[k + 2 + i]; });
        tau[k] = none ? V{} : tau[k];
        for (int i = k + 1; i < n; ++i) {
            a[k * ld + i] = v[i];
            p[i] = V{};
        }
        int i = k + 1;
        for (; i + 4 <= n; i += 4) update_and_multiply<V, 4>(a, ld, k + 1, i, v0, w0, v, p);
        for (; i < n; ++i) update_and_multiply<V, 1>(a, ld, k + 1, i, v0, w0, v, p);
        V pv{};
        for (int j = k + 1; j < n; ++j) pv += p[j] * v[j];
        const V half = tau[k] * tau[k] * pv * T(-0.5);
        for (int j = k + 1; j < n; ++j) p[j] = tau[k] * p[j] + half * v[j];
        V* spare_v = v0;
        V* spare_w = w0;
        v0 = v;
        w0 = p;
        v = spare_v;
        p = spare_w;
    }
}

// z = Q from the reflectors that tridiagonalize left in a.
template <class T>
static void form_q(const Vec<T>* a, int n, int ld, const Vec<T>* tau, Vec<T>* z, Vec<T>* u) {
    using V = Vec<T>;
    for (int i = 0; i < n * ld; ++i) z[i] = V{};
    for (int i = 0; i < n; ++i) z[i * ld + i] = splat<T>(1);
    for (int k = n - 3; k >= 0; --k) {
        const V* v = a + k * ld;
        for (int j = k + 1; j < n; ++j) u[j] = V{};
        int i = k + 1;
        for (; i + 4 <= n; i += 4) {
            const V *z0 = z + i * ld, *z1 = z0 + ld, *z2 = z1 + ld, *z3 = z2 + ld;
            const V v0 = v[i], v1 = v[i + 1], v2 = v[i + 2], v3 = v[i + 3];
            for (int j = k + 1; j < n; ++j) u[j] += (v0 * z0[j] + v1 * z1[j]) + (v2 * z2[j] + v3 * z3[j]);
        }
        for (; i < n; ++i)
            for (int j = k + 1; j < n; ++j) u[j] += v[i] * z[i * ld + j];
        for (i = k + 1; i < n; ++i) {
            const V factor = tau[k] * v[i];
            V* row = z + i * ld;
            for (int j = k + 1; j < n; ++j) row[j] -= factor * u[j];
        }
    }
}

// ---- one matrix, vectors along its rows ----
// Of the rows that remain, the upper triangle is kept, in blocks of kBlock rows whose square on the diagonal is whole.
// The updates of kPanel reflectors wait for one pass (LAPACK latrd), so that every other pass only reads.
template <class T>
constexpr int kBlock = TSM_VECTOR_BYTES == 64 ? 8 : 4;
template <class T>
constexpr int kSquare = kBlock<T> > kLanes<T> ? kBlock<T> : kLanes<T>;
constexpr int kPanel = 8;
template <class T>
static inline int64_t squared(int64_t n) {  // up to whole squares
    return (n + kSquare<T> - 1) / kSquare<T> * kSquare<T>;
}

// p += A v for the block of rows from i, and what their columns behind the square add to the rows below. end: of a row
template <class T>
static inline void multiply_block(const T* a, int64_t ld, int64_t end, int64_t i, const T* v, T* p) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>, RB = kBlock<T>;
    const int64_t square = i / kSquare<T> * kSquare<T>;
    const T* row = a + i * ld;
    V acc[RB] = {}, own[RB];
    for (int r = 0; r < RB; ++r) own[r] = splat<T>(v[i + r]);
    int64_t j = square;
    for (; j < square + kSquare<T>; j += L)
        for (int r = 0; r < RB; ++r) acc[r] += load(row + r * ld + j) * load(v + j);
    for (; j < end; j += L) {
        const V vj = load(v + j);
        V even = load(p + j), odd{};
        for (int r = 0; r < RB; r += 2) {
            const V x = load(row + r * ld + j), y = load(row + (r + 1) * ld + j);
            acc[r] += x * vj;
            acc[r + 1] += y * vj;
            even += x * own[r];
            odd += y * own[r + 1];
        }
        store(p + j, even + odd);
    }
    add_row_sums<T, RB>(acc, p + i);
}

// a -= v w^T + w v^T over `count` pairs, rows ldv apart, on NV vectors of the block of rows from i, from column j.
template <class T, int NV>
static inline void update_block(T* a, int64_t ld, int64_t i, int64_t j, const T* v, const T* w, int64_t ldw,
                                int count) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>, RB = kBlock<T>;
    T* at = a + i * ld + j;
    V sums[RB][NV];
    for (int r = 0; r < RB; ++r)
        for (int c = 0; c < NV; ++c) sums[r][c] = load(at + r * ld + c * L);
    for (int q = 0; q < count; ++q) {
        const T *vq = v + q * ld, *wq = w + q * ldw;
        V vj[NV], wj[NV];
        for (int c = 0; c < NV; ++c) {
            vj[c] = load(vq + j + c * L);
            wj[c] = load(wq + j + c * L);
        }
        for (int r = 0; r < RB; ++r)
            for (int c = 0; c < NV; ++c) {
                sums[r][c] -= vq[i + r] * wj[c];
                sums[r][c] -= wq[i + r] * vj[c];
            }
    }
    for (int r = 0; r < RB; ++r)
        for (int c = 0; c < NV; ++c) store(at + r * ld + c * L, sums[r][c]);
}

// sums[r] = x[r]^T y for N rows, ld apart, on columns [from, end)
template <class T, int N>
static inline void row_products(const T* x, int64_t ld, const T* y, int64_t from, int64_t end, T* sums) {
    constexpr int L = kLanes<T>;
    Vec<T> acc[N] = {};
    for (int64_t j = from; j < end; j += L)
        for (int r = 0; r < N; ++r) acc[r] += load(x + r * ld + j) * load(y + j);
    for (int r = 0; r < N; ++r) sums[r] = 0;
    add_row_sums<T, N>(acc, sums);
}
template <class T>
static inline T row_product(const T* x, const T* y, int64_t from, int64_t end) {
    constexpr int L = kLanes<T>;
    Vec<T> even{}, odd{};
    int64_t j = from;
    for (; j + 2 * L <= end; j += 2 * L) {
        even += load(x + j) * load(y + j);
        odd += load(x + j + L) * load(y + j + L);
    }
    if (j < end) even += load(x + j) * load(y + j);
    return sum_lanes<T>(even + odd);
}

// The squares of n numbers, summed in double.
template <class T>
static inline double sum_of_squares(const T* x, int64_t n) {
    constexpr int64_t L = kLanes<double>;
    Vec<double> sums[2] = {};
    for (int64_t i = 0; i < n; i += L) {
        Vec<double> at;
        for (int64_t l = 0; l < L; ++l) at[l] = static_cast<double>(x[i + l]);
        sums[i / L % 2] += at * at;
    }
    return sum_lanes<double>(sums[0] + sums[1]);
}

// As tridiagonalize, for one whole symmetric matrix a: [squared(n), ld], zeros behind row and column n; d and e `lanes`
// apart. work: [kPanel + 1, ld]
template <class T, class D>
static void tridiagonalize_one(T* a, int n, int64_t ld, D* d, D* e, int lanes, T* tau, T* work) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    const int64_t end = squared<T>(n);
    T *v = work, *ws = work + ld;
    for (int64_t i = 0; i < (kPanel + 1) * ld; ++i) work[i] = 0;
    for (int k = 0; k < n; ++k) {
        const int waiting = k % kPanel;
        const T* vs = a + int64_t{k - waiting} * ld;
        T *row = a + int64_t{k} * ld, *p = ws + waiting * ld;
        const int64_t from = k / L * L, next = (k + 1) / L * L;
        for (int64_t j = from; j < end; j += L) {
            V x = load(row + j), y{};
            for (int q = 0; q < waiting; ++q) {
                x -= vs[q * ld + k] * load(ws + q * ld + j);
                y += ws[q * ld + k] * load(vs + q * ld + j);
            }
            store(v + j, x - y);
        }
        d[k * lanes] = static_cast<D>(v[k]);
        if (k == n - 1) break;
        const T alpha = v[k + 1];
        for (int64_t j = from; j <= k + 1; ++j) v[j] = 0;
        const double rest = sum_of_squares(v + next, end - next);
        const T norm = static_cast<T>(__builtin_sqrt(static_cast<double>(alpha) * static_cast<double>(alpha) + rest));
        const T beta = alpha < 0 ? norm : -norm;
        const bool none = rest < static_cast<double>(kNoSquare<T>);
        e[k * lanes] = static_cast<D>(none ? alpha : beta);
        tau[k] = none ? 0 : (beta - alpha) / beta;
        const T scale = none ? 0 : 1 / (alpha - beta);
        for (int64_t j = next; j < end; j += L) {
            store(v + j, load(v + j) * scale);
            store(p + j, V{});
        }
        v[k + 1] = 1;
        if (sizeof(T) == 4 && !none) tau[k] = static_cast<T>(2 / sum_of_squares(v + next, end - next));
        for (int64_t j = k + 1; j < end; ++j) row[j] = v[j];
        for (int64_t i = (k + 1) / kBlock<T> * kBlock<T>; i < end; i += kBlock<T>) multiply_block(a, ld, end, i, v, p);
        T by_v[kPanel], by_w[kPanel];
        int q = 0;
        for (; q + 4 <= waiting; q += 4) {
            row_products<T, 4>(ws + q * ld, ld, v, next, end, by_v + q);
            row_products<T, 4>(vs + q * ld, ld, v, next, end, by_w + q);
        }
        for (; q < waiting; ++q) {
            by_v[q] = row_product(ws + q * ld, v, next, end);
            by_w[q] = row_product(vs + q * ld, v, next, end);
        }
        for (int64_t j = next; j < end; j += L) {
            V x = load(p + j), y{};
            for (q = 0; q < waiting; ++q) {
                x -= by_v[q] * load(vs + q * ld + j);
                y += by_w[q] * load(ws + q * ld + j);
            }
            store(p + j, x - y);
        }
        const T half = tau[k] * tau[k] * row_product(p, v, next, end) * T(-0.5);
        for (int64_t j = next; j < end; j += L) store(p + j, tau[k] * load(p + j) + half * load(v + j));
        for (int64_t j = next; j <= k; ++j) p[j] = 0;
        if (waiting + 1 < kPanel) continue;
        for (int64_t i = k + 1; i < end; i += kBlock<T>) {
            int64_t j = i / kSquare<T> * kSquare<T>;
            for (; j + 2 * L <= end; j += 2 * L) update_block<T, 2>(a, ld, i, j, vs, ws, ld, kPanel);
            if (j < end) update_block<T, 1>(a, ld, i, j, vs, ws, ld, kPanel);
        }
    }
}

// z in strips of kLanes rows, [ceil(n / kLanes), n] vectors: entry (row, column) at z[row / kLanes][column][row %
// kLanes]. Rows of NS strips become the rows of the product of the reflectors in a.
template <class T, int NS>
static void form_q_strips(const T* a, int n, int64_t ld, const T* tau, Vec<T>* z, int first_row) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    for (int i = 0; i < NS * n; ++i) z[i] = V{};
    for (int r = 0; r < NS * L && first_row + r < n; ++r) z[r / L * n + first_row + r][r % L] = 1;
    for (int k = 0; k < n - 2; ++k) {
        const T* v = a + k * ld;
        V even[NS] = {}, odd[NS] = {};
        int j = k + 1;
        for (; j + 2 <= n; j += 2)
            for (int s = 0; s < NS; ++s) {
                even[s] += v[j] * z[s * n + j];
                odd[s] += v[j + 1] * z[s * n + j + 1];
            }
        if (j < n)
            for (int s = 0; s < NS; ++s) even[s] += v[j] * z[s * n + j];
        for (int s = 0; s < NS; ++s) even[s] = (even[s] + odd[s]) * tau[k];
        for (j = k + 1; j < n; ++j)
            for (int s = 0; s < NS; ++s) z[s * n + j] -= v[j] * even[s];
    }
}

// y <- H y for one reflector, whose entries begin behind k.
template <class V, class D, int NY>
static inline void reflect_by_one(const D* v, int n, int k, D tau, V* y, int64_t step) {
    V t[NY] = {};
    for (int i = k + 1; i < n; ++i)
        for (int r = 0; r < NY; ++r) t[r] += v[i] * y[r * step + i];
    for (int r = 0; r < NY; ++r) t[r] *= tau;
    for (int i = k + 1; i < n; ++i)
        for (int r = 0; r < NY; ++r) y[r * step + i] -= v[i] * t[r];
}

// The reflectors go four at a time, but for the last few: H_k H_k+1 H_k+2 H_k+3 = I - V T V^T, T upper triangular.
// In both layouts: D are vectors in lockstep and numbers otherwise.
static inline int fours_of(int n) {
    return n > 2 ? (n - 2) / 4 : 0;
}
// The T of each four: [fours_of(n), 4, 4]
template <class T, class D>
static void block_reflectors(const D* a, int n, int64_t ld, const D* tau, D* blocks) {
    using V = Vec<T>;
    constexpr int step = sizeof(V) / sizeof(D);
    for (int q = 0; q < fours_of(n); ++q) {
        D* block = blocks + 16 * q;
        for (int j = 0; j < 4; ++j) {
            const D t = tau[4 * q + j], *own = a + (4 * q + j) * ld;
            D dots[4];
            for (int i = 0; i < j; ++i) {
                const D* other = a + (4 * q + i) * ld;
                V sums{};
                int at = 4 * q + j + 1;
                for (; at + step <= n; at += step) sums += load_as<V>(other + at) * load_as<V>(own + at);
                dots[i] = total<D>(sums);
                for (; at < n; ++at) dots[i] += other[at] * own[at];
            }
            for (int i = 0; i < j; ++i) {
                D sum{};
                for (int l = i; l < j; ++l) sum += block[4 * i + l] * dots[l];
                block[4 * i + j] = -t * sum;
            }
            block[5 * j] = t;
        }
    }
}
// y <- Q y for NY vectors of n entries, `step` apart.
template <class T, int NY, class D>
static void reflect_strips(const D* a, int n, int64_t ld, const D* tau, const D* blocks, Vec<T>* y, int64_t step) {
    using V = Vec<T>;
    const int fours = fours_of(n);
    for (int k = n - 3; k >= 4 * fours; --k) reflect_by_one<V, D, NY>(a + k * ld, n, k, tau[k], y, step);
    for (int q = fours - 1; q >= 0; --q) {
        const D *v0 = a + 4 * q * ld, *v1 = v0 + ld, *v2 = v1 + ld, *v3 = v2 + ld, *block = blocks + 16 * q;
        const int head = 4 * q + 1;  // where the first of them begins; the fourth at head + 3
        V t[4][NY] = {};
        for (int r = 0; r < NY; ++r) {
            const V* at = y + r * step + head;
            t[0][r] = v0[head] * at[0] + v0[head + 1] * at[1] + v0[head + 2] * at[2];
            t[1][r] = v1[head + 1] * at[1] + v1[head + 2] * at[2];
            t[2][r] = v2[head + 2] * at[2];
        }
        for (int i = head + 3; i < n; ++i)
            for (int r = 0; r < NY; ++r) {
                const V at = y[r * step + i];
                t[0][r] += v0[i] * at;
                t[1][r] += v1[i] * at;
                t[2][r] += v2[i] * at;
                t[3][r] += v3[i] * at;
            }
        for (int r = 0; r < NY; ++r) {
            for (int i = 0; i < 4; ++i) {
                V sum = block[5 * i] * t[i][r];
                for (int j = i + 1; j < 4; ++j) sum += block[4 * i + j] * t[j][r];
                t[i][r] = sum;
            }
            V* at = y + r * step + head;
            at[0] -= v0[head] * t[0][r];
            at[1] -= v0[head + 1] * t[0][r] + v1[head + 1] * t[1][r];
            at[2] -= v0[head + 2] * t[0][r] + v1[head + 2] * t[1][r] + v2[head + 2] * t[2][r];
        }
        for (int i = head + 3; i < n; ++i)
            for (int r = 0; r < NY; ++r)
                y[r * step + i] =
                    y[r * step + i] - v0[i] * t[0][r] - v1[i] * t[1][r] - v2[i] * t[2][r] - v3[i] * t[3][r];
    }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
