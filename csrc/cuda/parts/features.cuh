// Features of a batch with any strides, read entry by entry.
#pragma once
#include "cuda/parts/launch.cuh"

namespace tsm::cuda {

// Features of a batch, one item F [C, S].
struct Features {
    const void* data;
    DType dtype;
    int64_t channels, positions, channel_step, step, batch_stride;

    __device__ Features item(int64_t b) const {
        Features f = *this;
        f.data = item_data(data, dtype, b * batch_stride);
        return f;
    }
    __device__ __forceinline__ double at(int64_t c, int64_t p) const {
        return read(data, dtype, c * channel_step + p * step);
    }
};
inline Features features_of(const TensorBatch& x) {
    const Tensor& t = x.first;
    return {t.data, t.dtype, t.shape[0], t.shape[1], t.stride[0], t.stride[1], x.batch_stride};
}

}  // namespace tsm::cuda
