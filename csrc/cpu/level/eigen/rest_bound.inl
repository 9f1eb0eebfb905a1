// A bound on what F^T F holds beside a few vectors, at a quarter of the cost of a Gram matrix. The largest eigenvalue
// of a matrix without negative ones is at most the sum of those of its diagonal blocks; the blocks taken here are the
// positions four apart, which see neighbours in a map apart from one another and need no broadcasts.
#pragma once
#include "cpu/level/core_contraction.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int kBlocks = 4;

// sums[i][j][l] += sum over the rows of x[i L + l] x[4 j + l], for A vectors and B shifts.
template <int A, int B>
static inline void shifted_tile(const float* rows, int64_t ld, int64_t count, int64_t v, int64_t shift,
                                Vec<float>* sums, int64_t shifts) {
    constexpr int L = kLanes<float>;
    Vec<float> acc[A][B] = {};
    const float *left = rows + v * L, *right = rows + shift * kBlocks;
    for (int64_t k = 0; k < count; ++k, left += ld, right += ld) {
        Vec<float> a[A];
        for (int i = 0; i < A; ++i) a[i] = load(left + i * L);
#pragma GCC unroll 8
        for (int j = 0; j < B; ++j) {
            Vec<float> b = load(right + j * kBlocks);
            hold(b);
            for (int i = 0; i < A; ++i) acc[i][j] += a[i] * b;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < A; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < B; ++j) sums[(v + i) * shifts + shift + j] += acc[i][j];
}
template <int A>
static inline void shifted_rows(const float* rows, int64_t ld, int64_t count, int64_t v, Vec<float>* sums,
                                int64_t shifts) {
    constexpr int B = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    int64_t at = v * kLanes<float> / kBlocks;
    for (; at + B <= shifts; at += B) shifted_tile<A, B>(rows, ld, count, v, at, sums, shifts);
    if (B > 4 && at + 4 <= shifts) {
        shifted_tile<A, 4>(rows, ld, count, v, at, sums, shifts);
        at += 4;
    }
    for (; at < shifts; ++at) shifted_tile<A, 1>(rows, ld, count, v, at, sums, shifts);
}

// The blocks of scale (F^T F - sum_t left_t right_t^T), a matrix without negative eigenvalues.
struct RestBlocks {
    int64_t size[kBlocks], ld[kBlocks];
    float* block[kBlocks];  // [size, ld], symmetric, zeros behind
    double error;           // of each, in Frobenius norm

    // f: [count, length], ld apart; left, right: [terms, length + kSlack], zeros behind. Rounding moves the blocks by
    // `error`.
    static constexpr int64_t kSlack = 2 * kLanes<float>;
    RestBlocks(const float* f, int64_t count, int64_t length, int64_t ldf, int terms, const float* left,
               const float* right, double scale, double rounding, Arena& arena)
        : error(rounding) {
        constexpr int64_t L = kLanes<float>;
        const int64_t vectors = padded<float>(length) / L, shifts = (length + kBlocks - 1) / kBlocks,
                      slack = length + kSlack;
        for (int r = 0; r < kBlocks; ++r) {
            size[r] = (length - r + kBlocks - 1) / kBlocks;
            ld[r] = padded<float>(size[r]);
            block[r] = arena.take<float>(size[r] * ld[r]);
            for (int64_t i = 0; i < size[r] * ld[r]; ++i) block[r][i] = 0;
        }
        Arena scratch = arena;
        Vec<float>* sums = reinterpret_cast<Vec<float>*>(scratch.take<float>(vectors * shifts * L));
        for (int64_t i = 0; i < vectors * shifts; ++i) sums[i] = Vec<float>{};
        const int64_t panel = Panels<float>::rows_per_panel(length), ldp = padded<float>(length) + kSlack;
        float* rows = scratch.take<float>(panel * ldp);
        for (int64_t k = 0; k < panel; ++k)
            for (int64_t j = ldp - kSlack; j < ldp; ++j) rows[k * ldp + j] = 0;
        for (int64_t k = 0; k < count; k += panel) {
            const int64_t some = count - k < panel ? count - k : panel;
            for (int64_t r = 0; r < some; ++r) pack_whole_row(f + (k + r) * ldf, length, 1.0f, rows + r * ldp);
            int64_t v = 0;
            for (; v + 3 <= vectors; v += 3) shifted_rows<3>(rows, ldp, some, v, sums, shifts);
            if (v + 2 <= vectors) {
                shifted_rows<2>(rows, ldp, some, v, sums, shifts);
                v += 2;
            }
            if (v < vectors) shifted_rows<1>(rows, ldp, some, v, sums, shifts);
        }
        for (int64_t v = 0; v < vectors; ++v)
            for (int64_t at = v * L / kBlocks; at < shifts; ++at) {
                Vec<float> rest = sums[v * shifts + at];
                for (int t = 0; t < terms; ++t)
                    rest -= load(left + t * slack + v * L) * load(right + t * slack + at * kBlocks);
                rest *= static_cast<float>(scale);
                for (int64_t l = 0; l < L && at * kBlocks + l < length; ++l) {
                    const int64_t r = l % kBlocks, i = (v * L + l) / kBlocks, j = at + l / kBlocks;
                    block[r][i * ld[r] + j] = block[r][j * ld[r] + i] = rest[l];
                }
            }
    }

    // Whether enough(a bound on the largest eigenvalue) holds for a bound by norms of the blocks' powers.
    template <class Enough>
    bool bounded(Arena scratch, Enough enough) {
        constexpr int kDoublings = 3;
        float* other[kBlocks];
        double wrong[kBlocks];
        for (int r = 0; r < kBlocks; ++r) {
            other[r] = scratch.take<float>(size[r] * ld[r]);
            wrong[r] = error;
        }
        for (int s = 0;; ++s) {
            double bound = 0, norm[kBlocks];
            for (int r = 0; r < kBlocks; ++r) {
                double sum = 0;
                for (int64_t i = 0; i < size[r]; ++i) sum += squares(block[r] + i * ld[r], ld[r]);
                norm[r] = __builtin_sqrt(sum);
                double root = norm[r] * (1 + 1e-5) + wrong[r];
                for (int i = 0; i < s; ++i) root = __builtin_sqrt(root);
                bound += root;
            }
            if (enough(bound)) return true;
            if (s == kDoublings) return false;
            for (int r = 0; r < kBlocks; ++r) {
                if (size[r] == 0) continue;
                product<float, false>(size[r], ld[r], size[r], block[r], ld[r], block[r], ld[r], other[r], ld[r]);
                float* square = other[r];
                other[r] = block[r];
                block[r] = square;
                wrong[r] = static_cast<double>(size[r]) * kEpsilon<float> * norm[r] * norm[r] +
                           wrong[r] * (2 * norm[r] + wrong[r]);
            }
        }
    }
    static double squares(const float* x, int64_t n) {
        Vec<float> sum{};
        for (int64_t i = 0; i < n; i += kLanes<float>) sum += load(x + i) * load(x + i);
        return static_cast<double>(sum_lanes<float>(sum));
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
