// Leading eigenpairs of a matrix by its tridiagonal form, in three kernels: Householder reduction by a block, half the
// matrix in shared memory; eigenvalues and vectors of the tridiagonal matrix, a thread each; and the reflectors applied
// to them on the matrix units. The tridiagonal matrix, a little shifted, is positive definite and taken as L D L^T,
// which has all eigenvalues, found by bisection, to high relative accuracy; vectors by twisted factorisation are
// orthogonal but for those of relatively close eigenvalues, which are straightened. Every item is tested; one that
// fails is left to `solve` in eigen.cuh.
#pragma once
#include "cuda/parts/eigen.cuh"

namespace tsm::cuda {

// Of the reduction of matrices of up to 32 TILES rows: warps, rows at a time, and sums of columns in parts.
template <int TILES>
constexpr int kWarps = TILES == 2 ? 1 : TILES;
template <int TILES>
constexpr int kRows = TILES == 8 ? 8 : 4;
template <int TILES>
constexpr int kParts = (kWarps<TILES> + 1) / 2;
constexpr int kBackThreads = 128, kStrip = 32;      // vectors that a block takes back, eight a warp
constexpr int kPanel = 16;                          // reflectors together
constexpr int kStripPitch = 36, kPanelPitch = 20;   // keep the rows of a fragment in different banks
constexpr double kShift = 32 * kEpsilon<double>;    // of the largest row: what rounding may leave below zero is less
constexpr double kRoughShift = 1.0 / (1 << 20);     // of Gram matrices that were rounded to float
constexpr double kClose = 1.0 / 256;                // of eigenvalues, relative: their vectors are straightened
constexpr double kLeastNorm = 1e-200;               // of a matrix of zeros
constexpr int kNeighbours = 8;                      // so many on either side
constexpr double kSkew = 6e-13, kResidual = 4e-14;  // that pass, of sums over all vectors with weights around 1

__host__ __device__ constexpr int packed(int n) {
    return n * (n + 1) / 2;
}

// Of one item, in global memory.
struct TridiagonalMemory {
    double* reflectors;        // row k from packed(k - 1) on: the k entries of reflector k, its last one 1
    double *d, *e, *tau;       // [n]; reflector k has tau[k]; e[i] is beside d[i] and d[i + 1]
    double* scale;             // [n], of the vectors
    double* power;             // [1], that the matrix was multiplied by
    double *vectors, *beside;  // [n, n], column j for the j-th largest eigenvalue

    __host__ __device__ static int64_t numbers(int n) { return (packed(n) + 4 * n + 2 + 2 * n * (n | 1) + 1) / 2 * 2; }
    __device__ TridiagonalMemory(double* memory, int n) {
        vectors = memory;
        beside = vectors + n * (n | 1);
        reflectors = beside + n * (n | 1);
        d = reflectors + packed(n);
        e = d + n;
        tau = e + n;
        scale = tau + n;
        power = scale + n;
    }
};

// The largest number of the block, and whether any thread says so; inline, as `Block::max` is not.
__device__ __forceinline__ double block_max(double x, const Block& block) {
    const double own = warp_max(x);
    if (lane_of_thread() == 0) block.scratch[warp_of_thread()] = own;
    __syncthreads();
    double all = block.scratch[0];
    for (int w = 1; w < block.size() / 32; ++w) all = fmax(all, block.scratch[w]);
    __syncthreads();
    return all;
}
__device__ __forceinline__ bool any_thread(bool which, const Block& block) {
    return block_max(which ? 1.0 : 0.0, block) > 0;
}

// ---- reduction ----
template <int TILES>
int64_t reduce_bytes(int n) {
    return (packed(n) + (kParts<TILES> + 3) * n + kWarps<TILES> + kBlockScratch) * 8;
}

// N sums over a warp; each N-th of the lanes has one of them, in order.
template <int N>
__device__ __forceinline__ double warp_sums(double (&x)[N]) {
    int step = 16;
#pragma unroll
    for (int half = N / 2; half > 0; half /= 2, step /= 2) {
        const bool upper = lane_of_thread() & step;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const double own = upper ? x[i + half] : x[i], other = upper ? x[i] : x[i + half];
            x[i] = own + __shfl_xor_sync(kAllLanes, other, step);
        }
    }
#pragma unroll
    for (; step > 0; step /= 2) x[0] += __shfl_xor_sync(kAllLanes, x[0], step);
    return x[0];
}

