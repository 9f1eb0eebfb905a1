#include "cpu/arena.h"
#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void mode_gram(const TensorBatch& x, int mode, bool center, bool wide, const Output& out, int threads) {
    const int64_t n = x.first.shape[mode], size = n * n;
    const double work = static_cast<double>(x.first.size()) * static_cast<double>(n) / 2;
    parallel_chunks(x.batch, 1, work, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        Arena arena(memory);
        auto* g = arena.take<double>(size);
        for (int64_t b = first; b < last; ++b) {
            level().mode_gram(wide, x.item(b), mode, center, g, arena);
            out.put(b * size, g, size);
        }
    });
}

}  // namespace tsm
