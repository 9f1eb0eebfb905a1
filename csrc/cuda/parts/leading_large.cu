// The leading singular pair of features with any number of positions, without a Gram matrix: Lanczos with full
// reorthogonalisation, one read of F a step (u = F q, w = F^T u), vectors and sums in double; see kFloatRows. F streams
// through shared memory in chunks of rows. As many chunks as fit stay there after the first read; of the others, every
// read after the first begins with those that the one before ended with, which are still in the ring or in the L2
// cache. The pair is handed out only with a proof that it is the leading one.
#include "cuda/parts/gram.cuh"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kSteps = 32;                  // at most
constexpr int kEntries = 7;                 // of a row that a thread holds
constexpr int kRing = 3;                    // chunks that are read, or on their way
constexpr int64_t kMostChannels = 1 << 24;  // counted in 32 bits
constexpr int64_t kNearBytes = 14 * 1024;   // of the basis in shared memory
// After the first read and for results in float, features of float and 16 bits are multiplied in float: the rounding of
// each row, 6e-8, is its own, and sums over so many rows of a thread go to double.
constexpr int kFloatRows = 8;
constexpr double kSettled = 1e-6, kSettledWide = 1e-12;  // residual over gap, for results in float and in double

// Rows that a group of warps multiplies at a time.
template <class In>
constexpr int kRows = sizeof(In) == 8 ? 1 : 2;

// Sums over the features that the first read gathers.
struct Look {
    double norm2 = 0, mean_part = 0;
    bool negative = false;

    __device__ __forceinline__ void see(double x) {
        norm2 += x * x;
        negative = negative || x < 0;
    }
    // `total`: of a row of n
    __device__ __forceinline__ void see_row(double total, int64_t n) {
        mean_part += total * total / static_cast<double>(n);
    }
    __device__ Look of(const Block& block) const {
        Look all;
        all.norm2 = block.sum(norm2);
        all.mean_part = block.sum(mean_part);
        all.negative = block.max(negative ? 1.0 : 0.0) > 0;
        return all;
    }
};

// The Krylov space: its tridiagonal matrix, the leading vector of that, and what a vector has of those before it.
struct Krylov {
    double alpha[kSteps], beta[kSteps], s[kSteps], down[kSteps], up[kSteps], coefficient[kSteps];
    double theta, second;
    double trace, power, largest;  // of G; what floats are multiplied by; of alpha: theta is no smaller
};

// How the rows of an item lie over the block, and what is in its shared memory.
struct Layout {
    int width;            // threads that share a row; 0: rows that are read in two passes a step, from where they are
    int groups;           // of so many threads
    int chunk;            // rows: kRows for each group
    int row, column;      // entries to the next row of a chunk, and to the next column
    int chunks, held;     // of the item, and those that stay in shared memory
    int near;             // vectors of the basis in shared memory
    int64_t chunk_bytes;  // a multiple of 16, as are the places of all chunks
    int64_t bytes;

    __host__ __device__ static constexpr int64_t scratch() { return kBlockScratch; }  // numbers
    __host__ __device__ static constexpr int64_t exchange() { return int64_t{4} * kWarps * 2; }
    __host__ __device__ int half() const { return (groups + 1) / 2; }
    __host__ __device__ int64_t partial(int64_t n) const { return groups > 1 ? half() * n : 0; }
    __host__ __device__ static int64_t vector(int64_t n) { return (n + 1) / 2 * 2; }
};

// Of threads that share a row; 0 where a block is too small for one.
int groups_of(int64_t n) {
    int groups = n > kThreads * kEntries ? 0 : kWarps;
    while (groups > 0 && (kThreads / groups * kEntries < n || kWarps % groups != 0)) --groups;
    return groups;
}

