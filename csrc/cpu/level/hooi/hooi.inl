// TensorLy's tucker for a group of items at once: HOSVD start, Gauss-Seidel sweeps, every item stopping on its own.
// Passes over X run in P (float or double), the rest in double. Where one mode is larger than the product of the others
// (`big`), X is read once into their Gram matrix (hooi_gram.inl); elsewhere items share only the calls of the
// eigensolver.

// Whether passes in float leave the item inside the contract of method.md: errors come from 1 - ||core||^2 / ||X||^2,
// good to 1e-7, and small singular values from differences of large ones.
static bool float_suffices(const HooiPlan& plan, const HooiItem& item) {
    for (int i = 0; i < item.n_sweeps; ++i)
        if (!(item.errors[i] > 0.02)) return false;
    for (int m = 0; m < plan.order; ++m)
        for (int64_t k = 0; k < plan.rank[m]; ++k)
            if (!(item.sigma[m][k] > 0.05 * item.sigma[m][0])) return false;
    return true;
}

template <class P>
struct HooiGroup {
    const CpuHooiPlan& plan;
    HooiItem* items;
    int count;
    Arena arena;  // what is left of it is scratch for the eigensolver and the passes
    P* spare[2];  // passes over dense X (no big mode)
    P* narrow;    // factors in P
    double* projection;

    HooiGroup(const CpuHooiPlan& p, HooiItem* its, int n, Arena& from) : plan(p), items(its), count(n), arena(from) {
        const int64_t largest = largest_problem(p);
        for (int k = 0; k < count; ++k) {
            HooiItem& item = items[k];
            item.errors = arena.take<double>(p.n_iter_max + 1);
            item.big_wide = sizeof(P) == 8;
            for (int m = 0; m < p.order; ++m) {
                if (m != p.big)
                    item.factor[m] = arena.take<double>(p.shape[m] * p.rank[m]);
                else if (item.target && item.target_wide == item.big_wide)
                    item.big_factor = item.target;
                else
                    item.big_factor = arena.take<P>(p.shape[m] * p.rank[m]);
                item.sigma[m] = arena.take<double>(p.rank[m]);
            }
            item.core = arena.take<double>(p.core_size());
            if (p.big >= 0) {
                item.responses = arena.take<double>(p.others_size(p.big) * p.rank[p.big]);
                item.weights = arena.take<double>(p.others_size(p.big) * p.rank[p.big]);
            } else {
                item.matrix = arena.take<double>(largest * largest);
                item.vectors = arena.take<double>(largest * largest);
                item.values = arena.take<double>(largest);
                item.unfolded = arena.take<double>(unfolded_size(p));
            }
        }
        if (p.big >= 0) return;
        int64_t sizes = 0;
        for (int m = 0; m < p.order; ++m) sizes += p.shape[m] * p.rank[m];
        narrow = arena.take<P>(sizes);
        projection = arena.take<double>(p.elements());
        for (auto& buffer : spare) buffer = arena.take<P>(p.elements());
    }

    // ---- reading X ----
    Tensor unfolding(HooiItem& item, Arena& scratch) const {  // X_(big) as a matrix
        Tensor matrix;
        if (as_matrix(item.x, plan.big, &matrix)) return matrix;
        // Modes that do not lie in memory like one are copied.
        const int64_t n = plan.shape[plan.big], s = plan.others_size(plan.big);
        P* copy = scratch.take<P>(n * s);
        pack_panel<P>(fibres_of(item.x, plan.big), Adjust{false, nullptr, 1, 1}, 0, s, copy, n);
        return Tensor{copy, sizeof(P) == 4 ? DType::f32 : DType::f64, 2, {n, s}, {1, n}};
    }
    // gram: [S, S] of the modes beside the big one, to be filled
    void read(HooiItem& item, double* gram) {
        item.scale = 1;
        for (int attempt = 0; attempt < 2; ++attempt) {
            double sum = 0;
            if (plan.big >= 0) {
                Arena scratch = arena;
                const Tensor matrix = unfolding(item, scratch);
                gram_item<P>(fibres_of(matrix, 1), Adjust{false, nullptr, 1, item.scale}, gram, scratch);
                const int64_t s = plan.others_size(plan.big);
                for (int64_t i = 0; i < s; ++i) sum += gram[i * s + i];
            } else {
                const P* x = static_cast<const P*>(item.dense);
                const int64_t n = plan.elements();
                for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
            }
            item.norm2 = sum;
            const double low = sizeof(P) == 4 ? 1e-20 : 1e-250, high = sizeof(P) == 4 ? 1e30 : 1e250;
            if (sum > low && sum < high) break;
            if (attempt == 1) break;
            const double largest = largest_magnitude(item.x, arena);
            item.finite = largest <= 1.7976931348623157e308;
            if (!item.finite || largest == 0) {
                item.norm2 = 0;
                break;
            }
            item.scale = safe_scale<P>(largest);
            if (plan.big < 0) own_copy(item);
        }
        item.active = item.finite && item.norm2 > 0;
    }
    void own_copy(HooiItem& item) {
        if (!item.own) item.own = arena.take<P>(plan.elements());
        copy_dense<P>(item.x, item.scale, static_cast<P*>(item.own));
        item.dense = item.own;
    }

