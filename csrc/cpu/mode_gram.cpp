#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void mode_gram(const TensorBatch& x, int mode, bool center, bool wide, const Output& out, int threads) {
    const int64_t n = x.first.shape[mode], size = n * n;
    const int64_t bytes = level().mode_gram_bytes(wide, x.first, mode, center);
    parallel_chunks(x.batch, 1, threads, bytes + size * 8 + 64, [&](int64_t first, int64_t last, char* workspace) {
        auto* g = reinterpret_cast<double*>(workspace);
        for (int64_t b = first; b < last; ++b) {
            level().mode_gram(wide, x.item(b), mode, center, g, workspace + (size * 8 + 63) / 64 * 64);
            out.put(b * size, g, size);
        }
    });
}

}  // namespace tsm