template <class In>
Layout layout_of(int64_t channels, int64_t n, int64_t room, Copy copy) {
    Layout l{};
    l.bytes = (Layout::scratch() + Layout::exchange()) * 8 + static_cast<int64_t>(sizeof(Krylov));
    const Layout two_passes = l;
    l.groups = groups_of(n);
    if (l.groups == 0 || channels > kMostChannels) return two_passes;
    l.width = kThreads / l.groups;
    l.chunk = l.groups * kRows<In>;
    l.row = copy == Copy::columns ? 1 : static_cast<int>(n);
    l.column = copy == Copy::columns ? column_pitch<In>(l.chunk) : 1;
    l.chunks = static_cast<int>((channels + l.chunk - 1) / l.chunk);
    l.chunk_bytes = (chunk_bytes(copy, sizeof(In), n, l.chunk) + 15) / 16 * 16;
    l.bytes = (l.bytes + (l.partial(n) + n) * 8 + 15) / 16 * 16 + kRing * l.chunk_bytes;
    if (l.bytes > room) return two_passes;
    const auto fill = [&](int64_t bytes, int64_t most) {
        const int64_t fits = (room - l.bytes) / bytes, count = fits < most ? fits : most;
        l.bytes += count * bytes;
        return static_cast<int>(count);
    };
    l.near = fill(8 * Layout::vector(n), kNearBytes / (8 * n) < kSteps ? kNearBytes / (8 * n) : kSteps);
    l.held = fill(l.chunk_bytes, l.chunks);
    return l;
}

// One item's products with F.
template <class In>
struct Reads {
    static constexpr int R = kRows<In>;
    const Rows& rows;
    const bool center;
    const void* data;
    const Layout& l;
    const Block& block;
    char *ring, *held;  // [kRing] and [l.held] chunks
    double* partial;    // [half, n]; u [channels] of rows read in two passes
    double* exchange;   // [4, kWarps, R]

    __device__ __forceinline__ int64_t n() const { return rows.fibres.n; }
    __device__ __forceinline__ int64_t channels() const { return rows.fibres.count; }
    template <class Number>
    __device__ __forceinline__ static Number as(In x, bool bfloat) {
        return static_cast<Number>(widen(x, bfloat));
    }
    __device__ __forceinline__ double at(int64_t c, int64_t p) const {
        return read(data, rows.fibres.dtype, c * rows.fibres.stride[0] + p * rows.fibres.step);
    }

