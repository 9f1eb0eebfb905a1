// Products of the rows of a matrix with unit columns in 16-bit integers, twice as fast as in float: what is sought are
// the largest and the smallest product of each column, and how far rounding may have moved them is known.
// Included by a level, and once more for machines with an instruction for such dots.
#pragma once
#include "cpu/arena.h"
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

constexpr int kWordRows = 48;           // of a panel
constexpr double kWordLimit = 32767;    // of a row's length, and of an entry
constexpr double kColumnLimit = 65000;  // of a column's length: dots stay below 2^31
constexpr double kLeastLength = 1e-18;  // of a panel's longest row: below it squares in float say nothing

#if defined(__AVX2__)
typedef int32_t Pairs __attribute__((vector_size(TSM_VECTOR_BYTES)));  // of words, or sums of their products
#if defined(__AVX512F__)
static inline Pairs add_products(Pairs sum, Pairs a, Pairs b) {
    const __m512i x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b);
#if defined(__AVX512VNNI__)
    return reinterpret_cast<Pairs>(_mm512_dpwssd_epi32(reinterpret_cast<__m512i>(sum), x, y));
#else
    return sum + reinterpret_cast<Pairs>(_mm512_madd_epi16(x, y));
#endif
}
static inline void store_words(int16_t* to, Vec<float> x) {
    const __m512i whole = _mm512_cvtps_epi32(reinterpret_cast<__m512>(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(whole));
}
static inline Vec<float> as_floats(Pairs x) {
    return reinterpret_cast<Vec<float>>(_mm512_cvtepi32_ps(reinterpret_cast<__m512i>(x)));
}
static inline Vec<float> four_sums(const Vec<float>* v) {  // in the first lanes, zeros behind
    return reinterpret_cast<Vec<float>>(_mm512_zextps128_ps512(sums_of_four(v)));
}
#else
static inline Pairs add_products(Pairs sum, Pairs a, Pairs b) {
    return sum + reinterpret_cast<Pairs>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
static inline void store_words(int16_t* to, Vec<float> x) {
    const __m256i whole = _mm256_cvtps_epi32(reinterpret_cast<__m256>(x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1)));
}
static inline Vec<float> as_floats(Pairs x) {
    return reinterpret_cast<Vec<float>>(_mm256_cvtepi32_ps(reinterpret_cast<__m256i>(x)));
}
static inline Vec<float> four_sums(const Vec<float>* v) {
    return reinterpret_cast<Vec<float>>(_mm256_zextps128_ps256(sums_of_four(v)));
}
#endif

static inline Pairs load_pairs(const int16_t* p) {
    Pairs v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

// The largest and the smallest of the dots of MR rows with NR vectors of columns, beside those that are there.
template <int MR, int NR>
static inline void word_tile(const int16_t* rows, int64_t ld, int64_t pairs, const Pairs* columns, int64_t ldc,
                             const char* ahead, int64_t lines, Pairs* most, Pairs* least) {
    Pairs acc[MR][NR] = {};
    const int16_t *from = rows, *half = rows + MR / 2 * ld;
    for (int64_t k = 0; k < pairs; ++k, columns += ldc, from += 2, half += 2) {
        __builtin_prefetch(ahead + (k < lines ? k : 0) * 64, 0, 2);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
            int32_t pair;
            __builtin_memcpy(&pair, r < MR / 2 ? from + r * ld : half + (r - MR / 2) * ld, 4);
            const Pairs a = Pairs{} + pair;
#pragma GCC unroll 3
            for (int v = 0; v < NR; ++v) acc[r][v] = add_products(acc[r][v], a, columns[v]);
        }
    }
#pragma GCC unroll 3
    for (int v = 0; v < NR; ++v)
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) {
            most[v] = acc[r][v] > most[v] ? acc[r][v] : most[v];
            least[v] = acc[r][v] < least[v] ? acc[r][v] : least[v];
        }
}

