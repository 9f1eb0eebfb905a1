// Eigenpairs of small symmetric matrices in lockstep, one matrix per SIMD lane.
#pragma once
#include "cpu/level/eigen/tridiagonal.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int kLockstep = 64;

// Every column's entry of largest magnitude becomes positive; the first one on a tie. vectors: [n, rank]
template <class T>
static void point_up(Vec<T>* vectors, int n, int rank) {
    for (int j = 0; j < rank; ++j) {
        Vec<T> most{}, entry{};
        for (int i = 0; i < n; ++i) {
            const Vec<T> x = vectors[i * rank + j], size = vabs<T>(x);
            entry = size > most ? x : entry;
            most = size > most ? size : most;
        }
        for (int i = 0; i < n; ++i) vectors[i * rank + j] = entry < 0 ? -vectors[i * rank + j] : vectors[i * rank + j];
    }
}

// Solves kLanes matrices of size n <= kLockstep at once.
template <class T>
struct LaneEigen {
    using V = Vec<T>;
    static constexpr int L = kLanes<T>;
    int n, ld;  // an odd leading dimension keeps columns out of one cache set
    V *z, *d, *e, *tau, *work, *rotations, *d_work, *e_work, *coefficients;
    LaneEigen(int size, Arena& arena) : n(size), ld(size | 1) {
        z = arena.take<V>((n + kSetsAtOnce - 1) * ld);
        d = arena.take<V>(n);
        e = arena.take<V>(n);
        tau = arena.take<V>(n);
        d_work = arena.take<V>(n);
        e_work = arena.take<V>(n);
        work = arena.take<V>(((kShiftedVectors<T> + 1) * kSetsAtOnce + 1) * (n + kSetsAtOnce));
        rotations = arena.take<V>(kSweepsKept * 2 * n);
        coefficients = arena.take<V>(TwoSided<V>::coefficients(n) + kSetsAtOnce * n);
    }

