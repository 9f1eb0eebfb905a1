// Eigenvalues and eigenvectors of tridiagonal matrices, one matrix per SIMD lane.
//   eigenvalues_lanes  the root-free QL of Pal, Walker and Kahan (LAPACK sterf)
//   inverse_iteration  vectors for known eigenvalues (LAPACK stein): fast, and refused where it cannot be trusted
//   ql_lanes           implicit QL (EISPACK tql2): vectors for any spectrum
// Lanes advance on their own; those that are done keep their values bit for bit.
#pragma once
#include "cpu/level/eigen/householder.inl"
#include "cpu/level/eigen/orthonormalize.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int kSweepsKept = 16;  // QL sweeps whose rotations are stored before they are applied

// The stored rotations of `count` sweeps, applied to RB rows of z. Rotation i of a sweep mixes columns i and i + 1;
// its cosine and sine stand at rotations[sweep][i].
template <class V, int RB>
static inline void rotate_rows(V* z, int n, int ld, const V* rotations, const int* low, const int* high, int count) {
    for (int q = 0; q < count; ++q) {
        const V* cs = rotations + static_cast<int64_t>(q) * 2 * n;
        V carried[RB];
        for (int r = 0; r < RB; ++r) carried[r] = z[r * ld + high[q]];
        for (int i = high[q] - 1; i >= low[q]; --i) {
            const V c = cs[2 * i], s = cs[2 * i + 1];
            for (int r = 0; r < RB; ++r) {
                const V x = z[r * ld + i];
                z[r * ld + i + 1] = s * x + c * carried[r];
                carried[r] = c * x - s * carried[r];
            }
        }
        for (int r = 0; r < RB; ++r) z[r * ld + low[q]] = carried[r];
    }
}

// Eigenvalues of the tridiagonal (d, e) into d, unsorted; e has n entries. The rotations of every kSweepsKept sweeps
// are handed to apply(rotations, low, high, count). rotations: [kSweepsKept, n, 2]
template <class T, class Apply>
static void ql_lanes(Vec<T>* d, Vec<T>* e, int n, Vec<T>* rotations, Apply apply) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    T* ds = reinterpret_cast<T*>(d);
    T* es = reinterpret_cast<T*>(e);
    e[n - 1] = V{};
    V norm{};
    for (int i = 0; i < n; ++i) norm = vmax<T>(norm, vabs<T>(d[i]) + vabs<T>(e[i]));
    const V small = norm * kEpsilon<T>;
    int first[L] = {}, stop[L];  // each lane works on rows first..stop of its own block
    int low[kSweepsKept], high[kSweepsKept], kept = 0;
    for (int sweep = 0; sweep < 40 * n + 40; ++sweep) {
        int lo = n, hi = -1;
        V g{}, in_first{}, in_stop{};
        for (int lane = 0; lane < L; ++lane) {
            int l = first[lane];
            const T limit = small[lane];
            while (l < n - 1 && !(__builtin_fabs(static_cast<double>(es[l * L + lane])) > limit)) ++l;
            first[lane] = l;
            int m = l;
            while (m < n - 1 && __builtin_fabs(static_cast<double>(es[m * L + lane])) > limit) ++m;
            stop[lane] = m;
            in_first[lane] = static_cast<T>(l);
            in_stop[lane] = static_cast<T>(m);
            if (m == l) continue;
            lo = l < lo ? l : lo;
            hi = m > hi ? m : hi;
            const double el = es[l * L + lane], dl = ds[l * L + lane];
            const double theta = (ds[(l + 1) * L + lane] - dl) / (2 * el);
            const double root = __builtin_sqrt(theta * theta + 1);
            g[lane] = static_cast<T>(ds[m * L + lane] - dl + el / (theta + (theta < 0 ? -root : root)));
        }
        if (hi < 0) break;
        V s = splat<T>(1), c = s, p{};
        V* cs = rotations + static_cast<int64_t>(kept) * 2 * n;
        for (int i = hi - 1; i >= lo; --i) {
            const V at = splat<T>(static_cast<T>(i));
            const auto on = (at >= in_first) & (at < in_stop);
            const V f = s * e[i], b = c * e[i];
            const V square = f * f + g * g, r = square < kNoSquare<T> ? V{} : vsqrt<T>(square);
            const auto zero = r == 0;
            const V inverse = T(1) / r;
            const V s1 = zero ? V{} : f * inverse, c1 = zero ? splat<T>(1) : g * inverse;
            const V g1 = d[i + 1] - p;
            const V t = (d[i] - g1) * s1 + T(2) * c1 * b;
            const V p1 = s1 * t;
            e[i + 1] = on ? r : e[i + 1];
            d[i + 1] = on ? g1 + p1 : d[i + 1];
            g = on ? c1 * t - b : g;
            p = on ? p1 : p;
            s = on ? s1 : s;
            c = on ? c1 : c;
            cs[2 * i] = on ? c1 : splat<T>(1);
            cs[2 * i + 1] = on ? s1 : V{};
        }
        for (int lane = 0; lane < L; ++lane) {
            if (stop[lane] == first[lane]) continue;
            ds[first[lane] * L + lane] -= p[lane];
            es[first[lane] * L + lane] = g[lane];
            es[stop[lane] * L + lane] = 0;
        }
        low[kept] = lo;
        high[kept] = hi;
        if (++kept == kSweepsKept) {
            apply(rotations, low, high, kept);
            kept = 0;
        }
    }
    if (kept > 0) apply(rotations, low, high, kept);
}