// The same for all rows, up to a multiple of MR, and NR vectors of columns from v on.
template <int NR>
static void word_columns(WordColumns& c, int64_t count, int64_t v, float back, const char* ahead, int64_t lines) {
    constexpr int L = kLanes<float>, MR = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t vectors = c.whole / L, pairs = (c.n + 1) / 2;
    Pairs most[NR] = {}, least[NR] = {};
    for (int64_t r = 0; r < count; r += MR) {
        const int64_t first = lines * r / count, end = lines * (r + MR) / count;
        word_tile<MR, NR>(c.rows + r * c.ld, c.ld, pairs, reinterpret_cast<const Pairs*>(c.tiles) + v, vectors,
                          ahead + first * 64, end - first, most, least);
    }
    for (int i = 0; i < NR; ++i) {
        const int64_t at = (v + i) * L;
        const Vec<float> factor = load(c.inverse + at) * back, high = as_floats(most[i]) * factor,
                         low = as_floats(least[i]) * factor, most_yet = load(c.most + at),
                         least_yet = load(c.least + at);
        store(c.most + at, high > most_yet ? high : most_yet);
        store(c.least + at, low < least_yet ? low : least_yet);
    }
}

// What count <= kWordRows rows [., ld] add to c. `ahead`: lines of memory that will be read next.
static void word_panel(WordColumns& c, const float* rows, int64_t ld, int64_t count, const char* ahead, int64_t lines) {
    constexpr int L = kLanes<float>, MR = TSM_VECTOR_BYTES == 64 ? 8 : 4, NR = TSM_VECTOR_BYTES == 64 ? 3 : 2;
    const int64_t last = c.n % L, full = c.n - last;
    Vec<float> longest{};
    for (int64_t r = 0; r < count; r += 4) {
        const float* row[4];
        for (int64_t q = 0; q < 4; ++q) row[q] = rows + (r + q < count ? r + q : r) * ld;
        Vec<float> squares[4];
        for (int q = 0; q < 4; ++q) {
            const Vec<float> x = load_first(row[q] + full, last);
            squares[q] = x * x;
        }
        for (int64_t i = 0; i < full; i += L)
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) {
                const Vec<float> x = load(row[q] + i);
                squares[q] += x * x;
            }
        const Vec<float> four = four_sums(squares);
        longest = four > longest ? four : longest;
    }
    float most = 0;
    for (int q = 0; q < 4; ++q) most = longest[q] > most ? longest[q] : most;
    double length = __builtin_sqrt(static_cast<double>(most)) * (1 + 1e-5);
    length = length > kLeastLength ? length : kLeastLength;
    c.longest = length > c.longest ? length : c.longest;
    const float scale = static_cast<float>(kWordLimit / length), back = static_cast<float>(length / kWordLimit);
    const int64_t whole = (count + MR - 1) / MR * MR;
    for (int64_t r = 0; r < whole; ++r) {
        const float* row = rows + r * ld;
        int16_t* words = c.rows + r * c.ld;
        const int64_t some = r < count ? full : 0;
        for (int64_t i = 0; i < some; i += L) store_words(words + i, load(row + i) * scale);
        for (int64_t i = some; i < c.ld; i += L) store_words(words + i, Vec<float>{});
        if (r < count && last > 0) store_words(words + full, load_first(row + full, last) * scale);
    }

    const int64_t vectors = c.whole / L;
    for (int64_t v = 0; v < vectors; v += NR) {
        const int64_t left = vectors - v, fetched = v == 0 ? lines : 0;
        if (left >= NR)
            word_columns<NR>(c, whole, v, back, ahead, fetched);
        else if (NR == 3 && left == 2)
            word_columns<2>(c, whole, v, back, ahead, fetched);
        else
            word_columns<1>(c, whole, v, back, ahead, fetched);
    }
    for (int64_t j = c.whole; j < c.count; ++j) {
        const int16_t* column = c.dots + (j - c.whole) * c.ld;
        Vec<float> high{}, low{};  // of the first four lanes
        for (int64_t r = 0; r < whole; r += 4) {
            Vec<float> lanes[4];
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) {
                Pairs sum{};
                const int16_t* words = c.rows + (r + q) * c.ld;
                for (int64_t i = 0; i < c.ld; i += 2 * L)
                    sum = add_products(sum, load_pairs(words + i), load_pairs(column + i));
                lanes[q] = as_floats(sum);
            }
            const Vec<float> four = four_sums(lanes);
            high = four > high ? four : high;
            low = four < low ? four : low;
        }
        const float factor = c.inverse[j] * back;
        for (int q = 0; q < 4; ++q) {
            c.most[j] = high[q] * factor > c.most[j] ? high[q] * factor : c.most[j];
            c.least[j] = low[q] * factor < c.least[j] ? low[q] * factor : c.least[j];
        }
    }
}
#endif

}  // namespace
}  // namespace tsm::TSM_LEVEL