    // a: [n, ld], lower triangle, entries about 1, destroyed. Returns values [rank] and vectors [n, rank], whose loss
    // of orthonormality is at most `loss`. plain: as in Wanted
    void solve(V* a, int rank, V* values, V* vectors, double loss, bool plain = false) {
        tridiagonalize<T>(a, n, ld, d, e, tau, work);
        V by_ql = splat<T>(1), lost{};
        if constexpr (sizeof(T) == 8) {
            by_ql = by_inverse_iteration(a, rank, values, vectors, plain);
            lost = judged(rank, vectors);
            by_ql = lost <= kLost ? by_ql : splat<T>(1);
        }
        if (any(by_ql)) {
            solve_by_ql(a, rank, by_ql, values, vectors);
            lost = judged(rank, vectors);
        }
        const V bent = lost > loss_kept<T>(loss) ? splat<T>(1) : V{};
        if (any(bent)) straighten(a, rank, bent, vectors);
        point_up<T>(vectors, n, rank);
    }
    // a: the lower triangles of count matrices g[lane] [n, n], each times its factor.
    void load_lower(const double* const* g, const double* factor, int count, V* a) const {
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; j += L) {
                V v[L];
                for (int lane = 0; lane < L; ++lane) {
                    const double* row = g[lane < count ? lane : 0] + int64_t{i} * n + j;
                    const int some = n - j < L ? n - j : L;
                    if constexpr (sizeof(T) == 8) {
                        v[lane] = (some == L ? load(row) : load_first(row, some)) * factor[lane < count ? lane : 0];
                    } else {
                        for (int c = 0; c < some; ++c)
                            v[lane][c] = static_cast<T>(row[c] * factor[lane < count ? lane : 0]);
                    }
                }
                transpose<T>(v);
                for (int c = 0; c < L && j + c <= i; ++c) a[i * ld + j + c] = v[c];
            }
    }
    // to[lane][i] = from[i][lane] for i < size
    static void store_lanes(const V* from, int64_t size, int count, double* const* to) {
        for (int64_t i = 0; i < size; i += L) {
            V v[L];
            for (int c = 0; c < L; ++c) v[c] = i + c < size ? from[i + c] : V{};
            transpose<T>(v);
            for (int lane = 0; lane < count; ++lane) {
                if constexpr (sizeof(T) == 8)
                    if (i + L <= size) {
                        store(to[lane] + i, v[lane]);
                        continue;
                    }
                for (int c = 0; c < L && i + c < size; ++c) to[lane][i + c] = static_cast<double>(v[lane][c]);
            }
        }
    }
    static bool any(V lanes) {
        bool one = false;
        for (int lane = 0; lane < L; ++lane) one |= lanes[lane] != 0;
        return one;
    }
    // What the vectors lack of orthonormality.
    V judged(int rank, const V* vectors) {
        V *x = work, *c = work + n;
        for (int j = 0; j < rank; ++j) {
            x[j] = splat(judge<T>(j));
            c[j] = -x[j];
        }
        int i = 0;
        for (; i + 4 <= n; i += 4) judge_rows<V, V, 4>(vectors + i * rank, rank, rank, x, c);
        for (; i < n; ++i) judge_rows<V, V, 1>(vectors + i * rank, rank, rank, x, c);
        V most{};
        for (int j = 0; j < rank; ++j) most = most > vabs<T>(c[j]) ? most : vabs<T>(c[j]);  // where one is NaN, all are
        return most;
    }
    // e: [rank, ld] of scratch
    void straighten(V* e, int rank, V lanes, V* vectors) {
        for (int i = 0; i < rank * ld; ++i) e[i] = V{};
        int i = 0;
        for (; i + 8 <= n; i += 8) add_products<V, V, 8>(vectors + i * rank, rank, rank, e, ld);
        for (; i < n; ++i) add_products<V, V, 1>(vectors + i * rank, rank, rank, e, ld);
        for (int p = 0; p < rank; ++p) {
            e[p * ld + p] = (e[p * ld + p] - T(1)) * T(0.5);
            for (int j = p; j < rank; ++j) e[p * ld + j] = lanes != 0 ? e[p * ld + j] : V{};
        }
        for (i = 0; i + 8 <= n; i += 8) straighten_rows<V, V, 8>(vectors + i * rank, rank, rank, e, ld);
        for (; i < n; ++i) straighten_rows<V, V, 1>(vectors + i * rank, rank, rank, e, ld);
    }
    // The largest eigenvalues of (d, e), and their vectors into z; returns the lanes that have none, as 0 or 1.
    V tridiagonal_pairs(int rank, V* values, bool plain) {
        for (int i = 0; i < n; ++i) {
            d_work[i] = d[i];
            e_work[i] = i < n - 1 ? e[i] : V{};
        }
        eigenvalues_lanes<T>(d_work, e_work, n);
        int* order = reinterpret_cast<int*>(rotations);
        for (int lane = 0; lane < L; ++lane) {
            descending<T>(reinterpret_cast<const T*>(d_work) + lane, n, order);
            for (int j = 0; j < rank; ++j) values[j][lane] = d_work[order[j]][lane];
        }
        return inverse_iteration(d, e, n, values, rank, z, ld, work, coefficients, plain);
    }
    V by_inverse_iteration(const V* a, int rank, V* values, V* vectors, bool plain) {
        const V failed = tridiagonal_pairs(rank, values, plain);
        constexpr int NY = TSM_VECTOR_BYTES == 64 ? 4 : 2;  // what the registers hold
        block_reflectors<T>(a, n, ld, tau, work);
        int j = 0;
        for (; j + NY <= rank; j += NY) reflect_strips<T, NY>(a, n, ld, tau, work, z + j * ld, ld);
        for (; j < rank; ++j) reflect_strips<T, 1>(a, n, ld, tau, work, z + j * ld, ld);
        for (int i = 0; i < n; ++i)
            for (j = 0; j < rank; ++j) vectors[i * rank + j] = z[j * ld + i];
        return failed;
    }
    void solve_by_ql(const V* a, int rank, V lanes, V* values, V* vectors) {
        form_q<T>(a, n, ld, tau, z, work);
        ql_lanes<T>(d, e, n, rotations, [&](const V* rot, const int* low, const int* high, int count) {
            int k = 0;
            for (; k + 4 <= n; k += 4) rotate_rows<V, 4>(z + k * ld, n, ld, rot, low, high, count);
            for (; k < n; ++k) rotate_rows<V, 1>(z + k * ld, n, ld, rot, low, high, count);
        });
        int* order = reinterpret_cast<int*>(rotations);
        for (int lane = 0; lane < L; ++lane) {
            if (lanes[lane] == 0) continue;
            descending<T>(reinterpret_cast<const T*>(d) + lane, n, order);
            for (int j = 0; j < rank; ++j) {
                values[j][lane] = d[order[j]][lane];
                for (int i = 0; i < n; ++i) vectors[i * rank + j][lane] = z[i * ld + order[j]][lane];
            }
        }
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
