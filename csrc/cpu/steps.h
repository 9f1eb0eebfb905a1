// The six steps on whole batches, threads over the batch. Outputs are contiguous, in double when `wide_out`.
#pragma once
#include "cpu/levels.h"

namespace tsm {

struct Output {
    void* data;
    bool wide;  // double, else float
    void* at(int64_t element) const { return static_cast<char*>(data) + element * (wide ? 8 : 4); }
    template <class T>
    void put(int64_t at, const T* from, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) {
            if (wide)
                static_cast<double*>(data)[at + i] = static_cast<double>(from[i]);
            else
                static_cast<float*>(data)[at + i] = static_cast<float>(from[i]);
        }
    }
};

// out: [B, I_n, I_n]
void mode_gram(const TensorBatch& x, int mode, bool center, bool wide, const Output& out, int threads);

// gram: [B, n, n]; values: [B, rank] singular values; vectors: [B, n, rank]
void truncated_svd(const TensorBatch& gram, int rank, bool wide, const Output& values, const Output& vectors,
                   int threads);

// factors[i]: contiguous [B, I_n, rank[n]] in the type of out, or null; out: [B, ...]
void core_contraction(const TensorBatch& x, const void* const* factors, const int64_t* rank, const Output& out,
                      int threads);

struct HooiOutput {
    Output core;                        // [B, R_1, ..., R_N]
    Output factors[kMaxOrder];          // [B, I_n, R_n]
    Output singular_values[kMaxOrder];  // [B, R_n]
    double* errors;                     // [B, n_iter_max], NaN on entry
    int64_t* n_sweeps;                  // [B]
    bool* converged;                    // [B]
    bool* finite;                       // [B]
};
void hooi(const TensorBatch& x, HooiPlan plan, bool wide, const HooiOutput& out, int threads);

// maps: [B, H, W]; finite: [B]
void saliency(const TensorBatch& x, SaliencyPlan plan, bool wide, const Output& maps, bool* finite, int threads);

// maps: [B, height, width] and out: [B, height_out, columns], contiguous, in the same type; resized where the shapes
// differ, then normalised where asked
void finish(const void* maps, int64_t batch, FinishPlan plan, const Output& out, int threads);

// Fills rank-independent fields of a plan.
HooiPlan plan_hooi(const TensorBatch& x, const int64_t* rank);

}  // namespace tsm
