// Maps resized and normalised.
#pragma once
#include "cpu/arena.h"
#include "cpu/level/simd.inl"

namespace tsm::TSM_LEVEL {
namespace {

template <class T>
static T largest_of_map(const T* map, int64_t size) {
    T largest = 0;
    for (int64_t i = 0; i < size; ++i) {
        const T x = map[i] < 0 ? -map[i] : map[i];
        largest = x > largest ? x : largest;
    }
    return largest;
}

// A map resized (bilinear, corners not aligned) and normalised: one pass that looks for the extremes, and one that
// writes, over rows of the map that were made as wide as the result.
template <class T>
static void finish_item(const FinishPlan& p, const T* map, T* out, Arena arena) {
    constexpr int L = kLanes<T>;
    const int64_t pitch = padded<T>(p.columns);
    T* rows = arena.take<T>(p.height * pitch);
    for (int64_t r = 0; r < p.height; ++r)
        for (int64_t x = 0; x < pitch; ++x) {  // behind the row, its last entry again
            const Tap& tap = p.across[x < p.columns ? x : p.columns - 1];
            const T *row = map + r * p.width, t = static_cast<T>(tap.weight);
            rows[r * pitch + x] = row[tap.first] + (p.resize ? (row[tap.second] - row[tap.first]) * t : 0);
        }
    const auto at = [&](int64_t y, int64_t x) {
        const Tap& tap = p.down[y];
        const T t = static_cast<T>(tap.weight);
        const Vec<T> a = load(rows + tap.first * pitch + x);
        return p.resize ? a + (load(rows + tap.second * pitch + x) - a) * t : a;
    };
    T lowest = 0, spread = 1;
    bool constant = false, is_nan = false;
    if (p.normalize) {
        Vec<T> low = at(0, 0), high = low;
        auto odd = low != low;
        for (int64_t y = 0; y < p.rows; ++y)
            for (int64_t x = 0; x < p.columns; x += L) {
                const Vec<T> v = at(y, x);
                low = v < low ? v : low;
                high = v > high ? v : high;
                odd |= v != v;
            }
        T highest = high[0];
        lowest = low[0];
        for (int i = 0; i < L; ++i) {
            lowest = low[i] < lowest ? low[i] : lowest;
            highest = high[i] > highest ? high[i] : highest;
            is_nan = is_nan || odd[i];
        }
        spread = highest - lowest;
        const T largest = p.resize ? largest_of_map(map, p.height * p.width) : highest > -lowest ? highest : -lowest;
        constant = spread <= static_cast<T>(p.noise) * largest;
    }
    const T fill = is_nan ? static_cast<T>(__builtin_nan("")) : T(0);
    for (int64_t y = 0; y < p.rows; ++y)
        for (int64_t x = 0; x < p.columns; x += L) {
            const Vec<T> v = is_nan || constant ? splat(fill) : p.normalize ? (at(y, x) - lowest) / spread : at(y, x);
            T* to = out + y * p.columns + x;
            if (x + L <= p.columns)
                store(to, v);
            else
                for (int64_t i = 0; i < p.columns - x; ++i) to[i] = v[i];
        }
}

// Whether a map is as `finish` wants it: its largest entry in range, and its spread either plain to see beside that or
// no more than noise.
template <class T>
static bool is_ordinary(const OrdinaryMaps& p, const T* map) {
    constexpr int L = kLanes<T>;
    T lowest = map[0], highest = map[0];
    bool is_nan = false;
    int64_t i = 0;
    if (p.size >= L) {
        Vec<T> low = load(map), high = low;
        auto odd = low != low;
        for (; i + L <= p.size; i += L) {
            const Vec<T> v = load(map + i);
            low = v < low ? v : low;
            high = v > high ? v : high;
            odd |= v != v;
        }
        for (int lane = 0; lane < L; ++lane) {
            lowest = low[lane] < lowest ? low[lane] : lowest;
            highest = high[lane] > highest ? high[lane] : highest;
            is_nan = is_nan || odd[lane];
        }
    }
    for (; i < p.size; ++i) {
        lowest = map[i] < lowest ? map[i] : lowest;
        highest = map[i] > highest ? map[i] : highest;
        is_nan = is_nan || map[i] != map[i];
    }
    if (is_nan) return p.nan;
    const T spread = highest - lowest, largest = highest > -lowest ? highest : -lowest;
    const bool faint = spread < p.faint * largest && spread > p.noise * largest;
    return largest >= p.smallest && largest <= p.largest && !faint;
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
