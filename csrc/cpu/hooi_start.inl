// HOSVD, the start of HOOI: leading left singular vectors of every unfolding of X itself.

template <class P>
void HooiGroup<P>::start(int m) {
    const int rank = static_cast<int>(plan.rank[m]);
    if (m == plan.big) {
        const int64_t s = plan.others_size(m);
        for (int k = 0; k < count; ++k)
            if (items[k].active) __builtin_memcpy(items[k].matrix, items[k].gram, static_cast<size_t>(s * s) * 8);
        solve(static_cast<int>(s), rank);
        for (int k = 0; k < count; ++k) {
            if (!items[k].active) continue;
            __builtin_memcpy(items[k].weights, items[k].vectors, static_cast<size_t>(s * rank) * 8);
            respond(items[k], items[k].gram, s, items[k].vectors);
        }
        return;
    }
    for (int k = 0; k < count; ++k)
        if (items[k].active) start_matrix(items[k], m);
    solve(static_cast<int>(plan.shape[m]), rank);
    for (int k = 0; k < count; ++k)
        if (items[k].active) keep_start(items[k], m);
}

template <class P>
void HooiGroup<P>::keep_start(HooiItem& item, int m) {
    const int64_t size = plan.shape[m], r = plan.rank[m];
    __builtin_memcpy(item.factor[m], item.vectors, static_cast<size_t>(size * r) * 8);
    if (!plan.sign_v) return;
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
    auto see = [&](const P* x) {
        P* y = plan.big < 0 ? spare_p[0] : scratch.take<P>(0);
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

template <class P>
void HooiGroup<P>::start_matrix(HooiItem& item, int m) {
    const int64_t size = plan.shape[m];
    if (plan.big < 0) {
        const Tensor x = dense_tensor(item.dense, sizeof(P) == 4 ? DType::f32 : DType::f64, plan.order, plan.shape);
        gram_item<P>(fibres_of(x, m), Adjust{false, nullptr, 1, 1}, item.matrix, arena);
        return;
    }
    // A partial trace of G over every mode but m.
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < m; ++i) outer *= i == plan.big ? 1 : plan.shape[i];
    for (int i = m + 1; i < plan.order; ++i) inner *= i == plan.big ? 1 : plan.shape[i];
    const int64_t s = outer * size * inner;
    for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j) {
            double sum = 0;
            for (int64_t o = 0; o < outer; ++o)
                for (int64_t r = 0; r < inner; ++r)
                    sum += item.gram[((o * size + i) * inner + r) * s + (o * size + j) * inner + r];
            item.matrix[i * size + j] = sum;
        }
}
