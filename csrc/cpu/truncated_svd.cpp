#include <algorithm>
#include <cmath>

#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

void truncated_svd(const TensorBatch& gram, int rank, bool wide, const Output& values, const Output& vectors,
                   int threads) {
    const int64_t n = gram.first.shape[0], size = n * n;
    const int group = level().truncated_svd_group(wide, n);
    // Gram matrix, values and vectors of each item of a group, in double.
    const int64_t item = (size + n * rank + rank + 24) * 8;
    const int64_t bytes = group * item + level().truncated_svd_bytes(wide, n) + 64;
    parallel_chunks(gram.batch, balanced_chunk(gram.batch, group, threads), threads, bytes,
                    [&](int64_t first, int64_t last, char* workspace) {
                        const double* g[64];
                        double *value[64], *vector[64];
                        const int count = static_cast<int>(last - first);
                        auto* next = reinterpret_cast<double*>(workspace);
                        for (int k = 0; k < count; ++k) {
                            const Tensor x = gram.item(first + k);
                            for (int64_t i = 0; i < n; ++i)
                                for (int64_t j = 0; j < n; ++j) {
                                    const int64_t at = i * x.stride[0] + j * x.stride[1];
                                    next[i * n + j] = x.dtype == DType::f64
                                                          ? static_cast<const double*>(x.data)[at]
                                                          : static_cast<double>(static_cast<const float*>(x.data)[at]);
                                }
                            g[k] = next;
                            value[k] = next + size;
                            vector[k] = value[k] + rank;
                            next = vector[k] + n * rank;
                        }
                        char* scratch = workspace + (reinterpret_cast<char*>(next) - workspace + 63) / 64 * 64;
                        level().truncated_svd(wide, g, count, static_cast<int>(n), rank, value, vector,
                                              most_loss(vectors.wide), scratch);
                        for (int k = 0; k < count; ++k) {
                            for (int j = 0; j < rank; ++j) value[k][j] = value[k][j] < 0 ? 0 : std::sqrt(value[k][j]);
                            values.put((first + k) * rank, value[k], rank);
                            vectors.put((first + k) * n * rank, vector[k], n * rank);
                        }
                    });
}

}  // namespace tsm
