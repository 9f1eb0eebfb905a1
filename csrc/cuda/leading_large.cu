// The leading singular pair of features with any number of positions, without a Gram matrix: Lanczos with full
// reorthogonalisation, one pass over F a step (u = F q, w = F^T u), vectors and sums in double. The pair is handed out
// only with a proof that it is the leading one.
#include "cuda/eigen.cuh"

namespace tsm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSteps = 32;       // at most
constexpr int kInRegisters = 7;  // rows up to 32 times this long are read once a step

struct Features {
    const void* data;
    DType dtype;
    int64_t rows, n, row_step, step;
    bool center;

    __device__ __forceinline__ double at(int64_t c, int64_t p) const {
        return read(data, dtype, c * row_step + p * step);
    }
    // What is taken from row c: its first entry here, the rest of its mean when vectors are centred.
    __device__ __forceinline__ double shift(int64_t c) const { return center ? at(c, 0) : 0.0; }
};

// Sums over the features that the first pass gathers.
struct Look {
    double norm2, mean_part, negative;
};

// w = F^T (F q); q, w: [n]. partial: [warps, n] where rows fit registers, else u: [rows]
__device__ void gram_times(const Features& f, const double* q, double* w, double* partial, const Block& block,
                           Look* look) {
    const int lane = lane_of_thread(), warp = warp_of_thread(), warps = block.size() / 32;
    double norm2 = 0, mean_part = 0, negative = 0;
    const bool held = f.n <= 32 * kInRegisters;
    double sums[kInRegisters];
#pragma unroll
    for (int j = 0; j < kInRegisters; ++j) sums[j] = 0;
    for (int64_t c = warp; c < f.rows; c += warps) {
        const double shift = f.shift(c);
        double x[kInRegisters], dot = 0, total = 0;
        if (held) {
#pragma unroll
            for (int j = 0; j < kInRegisters; ++j) {
                const int p = lane + 32 * j;
                x[j] = p < f.n ? f.at(c, p) - shift : 0.0;
                dot += x[j] * (p < f.n ? q[p] : 0.0);
                if (look) {
                    norm2 += x[j] * x[j];
                    total += x[j];
                    negative += x[j] < 0 ? 1.0 : 0.0;
                }
            }
        } else {
            for (int64_t p = lane; p < f.n; p += 32) {
                const double y = f.at(c, p) - shift;
                dot += y * q[p];
                if (look) {
                    norm2 += y * y;
                    total += y;
                    negative += y < 0 ? 1.0 : 0.0;
                }
            }
        }
        dot = warp_sum(dot);
        if (look) {
            total = warp_sum(total);
            if (lane == 0) mean_part += total * total / static_cast<double>(f.n);
        }
        if (held) {
#pragma unroll
            for (int j = 0; j < kInRegisters; ++j) sums[j] += dot * x[j];
        } else if (lane == 0) {
            partial[c] = dot;
        }
    }
    if (held) {
#pragma unroll
        for (int j = 0; j < kInRegisters; ++j)
            if (lane + 32 * j < f.n) partial[warp * f.n + lane + 32 * j] = sums[j];
    }
    block.sync();
    for (int64_t p = block.rank(); p < f.n; p += block.size()) {
        double sum = 0;
        if (held)
            for (int v = 0; v < warps; ++v) sum += partial[v * f.n + p];
        else
            for (int64_t c = 0; c < f.rows; ++c) sum += partial[c] * (f.at(c, p) - f.shift(c));
        w[p] = sum;
    }
    block.sync();
    if (look) *look = {block.sum(norm2), block.sum(mean_part), block.sum(negative)};
}

