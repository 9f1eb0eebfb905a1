// The leading eigenpair of F^T F without forming it: Lanczos with full reorthogonalisation, one pass over F per step
// (u = F q, w = F^T u), in float. The pair is handed out only with a proof that it is the leading one.
#pragma once
#include "cpu/arena.h"
#include "cpu/level/eigen/rest_bound.inl"
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int kMaxSteps = 40;
constexpr double kLeastGap = 0.03;           // of the first value: nearer ones are left to the full solver
constexpr int64_t kSumRows = 256;            // rows whose float sums are kept apart, for their digits
constexpr int64_t kFetchAhead = 24 << 10;    // bytes
constexpr int64_t kFetchedItem = 448 << 10;  // bytes; the next item is fetched where two fit a second-level cache

// Rows of one item in memory order, and memory that is fetched into the cache during a pass over them.
struct Rows {
    const float* data;
    int64_t count, length, ld;
    const char *next = nullptr, *next_end = nullptr;
    int64_t lines = 0;  // of it, beside four rows

    void fetch(const char* from, int64_t bytes) {
        next = from;
        next_end = from + bytes;
        lines = (bytes / 64 * 4 + count - 1) / count;
    }
};

struct FirstLook {
    double norm2;      // ||F||^2
    double mean_part;  // sum over the rows of length * mean^2
    bool signed_values;
};

// Four rows from row c on; where fewer are left, the first of them stands in and its dots count as zero.
struct FourRows {
    const float* row[4];
    int64_t valid;

    FourRows(const Rows& f, int64_t c, int64_t end) : valid(end - c < 4 ? end - c : 4) {
        for (int64_t r = 0; r < 4; ++r) row[r] = f.data + (c + (r < valid ? r : 0)) * f.ld;
        // What is fetched beside these rows.
        const char* at = f.next + c / 4 * f.lines * 64;
        for (int64_t line = 0; line < f.lines && at < f.next_end; ++line, at += 64) __builtin_prefetch(at, 0, 2);
    }
    void dots(const Vec<float>* acc, float* u) const {
        sum_four(acc, u);
        for (int64_t r = valid; r < 4; ++r) u[r] = 0;
    }
};

// What is learnt on the way of the first pass, with q all ones.
struct Gathered {
    Vec<float> squares{}, least{};
    float row_sums = 0;

    void see(Vec<float> x) {
        squares += x * x;
        least = x < least ? x : least;
    }
};

typedef float Four __attribute__((vector_size(16)));

// part += F^T (F q) over rows [c0, c1), rows of NV vectors, held in registers or read twice; `last`: floats of the last
// vector. ONE: and of one more float.
template <int NV, bool LOOK, bool ONE>
static void gram_times_short(const Rows& f, int64_t c0, int64_t c1, int64_t last, const float* q, float* part,
                             Gathered* gathered) {
    using V = Vec<float>;
    constexpr int L = kLanes<float>;
    Gathered seen;                                                                       // in registers
    constexpr bool kHeld = NV * 4 * sizeof(V) <= (TSM_VECTOR_BYTES == 64 ? 1024 : 256);  // half of the registers
    V qv[NV], sum[NV] = {};
    Four more{};  // of the one more
    for (int v = 0; v < NV; ++v) qv[v] = load(q + v * L);
    for (int64_t c = c0; c < c1; c += 4) {
        const FourRows four(f, c, c1);
        const auto at = [&](int r, int v) __attribute__((always_inline)) {
            return ONE || v < NV - 1 ? load(four.row[r] + v * L) : load_first(four.row[r] + v * L, last);
        };
        V x[4][kHeld ? NV : 1], acc[4] = {};
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v)
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) {
                const V entry = at(r, v);
                if (kHeld) x[r][v] = entry;
                acc[r] += entry * (kHeld ? qv[v] : load(q + v * L));
                if (LOOK && r < four.valid) seen.see(entry);
            }
        float u[4];
        four.dots(acc, u);
        if (ONE) {
            Four ends, dots;
            for (int r = 0; r < 4; ++r) ends[r] = r < four.valid ? four.row[r][NV * L] : 0;
            __builtin_memcpy(&dots, u, sizeof u);
            dots += ends * q[NV * L];
            more += dots * ends;
            __builtin_memcpy(u, &dots, sizeof u);
            for (int r = 0; LOOK && r < four.valid; ++r) seen.see(load_first(four.row[r] + NV * L, 1));
        }
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
            const V ur = splat(u[r]);
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) sum[v] += ur * (kHeld ? x[r][v] : at(r, v));
            if (LOOK) seen.row_sums += u[r] * u[r];
        }
    }
    for (int v = 0; v < NV; ++v) store(part + v * L, sum[v]);
    if (ONE) {
        store(part + NV * L, V{});
        part[NV * L] = more[0] + more[1] + more[2] + more[3];
    }
    if (LOOK) *gathered = seen;
}

