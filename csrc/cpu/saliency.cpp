#include <algorithm>

#include "cpu/arena.h"
#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

static double work_of(const SaliencyPlan& plan) {
    if (plan.truncated) return hooi_work(plan.hooi);
    const double elements = static_cast<double>(plan.hooi.elements());
    const double n = static_cast<double>(std::min(plan.channels(), plan.positions()));
    if (plan.method == Method::mean_activation) return 8 * elements;
    if (plan.single()) return (plan.center ? n : 16) * elements;
    return 1.5 * n * elements + 4 * n * n * n;
}

void saliency(const TensorBatch& x, SaliencyPlan plan, bool wide, const Output& maps, bool* finite, int threads) {
    const int64_t size = plan.positions();
    plan.copies = fibres_of(x.first, 0).others != 1;
    plan.hooi.keeps_scale = true;
    // Signs of the factor columns matter to the signed combination alone.
    plan.hooi.factors = plan.truncated && plan.method == Method::mtsm && !plan.absolute && plan.sign == Sign::u;
    const bool mean = plan.method == Method::mean_activation;
    const int group = mean ? kMostItems : level().saliency_group(wide, plan);
    parallel_chunks(x.batch, group, work_of(plan), threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        Arena arena(memory);
        SaliencyItem items[kMostItems];
        const int count = static_cast<int>(last - first);
        for (int k = 0; k < count; ++k) {
            items[k].x = x.item(first + k);
            items[k].map = arena.take<double>(size);
            if (mean) items[k].finite = level().channel_mean(wide, items[k].x, items[k].map, arena);
        }
        if (!mean) level().saliency(wide, plan, items, count, arena);
        for (int k = 0; k < count; ++k) {
            maps.put((first + k) * size, items[k].map, size);
            finite[first + k] = items[k].finite;
        }
    });
}

}  // namespace tsm