// T of the lower triangle a [packed(n)], entries about 1, from its last row on: reflector k makes row k zero but for
// its last two entries. A pass takes off the last reflector, of columns up to 32 TILES, and multiplies by the next.
template <int TILES>
__device__ void reduce(const TridiagonalMemory& to, double* a, double* vectors, int n) {
    constexpr int WARPS = kWarps<TILES>, ROWS = kRows<TILES>, PARTS = kParts<TILES>;
    const auto barrier = [] {
        if constexpr (WARPS == 1)
            __syncwarp(kAllLanes);
        else
            __syncthreads();
    };
    const int lane = lane_of_thread(), warp = warp_of_thread(), thread = static_cast<int>(threadIdx.x);
    double *v = vectors, *next = v + n, *w = next + n, *parts = w + n, *y = parts, *products = parts + PARTS * n;
    double x[TILES];  // the reflector at this lane's columns
#pragma unroll
    for (int t = 0; t < TILES; ++t) x[t] = 0;
    for (int i = thread; i < n; i += 32 * WARPS) v[i] = y[i] = 0;
    if (thread < WARPS) products[thread] = 0;
    barrier();
    double tau = 0;
    for (int k = n - 1; k > 0; --k) {
        // Every warp makes the reflector for itself.
        double half = 0;
        for (int i = 0; i < WARPS; ++i) half += products[i];
        half *= 0.5 * tau * tau;
        const double* row = a + packed(k);
        const auto w_at = [&](int i, double of_v) { return fma(tau, y[i], -half * of_v); };
        const double v_k = v[k], w_k = w_at(k, v_k), v_before = v[k - 1],
                     alpha = row[k - 1] - (v_k * w_at(k - 1, v_before) + w_k * v_before);
        double old_v[TILES], old_w[TILES], squares = 0;
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            const int j = 32 * t + lane;
            old_v[t] = x[t];
            old_w[t] = x[t] = 0;
            if (32 * t < k && j < k) {
                old_w[t] = w_at(j, old_v[t]);
                x[t] = row[j] - (v_k * old_w[t] + w_k * old_v[t]);
                squares += j < k - 1 ? x[t] * x[t] : 0.0;
            }
        }
        const double rest = warp_sum(squares);
        const bool flat = rest < kNoSquare<double>;
        const double norm = sqrt(alpha * alpha + rest), beta = alpha < 0 ? norm : -norm,
                     scale = flat ? 0.0 : 1.0 / (alpha - beta);
        if (thread == 0) {
            to.d[k] = row[k] - 2 * v_k * w_k;
            to.e[k - 1] = flat ? alpha : beta;
        }
        tau = flat ? 0.0 : (beta - alpha) / beta;
        if (thread == 0) to.tau[k] = tau;
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            const int j = 32 * t + lane;
            x[t] = j < k - 1 ? x[t] * scale : j == k - 1 ? 1.0 : 0.0;
            if (t % WARPS == warp && j < k) {
                next[j] = x[t];
                w[j] = old_w[t];
                to.reflectors[packed(k - 1) + j] = x[t];
            }
        }
        barrier();
        double sums[TILES];
