// TensorLy's tucker for a group of items at once: HOSVD start, Gauss-Seidel sweeps, every item stopping on its own.
// Items of a group share only the calls of the eigensolver. Passes over X run in P (float or double), the rest in
// double. Where one mode is larger than the product of the others (`big`), X is read once into the Gram matrix G of
// the others, and T = X_(big)^T A_big stands in for X (method.md, "The Gram shortcut").

// x [outer, size, inner] as the matrix [size, outer * inner], or its transpose.
static void unfold_small(const double* x, int64_t outer, int64_t size, int64_t inner, bool transposed, double* out) {
    for (int64_t o = 0; o < outer; ++o)
        for (int64_t i = 0; i < size; ++i)
            for (int64_t r = 0; r < inner; ++r) {
                const int64_t column = o * inner + r;
                out[transposed ? column * size + i : i * outer * inner + column] = x[(o * size + i) * inner + r];
            }
}

template <class P>
struct HooiGroup {
    const HooiPlan& plan;
    HooiItem* items;
    int count;
    Arena arena;    // what is left of it is scratch for the eigensolver and the passes
    P* spare_p[2];  // passes over dense X
    double* spare[2];
    double* work;    // [S, others_rank(big)] (big)
    double* turned;  // transposed factors

    HooiGroup(const HooiPlan& p, HooiItem* its, int n, Arena& from) : plan(p), items(its), count(n), arena(from) {
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
            item.core = arena.take<double>(product_of(p.rank, p.order));
            item.matrix = arena.take<double>(largest * largest);
            item.vectors = arena.take<double>(largest * largest);
            item.values = arena.take<double>(largest);
            item.unfolded = arena.take<double>(unfolded_size(p));
            if (p.big >= 0) {
                const int64_t s = p.others_size(p.big);
                item.gram = arena.take<double>(s * s);
                item.responses = arena.take<double>(s * p.rank[p.big]);
                item.weights = arena.take<double>(s * p.rank[p.big]);
            }
        }
        int64_t factor_size = 0;
        for (int m = 0; m < p.order; ++m) factor_size += p.shape[m] * p.rank[m];
        turned = arena.take<double>(factor_size);
        for (auto& buffer : spare) buffer = arena.take<double>(projected_size(p));
        if (p.big >= 0) {
            work = arena.take<double>(p.others_size(p.big) * p.others_rank(p.big));
        } else {
            for (auto& buffer : spare_p) buffer = arena.take<P>(p.elements());
        }
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
    void read(HooiItem& item) {
        item.scale = 1;
        for (int attempt = 0; attempt < 2; ++attempt) {
            double sum = 0;
            if (plan.big >= 0) {
                Arena scratch = arena;
                const Tensor matrix = unfolding(item, scratch);
                gram_item<P>(fibres_of(matrix, 1), Adjust{false, nullptr, 1, item.scale}, item.gram, scratch);
                const int64_t s = plan.others_size(plan.big);
                for (int64_t i = 0; i < s; ++i) sum += item.gram[i * s + i];
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
        const double* g[64];
        double *values[64], *vectors[64];
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
                               vectors + first, arena);
    }

    // ---- the start, in hooi_start.inl ----
    void start(int m);
    void keep_start(HooiItem& item, int m);
    void start_matrix(HooiItem& item, int m);

    // ---- one update ----
    void update(int m) {
        for (int k = 0; k < count; ++k)
            if (items[k].active) m == plan.big ? big_matrix(items[k]) : small_matrix(items[k], m);
        solve(static_cast<int>(plan.matrix_size(m)), static_cast<int>(plan.rank[m]));
        for (int k = 0; k < count; ++k)
            if (items[k].active) m == plan.big ? big_factor(items[k]) : small_factor(items[k], m);
    }
    // M = P^T G P, P the Kronecker product of the other factors; G P is kept in item.unfolded's place (work per item).
    void big_matrix(HooiItem& item) {
        int64_t shape[kMaxOrder], rank[kMaxOrder];
        const double* factors[kMaxOrder];
        const int n = others(item, shape, rank, factors);
        const int64_t s = plan.others_size(plan.big), rho = plan.others_rank(plan.big);
        const double* projected = project_rows(item.gram, s, n, shape, rank, factors);
        __builtin_memcpy(work, projected, static_cast<size_t>(s * rho) * 8);
        // [others..., rho]: the modes of the rows now.
        shape[n] = rho;
        rank[n] = rho;
        factors[n] = nullptr;
        const double* m = multi_mode_product<double>(work, n + 1, shape, factors, rank, spare);
        __builtin_memcpy(item.matrix, m, static_cast<size_t>(rho * rho) * 8);
    }
    const double* project_rows(const double* g, int64_t rows, int n, const int64_t* shape, const int64_t* rank,
                               const double* const* factors) {
        int64_t full_shape[kMaxOrder], full_rank[kMaxOrder];
        const double* full_factors[kMaxOrder];
        full_shape[0] = full_rank[0] = rows;
        full_factors[0] = nullptr;
        for (int i = 0; i < n; ++i) {
            full_shape[i + 1] = shape[i];
            full_rank[i + 1] = rank[i];
            full_factors[i + 1] = factors[i];
        }
        return multi_mode_product<double>(g, n + 1, full_shape, full_factors, full_rank, spare);
    }
    int others(const HooiItem& item, int64_t* shape, int64_t* rank, const double** factors) const {
        int n = 0;
        for (int i = 0; i < plan.order; ++i) {
            if (i == plan.big) continue;
            shape[n] = plan.shape[i];
            rank[n] = plan.rank[i];
            factors[n++] = item.factor[i];
        }
        return n;
    }
    // weights = P V / sigma, T = G weights.
    void big_factor(HooiItem& item) {
        int64_t shape[kMaxOrder], rank[kMaxOrder];
        const double* factors[kMaxOrder];
        const int n = others(item, shape, rank, factors);
        const int64_t r = plan.rank[plan.big];
        int64_t offset = 0;
        for (int i = 0; i < n; ++i) {  // A_m^T takes R_m back to I_m
            double* t = turned + offset;
            for (int64_t a = 0; a < shape[i]; ++a)
                for (int64_t b = 0; b < rank[i]; ++b) t[b * shape[i] + a] = factors[i][a * rank[i] + b];
            offset += shape[i] * rank[i];
            factors[i] = t;
        }
        shape[n] = rank[n] = r;
        factors[n] = nullptr;
        const double* pv = multi_mode_product<double>(item.vectors, n + 1, rank, factors, shape, spare);
        const int64_t s = plan.others_size(plan.big);
        __builtin_memcpy(item.weights, pv, static_cast<size_t>(s * r) * 8);
        respond(item, item.gram, s, item.weights);
    }
    void respond(HooiItem& item, const double* gram, int64_t s, const double* pv) {
        const int64_t r = plan.rank[plan.big];
        product<double, false>(s, r, s, gram, s, pv, r, item.responses, r);
        for (int64_t j = 0; j < r; ++j) {
            const double lambda = item.values[j];
            const double inverse =
                lambda > 1e-15 * static_cast<double>(s) * item.values[0] ? 1 / __builtin_sqrt(lambda) : 0;
            for (int64_t i = 0; i < s; ++i) {
                item.weights[i * r + j] = pv[i * r + j] * inverse;
                item.responses[i * r + j] *= inverse;
            }
        }
    }
    // The mode-m unfolding of the projection on every other factor.
    void small_matrix(HooiItem& item, int m) {
        int64_t shape[kMaxOrder], rank[kMaxOrder], outer = 1, inner = 1;
        for (int i = 0, n = 0; i < plan.order; ++i) {
            if (i == plan.big) continue;
            shape[n] = plan.shape[i];
            rank[n++] = i == m ? plan.shape[i] : plan.rank[i];
            if (i < m) outer *= plan.rank[i];
            if (i > m) inner *= plan.rank[i];
        }
        const double* y = projected(item, m, shape, rank);
        if (plan.big >= 0) inner *= plan.rank[plan.big];
        const bool left = plan.left_side(m);
        const int64_t size = plan.shape[m], columns = outer * inner;
        unfold_small(y, outer, size, inner, left, item.unfolded);
        const int64_t n = left ? size : columns, depth = left ? columns : size;
        product<double, false>(n, n, depth, item.unfolded, n, item.unfolded, n, item.matrix, n);
    }
    const double* projected(HooiItem& item, int m, int64_t* shape, int64_t* rank) {
        if (plan.big >= 0) {
            const double* factors[kMaxOrder];
            int n = 0;
            for (int i = 0; i < plan.order; ++i)
                if (i != plan.big) factors[n++] = i == m ? nullptr : item.factor[i];
            shape[n] = rank[n] = plan.rank[plan.big];
            factors[n] = nullptr;
            return multi_mode_product<double>(item.responses, n + 1, shape, factors, rank, spare);
        }
        const P* factors[kMaxOrder];
        factors_as_p(item, m, factors);
        const P* y =
            multi_mode_product<P>(static_cast<const P*>(item.dense), plan.order, shape, factors, rank, spare_p);
        const int64_t n = product_of(rank, plan.order);
        for (int64_t i = 0; i < n; ++i) spare[0][i] = static_cast<double>(y[i]);
        return spare[0];
    }
    void factors_as_p(const HooiItem& item, int m, const P** factors) {
        P* to = reinterpret_cast<P*>(turned);
        for (int i = 0; i < plan.order; ++i) {
            factors[i] = nullptr;
            if (i == m) continue;
            for (int64_t j = 0; j < plan.shape[i] * plan.rank[i]; ++j) to[j] = static_cast<P>(item.factor[i][j]);
            factors[i] = to;
            to += plan.shape[i] * plan.rank[i];
        }
    }
    void small_factor(HooiItem& item, int m) {
        const int64_t size = plan.shape[m], r = plan.rank[m], n = plan.matrix_size(m);
        double* a = item.factor[m];
        if (plan.left_side(m)) {
            __builtin_memcpy(a, item.vectors, static_cast<size_t>(size * r) * 8);
            if (plan.sign_v) point_right_vectors_up(a, size, r, item.unfolded, plan.others_rank(m));
            return;
        }
        product<double, true>(size, r, n, item.unfolded, n, item.vectors, r, a, r);
        Arena scratch = arena;
        orthonormalize(a, size, r, scratch.take<double>(r));
        if (!plan.sign_v)
            point_up_one(a, static_cast<int>(size), static_cast<int>(r), scratch.take<double>(r),
                         scratch.take<double>(r));
    }
    // Signs by the entry of largest magnitude of Y^T a_k; y: [columns, size]
    static void point_right_vectors_up(double* a, int64_t size, int64_t rank, const double* y, int64_t columns) {
        for (int64_t k = 0; k < rank; ++k) {
            double most = 0, entry = 0;
            for (int64_t c = 0; c < columns; ++c) {
                double dot = 0;
                for (int64_t i = 0; i < size; ++i) dot += y[c * size + i] * a[i * rank + k];
                if (__builtin_fabs(dot) > most) most = __builtin_fabs(entry = dot);
            }
            if (entry < 0)
                for (int64_t i = 0; i < size; ++i) a[i * rank + k] *= -1;
        }
    }

    // ---- the core, and the error ----
    void contract(HooiItem& item) {
        int64_t shape[kMaxOrder], rank[kMaxOrder];
        const double* y;
        if (plan.big >= 0) {
            const double* factors[kMaxOrder];
            const int n = others(item, shape, rank, factors);
            shape[n] = rank[n] = plan.rank[plan.big];
            factors[n] = nullptr;
            y = multi_mode_product<double>(item.responses, n + 1, shape, factors, rank, spare);
            // R_big moves from the end to its place.
            int64_t outer = 1, inner = 1;
            const int64_t r = plan.rank[plan.big];
            for (int i = 0; i < plan.big; ++i) outer *= plan.rank[i];
            for (int i = plan.big + 1; i < plan.order; ++i) inner *= plan.rank[i];
            for (int64_t o = 0; o < outer; ++o)
                for (int64_t i = 0; i < inner; ++i)
                    for (int64_t k = 0; k < r; ++k) item.core[(o * r + k) * inner + i] = y[(o * inner + i) * r + k];
            return;
        }
        for (int i = 0; i < plan.order; ++i) {
            shape[i] = plan.shape[i];
            rank[i] = plan.rank[i];
        }
        y = projected(item, -1, shape, rank);
        __builtin_memcpy(item.core, y, static_cast<size_t>(product_of(plan.rank, plan.order)) * 8);
    }
    double error(const HooiItem& item) const {
        double sum = 0;
        const int64_t n = product_of(plan.rank, plan.order);
        for (int64_t i = 0; i < n; ++i) sum += item.core[i] * item.core[i];
        return __builtin_sqrt(__builtin_fabs(item.norm2 - sum)) / __builtin_sqrt(item.norm2);
    }

    void run() {
        int active = 0;
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
        for (int k = 0; k < count; ++k) {
            read(items[k]);
            active += items[k].active;
        }
        for (int m = 0; m < plan.order; ++m)
            if (!(m == plan.big && m == 0)) start(m);
        for (int sweep = 0; sweep < plan.n_iter_max && active > 0; ++sweep) {
            for (int m = 0; m < plan.order; ++m)
                if (sweep == 0 || plan.sign_v || !plan.others_full(m)) update(m);
            for (int k = 0; k < count; ++k) {
                HooiItem& item = items[k];
                if (!item.active) continue;
                contract(item);
                item.errors[sweep] = error(item);
                item.n_sweeps = sweep + 1;
                if (sweep >= 2 && __builtin_fabs(item.errors[sweep - 1] - item.errors[sweep]) < plan.tol) {
                    item.converged = true;
                    item.active = false;
                    --active;
                }
            }
        }
        for (int k = 0; k < count; ++k) finish(items[k]);
    }
    void finish(HooiItem& item) {
        if (!item.finite || item.norm2 == 0) {
            blank(item);
            return;
        }
        if (plan.big >= 0 && (plan.factors || plan.refine)) explicit_factor(item);
        const int64_t n = product_of(plan.rank, plan.order);
        for (int64_t i = 0; i < n; ++i) item.core[i] /= item.scale;
        slice_norms(item);
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
                        const double x = item.core[(o * plan.rank[m] + k) * inner + i] * item.scale;
                        sum += x * x;
                    }
                item.sigma[m][k] = __builtin_sqrt(sum) / item.scale;
            }
        }
    }
    // Zeros, or NaN for an item that holds NaN or Inf.
    void blank(HooiItem& item) {
        const double value = item.finite ? 0 : __builtin_nan("");
        item.n_sweeps = item.finite;
        item.converged = item.finite;
        item.errors[0] = value;
        for (int64_t i = 0; i < product_of(plan.rank, plan.order); ++i) item.core[i] = value;
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

// Decomposes the items; their results lie in front of what the arena has left.
static void hooi_items(bool wide, const HooiPlan& plan, HooiItem* items, int count, Arena& arena) {
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
    HooiItem again[64];
    int where[64], n = 0;
    for (int k = 0; k < count; ++k)
        if (items[k].finite && items[k].norm2 > 0 && !float_suffices(plan, items[k])) {
            again[n].x = items[k].x;
            again[n].target = items[k].target;
            again[n].target_wide = items[k].target_wide;
            where[n++] = k;
        }
    if (n == 0) return;
    HooiGroup<double> second(plan, again, n, arena);
    second.run();
    arena = second.arena;
    for (int i = 0; i < n; ++i) items[where[i]] = again[i];
}
