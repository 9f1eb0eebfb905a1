#include <algorithm>
#include <cmath>

#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

double hooi_work(const HooiPlan& plan) {
    return 4e5 + (plan.big >= 0 ? 40 : 150) * static_cast<double>(plan.elements());
}

void hooi(const TensorBatch& x, CpuHooiPlan plan, bool wide, const HooiStart& start, const HooiOutput& out,
          int threads) {
    plan.factors = true;
    plan.loss = most_loss(out.core.wide);
    const int64_t core = plan.core_size();
    const int64_t big = plan.big < 0 ? 0 : plan.shape[plan.big] * plan.rank[plan.big];
    const int group = level().hooi_group(wide, plan);
    parallel_chunks(x.batch, group, hooi_work(plan), threads,
                    [&](int64_t first, int64_t last, const ArenaState& memory) {
                        HooiItem items[kMostItems];
                        const int count = static_cast<int>(last - first);
                        for (int k = 0; k < count; ++k) {
                            items[k].x = x.item(first + k);
                            items[k].target = plan.big < 0 ? nullptr : out.factors[plan.big].at((first + k) * big);
                            items[k].target_wide = plan.big >= 0 && out.factors[plan.big].wide;
                            if (plan.padded >= 0) items[k].padding = start.padding + (first + k) * start.padding_stride;
                            for (int m = 0; plan.given && m < plan.order; ++m)
                                if (!plan.kept[m]) items[k].start[m] = start.factors[m] + (first + k) * start.stride[m];
                        }
                        level().hooi(wide, plan, items, count, memory);
                        for (int k = 0; k < count; ++k) {
                            const HooiItem& item = items[k];
                            const int64_t b = first + k;
                            out.core.put(b * core, item.core, core);
                            for (int m = 0; m < plan.order; ++m) {
                                if (plan.kept[m]) continue;
                                const int64_t size = plan.shape[m] * plan.rank[m];
                                out.singular_values[m].put(b * plan.rank[m], item.sigma[m], plan.rank[m]);
                                if (m != plan.big)
                                    out.factors[m].put(b * size, item.factor[m], size);
                                else if (item.big_factor == item.target)
                                    continue;
                                else if (item.big_wide)
                                    out.factors[m].put(b * size, static_cast<double*>(item.big_factor), size);
                                else
                                    out.factors[m].put(b * size, static_cast<float*>(item.big_factor), size);
                            }
                            double* errors = out.errors + b * plan.n_iter_max;
                            std::copy_n(item.errors, item.n_sweeps, errors);
                            std::fill(errors + item.n_sweeps, errors + plan.n_iter_max, std::nan(""));
                            out.n_sweeps[b] = item.n_sweeps;
                            out.converged[b] = item.converged;
                            out.finite[b] = item.finite;
                        }
                    });
}

}  // namespace tsm