    // Sums over the threads that share a row. `spot`: a part of `exchange` that nobody reads now
    template <class Number>
    __device__ __forceinline__ void sum_rows(Number (&x)[R], int width, int spot) const {
#pragma unroll
        for (int r = 0; r < R; ++r) x[r] = warp_sum(x[r]);
        if (width == 32) return;
        Number* sums = reinterpret_cast<Number*>(exchange + spot * kWarps * R);
#pragma unroll
        for (int r = 0; r < R; ++r)
            if (lane_of_thread() == 0) sums[warp_of_thread() * R + r] = x[r];
        block.sync();
        const int warps = width / 32;
        sums += warp_of_thread() / warps * warps * R;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            x[r] = 0;
            for (int w = 0; w < warps; ++w) x[r] += sums[w * R + r];
        }
    }
    // sums += x (x q) scale over this group's rows of a chunk, of which this thread has entries `own` + width j; q in
    // one number or in two.
    template <bool kFirst, class Number>
    __device__ __forceinline__ void add_rows(const In* entries, int n, int width, int groups, int own, bool bfloat,
                                             const int (&offset)[kEntries], const Number (&of_q)[kEntries],
                                             const Number (&left_of_q)[kEntries], Number scale,
                                             Number (&sums)[kEntries], int spot, Look& look) const {
        Number x[R][kEntries], dots[R], totals[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const In* row = entries + r * groups * l.row;
#pragma unroll
            for (int j = 0; j < kEntries; ++j) x[r][j] = as<Number>(row[offset[j]], bfloat);
            if (center) {
                const Number shift = as<Number>(row[0], bfloat);
#pragma unroll
                for (int j = 0; j < kEntries; ++j) x[r][j] -= shift;
            }
            dots[r] = totals[r] = 0;
#pragma unroll
            for (int j = 0; j < kEntries; ++j) {
                if (sizeof(Number) == 4) dots[r] += x[r][j] * left_of_q[j];
                dots[r] += x[r][j] * of_q[j];
                if (kFirst) {
                    const double y = own + j * width < n ? static_cast<double>(x[r][j]) : 0.0;
                    look.see(y);
                    totals[r] += static_cast<Number>(y);
                }
            }
        }
        sum_rows(dots, width, spot);
        if (kFirst && center) {
            sum_rows(totals, width, 2 + spot);
#pragma unroll
            for (int r = 0; r < R; ++r)
                if (own == 0) look.see_row(static_cast<double>(totals[r]), n);
        }
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int j = 0; j < kEntries; ++j) sums[j] += dots[r] * scale * x[r][j];
    }
    // w = F^T (F q). The first read of an item is one with kFirst and not `backwards`; the direction changes with each.
    // power: of two, by which q and F q are multiplied on the way, so that floats stay in range
    template <bool kFirst, class Number>
    __device__ Look multiply(const double* q, double* w, bool backwards, Number power) const {
        if (l.width == 0) return multiply_long<kFirst>(q, w);
        const int n = static_cast<int>(this->n()), width = l.width, groups = l.groups, chunk = l.chunk,
                  own = block.rank() % width, group = block.rank() / width, kept = l.held, far = l.chunks - kept;
        const int64_t chunk_bytes = l.chunk_bytes;
        const bool bfloat = rows.fibres.dtype == DType::bf16;
        const auto place = [&](int c) {
            return c < kept ? held + c * chunk_bytes : ring + (c - kept) % kRing * chunk_bytes;
        };
        // The first read takes every chunk in turn; later ones the far chunks, with the kept ones spread among them.
        const int stream = kFirst ? l.chunks : far, spread = kFirst ? 0 : kept, turns = stream > 0 ? stream : 1;
        const auto streamed = [&](int i) { return kFirst ? i : backwards ? l.chunks - 1 - i : kept + i; };
        const auto fetch = [&](int i) {
            const int c = i < stream ? streamed(i) : l.chunks;
            fetch_chunk(rows, data, int64_t{c} * chunk, chunk, place(c), block);
        };
        int offset[kEntries];  // of entries own + width j in a row; beyond the row's end that of its last one
        Number of_q[kEntries], left_of_q[kEntries], part[kEntries];
        double sums[kEntries];
        Look look;
#pragma unroll
        for (int j = 0; j < kEntries; ++j) {
            const int p = own + j * width;
            offset[j] = (p < n ? p : n - 1) * l.column;
            const double entry = p < n ? static_cast<double>(power) * q[p] : 0.0;
            of_q[j] = static_cast<Number>(entry);
            left_of_q[j] = static_cast<Number>(entry - static_cast<double>(of_q[j]));
            part[j] = 0;
            sums[j] = 0;
        }
        const auto flush = [&] {
#pragma unroll
            for (int j = 0; j < kEntries; ++j) {
                sums[j] += static_cast<double>(part[j]);
                part[j] = 0;
            }
        };
        int spot = 0, filled = 0;
        if (kFirst) {
#pragma unroll 1
            for (int i = 0; i < kRing - 1; ++i) fetch(i);
        }
        for (int i = 0; i < turns; ++i) {
            if (stream > 0) {
                wait_for_all_but_newest();
                block.sync();
                fetch(kFirst || i > 0 ? i + kRing - 1 : stream);
            }
            const int first = spread * i / turns, end = spread * (i + 1) / turns;
            for (int c = stream > 0 ? first - 1 : first; c < end; ++c) {
                const In* entries =
                    reinterpret_cast<const In*>(in_shared(place(c < first ? streamed(i) : c))) + group * l.row;
                add_rows<kFirst>(entries, n, width, groups, own, bfloat, offset, of_q, left_of_q, power, part, spot,
                                 look);
                spot ^= 1;
                if (sizeof(Number) == 4 && (filled += R) % kFloatRows == 0) flush();
            }
        }
        flush();
        const double back = 1 / (static_cast<double>(power) * static_cast<double>(power));
#pragma unroll
        for (int j = 0; j < kEntries; ++j) sums[j] *= back;
        // The upper half of the groups hands its sums to the lower one.
        const int half = l.half();
        double* mine = groups == 1 ? w : partial + group % half * n;
        for (int turn = 0; turn < 2; ++turn) {
            const bool partner = turn == 1 && group + half < groups;
            if ((group < half) == (turn == 1)) {
#pragma unroll
                for (int j = 0; j < kEntries; ++j) {
                    const int p = own + j * width;
                    if (p < n) mine[p] = sums[j] + (partner ? mine[p] : 0.0);
                }
            }
            block.sync();
        }
        if (groups > 1) {
            for (int p = block.rank(); p < n; p += block.size()) {
                double sum = 0;
                for (int g = 0; g < half; ++g) sum += partial[g * n + p];
                w[p] = sum;
            }
            block.sync();
        }
        return kFirst ? look.of(block) : look;
    }
    template <bool kFirst>
    __device__ Look multiply_long(const double* q, double* w) const {
        Look look;
        for (int64_t c = warp_of_thread(); c < channels(); c += kWarps) {
            const double shift = center ? at(c, 0) : 0.0;
            double dot = 0, total = 0;
            for (int64_t p = lane_of_thread(); p < n(); p += 32) {
                const double x = at(c, p) - shift;
                dot += x * q[p];
                if (kFirst) {
                    look.see(x);
                    total += x;
                }
            }
            dot = warp_sum(dot);
            if (kFirst) total = warp_sum(total);
            if (lane_of_thread() == 0) {
                partial[c] = dot;
                look.see_row(total, n());
            }
        }
        block.sync();
        for (int64_t p = block.rank(); p < n(); p += block.size()) {
            double sum = 0;
            for (int64_t c = 0; c < channels(); ++c) sum += partial[c] * (at(c, p) - (center ? at(c, 0) : 0.0));
            w[p] = sum;
        }
        block.sync();
        return kFirst ? look.of(block) : look;
    }
};

