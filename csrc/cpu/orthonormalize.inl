// Columns of a matrix: their largest entries, and an orthonormal set from them.

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

// Takes columns [0, k) of a [rows, rank], orthonormal, out of column k.
static void take_out(double* a, int64_t rows, int64_t rank, int64_t k) {
    for (int64_t j = 0; j < k; ++j) {
        double dot = 0;
        for (int64_t i = 0; i < rows; ++i) dot += a[i * rank + j] * a[i * rank + k];
        for (int64_t i = 0; i < rows; ++i) a[i * rank + k] -= dot * a[i * rank + j];
    }
}

// Column k becomes what is left of it beside the columns before it, at unit length; false where too little is left.
static bool make_orthogonal(double* a, int64_t rows, int64_t rank, int64_t k, double least) {
    for (int pass = 0; pass < 3; ++pass) {
        take_out(a, rows, rank, k);
        const double length = column_length(a, rows, rank, k);
        if (pass == 0 && !(length > least)) return false;
        for (int64_t i = 0; i < rows; ++i) a[i * rank + k] /= length;
    }
    return true;
}

// Columns of a [rows, rank], orthogonal but for rounding and longest first, at unit length. Those far shorter than the
// first have lost their angles and are made orthogonal anew; those of no length become the first columns of the
// identity that complete the set. lengths: [rank]
static void orthonormalize(double* a, int64_t rows, int64_t rank, double* lengths) {
    for (int64_t k = 0; k < rank; ++k) lengths[k] = 0;
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < rank; ++k) lengths[k] += a[i * rank + k] * a[i * rank + k];
    for (int64_t k = 0; k < rank; ++k) lengths[k] = __builtin_sqrt(lengths[k]);
    const double first = lengths[0];
    int64_t sound = 0;
    while (sound < rank && lengths[sound] > 1e-3 * first) ++sound;
    for (int64_t k = 0; k < sound; ++k) lengths[k] = 1 / lengths[k];
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < sound; ++k) a[i * rank + k] *= lengths[k];
    const double least = 0.05 / __builtin_sqrt(static_cast<double>(rows));
    for (int64_t k = sound; k < rank; ++k) {
        if (lengths[k] > 1e-12 * first && make_orthogonal(a, rows, rank, k, least * lengths[k])) continue;
        for (int64_t unit = 0; unit < rows; ++unit) {
            for (int64_t i = 0; i < rows; ++i) a[i * rank + k] = i == unit;
            if (make_orthogonal(a, rows, rank, k, least)) break;
        }
    }
}

// ---- what columns that should be orthonormal lack, and the cure of a small loss ----
// In the two layouts of the eigensolver (householder.inl): rows of vectors D = V, one matrix a lane, or rows of numbers
// D, zeros behind the last column up to a whole vector V.

template <class V, class D>
static inline V load_as(const D* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class D>
static inline void store_as(D* p, V v) {
    __builtin_memcpy(p, &v, sizeof v);
}
template <class D, class V>
static inline D total(V v) {
    if constexpr (sizeof(D) == sizeof(V))
        return v;
    else
        return sum_lanes<D>(v);
}

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
