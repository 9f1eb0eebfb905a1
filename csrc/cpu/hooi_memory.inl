// How much memory HOOI takes, and how many items it decomposes together.

static int64_t projected_size(const HooiPlan& p) {  // elements of the tensor that is projected in a sweep
    if (p.big < 0) return p.elements();
    const int64_t s = p.others_size(p.big);
    return s * (s > p.rank[p.big] ? s : p.rank[p.big]);
}
static int64_t largest_problem(const HooiPlan& p) {
    int64_t n = 1;
    for (int m = 0; m < p.order; ++m) {
        const int64_t start = m == p.big ? (m == 0 ? 1 : p.others_size(m)) : p.shape[m];
        n = start > n ? start : n;
        n = p.matrix_size(m) > n ? p.matrix_size(m) : n;
    }
    return n;
}
static int64_t unfolded_size(const HooiPlan& p) {
    int64_t n = 1;
    for (int m = 0; m < p.order; ++m)
        if (m != p.big && p.shape[m] * p.others_rank(m) > n) n = p.shape[m] * p.others_rank(m);
    return n;
}
template <class P>
static int64_t hooi_item_bytes(const HooiPlan& p) {
    const int64_t n = largest_problem(p);
    int64_t doubles = 2 * n * n + n + unfolded_size(p) + product_of(p.rank, p.order) + p.n_iter_max + 64;
    for (int m = 0; m < p.order; ++m) doubles += p.shape[m] * p.rank[m] + p.rank[m] + 16;
    int64_t bytes = 0;
    if (p.big >= 0) {
        const int64_t s = p.others_size(p.big);
        doubles += s * s + 2 * s * p.rank[p.big] + 24;
    } else {
        bytes = p.elements() * static_cast<int64_t>(sizeof(P)) + 64;
    }
    return bytes + doubles * 8 + 16 * 64;
}
template <class P>
static int64_t hooi_shared_bytes(const HooiPlan& p) {
    int64_t factors = 0;
    for (int m = 0; m < p.order; ++m) factors += p.shape[m] * p.rank[m];
    int64_t doubles = 2 * projected_size(p) + factors + 64;
    int64_t passes = 0, longest = 1;
    for (int m = 0; m < p.order; ++m) {
        passes = gram_bytes<P>(p.shape[m]) > passes ? gram_bytes<P>(p.shape[m]) : passes;
        longest = p.shape[m] > longest ? p.shape[m] : longest;
    }
    if (p.big >= 0) {
        const int64_t s = p.others_size(p.big), r = p.rank[p.big];
        doubles += s * p.others_rank(p.big);
        passes = gram_bytes<P>(s) + (3 * p.shape[p.big] * r + 4 * s * (r + 16)) * 8 +
                 p.elements() * static_cast<int64_t>(sizeof(P));
    } else {
        doubles += 2 * p.elements();
    }
    const int64_t solver = eigh_bytes<double>(largest_problem(p));
    int64_t most_rank = 1;
    for (int m = 0; m < p.order; ++m) most_rank = p.rank[m] > most_rank ? p.rank[m] : most_rank;
    return doubles * 8 + (solver > passes ? solver : passes) + (longest + 4 * most_rank) * 8 + 4096;
}
template <class P>
static int hooi_group_size(const HooiPlan& p) {
    int group = eigh_group<double>(largest_problem(p));
    while (group > 1 && group * hooi_item_bytes<P>(p) > (int64_t{8} << 20)) group /= 2;
    return group;
}

static int64_t hooi_bytes(bool wide, const HooiPlan& plan) {
    const int64_t doubles = hooi_item_bytes<double>(plan), shared = hooi_shared_bytes<double>(plan);
    if (wide) return hooi_group_size<double>(plan) * doubles + shared;
    const int64_t group = hooi_group_size<float>(plan);
    return group * hooi_item_bytes<float>(plan) + hooi_shared_bytes<float>(plan) +
           (plan.guard ? group * doubles + shared : 0);
}