template <class T, int NS>
static void rotate_strips(Vec<T>* z, int n, const T* rotations, const int* low, const int* high, int count) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    for (int q = 0; q < count; ++q) {
        const T* cs = rotations + static_cast<int64_t>(q) * 2 * n * L;
        V carried[NS];
        for (int s = 0; s < NS; ++s) carried[s] = z[s * n + high[q]];
        for (int i = high[q] - 1; i >= low[q]; --i) {
            const T c = cs[2 * i * L], sn = cs[(2 * i + 1) * L];
            for (int s = 0; s < NS; ++s) {
                const V x = z[s * n + i];
                z[s * n + i + 1] = sn * x + c * carried[s];
                carried[s] = c * x - sn * carried[s];
            }
        }
        for (int s = 0; s < NS; ++s) z[s * n + low[q]] = carried[s];
    }
}

// Eigenvalues of (d, e) into d, unsorted; e [n] is destroyed.
template <class T>
static void eigenvalues_lanes(Vec<T>* d, Vec<T>* e, int n) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    T* ds = reinterpret_cast<T*>(d);
    T* es = reinterpret_cast<T*>(e);
    e[n - 1] = V{};
    V norm{};
    for (int i = 0; i < n; ++i) norm = vmax<T>(norm, vabs<T>(d[i]) + vabs<T>(e[i]));
    const V small = norm * norm * (kEpsilon<T> * kEpsilon<T>);
    for (int i = 0; i < n; ++i) e[i] *= e[i];  // squares from here on
    int first[L] = {}, stop[L];
    for (int sweep = 0; sweep < 40 * n + 40; ++sweep) {
        int lo = n, hi = -1;
        V in_first{}, in_stop{}, sigma{}, last{};
        for (int lane = 0; lane < L; ++lane) {
            int l = first[lane];
            const T limit = small[lane];
            while (l < n - 1 && !(es[l * L + lane] > limit)) ++l;
            first[lane] = l;
            int m = l;
            while (m < n - 1 && es[m * L + lane] > limit) ++m;
            stop[lane] = m;
            in_first[lane] = static_cast<T>(l);
            in_stop[lane] = static_cast<T>(m);
            last[lane] = ds[m * L + lane];
            if (m == l) continue;
            lo = l < lo ? l : lo;
            hi = m > hi ? m : hi;
            const double root_e = __builtin_sqrt(static_cast<double>(es[l * L + lane])), p = ds[l * L + lane];
            const double t = (ds[(l + 1) * L + lane] - p) / (2 * root_e), r = __builtin_sqrt(t * t + 1);
            sigma[lane] = static_cast<T>(p - root_e / (t + (t < 0 ? -r : r)));
        }
        if (hi < 0) break;
        V c = splat<T>(1), s{}, gamma = last - sigma, p = gamma * gamma;
        for (int i = hi - 1; i >= lo; --i) {
            const V at = splat<T>(static_cast<T>(i));
            const auto on = (at >= in_first) & (at < in_stop);
            // c = p / r, s = bb / r and r / p from one division.
            const V bb = e[i], r = p + bb, q = T(1) / (r * p);
            const auto flat = p == 0;
            const V c1 = flat ? (bb == 0 ? splat<T>(1) : V{}) : p * (q * p),
                    s1 = flat ? (bb == 0 ? V{} : splat<T>(1)) : bb * (q * p);
            const V alpha = d[i], g1 = c1 * (alpha - sigma) - s1 * gamma;
            const V p1 = flat ? c * bb : g1 * g1 * (r * (r * q));
            e[i + 1] = on & (at + 1 < in_stop) ? s * r : e[i + 1];
            d[i + 1] = on ? gamma + (alpha - g1) : d[i + 1];
            gamma = on ? g1 : gamma;
            p = on ? p1 : p;
            c = on ? c1 : c;
            s = on ? s1 : s;
        }
        for (int lane = 0; lane < L; ++lane) {
            if (stop[lane] == first[lane]) continue;
            es[first[lane] * L + lane] = s[lane] * p[lane];
            ds[first[lane] * L + lane] = sigma[lane] + gamma[lane];
        }
    }
}