#pragma unroll
        for (int t = 0; t < TILES; ++t) sums[t] = 0;
        // Rows ROWS at a time, the longest first.
        for (int group = (k - 1) / ROWS - warp; group >= 0; group -= WARPS) {
            const int first = ROWS * group;
            double own_v[ROWS], own_w[ROWS], own_x[ROWS], across[ROWS] = {};
            double* rows[ROWS];
#pragma unroll
            for (int q = 0; q < ROWS; ++q) {
                const int i = first + q < k ? first + q : k - 1;  // one beyond the last is not written
                own_v[q] = v[i];
                own_w[q] = w[i];
                own_x[q] = first + q < k ? next[i] : 0.0;
                rows[q] = a + packed(i) + lane;
            }
            const auto tile = [&](int t, auto inside) {
                double entry[ROWS];
#pragma unroll
                for (int q = 0; q < ROWS; ++q) entry[q] = inside(q) ? rows[q][32 * t] : 0.0;
#pragma unroll
                for (int q = 0; q < ROWS; ++q)
                    if (inside(q)) {
                        entry[q] = fma(-own_w[q], old_v[t], fma(-own_v[q], old_w[t], entry[q]));
                        sums[t] = fma(entry[q], own_x[q], sums[t]);
                        across[q] = fma(entry[q], x[t], across[q]);
                    }
#pragma unroll
                for (int q = 0; q < ROWS; ++q)
                    if (inside(q)) rows[q][32 * t] = entry[q];
            };
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                if (32 * t > first + ROWS - 1) break;
                if (32 * t + 31 <= first && first + ROWS <= k)
                    tile(t, [](int) { return true; });
                else
                    tile(t, [&](int q) { return first + q < k && 32 * t + lane <= first + q; });
            }
            const double sum = warp_sums(across);
            const int i = first + lane / (32 / ROWS);
            __syncwarp(kAllLanes);
            if (lane % (32 / ROWS) == 0 && i < k) w[i] = sum;  // what was there is in registers
        }
        // Sums of columns: the upper warps hand over, the lower ones add.
        double* part = parts + warp % PARTS * n;
        if (warp >= PARTS || WARPS == 1)
#pragma unroll
            for (int t = 0; t < TILES; ++t)
                if (32 * t + lane < k) part[32 * t + lane] = sums[t];
        barrier();
        if (WARPS > 1 && warp < PARTS)
#pragma unroll
            for (int t = 0; t < TILES; ++t)
                if (32 * t + lane < k) part[32 * t + lane] += sums[t];
        barrier();
        double product = 0;
        for (int i = thread; i < k; i += 32 * WARPS) {
            const double own = next[i];
            double sum = w[i] - a[packed(i) + i] * own;  // the diagonal is in both sums
            for (int p = 0; p < PARTS; ++p) sum += parts[p * n + i];
            y[i] = sum;
            product += sum * own;
        }
        product = warp_sum(product);
        if (lane == 0) products[warp] = product;
        double* const done = v;
        v = next;
        next = done;
        barrier();
    }
    if (thread == 0) {
        to.d[0] = a[0];
        to.e[n - 1] = 0;
    }
}

// `at(i, j)`: the matrix. False where it has NaN or Inf.
template <int TILES, class Matrix>
__device__ bool reduce_item(const TridiagonalMemory& to, int n, char* shared, Matrix at) {
    const Block block{reinterpret_cast<double*>(shared)};
    double* a = block.scratch + kBlockScratch;
    const int thread = static_cast<int>(threadIdx.x);
    double largest = 0;
    for (int i = warp_of_thread(); i < n; i += kWarps<TILES>)
        for (int j = lane_of_thread(); j <= i; j += 32) {
            const double one = at(i, j), other = at(j, i), size = fmax(fabs(one), fabs(other));
            largest = fmax(largest, is_finite(one) && is_finite(other) ? size : HUGE_VAL);
            a[packed(i) + j] = 0.5 * one + 0.5 * other;
        }
    largest = block_max(largest, block);
    if (!is_finite(largest)) return false;
    const double power = largest > 0 ? power_below(largest) : 1.0;
    for (int i = thread; i < packed(n); i += 32 * kWarps<TILES>) a[i] *= power;
    if (thread == 0) *to.power = power;
    __syncthreads();
    reduce<TILES>(to, a, a + packed(n), n);
    return true;
}

