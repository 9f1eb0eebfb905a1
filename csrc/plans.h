// What the steps of both backends are told and what they hand back, on the host and on the device. Numbers of an enum
// are the codes that Python passes (bindings/codes.h).
#pragma once
#include "tensor_batch.h"

namespace tsm {

enum class Method : int { eigencam, tsm, multivec_eigencam, mtsm, mean_activation };
enum class Sign : int { u, v, absmax, sum };
// What becomes of eigenpairs j: sigma_1 v_1; abs(sum_j w_j v_j), w_j = +-sigma_j^2; sum_j sigma_j^2 |v_j|; the signed
// sum before its abs.
enum class Combine : int { leading, signed_sum, absolute_sum, uncut_sum };

TSM_HOST_DEVICE inline int64_t product_of(const int64_t* n, int order) {
    int64_t p = 1;
    for (int i = 0; i < order; ++i) p *= n[i];
    return p;
}

struct Output {
    void* data;
    bool wide;  // double, else float
    void* at(int64_t element) const { return static_cast<char*>(data) + element * (wide ? 8 : 4); }
    // On the host: `count` numbers from element `first` on.
    template <class T>
    void put(int64_t first, const T* from, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) {
            if (wide)
                static_cast<double*>(data)[first + i] = static_cast<double>(from[i]);
            else
                static_cast<float*>(data)[first + i] = static_cast<float>(from[i]);
        }
    }
};

// TensorLy's tucker of one item.
struct HooiPlan {
    int order, n_iter_max;
    int64_t shape[kMaxOrder], rank[kMaxOrder];
    double tol;
    bool sign_v;             // columns signed by the right singular vector
    int big;                 // the mode larger than the product of the others; -1: none
    bool kept[kMaxOrder]{};  // modes without a factor, at the rank of their size
    bool given = false;      // factors to start from, instead of the HOSVD
    bool hosvd = false;      // nothing but the HOSVD: its factors are those of the only sweep
    int padded = -1;         // the mode whose rank is more than the product of the others; -1: none

    TSM_HOST_DEVICE int64_t elements() const { return product_of(shape, order); }
    TSM_HOST_DEVICE int64_t core_size() const { return product_of(rank, order); }
    TSM_HOST_DEVICE int64_t others_size(int m) const { return elements() / shape[m]; }
    TSM_HOST_DEVICE int64_t others_rank(int m) const { return core_size() / rank[m]; }
    TSM_HOST_DEVICE bool others_full(int m) const {
        for (int i = 0; i < order; ++i)
            if (i != m && rank[i] != shape[i]) return false;
        return true;
    }
    // The singular vectors that an update of mode m finds; the other columns of a padded factor are given.
    TSM_HOST_DEVICE int64_t found(int m) const { return m == padded ? others_rank(m) : rank[m]; }
    TSM_HOST_DEVICE int first() const {  // of the modes that have a factor
        int m = 0;
        while (kept[m]) ++m;
        return m;
    }
    // Whether the sweeps start from an HOSVD of mode m: the first factor moves before it is read.
    TSM_HOST_DEVICE bool starts(int m) const { return !given && !kept[m] && (hosvd || m != first()); }
    // Whether sweep `sweep` may move factor m. Given factors are orthonormal from the second sweep on.
    TSM_HOST_DEVICE bool moves(int sweep, int m) const {
        return !hosvd && !kept[m] && (sweep <= given || sign_v || !others_full(m));
    }
    // The eigenproblem of an update of mode m: on the left side [I_m, I_m], else on the right one.
    TSM_HOST_DEVICE bool left_side(int m) const { return m != big && shape[m] <= others_rank(m); }
    TSM_HOST_DEVICE int64_t matrix_size(int m) const { return left_side(m) ? shape[m] : others_rank(m); }
};
// How HOOI departs from its plain form.
struct HooiOptions {
    bool kept[kMaxOrder]{};
    bool given = false;
    bool pads = false;  // the rank of one mode may be infeasible
};
inline HooiPlan plan_hooi(int order, const int64_t* shape, const int64_t* rank, int n_iter_max, double tol, bool sign_v,
                          const HooiOptions& options = {}) {
    HooiPlan plan{order, n_iter_max, {}, {}, tol, sign_v, -1};
    plan.given = options.given;
    for (int i = 0; i < order; ++i) {
        plan.shape[i] = shape[i];
        plan.rank[i] = rank[i];
        plan.kept[i] = options.kept[i];
    }
    for (int i = 0; i < order; ++i) {
        if (order > 1 && shape[i] > plan.others_size(i)) plan.big = i;
        if (options.pads && !plan.kept[i] && rank[i] > plan.others_rank(i)) plan.padded = i;
    }
    // From the Gram matrix of the others, factor `big` is known by its weights alone: it neither stays, nor is given
    // and read before it moves, nor has columns that come from elsewhere.
    if (plan.padded >= 0 || (plan.big >= 0 && (plan.kept[plan.big] || (plan.given && plan.big != plan.first()))))
        plan.big = -1;
    return plan;
}

// What HOOI is given beside X, contiguous for an item; null where the plan has none.
struct HooiStart {
    const double* factors[kMaxOrder];  // [B, I_n, R_n]
    int64_t stride[kMaxOrder];         // between items: 0 where they share it
    const double* padding;             // [B, I_n, R_n - found] of the padded mode
    int64_t padding_stride;
};

struct HooiOutput {
    Output core;                        // [B, R_1, ..., R_N]
    Output factors[kMaxOrder];          // [B, I_n, R_n], but for the modes that are kept
    Output singular_values[kMaxOrder];  // [B, R_n], for the same modes
    Output responses;                   // X_(big)^T A_big [B, S, R_big], by the CUDA backend; data may be null
    double* errors;                     // [B, n_iter_max]; NaN after an item's last sweep
    int64_t* n_sweeps;                  // [B]
    bool* converged;                    // [B]
    bool* finite;                       // [B]
};

}  // namespace tsm
