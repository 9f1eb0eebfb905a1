// What both ways of HOOI share: sizes, results, scales, signs and the end of a sweep.
#pragma once
#include "cpu/level/core_contraction.inl"
#include "cpu/level/mode_gram.inl"
#include "cpu/level/truncated_svd.inl"

namespace tsm::TSM_LEVEL {
namespace {

// A Gram matrix summed in float tells vectors apart whose sigma is more than this part of the first.
constexpr double kWeak = 0.05;

// The least error of a sweep, a root of 1 - ||core||^2 / ||X||^2, which float knows to 1e-7.
constexpr double kLeastError = 0.02;

// Whether passes in float leave the item inside the contract (docs/backends.md). With a big mode its vectors come from
// a Gram matrix in float, which knows sigmas by their squares. Projections in float, with their Gram matrices in
// double, are off by less than 1e-7 of the first sigma: they move a subspace by that over its gap, however small its
// sigmas.
static bool float_suffices(const CpuHooiPlan& plan, const HooiItem& item) {
    if (item.hopeless) return false;
    for (int i = 0; i < item.n_sweeps; ++i)
        if (!(item.errors[i] > kLeastError)) return false;
    if (plan.big < 0) return true;
    if (plan.hosvd) return item.weakest > kWeak * kWeak;
    for (int m = 0; m < plan.order; ++m)
        for (int64_t k = 0; !plan.kept[m] && k < plan.found(m); ++k)
            if (!(item.sigma[m][k] > kWeak * item.sigma[m][0])) return false;
    return true;
}

static int64_t largest_problem(const CpuHooiPlan& p) {
    int64_t n = 1;
    for (int m = 0; m < p.order; ++m) {
        if (p.kept[m]) continue;
        const int64_t start = !p.starts(m) ? 1 : m == p.big ? p.others_size(m) : p.shape[m];
        n = start > n ? start : n;
        n = p.matrix_size(m) > n ? p.matrix_size(m) : n;
    }
    return n;
}
static int64_t unfolded_size(const HooiPlan& p) {
    int64_t n = 1;
    for (int m = 0; m < p.order; ++m)
        if (m != p.big && !p.kept[m] && p.shape[m] * p.others_rank(m) > n) n = p.shape[m] * p.others_rank(m);
    return n;
}

// x [outer, size, inner] as the matrix [size, outer * inner], or its transpose.
template <class X, class V>
static void unfold_small(const X* x, int64_t outer, int64_t size, int64_t inner, bool transposed, V* out) {
    const int64_t columns = outer * inner;
    for (int64_t o = 0; o < outer; ++o, x += size * inner)
        if (transposed)
            for (int64_t r = 0; r < inner; ++r)
                for (int64_t i = 0; i < size; ++i) out[(o * inner + r) * size + i] = static_cast<V>(x[i * inner + r]);
        else
            for (int64_t i = 0; i < size; ++i)
                for (int64_t r = 0; r < inner; ++r) out[i * columns + o * inner + r] = static_cast<V>(x[i * inner + r]);
}

// Signs of the columns of a [size, rank] by the entry of largest magnitude of y a_k; y: [columns, size], dots:
// [columns, rank]. By `product`, whose sums are the same in lanes and for an item alone: the sign of a column of noise
// rests on them.
template <class V>
static void point_right_vectors_up(V* a, int64_t size, int64_t rank, const V* y, int64_t columns, V* dots) {
    product<V, true>(columns, rank, size, y, size, a, rank, dots, rank);
    for (int64_t k = 0; k < rank; ++k) {
        V most{}, entry{};
        for (int64_t c = 0; c < columns; ++c) {
            const V dot = dots[c * rank + k], length = dot < 0 ? -dot : dot;
            entry = length > most ? dot : entry;
            most = length > most ? length : most;
        }
        for (int64_t i = 0; i < size; ++i) a[i * rank + k] = entry < 0 ? -a[i * rank + k] : a[i * rank + k];
    }
}

// Takes note of the squared norm of the core after a sweep; the item may stop.
static void end_sweep(HooiItem& item, int sweep, double core_norm2, double tol) {
    item.errors[sweep] = __builtin_sqrt(__builtin_fabs(item.norm2 - core_norm2)) / __builtin_sqrt(item.norm2);
    item.n_sweeps = sweep + 1;
    item.converged = sweep >= 2 && __builtin_fabs(item.errors[sweep - 1] - item.errors[sweep]) < tol;
    item.active = !item.converged;
}

// Places for the results of passes in P; returns what the arena has left.
template <class P>
static Arena take_results(const CpuHooiPlan& p, HooiItem* items, int count, Arena& arena) {
    for (int k = 0; k < count; ++k) {
        HooiItem& item = items[k];
        item.errors = arena.take<double>(p.n_iter_max + 1);
        item.big_wide = sizeof(P) == 8;
        for (int m = 0; m < p.order; ++m) {
            if (p.kept[m])
                item.factor[m] = nullptr;
            else if (m != p.big)
                item.factor[m] = arena.take<double>(p.shape[m] * p.rank[m]);
            else if (item.target && item.target_wide == item.big_wide)
                item.big_factor = item.target;
            else
                item.big_factor = arena.take<P>(p.shape[m] * p.rank[m]);
            item.sigma[m] = arena.take<double>(p.rank[m]);
            if (sizeof(P) == 4 && p.guard && p.big < 0 && p.starts(m))
                item.hosvd[m] = arena.take<double>(p.shape[m] * p.rank[m]);
        }
        item.core = arena.take<double>(p.core_size());
        if (p.big < 0) continue;
        item.responses = arena.take<double>(p.others_size(p.big) * p.rank[p.big]);
        item.weights = arena.take<double>(p.others_size(p.big) * p.rank[p.big]);
    }
    return arena;
}

// Singular values: the norms of the slices of the core.
static void measure_core(const CpuHooiPlan& plan, HooiItem& item) {
    const double scale = plan.keeps_scale ? 1 : item.scale;
    for (int m = 0; m < plan.order; ++m) {
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < m; ++i) outer *= plan.rank[i];
        for (int i = m + 1; i < plan.order; ++i) inner *= plan.rank[i];
        for (int64_t k = 0; k < plan.rank[m]; ++k) {
            double sum = 0;
            for (int64_t o = 0; o < outer; ++o)
                for (int64_t i = 0; i < inner; ++i) {
                    const double x = item.core[(o * plan.rank[m] + k) * inner + i];
                    sum += x * x;
                }
            item.sigma[m][k] = __builtin_sqrt(sum) / scale;
        }
    }
    for (int64_t i = 0; i < plan.core_size(); ++i) item.core[i] /= scale;
}

// Zeros, or NaN for an item that holds NaN or Inf.
template <class P>
static void blank(const HooiPlan& plan, HooiItem& item) {
    const double value = item.finite ? 0 : __builtin_nan("");
    item.n_sweeps = item.finite;
    item.converged = item.finite;
    item.errors[0] = value;
    for (int64_t i = 0; i < plan.core_size(); ++i) item.core[i] = value;
    for (int m = 0; m < plan.order; ++m) {
        for (int64_t k = 0; k < plan.rank[m]; ++k) item.sigma[m][k] = value;
        for (int64_t i = 0; !plan.kept[m] && i < plan.shape[m]; ++i)
            for (int64_t k = 0; k < plan.rank[m]; ++k) {
                const double entry = item.finite ? i == k : value;
                if (m == plan.big)
                    static_cast<P*>(item.big_factor)[i * plan.rank[m] + k] = static_cast<P>(entry);
                else
                    item.factor[m][i * plan.rank[m] + k] = entry;
            }
    }
    if (plan.big >= 0)
        for (int64_t i = 0; i < plan.others_size(plan.big) * plan.rank[plan.big]; ++i) item.responses[i] = value;
}

// Signs of the columns a_k of A_m at the start by the entry of largest magnitude of X_(m)^T a_k, the first one in
// TensorLy's column order. X is seen whole, or fibre after fibre of the big mode.
template <class P>
struct StartSigns {
    int64_t outer = 1, size, inner = 1, r;
    P *a, *y;
    double *most, *entry;