// ---- eigenpairs of the tridiagonal matrix ----
// 1/x of a normal number whose inverse is one; of others, without a branch, anything.
__device__ __forceinline__ double inverse(double x) {
#if defined(TSM_EMULATION)
    return 1 / x;
#else
    double y;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
    const double error = fma(-x, y, 1.0);
    return fma(y, fma(error, error, error), y);
#endif
}

// The same for every item: of either sign, from 3/4 to 5/4.
__device__ __forceinline__ double weight(int j, int of) {
    uint32_t bits = static_cast<uint32_t>(2 * j + of + 1) * 2654435761u;
    bits = (bits ^ (bits >> 15)) * 2246822519u;
    bits ^= bits >> 13;
    const double size = 0.75 + static_cast<double>(bits >> 1) * (0.5 / 2147483648.0);
    return bits & 1 ? -size : size;
}

// Row i of L D L^T = T + shift: D_i, and L_i^2 D_i.
struct alignas(16) Pivot {
    double d, lld;
};

inline int64_t tridiagonal_bytes(int n) {
    return (kBlockScratch + 12 * n) * 8 + 3 * n * 4;
}

// In shared memory.
struct Tridiagonal {
    Pivot* pivots;            // [n]
    double *l, *d, *e;        // [n], L_i, and T
    double *lambda, *sorted;  // [n], shifted: of row i, and the j-th largest
    double* scale;            // [n], of the vector of the j-th largest
    double* sums;             // [4, n]
    int* first;               // [n], of the rows that hang together with row i
    int *counts, *places;     // [n]; where the eigenvalue of row i is among all

    __device__ Tridiagonal(double* memory, int n) {
        pivots = reinterpret_cast<Pivot*>(memory);
        l = memory + 2 * n;
        d = l + n;
        e = d + n;
        lambda = e + n;
        sorted = lambda + n;
        scale = sorted + n;
        sums = scale + n;
        first = reinterpret_cast<int*>(sums + 4 * n);
        counts = first + n;
        places = counts + n;
    }
};

// How many eigenvalues of rows first to last are below x: negative ratios c / b of pivots of L D L^T - x, of which
// a / b is what row after row adds. No step divides; every eighth brings the numbers back to about 1.
__device__ __forceinline__ int count_below(const Pivot* pivots, int first, int last, double x) {
    double a = -x, b = 1;
    int count = 0;
    const auto step = [&](int i) {
        const Pivot pivot = pivots[i];
        const double c = fma(pivot.d, b, a);
        a = fma(-x, c, pivot.lld * a);
        count += static_cast<int>(static_cast<unsigned>(__double2hiint(c) ^ __double2hiint(b)) >> 31);
        b = c;
    };
    int i = first;
    for (; i + 7 <= last; i += 8) {
#pragma unroll
        for (int q = 0; q < 8; ++q) step(i + q);
        const int high = __double2hiint(a) & 0x7ff00000, other = __double2hiint(b) & 0x7ff00000,
                  most = high > other ? high : other;
        const double power = __longlong_as_double(static_cast<long long>(0x7fe00000 - most) << 32);
        a *= power;
        b *= power;
    }
    for (; i <= last; ++i) step(i);
    return count;
}

__device__ __forceinline__ double away_from_zero(double x) {
    constexpr double kLeast = 1e-200;
    return fabs(x) < kLeast ? kLeast : x;
}

// visit(i, x[i ld]) for i from `from` on, `count` times, upwards or downwards, whose result goes to x[i ld]: loads
// before stores.
template <class Visit>
__device__ __forceinline__ void along(double* x, int ld, int from, int count, int direction, Visit visit) {
    constexpr int kAhead = 8;
    for (int k = 0; k < count; k += kAhead) {
        double entries[kAhead];
#pragma unroll
        for (int q = 0; q < kAhead; ++q)
            if (k + q < count) entries[q] = x[(from + (k + q) * direction) * ld];
#pragma unroll
        for (int q = 0; q < kAhead; ++q)
            if (k + q < count) {
                const int i = from + (k + q) * direction;
                x[i * ld] = visit(i, entries[q]);
            }
    }
}

