// The leading singular pair of features with up to 64 positions, in one read: the Gram matrix G in registers, then
// repeated squaring of G on the matrix units. All eigenvalues of G^m stand in its trace, so trace - norm is both the
// stopping rule and the proof that nothing else is left: no start vector can miss the leading one.
#include "cuda/parts/gram.cuh"

namespace tsm::cuda {
namespace {

constexpr int kSquarings = 13;        // eigenvalues up to 0.997 of the first are told from it
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

// Block b: item b. The Gram matrix itself goes to `gram`, or else the leading pair to `maps`.
template <int NT, class In>
__global__ void __launch_bounds__(32 * kGramWarps, NT < 8 ? 3 : 2)
    gram_kernel(const __grid_constant__ Rows rows, int64_t batch_stride, bool center, Output gram, const bool* skip,
                Output maps, bool* settled, bool* finite) {
    constexpr int kWidth = kPitch<NT>;
    const int64_t item = blockIdx.x;
    if (skip && skip[item]) return;
    const int n = static_cast<int>(rows.fibres.n), thread = static_cast<int>(threadIdx.x);
    const void* data = item_data(rows.fibres.data, rows.fibres.dtype, item * batch_stride);
    double* scratch = reinterpret_cast<double*>(shared_memory());
    double* m = scratch + kGramScratch;
    gram_of<NT, In>(rows, data, center, reinterpret_cast<char*>(m), m, scratch);
    if (gram.data) {
        for (int at = thread; at < n * n; at += 32 * kGramWarps)
            write(gram, item * n * n + at, m[at / n * kWidth + at % n]);
        return;
    }
    double* next = m + 8 * NT * kWidth;
    const Block block{scratch};
    double trace = block.sum(thread < n ? m[thread * (kWidth + 1)] : 0.0);
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
    for (int step = 0; step <= kSquarings; ++step) {
        double squares = 0;
        for (int at = thread; at < 64 * NT * NT; at += 32 * kGramWarps) {
            const double x = m[at / (8 * NT) * kWidth + at % (8 * NT)] / trace;
            squares += x * x;
        }
        norm2 = block.sum(squares);
        if (1 - norm2 < 2 * kRemainder || step == kSquarings) break;
        int exponent;
        frexp(trace, &exponent);
        square<NT>(m, next, ldexp(1.0, -exponent));
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
    if (thread == 0) {
        settled[item] = 1 - norm2 < 2 * kRemainder;
        finite[item] = true;
    }
}

struct Launch {
    const TensorBatch& x;
    Rows rows;
    bool center;
    Output gram;
    const bool* skip;
    Output maps;
    bool *settled, *finite;
    void* stream;
    template <int NT, class In>
    void run() const {
        const int64_t staging = gram_bytes(rows.fibres.dtype, rows.fibres.n);
        const int64_t matrices = int64_t{8} * NT * kPitch<NT> * 8 * (gram.data ? 1 : 2);
        static const std::string name = "gram_kernel<" + std::to_string(NT) + ", " + type_name(In{}) + ">";
        launch(name, gram_kernel<NT, In>, x.batch, 32 * kGramWarps,
               kGramScratch * 8 + (staging > matrices ? staging : matrices), stream, rows, x.batch_stride, center, gram,
               skip, maps, settled, finite);
    }
};

}  // namespace

void mode_gram_small(const TensorBatch& x, int mode, bool center, const Output& out, const bool* skip, void* stream) {
    const Fibres f = fibres_of(x.first, mode);
    for_size_and_dtype(f.n, f.dtype,
                       Launch{x, Rows{f, is_packed(x, f, chunk_rows(f.dtype))}, center, out, skip, Output{}, nullptr,
                              nullptr, stream});
}

void leading_small(const TensorBatch& x, bool center, const Output& maps, bool* settled, bool* finite, void* stream) {
    const Fibres f = fibres_of(x.first, 1);
    for_size_and_dtype(f.n, f.dtype,
                       Launch{x, Rows{f, is_packed(x, f, chunk_rows(f.dtype))}, center, Output{}, nullptr, maps,
                              settled, finite, stream});
}

}  // namespace tsm::cuda
