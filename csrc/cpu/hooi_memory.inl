// How much memory HOOI takes, and how many items it decomposes together.

template <class P>
static int64_t hooi_item_bytes(const HooiPlan& p) {
    const int64_t n = largest_problem(p);
    int64_t doubles = product_of(p.rank, p.order) + p.n_iter_max + 32;
    for (int m = 0; m < p.order; ++m) doubles += p.shape[m] * p.rank[m] + p.rank[m] + 16;
    if (p.big >= 0) return (doubles + 2 * p.others_size(p.big) * p.rank[p.big] + 16) * 8;
    return (doubles + 2 * n * n + n + unfolded_size(p) + 32) * 8 + p.elements() * static_cast<int64_t>(sizeof(P)) + 64;
}
// Whether the items of a group go through the sweeps in the lanes of vectors: beyond the caches they had better not.
static bool in_lanes(const HooiPlan& p) {
    return largest_problem(p) <= kLockstep && GramSweeps<Vec<double>>::bytes(p, kLanes<double>) <= int64_t{3} << 20;
}
// What the sweeps keep of `count` items, their Gram matrices among it.
static int64_t gram_sweeps_bytes(const HooiPlan& p, int count) {
    const int64_t s = p.others_size(p.big);
    const int64_t own = GramSweeps<double>::bytes(p, count), lanes = GramSweeps<Vec<double>>::bytes(p, count);
    return (in_lanes(p) && lanes > own ? lanes : own) + count * (s * s * 8 + 64);
}
template <class P>
static int hooi_group_size(const HooiPlan& p) {
    int group = eigh_group<double>(largest_problem(p));
    while (group > 1 && group * hooi_item_bytes<P>(p) + (p.big >= 0 ? gram_sweeps_bytes(p, group) : 0) > (8 << 20))
        group /= 2;
    return group;
}
template <class P>
static int64_t hooi_shared_bytes(const HooiPlan& p) {
    int64_t passes = 0, longest = 1, sizes = 0, most_rank = 1;
    for (int m = 0; m < p.order; ++m) {
        passes = gram_bytes<P>(p.shape[m]) > passes ? gram_bytes<P>(p.shape[m]) : passes;
        longest = p.shape[m] > longest ? p.shape[m] : longest;
        most_rank = p.rank[m] > most_rank ? p.rank[m] : most_rank;
        sizes += p.shape[m] * p.rank[m];
    }
    int64_t kept = 0;
    if (p.big >= 0) {
        const int64_t s = p.others_size(p.big), r = p.rank[p.big];
        kept = gram_sweeps_bytes(p, hooi_group_size<P>(p));
        passes = gram_bytes<P>(s) + (3 * p.shape[p.big] * r + 6 * s * (r + 16)) * 8 +
                 p.elements() * static_cast<int64_t>(sizeof(P));
    } else {
        kept = (sizes + 3 * p.elements()) * 8;
    }
    const int64_t solver = eigh_bytes<double>(largest_problem(p));
    return kept + (solver > passes ? solver : passes) + orthonormalize_bytes(most_rank) +
           (longest + 8 * most_rank) * 8 + 4096;
}

static int64_t hooi_bytes(bool wide, const HooiPlan& plan) {
    const int64_t doubles = hooi_item_bytes<double>(plan), shared = hooi_shared_bytes<double>(plan);
    if (wide) return hooi_group_size<double>(plan) * doubles + shared;
    const int64_t group = hooi_group_size<float>(plan);
    return group * hooi_item_bytes<float>(plan) + hooi_shared_bytes<float>(plan) +
           (plan.guard ? group * doubles + shared : 0);
}
