// Eigenpairs of batches of symmetric matrices, largest first. Up to kLockstep all of it runs in lockstep, one matrix
// per SIMD lane. Larger matrices do the O(n^3) parts one by one and share only the eigenvalues' QL.
// In double the vectors come from inverse iteration, and from QL where that fails its own tests; in float from QL.
// Where they lack more of orthonormality than is let stand (most_loss), they are straightened.
#pragma once
#include "cpu/level/eigen/float_lanes.inl"
#include "cpu/level/eigen/strips.inl"

namespace tsm::TSM_LEVEL {
namespace {

// Whether matrices of size n are solved in lockstep. `apart`: not where few pairs are wanted of them, whose other lanes
// may well be idle.
template <class T>
static bool in_lockstep(int64_t n, int rank, bool apart) {
    return n <= (apart && few_eigenvalues<T>(n, rank) ? 24 : kLockstep);
}

// How many matrices of size n are solved together. R: what they are reduced in
template <class T, class R = T>
static int eigh_group(int64_t n) {
    if (n <= kLockstep) return kLanes<R>;
    int group = kLanes<T>;
    const auto bytes = [&] {
        return bytes_taken([&](Arena& arena) { StripEigen<T, R>(static_cast<int>(n), group, arena); });
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
    bool plain = false;              // turned by no more than rounding of their eigenvalues does they are good enough
    bool apart = false;              // few of them are not worth a lane
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

static void rescale(const Size& size, int n, int rank, double* values, double* vectors) {
    for (int j = 0; j < rank; ++j) values[j] = size.solved() ? values[j] / size.power : size.other();
    if (!size.finite)
        for (int64_t i = 0; i < int64_t{n} * rank; ++i) vectors[i] = size.other();
}

// As eigh_items, for n > kLockstep and matrices take(i). done(i) is called when values[i] and vectors[i] are there. R:
// what the matrices are reduced in
template <class T, class R = T, class Take, class Done>
static void eigh_large(int count, int n, int rank, double* const* values, double* const* vectors, Arena arena,
                       const Wanted& wanted, Take take, Done done) {
    Size size[kLanes<T>];
    int again[kLanes<T>], left = 0;  // what has to be solved in T throughout
    {
        Arena within = arena;
        StripEigen<T, R> solver(n, eigh_group<T, R>(n), within);
        T* lambda = within.take<T>(n);
        double* signs = within.take<double>(2 * n);
        for (int lane = 0; lane < count; ++lane) {
            const Lower g = take(lane);
            R* a = solver.matrix(lane);
            const auto read = [&](const auto* data) {
                size[lane] = size_of_lower(data, g, n);
                if (size[lane].solved()) load_upper<R>(data, g, n, size[lane].power, a, solver.ld);
            };
            g.wide ? read(static_cast<const double*>(g.data)) : read(static_cast<const float*>(g.data));
            if (size[lane].solved()) continue;
            for (int i = 0; i < squared<R>(n); ++i)
                for (int j = 0; j < solver.ld; ++j) a[i * solver.ld + j] = i < n ? instead<R>(i, j, n) : R(0);
        }
        solver.eigenvalues(count, rank);
        for (int lane = 0; lane < count; ++lane) {
            solver.sort(lane, rank);
            for (int j = 0; j < rank; ++j) lambda[j] = solver.found[solver.order[j]][lane];
            int used = rank;
            if (wanted.found) {
                if (size[lane].finite) used = static_cast<int>(leading_values(lambda, rank, wanted.negligible));
                wanted.found[lane] = used;
            }
            if (!solver.vectors(lane, used, lambda, vectors[lane], wanted.loss, wanted.narrow, wanted.plain)) {
                again[left++] = lane;
                continue;
            }
            if (!solver.pointed) point_up_one(vectors[lane], n, used, signs, signs + used);
            for (int j = 0; j < rank; ++j) values[lane][j] = static_cast<double>(lambda[j]);
            rescale(size[lane], n, rank, values[lane], vectors[lane]);
            done(lane);
        }
    }
    if constexpr (sizeof(R) < sizeof(T))
        for (int i = 0; i < left; ++i) {
            const int lane = again[i];
            Wanted one = wanted;
            if (one.found) one.found += lane;
            eigh_large<T>(
                1, n, rank, values + lane, vectors + lane, arena, one, [&](int) { return take(lane); },
                [&](int) { done(lane); });
        }
}

// Leading `rank` eigenpairs of count <= eigh_group(n) matrices g[i]: [n, n]; values[i]: [rank], vectors[i]: [n, rank].
// A matrix with NaN or Inf gives NaN.
template <class T>
static void eigh_items(const double* const* g, int count, int n, int rank, double* const* values,
                       double* const* vectors, Arena arena, Wanted wanted = {}) {
    constexpr int L = kLanes<T>;
    if (!in_lockstep<T>(n, rank, wanted.apart)) {
        eigh_large<T>(
            count, n, rank, values, vectors, arena, wanted, [&](int lane) { return lower_of(g[lane], n); }, [](int) {});
        return;
    }
    Size size[L];
    double power[L];
    for (int lane = 0; lane < L; ++lane) {
        size[lane] = lane < count ? size_by(largest_of(g[lane], int64_t{n} * n)) : Size{1, false, false};
        power[lane] = size[lane].power;
    }
    LaneEigen<T> solver(n, arena);
    Vec<T>* a = arena.take<Vec<T>>(n * solver.ld);
    Vec<T>* lane_values = arena.take<Vec<T>>(n);
    Vec<T>* lane_vectors = arena.take<Vec<T>>(n * n);
    solver.load_lower(g, power, count, a);
    for (int lane = 0; lane < L; ++lane)
        for (int i = 0; !size[lane].solved() && i < n; ++i)
            for (int j = 0; j <= i; ++j) a[i * solver.ld + j][lane] = instead<T>(i, j, n);
    solver.solve(a, rank, lane_values, lane_vectors, wanted.loss, wanted.plain);
    solver.store_lanes(lane_values, rank, count, values);
    solver.store_lanes(lane_vectors, int64_t{n} * rank, count, vectors);
    for (int lane = 0; lane < count; ++lane) {
        if (wanted.found) wanted.found[lane] = rank;
        rescale(size[lane], n, rank, values[lane], vectors[lane]);
    }
}

// All pairs of count <= kLanes<float> matrices take(i), n <= kLockstep, good to float. done(i) as in eigh_large.
template <class Take, class Done>
static void eigh_small_in_float(int count, int n, double* const* values, double* const* vectors, Arena arena,
                                const Wanted& wanted, Take take, Done done) {
    constexpr int LF = kLanes<float>;
    bool good[LF];
    Size size[LF];
    {
        Arena within = arena;
        FloatLanes solver(n, within);
        Lower g[LF];
        for (int k = 0; k < count; ++k) g[k] = take(k);
        g[0].wide ? solver.read<double>(g, count) : solver.read<float>(g, count);
        solver.scale(size);
        solver.solve(count, values, vectors, good);
    }
    for (int k = 0; k < count; ++k) {
        if (!good[k]) continue;
        rescale(size[k], n, n, values[k], vectors[k]);
        done(k);
    }
    for (int k = 0; k < count; ++k) {
        if (good[k]) continue;
        Arena within = arena;
        double* whole = within.take<double>(int64_t{n} * n);
        const Lower g = take(k);
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) {
                const int64_t at = i * g.down + j * g.across;
                whole[int64_t{i} * n + j] = whole[int64_t{j} * n + i] =
                    g.wide ? static_cast<const double*>(g.data)[at]
                           : static_cast<double>(static_cast<const float*>(g.data)[at]);
            }
        const double* one[1] = {whole};
        eigh_items<double>(one, 1, n, n, values + k, vectors + k, within, wanted);
        done(k);
    }
}

// Of a batch: large matrices stay where they are, and their vectors, many of which leave the caches, go one by one.
template <class T>
static void truncated_svd_as(EighItems& items, int count, int n, int rank, bool narrow, bool in_float, Arena arena) {
    Wanted wanted;
    wanted.loss = most_loss(!narrow);
    wanted.narrow = wanted.plain = narrow;
    double *values[kMostItems], *vectors[kMostItems];
    const int rooms = n > kLockstep ? 1 : count;
    for (int k = 0; k < count; ++k) {
        values[k] = k < rooms ? arena.take<double>(rank) : values[0];
        vectors[k] = k < rooms ? arena.take<double>(int64_t{n} * rank) : vectors[0];
    }
    const auto put = [&](int k) { items.put(k, values[k], vectors[k]); };
    const auto take = [&](int k) {
        const Tensor x = items.source(k);
        return Lower{x.data, x.dtype == DType::f64, x.stride[0], x.stride[1]};
    };
    if constexpr (sizeof(T) == 8)
        if (in_float) {
            if (n > kLockstep)
                eigh_large<T, float>(count, n, rank, values, vectors, arena, wanted, take, put);
            else
                eigh_small_in_float(count, n, values, vectors, arena, wanted, take, put);
            return;
        }
    if (n > kLockstep) {
        eigh_large<T>(count, n, rank, values, vectors, arena, wanted, take, put);
        return;
    }
    double* g[kMostItems];
    for (int k = 0; k < count; ++k) {
        g[k] = arena.take<double>(int64_t{n} * n);
        items.take(k, g[k]);
    }
    eigh_items<T>(g, count, n, rank, values, vectors, arena, wanted);
    for (int k = 0; k < count; ++k) put(k);
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
