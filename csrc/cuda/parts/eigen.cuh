// Eigenpairs of one symmetric matrix by a group of threads, a warp or a block: Householder to tridiagonal form,
// implicit QL (EISPACK tql2). One thread makes the rotations of a sweep, then every thread applies all of them to its
// own rows of the eigenvectors: robust for any spectrum, one barrier a sweep, and as many matrices in flight as fit on
// the chip hide the serial part.
#pragma once
#include "cuda/parts/launch.cuh"

namespace tsm::cuda {

// A sum of squares below this has lost digits to underflow, and what it makes is no reflector and no rotation. Beside a
// matrix with entries about 1 it is nothing: its root is far below kEpsilon.
template <class T>
constexpr T kNoSquare = (sizeof(T) == 8 ? T(2.2250738585072014e-308) : T(1.1754944e-38)) / kEpsilon<T>;

// A plane rotation: its cosine and sine.
template <class T>
struct alignas(2 * sizeof(T)) Givens {
    T c, s;
};

constexpr int kSweeps = 4;  // of QL, that pass over the eigenvectors together

// What one matrix needs beside its own [n, ld].
template <class T>
struct EigenMemory {
    T* a;              // [n, ld]; in: the matrix, both triangles; out: eigenvectors as rows
    T* d;              // [n] eigenvalues
    T* e;              // [n]
    T* tau;            // [n]
    T* p;              // [n]
    Givens<T>* turns;  // [n + kSweeps, kSweeps], see `turn`
    int* range;        // [2]: first and last row of the sweeps; [2..2+n): the order of the eigenvalues