template <class T>
constexpr int kShiftedVectors = 5;  // times n: what Shifted keeps

// T - lambda I = L U with partial pivoting, lambda a lane's own; d and e one vector or one number an entry. NS sets of
// lanes at once, since each row waits for the one before it.
template <class T, int NS = 1>
struct Shifted {
    using V = Vec<T>;
    V *inverse, *upper, *second, *factor, *swapped;  // [n, NS]
    int n;

    Shifted(int size, V* memory)
        : inverse(memory),
          upper(memory + NS * size),
          second(memory + 2 * NS * size),
          factor(memory + 3 * NS * size),
          swapped(memory + 4 * NS * size),
          n(size) {}

    template <class D>
    void factorize(const D* d, const D* e, const V* lambda) {
        const V tiny = splat<T>(kEpsilon<T>);
        V p[NS], q[NS];
        for (int s = 0; s < NS; ++s) {
            p[s] = d[0] - lambda[s];
            q[s] = n > 1 ? V{} + e[0] : V{};
        }
        for (int i = 0; i < n - 1; ++i)
            for (int s = 0; s < NS; ++s) {
                const V below = V{} + e[i], next = d[i + 1] - lambda[s], after = i + 2 < n ? V{} + e[i + 1] : V{};
                const auto swap = vabs<T>(below) > vabs<T>(p[s]);
                V pivot = swap ? below : p[s];
                pivot = vabs<T>(pivot) < tiny ? tiny : pivot;
                const V reciprocal = T(1) / pivot, m = (swap ? p[s] : below) * reciprocal, right = swap ? next : q[s];
                inverse[i * NS + s] = reciprocal;
                upper[i * NS + s] = right;
                second[i * NS + s] = swap ? after : V{};
                factor[i * NS + s] = m;
                swapped[i * NS + s] = swap ? splat<T>(1) : V{};
                p[s] = (swap ? q[s] : next) - m * right;
                q[s] = swap ? -m * after : after;
            }
        for (int s = 0; s < NS; ++s) {
            inverse[(n - 1) * NS + s] = T(1) / (vabs<T>(p[s]) < tiny ? tiny : p[s]);
            upper[(n - 1) * NS + s] = second[(n - 1) * NS + s] = V{};
        }
    }
    // y: NS vectors of n entries, `step` apart
    void forward(V* y, int64_t step = 0) const {
        V b[NS];
        for (int s = 0; s < NS; ++s) b[s] = y[s * step];
        for (int i = 0; i < n - 1; ++i)
            for (int s = 0; s < NS; ++s) {
                const auto swap = swapped[i * NS + s] != 0;
                const V next = y[s * step + i + 1], kept = swap ? next : b[s], other = swap ? b[s] : next;
                y[s * step + i] = kept;
                b[s] = other - factor[i * NS + s] * kept;
            }
        for (int s = 0; s < NS; ++s) y[s * step + n - 1] = b[s];
    }
    void backward(V* y, int64_t step = 0) const {
        V one[NS] = {}, two[NS] = {};
        for (int i = n - 1; i >= 0; --i)
            for (int s = 0; s < NS; ++s) {
                const int at = i * NS + s;
                const V x = (y[s * step + i] - second[at] * two[s] - upper[at] * one[s]) * inverse[at];
                y[s * step + i] = x;
                two[s] = one[s];
                one[s] = x;
            }
    }
};

