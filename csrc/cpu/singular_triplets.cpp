#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void singular_triplets(const TensorBatch& x, const TripletsPlan& plan, float* left, float* values, float* right,
                       bool* finite, int threads) {
    const int64_t rows = x.first.shape[0], columns = x.first.shape[1], r = plan.rank;
    const int group = level().truncated_svd_group(true, columns, false);
    const double work = 5 * static_cast<double>(rows) * static_cast<double>(columns * columns);
    parallel_chunks(x.batch, group, work, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        TripletsItem items[kMostItems];
        const int count = static_cast<int>(last - first);
        for (int k = 0; k < count; ++k) {
            const int64_t b = first + k;
            items[k].x = x.item(b);
            items[k].left = left + b * rows * r;
            items[k].values = values + b * r;
            items[k].right = right + b * columns * r;
        }
        level().singular_triplets(plan, items, count, memory);
        for (int k = 0; k < count; ++k) finite[first + k] = items[k].finite;
    });
}

}  // namespace tsm