    __host__ __device__ static int ld(int n) { return n | 1; }
    __host__ __device__ static int64_t numbers(int n) { return int64_t{4} * n + 2 * kSweeps * (n + kSweeps); }
    __host__ __device__ static int64_t matrix(int n) { return int64_t{n} * ld(n); }
    // Bytes beside the matrix, a multiple of 16.
    __host__ __device__ static int64_t bytes(int n) {
        return (8 + numbers(n) * static_cast<int64_t>(sizeof(T)) + (n + 2) * 4 + 15) / 16 * 16;
    }
    __device__ EigenMemory(T* matrix_memory, void* memory, int n) : a(matrix_memory) {
        // Rotations are read whole: at multiples of 16, where `memory` may be one of 8.
        d = reinterpret_cast<T*>(static_cast<char*>(memory) + (reinterpret_cast<uintptr_t>(memory) & 8));
        e = d + n;
        tau = e + n;
        p = tau + n;
        turns = reinterpret_cast<Givens<T>*>(p + n);
        range = reinterpret_cast<int*>(turns + kSweeps * (n + kSweeps));
    }
    __device__ int* order() const { return range + 2; }
};

// x[j * ld] = change(j, x[j * ld]) for j in [first, n): loads before stores, because to the compiler any store may be
// to what the next load reads.
template <class Group, class T, class Change>
__device__ __forceinline__ void change_column(T* x, int ld, int first, int n, Change change) {
    constexpr int kAhead = Group::kOneWarp ? 4 : 2;  // more would take registers that kernels with a block an item need
    for (int j = first; j < n; j += kAhead) {
        T changed[kAhead];
#pragma unroll
        for (int q = 0; q < kAhead; ++q)
            if (j + q < n) changed[q] = change(j + q, x[(j + q) * ld]);
#pragma unroll
        for (int q = 0; q < kAhead; ++q)
            if (j + q < n) x[(j + q) * ld] = changed[q];
    }
}

// A = Q T Q^T: d, e of T; reflector k, from its 1 on, in row k right of the diagonal. A step passes over what is left
// of A once: it takes off the last reflector and multiplies by its own.
template <class T, class Group>
__device__ void tridiagonalize(const EigenMemory<T>& m, int n, const Group& group) {
    const int ld = EigenMemory<T>::ld(n), rank = group.rank(), size = group.size();
    T *a = m.a, *next = m.p, *p = reinterpret_cast<T*>(m.turns);  // A less last p^T and p last^T
    const T* last = a;
    for (int i = rank; i < n; i += size) p[i] = 0;
    group.sync();
    for (int k = 0; k < n - 1; ++k) {
        T* row = a + k * ld;
        const T alpha = row[k + 1];
        double squares = 0;
        for (int i = k + 2 + rank; i < n; i += size) squares += static_cast<double>(row[i] * row[i]);
        const T rest = static_cast<T>(group.sum(squares));
        const T norm = sqrt(alpha * alpha + rest), beta = alpha < 0 ? norm : -norm;
        const bool flat = rest < kNoSquare<T>;
        const T tau = flat ? T(0) : (beta - alpha) / beta, scale = flat ? T(0) : T(1) / (alpha - beta);
        for (int i = k + 2 + rank; i < n; i += size) row[i] *= scale;
        group.sync();  // alpha was read by all
        if (rank == 0) {
            row[k + 1] = 1;
            m.d[k] = row[k];
            m.e[k] = flat ? alpha : beta;
            m.tau[k] = tau;
        }
        group.sync();
        double product = 0;
        for (int i = k + 1 + rank; i < n; i += size) {  // columns are rows: neighbours read neighbours
            const T v = last[i], w = p[i];
            T sum = 0;
            change_column<Group>(a + i, ld, k + 1, n, [&](int j, T x) {
                x -= last[j] * w + p[j] * v;
                sum += x * row[j];
                return x;
            });
            next[i] = tau * sum;
            product += static_cast<double>(next[i] * row[i]);
        }
        const T half = T(-0.5) * tau * static_cast<T>(group.sum(product));
        for (int i = k + 1 + rank; i < n; i += size) next[i] += half * row[i];
        group.sync();
        T* const below = row + ld;
        for (int i = k + 1 + rank; i < n; i += size) below[i] -= row[k + 1] * next[i] + next[k + 1] * row[i];
        group.sync();
        last = row;
        T* const done = p;
        p = next;
        next = done;
    }
    if (rank == 0) {
        m.d[n - 1] = a[(n - 1) * ld + n - 1];
        m.e[n - 1] = 0;
    }
    group.sync();
}

// a = Q^T from the reflectors in its rows. A step passes over the columns that it changes once: it applies its
// reflector and multiplies by the next one.
template <class T, class Group>
__device__ void form_transposed_q(const EigenMemory<T>& m, int n, const Group& group) {
    const int ld = EigenMemory<T>::ld(n), rank = group.rank(), size = group.size();
    T *a = m.a, *product = m.p;  // of the reflector and each column
    if (rank == 0) {
        a[(n - 1) * ld + n - 1] = 1;
        if (n > 1) product[n - 1] = m.tau[n - 2];
    }
    group.sync();
    for (int k = n - 2; k >= 0; --k) {
        const T *v = a + k * ld, *next = k > 0 ? v - ld : v;
        const T tau = k > 0 ? m.tau[k - 1] : T(0);
        for (int j = k + 1 + rank; j < n; j += size) {
            const T by = product[j];
            T sum = 0;
            change_column<Group>(a + j, ld, k + 1, n, [&](int i, T x) {
                x -= v[i] * by;
                sum += next[i] * x;
                return x;
            });
            product[j] = tau * sum;
        }
        group.sync();
        // Row and column k become those of the identity; the reflector in row k is done with.
        for (int i = k + rank; i < n; i += size) a[k * ld + i] = a[i * ld + k] = i == k ? T(1) : T(0);
        if (rank == 0) product[k] = tau;
        group.sync();
    }
    for (int i = 1 + rank; i < n; i += size)
        for (int j = 0; j < i; ++j) {
            const T x = a[i * ld + j];
            a[i * ld + j] = a[j * ld + i];
            a[j * ld + i] = x;
        }
    group.sync();
}

// Rows of a tridiagonal matrix that hang together, from first to last; first = n where all are settled.
struct Unreduced {
    int first, last;
};

template <class T>
__device__ Unreduced unsettled_rows(const T* e, int n, int first, T small) {
    while (first < n - 1 && !(fabs(e[first]) > small)) ++first;
    if (first >= n - 1) return {n, n};
    int last = first + 1;
    while (last < n - 1 && fabs(e[last]) > small) ++last;
    return {first, last};
}

// A sweep of rotations on these rows of d, e, by one thread: rotation i, of rows i and i + 1, at turns[i kSweeps].
// Returns the first rows that are not settled then. What an entry needs is read a step ahead, and the next rotation
// waits for nothing but g.
template <class T>
__device__ Unreduced make_rotations(T* d, T* e, int n, Unreduced rows, T small, Givens<T>* turns) {
    const int l = rows.first, m = rows.last;
    Unreduced left{n, n};
    int settled = m;
    const auto look_at = [&](int i, T x) {
        if (fabs(x) > small)
            left = {i, settled};
        else
            settled = i;
    };
    const T theta = (d[l + 1] - d[l]) / (T(2) * e[l]), root = sqrt(theta * theta + T(1));
    T g = d[m] - d[l] + e[l] / (theta + (theta < 0 ? -root : root)), s = 1, c = 1, p = 0;
    T after = d[m], own = d[m - 1], beside = e[m - 1];
    for (int i = m - 1; i >= l; --i) {
        const int before = i > l ? i - 1 : l;
        const T own_before = d[before], beside_before = e[before];
        const T f = s * beside, b = c * beside, squares = f * f + g * g, moved = after - p;
        const bool none = squares < kNoSquare<T>;
        const T inverse = inverse_root(squares), turned = (own - moved) * f + T(2) * b * g;
        if (i + 1 < m) {
            const T length = none ? T(0) : squares * inverse;
            e[i + 1] = length;
            look_at(i + 1, length);
        }
        s = none ? T(0) : f * inverse;
        c = none ? T(1) : g * inverse;
        const T t = none ? T(2) * b : turned * inverse;
        p = s * t;
        d[i + 1] = moved + p;
        g = c * t - b;
        turns[i * kSweeps] = {c, s};
        after = own;
        own = own_before;
        beside = beside_before;
    }
    d[l] = after - p;
    e[l] = g;
    look_at(l, g);
    return left.first < n ? left : unsettled_rows(e, n, m, small);
}

// COLUMNS columns of z, `apart` from each other, turn by kSweeps sweeps, each one row behind the last: an entry is read
// and written once. turns[i + kSweeps][k]: rotation i + k of sweep k, for i from rows.first - kSweeps to rows.last - 1.
template <int COLUMNS, class T>
__device__ __forceinline__ void turn(T* z, int ld, int apart, Unreduced rows, const Givens<T>* turns) {
    T carried[kSweeps][COLUMNS] = {}, x[COLUMNS];
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
        carried[0][j] = z[rows.last * ld + j * apart];
        x[j] = z[(rows.last - 1) * ld + j * apart];
    }
    for (int i = rows.last - 1; i >= rows.first - kSweeps; --i) {
        Givens<T> by[kSweeps];
        T before[COLUMNS] = {};
#pragma unroll
        for (int k = 0; k < kSweeps; ++k) by[k] = turns[(i + kSweeps) * kSweeps + k];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j)
            if (i > rows.first) before[j] = z[(i - 1) * ld + j * apart];
#pragma unroll
        for (int k = 0; k < kSweeps; ++k)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) {
                const auto [c, s] = by[k];
                const T up = s * x[j] + c * carried[k][j];
                carried[k][j] = fma(-s, carried[k][j], c * x[j]);
                x[j] = up;
            }
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
            if (i + kSweeps <= rows.last) z[(i + kSweeps) * ld + j * apart] = x[j];
            x[j] = before[j];
        }
    }
}

