// TensorLy's tucker for a group of items at once: HOSVD start, Gauss-Seidel sweeps, every item stopping on its own.
// Where one mode is larger than the product of the others (`big`), X is read once into their Gram matrix.
#pragma once
#include "cpu/level/hooi/by_gram.inl"
#include "cpu/level/hooi/by_projection.inl"

namespace tsm::TSM_LEVEL {
namespace {

// How many items are decomposed together: what they keep fits the caches.
template <class P>
static int hooi_group_size(const CpuHooiPlan& p) {
    int group = eigh_group<double>(largest_problem(p));
    const auto bytes = p.big >= 0 ? ByGram<P>::bytes : ByProjection<P>::bytes;
    while (group > 1 && bytes(p, group) > int64_t{8} << 20) group /= 2;
    return group;
}

// Decomposes the items; their results lie in front of what the arena has left.
template <class P>
static void hooi_as(const CpuHooiPlan& plan, HooiItem* items, int count, Arena& arena) {
    if (plan.big >= 0)
        ByGram<P>(plan, items, count, arena).run();
    else
        ByProjection<P>(plan, items, count, arena).run();
}

// Items that passes in float cannot vouch for are decomposed again in double.
static void hooi_items(bool wide, const CpuHooiPlan& plan, HooiItem* items, int count, Arena& arena) {
    (wide ? hooi_as<double> : hooi_as<float>)(plan, items, count, arena);
    if (wide || !plan.guard) return;
    HooiItem again[kMostItems];
    int where[kMostItems], n = 0;
    for (int k = 0; k < count; ++k)
        if (items[k].finite && items[k].norm2 > 0 && !float_suffices(plan, items[k])) {
            again[n].x = items[k].x;
            again[n].target = items[k].target;
            again[n].target_wide = items[k].target_wide;
            again[n].padding = items[k].padding;
            for (int m = 0; m < plan.order; ++m) {
                again[n].start[m] = items[k].start[m];
                again[n].hosvd[m] = items[k].hosvd[m];
                again[n].has_hosvd[m] = items[k].has_hosvd[m];
            }
            where[n++] = k;
        }
    const int most = hooi_group_size<double>(plan);
    for (int first = 0; first < n; first += most)
        hooi_as<double>(plan, again + first, n - first < most ? n - first : most, arena);
    for (int i = 0; i < n; ++i) items[where[i]] = again[i];
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