// The same for rows of any length, which are read twice.
template <bool LOOK>
static void gram_times_long(const Rows& f, int64_t c0, int64_t c1, int64_t last, const float* q, float* part,
                            Gathered* gathered) {
    using V = Vec<float>;
    constexpr int L = kLanes<float>;
    Gathered seen;  // in registers
    const int64_t whole = f.length - last;
    for (int64_t j = 0; j <= whole; j += L) store(part + j, V{});
    for (int64_t c = c0; c < c1; c += 4) {
        const FourRows four(f, c, c1);
        V acc[4] = {};
        float u[4];
        for (int64_t j = 0; j <= whole; j += L) {
            const V qv = load(q + j);
            for (int r = 0; r < 4; ++r) {
                const V x = j < whole ? load(four.row[r] + j) : load_first(four.row[r] + j, last);
                acc[r] += x * qv;
                if (LOOK && r < four.valid) seen.see(x);
            }
        }
        four.dots(acc, u);
        for (int64_t j = 0; j <= whole; j += L) {
            V sum = load(part + j);
            for (int r = 0; r < 4; ++r)
                sum += u[r] * (j < whole ? load(four.row[r] + j) : load_first(four.row[r] + j, last));
            store(part + j, sum);
        }
        if (LOOK)
            for (int r = 0; r < 4; ++r) seen.row_sums += u[r] * u[r];
    }
    if (LOOK) *gathered = seen;
}

// w = F^T (F q); q and w of padded length, zeros behind. With LOOK, q is all ones and `look` is filled.
template <int NV, bool LOOK, bool ONE>
static void gram_times_as(const Rows& f, const float* q, float* w, float* part, FirstLook* look) {
    constexpr int L = kLanes<float>;
    const int64_t np = padded<float>(f.length), last = f.length - (np - L);
    for (int64_t j = 0; j < np; ++j) w[j] = 0;
    double norm2 = 0, mean_part = 0;
    Vec<float> least{};
    for (int64_t c0 = 0; c0 < f.count; c0 += kSumRows) {
        const int64_t c1 = c0 + kSumRows < f.count ? c0 + kSumRows : f.count;
        Gathered seen;
        if constexpr (NV > 0)
            gram_times_short<NV, LOOK, ONE>(f, c0, c1, last, q, part, &seen);
        else
            gram_times_long<LOOK>(f, c0, c1, last, q, part, &seen);
        for (int64_t j = 0; j < np; j += L) store(w + j, load(w + j) + load(part + j));
        norm2 += static_cast<double>(sum_lanes<float>(seen.squares));
        mean_part += static_cast<double>(seen.row_sums);
        least = seen.least < least ? seen.least : least;
    }
    if (!LOOK) return;
    *look = {norm2, mean_part / static_cast<double>(f.length), false};
    for (int l = 0; l < L; ++l) look->signed_values |= least[l] < 0;
}

template <int NV, bool ONE = false>
static void gram_times_rows(const Rows& f, const float* q, float* w, float* part, FirstLook* look) {
    look ? gram_times_as<NV, true, ONE>(f, q, w, part, look) : gram_times_as<NV, false, ONE>(f, q, w, part, look);
}

static void gram_times(const Rows& f, const float* q, float* w, float* part, FirstLook* look) {
    constexpr int L = kLanes<float>;
    if (f.length == 49 && L > 4) return gram_times_rows<48 / L, true>(f, q, w, part, look);  // maps of 7x7
    switch ((f.length + L - 1) / L) {
        case 1:
            return gram_times_rows<1>(f, q, w, part, look);
        case 2:
            return gram_times_rows<2>(f, q, w, part, look);
        case 3:
            return gram_times_rows<3>(f, q, w, part, look);
        case 4:
            return gram_times_rows<4>(f, q, w, part, look);
        case 5:
            return gram_times_rows<5>(f, q, w, part, look);
        case 6:
            return gram_times_rows<6>(f, q, w, part, look);
        case 7:
            return gram_times_rows<7>(f, q, w, part, look);
        default:
            return gram_times_rows<0>(f, q, w, part, look);
    }
}

