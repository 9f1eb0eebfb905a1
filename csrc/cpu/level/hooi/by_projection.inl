// HOOI where no mode is larger than the product of the others: every update projects X on the other factors. Items
// share only the calls of the eigensolver. Passes over X run in P (float or double), the rest in double.
#pragma once
#include "cpu/level/hooi/common.inl"

namespace tsm::TSM_LEVEL {
namespace {

// One item, beside its results.
template <class P>
struct ProjectedItem {
    const P* dense;                     // X as contiguous P: the input itself, or own
    P* own;                             // where a converted or scaled copy of X goes; null: nowhere yet
    double* unfolded;                   // projected unfolding of the mode being updated
    double *matrix, *values, *vectors;  // an eigenproblem
};

template <class P>
struct ByProjection {
    const CpuHooiPlan& plan;
    HooiItem* items;
    int count;
    Arena arena;  // what is left of it is scratch
    ProjectedItem<P> parts[kMostItems];
    P* spare[2];  // passes over dense X
    P* narrow;    // factors in P
    double* projection;

    // Results lie in front of what `from` has left.
    ByProjection(const CpuHooiPlan& p, HooiItem* its, int n, Arena& from)
        : plan(p), items(its), count(n), arena(take_results<P>(p, its, n, from)) {
        const int64_t largest = largest_problem(p);
        for (int k = 0; k < count; ++k) {
            parts[k].own = nullptr;
            parts[k].matrix = arena.take<double>(largest * largest);
            parts[k].vectors = arena.take<double>(largest * largest);
            parts[k].values = arena.take<double>(largest);
            parts[k].unfolded = arena.take<double>(unfolded_size(p));
        }
        int64_t sizes = 0;
        for (int m = 0; m < p.order; ++m) sizes += p.kept[m] ? 0 : p.shape[m] * p.rank[m];
        narrow = arena.take<P>(sizes);
        projection = arena.take<double>(p.elements());
        for (auto& buffer : spare) buffer = arena.take<P>(p.elements());
    }
    static int64_t bytes(const CpuHooiPlan& p, int count) {
        return bytes_taken([&](Arena& arena) {
            HooiItem items[kMostItems] = {};
            arena = ByProjection(p, items, count, arena).arena;
            for (int k = 0; k < count; ++k) arena.take<P>(p.elements());  // own copies of X
        });
    }

    void run() {
        int active = 0;
        for (int k = 0; k < count; ++k) {
            read(k);
            active += items[k].active;
        }
        for (int m = 0; m < plan.order; ++m)
            if (plan.given && !plan.kept[m])
                take_start(m);
            else if (plan.starts(m))
                start(m);
        for (int sweep = 0; sweep < plan.n_iter_max && active > 0; ++sweep) {
            for (int m = 0; m < plan.order; ++m)
                if (plan.moves(sweep, m)) update(m);
            for (int k = 0; k < count; ++k) {
                HooiItem& item = items[k];
                if (!item.active) continue;
                const double* y = projected(k, -1);
                double norm2 = 0;
                for (int64_t i = 0; i < plan.core_size(); ++i) norm2 += y[i] * y[i];
                __builtin_memcpy(item.core, y, static_cast<size_t>(plan.core_size()) * 8);
                end_sweep(item, sweep, norm2, plan.tol);
                active -= !item.active;
            }
        }
        for (int k = 0; k < count; ++k)
            items[k].finite&& items[k].norm2 > 0 ? measure_core(plan, items[k]) : blank<P>(plan, items[k]);
    }