// The eigenvector of `lambda` at z[i ld]; returns its inverse length. L D L^T - lambda is factorised from both ends to
// row r, where they fit best.
__device__ __forceinline__ double twisted(const Tridiagonal& m, int first, int last, double lambda, double* z,
                                          double* beside, int ld) {
    double s = -lambda;
    for (int i = first; i < last; ++i) {
        const double factor = m.e[i] * inverse(away_from_zero(m.pivots[i].d + s));
        z[i * ld] = factor;
        beside[i * ld] = s;
        s = fma(factor * m.l[i], s, -lambda);
    }
    double p = m.pivots[last].d - lambda, least = fabs(s + (p + lambda));
    int r = last;
    along(beside, ld, last - 1, last - first, -1, [&](int i, double from_above) {
        const double ratio = m.pivots[i].d * inverse(away_from_zero(m.pivots[i].lld + p));
        p = fma(p, ratio, -lambda);
        const double gamma = fabs(from_above + (p + lambda));
        r = gamma < least ? i : r;
        least = gamma < least ? gamma : least;
        return m.l[i] * ratio;
    });
    double x = 1, squares = 1;
    along(z, ld, r - 1, r - first, -1, [&](int, double factor) {
        x *= -factor;
        squares = fma(x, x, squares);
        return x;
    });
    z[r * ld] = x = 1;
    z += ld;
    for (int i = r; i < last; i += 8) {
        double factors[8];
#pragma unroll
        for (int q = 0; q < 8; ++q)
            if (i + q < last) factors[q] = beside[(i + q) * ld];
#pragma unroll
        for (int q = 0; q < 8; ++q)
            if (i + q < last) {
                x *= -factors[q];
                squares = fma(x, x, squares);
                z[(i + q) * ld] = x;
            }
    }
    return 1 / sqrt(squares);
}

// Vectors of relatively close eigenvalues lose what they have of each other, to first order.
__device__ __forceinline__ void straighten_close(const Tridiagonal& m, const TridiagonalMemory& item, int n, int rank) {
    const int row = static_cast<int>(threadIdx.x), ld = n | 1, own = row < n ? m.places[row] : n;
    double *z = item.vectors + own, *straight = item.beside + own;
    bool moved = false;
    if (own < rank)
        for (int near = row - kNeighbours; near <= row + kNeighbours; ++near) {
            if (near < 0 || near >= n || near == row || m.first[near] != m.first[row]) continue;
            const double one = m.lambda[row], two = m.lambda[near];
            const int q = m.places[near];
            if (q >= rank || fabs(one - two) > kClose * fmax(one, two)) continue;
            const double* other = item.vectors + q;
            double dot = 0;
#pragma unroll 8
            for (int i = 0; i < n; ++i) dot += z[i * ld] * other[i * ld];
            const double by = 0.5 * dot * m.scale[own] * m.scale[q] * m.scale[q];
            const double* from = moved ? straight : z;
            const double scale = moved ? 1.0 : m.scale[own];
            for (int i = 0; i < n; i += 4) {
                double x[4];
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    if (i + k < n) x[k] = scale * from[(i + k) * ld] - by * other[(i + k) * ld];
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    if (i + k < n) straight[(i + k) * ld] = x[k];
            }
            moved = true;
        }
    __syncthreads();
    if (moved) {
        m.scale[own] = 1;
        along(straight, ld, 0, n, 1, [&](int i, double x) { return z[i * ld] = x; });
    }
    __syncthreads();
}