// A symmetric tridiagonal matrix [size, size], alpha along the diagonal and beta beside it, that grows by rows.
struct Tridiagonal {
    int size = 0;
    double alpha[kMaxSteps], beta[kMaxSteps];  // beta[size - 1]: to the row that may come
    double value = 0;                          // the largest eigenvalue
    double end = 1;                            // the last entry of its vector

    void grow(double diagonal) {
        alpha[size++] = diagonal;
        if (size == 1) {
            value = diagonal;
            return;
        }
        const double before = value, link = beta[size - 2] * end, half = (before - diagonal) / 2;
        if (link < 1e-6 * before && half > 0) {  // it moves by less than what pivots are good to
            end = link / (before - diagonal);
            value += link * end;
            return;
        }
        // Newton's iteration on the last pivot of value I - T, concave between its root and the eigenvalue before:
        // from what the rest of the matrix makes larger still it only grows.
        value = before - half + __builtin_sqrt(half * half + link * link);
        double slope = 1;
        for (int turn = 0; turn < 40; ++turn) {
            double pivot = value - alpha[0];
            slope = 1;
            for (int i = 1; i < size; ++i) {
                const double ratio = beta[i - 1] / pivot;
                slope = 1 + ratio * ratio * slope;
                pivot = value - alpha[i] - beta[i - 1] * ratio;
            }
            const double step = pivot / slope;
            value -= step;
            if (__builtin_fabs(step) <= 4 * kEpsilon<double> * value) break;
        }
        end = 1 / __builtin_sqrt(slope);
    }
    // How many eigenvalues lie above mu, with `more` in the last entry.
    int above(double mu, double more = 0) const {
        int count = 0;
        double pivot = 1;
        for (int i = 0; i < size; ++i) {
            pivot = alpha[i] - mu + (i + 1 == size ? more : 0) - (i > 0 ? beta[i - 1] * beta[i - 1] / pivot : 0);
            pivot = pivot == 0 ? -kEpsilon<double> * mu : pivot;
            count += pivot > 0;
        }
        return count;
    }
    double second() const {
        double low = 0, high = value;
        while (high - low > 1e-6 * value) {
            const double middle = (low + high) / 2;
            (above(middle) > 1 ? low : high) = middle;
        }
        return low;
    }
    // The unit vector of the largest eigenvalue: by pivots from both ends, which meet where they are best defined.
    void vector(double* s) const {
        double up[kMaxSteps], down[kMaxSteps];
        for (int i = 0; i < size; ++i)
            down[i] = value - alpha[i] - (i > 0 ? beta[i - 1] * beta[i - 1] / down[i - 1] : 0);
        for (int i = size - 1; i >= 0; --i)
            up[i] = value - alpha[i] - (i + 1 < size ? beta[i] * beta[i] / up[i + 1] : 0);
        int middle = 0;
        double least = 1e300;
        for (int i = 0; i < size; ++i) {
            const double left = __builtin_fabs(down[i] + up[i] - value + alpha[i]);
            if (!(left < least)) continue;
            least = left;
            middle = i;
        }
        s[middle] = 1;
        double norm = 1;
        for (int i = middle - 1; i >= 0; --i) {
            s[i] = s[i + 1] * beta[i] / down[i];
            norm += s[i] * s[i];
        }
        for (int i = middle + 1; i < size; ++i) {
            s[i] = s[i - 1] * beta[i - 1] / up[i];
            norm += s[i] * s[i];
        }
        norm = 1 / __builtin_sqrt(norm);
        for (int i = 0; i < size; ++i) s[i] *= norm;
    }
};

