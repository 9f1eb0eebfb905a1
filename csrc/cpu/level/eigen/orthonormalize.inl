// Columns of a matrix: their largest entries, and an orthonormal set from them.
#pragma once
#include "cpu/level/core_contraction.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr double kLost = 1e-7;  // beyond this loss, vectors from inverse iteration are no longer straightened
// Where so much may be lost at least, vectors are apart that inverse iteration makes orthogonal to it: whose
// eigenvalues differ by this part of the first.
constexpr double kCloseLoss = 1e-7;
constexpr double kLostInFloat = 4.5e-6;  // beyond it, vectors whose last step was in float are computed again

// The loss of orthonormality that a solver in T lets stand in results that are good to `loss`: QL in float leaves 1e-6.
template <class T>
static T loss_kept(double loss) {
    return static_cast<T>(sizeof(T) == 4 && loss < 4e-6 ? 4e-6 : loss);
}

// What the column entries of largest magnitude are, the first one on a tie: entry [rank] of a [rows, rank]. most:
// [rank]
static void largest_entries(const double* a, int64_t rows, int64_t rank, double* entry, double* most) {
    for (int64_t k = 0; k < rank; ++k) entry[k] = most[k] = 0;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < rank; ++k) {
            const double x = a[i * rank + k], size = __builtin_fabs(x);
            entry[k] = size > most[k] ? x : entry[k];
            most[k] = size > most[k] ? size : most[k];
        }
}

static double column_length(const double* a, int64_t rows, int64_t rank, int64_t k) {
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) sum += a[i * rank + k] * a[i * rank + k];
    return __builtin_sqrt(sum);
}

// ---- what columns that should be orthonormal lack, and the cure of a small loss ----
// In the two layouts of the eigensolver (householder.inl): rows of vectors D = V, one matrix a lane, or rows of numbers
// D, zeros behind the last column up to a whole vector V.

// Irregular in [-1, 1), another one for every i.
template <class T>
static inline T irregular(uint32_t i) {
    i = (i + 1) * 2654435761u;
    i ^= i >> 15;
    i *= 2246822519u;
    i ^= i >> 13;
    return static_cast<T>(static_cast<int32_t>(i) * (1.0 / 2147483648.0));
}

// Entry j of the vector x by which columns Y are judged: (Y^T Y - I) x is as large as Y^T Y - I, but for a chance that
// its entries make it small; none of them is below 1/2. It costs 4 n rank operations, Y^T Y itself n rank^2.
template <class T>
static inline T judge(int j) {
    const T x = irregular<T>(static_cast<uint32_t>(j));
    return x < 0 ? (x - 1) / 2 : (x + 1) / 2;
}

// c += Y^T (Y x) for RB rows of Y [., rank]
template <class V, class D, int RB>
static inline void judge_rows(const D* rows, int64_t ld, int rank, const D* x, D* c) {
    constexpr int step = sizeof(V) / sizeof(D);
    V sums[RB] = {};
    for (int j = 0; j < rank; j += step)
        for (int r = 0; r < RB; ++r) sums[r] += load_as<V>(rows + r * ld + j) * load_as<V>(x + j);
    D dot[RB];
    for (int r = 0; r < RB; ++r) dot[r] = total<D>(sums[r]);
    for (int j = 0; j < rank; j += step) {
        V sum = load_as<V>(c + j);
        for (int r = 0; r < RB; ++r) sum += dot[r] * load_as<V>(rows + r * ld + j);
        store_as(c + j, sum);
    }
}

// e += Y^T Y for RB rows of Y, right of the diagonal and in the whole vectors on it. e: [rank, lde]
template <class V, class D, int RB>
static inline void add_products(const D* rows, int64_t ld, int rank, D* e, int64_t lde) {
    constexpr int step = sizeof(V) / sizeof(D);
    for (int p = 0; p < rank; ++p)
        for (int j = p / step * step; j < rank; j += step) {
            V sum = load_as<V>(e + p * lde + j);
            for (int r = 0; r < RB; ++r) sum += rows[r * ld + p] * load_as<V>(rows + r * ld + j);
            store_as(e + p * lde + j, sum);
        }
}

// Y (I - U) for RB rows of Y in place. For U the right upper half of Y^T Y - I, with half its diagonal, the columns
// become orthonormal up to the square of what they lacked.
template <class V, class D, int RB>
static inline void straighten_rows(D* rows, int64_t ld, int rank, const D* u, int64_t ldu) {
    constexpr int step = sizeof(V) / sizeof(D);
    for (int j = (rank - 1) / step * step; j >= 0; j -= step) {  // from the last one: a column needs those before it
        V sums[RB];
        for (int r = 0; r < RB; ++r) sums[r] = load_as<V>(rows + r * ld + j);
        for (int p = 0; p < j + step && p < rank; ++p) {
            const V factor = load_as<V>(u + p * ldu + j);
            for (int r = 0; r < RB; ++r) sums[r] -= rows[r * ld + p] * factor;
        }
        for (int r = 0; r < RB; ++r) store_as(rows + r * ld + j, sums[r]);
    }
}