// Eigenvalues of the tridiagonal d, e into d, unsorted; the rows of m.a turn with them.
template <class T, class Group>
__device__ void tridiagonal_ql(const EigenMemory<T>& m, int n, const Group& group) {
    const int ld = EigenMemory<T>::ld(n), rank = group.rank(), size = group.size();
    T *d = m.d, *e = m.e, *z = m.a;
    double largest = 0;
    for (int i = rank; i < n; i += size) {
        const double sum = fabs(static_cast<double>(d[i])) + (i < n - 1 ? fabs(static_cast<double>(e[i])) : 0.0);
        largest = sum > largest ? sum : largest;
    }
    const T small = static_cast<T>(group.max(largest)) * kEpsilon<T>;
    if constexpr (Group::kOneWarp) group.sync();  // all have read d and e; a block's max is a barrier
    Unreduced rows{n, n};
    if (rank == 0) rows = unsettled_rows(e, n, 0, small);
    for (int pass = 0; pass < 40 * n + 40; ++pass) {
        if (rank == 0) {
            m.range[0] = rows.first;
            m.range[1] = rows.last;
        }
        group.sync();
        const Unreduced turning{m.range[0], m.range[1]};
        if (turning.first >= n) break;
        for (int i = turning.first * kSweeps + rank; i < (turning.last + kSweeps) * kSweeps; i += size)
            m.turns[i] = {T(1), T(0)};
        group.sync();
        if (rank == 0)
            for (int k = 0; k < kSweeps && rows.first < turning.last; ++k)
                rows = make_rotations(d, e, n, rows, small, m.turns + (kSweeps - k) * kSweeps + k);
        group.sync();
        if (Group::kOneWarp && n > size)  // two columns a lane, or one twice
            for (int r = rank; r < n; r += 2 * size) turn<2>(z + r, ld, r + size < n ? size : 0, turning, m.turns);
        else
            for (int r = rank; r < n; r += size) turn<1>(z + r, ld, 0, turning, m.turns);
    }
    group.sync();
}