// Whether exactly one eigenvalue of g [n, n] lies above mu: one negative pivot in mu I - g = L D L^T. l: [n, n + 1]
static bool one_above(const double* g, int n, double mu, double* l) {
    const int ld = n + 1;
    int above = 0;
    double* d = l + n * ld;
    for (int i = 0; i < n; ++i) {
        double* row = l + i * ld;  // L D left of the diagonal while it is made, then L
        for (int j = 0; j < i; ++j) {
            const double* other = l + j * ld;
            Vec<double> sum{};
            int k = 0;
            for (; k + kLanes<double> <= j; k += kLanes<double>) sum += load(row + k) * load(other + k);
            double rest = sum_lanes<double>(sum);
            for (; k < j; ++k) rest += row[k] * other[k];
            row[j] = -g[static_cast<int64_t>(i) * n + j] - rest;
        }
        double pivot = mu - g[static_cast<int64_t>(i) * n + i];
        for (int k = 0; k < i; ++k) {
            const double scaled = row[k] / d[k];
            pivot -= row[k] * scaled;
            row[k] = scaled;
        }
        if (pivot == 0 || !(__builtin_fabs(pivot) < 1e300)) return false;
        d[i] = pivot;
        above += pivot < 0;
    }
    return above == 1;
}

enum class Proof { none, proven, needs_count, out_of_range };

struct LeadingPair {
    double lambda, second;  // the pair's eigenvalue, and the next one as Lanczos saw it
    Proof proof;
};

// How far the rounding of a pass in float moves an entry of the unit vector v: at most 1e-7, and where v is long a part
// of its largest entry.
static inline double rounding(double largest) {
    return 1e-6 * largest < 1e-7 ? 1e-6 * largest : 1e-7;
}

// The Krylov space of one item, of J F^T F J with J = I - 1 1^T / length where `center`.
struct Lanczos {
    enum class State { open, settled, lost };
    const Rows& f;
    const bool center;
    const int64_t n, np;
    const char* after;  // the item that will be read next
    const int64_t after_bytes;
    Arena arena;
    float *w, *part;        // w: the matrix times the newest vector; its rest after a step
    float* ones = nullptr;  // F^T F times all ones, where `center`
    float* basis[kMaxSteps];
    Tridiagonal t;                  // the matrix in the basis
    double theta[2], s[kMaxSteps];  // s: the first Ritz vector, in the basis
    double length = 1;              // which it had there

    Lanczos(const Rows& rows, bool centered, const char* next, int64_t next_bytes, const Arena& scratch)
        : f(rows),
          center(centered),
          n(rows.length),
          np(padded<float>(rows.length)),
          after(next),
          after_bytes(next_bytes),
          arena(scratch) {
        w = arena.take<float>(np);
        part = arena.take<float>(np);
    }
    double dot(const float* a, const float* b) const {
        Vec<float> sum{};
        for (int64_t j = 0; j < np; j += kLanes<float>) sum += load(a + j) * load(b + j);
        return static_cast<double>(sum_lanes<float>(sum));
    }
    void center_vector(float* a) const {
        double mean = 0;
        for (int64_t j = 0; j < n; ++j) mean += a[j];
        mean /= static_cast<double>(n);
        for (int64_t j = 0; j < n; ++j) a[j] -= static_cast<float>(mean);
    }