struct Vectors {
    const Block& block;
    int64_t n;
    __device__ double dot(const double* a, const double* b) const {
        double sum = 0;
        for (int64_t p = block.rank(); p < n; p += block.size()) sum += a[p] * b[p];
        return block.sum(sum);
    }
    __device__ void scale(double* to, const double* from, double factor) const {
        for (int64_t p = block.rank(); p < n; p += block.size()) to[p] = factor * from[p];
        block.sync();
    }
    __device__ void center(double* a) const {
        double sum = 0;
        for (int64_t p = block.rank(); p < n; p += block.size()) sum += a[p];
        const double mean = block.sum(sum) / static_cast<double>(n);
        for (int64_t p = block.rank(); p < n; p += block.size()) a[p] -= mean;
        block.sync();
    }
};

// An irregular number in [-1, 1), another one for every i.
__device__ __forceinline__ double irregular(int64_t at) {
    uint32_t i = static_cast<uint32_t>(at);
    i = (i + 1) * 2654435761u;
    i ^= i >> 15;
    i *= 2246822519u;
    i ^= i >> 13;
    return static_cast<double>(static_cast<int32_t>(i)) * (1.0 / 2147483648.0);
}

// How many eigenvalues of the tridiagonal matrix lie above x: sign changes of its leading minors (Sturm). Entries
// about 1: 32 minors stay in range.
__device__ inline int eigenvalues_above(const Krylov& t, int k, double power, double x) {
    double before = 1, minor = x - power * t.alpha[0];
    int count = minor < 0;
    for (int i = 1; i < k; ++i) {
        const double beta = power * t.beta[i - 1], next = (x - power * t.alpha[i]) * minor - beta * beta * before;
        count += (next < 0) != (minor < 0);
        before = minor;
        minor = next;
    }
    return count;
}

// The largest eigenvalue of the tridiagonal matrix (skip = 0), from above, or the one after it (skip = 1), by a warp:
// 32 points a round divide the interval that holds it.
__device__ inline double ritz_value(const Krylov& t, int k, int skip, int rounds) {
    double low = 0, high = 0;
    for (int i = 0; i < k; ++i) {
        const double radius = (i > 0 ? t.beta[i - 1] : 0.0) + (i + 1 < k ? t.beta[i] : 0.0), end = t.alpha[i] + radius;
        high = end > high ? end : high;
    }
    if (!(high > 0)) return 0;
    const double power = power_below(high);
    high *= power;
    for (int round = 0; round < rounds; ++round) {
        const double step = (high - low) * (1.0 / 33), x = low + step * (lane_of_thread() + 1);
        const int below = count_lanes(eigenvalues_above(t, k, power, x) > skip);
        if (below < 32) high = low + step * (below + 1);
        low += step * below;
    }
    return high / power;
}

