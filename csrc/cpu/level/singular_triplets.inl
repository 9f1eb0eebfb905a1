// Singular triplets of a group of matrices [M, N], M >= N, by the eigenvectors V of their Gram matrices: X = (X V) V^T
// whatever orthonormal V is, so that only the columns of X V have to be made orthonormal. What Gram matrices in double
// lose of V is below the rounding of float results.
#pragma once
#include "cpu/level/core_contraction.inl"
#include "cpu/level/hooi/columns.inl"
#include "cpu/level/mode_gram.inl"
#include "cpu/level/truncated_svd.inl"

namespace tsm::TSM_LEVEL {
namespace {

// Of sigma_1, what the last sigma must be for a Gram matrix in float to do, and for X V in float.
constexpr double kFirm = 0.03, kFirmColumns = 0.01;
// Squaring X leaves columns j and k of X V orthogonal to about 1e-15 sigma_1^2 / (sigma_j sigma_k): those from here on
// are made so one after the other.
constexpr double kFaint = 1e-4;
constexpr double kNull = 1e-12;        // no direction at all
constexpr double kTripletLoss = 2e-6;  // of orthonormality, let stand

template <class P>
static double gather_gram(const TripletsItem& item, double* gram, Arena scratch) {
    const int64_t n = item.x.shape[1];
    gram_item<P>(fibres_of(item.x, 1), Adjust{false, nullptr, 1, item.scale}, gram, scratch);
    double trace = 0;
    for (int64_t i = 0; i < n; ++i) trace += gram[i * n + i];
    return trace;
}
// The Gram matrix of the columns; false where there is nothing to decompose.
static bool read_gram(bool wide, TripletsItem& item, double* gram, Arena scratch) {
    const auto gather = wide ? gather_gram<double> : gather_gram<float>;
    if (squares_in_range<float>(gather(item, gram, scratch))) return true;
    if (!find_scale<float>(item, scratch)) return false;
    gather(item, gram, scratch);
    return true;
}

// out = a [rows, rank] with its columns times `sign`, or the transpose of that.
template <class T>
static void put_columns(const T* a, int64_t rows, int64_t rank, const double* sign, bool transposed, float* out) {
    constexpr int64_t block = 16;
    const int64_t along = transposed ? 1 : rank, across = transposed ? rows : 1;
    for (int64_t i0 = 0; i0 < rows; i0 += block)
        for (int64_t k0 = 0; k0 < rank; k0 += block)
            for (int64_t i = i0; i < rows && i < i0 + block; ++i)
                for (int64_t k = k0; k < rank && k < k0 + block; ++k)
                    out[i * along + k * across] = static_cast<float>(a[i * rank + k] * static_cast<T>(sign[k]));
}

static void sign_columns(const float* a, int64_t rows, int64_t rank, double* sign, Arena scratch) {
    ColumnFacts<float> facts(rank, scratch);
    facts.see(a, rows, rank);
    for (int64_t k = 0; k < rank; ++k) sign[k] = facts.sign(a, rows, rank, k);
}

static void put_blank(const TripletsPlan& p, const TripletsItem& item) {
    const float other = item.finite ? 0 : __builtin_nanf("");
    const auto put = [&](float* out, int64_t rows, bool transposed) {
        for (int64_t i = 0; i < rows * p.rank; ++i) out[i] = other;
        for (int64_t k = 0; item.finite && k < p.rank; ++k) out[k * (transposed ? rows : p.rank) + k] = 1;
    };
    put(item.left, item.x.shape[0], p.turned);
    put(item.right, item.x.shape[1], !p.turned);
    for (int64_t k = 0; k < p.rank; ++k) item.values[k] = other;
}

// u [M, rank]: columns that `factor` brings to unit length and `sign` points up, `lengths` those of X V; its products
// in P. lambda [rank] and v [N, rank]: eigenpairs of the Gram matrix
template <class P>
static void left_columns(const TripletsItem& item, int64_t r, const double* lambda, const double* v, float* u,
                         double* lengths, double* factor, double* sign, Arena scratch) {
    const int64_t rows = item.x.shape[0], n = item.x.shape[1];
    P* a = nullptr;
    if constexpr (sizeof(P) == 4)
        a = u;
    else
        a = scratch.take<P>(rows * r);
    double* weights = scratch.take<double>(n * r);
    // A sigma that is lost in the rounding of G counts as the least that is not: its column is short.
    const double least = 1e-15 * static_cast<double>(n) * lambda[0];
    int64_t sound = 0;
    for (int64_t k = 0; k < r; ++k) {
        if (sound == k && lambda[k] > kFaint * kFaint * lambda[0]) ++sound;
        lengths[k] = __builtin_sqrt(lambda[k] > least ? lambda[k] : least);
        factor[k] = 1 / lengths[k];
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t k = 0; k < r; ++k) weights[i * r + k] = v[i * r + k] * factor[k];
    ColumnFacts<P> facts(r, scratch);
    for (int64_t k = sound; k < r; ++k) facts.judge_x[k] = facts.sum[k] = 0;
    multiply_rows<P>(item.x, item.scale, weights, r, a, scratch, [&](const P* done, int64_t count) {
        facts.see(done, count, r);
        facts.judge_columns(done, count, r);
    });
    for (int64_t k = 0; k < r; ++k) {
        facts.sum[k] += facts.judge_x[k] * static_cast<P>(1 - facts.squares[k]);  // other lengths are no loss
        const double length = __builtin_sqrt(facts.squares[k]);
        lengths[k] *= length;
        factor[k] = length > 0 ? 1 / length : 0;
    }
    const bool lacking = !(facts.loss(sound) <= kTripletLoss);
    if constexpr (sizeof(P) == 4) {
        if (lacking) {
            scale_columns(u, rows, r, factor);
            make_orthonormal(u, rows, r, scratch);
            facts = ColumnFacts<float>(r, scratch);
            facts.see(u, rows, r);
            for (int64_t k = 0; k < r; ++k) factor[k] = 1;
        }
        for (int64_t k = 0; k < r; ++k) sign[k] = facts.sign(u, rows, r, k);
    } else {
        scale_columns(a, rows, r, factor);
        if (lacking && !straighten_columns(a, rows, r, sound, scratch)) sound = 0;
        orthonormalize_from(a, rows, r, sound, lengths, kNull * lengths[0], scratch);
        for (int64_t k = 0; k < r; ++k) factor[k] = 1;
        put_columns(a, rows, r, factor, false, u);
        sign_columns(u, rows, r, sign, scratch);
    }
}

static void put_triplets(const TripletsPlan& p, const TripletsItem& item, const double* lambda, const double* v,
                         Arena scratch) {
    const int64_t rows = item.x.shape[0], n = item.x.shape[1], r = p.rank;
    float* u = p.turned ? scratch.take<float>(rows * r) : item.left;
    double* lengths = scratch.take<double>(r);
    double* factor = scratch.take<double>(r);
    double* sign = scratch.take<double>(r);
    const bool firm = lambda[r - 1] > kFirmColumns * kFirmColumns * lambda[0];
    (firm ? left_columns<float> : left_columns<double>)(item, r, lambda, v, u, lengths, factor, sign, scratch);
    double last = lengths[0];
    for (int64_t k = 0; k < r; ++k) {
        last = lengths[k] < last ? lengths[k] : last;
        item.values[k] = static_cast<float>(last / item.scale);
    }
    if (p.sign_right) {
        float* right = scratch.take<float>(n * r);
        for (int64_t i = 0; i < n * r; ++i) right[i] = static_cast<float>(v[i]);
        sign_columns(right, n, r, sign, scratch);
    }
    for (int64_t k = 0; k < r; ++k) factor[k] *= sign[k];
    if (p.turned)
        put_columns(u, rows, r, factor, true, item.left);
    else
        scale_columns(u, rows, r, factor);
    put_columns(v, n, r, sign, !p.turned, item.right);
}

static void triplets_items(const TripletsPlan& p, TripletsItem* items, int count, Arena arena) {
    const int64_t n = items[0].x.shape[1], r = p.rank;
    double *gram[kMostItems], *values[kMostItems], *vectors[kMostItems];
    int open[kMostItems], left = count;
    for (int k = 0; k < count; ++k) {
        gram[k] = arena.take<double>(n * n);
        values[k] = arena.take<double>(r);
        vectors[k] = arena.take<double>(n * r);
        open[k] = k;
    }
    // Of wide matrices and all triplets the last sigma is seldom firm.
    for (bool wide = n > 64 && r > n / 2; left > 0; wide = true) {
        int found = 0, weak = 0;
        for (int i = 0; i < left; ++i) {
            TripletsItem& item = items[open[i]];
            if (read_gram(wide, item, gram[found], arena))
                open[found++] = open[i];
            else
                put_blank(p, item);
        }
        eigh_items<double>(gram, found, static_cast<int>(n), static_cast<int>(r), values, vectors, arena);
        for (int i = 0; i < found; ++i) {
            if (wide || values[i][r - 1] > kFirm * kFirm * values[i][0])
                put_triplets(p, items[open[i]], values[i], vectors[i], arena);
            else
                open[weak++] = open[i];
        }
        left = weak;
    }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
