// Vectors of one SIMD level. Included once by each level_*.cpp, inside that level's namespace, so that no function
// compiled for one instruction set can be linked into another (no std:: templates here for the same reason).
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <cstddef>
#include <cstdint>

#include "cpu/levels.h"

#ifndef TSM_LEVEL  // a file looked at on its own
#define TSM_LEVEL scalar
#define TSM_VECTOR_BYTES 16
#endif

namespace tsm::TSM_LEVEL {
namespace {

template <class T>
struct VecOf {
    typedef T type __attribute__((vector_size(TSM_VECTOR_BYTES)));
};
template <size_t Bytes>
struct IntegerOf {
    typedef int64_t type;
};
template <>
struct IntegerOf<4> {
    typedef int32_t type;
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
constexpr int kLanes = TSM_VECTOR_BYTES / static_cast<int>(sizeof(T));
static_assert(kLanes<float> <= kMostItems);

template <class T>
static inline Vec<T> load(const T* p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <class T>
static inline void store(T* p, Vec<T> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

template <class T>
static inline Vec<T> splat(T x) {
    return Vec<T>{} + x;
}
// Said outright where the compiler would first add x to zero.
#if defined(__AVX512F__)
template <>
inline Vec<float> splat<float>(float x) {
    return reinterpret_cast<Vec<float>>(_mm512_set1_ps(x));
}
template <>
inline Vec<double> splat<double>(double x) {
    return reinterpret_cast<Vec<double>>(_mm512_set1_pd(x));
}
#elif defined(__AVX2__)
template <>
inline Vec<float> splat<float>(float x) {
    return reinterpret_cast<Vec<float>>(_mm256_set1_ps(x));
}
template <>
inline Vec<double> splat<double>(double x) {
    return reinterpret_cast<Vec<double>>(_mm256_set1_pd(x));
}
#endif

// Keeps v in a register, where a compiler would rather load it again at every use.
template <class V>
static inline __attribute__((always_inline)) void hold([[maybe_unused]] V& v) {
#if defined(__AVX2__)
    __asm__("" : "+v"(v));
#endif
}

// The first k of kLanes elements, zeros behind them; reads nothing beyond.
template <class T>
static inline Vec<T> load_first(const T* p, int64_t k) {
    Vec<T> v{};
    for (int64_t i = 0; i < k; ++i) v[i] = p[i];
    return v;
}
#if defined(__AVX512F__)
template <>
inline Vec<float> load_first<float>(const float* p, int64_t k) {
    return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << k) - 1), p));
}
template <>
inline Vec<double> load_first<double>(const double* p, int64_t k) {
    return reinterpret_cast<Vec<double>>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << k) - 1), p));
}
#elif defined(__AVX2__)
constexpr int kWords = 8;
static_assert(kWords * 4 == TSM_VECTOR_BYTES);
alignas(64) static const int32_t kFirst[2 * kWords] = {-1, -1, -1, -1, -1, -1, -1, -1};
template <>
inline Vec<float> load_first<float>(const float* p, int64_t k) {
    const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst + kWords - k));
    return reinterpret_cast<Vec<float>>(_mm256_maskload_ps(p, mask));
}
template <>
inline Vec<double> load_first<double>(const double* p, int64_t k) {
    const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst + kWords - 2 * k));
    return reinterpret_cast<Vec<double>>(_mm256_maskload_pd(p, mask));
}
#endif

template <class T>
static inline void store_first(T* p, Vec<T> v, int64_t k) {
    T part[kLanes<T>];
    store(part, v);
    for (int64_t i = 0; i < k; ++i) p[i] = part[i];
}
#if defined(__AVX512F__)
template <>
inline void store_first<float>(float* p, Vec<float> v, int64_t k) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << k) - 1), reinterpret_cast<__m512>(v));
}
template <>
inline void store_first<double>(double* p, Vec<double> v, int64_t k) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << k) - 1), reinterpret_cast<__m512d>(v));
}
#endif

template <class T>
static inline T sum_lanes(Vec<T> v) {
    // Halves are added pairwise, so the order is the same at every call.
    T part[kLanes<T>];
    store(part, v);
    for (int half = kLanes<T> / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) part[i] += part[i + half];
    return part[0];
}
#if defined(__AVX512F__)
template <>
inline float sum_lanes<float>(Vec<float> v) {
    return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
}
template <>
inline double sum_lanes<double>(Vec<double> v) {
    return _mm512_reduce_add_pd(reinterpret_cast<__m512d>(v));
}
#endif

