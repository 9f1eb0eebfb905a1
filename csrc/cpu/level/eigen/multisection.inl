// A few eigenvalues of one tridiagonal matrix, by the number of sign changes of its Sturm sequence at many points at
// once (Lo, Philippe and Sameh's multisection): where few are wanted, or one matrix stands alone, that is less than QL,
// whose steps wait for each other.
#pragma once
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

using Counts = int64_t __attribute__((vector_size(TSM_VECTOR_BYTES)));
using Bits = uint64_t __attribute__((vector_size(TSM_VECTOR_BYTES)));

// below[i]: how many eigenvalues of (d, e) are less than x[i], for NV vectors of points; squares: those of e, none
// zero. The sequence is scaled every few steps, so that it keeps away from what double can hold.
template <int NV>
static inline void count_below(const double* d, const double* squares, int n, const Vec<double>* x, Counts* below) {
    constexpr int kSteps = 8;
    Vec<double> last[NV], now[NV];
    for (int v = 0; v < NV; ++v) {
        last[v] = splat(1.0);
        now[v] = d[0] - x[v];
        below[v] = -(now[v] < 0);
    }
    for (int i = 1; i < n;) {
        const int end = i + kSteps < n ? i + kSteps : n;
        for (; i < end; ++i) {
            const Vec<double> at = splat(d[i]), square = splat(squares[i - 1]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) {
                const Vec<double> next = (at - x[v]) * now[v] - square * last[v];
                const Bits changed = reinterpret_cast<Bits>(next) ^ reinterpret_cast<Bits>(now[v]);
                below[v] += reinterpret_cast<Counts>(changed >> 63);
                last[v] = now[v];
                now[v] = next;
            }
        }
        constexpr int64_t kExponent = int64_t{0x7ff} << 52, kTwice = int64_t{0x7fe} << 52;
        for (int v = 0; v < NV; ++v) {
            const auto most = reinterpret_cast<Counts>(vmax<double>(vabs<double>(now[v]), vabs<double>(last[v])));
            const auto factor = reinterpret_cast<Vec<double>>(kTwice - (most & kExponent));
            now[v] *= factor;
            last[v] *= factor;
        }
    }
}

// The `count` largest eigenvalues from the first-th on, descending, good to a unit in the last place of the norm.
template <int NV>
static void section(const double* d, const double* squares, int n, double low, double high, int first, int count,
                    double* values) {
    constexpr int L = kLanes<double>;
    const int points = NV * L / count;  // within the bracket of each
    Vec<double> x[NV] = {};
    Counts below[NV];
    double* at = reinterpret_cast<double*>(x);
    const auto* found = reinterpret_cast<const int64_t*>(below);
    double from[NV * L], to[NV * L];
    for (int k = 0; k < count; ++k) {
        from[k] = low;
        to[k] = high;
    }
    const double size = -low > high ? -low : high, tolerance = size * kEpsilon<double>;
    constexpr int kRounds = 64;  // each halves the brackets at least, which needs fewer
    bool wide = true;
    for (int round = 0; wide && round < kRounds; ++round) {
        for (int k = 0; k < count; ++k) {
            const double step = (to[k] - from[k]) / (points + 1);
            for (int p = 0; p < points; ++p) at[k * points + p] = from[k] + (p + 1) * step;
        }
        count_below<NV>(d, squares, n, x, below);
        wide = false;
        for (int k = 0; k < count; ++k) {
            // Of n - below[i] eigenvalues from x[i] on, the wanted one is the (first + k)-th.
            int p = 0;
            while (p < points && n - found[k * points + p] > first + k) ++p;
            to[k] = p < points ? at[k * points + p] : to[k];
            from[k] = p > 0 ? at[k * points + p - 1] : from[k];
            wide |= to[k] - from[k] > tolerance;
        }
    }
    for (int k = 0; k < count; ++k) values[k] = from[k] + (to[k] - from[k]) / 2;
}

// The `rank` largest eigenvalues of the tridiagonal (d, e), descending. squares: [n] of scratch
static void largest_eigenvalues(const double* d, const double* e, int n, int rank, double* values, double* squares) {
    constexpr int L = kLanes<double>;
    double low = d[0], high = d[0];
    for (int i = 0; i < n; ++i) {
        const double before = i > 0 ? __builtin_fabs(e[i - 1]) : 0, after = i < n - 1 ? __builtin_fabs(e[i]) : 0;
        low = d[i] - before - after < low ? d[i] - before - after : low;
        high = d[i] + before + after > high ? d[i] + before + after : high;
    }
    const double size = -low > high ? -low : high;
    low -= size * 4 * kEpsilon<double>;
    high += size * 4 * kEpsilon<double>;
    const double least = size * kEpsilon<double> / 16;
    for (int i = 0; i < n - 1; ++i) squares[i] = e[i] * e[i] > least * least ? e[i] * e[i] : least * least;
    for (int k = 0; k < rank;) {
        const int left = rank - k, count = left < 2 * L ? left : 2 * L;
        if (count <= L)
            section<2>(d, squares, n, low, high, k, count, values + k);
        else
            section<4>(d, squares, n, low, high, k, count, values + k);
        k += count;
    }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