template <class T>
static inline Vec<T> normalize_lanes(Vec<T>* y, int n) {
    Vec<T> even{}, odd{};
    for (int i = 0; i + 1 < n; i += 2) {
        even += y[i] * y[i];
        odd += y[i + 1] * y[i + 1];
    }
    if (n % 2) even += y[n - 1] * y[n - 1];
    const Vec<T> length = vsqrt<T>(even + odd), inverse = T(1) / length;
    for (int i = 0; i < n; ++i) y[i] *= inverse;
    return length;
}

// Two eigenvalues closer than this, of a matrix of norm about 1, have vectors that inverse iteration alone would leave
// orthogonal only to kEpsilon / kClose = 2e-11.
constexpr double kClose = 1e-5;
constexpr double kGrowth = 1e10;  // of a unit vector in one solve: 1 / the residual

// Eigenvectors y [rank, n], `step` apart, of (d, e) for its largest eigenvalues lambda [rank], descending. Returns the
// lanes, as 0 or 1, whose vectors fail the test of their residuals. work: [kShiftedVectors + 1, n]
static Vec<double> inverse_iteration(const Vec<double>* d, const Vec<double>* e, int n, const Vec<double>* lambda,
                                     int rank, Vec<double>* y, int64_t step, Vec<double>* work) {
    using V = Vec<double>;
    Shifted<double> shifted(n, work);
    V* kept = work + kShiftedVectors<double> * n;
    V failed{}, shift{}, begin{};  // begin: the first vector of the cluster that a lane is in
    for (int j = 0; j < rank; ++j) {
        V* own = y + j * step;
        if (j > 0) begin = lambda[j - 1] - lambda[j] < kClose ? begin : splat<double>(j);
        // Equal eigenvalues are told apart by a few units in the last place, as their vectors must be.
        const V below = shift - 4 * kEpsilon<double>;
        shift = j == 0 ? lambda[j] : (lambda[j] < below ? lambda[j] : below);
        shifted.factorize(d, e, &shift);
        for (int i = 0; i < n; ++i) own[i] = splat(irregular<double>(static_cast<uint32_t>(j * n + i)));
        int first = j;
        for (int lane = 0; lane < kLanes<double>; ++lane)
            first = begin[lane] < first ? static_cast<int>(begin[lane]) : first;
        const V alone = begin == j ? splat(1.0) : V{};
        V growth{};
        const int solves = first < j ? 3 : 2;
        for (int solve = 0; solve < solves; ++solve) {
            if (solve == 2)
                for (int i = 0; i < n; ++i) kept[i] = own[i];
            if (solve > 0) shifted.forward(own);
            shifted.backward(own);
            const V length = normalize_lanes<double>(own, n);
            growth = solve == 2 ? (alone != 0 ? growth : length) : length;
            for (int p = first; p < j; ++p) {
                const V* other = y + p * step;
                V dot{};
                for (int i = 0; i < n; ++i) dot += own[i] * other[i];
                dot = begin <= p ? dot : V{};
                for (int i = 0; i < n; ++i) own[i] -= dot * other[i];
            }
            if (first < j) {
                V left{};
                for (int i = 0; i < n; ++i) left += own[i] * own[i];
                left = vsqrt<double>(left);
                const V inverse = alone != 0 ? splat(1.0) : 1.0 / left;
                for (int i = 0; i < n; ++i) own[i] *= inverse;
                // What is left of the last solve after the cluster's other vectors are gone must be a vector still.
                if (solve == 2) failed = (alone == 0) & ~(left > 1e-3) ? splat(1.0) : failed;
            }
            if (solve == 2)  // lanes that stand alone were done before
                for (int i = 0; i < n; ++i) own[i] = alone != 0 ? kept[i] : own[i];
        }
        failed = growth > kGrowth ? failed : splat(1.0);
    }
    return failed;
}

// order[j]: where the j-th largest of n values stands, kLanes apart.
template <class T>
static void descending(const T* values, int n, int* order) {
    constexpr int L = kLanes<T>;
    for (int i = 0; i < n; ++i) {
        int place = 0;
        for (int behind = i; place < behind;) {
            const int middle = (place + behind) / 2;
            if (values[order[middle] * L] < values[i * L])
                behind = middle;
            else
                place = middle + 1;
        }
        for (int j = i; j > place; --j) order[j] = order[j - 1];
        order[place] = i;
    }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
