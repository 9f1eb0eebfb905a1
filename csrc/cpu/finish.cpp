#include <vector>

#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

// Bilinear, pixels as areas (align_corners=False of torch.nn.functional.interpolate).
static std::vector<Tap> taps(int64_t from, int64_t to) {
    std::vector<Tap> found;
    for (int64_t i = 0; i < to; ++i) {
        const double scale = static_cast<double>(from) / static_cast<double>(to);
        const double at = (static_cast<double>(i) + 0.5) * scale - 0.5, inside = at > 0 ? at : 0;
        const int64_t first = static_cast<int64_t>(inside) < from - 1 ? static_cast<int64_t>(inside) : from - 1;
        found.push_back({first, first + 1 < from ? first + 1 : first, inside - static_cast<double>(first)});
    }
    return found;
}

void finish(const void* maps, int64_t batch, FinishPlan plan, const Output& out, int threads) {
    const std::vector<Tap> down = taps(plan.height, plan.height_out), across = taps(plan.width, plan.columns);
    plan.down = down.data();
    plan.across = across.data();
    plan.resize = plan.height != plan.height_out || plan.width != plan.columns;
    const int64_t from = plan.height * plan.width, to = plan.height_out * plan.columns, bytes = out.wide ? 8 : 4;
    const int64_t group = to < 4096 ? 4096 / to : 1;
    parallel_chunks(batch, balanced_chunk(batch, group, threads), threads, level().finish_bytes(out.wide, plan),
                    [&](int64_t first, int64_t last, char* workspace) {
                        for (int64_t b = first; b < last; ++b)
                            level().finish(out.wide, plan, static_cast<const char*>(maps) + b * from * bytes,
                                           out.at(b * to), workspace);
                    });
}

}  // namespace tsm
