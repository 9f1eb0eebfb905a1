// Eigenpairs of symmetric matrices of any size: the O(n^3) parts one by one, with the vectors in strips of kLanes rows,
// and the eigenvalues' QL together.
#pragma once
#include "cpu/level/eigen/multisection.inl"
#include "cpu/level/eigen/tridiagonal.inl"

namespace tsm::TSM_LEVEL {
namespace {

// Whether as few as `rank` eigenvalues are found by multisection, and not by QL.
template <class T>
static bool few_eigenvalues(int64_t n, int64_t rank) {
    return sizeof(T) == 8 && 4 * rank <= n;
}

// Solves up to kLanes matrices of any size, one after the other but for their eigenvalues. R: what the matrices are
// reduced in; in float, where T is double, vectors are good to float or refused.
template <class T, class R = T>
struct StripEigen {
    using V = Vec<T>;
    static constexpr bool kReducedInT = sizeof(R) == sizeof(T);
    static constexpr int L = kLanes<T>;
    static constexpr int kMaxCluster = 24;
    static constexpr int kStripsAtOnce = TSM_VECTOR_BYTES == 64 ? 4 : 2;  // of vectors from both ends
    int n, strips;
    int64_t ld;
    R *matrices, *taus, *panel, *blocks;  // blocks: of the reflectors
    T* work;
    T* coefficients;                                               // of TwoSided
    V *z, *d, *e, *found, *d_work, *e_work, *rotations, *shifted;  // found: the eigenvalues, unsorted
    T close;                                                       // eigenvalues that are closer belong to one cluster
    int* order;
    bool pointed;                     // whether every vector's entry of largest magnitude was made positive
    float *narrow_a, *narrow_blocks;  // the reflectors; their blocks and factors
    Vec<float>* narrow_z;

    static int64_t ld_of(int64_t n) { return squared<R>(n) + (squared<R>(n) % 64 == 0 ? kSquare<R> : 0); }
    StripEigen(int size, int group, Arena& arena) : n(size), strips((size + L - 1) / L), ld(ld_of(size)) {
        matrices = arena.take<R>(group * squared<R>(n) * ld);
        taus = arena.take<R>(group * ld);
        panel = arena.take<R>((kPanel + 1) * ld);
        blocks = arena.take<R>(4 * ld);
        work = arena.take<T>(4 * ld);
        z = arena.take<V>(int64_t{strips} * n);
        d = arena.take<V>(n);
        e = arena.take<V>(n);
        found = arena.take<V>(n);
        d_work = arena.take<V>(n);
        e_work = arena.take<V>(n);
        rotations = arena.take<V>(kSweepsKept * 2 * n);
        shifted = arena.take<V>(2 * kShiftedVectors<T> * n);
        coefficients = arena.take<T>(TwoSided<T>::coefficients(n));
        order = arena.take<int>(n);
        if (sizeof(T) < 8) return;
        if (kReducedInT) {
            narrow_a = arena.take<float>(n * ld);
            narrow_blocks = arena.take<float>(5 * ld);
        }
        narrow_z = arena.take<Vec<float>>(int64_t{2} * n);
    }
    static T size_of(T x) { return x < 0 ? -x : x; }
    R* matrix(int lane) {
        return matrices + lane * squared<R>(n) * ld;
    }  // [squared(n), ld], whole, zeros behind row and column n
    const R* tau(int lane) const { return taus + lane * ld; }

