// HOSVD, the start of HOOI: leading left singular vectors of every unfolding of X itself.

template <class P>
void HooiGroup<P>::start(int m) {
    const int64_t size = plan.shape[m], rank = plan.rank[m];
    for (int k = 0; k < count; ++k) {
        if (!items[k].active) continue;
        const Tensor x = dense_tensor(items[k].dense, sizeof(P) == 4 ? DType::f32 : DType::f64, plan.order, plan.shape);
        gram_item<P>(fibres_of(x, m), Adjust{false, nullptr, 1, 1}, items[k].matrix, arena);
    }
    solve(static_cast<int>(size), static_cast<int>(rank));
    for (int k = 0; k < count; ++k) {
        if (!items[k].active) continue;
        __builtin_memcpy(items[k].factor[m], items[k].vectors, static_cast<size_t>(size * rank) * 8);
        if (plan.sign_v) point_start_up(items[k], m);
    }
}

template <class P>
void HooiGroup<P>::point_start_up(HooiItem& item, int m) {
    const int64_t size = plan.shape[m], r = plan.rank[m];
    // Signs by X_(m)^T a_k, in TensorLy's column order: from dense X, or fibre after fibre of the big mode.
    Arena scratch = arena;
    P* a = scratch.take<P>(size * r);
    for (int64_t i = 0; i < size * r; ++i) a[i] = static_cast<P>(item.factor[m][i]);
    double* most = scratch.take<double>(2 * r);
    double* entry = most + r;
    for (int64_t k = 0; k < 2 * r; ++k) most[k] = 0;
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < m; ++i) outer *= i == plan.big ? 1 : plan.shape[i];
    for (int i = m + 1; i < plan.order; ++i) inner *= i == plan.big ? 1 : plan.shape[i];
    P* y = plan.big < 0 ? spare[0] : scratch.take<P>(outer * r * inner);
    auto see = [&](const P* x) {
        mode_product<P>(x, outer, size, inner, a, r, y);
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t k = 0; k < r; ++k)
                for (int64_t i = 0; i < inner; ++i) {
                    const double value = static_cast<double>(y[(o * r + k) * inner + i]);
                    if (__builtin_fabs(value) > most[k]) most[k] = __builtin_fabs(entry[k] = value);
                }
    };
    if (plan.big < 0) {
        see(static_cast<const P*>(item.dense));
    } else {
        const Tensor matrix = unfolding(item, scratch);
        Panels<P> panels(fibres_of(matrix, 1), Adjust{false, nullptr, 1, item.scale}, scratch);
        for (int64_t c = 0; c < plan.shape[plan.big]; ++c) see(panels.rows(c, 1));
    }
    for (int64_t k = 0; k < r; ++k)
        if (entry[k] < 0)
            for (int64_t i = 0; i < size; ++i) item.factor[m][i * r + k] *= -1;
}
