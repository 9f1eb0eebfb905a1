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
