#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void core_contraction(const TensorBatch& x, const void* const* factors, const int64_t* rank, const Output& out,
                      int threads) {
    const int64_t bytes_of = out.wide ? 8 : 4;
    int64_t size = 1;
    for (int i = 0; i < x.first.order; ++i) size *= factors[i] ? rank[i] : x.first.shape[i];
    parallel_chunks(x.batch, 1, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        for (int64_t b = first; b < last; ++b) {
            const void* own[kMaxOrder];
            for (int i = 0; i < x.first.order; ++i)
                own[i] = factors[i] ? static_cast<const char*>(factors[i]) + b * x.first.shape[i] * rank[i] * bytes_of
                                    : nullptr;
            level().core_contraction(out.wide, x.item(b), own, rank, static_cast<char*>(out.data) + b * size * bytes_of,
                                     memory);
        }
    });
}

}  // namespace tsm