struct Vectors {
    const Block& block;
    int64_t n;
    __device__ double dot(const double* a, const double* b) const {
        double sum = 0;
        for (int64_t p = block.rank(); p < n; p += block.size()) sum += a[p] * b[p];
        return block.sum(sum);
    }
    // a += factor b
    __device__ void add(double* a, const double* b, double factor) const {
        for (int64_t p = block.rank(); p < n; p += block.size()) a[p] += factor * b[p];
        block.sync();
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
__device__ __forceinline__ double irregular(uint32_t i) {
    i = (i + 1) * 2654435761u;
    i ^= i >> 15;
    i *= 2246822519u;
    i ^= i >> 13;
    return static_cast<double>(static_cast<int32_t>(i)) * (1.0 / 2147483648.0);
}

// Shared memory beside the reductions: the small tridiagonal problem.
struct Ritz {
    double alpha[kSteps], beta[kSteps], d[kSteps], e[kSteps], turns[4 * kSteps], z[kSteps * (kSteps | 1)];
    int range[4];
};

// Block b: item b. Memory of an item: basis [kSteps, n], w [n], partial [max(rows, warps n)].
struct Leading {
    Features f;
    const Block& block;
    Ritz& ritz;
    double *basis, *w, *partial;
    double settled;  // residual over gap
    double theta = 0, second = 0;

    __device__ double* vector(int k) const { return basis + k * f.n; }

    // The two largest Ritz values; the coefficients of the first vector into ritz.z's row `at`.
    __device__ int decompose(int k) {
        constexpr int kWidth = kSteps | 1;
        for (int i = block.rank(); i < k * k; i += block.size()) ritz.z[i / k * kWidth + i % k] = i / k == i % k;
        for (int i = block.rank(); i < k; i += block.size()) {
            ritz.d[i] = ritz.alpha[i];
            ritz.e[i] = i + 1 < k ? ritz.beta[i] : 0;
        }
        block.sync();
        tridiagonal_ql(ritz.d, ritz.e, k, ritz.z, kWidth, k, ritz.turns, ritz.range, block);
        int at = 0;
        for (int i = 1; i < k; ++i)
            if (ritz.d[i] > ritz.d[at]) at = i;
        theta = ritz.d[at];
        second = 0;
        for (int i = 0; i < k; ++i)
            if (i != at && ritz.d[i] > second) second = ritz.d[i];
        return at;
    }
    // lambda_1 <= max_j (G v)_j / v_j for G >= 0 and v > 0 (Collatz and Wielandt); G v = theta v + tail w.
    __device__ bool bounded(const double* v, double sign, double tail) const {
        double bound = 0;
        for (int64_t p = block.rank(); p < f.n; p += block.size()) {
            const double x = sign * v[p], y = theta * x + sign * tail * w[p];
            if (x <= 0 && fabs(y) < 1e-300) continue;
            const double ratio = x > 0 ? y / x : 1e300;
            bound = ratio > bound ? ratio : bound;
        }
        return block.max(bound) < theta + 0.5 * (theta - second);
    }
    // sigma_1 v_1 into `map`; whether it is the leading pair.
    __device__ bool run(double* map, bool* finite) {
        const Vectors vectors{block, f.n};
        double* q = vector(0);
        for (int64_t p = block.rank(); p < f.n; p += block.size()) q[p] = 1;
        block.sync();
        Look look;
        gram_times(f, q, w, partial, block, &look);
        *finite = is_finite(look.norm2);
        const double trace = f.center ? look.norm2 - look.mean_part : look.norm2;
        const bool empty = !(trace > 1e-13 * look.norm2);
        if (!*finite || empty) {
            for (int64_t p = block.rank(); p < f.n; p += block.size()) map[p] = *finite ? 0.0 : not_a_number();
            return !*finite || look.norm2 == 0;
        }
        const bool positive = !f.center && look.negative == 0;
        if (!positive) {  // all ones may be orthogonal to what is sought
            if (f.center) vectors.center(w);
            const double length = sqrt(vectors.dot(w, w)), unit = 1 / sqrt(static_cast<double>(f.n));
            for (int64_t p = block.rank(); p < f.n; p += block.size())
                q[p] = (length > 0 ? w[p] / length : 0.0) + irregular(static_cast<uint32_t>(p)) * unit;
            block.sync();
            if (f.center) vectors.center(q);
        }
        vectors.scale(q, q, 1 / sqrt(vectors.dot(q, q)));
        const int most = f.n < kSteps ? static_cast<int>(f.n) : kSteps;
        for (int k = 1; k <= most; ++k) {
            gram_times(f, vector(k - 1), w, partial, block, nullptr);
            if (f.center) vectors.center(w);
            const double alpha = vectors.dot(vector(k - 1), w);
            for (int pass = 0; pass < 2; ++pass)
                for (int i = k - 1; i >= 0; --i) vectors.add(w, vector(i), -vectors.dot(vector(i), w));
            const double beta = sqrt(vectors.dot(w, w));
            if (block.rank() == 0) {
                ritz.alpha[k - 1] = alpha;
                ritz.beta[k - 1] = beta;
            }
            block.sync();
            const int at = decompose(k);
            const double* s = ritz.z + at * (kSteps | 1);
            const double gap = theta - second, residual = beta * fabs(s[k - 1]);
            const bool invariant = beta < 1e-12 * theta;
            if ((residual <= settled * gap && k > 2) || invariant || k == most)
                return finish(map, s, k, residual <= settled * gap, trace, positive);
            vectors.scale(vector(k), w, 1 / beta);
        }
        return false;
    }
    __device__ bool finish(double* map, const double* s, int k, bool converged, double trace, bool positive) {
        for (int64_t p = block.rank(); p < f.n; p += block.size()) {
            double sum = 0;
            for (int i = 0; i < k; ++i) sum += s[i] * vector(i)[p];
            map[p] = sum;
        }
        block.sync();
        if (!converged) return false;
        const bool proved = 2 * theta > 1.05 * trace || (positive && bounded(map, s[0] < 0 ? -1.0 : 1.0, s[k - 1]));
        const double sigma = sqrt(theta);
        for (int64_t p = block.rank(); p < f.n; p += block.size()) map[p] *= sigma;
        block.sync();
        return proved;
    }
};

__host__ __device__ int64_t item_numbers(int64_t n, int64_t rows) {
    const int64_t partial = n <= 32 * kInRegisters ? kThreads / 32 * n : rows;
    return (kSteps + 2) * n + partial;
}

__global__ void __launch_bounds__(kThreads) leading_large_kernel(Features f, int64_t batch_stride, Output maps,
                                                                 bool* settled, bool* finite, double* workspace) {
    const int64_t item = blockIdx.x;
    f.data = item_data(f.data, f.dtype, item * batch_stride);
    double* shared = reinterpret_cast<double*>(shared_memory());
    const Block block{shared};
    double* own = workspace + item * item_numbers(f.n, f.rows);
    Leading leading{f,
                    block,
                    *reinterpret_cast<Ritz*>(shared + 34),
                    own,
                    own + kSteps * f.n,
                    own + (kSteps + 2) * f.n,
                    maps.wide ? 1e-12 : 1e-8};
    double* map = own + (kSteps + 1) * f.n;
    bool is_fine = true;
    const bool proved = leading.run(map, &is_fine);
    block.sync();
    for (int64_t p = block.rank(); p < f.n; p += block.size()) write(maps, item * f.n + p, map[p]);
    if (block.rank() == 0) {
        settled[item] = proved;
        finite[item] = is_fine;
    }
}

}  // namespace

int64_t leading_workspace(int64_t rows, int64_t positions) {
    return item_numbers(positions, rows) * 8;
}

void leading_large(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, void* workspace,
                   int64_t bytes, void* stream) {
    const Tensor& t = x.first;
    require_workspace(bytes, x.batch * leading_workspace(t.shape[0], t.shape[1]));
    const Features f{t.data, t.dtype, t.shape[0], t.shape[1], t.stride[0], t.stride[1], center};
    launch("leading_large_kernel", leading_large_kernel, x.batch, kThreads, 34 * 8 + static_cast<int64_t>(sizeof(Ritz)),
           stream, f, x.batch_stride, maps, settled, finite, static_cast<double*>(workspace));
}

}  // namespace tsm::cuda
