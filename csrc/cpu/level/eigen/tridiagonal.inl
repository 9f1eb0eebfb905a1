// Eigenvalues and eigenvectors of tridiagonal matrices, one matrix per SIMD lane.
//   eigenvalues_lanes  the root-free QL of Reinsch (EISPACK tqlrat)
//   inverse_iteration  vectors for known eigenvalues (LAPACK stein): fast, and refused where it cannot be trusted
//   ql_lanes           implicit QL (EISPACK tql2): vectors for any spectrum
// Lanes advance on their own; those that are done keep their values bit for bit.
#pragma once
#include "cpu/level/eigen/householder.inl"
#include "cpu/level/eigen/orthonormalize.inl"
#include "cpu/level/eigen/two_sided.inl"

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

// Eigenvalues of (d, e) into d, unsorted; e [n] is destroyed. Of what a step takes from the one before it, g = gamma /
// c waits for one division and gamma for another: written as functions of each other they would wait for both.
template <class T>
static void eigenvalues_lanes(Vec<T>* d, Vec<T>* e, int n) {
    using V = Vec<T>;
    constexpr int L = kLanes<T>;
    T* ds = reinterpret_cast<T*>(d);
    T* es = reinterpret_cast<T*>(e);
    e[n - 1] = V{};
    V norm{};
    for (int i = 0; i < n; ++i) norm = vmax<T>(norm, vabs<T>(d[i]) + vabs<T>(e[i]));
    const V least = norm * kEpsilon<T>, small = least * least;
    for (int i = 0; i < n; ++i) e[i] *= e[i];  // squares from here on
    // Each lane works on rows first..stop of its own block, and what the next shift needs of it stays at hand.
    int first[L], stop[L];
    T from[L], to[L], top[L], beside[L], below[L], bottom[L];
    const auto look = [&](int lane, int l, int m) {
        first[lane] = l;
        stop[lane] = m;
        from[lane] = static_cast<T>(l);
        to[lane] = static_cast<T>(m);
        top[lane] = ds[l * L + lane];
        beside[lane] = es[l * L + lane];
        below[lane] = ds[(l < m ? l + 1 : m) * L + lane];
        bottom[lane] = ds[m * L + lane];
    };
    const auto next_block = [&](int lane, int l) {
        const T limit = small[lane];
        while (l < n - 1 && !(es[l * L + lane] > limit)) ++l;
        int m = l;
        while (m < n - 1 && es[m * L + lane] > limit) ++m;
        look(lane, l, m);
    };
    for (int lane = 0; lane < L; ++lane) next_block(lane, 0);
    for (int sweep = 0; sweep < 40 * n + 40; ++sweep) {
        int lo = n, hi = -1;
        for (int lane = 0; lane < L; ++lane) {
            if (stop[lane] == first[lane]) continue;
            lo = first[lane] < lo ? first[lane] : lo;
            hi = stop[lane] > hi ? stop[lane] : hi;
        }
        if (hi < 0) break;
        const V head = load(top), root = vsqrt<T>(load(beside)), t = (load(below) - head) / (root + root);
        const V far = vsqrt<T>(t * t + 1), sigma = head - root / (t + (t < 0 ? -far : far));
        const V begin = load(from), end = load(to);
        V gamma = load(bottom) - sigma, s{}, cut = end, at_cut = gamma, second{};
        gamma = vabs<T>(gamma) < least ? least : gamma;
        V g = gamma;
        for (int i = hi - 1; i >= lo; --i) {
            const V at = splat<T>(static_cast<T>(i)), alpha = d[i];
            const auto on = (at >= begin) & (at < end), inner = on & (at + 1 < end);
            const V w = e[i] / g, sum = gamma + w, inverse = T(1) / sum;
            V g1 = alpha - sigma - w;
            g1 = vabs<T>(g1) < least ? least : g1;
            const V gamma1 = g1 * gamma * inverse, e1 = s * (g * sum), d1 = gamma + (alpha - gamma1);
            e[i + 1] = inner ? e1 : e[i + 1];
            d[i + 1] = on ? d1 : d[i + 1];
            const auto cuts = on & ~(inner & (e1 > small));
            cut = cuts ? at + 1 : cut;
            at_cut = cuts ? d1 : at_cut;
            second = on ? d1 : second;
            s = on ? w * inverse : s;
            g = on ? g1 : g;
            gamma = on ? gamma1 : gamma;
        }
        store(top, sigma + gamma);
        store(beside, s * (g * gamma));
        store(below, second);
        store(bottom, at_cut);
        store(to, cut);
        for (int lane = 0; lane < L; ++lane) {
            const int l = first[lane];
            if (stop[lane] == l) continue;
            ds[l * L + lane] = top[lane];
            es[l * L + lane] = beside[lane];
            stop[lane] = static_cast<int>(to[lane]);
            if (beside[lane] > small[lane]) continue;
            l + 1 < stop[lane] ? look(lane, l + 1, stop[lane]) : next_block(lane, l + 1);
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
constexpr int kSetsAtOnce = 2;    // of eigenvectors in inverse iteration, each waiting for divisions
constexpr double kGrowth = 1e10;  // of a unit vector in one solve: 1 / the residual

// Eigenvectors y [rank, n], `step` apart, of (d, e) for its largest eigenvalues lambda [rank], descending. Returns the
// lanes, as 0 or 1, whose vectors fail the test of their residuals. work: [kShiftedVectors + 1, kSetsAtOnce, n];
// coefficients: of TwoSided, which does where `plain`, and [kSetsAtOnce, n] behind them; y is written to up to a
// multiple of kSetsAtOnce.
static Vec<double> inverse_iteration(const Vec<double>* d, const Vec<double>* e, int n, const Vec<double>* lambda,
                                     int rank, Vec<double>* y, int64_t step, Vec<double>* work,
                                     Vec<double>* coefficients, bool plain) {
    using V = Vec<double>;
    constexpr int NS = kSetsAtOnce;
    const TwoSided<V> ends(d, e, n, coefficients);
    V* both = coefficients + TwoSided<V>::coefficients(n);
    Shifted<double, NS> shifted(n, work);
    V* kept = work + kShiftedVectors<double> * NS * n;
    double* starts = reinterpret_cast<double*>(kept + NS * n);
    for (int i = 0; i < 2 * n + NS; ++i) starts[i] = irregular<double>(static_cast<uint32_t>(i));
    V failed{}, last{}, cluster{};  // cluster: the first vector of the one that a lane is in
    for (int j = 0; j < rank; j += NS) {
        V* own = y + j * step;
        V shift[NS], begin[NS], alone[NS], growth[NS] = {};
        int first[NS], solves = 2;
        for (int s = 0; s < NS; ++s) {
            const int at = j + s < rank ? j + s : rank - 1;
            // Equal eigenvalues are told apart by a few units in the last place, as their vectors must be.
            const V below = last - 4 * kEpsilon<double>;
            last = shift[s] = at == 0 || lambda[at] < below ? lambda[at] : below;
            if (at > 0) cluster = lambda[at - 1] - lambda[at] < kClose ? cluster : splat<double>(at);
            begin[s] = cluster;
            alone[s] = begin[s] == j + s ? splat(1.0) : V{};
            first[s] = j + s;
            for (int lane = 0; lane < kLanes<double>; ++lane)
                first[s] = cluster[lane] < first[s] ? static_cast<int>(cluster[lane]) : first[s];
            if (first[s] < j + s && j + s < rank) solves = 3;
        }
        // A lane takes what is its own, whatever the others do.
        V from_ends[NS] = {};
        if (plain) {
            V residual[NS];
            ends.take<NS>(shift, both, n, work, residual);
            bool all = true;
            for (int s = 0; s < NS; ++s) {
                from_ends[s] = (alone[s] != 0) & (residual[s] <= kLeft) ? splat(1.0) : V{};
                for (int lane = 0; lane < kLanes<double>; ++lane) all &= from_ends[s][lane] != 0 || j + s >= rank;
            }
            if (all) {
                for (int s = 0; s < NS; ++s)
                    for (int i = 0; i < n; ++i) own[s * step + i] = both[s * n + i];
                continue;
            }
        }
        for (int s = 0; s < NS; ++s)
            for (int i = 0; i < n; ++i) own[s * step + i] = splat(starts[j + s + i]);
        shifted.factorize(d, e, shift);
        for (int solve = 0; solve < solves; ++solve) {
            for (int s = 0; s < NS && solve == 2; ++s)
                for (int i = 0; i < n; ++i) kept[s * n + i] = own[s * step + i];
            if (solve > 0) shifted.forward(own, step);
            shifted.backward(own, step);
            for (int s = 0; s < NS && j + s < rank; ++s) {
                V* x = own + s * step;
                const V length = normalize_lanes<double>(x, n);
                growth[s] = solve == 2 ? (alone[s] != 0 ? growth[s] : length) : length;
                for (int p = first[s]; p < j + s; ++p) {
                    const V* other = y + p * step;
                    V dot{};
                    for (int i = 0; i < n; ++i) dot += x[i] * other[i];
                    dot = begin[s] <= p ? dot : V{};
                    for (int i = 0; i < n; ++i) x[i] -= dot * other[i];
                }
                if (first[s] < j + s) {
                    V left{};
                    for (int i = 0; i < n; ++i) left += x[i] * x[i];
                    left = vsqrt<double>(left);
                    const V inverse = alone[s] != 0 ? splat(1.0) : 1.0 / left;
                    for (int i = 0; i < n; ++i) x[i] *= inverse;
                    // What is left of the last solve after the cluster's other vectors are gone must be a vector still.
                    if (solve == 2) failed = (alone[s] == 0) & ~(left > 1e-3) ? splat(1.0) : failed;
                }
                if (solve == 2)  // lanes that stand alone were done before
                    for (int i = 0; i < n; ++i) x[i] = alone[s] != 0 ? kept[s * n + i] : x[i];
            }
        }
        for (int s = 0; s < NS; ++s) {
            for (int i = 0; plain && i < n; ++i)
                own[s * step + i] = from_ends[s] != 0 ? both[s * n + i] : own[s * step + i];
            if (j + s < rank) failed = (from_ends[s] != 0) | (growth[s] > kGrowth) ? failed : splat(1.0);
        }
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