// Whether Z^T Z = I and T Z = Z Lambda hold for sums of all vectors with two sets of weights.
__device__ __forceinline__ bool holds(const Tridiagonal& m, const TridiagonalMemory& item, int n, int rank, double norm,
                                      double shift, const Block& block) {
    const int own = static_cast<int>(threadIdx.x), lane = lane_of_thread(), ld = n | 1;
    double* weights = reinterpret_cast<double*>(m.pivots);  // [2, n]
    if (own < rank)
        for (int of = 0; of < 2; ++of) weights[of * n + own] = weight(own, of) * m.scale[own];
    __syncthreads();
    for (int i = warp_of_thread(); i < n; i += block.size() / 32) {
        double sums[4] = {0, 0, 0, 0};
        for (int j = lane; j < rank; j += 32) {
            const double x = item.vectors[i * ld + j], lambda = m.sorted[j] - shift, one = weights[j] * x,
                         two = weights[n + j] * x;
            sums[0] += one;
            sums[1] += two;
            sums[2] += lambda * one;
            sums[3] += lambda * two;
        }
        const double sum = warp_sums(sums);
        if (lane % 8 == 0) m.sums[lane / 8 * n + i] = sum;
    }
    __syncthreads();
    bool good = true;
    if (own < rank) {
        double one = 0, two = 0;
#pragma unroll 8
        for (int i = 0; i < n; ++i) {
            const double x = item.vectors[i * ld + own];
            one += x * m.sums[i];
            two += x * m.sums[n + i];
        }
        good = fabs(one * m.scale[own] - weight(own, 0)) <= kSkew && fabs(two * m.scale[own] - weight(own, 1)) <= kSkew;
    }
    if (own < n)
        for (int of = 0; of < 2; ++of) {
            const double* u = m.sums + of * n + own;
            double image = m.d[own] * u[0] - u[2 * n];
            if (own > 0) image += m.e[own - 1] * u[-1];
            if (own < n - 1) image += m.e[own] * u[1];
            good = good && fabs(image) <= kResidual * norm;
        }
    return !any_thread(!good, block);
}

// Eigenvalues of an item, times its power, by `values(j, lambda_j)`, and vectors; whether they pass the test.
template <class Values>
__device__ bool tridiagonal_item(const TridiagonalMemory& item, int n, int rank, char* shared, Values values) {
    const Block block{reinterpret_cast<double*>(shared)};
    const Tridiagonal m(block.scratch + kBlockScratch, n);
    const int own = static_cast<int>(threadIdx.x), ld = n | 1;
    const bool here = own < n;
    double row = 0;
    if (here) {
        m.d[own] = item.d[own];
        m.e[own] = item.e[own];
        row = fabs(m.d[own]) + fabs(m.e[own]) + (own > 0 ? fabs(item.e[own - 1]) : 0.0);
    }
    const double norm = fmax(block_max(row, block), kLeastNorm), small = kEpsilon<double> * norm;
    if (here && !(fabs(m.e[own]) > small)) m.e[own] = 0;
    __syncthreads();
    int first = own, last = own;
    if (here) {
        while (first > 0 && m.e[first - 1] != 0) --first;
        while (last < n - 1 && m.e[last] != 0) ++last;
        m.first[own] = first;
    }
    double shift = kShift * norm;
    for (int look = 0;; ++look) {
        bool definite = true;
        if (here && first == own) {
            double taken = 0;
            for (int i = first; i <= last; ++i) {
                const double d = m.d[i] + shift - taken, l = m.e[i] / d;
                definite = definite && d > 0;
                taken = l * m.e[i];
                m.pivots[i] = {d, taken};
                m.l[i] = l;
            }
        }
        if (!any_thread(!definite, block)) break;
        if (look == 2) return false;
        shift = look == 0 ? kRoughShift * norm : 2 * norm;
    }
    // Eigenvalue `index` of these rows, counted from the smallest one, between two numbers, by halving what lies
    // between them as integers. The rows' threads begin with one count each.
    const int index = own - first, rows = last - first + 1;
    constexpr long long kPlaces = 2;  // in the end, of the last
    const auto bits = [](double x) { return static_cast<long long>(__double_as_longlong(x)); };
    const long long least = bits(kShift / 1024 * norm), width = (bits(2 * (norm + shift)) - least) / (rows + 1);
    if (here) m.counts[own] = count_below(m.pivots, first, last, __longlong_as_double(least + (index + 1) * width));
    __syncthreads();
    if (here && rows == 1) m.lambda[own] = m.pivots[own].d;
    if (here && rows > 1) {
        int below = 0, above = rows + 1;
        while (above - below > 1) {
            const int middle = (below + above) / 2;
            if (m.counts[first + middle - 1] <= index)
                below = middle;
            else
                above = middle;
        }
        long long low = least + below * width, high = least + above * width;
        while (high - low > kPlaces) {
            const long long middle = low + (high - low) / 2;
            if (count_below(m.pivots, first, last, __longlong_as_double(middle)) <= index)
                low = middle;
            else
                high = middle;
        }
        m.lambda[own] = __longlong_as_double(low + (high - low) / 2);
    }
    __syncthreads();
    int place = 0;
    if (here)
        for (int j = 0; j < n; ++j) place += m.lambda[j] > m.lambda[own] || (m.lambda[j] == m.lambda[own] && j > own);
    if (here && place < rank) {
        double *z = item.vectors + place, *beside = item.beside + place;
        for (int i = 0; i < n; ++i)
            if (i < first || i > last) z[i * ld] = 0;
        m.scale[place] = twisted(m, first, last, m.lambda[own], z, beside, ld);
        m.sorted[place] = m.lambda[own];
    }
    if (here) m.places[own] = place;
    __syncthreads();
    straighten_close(m, item, n, rank);
    if (!holds(m, item, n, rank, norm, shift, block)) return false;
    if (own < rank) {
        item.scale[own] = m.scale[own];
        values(own, (m.sorted[own] - shift) / *item.power);
    }
    return true;
}

