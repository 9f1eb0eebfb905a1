// All eigenpairs of small matrices for results in float: the O(n^3) parts in lanes of float, one matrix a lane, and the
// tridiagonal problems in lanes of double.
#pragma once
#include "cpu/level/eigen/lanes.inl"
#include "cpu/level/eigen/lower.inl"

namespace tsm::TSM_LEVEL {
namespace {

struct FloatLanes {
    using F = Vec<float>;
    using V = Vec<double>;
    static constexpr int LF = kLanes<float>, LD = kLanes<double>;
    int n, ld;
    F *a, *z, *d, *e, *tau, *work;
    V* values;           // [LF / LD, n]
    double brought[LF];  // by this factor into the range of float
    LaneEigen<double> solver;
    FloatLanes(int size, Arena& arena) : n(size), ld(size | 1), solver(size, arena) {
        a = arena.take<F>(int64_t{n} * ld);
        z = arena.take<F>(int64_t{n} * ld);
        d = arena.take<F>(n);
        e = arena.take<F>(n);
        tau = arena.take<F>(n);
        work = arena.take<F>(4 * (n + LF));
        values = arena.take<V>(LF / LD * n);
    }

    // Lower triangles of `count` matrices.
    template <class S>
    void read(const Lower* g, int count) {
        for (int lane = 0; lane < LF; ++lane) {
            const Lower& own = g[lane < count ? lane : 0];
            brought[lane] = sizeof(S) == 8 ? size_of_lower(static_cast<const S*>(own.data), own, n).power : 1;
        }
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; j += LF) {
                const int some = i + 1 - j < LF ? i + 1 - j : LF;
                F v[LF];
                for (int lane = 0; lane < LF; ++lane) {
                    const Lower& own = g[lane < count ? lane : 0];
                    const S* row = static_cast<const S*>(own.data) + i * own.down + j * own.across;
                    if constexpr (sizeof(S) == 4)
                        if (own.across == 1) {
                            v[lane] = some == LF ? load(row) : load_first(row, some);
                            continue;
                        }
                    v[lane] = F{};
                    for (int c = 0; c < some; ++c)
                        v[lane][c] = static_cast<float>(static_cast<double>(row[c * own.across]) * brought[lane]);
                }
                transpose<float>(v);
                for (int c = 0; c < some; ++c) a[i * ld + j + c] = v[c];
            }
    }
    // The entries of every matrix become about 1.
    void scale(Size* size) {
        F most{}, odd{}, factor{};
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) {
                const F x = a[i * ld + j];
                most = vmax<float>(vabs<float>(x), most);
                odd += x * 0.0f;
            }
        for (int lane = 0; lane < LF; ++lane) {
            Size& own = size[lane];
            own = size_by(odd[lane] == 0 ? static_cast<double>(most[lane]) : __builtin_nan(""));
            own.power = own.power < 0x1p126 ? own.power : 0x1p126;
            factor[lane] = static_cast<float>(own.power);
            own.power *= brought[lane];
            for (int i = 0; !own.solved() && i < n; ++i)
                for (int j = 0; j <= i; ++j) a[i * ld + j][lane] = instead<float>(i, j, n);
        }
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) a[i * ld + j] *= factor;
    }

    // Of `count` matrices values[k] [n] and vectors[k] [n, n], largest first; good[k]: whether they hold.
    void solve(int count, double* const* out_values, double* const* out_vectors, bool* good) {
        tridiagonalize<float>(a, n, ld, d, e, tau, work);
        for (int k = 0; k < LF; ++k) good[k] = false;
        for (int first = 0; first < count; first += LD) {
            const V failed = pairs(first, values + first / LD * n);
            for (int lane = 0; lane < LD; ++lane) good[first + lane] = failed[lane] == 0;
        }
        constexpr int NY = TSM_VECTOR_BYTES == 64 ? 4 : 2;  // what the registers hold
        block_reflectors<float>(a, n, ld, tau, work);
        int j = 0;
        for (; j + NY <= n; j += NY) reflect_strips<float, NY>(a, n, ld, tau, work, z + j * ld, ld);
        for (; j < n; ++j) reflect_strips<float, 1>(a, n, ld, tau, work, z + j * ld, ld);
        for (j = 0; j < n; ++j) point_up(z + j * ld);
        const F lost = judged();
        for (int k = 0; k < count; ++k) good[k] &= lost[k] <= kLostInFloat;
        for (int k = 0; k < count; ++k)
            for (j = 0; j < n; ++j) out_values[k][j] = values[k / LD * n + j][k % LD];
        for (int i = 0; i < n; ++i)
            for (j = 0; j < n; j += LF) {
                const int some = n - j < LF ? n - j : LF;
                F v[LF];
                for (int c = 0; c < LF; ++c) v[c] = c < some ? z[(j + c) * ld + i] : F{};
                transpose<float>(v);
                for (int k = 0; k < count; ++k) {
                    double* to = out_vectors[k] + int64_t{i} * n + j;
                    if (some == LF)
                        for (int l = 0; l < LF; ++l) to[l] = static_cast<double>(v[k][l]);
                    else
                        for (int l = 0; l < some; ++l) to[l] = static_cast<double>(v[k][l]);
                }
            }
    }

private:
    // Eigenvalues of the matrices from `first` on, and vectors of their tridiagonal forms into z; returns the lanes, as
    // 0 or 1, that have none.
    V pairs(int first, V* own) {
        for (int i = 0; i < n; ++i)
            for (int lane = 0; lane < LD; ++lane) {
                solver.d[i][lane] = static_cast<double>(d[i][first + lane]);
                solver.e[i][lane] = i < n - 1 ? static_cast<double>(e[i][first + lane]) : 0;
            }
        const V failed = solver.tridiagonal_pairs(n, own, true);
        auto* to = reinterpret_cast<float*>(z);
        for (int i = 0; i < n * ld; ++i)
            for (int lane = 0; lane < LD; ++lane) to[i * LF + first + lane] = static_cast<float>(solver.z[i][lane]);
        return failed;
    }
    // At unit length, with a positive entry of largest magnitude, the first one on a tie.
    void point_up(F* y) const {
        normalize_lanes<float>(y, n);
        F most{}, entry{};
        for (int i = 0; i < n; ++i) {
            const F size = vabs<float>(y[i]);
            entry = size > most ? y[i] : entry;
            most = size > most ? size : most;
        }
        const F sign = entry < 0 ? splat(-1.0f) : splat(1.0f);
        for (int i = 0; i < n; ++i) y[i] *= sign;
    }
    // What the vectors lack of orthonormality, as judge_rows tells it.
    F judged() {
        F *by_row = work, most{};
        for (int i = 0; i < n; ++i) by_row[i] = F{};
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < n; ++i) by_row[i] += z[j * ld + i] * judge<float>(j);
        for (int j = 0; j < n; ++j) {
            F sum = splat(-judge<float>(j)), odd{};
            for (int i = 0; i + 1 < n; i += 2) {
                sum += z[j * ld + i] * by_row[i];
                odd += z[j * ld + i + 1] * by_row[i + 1];
            }
            if (n % 2) sum += z[j * ld + n - 1] * by_row[n - 1];
            const F size = vabs<float>(sum + odd);
            most = most > size ? most : size;  // where one is NaN, all are
        }
        return most;
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
