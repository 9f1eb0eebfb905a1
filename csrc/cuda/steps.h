// The steps on the device, one launch or a few each: raw device pointers, the caller's stream, no allocation, no
// synchronisation. Sums are in double, but for those of a few rows in leading pairs that go out in float. `skip`, where
// given, names items [B] to leave alone: those that an earlier, faster kernel has settled.
#pragma once
#include <cstdint>

#include "plans.h"

namespace tsm::cuda {

constexpr int kSmall = 64;     // matrices up to this size have a warp each
constexpr int kLargest = 256;  // matrices up to this size have a block each; larger ones are left to a library

// out: [B, I_n, I_n]; center: less the mean of each fibre (mode n must be the last one)
void mode_gram(const TensorBatch& x, int mode, bool center, const Output& out, const bool* skip, void* stream);
// Its branch for I_n <= kSmall.
void mode_gram_small(const TensorBatch& x, int mode, bool center, const Output& out, const bool* skip, void* stream);

// gram: [B, n, n], contiguous; values: [B, rank] singular values; vectors: [B, n, rank]. n <= kLargest.
// workspace: truncated_svd_workspace(n, B) bytes
int64_t truncated_svd_workspace(int n, int64_t batch, bool wide);
void truncated_svd(const void* gram, bool wide_gram, int64_t batch, int n, int rank, bool wide, const Output& values,
                   const Output& vectors, const bool* skip, void* workspace, int64_t bytes, void* stream);

// One product X x_mode A^T: factor [B, I_n, r], contiguous, in double; out: [B, ..., r, ...], contiguous
void core_contraction(const TensorBatch& x, int mode, const double* factor, int64_t r, const Output& out, void* stream);

// gram: [B, S, S] in double, of the modes beside the big one; null where there is none.
// workspace: B times hooi_workspace(plan) bytes
int64_t hooi_workspace(const HooiPlan& plan);
void hooi(const TensorBatch& x, const HooiPlan& plan, const double* gram, const HooiStart& start, const HooiOutput& out,
          void* workspace, int64_t bytes, void* stream);

// Features F [B, C, S] (x of order 2) in one read: maps [B, S] become sigma_1 v_1, sign free. settled [B]: whether the
// pair was had and proved; finite [B]. S <= kSmall.
void leading_small(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, void* stream);
// The same for any S without a Gram matrix, by Lanczos. workspace: B * leading_workspace(C, S) bytes
int64_t leading_workspace(int64_t channels, int64_t positions);
void leading_large(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, void* workspace,
                   int64_t bytes, void* stream);

// The entry of largest magnitude, the first on ties, of every column of F V (F^T V where `transposed`), without writing
// the product. vectors: [B, S or C, n], out: [B, n], in double. `center`: F less its channel means, V without one.
void extremes(const TensorBatch& x, bool transposed, bool center, const double* vectors, int n, double* out,
              const bool* skip, void* stream);

// Raw maps [B, S] get their sign, and lose their negative part with `relu`.
void sign_single(const TensorBatch& x, bool center, Sign sign, bool relu, const Output& maps, void* stream);

// Maps [B, S] from eigenpairs of the position Gram. values: [B, n] singular values, vectors: [B, S, n]; signs:
// [B, n], which the w_j have, or null.
void combine_positions(const double* values, const double* vectors, const double* signs, int64_t batch,
                       int64_t positions, int n, Combine how, const Output& maps, bool* finite, const bool* skip,
                       void* stream);
// Maps [B, S] from eigenpairs of the channel Gram, vectors: [B, C, n], by one more pass over F.
void combine_channels(const TensorBatch& x, const double* values, const double* vectors, const double* signs, int n,
                      Combine how, const Output& maps, bool* finite, const bool* skip, void* stream);

// maps: [B, height, width] and out: [B, rows, columns], contiguous, in the same type; resized where the shapes differ,
// then normalised where asked
void finish(const void* maps, int64_t batch, int height, int width, int rows, int columns, bool normalize, double noise,
            const Output& out, void* stream);

}  // namespace tsm::cuda