    // The first pass, with all ones.
    FirstLook look() {
        FirstLook seen;
        const int64_t bytes = f.count * n * 4;
        Rows cold = f;  // an item that the one before did not fetch: this pass fetches its own rows some way ahead
        if (f.ld == n && bytes > kFetchedItem)
            cold.fetch(reinterpret_cast<const char*>(f.data) + kFetchAhead, bytes - kFetchAhead);
        basis[0] = arena.take<float>(np);
        for (int64_t j = 0; j < np; ++j) basis[0][j] = j < n ? 1.0f : 0.0f;
        gram_times(cold, basis[0], w, part, &seen);
        if (center) ones = arena.take<float>(np);
        for (int64_t j = 0; center && j < np; ++j) ones[j] = w[j];
        return seen;
    }
    // The first vector, and w for it; false where there is none. Features without negative values have a leading vector
    // without them: all ones is close, and its pass is done. Otherwise (`fresh`) a fixed irregular vector keeps the
    // start from being orthogonal to what is sought.
    bool start(bool fresh) {
        float* q = basis[0];
        const double unit = 1 / __builtin_sqrt(static_cast<double>(n));
        if (!fresh) {
            for (int64_t j = 0; j < n; ++j) {
                q[j] = static_cast<float>(unit);
                w[j] = static_cast<float>(w[j] * unit);
            }
            return true;
        }
        if (center) center_vector(w);
        const double size = __builtin_sqrt(dot(w, w)), scale = size > 0 ? 1 / size : 0;
        uint32_t state = 12345;
        for (int64_t j = 0; j < n; ++j) {
            state = state * 1664525u + 1013904223u;
            const double noise = static_cast<double>(state >> 8) * (2.0 / 16777216) - 1;
            q[j] = static_cast<float>(w[j] * scale + noise * unit);
        }
        if (center) center_vector(q);
        const double norm = __builtin_sqrt(dot(q, q));
        if (!(norm > 0)) return false;
        for (int64_t j = 0; j < n; ++j) q[j] = static_cast<float>(q[j] / norm);
        gram_times(f, q, w, part, nullptr);
        return true;
    }
    // Step k = 1, 2, ..: the k-th vector, what is left of its product beside all vectors, and the Ritz value.
    void step(int k) {
        if (k > 1) {
            float* q = basis[k - 1] = arena.take<float>(np);
            for (int64_t j = 0; j < np; ++j) q[j] = static_cast<float>(w[j] / t.beta[k - 2]);
            Rows now = f;
            if (k <= 4) now.fetch(after + (k - 2) * after_bytes / 3, after_bytes / 3);  // a third each
            gram_times(now, q, w, part, nullptr);
        }
        if (center) center_vector(w);
        t.grow(dot(basis[k - 1], w));
        for (int pass = 0; pass < 2; ++pass)
            for (int i = k - 1; i >= 0; --i) {
                const float h = static_cast<float>(dot(basis[i], w));
                for (int64_t j = 0; j < np; j += kLanes<float>) store(w + j, load(w + j) - h * load(basis[i] + j));
            }
        t.beta[k - 1] = __builtin_sqrt(dot(w, w));
    }
    // Whether the first Ritz vector, which then goes to v, is good enough for a map after step k of `most`, or cannot
    // become so.
    State accept(int k, int most, double* v) {
        const double rest = t.beta[k - 1];
        const bool last = k == most || rest < 1e-6 * t.value;  // the Krylov space holds nothing more
        if (!last && (k < 3 || rest * t.end > 2e-5 * t.value)) return State::open;
        theta[0] = t.value;
        theta[1] = k > 1 ? t.second() : 0;
        t.vector(s);
        // Beside v stands w s_k of each other vector u, of value mu, times (theta - mu); half way between what that is
        // for mu = 0 and for the second value is added to v, and the other half is what is left.
        const double gap = theta[0] - theta[1], half = k > 3 ? theta[1] / (2 * theta[0]) : 1;
        const double residual = half * rest * __builtin_fabs(s[k - 1]);
        const bool settled = residual <= 1e-6 * gap;
        if (!settled && !last) return State::open;
        if (!settled || gap < kLeastGap * theta[0]) return State::lost;
        combine(k, k > 3 ? (1 - half) * s[k - 1] / gap : 0, v);
        double low = v[0], high = v[0];
        for (int64_t j = 1; j < n; ++j) {
            low = v[j] < low ? v[j] : low;
            high = v[j] > high ? v[j] : high;
        }
        // A map is normalised to its range, and so is its error.
        const double rounded = theta[0] * rounding(high > -low ? high : -low);
        if (residual + rounded <= 1e-5 * (high - low) * gap) return State::settled;
        return last || residual < 0.1 * rounded ? State::lost : State::open;
    }
    // v = the first Ritz vector and `more` times w, at unit length.
    void combine(int k, double more, double* v) {
        double norm = 0;
        for (int64_t j = 0; j < n; ++j) {
            double sum = more * static_cast<double>(w[j]);
            for (int i = 0; i < k; ++i) sum += s[i] * static_cast<double>(basis[i][j]);
            v[j] = sum;
            norm += sum * sum;
        }
        length = __builtin_sqrt(norm);
        for (int64_t j = 0; j < n; ++j) v[j] /= length;
    }
    // That v is the leading vector: all other eigenvalues together are less where it has half of the trace, or those of
    // a matrix without negative entries are bounded, or what lies outside of the Krylov space is.
    Proof prove(int k, const FirstLook& seen, double trace, bool fresh, const double* v) {
        if (2 * theta[0] > 1.05 * trace) return Proof::proven;
        if (!fresh && bounds_all(k, v)) return Proof::proven;
        return n <= f.count && bounds_rest(k, seen.norm2) ? Proof::proven : Proof::needs_count;
    }
    // Collatz and Wielandt: lambda_1 <= max (G v)_j / v_j for v > 0, and G v = theta v + residual.
    bool bounds_all(int k, const double* v) const {
        const double sign = s[0] < 0 ? -1 : 1, tail = s[k - 1] / length;
        double bound = 0;
        for (int64_t j = 0; j < n; ++j) {
            const double x = v[j] * sign, y = theta[0] * x + sign * tail * static_cast<double>(w[j]);
            if (x <= 0 && y == 0) continue;
            bound = x > 0 ? (y / x > bound ? y / x : bound) : 1e300;
        }
        return bound < theta[0] + 0.5 * (theta[0] - theta[1]);
    }
    // The matrix is T in the basis Q of k vectors, R outside of it, and between them only beta_k; so no more
    // eigenvalues lie above mu > |R| than of T with beta_k^2 / (mu - |R|) added to its last entry.
    bool bounds_rest(int k, double norm2) {
        // R = F^T F - sum_t left_t right_t^T: left_t = F^T F q_t and right_t = q_t, and what the rest w of the last
        // product, and the means, add.
        const int64_t slack = n + RestBlocks::kSlack;
        const int terms = k + 1 + 2 * center;
        float* left = arena.take<float>(terms * slack);
        float* right = arena.take<float>(terms * slack);
        for (int64_t i = 0; i < terms * slack; ++i) left[i] = right[i] = 0;
        double total = 0;
        for (int64_t j = 0; center && j < n; ++j) total += ones[j];
        const double by = 1 / static_cast<double>(n), mean = total * by * by;
        for (int64_t j = 0; j < n; ++j) {
            for (int i = 0; i < k; ++i) {
                const double before = i > 0 ? t.beta[i - 1] * static_cast<double>(basis[i - 1][j]) : 0,
                             after = i + 1 < k ? t.beta[i] * static_cast<double>(basis[i + 1][j]) : w[j];
                left[i * slack + j] = static_cast<float>(before + t.alpha[i] * basis[i][j] + after);
                right[i * slack + j] = basis[i][j];
            }
            left[k * slack + j] = basis[k - 1][j];
            right[k * slack + j] = w[j];
            if (!center) continue;
            left[(k + 1) * slack + j] = right[(k + 2) * slack + j] = 1;
            right[(k + 1) * slack + j] = static_cast<float>(ones[j] * by);
            left[(k + 2) * slack + j] = static_cast<float>(ones[j] * by - mean);
        }
        const double unit = 1 / theta[0], mu = theta[1] + 0.2 * (theta[0] - theta[1]), last = t.beta[k - 1];
        RestBlocks rest(f.data, f.count, n, f.ld, terms, left, right, unit, 5e-6 * norm2 * unit, arena);
        return rest.bounded(arena, [&](double bound) {
            const double room = mu - bound * theta[0];
            return room > 0 && t.above(mu, last * last / room) == 1;
        });
    }
};

// v: [length], unit norm. next: an item that will be read after this one, or null. Pairs in whose map the rounding of
// the float sums would show are left to the caller.
static LeadingPair leading_pair(const Rows& f, bool center, double* v, const Arena& scratch, const char* next = nullptr,
                                int64_t next_bytes = 0) {
    const LeadingPair none{0, 0, Proof::none};
    Lanczos space(f, center, next, next_bytes, scratch);
    const FirstLook look = space.look();
    const double trace = center ? look.norm2 - look.mean_part : look.norm2;
    // The squares of norm2 must be floats too.
    if (!(look.norm2 > 1e-12 && look.norm2 < 1e14)) return {0, 0, Proof::out_of_range};
    const bool fresh = center || look.signed_values;
    if (trace < 1e-2 * look.norm2 || !space.start(fresh)) return none;
    const int most = f.length < kMaxSteps ? static_cast<int>(f.length) : kMaxSteps;
    for (int k = 1; k <= most; ++k) {
        space.step(k);
        const Lanczos::State state = space.accept(k, most, v);
        if (state == Lanczos::State::lost) return none;
        if (state == Lanczos::State::settled)
            return {space.theta[0], space.theta[1], space.prove(k, look, trace, fresh, v)};
    }
    return none;
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