    // The eigenvalues of the first `count` matrices, all of them or the `rank` largest.
    void eigenvalues(int count, int rank) {
        for (int lane = 0; lane < count; ++lane)
            tridiagonalize_one<R>(matrix(lane), n, ld, reinterpret_cast<T*>(d) + lane, reinterpret_cast<T*>(e) + lane,
                                  L, taus + lane * ld, panel);
        if constexpr (sizeof(T) == 8)
            if (few_eigenvalues<T>(n, rank)) {
                T *own_d = reinterpret_cast<T*>(d_work), *own_e = own_d + n, *squares = reinterpret_cast<T*>(e_work);
                for (int lane = 0; lane < count; ++lane) {
                    for (int i = 0; i < n; ++i) {
                        own_d[i] = d[i][lane];
                        own_e[i] = e[i][lane];
                    }
                    largest_eigenvalues(own_d, own_e, n, rank, work, squares);
                    for (int j = 0; j < rank; ++j) found[j][lane] = work[j];
                }
                return;
            }
        for (int i = 0; i < n; ++i) {
            for (int lane = count; lane < L; ++lane) d[i][lane] = e[i][lane] = 0;
            found[i] = d[i];
            e_work[i] = i < n - 1 ? e[i] : V{};
        }
        eigenvalues_lanes<T>(found, e_work, n);
    }
    // Where the j-th largest of lane's eigenvalues stands in `found`.
    void sort(int lane, int rank) {
        if (few_eigenvalues<T>(n, rank))
            for (int j = 0; j < rank; ++j) order[j] = j;
        else
            descending<T>(reinterpret_cast<const T*>(found) + lane, n, order);
    }
    // The eigenvectors [n, rank] of lane's matrix for its largest eigenvalues lambda [rank], whose loss of
    // orthonormality is at most `loss`, or `narrow`, kLostInFloat: good to float. False where a matrix that was reduced
    // in float has to be solved again. plain: as in Wanted
    bool vectors(int lane, int rank, T* lambda, double* out, double loss, bool narrow, bool plain) {
        pointed = false;
        const int last = few_eigenvalues<T>(n, rank) ? rank - 1 : n - 1;
        const T top = size_of(found[order[0]][lane]), bottom = size_of(found[order[last]][lane]);
        const T norm = top > bottom ? top : bottom;
        close = static_cast<T>(loss < kCloseLoss ? kClose : kCloseLoss * (norm > 1 ? norm : 1));
        T lost = 0;
        bool sound = false;
        if (sizeof(T) == 8 && by_inverse_iteration(lane, rank, lambda, plain)) {
            block_reflectors<R>(matrix(lane), n, ld, tau(lane), blocks);
            if (narrow && rank > L) {
                reflect_in_float(lane, rank, out);
                pointed = judged(rank, out) <= kLostInFloat;
                if (pointed) return true;
            }
            if constexpr (kReducedInT) {
                reflect_vectors(lane, rank, out);
                lost = judged(rank, out);
                sound = lost <= kLost;
            }
        }
        if constexpr (kReducedInT) {
            if (!sound) {
                solve_by_ql(lane, rank, lambda, out);
                lost = judged(rank, out);
            }
            if (lost > loss_kept<T>(loss)) straighten(matrix(lane), rank, out);
        }
        return kReducedInT;
    }
    // Four rows of `out` from row i in `work`, zeros behind them.
    void take_rows(const double* out, int i, int rank) {
        for (int64_t j = 0; j < 4 * ld; ++j) work[j] = 0;
        for (int r = 0; r < 4 && i + r < n; ++r)
            for (int j = 0; j < rank; ++j) work[r * ld + j] = static_cast<T>(out[int64_t{i + r} * rank + j]);
    }
    // What the vectors lack of orthonormality.
    T judged(int rank, const double* out) {
        T* x = reinterpret_cast<T*>(rotations);
        T* c = x + ld;
        for (int j = 0; j < ld; ++j) {
            x[j] = j < rank ? judge<T>(j) : T(0);
            c[j] = -x[j];
        }
        for (int i = 0; i < n; i += 4) {
            take_rows(out, i, rank);
            judge_rows<V, T, 4>(work, ld, rank, x, c);
        }
        T most = 0;
        for (int j = 0; j < rank; ++j) {
            const T size = size_of(c[j]);
            most = most > size ? most : size;  // where one is NaN, all are
        }
        return most;
    }
    // e: [rank, ld] of scratch
    void straighten(T* e, int rank, double* out) {
        for (int64_t i = 0; i < rank * ld; ++i) e[i] = 0;
        for (int i = 0; i < n; i += 4) {
            take_rows(out, i, rank);
            add_products<V, T, 4>(work, ld, rank, e, ld);
        }
        for (int p = 0; p < rank; ++p) {
            for (int j = p / L * L; j < p; ++j) e[p * ld + j] = 0;
            e[p * ld + p] = (e[p * ld + p] - 1) / 2;
        }
        for (int i = 0; i < n; i += 4) {
            take_rows(out, i, rank);
            straighten_rows<V, T, 4>(work, ld, rank, e, ld);
            for (int r = 0; r < 4 && i + r < n; ++r)
                for (int j = 0; j < rank; ++j) out[int64_t{i + r} * rank + j] = static_cast<double>(work[r * ld + j]);
        }
    }
    void reflect_vectors(int lane, int rank, double* out) {
        const int used = (rank + L - 1) / L;
        int s = 0;
        for (; s + 2 <= used; s += 2) reflect_strips<T, 2>(matrix(lane), n, ld, tau(lane), blocks, z + s * n, n);
        for (; s < used; ++s) reflect_strips<T, 1>(matrix(lane), n, ld, tau(lane), blocks, z + s * n, n);
        for (int i = 0; i < n; ++i) {
            int j = 0;
            if constexpr (sizeof(T) == 8)
                for (; j + L <= rank; j += L) store(out + int64_t{i} * rank + j, z[int64_t{j} / L * n + i]);
            for (; j < rank; ++j) out[int64_t{i} * rank + j] = static_cast<double>(z[int64_t{j} / L * n + i][j % L]);
        }
    }
    // The reflectors in float, on twice as many vectors at once, which then point up.
    void reflect_in_float(int lane, int rank, double* out) {
        constexpr int NY = 2, LF = kLanes<float>;
        const float *reflectors, *factors, *own_tau;
        if constexpr (sizeof(R) == 4) {
            reflectors = matrix(lane);
            factors = blocks;
            own_tau = tau(lane);
        } else {
            const R* a = matrix(lane);
            for (int k = 0; k < n - 2; ++k)
                for (int64_t j = (k + 1) / LF * LF; j < ld; ++j)
                    narrow_a[k * ld + j] = static_cast<float>(a[k * ld + j]);
            float* narrow_tau = narrow_blocks + 4 * ld;
            for (int i = 0; i < 16 * fours_of(n); ++i) narrow_blocks[i] = static_cast<float>(blocks[i]);
            for (int k = 0; k < n; ++k) narrow_tau[k] = static_cast<float>(tau(lane)[k]);
            reflectors = narrow_a;
            factors = narrow_blocks;
            own_tau = narrow_tau;
        }
        for (int first = 0; first < rank; first += NY * LF) {
            for (int y = 0; y < NY * LF; y += L) {
                const bool used = first + y < rank;
                const T* from = reinterpret_cast<const T*>(z + (used ? int64_t{first + y} / L * n : 0));
                float* to = reinterpret_cast<float*>(narrow_z + y / LF * n) + y % LF;
                for (int64_t i = 0; i < n; ++i)
                    for (int l = 0; l < L; ++l) to[i * LF + l] = used ? static_cast<float>(from[i * L + l]) : 0.0f;
            }
            reflect_strips<float, NY>(reflectors, n, ld, own_tau, factors, narrow_z, n);
            for (int y = 0; y < NY && first + y * LF < rank; ++y) {
                Vec<float>* own = narrow_z + y * n;
                normalize_lanes<float>(own, n);
                Vec<float> most{}, entry{};
                for (int i = 0; i < n; ++i) {
                    const Vec<float> size = vabs<float>(own[i]);
                    entry = size > most ? own[i] : entry;
                    most = size > most ? size : most;
                }
                const Vec<float> sign = entry < 0 ? splat(-1.0f) : splat(1.0f);
                for (int i = 0; i < n; ++i) own[i] *= sign;
                const float* from = reinterpret_cast<const float*>(own);
                double* to = out + first + y * LF;
                const int count = rank - first - y * LF;
                for (int64_t i = 0; i < n; ++i) {
                    if (count >= LF)
                        for (int l = 0; l < LF; ++l) to[i * rank + l] = static_cast<double>(from[i * LF + l]);
                    else
                        for (int l = 0; l < count; ++l) to[i * rank + l] = static_cast<double>(from[i * LF + l]);
                }
            }
        }
    }
    void solve_by_ql(int lane, int rank, T* lambda, double* out) {
        by_ql(lane);
        descending<T>(reinterpret_cast<const T*>(d_work), n, order);
        for (int j = 0; j < rank; ++j) {
            lambda[j] = d_work[order[j]][0];
            for (int i = 0; i < n; ++i)
                out[int64_t{i} * rank + j] = static_cast<double>(z[int64_t{i} / L * n + order[j]][i % L]);
        }
    }
    bool by_inverse_iteration(int lane, int rank, const T* lambda, bool plain) {
        T* dl = work;  // this lane's own T
        T* el = work + ld;
        for (int i = 0; i < n; ++i) {
            dl[i] = d[i][lane];
            el[i] = e[i][lane];
        }
        for (int j = kMaxCluster; j < rank; ++j)
            if (lambda[j - kMaxCluster] - lambda[j] < close) return false;
        T shift = lambda[0] + 1;
        const int used = (rank + L - 1) / L;
        int s = 0;
        if constexpr (sizeof(T) == 8) {
            const TwoSided<T> ends(dl, el, n, coefficients);
            while (plain && s < used) {
                constexpr int NS = kStripsAtOnce;
                const bool some = s + NS <= used && from_both_ends<NS>(ends, s, rank, lambda);
                if (!some && !from_both_ends<1>(ends, s, rank, lambda)) {
                    shift = s > 0 ? lambda[s * L - 1] : shift;
                    if (!solve_strips<1>(s, rank, lambda, dl, el, shift)) return false;
                }
                s += some ? NS : 1;
            }
        }
        for (; s + 2 <= used; s += 2)
            if (!solve_strips<2>(s, rank, lambda, dl, el, shift)) return false;
        return s == used || solve_strips<1>(s, rank, lambda, dl, el, shift);
    }
    // Strips [first, first + NS), where none of their eigenvalues is close to one before it.
    template <int NS>
    bool from_both_ends(const TwoSided<T>& ends, int first, int rank, const T* lambda) {
        V values[NS], residual[NS];
        for (int s = 0; s < NS; ++s) {
            if (clustered(first + s, rank, lambda)) return false;
            for (int l = 0; l < L; ++l) {
                const int j = (first + s) * L + l;
                values[s][l] = lambda[j < rank ? j : rank - 1];
            }
        }
        ends.template take<NS>(values, z + int64_t{first} * n, n, shifted, residual);
        for (int s = 0; s < NS; ++s)
            for (int l = 0; l < L; ++l)
                if (!(residual[s][l] <= kLeft)) return false;
        return true;
    }
    // Strips [first, first + NS). shift: the one before; it becomes the last one
    template <int NS>
    bool solve_strips(int first, int rank, const T* lambda, const T* dl, const T* el, T& shift) {
        Shifted<T, NS> lu(n, shifted);
        V at[NS], growth[NS], *y = z + int64_t{first} * n;
        bool again = false;
        for (int s = 0; s < NS; ++s) {
            for (int l = 0; l < L; ++l) {
                const int j = (first + s) * L + l < rank ? (first + s) * L + l : rank - 1;
                shift = lambda[j] < shift - 4 * kEpsilon<T> ? lambda[j] : shift - 4 * kEpsilon<T>;
                at[s][l] = shift;
            }
            for (int i = 0; i < n; ++i)
                for (int l = 0; l < L; ++l)
                    y[s * n + i][l] = irregular<T>(static_cast<uint32_t>(((first + s) * L + l) * n + i));
            again |= clustered(first + s, rank, lambda);
        }
        lu.factorize(dl, el, at);
        for (int solve = 0; solve < (again ? 3 : 2); ++solve) {
            if (solve > 0) lu.forward(y, n);
            lu.backward(y, n);
            for (int s = 0; s < NS; ++s) {
                growth[s] = normalize_lanes<T>(y + s * n, n);
                if (again && !separate(first + s, rank, lambda, solve == 2)) return false;
            }
        }
        for (int s = 0; s < NS; ++s)
            for (int l = 0; l < L && (first + s) * L + l < rank; ++l)
                if (!(growth[s][l] > kGrowth)) return false;
        return true;
    }
    int cluster_begin(int j, const T* lambda) const {
        while (j > 0 && lambda[j - 1] - lambda[j] < close) --j;
        return j;
    }
    bool clustered(int s, int rank, const T* lambda) const {
        for (int j = s * L; j < rank && j < (s + 1) * L; ++j)
            if (cluster_begin(j, lambda) < j) return true;
        return false;
    }
    // Makes the vectors of strip s orthogonal to those before them in their clusters.
    bool separate(int s, int rank, const T* lambda, bool last) {
        for (int j = s * L; j < rank && j < (s + 1) * L; ++j) {
            const int begin = cluster_begin(j, lambda);
            if (begin == j) continue;
            T* own = reinterpret_cast<T*>(z + int64_t{j} / L * n) + j % L;
            for (int p = begin; p < j; ++p) {
                const T* other = reinterpret_cast<const T*>(z + int64_t{p} / L * n) + p % L;
                T dot = 0;
                for (int i = 0; i < n; ++i) dot += own[i * L] * other[i * L];
                for (int i = 0; i < n; ++i) own[i * L] -= dot * other[i * L];
            }
            T left = 0;
            for (int i = 0; i < n; ++i) left += own[i * L] * own[i * L];
            left = static_cast<T>(__builtin_sqrt(static_cast<double>(left)));
            if (last && !(left > T(1e-3))) return false;
            for (int i = 0; i < n; ++i) own[i * L] /= left;
        }
        return true;
    }
    void by_ql(int lane) {
        int s = 0;
        for (; s + 2 <= strips; s += 2) form_q_strips<T, 2>(matrix(lane), n, ld, tau(lane), z + s * n, s * L);
        for (; s < strips; ++s) form_q_strips<T, 1>(matrix(lane), n, ld, tau(lane), z + s * n, s * L);
        // Every lane but the first is idle here.
        for (int i = 0; i < n; ++i) {
            d_work[i] = V{};
            e_work[i] = V{};
            d_work[i][0] = d[i][lane];
            e_work[i][0] = i < n - 1 ? e[i][lane] : 0;
        }
        ql_lanes<T>(d_work, e_work, n, rotations, [&](const V* rot, const int* low, const int* high, int sweeps) {
            const T* own = reinterpret_cast<const T*>(rot);
            int k = 0;
            for (; k + 2 <= strips; k += 2) rotate_strips<T, 2>(z + k * n, n, own, low, high, sweeps);
            for (; k < strips; ++k) rotate_strips<T, 1>(z + k * n, n, own, low, high, sweeps);
        });
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