// Eigenpairs of m.a, entries about 1: eigenvectors as rows of m.a in any order, order()[j] the row of the j-th largest.
template <class T, class Group>
__device__ void eigenpairs(const EigenMemory<T>& m, int n, const Group& group) {
    tridiagonalize(m, n, group);
    form_transposed_q(m, n, group);
    tridiagonal_ql(m, n, group);
    for (int i = group.rank(); i < n; i += group.size()) {
        int before = 0;
        for (int j = 0; j < n; ++j) before += m.d[j] > m.d[i] || (m.d[j] == m.d[i] && j < i);
        m.order()[before] = i;
    }
    group.sync();
}

// What the first `rank` vectors have of those before them is taken out, once: float rotations leave 1e-5 of it.
template <class T, class Group>
__device__ void straighten(const EigenMemory<T>& m, int n, int rank, const Group& group) {
    const int ld = EigenMemory<T>::ld(n);
    for (int k = rank - 1; k >= 0; --k) {
        T* own = m.a + m.order()[k] * ld;
        for (int j = group.rank(); j <= k; j += group.size()) {
            const T* other = m.a + m.order()[j] * ld;
            T dot = 0;
            for (int i = 0; i < n; ++i) dot += own[i] * other[i];
            m.p[j] = j < k ? dot : (dot - T(1)) * T(0.5);
        }
        group.sync();
        for (int i = group.rank(); i < n; i += group.size()) {
            T x = own[i];
            for (int j = 0; j <= k; ++j) x -= m.p[j] * m.a[m.order()[j] * ld + i];
            own[i] = x;
        }
        group.sync();
    }
}

// Leading `rank` eigenpairs of g(i, j): values(j, lambda_j) and vectors(i, j, entry), each column's entry of largest
// magnitude (the first on ties) positive. A matrix with NaN or Inf gives NaN, zeros give the columns of the identity.
template <class T, class Group, class Matrix, class Values, class Vectors>
__device__ void solve(const EigenMemory<T>& m, int n, int rank, const Group& group, Matrix g, Values values,
                      Vectors vectors) {
    const int ld = EigenMemory<T>::ld(n);
    double largest = 0, bad = 0;
    for (int i = group.rank(); i < n * n; i += group.size()) {
        const double size = fabs(g(i / n, i % n));
        bad += is_finite(size) ? 0.0 : 1.0;
        largest = size > largest ? size : largest;
    }
    largest = group.max(largest);
    if (group.sum(bad) > 0) {
        for (int j = group.rank(); j < rank; j += group.size()) values(j, not_a_number());
        for (int i = group.rank(); i < n * rank; i += group.size()) vectors(i / rank, i % rank, not_a_number());
        group.sync();
        return;
    }
    const double power = largest > 0 ? power_below(largest) : 1.0;
    for (int i = group.rank(); i < n * n; i += group.size()) {
        const int row = i / n, column = i % n;
        m.a[row * ld + column] = static_cast<T>(0.5 * (g(row, column) + g(column, row)) * power);
    }
    group.sync();
    eigenpairs(m, n, group);
    if constexpr (sizeof(T) == 4 && !Group::kOneWarp) straighten(m, n, rank, group);
    for (int j = group.rank(); j < rank; j += group.size()) {
        const int at = m.order()[j];
        T most = 0, entry = 0;
        for (int i = 0; i < n; ++i) {
            const T x = m.a[at * ld + i], size = x < 0 ? -x : x;
            if (size > most) {
                most = size;
                entry = x;
            }
        }
        m.tau[j] = entry < 0 ? T(-1) : T(1);
        values(j, static_cast<double>(m.d[at]) / power);
    }
    group.sync();
    for (int i = group.rank(); i < n * rank; i += group.size()) {
        const int j = i % rank;
        vectors(i / rank, j, static_cast<double>(m.a[m.order()[j] * ld + i / rank] * m.tau[j]));
    }
    group.sync();
}

}  // namespace tsm::cuda
