// The leading singular pair of features with up to 64 positions, in one read: the Gram matrix G in registers, then
// repeated squaring of G on the matrix units. All eigenvalues of G^m stand in its trace, so trace - norm is both the
// stopping rule and the proof that nothing else is left: no start vector can miss the leading one.
#include "cuda/parts/gram.cuh"

namespace tsm::cuda {
namespace {

constexpr int kSquarings = 13;        // eigenvalues up to 0.997 of the first are told from it
constexpr int kSquarings16 = 11;      // up to 0.987, where sums in float cost the map 2e-8 / 0.013
constexpr double kRemainder = 1e-12;  // what all others together may have of the trace in the end

// to = (scale from)^2, both symmetric [8 NT, kPitch].
template <int NT>
__device__ void square(const double* from, double* to, double scale) {
    constexpr int kWidth = kPitch<NT>;
    const double* row = from + lane_of_thread() % 4 * kWidth + lane_of_thread() / 4;
#pragma unroll 1
    for (int f = warp_of_thread(); f < fragments<NT>(); f += kGramWarps) {
        int r = 0, s = f;
        for (; s >= NT - 2 * r; ++r) s -= NT - 2 * r;
        s += 2 * r;
        const bool whole = 2 * r + 1 < NT;
        double c[4] = {0, 0, 0, 0};
#pragma unroll 7
        for (int k = 0; k < 8 * NT; k += 4)
            multiply_add(c, row[k * kWidth + 16 * r], whole ? row[k * kWidth + 16 * r + 8] : 0.0,
                         row[k * kWidth + 8 * s]);
        each_entry(r, s, [&](int i, int j, int q) {
            if (i > j || i >= 8 * NT) return;
            to[i * kWidth + j] = to[j * kWidth + i] = scale * scale * c[q];
        });
    }
    __syncthreads();
}

// Where the leading pair of an item goes.
struct Found {
    Output maps;
    bool *settled, *finite;
};

// The leading pair of G = m [8 NT, kPitch] of the item, with as much room behind it. What leaves the range of float is
// not settled where G was summed there (`quick`).
template <int NT>
__device__ __forceinline__ void find_leading(double* m, int n, double* scratch, int64_t item, bool quick,
                                             const Found& found) {
    constexpr int kWidth = kPitch<NT>;
    const int thread = static_cast<int>(threadIdx.x);
    const auto& [maps, settled, finite] = found;
    double* next = m + 8 * NT * kWidth;
    const Block block{scratch};
    double trace = block.sum(thread < n ? m[thread * (kWidth + 1)] : 0.0);
    if (quick && !(trace > 1e-20 && trace < 1e37)) {
        if (thread == 0) settled[item] = false;
        return;
    }
    if (!is_finite(trace) || !(trace > 0)) {
        const bool zero = trace <= 0;
        for (int i = thread; i < n; i += 32 * kGramWarps) write(maps, item * n + i, zero ? 0.0 : not_a_number());
        if (thread == 0) {
            settled[item] = true;
            finite[item] = zero;
        }
        return;
    }
    double shift = 0, power = 1;  // trace(G^power) = trace * 2^shift
    double norm2 = 0;
    const int most = quick ? kSquarings16 : kSquarings;
    for (int step = 0; step <= most; ++step) {
        int exponent;
        frexp(trace, &exponent);
        const double scale = ldexp(1.0, -exponent), over = scale / (trace * scale);
        double squares = 0;
        for (int at = thread; at < 64 * NT * NT; at += 32 * kGramWarps) {
            const double x = m[at / (8 * NT) * kWidth + at % (8 * NT)] * over;
            squares += x * x;
        }
        norm2 = block.sum(squares);
        if (1 - norm2 < 2 * kRemainder || step == most) break;
        square<NT>(m, next, scale);
        shift = 2 * (shift + exponent);
        power *= 2;
        double* const swapped = m;
        m = next;
        next = swapped;
        trace = block.sum(thread < n ? m[thread * (kWidth + 1)] : 0.0);
    }
    int column = 0;
    for (int i = 1; i < n; ++i)
        if (m[i * (kWidth + 1)] > m[column * (kWidth + 1)]) column = i;
    const double x = thread < n ? m[thread * kWidth + column] : 0.0, length = sqrt(block.sum(x * x));
    const double lambda = exp2((log2(trace * sqrt(norm2)) + shift) / power);
    if (thread < n) write(maps, item * n + thread, sqrt(lambda) * x / length);
    const bool flat = quick && is_flat(thread < n ? fabs(x) : 1e300, fabs(x), block);
    if (thread == 0) {
        settled[item] = 1 - norm2 < 2 * kRemainder && !flat;
        finite[item] = true;
    }
}

template <int NT, class In, bool COLUMNS>
__device__ __forceinline__ void gram_of_item(const Rows& rows, int64_t batch_stride, bool center, const Output& gram,
                                             const bool* skip, const Found& found) {
    const int64_t item = blockIdx.x;
    if (skip && skip[item]) return;
    const int n = static_cast<int>(rows.fibres.n);
    const void* data = item_data(rows.fibres.data, rows.fibres.dtype, item * batch_stride);
    double* scratch = reinterpret_cast<double*>(shared_memory());
    double* m = scratch + kGramScratch;
    gram_of<NT>(n, InDouble<NT, In, COLUMNS>{rows, data, center}, reinterpret_cast<char*>(m), m, scratch);
    if (gram.data)
        for (int at = static_cast<int>(threadIdx.x); at < n * n; at += 32 * kGramWarps)
            write(gram, item * n * n + at, m[at / n * kPitch<NT> + at % n]);
    else
        find_leading<NT>(m, n, scratch, item, false, found);
}
// Block b: item b. The Gram matrix itself goes to `gram`, or else the leading pair to `found`.
template <int NT, class In>
__global__ void __launch_bounds__(32 * kGramWarps, NT < 8 ? 3 : 2)
    gram_kernel(const __grid_constant__ Rows rows, int64_t batch_stride, bool center, Output gram, const bool* skip,
                Found found) {
    gram_of_item<NT, In, false>(rows, batch_stride, center, gram, skip, found);
}
// The same of rows that are copied by columns.
template <int NT, class In>
__global__ void __launch_bounds__(32 * kGramWarps, NT < 8 ? 3 : 2)
    gram_columns_kernel(const __grid_constant__ Rows rows, int64_t batch_stride, bool center, Output gram,
                        const bool* skip, Found found) {
    gram_of_item<NT, In, true>(rows, batch_stride, center, gram, skip, found);
}

template <int NT, bool COLUMNS>
__device__ __forceinline__ void gram16_of_item(const Rows& rows, int64_t batch_stride, const Found& found) {
    const int64_t item = blockIdx.x;
    const int n = static_cast<int>(rows.fibres.n);
    double* scratch = reinterpret_cast<double*>(shared_memory());
    double* m = scratch + kGramScratch;
    const void* data = item_data(rows.fibres.data, rows.fibres.dtype, item * batch_stride);
    gram_of<NT>(n, In16Bits<NT, COLUMNS>{rows, data}, reinterpret_cast<char*>(m), m, scratch);
    find_leading<NT>(m, n, scratch, item, true, found);
}
// Block b: the leading pair of item b, of 16 bits, not centred: the matrix units multiply them as they are.
template <int NT>
__global__ void __launch_bounds__(32 * kGramWarps, 2)
    gram16_kernel(const __grid_constant__ Rows rows, int64_t batch_stride, Found found) {
    gram16_of_item<NT, false>(rows, batch_stride, found);
}
template <int NT>
__global__ void __launch_bounds__(32 * kGramWarps, 2)
    gram16_columns_kernel(const __grid_constant__ Rows rows, int64_t batch_stride, Found found) {
    gram16_of_item<NT, true>(rows, batch_stride, found);
}

// Of the two buffers of each warp.
int64_t staging_of(const Rows& rows, int chunk) {
    return 2 * kGramWarps * chunk_bytes(rows.copy, size_of(rows.fibres.dtype), rows.fibres.n, chunk);
}

template <int NT>
int64_t bytes_of(int64_t staging, int matrices) {
    const int64_t bytes = int64_t{8} * NT * kPitch<NT> * 8 * matrices;
    return kGramScratch * 8 + (staging > bytes ? staging : bytes);
}

struct Launch {
    const TensorBatch& x;
    Rows rows;
    bool center;
    Output gram;
    const bool* skip;
    Found found;
    void* stream;
    template <int NT, class In>
    void run() const {
        static const std::string of = "<" + std::to_string(NT) + ", " + type_name(In{}) + ">";
        const bool columns = rows.copy == Copy::columns;
        launch((columns ? "gram_columns_kernel" : "gram_kernel") + of,
               columns ? gram_columns_kernel<NT, In> : gram_kernel<NT, In>, x.batch, 32 * kGramWarps,
               bytes_of<NT>(staging_of(rows, kChunk<In>), gram.data ? 1 : 2), stream, rows, x.batch_stride, center,
               gram, skip, found);
    }
};
struct Launch16 {
    const TensorBatch& x;
    Rows rows;
    Found found;
    void* stream;
    template <int NT, class>
    void run() const {
        static const std::string of = "<" + std::to_string(NT) + ">";
        const bool columns = rows.copy == Copy::columns;
        launch((columns ? "gram16_columns_kernel" : "gram16_kernel") + of,
               columns ? gram16_columns_kernel<NT> : gram16_kernel<NT>, x.batch, 32 * kGramWarps,
               bytes_of<NT>(staging_of(rows, kRows16), 2), stream, rows, x.batch_stride, found);
    }
};

}  // namespace

void mode_gram_small(const TensorBatch& x, int mode, bool center, const Output& out, const bool* skip, void* stream) {
    const DType dtype = x.first.dtype;
    const Rows rows = rows_of(x, mode, chunk_rows(dtype));
    for_size_and_dtype(rows.fibres.n, dtype, Launch{x, rows, center, out, skip, Found{}, stream});
}

void leading_small(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, void* stream) {
    const DType dtype = x.first.dtype;
    const int64_t n = x.first.shape[1];
    const Found found{maps, settled, finite};
    if (size_of(dtype) == 2 && !center && !maps.wide)
        for_size<uint16_t>(n, Launch16{x, rows_of(x, 1, kRows16), found, stream});
    else
        for_size_and_dtype(n, dtype,
                           Launch{x, rows_of(x, 1, chunk_rows(dtype)), center, Output{}, nullptr, found, stream});
}

}  // namespace tsm::cuda
