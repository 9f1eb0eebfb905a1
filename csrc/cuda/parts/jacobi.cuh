// Eigenpairs of a small symmetric matrix by a block: cyclic Jacobi, as many rotations at a time as there are pairs of
// rows. It starts from any basis, and where that is nearly the right one, two sweeps do.
#pragma once
#include "cuda/parts/launch.cuh"

namespace tsm::cuda {

constexpr int kJacobi = 32;  // matrices up to this size

// Sizes are even: an odd matrix has a row and a column of zeros more.
__host__ __device__ constexpr int64_t even(int64_t n) {
    return n + n % 2;
}

// Rows and columns p and q of a matrix become c p - s q and s p + c q.
struct Turn {
    double c, s;
    int p, q;
};
constexpr int kTurnNumbers = kJacobi / 2 * static_cast<int>(sizeof(Turn)) / 8;

// Turn k of round `round`, which makes entry (p, q) of a [size, size] zero; every two rows meet in one of size - 1
// rounds.
__device__ __forceinline__ Turn turn_of(const double* a, int size, int k, int round) {
    int i = round + k, j = k == 0 ? size - 1 : round - k;
    if (i >= size - 1) i -= size - 1;
    if (j < 0) j += size - 1;
    const int p = i < j ? i : j, q = i < j ? j : i;
    const double off = a[p * size + q], half = 0.5 * (a[q * (size + 1)] - a[p * (size + 1)]);
    if (!(fabs(off) > 1e-18)) return {1, 0, p, q};
    // Cosine and sine of twice the angle are |half| and off over their root; the angle is at most 45 degrees.
    const double inverse = rsqrt(half * half + off * off), square = 0.5 + 0.5 * fabs(half) * inverse,
                 over = rsqrt(square), s = 0.5 * off * inverse * over;
    return {square * over, half < 0 ? -s : s, p, q};
}

// a [size, size], entries about 1, becomes diagonal; v [n, size] turns with it. b: as large as a. Returns where the
// diagonal is: a or b.
template <class Group>
__device__ __forceinline__ double* diagonalize(double* a, double* b, double* v, Turn* turns, int n,
                                               const Group& group) {
    const int size = static_cast<int>(even(n)), pairs = size / 2;
    int shift = 0;
    while ((1 << shift) < pairs) ++shift;
#pragma unroll 1
    for (int sweep = 0; sweep < 30; ++sweep) {
        double off = 0;
        for (int i = group.rank(); i < size * size; i += group.size())
            off = i % (size + 1) ? fmax(off, fabs(a[i])) : off;
        if (!(group.max(off) > 1e-15)) break;
#pragma unroll 1
        for (int round = 0; round < size - 1; ++round) {
            if (group.rank() < pairs) turns[group.rank()] = turn_of(a, size, group.rank(), round);
            group.sync();
#pragma unroll 1
            for (int task = group.rank(); task < (pairs + n) << shift; task += group.size()) {
                const int i = task >> shift, j = task & ((1 << shift) - 1);
                if (j >= pairs || (i > j && i < pairs)) continue;
                const Turn right = turns[j];
                if (i >= pairs) {
                    double *x = v + (i - pairs) * size + right.p, *y = v + (i - pairs) * size + right.q;
                    const double xp = *x, xq = *y;
                    *x = right.c * xp - right.s * xq;
                    *y = right.s * xp + right.c * xq;
                    continue;
                }
                const Turn left = turns[i];
                const double *upper = a + left.p * size, *lower = a + left.q * size;
                const double up = upper[right.p], uq = upper[right.q], lp = lower[right.p], lq = lower[right.q],
                             pp = left.c * up - left.s * lp, pq = left.c * uq - left.s * lq,
                             qp = left.s * up + left.c * lp, qq = left.s * uq + left.c * lq;
                const auto put = [&](int row, int column, double x) {
                    b[row * size + column] = b[column * size + row] = x;
                };
                put(left.p, right.p, right.c * pp - right.s * pq);
                put(left.q, right.q, right.s * qp + right.c * qq);
                put(left.p, right.q, i == j ? 0.0 : right.s * pp + right.c * pq);
                if (i != j) put(left.q, right.p, right.c * qp - right.s * qq);
            }
            group.sync();
            double* const turned = b;
            b = a;
            a = turned;
        }
    }
    return a;
}

// What one matrix needs: a, b, v [even(n), even(n)] and scratch [2 n, at least kTurnNumbers]. g may lie in b.
struct JacobiMemory {
    double *a, *b, *v, *scratch;
};

// As `solve` in eigen.cuh, for finite matrices up to kJacobi; `warm`: v holds a basis to start from. In the end it
// holds the eigenvectors.
template <class Group>
__device__ __forceinline__ void solve_small(const JacobiMemory& m, int n, int rank, bool warm, const Group& group,
                                            const double* g, double* values, double* vectors) {
    const int size = static_cast<int>(even(n)), all = size * size;
    double largest = 0;
    for (int i = group.rank(); i < n * n; i += group.size()) largest = fmax(largest, fabs(g[i]));
    largest = group.max(largest);
    const double power = largest > 0 ? power_below(largest) : 1.0;
    for (int at = group.rank(); at < all; at += group.size()) {
        const int i = at / size, j = at - i * size;
        m.a[at] = i < n && j < n ? 0.5 * (g[i * n + j] + g[j * n + i]) * power : 0.0;
        if (!warm) m.v[at] = i == j ? 1 : 0;
    }
    group.sync();
    if (warm) {  // a becomes v^T a v
        for (int at = group.rank(); at < all; at += group.size()) {
            const int i = at / size, j = at - i * size;
            double sum = 0;
            for (int k = 0; k < n; ++k) sum += m.a[i * size + k] * m.v[k * size + j];
            m.b[at] = sum;
        }
        group.sync();
        for (int at = group.rank(); at < all; at += group.size()) {
            const int i = at / size, j = at - i * size, low = i < j ? i : j, high = i < j ? j : i;
            double sum = 0;
            for (int k = 0; k < n; ++k) sum += m.v[k * size + low] * m.b[k * size + high];
            m.a[at] = sum;
        }
        group.sync();
    }
    const double* d = diagonalize(m.a, m.b, m.v, reinterpret_cast<Turn*>(m.scratch), n, group);
    double *order = m.scratch, *sign = order + n;
    for (int j = group.rank(); j < n; j += group.size()) {
        const double own = d[j * (size + 1)];
        double most = 0, entry = 0;
        int before = 0;
        for (int i = 0; i < n; ++i) {
            const double other = d[i * (size + 1)], x = m.v[i * size + j];
            before += other > own || (other == own && i < j);
            entry = fabs(x) > most ? x : entry;
            most = fmax(most, fabs(x));
        }
        order[before] = j;
        sign[before] = entry < 0 ? -1 : 1;
        if (before < rank) values[before] = own / power;
    }
    group.sync();
    for (int at = group.rank(); at < n * rank; at += group.size()) {
        const int i = at / rank, j = at - i * rank;
        vectors[at] = m.v[i * size + static_cast<int>(order[j])] * sign[j];
    }
    group.sync();
}

}  // namespace tsm::cuda
