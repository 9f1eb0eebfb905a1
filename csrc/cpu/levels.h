// The six steps on one item or one group of items, compiled once per SIMD level, and the plans that all levels share.
#pragma once
#include <cstdint>

#include "tensor_batch.h"

namespace tsm {

inline int64_t product_of(const int64_t* n, int order) {
    int64_t p = 1;
    for (int i = 0; i < order; ++i) p *= n[i];
    return p;
}

struct HooiPlan {
    int order;
    int64_t shape[kMaxOrder], rank[kMaxOrder];
    int n_iter_max;
    double tol;
    bool sign_v;       // columns signed by the right singular vector
    bool refine;       // core from one more pass over X, good to eps instead of sqrt(eps)
    bool factors;      // A_big is wanted
    bool guard;        // items that float passes cannot vouch for are computed again in double
    bool keeps_scale;  // core and singular values stay those of X times the item's scale
    int big;           // the mode larger than the product of the others; -1: none

    int64_t elements() const { return product_of(shape, order); }
    int64_t others_size(int m) const { return elements() / shape[m]; }
    int64_t others_rank(int m) const { return product_of(rank, order) / rank[m]; }
    bool others_full(int m) const {
        for (int i = 0; i < order; ++i)
            if (i != m && rank[i] != shape[i]) return false;
        return true;
    }
    // The eigenproblem of an update of mode m: on the left side [I_m, I_m], else on the right one.
    bool left_side(int m) const { return m != big && shape[m] <= others_rank(m); }
    int64_t matrix_size(int m) const { return left_side(m) ? shape[m] : others_rank(m); }
};

struct HooiItem {
    Tensor x{};
    double scale = 1;  // x is used times this power of two
    double norm2 = 0;
    bool finite = true, active = false, converged = false;
    int n_sweeps = 0;
    double* errors = nullptr;     // [n_iter_max]
    double* factor[kMaxOrder]{};  // [I_n, R_n], the big mode's left out
    void* target = nullptr;       // where A_big is wanted, in double when `target_wide`, else in float; or null
    bool target_wide = false;
    void* big_factor = nullptr;  // A_big [I_big, R_big]: the target, or where the types differ a place of its own
    bool big_wide = false;
    double* core = nullptr;       // [R_1, ..., R_N]
    double* sigma[kMaxOrder]{};   // [R_n]
    const void* dense = nullptr;  // X as contiguous P (no big mode): the input itself, or own
    void* own = nullptr;          // where a converted or scaled copy of X goes
    double* responses = nullptr;  // T = X_(big)^T A_big, [S, R_big], S the product of the other modes
    double* weights = nullptr;    // A_big = X_(big) weights, [S, R_big]
    double* unfolded = nullptr;   // projected unfolding of the mode being updated (no big mode)
    double *matrix = nullptr, *values = nullptr, *vectors = nullptr;  // its eigenproblem
};

enum class Method : int { eigencam = 0, tsm = 1, multivec_eigencam = 2, mtsm = 3 };
enum class Sign : int { u = 0, v = 1, absmax = 2, sum = 3 };

struct SaliencyPlan {
    Method method;
    bool center;
    bool absolute;  // combine="absolute"
    Sign sign;
    bool truncated;  // at a rank, by HOOI
    bool copies;     // H and W do not lie in memory like one mode
    HooiPlan hooi;   // order 3: C, H, W; rank only where truncated
    bool single() const { return method == Method::eigencam || method == Method::tsm; }
    int64_t channels() const { return hooi.shape[0]; }
    int64_t positions() const { return hooi.shape[1] * hooi.shape[2]; }
};

struct SaliencyItem {
    Tensor x{};
    double* map = nullptr;  // [S]
    bool finite = true;
    bool sure = true;  // the map is beyond the rounding of the passes, and so is every sign that matters
};

struct FinishPlan {
    int64_t height, width;  // of a map
    int64_t height_out, columns;
    bool resize, normalize;
    double noise;  // a result is constant where it spreads by no more than this part of the map's largest entry
    const Tap *down, *across;  // [height_out], [columns]
};

// `wide`: accumulate and solve in double. Workspaces are 64-byte aligned.
struct Level {
    const char* name;
    int vector_bytes;

    int64_t (*mode_gram_bytes)(bool wide, const Tensor& x, int mode, bool center);
    void (*mode_gram)(bool wide, const Tensor& x, int mode, bool center, double* g, char* workspace);

    int (*truncated_svd_group)(bool wide, int64_t n);
    int64_t (*truncated_svd_bytes)(bool wide, int64_t n);
    void (*truncated_svd)(bool wide, const double* const* g, int count, int n, int rank, double* const* values,
                          double* const* vectors, char* workspace);

    int64_t (*core_contraction_bytes)(bool wide, const Tensor& x, const void* const* factors, const int64_t* rank);
    // factors: contiguous [I_n, R_n] in the result's type, null for the modes that stay.
    void (*core_contraction)(bool wide, const Tensor& x, const void* const* factors, const int64_t* rank, void* out,
                             char* workspace);

    int (*hooi_group)(bool wide, const HooiPlan& plan);
    int64_t (*hooi_bytes)(bool wide, const HooiPlan& plan);
    void (*hooi)(bool wide, const HooiPlan& plan, HooiItem* items, int count, char* workspace);

    int (*saliency_group)(bool wide, const SaliencyPlan& plan);
    int64_t (*saliency_bytes)(bool wide, const SaliencyPlan& plan);
    void (*saliency)(bool wide, const SaliencyPlan& plan, SaliencyItem* items, int count, char* workspace);

    // map [height, width] and out [height_out, columns] in double when `wide`, else in float
    int64_t (*finish_bytes)(bool wide, const FinishPlan& plan);
    void (*finish)(bool wide, const FinishPlan& plan, const void* map, void* out, char* workspace);

    double (*fma_rate)(
        int64_t steps);  // float32 FLOP that `steps` steps of independent FMAs make; returns their number
};

// The level in use: the best that this machine supports, or the one that TSM_FAST_SIMD names.
const Level& level();
// Names of the levels this machine supports, the best last; null behind them.
const char* const* supported_levels();

}  // namespace tsm
