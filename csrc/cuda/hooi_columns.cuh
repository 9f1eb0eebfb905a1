// Columns of a matrix [rows, r] as one block works on them: their signs, and an orthonormal set from them.
#pragma once
#include "cuda/launch.cuh"

namespace tsm::cuda {

// Eigenvalues below this part of the first come with vectors that double sums no longer fix.
constexpr double kWeak = 1e-7;

struct Columns {
    const Block& block;
    double* sign;  // [r], of sign_columns

    template <class Visit>
    __device__ __forceinline__ void each(int64_t count, Visit visit) const {
        for (int64_t i = block.rank(); i < count; i += block.size()) visit(i);
        block.sync();
    }

    // Makes the entry of largest magnitude, the first on ties, of entry(k, 0..count) positive for every column k of a.
    template <class Entry>
    __device__ void sign_columns(double* a, int64_t rows, int64_t r, int64_t count, Entry entry) const {
        for (int64_t k = 0; k < r; ++k) {
            const double found = column_sign(count, [&](int64_t i) { return entry(k, i); });
            if (block.rank() == 0) sign[k] = found;
        }
        block.sync();
        each(rows * r, [&](int64_t i) { a[i] *= sign[i % r]; });
    }
    template <class Entry>
    __device__ double column_sign(int64_t count, Entry entry) const {
        double most = 0, value = 0, where = 0;
        for (int64_t i = block.rank(); i < count; i += block.size()) {
            const double e = entry(i);
            if (fabs(e) > most) {
                most = fabs(e);
                value = e;
                where = static_cast<double>(i);
            }
        }
        return sign_of_first(most, value, where);
    }
    // The sign of the first of the largest magnitudes, of which every thread brings its own first one.
    __device__ __noinline__ double sign_of_first(double most, double value, double where) const {
        const double largest = block.max(most), first = -block.max(most == largest ? -where : -1e300);
        return block.sum(most == largest && where == first && value < 0 ? 1.0 : 0.0) > 0 ? -1 : 1;
    }

    // ---- an orthonormal set from columns that are orthogonal but for rounding, longest first ----
    __device__ double dot(const double* a, int64_t rows, int64_t r, int64_t j, int64_t k) const {
        double sum = 0;
        for (int64_t i = block.rank(); i < rows; i += block.size()) sum += a[i * r + j] * a[i * r + k];
        return block.sum(sum);
    }
    __device__ __noinline__ bool make_orthogonal(double* a, int64_t rows, int64_t r, int64_t k, double least) const {
        for (int pass = 0; pass < 3; ++pass) {
            for (int64_t j = 0; j < k; ++j) {
                const double share = dot(a, rows, r, j, k);
                each(rows, [&](int64_t i) { a[i * r + k] -= share * a[i * r + j]; });
            }
            const double length = sqrt(dot(a, rows, r, k, k));
            if (pass == 0 && !(length > least)) return false;
            each(rows, [&](int64_t i) { a[i * r + k] /= length; });
        }
        return true;
    }
    // Columns whose eigenvalue is weak are made orthogonal anew; those of no length become the first columns of the
    // identity that complete the set.
    __device__ __noinline__ void orthonormalize(double* a, int64_t rows, int64_t r, const double* lambda) const {
        const double least = 0.05 / sqrt(static_cast<double>(rows)), first = sqrt(dot(a, rows, r, 0, 0));
        for (int64_t k = 0; k < r; ++k) {
            const double length = sqrt(dot(a, rows, r, k, k));
            if (lambda[k] > kWeak * lambda[0] && length > 1e-4 * first) {
                each(rows, [&](int64_t i) { a[i * r + k] /= length; });
                continue;
            }
            if (length > 1e-12 * first && make_orthogonal(a, rows, r, k, least * length)) continue;
            for (int64_t unit = 0; unit < rows; ++unit) {
                each(rows, [&](int64_t i) { a[i * r + k] = i == unit ? 1 : 0; });
                if (make_orthogonal(a, rows, r, k, least)) break;
            }
        }
    }
};

}  // namespace tsm::cuda