// The sums of the lanes of four vectors.
#if defined(__AVX512F__)
static inline __m128 sums_of_four(const Vec<float>* acc) {
    const __m512 a = reinterpret_cast<__m512>(acc[0]), b = reinterpret_cast<__m512>(acc[1]);
    const __m512 c = reinterpret_cast<__m512>(acc[2]), d = reinterpret_cast<__m512>(acc[3]);
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 q = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(q), _mm512_extractf32x8_ps(q, 1));
    return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}
#elif defined(__AVX2__)
static inline __m128 sums_of_four(const Vec<float>* acc) {
    const __m256 ab = _mm256_hadd_ps(reinterpret_cast<__m256>(acc[0]), reinterpret_cast<__m256>(acc[1]));
    const __m256 cd = _mm256_hadd_ps(reinterpret_cast<__m256>(acc[2]), reinterpret_cast<__m256>(acc[3]));
    const __m256 q = _mm256_hadd_ps(ab, cd);
    return _mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1));
}
#endif
#if defined(__AVX2__)
static inline void sum_four(const Vec<float>* acc, float* sums) {
    _mm_storeu_ps(sums, sums_of_four(acc));
}
#else
static inline void sum_four(const Vec<float>* acc, float* sums) {
    for (int r = 0; r < 4; ++r) sums[r] = sum_lanes<float>(acc[r]);
}
#endif

// Every second block of H lanes of a becomes the first of such two of b, and the other way round.
template <class T, int H>
static inline __attribute__((always_inline)) void swap_pair(Vec<T>& a, Vec<T>& b) {
    constexpr int L = kLanes<T>;
    typedef typename IntegerOf<sizeof(T)>::type Place __attribute__((vector_size(TSM_VECTOR_BYTES)));
    Place low, high;
    for (int l = 0; l < L; ++l) {
        low[l] = l & H ? L + l - H : l;
        high[l] = l & H ? L + l : l + H;
    }
    const Vec<T> x = a, y = b;
#if defined(__clang__)
    for (int l = 0; l < L; ++l) {
        a[l] = low[l] < L ? x[low[l]] : y[low[l] - L];
        b[l] = high[l] < L ? x[high[l]] : y[high[l] - L];
    }
#else
    a = __builtin_shuffle(x, y, low);
    b = __builtin_shuffle(x, y, high);
#endif
}
// Blocks of H rows and H lanes change places across the diagonal.
template <class T, int H>
static inline __attribute__((always_inline)) void swap_blocks(Vec<T>* v) {
    constexpr int L = kLanes<T>;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
        if (!(i & H)) swap_pair<T, H>(v[i], v[i + H]);
    if constexpr (2 * H < L) swap_blocks<T, 2 * H>(v);
}
// sums[r] += the lanes of v[r], for N rows, whose vectors are spoiled.
template <class T, int N, int H = 1>
static inline __attribute__((always_inline)) void add_row_sums(Vec<T>* v, T* sums) {
    constexpr int L = kLanes<T>;
    if constexpr (N > L) {
        add_row_sums<T, N / 2>(v, sums);
        add_row_sums<T, N / 2>(v + N / 2, sums + N / 2);
    } else if constexpr (H < N) {  // pairs of rows to one of half sums
#pragma GCC unroll 16
        for (int i = 0; i < N; i += 2 * H) {
            swap_pair<T, H>(v[i], v[i + H]);
            v[i] += v[i + H];
        }
        add_row_sums<T, N, 2 * H>(v, sums);
    } else {
        T part[L];
        store(part, v[0]);
        for (int half = L / 2; half >= N; half /= 2)
            for (int i = 0; i < half; ++i) part[i] += part[i + half];
        for (int r = 0; r < N; ++r) sums[r] += part[r];
    }
}
// Every second element of both.
template <class T>
static inline Vec<T> even_lanes(Vec<T> a, Vec<T> b) {
    constexpr int L = kLanes<T>;
#if defined(__clang__)
    Vec<T> v{};
    for (int l = 0; l < L; ++l) v[l] = 2 * l < L ? a[2 * l] : b[2 * l - L];
    return v;
#else
    typedef typename IntegerOf<sizeof(T)>::type Place __attribute__((vector_size(TSM_VECTOR_BYTES)));
    Place even;
    for (int l = 0; l < L; ++l) even[l] = 2 * l;
    return __builtin_shuffle(a, b, even);
#endif
}
// kLanes vectors as the rows of a square.
template <class T>
static inline __attribute__((always_inline)) void transpose(Vec<T>* v) {
    swap_blocks<T, 1>(v);
}

