// Eigenpairs of batches of symmetric matrices, largest first. Up to kLockstep all of it runs in lockstep, one matrix
// per SIMD lane. Larger matrices do the O(n^3) parts one by one and share only the eigenvalues' QL.
// In double the vectors come from inverse iteration, and from QL where that fails its own tests; in float from QL.
// Where they lack more of orthonormality than is let stand (most_loss), they are straightened.
#pragma once
#include "cpu/level/eigen/lanes.inl"
#include "cpu/level/eigen/strips.inl"

namespace tsm::TSM_LEVEL {
namespace {

// How many matrices of size n are solved together.
template <class T>
static int eigh_group(int64_t n) {
    if (n <= kLockstep) return kLanes<T>;
    int group = kLanes<T>;
    const auto bytes = [&] {
        return bytes_taken([&](Arena& arena) { StripEigen<T>(static_cast<int>(n), group, arena); });
    };
    while (group > 1 && bytes() > (int64_t{16} << 20)) group /= 2;
    return group;
}

// As point_up, for one matrix row after row. most, entry: [rank]
static void point_up_one(double* vectors, int n, int rank, double* most, double* entry) {
    largest_entries(vectors, n, rank, entry, most);
    for (int j = 0; j < rank; ++j) entry[j] = entry[j] < 0 ? -1 : 1;
    for (int64_t i = 0; i < n; ++i)
        for (int j = 0; j < rank; ++j) vectors[i * rank + j] *= entry[j];
}

// Which vectors are wanted, and how good.
struct Wanted {
    double loss = most_loss(false);  // of their orthonormality, what they may lack
    bool narrow = false;             // good to float is enough: they may lack kLostInFloat
    double negligible = 0;           // the last ones, whose values are together this part of the first, may be missing
    int* found = nullptr;            // [count], how many there are: the columns of vectors[i]
};

// Of n eigenvalues of a Gram matrix, descending, those that are more than the others, together a part `negligible` of
// the first.
template <class T>
static int64_t leading_values(const T* lambda, int64_t n, double negligible) {
    int64_t count = n;
    for (double sum = 0; count > 1; --count) {
        sum += lambda[count - 1] > 0 ? static_cast<double>(lambda[count - 1]) : 0;
        if (sum > negligible * static_cast<double>(lambda[0])) break;
    }
    return count;
}

// Leading `rank` eigenpairs of count <= eigh_group(n) matrices g[i]: [n, n]; values[i]: [rank], vectors[i]: [n, rank].
// A matrix with NaN or Inf gives NaN.
template <class T>
static void eigh_items(const double* const* g, int count, int n, int rank, double* const* values,
                       double* const* vectors, Arena arena, Wanted wanted = {}) {
    constexpr int L = kLanes<T>;
    double power[L];
    bool finite[L], zero[L];
    for (int lane = 0; lane < count; ++lane) {
        const double largest = largest_of(g[lane], int64_t{n} * n);
        finite[lane] = largest <= 1.7976931348623157e308;
        zero[lane] = finite[lane] && largest == 0;
        power[lane] = finite[lane] && !zero[lane] ? power_below(largest) : 1;
    }
    // What lanes without a matrix to solve hold instead: its vectors are the columns of the identity.
    auto element = [&](int lane, int i, int j) {
        if (lane < count && finite[lane] && !zero[lane])
            return static_cast<T>(g[lane][int64_t{i} * n + j] * power[lane]);
        return i == j ? T(1) - static_cast<T>(i) / static_cast<T>(2 * n) : T(0);
    };
    auto rescale = [&](int lane) {
        const double other = zero[lane] ? 0 : __builtin_nan("");
        const bool solved = finite[lane] && !zero[lane];
        for (int j = 0; j < rank; ++j) values[lane][j] = solved ? values[lane][j] / power[lane] : other;
        if (!finite[lane])
            for (int64_t i = 0; i < int64_t{n} * rank; ++i) vectors[lane][i] = other;
    };
    if (n <= kLockstep) {
        LaneEigen<T> solver(n, arena);
        Vec<T>* a = arena.take<Vec<T>>(n * solver.ld);
        Vec<T>* lane_values = arena.take<Vec<T>>(n);
        Vec<T>* lane_vectors = arena.take<Vec<T>>(n * n);
        T* as = reinterpret_cast<T*>(a);
        for (int lane = 0; lane < L; ++lane)
            for (int i = 0; i < n; ++i)
                for (int j = 0; j <= i; ++j) as[(i * solver.ld + j) * L + lane] = element(lane, i, j);
        solver.solve(a, rank, lane_values, lane_vectors, wanted.loss);
        for (int lane = 0; lane < count; ++lane) {
            for (int j = 0; j < rank; ++j) values[lane][j] = static_cast<double>(lane_values[j][lane]);
            for (int i = 0; i < n * rank; ++i) vectors[lane][i] = static_cast<double>(lane_vectors[i][lane]);
            if (wanted.found) wanted.found[lane] = rank;
            rescale(lane);
        }
        return;
    }
    StripEigen<T> solver(n, eigh_group<T>(n), arena);
    T* lambda = arena.take<T>(n);
    double* signs = arena.take<double>(2 * n);
    for (int lane = 0; lane < count; ++lane) {
        T* a = solver.matrix(lane);
        const bool solved = finite[lane] && !zero[lane];
        for (int i = 0; i < n; ++i) {
            const double* row = g[lane] + int64_t{i} * n;
            for (int j = 0; j < n; ++j)
                a[i * solver.ld + j] = solved ? static_cast<T>(row[j] * power[lane]) : element(lane, i, j);
            for (int64_t j = n; j < solver.ld; ++j) a[i * solver.ld + j] = 0;
        }
        for (int64_t i = n * solver.ld; i < squared<T>(n) * solver.ld; ++i) a[i] = 0;
    }
    solver.eigenvalues(count);
    for (int lane = 0; lane < count; ++lane) {
        descending<T>(reinterpret_cast<const T*>(solver.found) + lane, n, solver.order);
        for (int j = 0; j < rank; ++j) lambda[j] = solver.found[solver.order[j]][lane];
        const int used =
            finite[lane] && wanted.found ? static_cast<int>(leading_values(lambda, rank, wanted.negligible)) : rank;
        if (wanted.found) wanted.found[lane] = used;
        solver.vectors(lane, used, lambda, vectors[lane], wanted.loss, wanted.narrow);
        point_up_one(vectors[lane], n, used, signs, signs + used);
        for (int j = 0; j < rank; ++j) values[lane][j] = static_cast<double>(lambda[j]);
        rescale(lane);
    }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