// The unit vector of the largest eigenvalue theta, by a warp: solved from both ends to where they fit best (Fernando's
// twisted factorisation; theta - T is positive definite but for rounding, so no pivots are needed).
__device__ inline void ritz_vector(Krylov& t, int k, double theta) {
    const double least = 1e-16 * theta;
    const int lane = lane_of_thread();
    if (lane < 2) {
        double* pivot = lane == 0 ? t.down : t.up;
        double last = 0;
        for (int j = 0; j < k; ++j) {
            const int i = lane == 0 ? j : k - 1 - j;
            const double beta = j == 0 ? 0.0 : t.beta[lane == 0 ? i - 1 : i];
            const double here = theta - t.alpha[i] - (j == 0 ? 0.0 : beta * (beta / last));
            pivot[i] = last = here > least ? here : least;
        }
    }
    __syncwarp(kAllLanes);
    int twist = 0;
    double smallest = 0;
    for (int i = 0; i < k; ++i) {
        const double gamma = fabs(t.down[i] + t.up[i] - (theta - t.alpha[i]));
        if (i == 0 || gamma < smallest) {
            smallest = gamma;
            twist = i;
        }
    }
    if (lane == 0) {
        t.s[twist] = 1;
        for (int i = twist - 1; i >= 0; --i) t.s[i] = t.beta[i] / t.down[i] * t.s[i + 1];
    } else if (lane == 1) {
        double s = 1;
        for (int i = twist + 1; i < k; ++i) t.s[i] = s *= t.beta[i - 1] / t.up[i];
    }
    __syncwarp(kAllLanes);
    const double s = lane < k ? t.s[lane] : 0.0, length = sqrt(warp_sum(s * s));
    if (lane < k) t.s[lane] = s / length;
}
static_assert(kSteps <= 32, "a lane holds an entry");

// The search for one item's pair.
template <class In>
struct Leading {
    const Reads<In> reads;
    Krylov& krylov;
    double *near, *basis, *w;
    bool wide;  // results in double

