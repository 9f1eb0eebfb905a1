// Where the arrays of one item of HOOI lie.
#pragma once
#include "cuda/parts/eigen.cuh"
#include "cuda/parts/jacobi.cuh"
#include "cuda/parts/multiply.cuh"

namespace tsm::cuda {

// In numbers, from the start of a part that may lie in shared memory or, the last two, of one that never does.
struct HooiMemory {
    int64_t eigen;              // what eigenproblems need beside their matrix
    int64_t factor[kMaxOrder];  // [I_n, R_n], but for the modes that are kept and the big one
    int64_t basis[kMaxOrder];   // eigenvectors to start from
    int64_t core;               // [R_1, ..., R_N]
    int64_t responses;          // T = X_(big)^T A_big, [S, R_big]
    int64_t weights;            // A_big = X_(big) weights, [S, R_big]
    int64_t lambda_big;         // eigenvalues behind the weights
    int64_t work;               // [S, others_rank(big)]
    int64_t entries;            // [n, n] of an eigenproblem
    int64_t matrix;             // the same as the solvers have it
    int64_t vectors;            // [n, rank]
    int64_t lambda, sign;
    int64_t spare[2];  // products; with a big mode, room for tiles of a product (kTileBytes), else in the large part
    int64_t small_numbers, large_numbers;

    explicit HooiMemory(const HooiPlan& p) : HooiMemory() {
        int64_t n = 1, r = 1, at = 0;
        int64_t side[kMaxOrder]{};  // of the largest problem of a mode that Jacobi's way is for
        const auto meet = [&](int m, int64_t size) {
            n = larger(n, size);
            if (size <= kJacobi) side[m] = larger(side[m], even(size));
        };
        for (int m = 0; m < p.order; ++m) {
            if (!p.kept[m]) meet(m, p.matrix_size(m));
            if (p.starts(m)) meet(m, m == p.big ? p.others_size(m) : p.shape[m]);
            r = larger(r, p.rank[m]);
        }
        const auto take = [&at](int64_t count) { return (at += count) - count; };
        const int64_t square = larger(EigenMemory<double>::matrix(static_cast<int>(n)), even(n) * even(n));
        eigen = take(larger((EigenMemory<double>::bytes(static_cast<int>(n)) + 7) / 8, kTurnNumbers));
        sign = take(r);
        lambda = take(n);
        vectors = take(n * r);
        entries = take(square);
        matrix = take(square);
        core = take(p.core_size());
        for (int m = 0; m < p.order; ++m) {
            if (m != p.big && !p.kept[m]) factor[m] = take(p.shape[m] * p.rank[m]);
            basis[m] = take(side[m] * side[m]);
        }
        if (p.big >= 0) {
            const int64_t s = p.others_size(p.big), size = spare_size(p);
            responses = take(s * p.rank[p.big]);
            weights = take(s * p.rank[p.big]);
            lambda_big = take(p.rank[p.big]);
            work = take(s * p.others_rank(p.big));
            spare[0] = take(larger(2 * size, kTileBytes / 8));
            spare[1] = spare[0] + size;
            large_numbers = p.shape[p.big] * p.rank[p.big];
        } else {
            spare[1] = spare_size(p);
            large_numbers = 2 * spare_size(p);
        }
        small_numbers = (at + 1) / 2 * 2;
    }

private:
    HooiMemory() = default;
    static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
    // The largest intermediate result of products with the factors. With a big mode all start from [S, S], whose first
    // product is with the first other factor, or have at most R_big or others_rank(big) columns.
    static int64_t spare_size(const HooiPlan& p) {
        if (p.big < 0) return p.elements();
        const int64_t s = p.others_size(p.big);
        const int m = p.big == 0 ? 1 : 0;
        return larger(s * (s / p.shape[m] * p.rank[m]), s * p.rank[p.big]);
    }
};

}  // namespace tsm::cuda
