#include <algorithm>
#include <cmath>

#include "cpu/steps.h"
#include "cpu/threads.h"

namespace tsm {

// A symmetric matrix [n, n] from its lower triangle. By squares: whole lines are written at once, whatever n is.
template <class S>
static void mirror(const S* from, const int64_t* stride, int64_t n, double* to) {
    constexpr int64_t kSide = 8;
    double square[kSide][kSide];
    for (int64_t top = 0; top < n; top += kSide)
        for (int64_t left = 0; left <= top; left += kSide) {
            const int64_t rows = std::min(kSide, n - top), columns = std::min(kSide, n - left);
            for (int64_t i = 0; i < rows; ++i) {
                const S* row = from + (top + i) * stride[0] + left * stride[1];
                if (left < top && stride[1] == 1)
                    for (int64_t j = 0; j < kSide; ++j) square[i][j] = static_cast<double>(row[j]);
                else
                    for (int64_t j = 0; j < columns && left + j <= top + i; ++j)
                        square[i][j] = static_cast<double>(row[j * stride[1]]);
            }
            if (left == top)
                for (int64_t i = 0; i < rows; ++i)
                    for (int64_t j = i + 1; j < columns; ++j) square[i][j] = square[j][i];
            for (int64_t i = 0; i < rows; ++i) std::copy_n(square[i], columns, to + (top + i) * n + left);
            for (int64_t j = 0; left < top && j < columns; ++j)
                for (int64_t i = 0; i < rows; ++i) to[(left + j) * n + top + i] = square[i][j];
        }
}

// Rows of `count` numbers, each the other way round.
template <class P>
static void put_turned(P* out, const double* from, int64_t rows, int64_t count) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < count; ++j) out[i * count + j] = static_cast<P>(from[i * count + count - 1 - j]);
}
static void put_turned(const Output& out, int64_t first, const double* from, int64_t rows, int64_t count) {
    if (out.wide)
        put_turned(static_cast<double*>(out.at(first)), from, rows, count);
    else
        put_turned(static_cast<float*>(out.at(first)), from, rows, count);
}

namespace {

struct Group : EighItems {
    const TensorBatch& gram;
    int64_t first;
    int rank;
    bool roots;
    const Output &values, &vectors;

    Group(const TensorBatch& gram, int64_t first, int rank, bool roots, const Output& values, const Output& vectors)
        : gram(gram), first(first), rank(rank), roots(roots), values(values), vectors(vectors) {}

    Tensor source(int k) const override { return gram.item(first + k); }
    void take(int k, double* matrix) override {
        const Tensor x = source(k);
        if (x.dtype == DType::f64)
            mirror(static_cast<const double*>(x.data), x.stride, x.shape[0], matrix);
        else
            mirror(static_cast<const float*>(x.data), x.stride, x.shape[0], matrix);
    }
    void put(int k, const double* value, const double* vector) override {
        const int64_t n = gram.first.shape[0], at = (first + k) * rank;
        if (roots) {
            for (int j = 0; j < rank; ++j) {
                const double root = value[j] < 0 ? 0 : std::sqrt(value[j]);
                values.put(at + j, &root, 1);
            }
            vectors.put(at * n, vector, n * rank);
        } else {
            put_turned(values, at, value, 1, rank);
            put_turned(vectors, at * n, vector, n, rank);
        }
    }
};

}  // namespace

void truncated_svd(const TensorBatch& gram, int rank, bool roots, bool wide, const Output& values,
                   const Output& vectors, int threads) {
    const int64_t n = gram.first.shape[0];
    // The root of a small eigenvalue would show what it lost.
    const bool in_float = !roots && !values.wide && !vectors.wide && rank == n;
    const int group = level().truncated_svd_group(wide, n, in_float);
    const double work = 4 * (25 + static_cast<double>(n)) * static_cast<double>(n * n);
    parallel_chunks(gram.batch, group, work, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        Group items(gram, first, rank, roots, values, vectors);
        level().truncated_svd(wide, items, static_cast<int>(last - first), static_cast<int>(n), rank, !vectors.wide,
                              in_float, memory);
    });
}

}  // namespace tsm