// ---- back to the vectors of the matrix ----
inline int64_t back_bytes(int n) {
    return (n * (kStripPitch + kPanelPitch) + kPanel * (kStripPitch + 2 * kPanelPitch) + kPanel) * 8;
}

// Rows [0, m) of the strip [n, kStrip] of vectors lose panel [m, kPanel] times [kPanel, kStrip]: the product of the
// panel's reflectors is I - Y C Y^T with C^-1 = the part of Y^T Y below its diagonal and 1 / tau on it.
__device__ __forceinline__ void apply_panel(double* strip, const double* panel, double* products, double* squares,
                                            const double* tau, int m) {
    const int lane = lane_of_thread(), warp = warp_of_thread();
    const double* y = panel + lane % 4 * kPanelPitch + lane / 4;
    {
        // Y^T times eight vectors by each warp, and half of Y^T Y: eight of its columns, over every other step.
        const double* x = strip + lane % 4 * kStripPitch + 8 * warp + lane / 4;
        double c[2][4] = {}, square[4] = {};
        for (int k = 0; k < m; k += 8)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = k + 4 * h;
                const bool inside = row + lane % 4 < m;
                const double low = inside ? y[row * kPanelPitch] : 0.0, high = inside ? y[row * kPanelPitch + 8] : 0.0;
                multiply_add(c[h], low, high, inside ? x[row * kStripPitch] : 0.0);
                if (h == warp / 2) multiply_add(square, low, high, warp % 2 ? high : low);
            }
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const int i = q / 2 * 8 + lane / 4, j = lane % 4 * 2 + q % 2;
            products[i * kStripPitch + 8 * warp + j] = c[0][q] + c[1][q];
            squares[(warp / 2 * kPanel + i) * kPanelPitch + 8 * (warp % 2) + j] = square[q];
        }
    }
    __syncthreads();
    for (int at = static_cast<int>(threadIdx.x); at < kPanel * kPanel; at += kBackThreads) {
        double* const one = squares + at / kPanel * kPanelPitch + at % kPanel;
        *one += one[kPanel * kPanelPitch];
    }
    __syncthreads();
    if (lane < 8) {  // a column a lane
        double* column = products + 8 * warp + lane;
        double x[kPanel];
#pragma unroll
        for (int i = 0; i < kPanel; ++i) x[i] = column[i * kStripPitch];
#pragma unroll
        for (int i = 0; i < kPanel; ++i) {
            x[i] *= tau[i];
#pragma unroll
            for (int j = i + 1; j < kPanel; ++j) x[j] -= squares[j * kPanelPitch + i] * x[i];
        }
#pragma unroll
        for (int i = 0; i < kPanel; ++i) column[i * kStripPitch] = -x[i];
    }
    __syncwarp(kAllLanes);
    double b[kPanel / 4];
