// Where the arrays of one item of HOOI lie.
#pragma once
#include "cuda/parts/eigen.cuh"
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {

// fibres_of for the device: no merging of modes.
__device__ inline Fibres device_fibres(const Tensor& x, int mode) {
    Fibres f{x.data, x.dtype, x.shape[mode], x.stride[mode], 1, 0, {}, {}};
    for (int i = 0; i < x.order; ++i) {
        if (i == mode) continue;
        f.count *= x.shape[i];
        f.shape[f.others] = x.shape[i];
        f.stride[f.others++] = x.stride[i];
    }
    return f;
}

struct HooiMemory {
    double* factor[kMaxOrder];  // [I_n, R_n], but for the modes that are kept
    double* core;               // [R_1, ..., R_N]
    double* responses;          // T = X_(big)^T A_big, [S, R_big]
    double* weights;            // A_big = X_(big) weights, [S, R_big]
    double* lambda_big;         // eigenvalues behind the weights
    double* work;               // [S, others_rank(big)]
    double* spare[2];           // products; with a big mode, room for tiles of a product (kTileBytes)
    double* entries;            // [n, n] of an eigenproblem
    double* matrix;             // the same as EigenMemory has it
    double* eigen;              // and what that needs beside
    double* vectors;            // [n, rank]
    double* lambda;
    double* sign;

    __host__ __device__ static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
    __host__ __device__ static int64_t largest_problem(const HooiPlan& p) {
        int64_t n = 1;
        for (int m = 0; m < p.order; ++m) {
            if (p.kept[m]) continue;
            n = larger(n, p.matrix_size(m));
            if (p.starts(m)) n = larger(n, m == p.big ? p.others_size(m) : p.shape[m]);
        }
        return n;
    }
    __host__ __device__ static int64_t largest_rank(const HooiPlan& p) {
        int64_t r = 1;
        for (int m = 0; m < p.order; ++m) r = larger(r, p.rank[m]);
        return r;
    }
    // The largest intermediate result of products with the factors. With a big mode all start from [S, S], whose first
    // product is with the first other factor, or have at most R_big or others_rank(big) columns.
    __host__ __device__ static int64_t spare_size(const HooiPlan& p) {
        if (p.big < 0) return p.elements();
        const int64_t s = p.others_size(p.big);
        const int m = p.big == 0 ? 1 : 0;
        return larger(s * (s / p.shape[m] * p.rank[m]), s * p.rank[p.big]);
    }
    __host__ __device__ static int64_t spare_numbers(const HooiPlan& p) {
        return larger(2 * spare_size(p), p.big >= 0 ? kTileBytes / 8 : 0);
    }
    // Bytes that may lie in shared memory, and those that never do.
    __host__ __device__ static int64_t small_bytes(const HooiPlan& p) {
        const int64_t n = largest_problem(p), r = largest_rank(p);
        int64_t numbers = 2 * r + n + p.core_size() + n * r + n * n + EigenMemory<double>::matrix(static_cast<int>(n));
        for (int m = 0; m < p.order; ++m)
            if (m != p.big && !p.kept[m]) numbers += p.shape[m] * p.rank[m];
        if (p.big >= 0) {
            const int64_t s = p.others_size(p.big);
            numbers += 2 * s * p.rank[p.big] + p.rank[p.big] + s * p.others_rank(p.big) + spare_numbers(p);
        }
        return (numbers * 8 + 15) / 16 * 16 + EigenMemory<double>::bytes(static_cast<int>(n));
    }
    __host__ __device__ static int64_t big_bytes(const HooiPlan& p) {
        return 8 * (p.big >= 0 ? p.shape[p.big] * p.rank[p.big] : 2 * spare_size(p));
    }
    // large: where big_bytes lie; null for right behind the small ones
    __device__ void lay_out(const HooiPlan& p, char* small, char* large) {
        const int64_t n = largest_problem(p), r = largest_rank(p);
        eigen = reinterpret_cast<double*>(small);
        double* at = reinterpret_cast<double*>(small + EigenMemory<double>::bytes(static_cast<int>(n)));
        const auto take = [&at](int64_t count) {
            double* taken = at;
            at += count;
            return taken;
        };
        sign = take(r);
        lambda = take(r);
        vectors = take(n * r);
        entries = take(n * n);
        matrix = take(EigenMemory<double>::matrix(static_cast<int>(n)));
        core = take(p.core_size());
        for (int m = 0; m < p.order; ++m)
            if (m != p.big && !p.kept[m]) factor[m] = take(p.shape[m] * p.rank[m]);
        if (p.big >= 0) {
            const int64_t s = p.others_size(p.big);
            responses = take(s * p.rank[p.big]);
            weights = take(s * p.rank[p.big]);
            lambda_big = take(p.rank[p.big]);
            work = take(s * p.others_rank(p.big));
            spare[0] = take(spare_numbers(p));
            spare[1] = spare[0] + spare_size(p);
        }
        take(n);
        if (large)
            at = reinterpret_cast<double*>(large);
        else
            at = reinterpret_cast<double*>(small + small_bytes(p));
        if (p.big >= 0)
            factor[p.big] = take(p.shape[p.big] * p.rank[p.big]);
        else
            for (auto& buffer : spare) buffer = take(spare_size(p));
    }
};

}  // namespace tsm::cuda