template <class T>
static inline Vec<T> vsqrt(Vec<T> v) {
    Vec<T> r{};
    for (int i = 0; i < kLanes<T>; ++i)
        r[i] = sizeof(T) == 8 ? static_cast<T>(__builtin_sqrt(v[i])) : static_cast<T>(__builtin_sqrtf(v[i]));
    return r;
}

template <class T>
static inline Vec<T> vabs(Vec<T> v) {
    typedef typename IntegerOf<sizeof(T)>::type Bits __attribute__((vector_size(TSM_VECTOR_BYTES)));
    constexpr auto all = static_cast<typename IntegerOf<sizeof(T)>::type>(~uint64_t{0} >> (65 - 8 * sizeof(T)));
    return reinterpret_cast<Vec<T>>(reinterpret_cast<Bits>(v) & all);
}

template <class T>
static inline Vec<T> vmax(Vec<T> a, Vec<T> b) {
    return a > b ? a : b;
}

template <class T>
static inline int64_t padded(int64_t n) {
    return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Rows of vectors D = V, or of numbers D that a vector V takes several of.
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

// Reading elements of any storage type as float or double.
struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

static inline float to_float(BFloat x) {
    const uint32_t u = static_cast<uint32_t>(x.bits) << 16;
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
}

static inline float to_float(Half x) {
#if defined(__F16C__)
    return _cvtsh_ss(x.bits);
#else
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    uint32_t u;
    if (rest >= 0x7c00) {
        u = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    } else {
        // Multiplying by 2^112 moves the exponent's bias and makes half subnormals normal.
        const uint32_t shifted = rest << 13;
        float f;
        __builtin_memcpy(&f, &shifted, 4);
        f *= 5.192296858534828e33f;
        __builtin_memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    __builtin_memcpy(&f, &u, 4);
    return f;
#endif
}
// Whether load_halves gives kLanes<T> of S as T: no compiler makes vectors of to_float(Half).
template <class T, class S>
constexpr bool kConvertsHalves = false;
#if defined(__AVX512F__)
template <>
constexpr bool kConvertsHalves<float, Half> = true;
static inline Vec<float> load_halves(const Half* p) {
    return reinterpret_cast<Vec<float>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
#elif defined(__F16C__)
template <>
constexpr bool kConvertsHalves<float, Half> = true;
static inline Vec<float> load_halves(const Half* p) {
    return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#endif
static inline float to_float(float x) {
    return x;
}
static inline double to_float(double x) {
    return x;
}

// ---- numbers ----
template <class T>
constexpr T kEpsilon = sizeof(T) == 8 ? T(2.220446049250313e-16) : T(1.1920929e-07);

// The power of two that brings a magnitude into [1/2, 1).
static inline double power_below(double largest) {
    int exponent;
    __builtin_frexp(largest, &exponent);
    return __builtin_ldexp(1.0, exponent > -1022 ? -exponent : 1022);
}

// The largest magnitude of n numbers; NaN where one of them is NaN or Inf.
static inline double largest_of(const double* x, int64_t n) {
    constexpr int L = kLanes<double>;
    Vec<double> most{}, odd{};
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        const Vec<double> at = load(x + i);
        most = vmax<double>(vabs<double>(at), most);
        odd += at * 0.0;  // NaN where it is not finite
    }
    double largest = 0, sum = sum_lanes<double>(odd);
    for (int l = 0; l < L; ++l) largest = most[l] > largest ? most[l] : largest;
    for (; i < n; ++i) {
        sum += x[i] * 0;
        largest = __builtin_fabs(x[i]) > largest ? __builtin_fabs(x[i]) : largest;
    }
    return sum == 0 ? largest : __builtin_nan("");
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