#pragma unroll
    for (int k = 0; k < kPanel / 4; ++k) b[k] = products[(4 * k + lane % 4) * kStripPitch + 8 * warp + lane / 4];
    for (int row = 0; row < m; row += 16) {
        double* at[2];
        double c[4];
        const double* left[2];
        bool inside[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int i = row + 8 * h + lane / 4;
            inside[h] = i < m;
            at[h] = strip + i * kStripPitch + 8 * warp + lane % 4 * 2;
            left[h] = panel + i * kPanelPitch + lane % 4;
            c[2 * h] = inside[h] ? at[h][0] : 0.0;
            c[2 * h + 1] = inside[h] ? at[h][1] : 0.0;
        }
#pragma unroll
        for (int k = 0; k < kPanel / 4; ++k)
            multiply_add(c, inside[0] ? left[0][4 * k] : 0.0, inside[1] ? left[1][4 * k] : 0.0, b[k]);
#pragma unroll
        for (int h = 0; h < 2; ++h)
            if (inside[h]) {
                at[h][0] = c[2 * h];
                at[h][1] = c[2 * h + 1];
            }
    }
}

// Vectors from `first` on, kStrip of them, by `vectors(i, j, entry)`; each one's entry of largest magnitude, the first
// on ties, is positive.
template <class Vectors>
__device__ void back_item(const TridiagonalMemory& item, int n, int rank, int first, double* shared, Vectors vectors) {
    const int lane = lane_of_thread(), warp = warp_of_thread(), ld = n | 1, warps = kBackThreads / 32;
    double *strip = shared, *panel = strip + n * kStripPitch, *products = panel + n * kPanelPitch,
           *squares = products + kPanel * kStripPitch, *tau = squares + 2 * kPanel * kPanelPitch;
    const bool here = first + lane < rank;
    const double scale = here ? item.scale[first + lane] : 0.0;
    for (int i = warp; i < n; i += warps)
        strip[i * kStripPitch + lane] = here ? scale * item.vectors[i * ld + first + lane] : 0.0;
    for (int begin = 1; begin < n; begin += kPanel) {
        const int end = begin + kPanel < n ? begin + kPanel : n, m = end - 1;
        for (int r = warp; r < kPanel; r += warps) {
            const int k = begin + r;
            for (int i = lane; i < m; i += 32)
                panel[i * kPanelPitch + r] = k < end && i < k ? item.reflectors[packed(k - 1) + i] : 0.0;
            if (lane == 0) tau[r] = k < end ? item.tau[k] : 0.0;
        }
        __syncthreads();
        apply_panel(strip, panel, products, squares, tau, m);
        __syncthreads();
    }
    double most = 0, entry = 0;
    int where = n;
    const int own = 8 * warp + lane / 4;
    for (int i = lane % 4; i < n; i += 4) {
        const double x = strip[i * kStripPitch + own];
        if (fabs(x) > most) {
            most = fabs(x);
            entry = x;
            where = i;
        }
    }
#pragma unroll
    for (int step = 2; step > 0; step >>= 1) {
        const double other = __shfl_xor_sync(kAllLanes, entry, step);
        const int there = __shfl_xor_sync(kAllLanes, where, step);
        if (fabs(other) > fabs(entry) || (fabs(other) == fabs(entry) && there < where)) {
            entry = other;
            where = there;
        }
    }
    if (lane % 4 == 0) products[own] = entry < 0 ? -1 : 1;
    __syncthreads();
    if (here)
        for (int i = warp; i < n; i += warps) vectors(i, first + lane, strip[i * kStripPitch + lane] * products[lane]);
}

}  // namespace tsm::cuda