    __device__ double* vector(int k) const {
        return k < reads.l.near ? near + k * Layout::vector(reads.n()) : basis + k * reads.n();
    }
    // What is found: it lies behind the basis.
    __device__ __forceinline__ double* map() const { return basis + kSteps * reads.n(); }
    // w less what it has of the first k vectors, alpha [k - 1] on the way: Gram and Schmidt, twice.
    __device__ void orthogonalize(int k) const {
        const Block& block = reads.block;
        const int64_t n = reads.n();
        for (int pass = 0; pass < 2; ++pass) {
            for (int i = warp_of_thread(); i < k; i += kWarps) {
                const double* v = vector(i);
                double sum = 0;
                for (int64_t p = lane_of_thread(); p < n; p += 32) sum += v[p] * w[p];
                sum = warp_sum(sum);
                if (lane_of_thread() == 0) {
                    krylov.coefficient[i] = sum;
                    if (i == k - 1) krylov.alpha[i] = pass == 0 ? sum : krylov.alpha[i] + sum;
                }
            }
            block.sync();
            for (int64_t p = block.rank(); p < n; p += block.size()) {
                double sum = 0;
                for (int i = 0; i < k; ++i) sum += krylov.coefficient[i] * vector(i)[p];
                w[p] -= sum;
            }
            block.sync();
        }
    }
    // theta, second and s of the Krylov space of the first k vectors.
    __device__ void decompose(int k) const {
        if (warp_of_thread() == 0) {
            const double largest = ritz_value(krylov, k, 0, wide ? 11 : 9);
            ritz_vector(krylov, k, largest);
            if (lane_of_thread() == 0) krylov.theta = largest;
        } else if (warp_of_thread() == 1) {
            const double second = k > 1 ? ritz_value(krylov, k, 1, 5) : 0.0;
            if (lane_of_thread() == 0) krylov.second = second;
        }
        reads.block.sync();
    }
    // lambda_1 <= max_j (G v)_j / v_j for G >= 0 and v > 0 (Collatz and Wielandt); G v = theta v + tail w.
    __device__ bool bounded(const double* v, double tail) const {
        const Block& block = reads.block;
        double bound = 0;
        for (int64_t p = block.rank(); p < reads.n(); p += block.size()) {
            const double y = krylov.theta * v[p] + tail * w[p];
            if (v[p] <= 0 && fabs(y) < 1e-300) continue;
            const double ratio = v[p] > 0 ? y / v[p] : 1e300;
            bound = ratio > bound ? ratio : bound;
        }
        return block.max(bound) < krylov.theta + 0.5 * (krylov.theta - krylov.second);
    }
    // sigma_1 v_1 into `map`; whether it is the leading pair.
    __device__ bool run(bool* finite) const {
        const bool center = reads.center;
        const int64_t n = reads.n();
        const Block& block = reads.block;
        const Vectors vectors{block, n};
        const double unit = 1 / sqrt(static_cast<double>(n));
        double* q = vector(0);
        for (int64_t p = block.rank(); p < n; p += block.size()) q[p] = center ? irregular(p) : unit;
        block.sync();
        if (center) {
            vectors.center(q);
            vectors.scale(q, q, 1 / sqrt(vectors.dot(q, q)));
        }
        const Look look = reads.template multiply<true, double>(q, w, false, 1);
        *finite = is_finite(look.norm2);
        const double trace = center ? look.norm2 - look.mean_part : look.norm2;
        const bool empty = !(trace > 1e-13 * look.norm2);
        if (!*finite || empty) {
            for (int64_t p = block.rank(); p < n; p += block.size()) map()[p] = *finite ? 0.0 : not_a_number();
            return !*finite || look.norm2 == 0;
        }
        const bool again = !center && look.negative, positive = !center && !again;
        if (again) {  // all ones may be orthogonal to what is sought
            const double length = sqrt(vectors.dot(w, w));
            for (int64_t p = block.rank(); p < n; p += block.size())
                q[p] = (length > 0 ? w[p] / length : 0.0) + irregular(p) * unit;
            block.sync();
            vectors.scale(q, q, 1 / sqrt(vectors.dot(q, q)));
        }
        using Narrow = std::conditional_t<sizeof(In) == 8, double, float>;
        int exponent;
        frexp(look.norm2, &exponent);
        if (block.rank() == 0) {
            krylov.trace = trace;
            krylov.power = ldexp(1.0, exponent < -240 ? 120 : exponent > 240 ? -120 : -exponent / 2);
        }
        block.sync();
        const int most = n < kSteps ? static_cast<int>(n) : kSteps;
        bool backwards = false;
        for (bool narrow = !wide && sizeof(In) < 8, known = !again;; narrow = known = false) {
            bool converged = false;
            int k = 1;
            for (;; ++k) {
                if (k > 1 || !known) {
                    backwards = !backwards;
                    if (narrow)
                        reads.template multiply<false, Narrow>(vector(k - 1), w, backwards,
                                                               static_cast<Narrow>(krylov.power));
                    else
                        reads.template multiply<false, double>(vector(k - 1), w, backwards, 1);
                }
                if (center) vectors.center(w);
                orthogonalize(k);
                const double beta = sqrt(vectors.dot(w, w)), alpha = krylov.alpha[k - 1];
                if (block.rank() == 0) {
                    krylov.beta[k - 1] = beta;
                    krylov.largest = k > 1 && krylov.largest > alpha ? krylov.largest : alpha;
                }
                block.sync();
                const bool invariant = !(beta > 1e-12 * krylov.largest);
                if (k > 2 || invariant || k == most) {
                    decompose(k);
                    const double gap = krylov.theta - krylov.second, residual = beta * krylov.s[k - 1];
                    converged = residual <= (wide ? kSettledWide : kSettled) * gap;
                    if (converged || invariant || k == most) break;
                }
                vectors.scale(vector(k), w, 1 / beta);
            }
            const bool proved = accept(k, converged, krylov.trace, positive);
            if (!narrow || !converged || !floats_show()) return proved;
            vectors.scale(vector(0), map(), 1 / sqrt(krylov.theta));  // to begin anew
        }
    }
    // Whether products in float may show in a map: from a pair that is not alone, or of little spread.
    __device__ bool floats_show() const {
        double least = 1e300, largest = 0;
        for (int64_t p = reads.block.rank(); p < reads.n(); p += reads.block.size()) {
            least = fmin(least, fabs(map()[p]));
            largest = fmax(largest, fabs(map()[p]));
        }
        const bool flat = is_flat(least, largest, reads.block);
        return flat || krylov.theta - krylov.second < 0.01 * krylov.theta;
    }
    __device__ bool accept(int k, bool converged, double trace, bool positive) const {
        const Block& block = reads.block;
        for (int64_t p = block.rank(); p < reads.n(); p += block.size()) {
            double sum = 0;
            for (int i = 0; i < k; ++i) sum += krylov.s[i] * vector(i)[p];
            map()[p] = sum;
        }
        block.sync();
        if (!converged) return false;
        const bool proved = 2 * krylov.theta > 1.05 * trace || (positive && bounded(map(), krylov.s[k - 1]));
        const double sigma = sqrt(krylov.theta);
        for (int64_t p = block.rank(); p < reads.n(); p += block.size()) map()[p] *= sigma;
        block.sync();
        return proved;
    }
};