    StartSigns(const HooiPlan& plan, int m, const double* factor, Arena& scratch)
        : size(plan.shape[m]), r(plan.rank[m]), a(scratch.take<P>(size * r)) {
        for (int64_t i = 0; i < size * r; ++i) a[i] = static_cast<P>(factor[i]);
        most = scratch.take<double>(2 * r);
        entry = most + r;
        for (int64_t k = 0; k < 2 * r; ++k) most[k] = 0;
        for (int i = 0; i < m; ++i) outer *= i == plan.big ? 1 : plan.shape[i];
        for (int i = m + 1; i < plan.order; ++i) inner *= i == plan.big ? 1 : plan.shape[i];
        y = scratch.take<P>(outer * r * inner);
    }
    void see(const P* x) {
        mode_product<P>(x, outer, size, inner, a, r, y);
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t k = 0; k < r; ++k)
                for (int64_t i = 0; i < inner; ++i) {
                    const double value = static_cast<double>(y[(o * r + k) * inner + i]);
                    if (__builtin_fabs(value) > most[k]) most[k] = __builtin_fabs(entry[k] = value);
                }
    }
    void point_up(double* factor) const {
        for (int64_t k = 0; k < r; ++k)
            if (entry[k] < 0)
                for (int64_t i = 0; i < size; ++i) factor[i * r + k] *= -1;
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
