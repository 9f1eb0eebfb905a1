// Everything one SIMD level compiles. The including file sets TSM_LEVEL (a namespace) and TSM_VECTOR_BYTES.
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <cstddef>
#include <cstdint>

#include "cpu/arena.h"
#include "cpu/levels.h"
#include "tensor_batch.h"

namespace tsm {
namespace TSM_LEVEL {
namespace {

// Later files use earlier ones.
// clang-format off
#include "cpu/level/simd.inl"
#include "cpu/level/mode_gram.inl"
#include "cpu/level/eigen/orthonormalize.inl"
#include "cpu/level/eigen/householder.inl"
#include "cpu/level/eigen/tridiagonal.inl"
#include "cpu/level/truncated_svd.inl"
#include "cpu/level/core_contraction.inl"
#include "cpu/level/hooi/hooi_gram.inl"
#include "cpu/level/hooi/hooi.inl"
#include "cpu/level/hooi/hooi_start.inl"
#include "cpu/level/hooi/hooi_factor.inl"
#include "cpu/level/eigen/leading_pair.inl"
#include "cpu/level/saliency.inl"
#include "cpu/level/finish.inl"
// clang-format on

template <class T>
void mode_gram_as(const Tensor& x, int mode, bool center, double* g, Arena arena) {
    const Fibres f = fibres_of(x, mode);
    Adjust how{center && mode == x.order - 1, nullptr, 1, 1};
    if (center && mode != x.order - 1) {
        how.period = x.shape[x.order - 1];
        double* means = arena.take<double>(f.count / how.period * f.n);
        last_mode_means(f, how.period, 1, means, arena);
        how.means = means;
    }
    gram_item<T>(f, how, g, arena);
}

// Elements of any tensor between X and its contraction with all factors, in whatever order.
int64_t largest_intermediate(const Tensor& x, const void* const* factors, const int64_t* rank) {
    int64_t n = 1;
    for (int i = 0; i < x.order; ++i) n *= factors[i] && rank[i] > x.shape[i] ? rank[i] : x.shape[i];
    return n;
}

template <class T>
void core_contraction_as(const Tensor& x, const void* const* factors, const int64_t* rank, void* out, Arena arena) {
    const T* dense = dense_data<T>(x);
    if (!dense) {
        T* copy = arena.take<T>(x.size());
        copy_dense<T>(x, 1, copy);
        dense = copy;
    }
    T* spare[2];
    for (auto& buffer : spare) buffer = arena.take<T>(largest_intermediate(x, factors, rank));
    const T* typed[kMaxOrder];
    int64_t size = 1;
    for (int i = 0; i < x.order; ++i) {
        typed[i] = static_cast<const T*>(factors[i]);
        size *= factors[i] ? rank[i] : x.shape[i];
    }
    const T* y = multi_mode_product<T>(dense, x.order, x.shape, typed, rank, spare);
    __builtin_memcpy(out, y, static_cast<size_t>(size) * sizeof(T));
}

template <class T>
int saliency_group_as(const SaliencyPlan& plan) {
    return plan.truncated ? hooi_group_size<T>(plan.hooi) : SaliencyGroup<T>::group_size(plan);
}

template <class T>
void saliency_full(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
    SaliencyGroup<T>(plan, arena).run(items, count);
}

template <class T>
void saliency_truncated(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
    HooiItem tucker[kMostItems];
    for (int k = 0; k < count; ++k) tucker[k].x = items[k].x;
    hooi_items(sizeof(T) == 8, plan.hooi, tucker, count, arena);
    for (int k = 0; k < count; ++k) {
        items[k].finite = tucker[k].finite;
        items[k].sure = truncated_map<T>(plan, tucker[k], items[k].map, arena);
    }
}

// Maps; items whose signs or vectors float could not settle are computed again in double.
template <class T>
void saliency_as(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
    (plan.truncated ? saliency_truncated<T> : saliency_full<T>)(plan, items, count, arena);
    if (sizeof(T) == 8 || !plan.hooi.guard) return;
    SaliencyItem again[kMostItems];
    int n = 0;
    for (int k = 0; k < count; ++k)
        if (!items[k].sure) again[n++] = items[k];
    const int most = saliency_group_as<double>(plan);
    for (int first = 0; first < n; first += most)
        (plan.truncated ? saliency_truncated<double>
                        : saliency_full<double>)(plan, again + first, n - first < most ? n - first : most, arena);
}

double fma_rate(int64_t steps) {
    constexpr int chains = 12;
    Vec<float> acc[chains];
    for (auto& a : acc) a = splat(1.0f);
    volatile float opaque = 0.999f;
    const Vec<float> factor = splat<float>(opaque);
    for (int64_t i = 0; i < steps; ++i)
#pragma GCC unroll 12
        for (auto& a : acc) a = a * factor + factor;
    Vec<float> sum{};
#pragma GCC unroll 12
    for (auto& a : acc) sum += a;
    opaque = sum_lanes<float>(sum);  // the work is used
    return static_cast<double>(steps) * chains * kLanes<float> * 2;
}

}  // namespace

// clang-format off
#define TSM_BOTH(call) (wide ? call<double> : call<float>)
extern const Level kLevel;
const Level kLevel = {
    TSM_NAME, TSM_VECTOR_BYTES,
    [](bool wide, const Tensor& x, int mode, bool center, double* g, const ArenaState& memory) {
        TSM_BOTH(mode_gram_as)(x, mode, center, g, Arena(memory));
    },
    [](bool wide, int64_t n) { return TSM_BOTH(eigh_group)(n); },
    [](bool wide, const double* const* g, int count, int n, int rank, double* const* values, double* const* vectors, double loss, const ArenaState& memory) {
        TSM_BOTH(eigh_items)(g, count, n, rank, values, vectors, Arena(memory), loss);
    },
    [](bool wide, const Tensor& x, const void* const* factors, const int64_t* rank, void* out, const ArenaState& memory) {
        TSM_BOTH(core_contraction_as)(x, factors, rank, out, Arena(memory));
    },
    [](bool wide, const CpuHooiPlan& plan) { return TSM_BOTH(hooi_group_size)(plan); },
    [](bool wide, const CpuHooiPlan& plan, HooiItem* items, int count, const ArenaState& memory) {
        Arena arena(memory);
        hooi_items(wide, plan, items, count, arena);
    },
    [](bool wide, const SaliencyPlan& plan) { return TSM_BOTH(saliency_group_as)(plan); },
    [](bool wide, const SaliencyPlan& plan, SaliencyItem* items, int count, const ArenaState& memory) {
        TSM_BOTH(saliency_as)(plan, items, count, Arena(memory));
    },
    [](bool wide, const FinishPlan& p, const void* map, void* out, const ArenaState& memory) {
        wide ? finish_item(p, static_cast<const double*>(map), static_cast<double*>(out), Arena(memory))
             : finish_item(p, static_cast<const float*>(map), static_cast<float*>(out), Arena(memory));
    },
    fma_rate,
};
// clang-format on

}  // namespace TSM_LEVEL
}  // namespace tsm
