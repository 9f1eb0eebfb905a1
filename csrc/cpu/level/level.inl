// Everything one SIMD level compiles. The including file sets TSM_LEVEL (a namespace) and TSM_VECTOR_BYTES.
#pragma once
#include "cpu/level/channel_mean.inl"
#include "cpu/level/core_contraction.inl"
#include "cpu/level/finish.inl"
#include "cpu/level/hooi.inl"
#include "cpu/level/mode_gram.inl"
#include "cpu/level/saliency.inl"
#include "cpu/level/singular_triplets.inl"
#include "cpu/level/truncated_svd.inl"

namespace tsm::TSM_LEVEL {
// clang-format off
#define TSM_BOTH(call) (wide ? call<double> : call<float>)
extern const Level kLevel;
const Level kLevel = {
    TSM_NAME,
    [](bool wide, const Tensor& x, int mode, bool center, double* g, const ArenaState& memory) {
        TSM_BOTH(mode_gram_as)(x, mode, center, g, Arena(memory));
    },
    [](bool wide, int64_t n, bool in_float) {
        return wide && in_float ? eigh_group<double, float>(n) : TSM_BOTH(eigh_group)(n);
    },
    [](bool wide, EighItems& items, int count, int n, int rank, bool narrow, bool in_float, const ArenaState& memory) {
        TSM_BOTH(truncated_svd_as)(items, count, n, rank, narrow, in_float, Arena(memory));
    },
    [](const TripletsPlan& plan, TripletsItem* items, int count, const ArenaState& memory) {
        triplets_items(plan, items, count, Arena(memory));
    },
    [](bool wide, const Tensor& x, const Tensor* factors, const void* next, void* out, const ArenaState& memory) {
        TSM_BOTH(core_contraction_as)(x, factors, next, out, Arena(memory));
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
    [](bool wide, const Tensor& x, double* map, const ArenaState& memory) {
        return channel_mean(wide, x, map, Arena(memory));
    },
    [](bool wide, const FinishPlan& p, const void* map, void* out, const ArenaState& memory) {
        wide ? finish_item(p, static_cast<const double*>(map), static_cast<double*>(out), Arena(memory))
             : finish_item(p, static_cast<const float*>(map), static_cast<float*>(out), Arena(memory));
    },
    [](bool wide, const OrdinaryMaps& p, const void* map) {
        return wide ? is_ordinary(p, static_cast<const double*>(map)) : is_ordinary(p, static_cast<const float*>(map));
    },
};
// clang-format on

}  // namespace tsm::TSM_LEVEL