// R^-1 in place of E = R^T R [n, n], rows ld apart, right of the diagonal, with zeros left of it up to a whole vector;
// false where E is too close to singular for Y R^-1 to be orthonormal to 100 eps.
static bool invert_cholesky(double* e, int n, int64_t ld) {
    for (int k = 0; k < n; ++k) {
        const double whole = e[k * ld + k];
        for (int p = 0; p < k; ++p) e[k * ld + k] -= e[p * ld + k] * e[p * ld + k];
        if (!(e[k * ld + k] > 1e-2 * whole && e[k * ld + k] > 1e-12 * e[0])) return false;
        e[k * ld + k] = __builtin_sqrt(e[k * ld + k]);
        for (int p = 0; p < k; ++p)
            for (int j = k + 1; j < n; ++j) e[k * ld + j] -= e[p * ld + k] * e[p * ld + j];
        for (int j = k + 1; j < n; ++j) e[k * ld + j] /= e[k * ld + k];
    }
    for (int i = n - 1; i >= 0; --i) {  // row i of the inverse from those below it
        double* row = e + i * ld;
        const double inverse = 1 / row[i];
        for (int j = n - 1; j > i; --j) {
            double sum = 0;
            for (int k = i + 1; k <= j; ++k) sum += row[k] * e[k * ld + j];
            row[j] = -sum * inverse;
        }
        row[i] = inverse;
        for (int j = i / kLanes<double> * kLanes<double>; j < i; ++j) row[j] = 0;
    }
    return true;
}

// Makes columns [0, n) of a [rows, rank] orthonormal by a Cholesky factor of their products, in place; false, with a
// untouched, where they are too close to dependent for that.
template <class P>
static bool straighten_columns(P* a, int64_t rows, int64_t rank, int64_t n, Arena scratch) {
    using V = Vec<double>;
    const int64_t ld = padded<double>(n);
    const int columns = static_cast<int>(n);
    double* e = scratch.take<double>(n * ld);
    double* four = scratch.take<double>(4 * ld);
    auto take_rows = [&](int64_t i) {
        for (int64_t j = 0; j < 4 * ld; ++j) four[j] = 0;
        for (int64_t r = 0; r < 4 && i + r < rows; ++r)
            for (int64_t j = 0; j < n; ++j) four[r * ld + j] = static_cast<double>(a[(i + r) * rank + j]);
    };
    for (int64_t i = 0; i < n * ld; ++i) e[i] = 0;
    for (int64_t i = 0; i < rows; i += 4) {
        take_rows(i);
        add_products<V, double, 4>(four, ld, columns, e, ld);
    }
    if (!invert_cholesky(e, columns, ld)) return false;
    for (int p = 0; p < columns; ++p)
        for (int64_t j = p; j < n; ++j) e[p * ld + j] = (j == p ? 1 : 0) - e[p * ld + j];
    for (int64_t i = 0; i < rows; i += 4) {
        take_rows(i);
        straighten_rows<V, double, 4>(four, ld, columns, e, ld);
        for (int64_t r = 0; r < 4 && i + r < rows; ++r)
            for (int64_t j = 0; j < n; ++j) a[(i + r) * rank + j] = static_cast<P>(four[r * ld + j]);
    }
    return true;
}

// ---- an orthonormal set from columns ----
// Columns as rows of whole vectors, zeros behind their last entries: they may be many.

static inline double inner_product(const double* x, const double* y, int64_t n) {
    Vec<double> sum{};
    int64_t i = 0;
    for (; i + kLanes<double> <= n; i += kLanes<double>) sum += load(x + i) * load(y + i);
    return sum_lanes<double>(sum + load_first(x + i, n - i) * load_first(y + i, n - i));
}

