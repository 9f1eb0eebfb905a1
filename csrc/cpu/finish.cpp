#include <atomic>
#include <vector>

#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

static std::vector<Tap> taps(int64_t from, int64_t to) {
    std::vector<Tap> found;
    for (int i = 0; i < to; ++i) found.push_back(tap(i, static_cast<int>(from), static_cast<int>(to)));
    return found;
}

void finish(const void* maps, int64_t batch, FinishPlan plan, const Output& out, int threads) {
    const std::vector<Tap> down = taps(plan.height, plan.rows), across = taps(plan.width, plan.columns);
    plan.down = down.data();
    plan.across = across.data();
    plan.resize = plan.height != plan.rows || plan.width != plan.columns;
    const int64_t from = plan.height * plan.width, to = plan.rows * plan.columns, bytes = out.wide ? 8 : 4;
    const int64_t group = to < 4096 ? 4096 / to : 1;
    const double work = 8.0 * static_cast<double>(to);
    parallel_chunks(batch, group, work, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        for (int64_t b = first; b < last; ++b)
            level().finish(out.wide, plan, static_cast<const char*>(maps) + b * from * bytes, out.at(b * to), memory);
    });
}

bool are_ordinary(const void* maps, bool wide, int64_t batch, const OrdinaryMaps& plan, int threads) {
    const int64_t bytes = plan.size * (wide ? 8 : 4), group = plan.size < 65536 ? 65536 / plan.size : 1;
    std::atomic<bool> all{true};
    const double work = 2.0 * static_cast<double>(plan.size);
    parallel_chunks(batch, group, work, threads, [&](int64_t first, int64_t last, const ArenaState&) {
        for (int64_t b = first; b < last && all; ++b)
            if (!level().is_ordinary(wide, plan, static_cast<const char*>(maps) + b * bytes)) all = false;
    });
    return all;
}

}  // namespace tsm
