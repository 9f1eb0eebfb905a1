// The six steps on whole batches, threads over the batch. Outputs are contiguous, in double when `wide_out`.
#pragma once
#include "cpu/levels.h"

namespace tsm {

// out: [B, I_n, I_n]
void mode_gram(const TensorBatch& x, int mode, bool center, bool wide, const Output& out, int threads);

// gram: [B, n, n]; values: [B, rank]; vectors: [B, n, rank]
// Of symmetric matrices, by their lower triangles: the leading eigenvalues, ascending, or with `roots` their roots,
// descending, and vectors; NaN where one is not finite.
void truncated_svd(const TensorBatch& gram, int rank, bool roots, bool wide, const Output& values,
                   const Output& vectors, int threads);

// x: [B, M, N], M >= N; left: [B, M, rank], right: [B, N, rank], one of them transposed; values: [B, rank]; finite: [B]
void singular_triplets(const TensorBatch& x, const TripletsPlan& plan, float* left, float* values, float* right,
                       bool* finite, int threads);

// factors[n]: [B, I_n, R_n], or without data where mode n stays; out: [B, ...]
void core_contraction(const TensorBatch& x, const TensorBatch* factors, const Output& out, int threads);

void hooi(const TensorBatch& x, CpuHooiPlan plan, bool wide, const HooiStart& start, const HooiOutput& out,
          int threads);
// Of an item, as parallel_chunks takes it.
double hooi_work(const HooiPlan& plan);

// maps: [B, H, W]; finite: [B]
void saliency(const TensorBatch& x, SaliencyPlan plan, bool wide, const Output& maps, bool* finite, int threads);

// maps: [B, height, width] and out: [B, rows, columns], contiguous, in the same type, or of one shape and the same
// memory; resized where the shapes differ, then normalised where asked
void finish(const void* maps, int64_t batch, FinishPlan plan, const Output& out, int threads);
bool are_ordinary(const void* maps, bool wide, int64_t batch, const OrdinaryMaps& plan, int threads);

}  // namespace tsm