// basis, map, and w and u of rows that are read in two passes
__host__ __device__ int64_t item_numbers(int64_t channels, int64_t n) {
    return (kSteps + 2) * n + channels;
}

// Block b: item b.
template <class In>
__global__ void __launch_bounds__(kThreads)
    leading_large_kernel(const __grid_constant__ Rows rows, const __grid_constant__ Layout layout, int64_t batch_stride,
                         bool center, Output maps, bool* settled, bool* finite, double* workspace) {
    const int64_t item = blockIdx.x, n = rows.fibres.n;
    double* shared = reinterpret_cast<double*>(shared_memory());
    double* own = workspace + item * item_numbers(rows.fibres.count, n);
    double* map = own + kSteps * n;
    const Block block{shared};
    double* exchange = shared + Layout::scratch();
    Krylov& krylov = *reinterpret_cast<Krylov*>(exchange + Layout::exchange());
    double* w = layout.width == 0 ? map + n : reinterpret_cast<double*>(&krylov + 1);
    double* partial = w + n;
    char* held = shared_memory() + layout.bytes - layout.held * layout.chunk_bytes;
    double* near = reinterpret_cast<double*>(held) - layout.near * Layout::vector(n);
    char* ring = reinterpret_cast<char*>(near) - kRing * layout.chunk_bytes;
    const void* data = item_data(rows.fibres.data, rows.fibres.dtype, item * batch_stride);
    const Reads<In> reads{rows, center, data, layout, block, ring, held, partial, exchange};
    const Leading<In> leading{reads, krylov, near, own, w, maps.wide};
    bool is_fine = true;
    const bool proved = leading.run(&is_fine);
    block.sync();
    for (int64_t p = block.rank(); p < n; p += block.size()) write(maps, item * n + p, map[p]);
    if (block.rank() == 0) {
        settled[item] = proved;
        finite[item] = is_fine;
    }
}

template <class In>
void run(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, double* workspace,
         void* stream) {
    static const std::string name = std::string("leading_large_kernel<") + type_name(In{}) + ">";
    Rows rows = rows_of(x, 1, groups_of(x.first.shape[1]) * kRows<In>);
    const auto layout_by = [&] { return layout_of<In>(rows.fibres.count, rows.fibres.n, shared_limit(), rows.copy); };
    Layout layout = layout_by();
    if (layout.width == 0 && rows.copy == Copy::columns) {  // which take more room
        rows.copy = Copy::entries;
        layout = layout_by();
    }
    launch(name, leading_large_kernel<In>, x.batch, kThreads, layout.bytes, stream, rows, layout, x.batch_stride,
           center, maps, settled, finite, workspace);
}

}  // namespace

int64_t leading_workspace(int64_t channels, int64_t positions) {
    return item_numbers(channels, positions) * 8;
}

void leading_large(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, void* workspace,
                   int64_t bytes, void* stream) {
    const Tensor& t = x.first;
    require_workspace(bytes, x.batch * leading_workspace(t.shape[0], t.shape[1]));
    const auto go = t.dtype == DType::f32 ? run<float> : t.dtype == DType::f64 ? run<double> : run<uint16_t>;
    go(x, center, maps, settled, finite, static_cast<double*>(workspace), stream);
}

}  // namespace tsm::cuda