// Row k of q [., ld] becomes what is left of it beside the rows before it, which are orthonormal, at unit length; false
// where that is no more than `least` of it.
static bool add_row(double* q, int64_t ld, int64_t k, double least) {
    double* x = q + k * ld;
    double before = __builtin_sqrt(inner_product(x, x, ld));
    for (int pass = 0; pass < 3; ++pass) {
        for (int64_t j = 0; j < k; ++j) {
            const double* y = q + j * ld;
            const Vec<double> share = splat(inner_product(x, y, ld));
            for (int64_t i = 0; i < ld; i += kLanes<double>) store(x + i, load(x + i) - share * load(y + i));
        }
        const double length = __builtin_sqrt(inner_product(x, x, ld));
        if (pass == 0 && !(length > least * before)) return false;
        for (int64_t i = 0; i < ld; i += kLanes<double>) store(x + i, load(x + i) / length);
        if (length > 0.7 * before) break;  // hardly anything was taken out
        before = 1;
    }
    return true;
}
// Columns [from, rank) of a become orthonormal to each other and to those before them, which are; those no longer than
// `none` become the first columns of the identity that complete the set. lengths: [rank], of all columns on entry
static void orthonormalize_from(double* a, int64_t rows, int64_t rank, int64_t from, const double* lengths, double none,
                                Arena scratch) {
    constexpr int64_t kBlock = 32;  // columns that those before them are taken out of by one product
    const double least = 0.05 / __builtin_sqrt(static_cast<double>(rows));
    const int64_t ld = padded<double>(rows);
    double* q = scratch.take<double>(kBlock * ld);
    double* shares = scratch.take<double>(rank * kBlock);
    double* taken = scratch.take<double>(rows * kBlock);
    int64_t unit = 0;
    for (int64_t k = from; k < rank; k += kBlock) {
        const int64_t count = rank - k < kBlock ? rank - k : kBlock;
        const auto norm = [&](int64_t j) { return __builtin_sqrt(inner_product(q + j * ld, q + j * ld, ld)); };
        // Row j, of which `whole` was there, beside those before it in the block.
        const auto add = [&](int64_t j, double whole) {
            const double left = norm(j);
            return left > least * whole && add_row(q, ld, j, least * whole / left);
        };
        const auto add_unit = [&](int64_t j) {
            for (bool added = false; !added && unit < rows; ++unit) {
                const double* own = a + unit * rank;
                for (int64_t i = 0; i < ld; ++i) q[j * ld + i] = i == unit;
                for (int64_t i = 0; i < rows; ++i) q[j * ld + i] -= inner_product(a + i * rank, own, k);
                added = add(j, 1);
            }
        };
        for (int pass = 0; pass < 2; ++pass) {
            if (k > 0) product<double, false>(k, count, rows, a, rank, a + k, rank, shares, count);
            if (k > 0) product<double, true>(rows, count, k, a, rank, shares, count, taken, count);
            for (int64_t j = 0; j < count; ++j)
                for (int64_t i = 0; i < ld; ++i)
                    q[j * ld + i] = i < rows ? a[i * rank + k + j] - (k > 0 ? taken[i * count + j] : 0) : 0;
            for (int64_t j = 0; j < count; ++j) {
                if (pass > 0)
                    add_row(q, ld, j, 0);
                else if (!(lengths[k + j] > none && add(j, column_length(a, rows, rank, k + j))))
                    add_unit(j);
            }
            for (int64_t i = 0; i < rows; ++i)
                for (int64_t j = 0; j < count; ++j) a[i * rank + k + j] = q[j * ld + i];
        }
    }
}

// Columns of a [rows, rank] = B V, V the eigenvectors of B^T B, longest first: at unit length, and orthonormal but for
// `loss`. Those of no length become the first columns of the identity that complete the set.
static void orthonormalize(double* a, int64_t rows, int64_t rank, double loss, Arena scratch) {
    double* lengths = scratch.take<double>(rank);
    for (int64_t k = 0; k < rank; ++k) lengths[k] = 0;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < rank; ++k) lengths[k] += a[i * rank + k] * a[i * rank + k];
    for (int64_t k = 0; k < rank; ++k) lengths[k] = __builtin_sqrt(lengths[k]);
    // Squaring B left the columns orthogonal to about 1e-15 of the first, squared.
    const double first = lengths[0];
    int64_t nearly = 0;
    while (nearly < rank && lengths[nearly] > 1e-3 * first) ++nearly;
    const bool sound = nearly == 0 || 1e-15 * first * first < loss * lengths[nearly - 1] * lengths[nearly - 1];
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < nearly; ++k) a[i * rank + k] /= lengths[k];
    const int64_t done = sound || straighten_columns(a, rows, rank, nearly, scratch) ? nearly : 0;
    orthonormalize_from(a, rows, rank, done, lengths, 1e-12 * first, scratch);
}

// out [rows, rank]: the orthonormal columns a [rows, found], and beside them what is left of `more` [rows, rank -
// found] column after column, signed by its largest entry.
static void pad_columns(const double* a, int64_t rows, int64_t found, const double* more, int64_t rank, double* out,
                        Arena scratch) {
    constexpr double least = 1e-10;  // what is left of a column beside others is no more than rounding
    const int64_t ld = padded<double>(rows);
    double* q = scratch.take<double>(rank * ld);
    int64_t unit = 0;
    for (int64_t k = 0; k < rank; ++k) {
        double* x = q + k * ld;
        const int64_t width = k < found ? found : rank - found;
        const double* from = k < found ? a + k : more + k - found;
        for (int64_t i = 0; i < ld; ++i) x[i] = i < rows ? from[i * width] : 0;
        if (k < found) continue;
        for (bool added = add_row(q, ld, k, least); !added && unit < rows; ++unit) {
            for (int64_t i = 0; i < ld; ++i) x[i] = i == unit;
            added = add_row(q, ld, k, least);
        }
        double entry = 0;
        for (int64_t i = 0; i < rows; ++i)
            if (__builtin_fabs(x[i]) > __builtin_fabs(entry)) entry = x[i];
        for (int64_t i = 0; entry < 0 && i < rows; ++i) x[i] = -x[i];
    }
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < rank; ++k) out[i * rank + k] = q[k * ld + i];
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
