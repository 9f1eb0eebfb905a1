#include <algorithm>
#include <cmath>

#include "cpu/arena.h"
#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void truncated_svd(const TensorBatch& gram, int rank, bool roots, bool wide, const Output& values,
                   const Output& vectors, int threads) {
    const int64_t n = gram.first.shape[0], size = n * n;
    const int group = level().truncated_svd_group(wide, n);
    parallel_chunks(gram.batch, balanced_chunk(gram.batch, group, threads), threads,
                    [&](int64_t first, int64_t last, const ArenaState& memory) {
                        Arena arena(memory);
                        const double* g[kMostItems];
                        double *value[kMostItems], *vector[kMostItems];
                        const int count = static_cast<int>(last - first);
                        for (int k = 0; k < count; ++k) {
                            const Tensor x = gram.item(first + k);
                            auto* matrix = arena.take<double>(size);
                            value[k] = arena.take<double>(rank);
                            vector[k] = arena.take<double>(n * rank);
                            for (int64_t i = 0; i < n; ++i)
                                for (int64_t j = 0; j <= i; ++j) {
                                    const int64_t at = i * x.stride[0] + j * x.stride[1];
                                    matrix[i * n + j] = matrix[j * n + i] =
                                        x.dtype == DType::f64
                                            ? static_cast<const double*>(x.data)[at]
                                            : static_cast<double>(static_cast<const float*>(x.data)[at]);
                                }
                            g[k] = matrix;
                        }
                        level().truncated_svd(wide, g, count, static_cast<int>(n), rank, value, vector,
                                              most_loss(vectors.wide), arena);
                        for (int k = 0; k < count; ++k) {
                            for (int j = 0; roots && j < rank; ++j)
                                value[k][j] = value[k][j] < 0 ? 0 : std::sqrt(value[k][j]);
                            if (!roots) {
                                std::reverse(value[k], value[k] + rank);
                                for (int64_t i = 0; i < n; ++i)
                                    std::reverse(vector[k] + i * rank, vector[k] + (i + 1) * rank);
                            }
                            values.put((first + k) * rank, value[k], rank);
                            vectors.put((first + k) * n * rank, vector[k], n * rank);
                        }
                    });
}

}  // namespace tsm
