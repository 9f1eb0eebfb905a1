// A batch of strided tensors as the engine sees it: no ownership, no Python, no torch.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define TSM_HOST_DEVICE __host__ __device__
#else
#define TSM_HOST_DEVICE
#endif

namespace tsm {

enum class DType : int { f16 = 0, bf16 = 1, f32 = 2, f64 = 3 };

inline int64_t size_of(DType t) {
    return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2;
}

constexpr int kMaxOrder = 5;  // orders of one item: 1 to 5

// One item: [I_1, ..., I_order], strides in elements (any sign, 0 for broadcast views).
struct Tensor {
    const void* data;
    DType dtype;
    int order;
    int64_t shape[kMaxOrder];
    int64_t stride[kMaxOrder];

    int64_t size() const {
        int64_t n = 1;
        for (int i = 0; i < order; ++i) n *= shape[i];
        return n;
    }
};

// [B, I_1, ..., I_order]
struct TensorBatch {
    Tensor first;
    int64_t batch;
    int64_t batch_stride;  // elements

    Tensor item(int64_t b) const {
        Tensor t = first;
        t.data = static_cast<const char*>(first.data) + b * batch_stride * size_of(first.dtype);
        return t;
    }
};

// The mode-n unfolding of an item as an index map, never a copy: fibre k runs over every index but mode n,
// in TensorLy's column order (last index fastest), and holds `n` elements `step` apart.
struct Fibres {
    const void* data;
    DType dtype;
    int64_t n;      // length of a fibre, I_n
    int64_t step;   // between elements of a fibre
    int64_t count;  // number of fibres
    int others;     // modes beside n, in order
    int64_t shape[kMaxOrder];
    int64_t stride[kMaxOrder];
};

inline Fibres fibres_of(const Tensor& x, int mode) {
    Fibres f{x.data, x.dtype, x.shape[mode], x.stride[mode], 1, 0, {}, {}};
    for (int i = 0; i < x.order; ++i) {
        if (i == mode) continue;
        f.count *= x.shape[i];
        // Neighbouring modes that lie in memory like one are one.
        if (f.others > 0 && f.stride[f.others - 1] == x.shape[i] * x.stride[i]) {
            f.shape[f.others - 1] *= x.shape[i];
            f.stride[f.others - 1] = x.stride[i];
        } else {
            f.shape[f.others] = x.shape[i];
            f.stride[f.others] = x.stride[i];
            ++f.others;
        }
    }
    if (f.others == 0) {
        f.shape[0] = 1;
        f.stride[0] = 0;
        f.others = 1;
    }
    return f;
}

}  // namespace tsm
