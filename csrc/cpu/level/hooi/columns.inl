// The columns of a tall matrix of P: what they are like, their scales, and an orthonormal set from them.
#pragma once
#include "cpu/level/eigen/orthonormalize.inl"

namespace tsm::TSM_LEVEL {
namespace {

// What the columns of a matrix are like, of the rows seen so far.
template <class P>
struct ColumnFacts {
    double* squares;   // [rank] sums of squares
    P *high, *low;     // [padded rank] largest and smallest entries, or 0
    P *judge_x, *sum;  // [padded rank] x, and A^T A x - x (judge_rows)

    ColumnFacts(int64_t rank, Arena& arena)
        : squares(arena.take<double>(rank)),
          high(arena.take<P>(padded<P>(rank))),
          low(arena.take<P>(padded<P>(rank))),
          judge_x(arena.take<P>(padded<P>(rank))),
          sum(arena.take<P>(padded<P>(rank))) {
        for (int64_t k = 0; k < rank; ++k) squares[k] = 0;
        for (int64_t k = 0; k < padded<P>(rank); ++k) {
            high[k] = low[k] = 0;
            judge_x[k] = k < rank ? judge<P>(static_cast<int>(k)) : P(0);
            sum[k] = -judge_x[k];
        }
    }
    static Vec<P> part(const P* row, int64_t k, int64_t rank) {
        return rank - k < kLanes<P> ? load_first(row + k, rank - k) : load(row + k);
    }
    void judge_columns(const P* a, int64_t rows, int64_t rank) {
        int64_t i = 0;
        for (; i + 4 <= rows; i += 4) judge_block<4>(a + i * rank, rank);
        for (; i < rows; ++i) judge_block<1>(a + i * rank, rank);
    }
    template <int RB>
    void judge_block(const P* a, int64_t rank) {
        Vec<P> dots[RB] = {};
        for (int64_t k = 0; k < rank; k += kLanes<P>)
            for (int r = 0; r < RB; ++r) dots[r] += part(a + r * rank, k, rank) * load(judge_x + k);
        P dot[RB];
        for (int r = 0; r < RB; ++r) dot[r] = sum_lanes<P>(dots[r]);
        for (int64_t k = 0; k < rank; k += kLanes<P>) {
            Vec<P> at = load(sum + k);
            for (int r = 0; r < RB; ++r) at += dot[r] * part(a + r * rank, k, rank);
            store(sum + k, at);
        }
    }
    // What the columns lack of orthonormality.
    double loss(int64_t rank) const {
        double most = 0;
        for (int64_t k = 0; k < rank; ++k) {
            const double size = __builtin_fabs(static_cast<double>(sum[k]));
            most = most > size ? most : size;  // where one is NaN, all are
        }
        return most;
    }
    void see(const P* a, int64_t rows, int64_t rank) {
        constexpr int L = kLanes<P>;
        for (int64_t k = 0; k < rank; k += L) {
            const int64_t width = rank - k < L ? rank - k : L;
            Vec<P> sum{}, most = load(high + k), least = load(low + k);
            for (int64_t i = 0; i < rows; ++i) {
                const Vec<P> x = width == L ? load(a + i * rank + k) : load_first(a + i * rank + k, width);
                sum += x * x;
                most = x > most ? x : most;
                least = x < least ? x : least;
            }
            store(high + k, most);
            store(low + k, least);
            P part[L];
            store(part, sum);
            for (int64_t l = 0; l < width; ++l) squares[k + l] += static_cast<double>(part[l]);
        }
    }
    // The sign of the entry of largest magnitude of column k, the first one on a tie.
    double sign(const P* a, int64_t rows, int64_t rank, int64_t k) const {
        if (high[k] != -low[k] || high[k] == 0) return high[k] + low[k] < 0 ? -1 : 1;
        int64_t i = 0;
        while (i + 1 < rows && a[i * rank + k] != high[k] && a[i * rank + k] != low[k]) ++i;
        return a[i * rank + k] < 0 ? -1 : 1;
    }
};

// Column k of a times factor[k]
template <class P>
static void scale_columns(P* a, int64_t rows, int64_t rank, const double* factor) {
    constexpr int L = kLanes<P>;
    for (int64_t k = 0; k < rank; k += L) {
        const int64_t width = rank - k < L ? rank - k : L;
        Vec<P> times{};
        for (int64_t l = 0; l < width; ++l) times[l] = static_cast<P>(factor[k + l]);
        for (int64_t i = 0; i < rows; ++i) {
            P* at = a + i * rank + k;
            if (width == L)
                store(at, load(at) * times);
            else
                store_first(at, load_first(at, width) * times, width);
        }
    }
}

// The columns of a become orthonormal, those that are hardly there the first columns of the identity that complete the
// set.
template <class P>
static void make_orthonormal(P* a, int64_t rows, int64_t rank, Arena scratch) {
    if (straighten_columns(a, rows, rank, rank, scratch)) return;
    double* wide = scratch.take<double>(rows * rank);
    double* lengths = scratch.take<double>(rank);
    for (int64_t i = 0; i < rows * rank; ++i) wide[i] = static_cast<double>(a[i]);
    for (int64_t k = 0; k < rank; ++k) lengths[k] = column_length(wide, rows, rank, k);
    orthonormalize_from(wide, rows, rank, 0, lengths, 1e-6, scratch);
    for (int64_t i = 0; i < rows * rank; ++i) a[i] = static_cast<P>(wide[i]);
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
