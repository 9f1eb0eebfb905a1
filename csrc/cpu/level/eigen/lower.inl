// Symmetric matrices as the solvers read them: where they lie, by their lower triangles.
#pragma once
#include "cpu/level/eigen/householder.inl"

namespace tsm::TSM_LEVEL {
namespace {

// What makes the entries of a matrix about 1; without one to solve there is the identity's.
struct Size {
    double power;
    bool finite, zero;
    bool solved() const { return finite && !zero; }
    double other() const { return zero ? 0 : __builtin_nan(""); }
};
static Size size_by(double largest) {
    const bool finite = largest <= 1.7976931348623157e308, zero = finite && largest == 0;
    return {finite && !zero ? power_below(largest) : 1, finite, zero};
}
// Entry of what is solved in the place of a matrix that is zero or not finite: its vectors are the identity's columns.
template <class T>
static inline T instead(int i, int j, int n) {
    return i == j ? T(1) - static_cast<T>(i) / static_cast<T>(2 * n) : T(0);
}

// A symmetric matrix where it lies, of which the lower triangle is read: entry (i, j) at data[i * down + j * across].
struct Lower {
    const void* data;
    bool wide;  // in double, else in float
    int64_t down, across;
};
static Lower lower_of(const double* g, int64_t n) {  // whole
    return {g, true, 1, n};
}

template <class R, class S>
static inline Vec<R> load_scaled(const S* p, double factor) {
    Vec<R> v;
    for (int l = 0; l < kLanes<R>; ++l) v[l] = static_cast<R>(static_cast<double>(p[l]) * factor);
    return v;
}

// The largest magnitude of n numbers `step` apart that is NaN where one of them is not finite, beside `most`.
template <class S>
static double largest_beside(double most, const S* x, int64_t n, int64_t step) {
    constexpr int L = kLanes<double>;
    Vec<double> sizes{}, odd{};
    int64_t i = 0;
    for (; step == 1 && i + L <= n; i += L) {
        const Vec<double> at = load_scaled<double>(x + i, 1);
        sizes = vmax<double>(vabs<double>(at), sizes);
        odd += at * 0.0;
    }
    double sum = sum_lanes<double>(odd) + most * 0;
    for (int l = 0; l < L; ++l) most = sizes[l] > most ? sizes[l] : most;
    for (; i < n; ++i) {
        const double at = static_cast<double>(x[i * step]);
        sum += at * 0;
        most = __builtin_fabs(at) > most ? __builtin_fabs(at) : most;
    }
    return sum == 0 ? most : __builtin_nan("");
}
template <class S>
static Size size_of_lower(const S* g, const Lower& at, int64_t n) {
    double most = 0;
    for (int64_t k = 0; k < n; ++k)
        most = at.across == 1 ? largest_beside(most, g + k * at.down, k + 1, 1)
                              : largest_beside(most, g + k * at.across + k * at.down, n - k, at.down);
    return size_by(most);
}

// What tridiagonalize_one takes of g times `factor`: rows from the square on the diagonal on, zeros behind them.
template <class R, class S>
static void load_upper(const S* g, const Lower& at, int64_t n, double factor, R* a, int64_t ld) {
    constexpr int L = kLanes<R>, side = kSquare<R>;
    const int64_t whole = n / side * side;
    const auto entry = [&](int64_t i, int64_t j) {
        return static_cast<R>(
            static_cast<double>(i < j ? g[j * at.down + i * at.across] : g[i * at.down + j * at.across]) * factor);
    };
    for (int64_t i = 0; i < squared<R>(n); ++i) {
        R* row = a + i * ld;
        const int64_t square = i / side * side;
        int64_t j = square;
        for (; j < square + side && j < n && i < n; ++j) row[j] = entry(i, j);
        if (i < n && at.down == 1)
            for (; j + L <= n; j += L) store(row + j, load_scaled<R>(g + i * at.across + j, factor));
        else if (i < whole && at.across == 1 && j < whole)
            j = whole;  // below
        for (; j < n && i < n; ++j) row[j] = entry(i, j);
        for (; j < ld; ++j) row[j] = 0;
    }
    if (at.down == 1 || at.across != 1) return;
    for (int64_t j = side; j < whole; j += L)
        for (int64_t i = 0; i < j / side * side; i += L) {
            Vec<R> v[L];
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r) v[r] = load_scaled<R>(g + (j + r) * at.down + i, factor);
            transpose<R>(v);
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r) store(a + (i + r) * ld + j, v[r]);
        }
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
