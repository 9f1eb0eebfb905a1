#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void core_contraction(const TensorBatch& x, const TensorBatch* factors, const Output& out, int threads) {
    int64_t bytes = out.wide ? 8 : 4;  // of a result
    for (int i = 0; i < x.first.order; ++i)
        bytes *= factors[i].first.data ? factors[i].first.shape[1] : x.first.shape[i];
    const double work = 4.0 * static_cast<double>(x.first.size());
    constexpr int64_t kTogether = 16;  // items, so that most know which one comes next
    parallel_chunks(x.batch, kTogether, work, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        for (int64_t b = first; b < last; ++b) {
            Tensor own[kMaxOrder];
            for (int i = 0; i < x.first.order; ++i) own[i] = factors[i].first.data ? factors[i].item(b) : Tensor{};
            const void* next = b + 1 < last ? x.item(b + 1).data : nullptr;
            level().core_contraction(out.wide, x.item(b), own, next, static_cast<char*>(out.data) + b * bytes, memory);
        }
    });
}

}  // namespace tsm