    // ---- one eigenproblem for every active item ----
    void solve(int size, int rank) {
        const double* g[kMostItems];
        double *values[kMostItems], *vectors[kMostItems];
        int n = 0;
        const int group = eigh_group<double>(size);
        for (int k = 0; k < count; ++k) {
            if (!items[k].active) continue;
            g[n] = items[k].matrix;
            values[n] = items[k].values;
            vectors[n++] = items[k].vectors;
        }
        for (int first = 0; first < n; first += group)
            eigh_items<double>(g + first, n - first < group ? n - first : group, size, rank, values + first,
                               vectors + first, arena, plan.loss);
    }

    // ---- the start, in hooi_start.inl ----
    void start(int m);
    void point_start_up(HooiItem& item, int m);

    // ---- one update ----
    void update(int m) {
        for (int k = 0; k < count; ++k)
            if (items[k].active) unfold_projection(items[k], m);
        solve(static_cast<int>(plan.matrix_size(m)), static_cast<int>(plan.rank[m]));
        for (int k = 0; k < count; ++k)
            if (items[k].active) take_factor(items[k], m);
    }
    // The mode-m unfolding of the projection on every other factor.
    void unfold_projection(HooiItem& item, int m) {
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < plan.order; ++i) {
            if (i < m) outer *= plan.rank[i];
            if (i > m) inner *= plan.rank[i];
        }
        const double* y = projected(item, m);
        const bool left = plan.left_side(m);
        const int64_t size = plan.shape[m], columns = outer * inner;
        unfold_small(y, outer, size, inner, left, item.unfolded);
        const int64_t n = left ? size : columns, depth = left ? columns : size;
        product<double, false>(n, n, depth, item.unfolded, n, item.unfolded, n, item.matrix, n);
    }
    // X times every factor but that of mode m
    const double* projected(HooiItem& item, int m) {
        int64_t shape[kMaxOrder], rank[kMaxOrder];
        const P* factors[kMaxOrder];
        P* to = narrow;
        for (int i = 0; i < plan.order; ++i) {
            shape[i] = plan.shape[i];
            rank[i] = i == m ? plan.shape[i] : plan.rank[i];
            factors[i] = nullptr;
            if (i == m) continue;
            for (int64_t j = 0; j < plan.shape[i] * plan.rank[i]; ++j) to[j] = static_cast<P>(item.factor[i][j]);
            factors[i] = to;
            to += plan.shape[i] * plan.rank[i];
        }
        const P* y = multi_mode_product<P>(static_cast<const P*>(item.dense), plan.order, shape, factors, rank, spare);
        const int64_t n = product_of(rank, plan.order);
        for (int64_t i = 0; i < n; ++i) projection[i] = static_cast<double>(y[i]);
        return projection;
    }
    void take_factor(HooiItem& item, int m) {
        const int64_t size = plan.shape[m], r = plan.rank[m], n = plan.matrix_size(m);
        double* a = item.factor[m];
        if (plan.left_side(m)) {
            __builtin_memcpy(a, item.vectors, static_cast<size_t>(size * r) * 8);
            if (!plan.sign_v) return;
            Arena scratch = arena;
            const int64_t columns = plan.others_rank(m);
            point_right_vectors_up(a, size, r, item.unfolded, columns, scratch.take<double>(columns * r));
            return;
        }
        product<double, true>(size, r, n, item.unfolded, n, item.vectors, r, a, r);
        Arena scratch = arena;
        orthonormalize(a, size, r, plan.loss, scratch);
        if (!plan.sign_v)
            point_up_one(a, static_cast<int>(size), static_cast<int>(r), scratch.take<double>(r),
                         scratch.take<double>(r));
    }
    void run() {
        for (int k = 0; k < count; ++k) {
            HooiItem& item = items[k];
            item.finite = true;
            item.n_sweeps = 0;
            item.converged = false;
            item.scale = 1;
            item.own = nullptr;
            if (plan.big < 0) {
                item.dense = dense_data<P>(item.x);
                if (!item.dense) own_copy(item);
            }
        }
        if (plan.big >= 0)
            count > 1 && in_lanes(plan) ? by_gram<Vec<double>>() : by_gram<double>();
        else
            by_projections();
        for (int k = 0; k < count; ++k) write_results(items[k]);
    }
    template <class V>
    void by_gram() {
        GramSweeps<V> sweeps(plan, items, count, arena);
        const int64_t s = plan.others_size(plan.big);
        const double* grams[kMostItems];
        const Arena own = arena;
        Arena rest = sweeps.arena;
        for (int k = 0; k < count; ++k) {
            double* gram = rest.take<double>(s * s);
            arena = rest;
            read(items[k], gram);
            grams[k] = items[k].active ? gram : nullptr;
        }
        arena = sweeps.arena;
        sweeps.run(grams, [this](HooiItem& item, int m) { point_start_up(item, m); });
        arena = own;
    }
    void by_projections() {
        int active = 0;
        for (int k = 0; k < count; ++k) {
            read(items[k], nullptr);
            active += items[k].active;
        }
        for (int m = 0; m < plan.order; ++m) start(m);
        for (int sweep = 0; sweep < plan.n_iter_max && active > 0; ++sweep) {
            for (int m = 0; m < plan.order; ++m)
                if (sweep == 0 || plan.sign_v || !plan.others_full(m)) update(m);
            for (int k = 0; k < count; ++k) {
                HooiItem& item = items[k];
                if (!item.active) continue;
                const double* y = projected(item, -1);
                const int64_t n = plan.core_size();
                double norm2 = 0;
                for (int64_t i = 0; i < n; ++i) norm2 += y[i] * y[i];
                __builtin_memcpy(item.core, y, static_cast<size_t>(n) * 8);
                end_sweep(item, sweep, norm2, plan.tol);
                active -= !item.active;
            }
        }
    }
    void write_results(HooiItem& item) {
        if (!item.finite || item.norm2 == 0) {
            blank(item);
            return;
        }
        measure_core(item);
        if (sizeof(P) == 4 && plan.guard && !float_suffices(plan, item)) return;  // it will be computed again
        if (plan.big >= 0 && (plan.factors || plan.refine)) explicit_factor(item);
    }
    void measure_core(HooiItem& item) {
        slice_norms(item);
        if (plan.keeps_scale) return;
        const int64_t n = plan.core_size();
        for (int64_t i = 0; i < n; ++i) item.core[i] /= item.scale;
        for (int m = 0; m < plan.order; ++m)
            for (int64_t k = 0; k < plan.rank[m]; ++k) item.sigma[m][k] /= item.scale;
    }
    // ---- A_big, in hooi_factor.inl ----
    void explicit_factor(HooiItem& item);
    void sign_by_factor(HooiItem& item, const double* sign) const;
    void slice_norms(HooiItem& item) {
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
                item.sigma[m][k] = __builtin_sqrt(sum);
            }
        }
    }
    // Zeros, or NaN for an item that holds NaN or Inf.
    void blank(HooiItem& item) {
        const double value = item.finite ? 0 : __builtin_nan("");
        item.n_sweeps = item.finite;
        item.converged = item.finite;
        item.errors[0] = value;
        for (int64_t i = 0; i < plan.core_size(); ++i) item.core[i] = value;
        for (int m = 0; m < plan.order; ++m) {
            for (int64_t k = 0; k < plan.rank[m]; ++k) item.sigma[m][k] = value;
            for (int64_t i = 0; i < plan.shape[m]; ++i)
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
};

// How many items are decomposed together: what they keep fits the caches.
template <class P>
static int hooi_group_size(const CpuHooiPlan& p) {
    const auto bytes = [&](int group) {
        int64_t kept = bytes_taken([&](Arena& arena) {
            HooiItem items[kMostItems] = {};
            arena = HooiGroup<P>(p, items, group, arena).arena;
        });
        if (p.big < 0) return kept + group * p.elements() * static_cast<int64_t>(sizeof(P));  // own copies of X
        const int64_t s = p.others_size(p.big), alone = gram_sweeps_bytes<double>(p, group);
        const int64_t lanes = in_lanes(p) ? gram_sweeps_bytes<Vec<double>>(p, group) : 0;
        return kept + (lanes > alone ? lanes : alone) + group * s * s * 8;
    };
    int group = eigh_group<double>(largest_problem(p));
    while (group > 1 && bytes(group) > int64_t{8} << 20) group /= 2;
    return group;
}

// Decomposes the items; their results lie in front of what the arena has left.
static void hooi_items(bool wide, const CpuHooiPlan& plan, HooiItem* items, int count, Arena& arena) {
    if (wide) {
        HooiGroup<double> group(plan, items, count, arena);
        group.run();
        arena = group.arena;
        return;
    }
    HooiGroup<float> group(plan, items, count, arena);
    group.run();
    arena = group.arena;
    if (!plan.guard) return;
    HooiItem again[kMostItems];
    int where[kMostItems], n = 0;
    for (int k = 0; k < count; ++k)
        if (items[k].finite && items[k].norm2 > 0 && !float_suffices(plan, items[k])) {
            again[n].x = items[k].x;
            again[n].target = items[k].target;
            again[n].target_wide = items[k].target_wide;
            where[n++] = k;
        }
    const int most = hooi_group_size<double>(plan);
    for (int first = 0; first < n; first += most) {
        HooiGroup<double> second(plan, again + first, n - first < most ? n - first : most, arena);
        second.run();
        arena = second.arena;
    }
    for (int i = 0; i < n; ++i) items[where[i]] = again[i];
}