    // ---- reading X ----
    void read(int k) {
        HooiItem& item = items[k];
        parts[k].dense = dense_data<P>(item.x);
        if (!parts[k].dense) own_copy(k);
        item.norm2 = squares(parts[k].dense);
        if (!squares_in_range<P>(item.norm2)) {
            if (find_scale<P>(item, arena)) {
                own_copy(k);
                item.norm2 = squares(parts[k].dense);
            } else {
                item.norm2 = 0;
            }
        }
        item.active = item.finite && item.norm2 > 0;
    }
    void own_copy(int k) {
        if (!parts[k].own) parts[k].own = arena.take<P>(plan.elements());
        copy_dense<P>(items[k].x, items[k].scale, parts[k].own);
        parts[k].dense = parts[k].own;
    }
    double squares(const P* x) const {
        // In blocks and lanes: the error of an exact fit is the root of what rounding leaves of this sum.
        constexpr int64_t kBlock = 1024, kSums = 8;
        const int64_t n = plan.elements();
        double sum = 0;
        for (int64_t first = 0; first < n; first += kBlock) {
            const int64_t end = first + kBlock < n ? first + kBlock : n;
            double sums[kSums] = {};
            int64_t i = first;
            for (; i + kSums <= end; i += kSums)
                for (int64_t l = 0; l < kSums; ++l)
                    sums[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
            for (; i < end; ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
            for (const double part : sums) sum += part;
        }
        return sum;
    }

    // ---- one eigenproblem for every active item, or for those wanted ----
    void solve(int size, int rank, const bool* wanted = nullptr) {
        const double* g[kMostItems];
        double *values[kMostItems], *vectors[kMostItems];
        int n = 0;
        const int group = eigh_group<double>(size);
        for (int k = 0; k < count; ++k) {
            if (!items[k].active || (wanted && !wanted[k])) continue;
            g[n] = parts[k].matrix;
            values[n] = parts[k].values;
            vectors[n++] = parts[k].vectors;
        }
        for (int first = 0; first < n; first += group)
            eigh_items<double>(g + first, n - first < group ? n - first : group, size, rank, values + first,
                               vectors + first, arena, plan.loss);
    }

    // ---- the start: leading left singular vectors of every unfolding of X itself ----
    void start(int m) {
        const int64_t size = plan.shape[m], rank = plan.rank[m];
        for (int k = 0; k < count; ++k)
            if (items[k].active) unfolding_gram<P>(k, m);
        solve(static_cast<int>(size), static_cast<int>(rank));
        if (sizeof(P) == 4 && plan.guard) {
            bool weak[kMostItems] = {}, any = false;
            for (int k = 0; k < count; ++k)
                if (items[k].active && !(parts[k].values[rank - 1] > kWeak * kWeak * parts[k].values[0])) {
                    weak[k] = any = true;
                    unfolding_gram<double>(k, m);
                }
            if (any) solve(static_cast<int>(size), static_cast<int>(rank), weak);
        }
        for (int k = 0; k < count; ++k) {
            if (!items[k].active) continue;
            double* a = items[k].factor[m];
            __builtin_memcpy(a, parts[k].vectors, static_cast<size_t>(size * rank) * 8);
            if (!plan.sign_v) continue;
            Arena scratch = arena;
            StartSigns<P> signs(plan, m, a, scratch);
            signs.see(parts[k].dense);
            signs.point_up(a);
        }
    }

    template <class A>
    void unfolding_gram(int k, int m) const {
        const Tensor x = dense_tensor(parts[k].dense, sizeof(P) == 4 ? DType::f32 : DType::f64, plan.order, plan.shape);
        gram_item<A>(fibres_of(x, m), Adjust{false, nullptr, 1, 1}, parts[k].matrix, arena);
    }
    void take_start(int m) {
        const size_t bytes = static_cast<size_t>(plan.shape[m] * plan.rank[m]) * 8;
        for (int k = 0; k < count; ++k)
            if (items[k].active) __builtin_memcpy(items[k].factor[m], items[k].start[m], bytes);
    }

    // ---- one update ----
    void update(int m) {
        for (int k = 0; k < count; ++k)
            if (items[k].active) unfold_projection(k, m);
        solve(static_cast<int>(plan.matrix_size(m)), static_cast<int>(plan.found(m)));
        for (int k = 0; k < count; ++k) {
            if (!items[k].active) continue;
            m == plan.padded ? take_padded(k, m) : take_factor(k, m);
        }
    }
    // The mode-m unfolding of the projection on every other factor.
    void unfold_projection(int k, int m) {
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < plan.order; ++i) {
            if (i < m) outer *= plan.rank[i];
            if (i > m) inner *= plan.rank[i];
        }
        const double* y = projected(k, m);
        const bool left = plan.left_side(m);
        const int64_t size = plan.shape[m], columns = outer * inner;
        unfold_small(y, outer, size, inner, left, parts[k].unfolded);
        const int64_t n = left ? size : columns, depth = left ? columns : size;
        product<double, false>(n, n, depth, parts[k].unfolded, n, parts[k].unfolded, n, parts[k].matrix, n);
    }
    // X times every factor but that of mode m
    const double* projected(int k, int m) {
        int64_t shape[kMaxOrder], rank[kMaxOrder];
        const P* factors[kMaxOrder];
        P* to = narrow;
        for (int i = 0; i < plan.order; ++i) {
            shape[i] = plan.shape[i];
            rank[i] = i == m ? plan.shape[i] : plan.rank[i];
            factors[i] = nullptr;
            if (i == m || plan.kept[i]) continue;
            for (int64_t j = 0; j < plan.shape[i] * plan.rank[i]; ++j) to[j] = static_cast<P>(items[k].factor[i][j]);
            factors[i] = to;
            to += plan.shape[i] * plan.rank[i];
        }
        const P* y = multi_mode_product<P>(parts[k].dense, plan.order, shape, factors, rank, spare);
        const int64_t n = product_of(rank, plan.order);
        for (int64_t i = 0; i < n; ++i) projection[i] = static_cast<double>(y[i]);
        return projection;
    }
    void take_factor(int k, int m) {
        const int64_t size = plan.shape[m], r = plan.rank[m], n = plan.matrix_size(m);
        double* a = items[k].factor[m];
        if (plan.left_side(m)) {
            __builtin_memcpy(a, parts[k].vectors, static_cast<size_t>(size * r) * 8);
            if (!plan.sign_v) return;
            Arena scratch = arena;
            const int64_t columns = plan.others_rank(m);
            point_right_vectors_up(a, size, r, parts[k].unfolded, columns, scratch.take<double>(columns * r));
            return;
        }
        left_vectors(k, size, r, n, a, arena);
    }
    // From the right ones.
    void left_vectors(int k, int64_t size, int64_t r, int64_t n, double* a, Arena scratch) const {
        product<double, true>(size, r, n, parts[k].unfolded, n, parts[k].vectors, r, a, r);
        orthonormalize(a, size, r, plan.loss, scratch);
        if (!plan.sign_v)
            point_up_one(a, static_cast<int>(size), static_cast<int>(r), scratch.take<double>(r),
                         scratch.take<double>(r));
    }
    // The left vectors that there are, and beside them the columns that are given.
    void take_padded(int k, int m) const {
        const int64_t size = plan.shape[m], found = plan.found(m);
        Arena scratch = arena;
        double* vectors = scratch.take<double>(size * found);
        left_vectors(k, size, found, found, vectors, scratch);
        pad_columns(vectors, size, found, items[k].padding, plan.rank[m], items[k].factor[m], scratch);
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
