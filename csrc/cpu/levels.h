// The six steps on one item or one group of items, compiled once per SIMD level, and the plans that all levels share.
#pragma once
#include <cstdint>

#include "cpu/workspace.h"
#include "plans.h"
#include "tap.h"

namespace tsm {

// A group of items is never larger than the lanes of a vector of floats.
constexpr int kMostItems = 16;

// Entries of |A^T A - I| that are let stand in results in double or float: inside the table of docs/backends.md, 1e-12
// and 1e-5.
inline double most_loss(bool wide) {
    return wide ? 3e-13 : 1e-7;
}

struct CpuHooiPlan : HooiPlan {
    bool refine = false;             // core from one more pass over X, good to eps instead of sqrt(eps)
    bool factors = false;            // A_big is wanted
    bool guard = false;              // items that float passes cannot vouch for are computed again in double
    double loss = most_loss(false);  // how much of their orthonormality vectors may lack
    bool keeps_scale = false;        // core and singular values stay those of X times the item's scale
};

struct HooiItem {
    Tensor x{};
    double scale = 1;  // x is used times this power of two
    double norm2 = 0;
    bool finite = true, active = false, converged = false;
    bool hopeless = false;       // passes in float were given up
    double* hosvd[kMaxOrder]{};  // [I_n, R_n], where a Gram matrix in double gave it in spite of them
    bool has_hosvd[kMaxOrder]{};
    int n_sweeps = 0;
    const double* start[kMaxOrder]{};  // [I_n, R_n], where the plan has factors to start from
    const double* padding = nullptr;   // [I_n, R_n - found] of the padded mode
    double* errors = nullptr;          // [n_iter_max]
    double* factor[kMaxOrder]{};       // [I_n, R_n], the big mode's left out
    void* target = nullptr;            // where A_big is wanted, in double when `target_wide`, else in float; or null
    bool target_wide = false;
    void* big_factor = nullptr;  // A_big [I_big, R_big]: the target, or where the types differ a place of its own
    bool big_wide = false;
    double weakest = 1;           // of the HOSVD: the least sigma_r / sigma_1 of an unfolding, squared
    double* core = nullptr;       // [R_1, ..., R_N]
    double* sigma[kMaxOrder]{};   // [R_n]
    double* responses = nullptr;  // T = X_(big)^T A_big, [S, R_big], S the product of the other modes
    double* weights = nullptr;    // A_big = X_(big) weights, [S, R_big]
};

struct TripletsPlan {
    int64_t rank;
    bool turned;      // left vectors are wanted as [rank, M] and right ones as [N, rank], else [M, rank] and [rank, N]
    bool sign_right;  // signed by the right vectors, else by the left ones
};

struct TripletsItem {
    Tensor x{};        // [M, N], M >= N
    double scale = 1;  // x is used times this power of two
    float *left = nullptr, *values = nullptr, *right = nullptr;
    bool finite = true;
};

// What is tried of maps before they are finished, and of products.
struct OrdinaryMaps {
    int64_t size;              // entries of a map
    double smallest, largest;  // of the largest magnitude
    double faint, noise;       // shares of the largest magnitude between which a spread is too little
    bool nan;                  // whether NaN is
};

struct SaliencyPlan {
    Method method;
    bool center;
    bool absolute;  // combine="absolute"
    Sign sign;
    bool relu;         // the negative part or the sign goes in the end
    bool truncated;    // at a rank, by HOOI
    bool copies;       // H and W do not lie in memory like one mode
    CpuHooiPlan hooi;  // order 3: C, H, W; rank only where truncated
    bool single() const { return method == Method::eigencam || method == Method::tsm; }
    double rectified(double x) const { return relu ? __builtin_fabs(x) : x; }  // of all but eigencam
    int64_t channels() const { return hooi.shape[0]; }
    int64_t positions() const { return hooi.shape[1] * hooi.shape[2]; }
};

struct SaliencyItem {
    Tensor x{};
    double* map = nullptr;  // [S]
    bool finite = true;
    bool sure = true;  // the map is beyond the rounding of the passes, and so is every sign that matters
};

// Where a solver has its symmetric matrices from, and where their eigenpairs go.
struct EighItems {
    virtual Tensor source(int k) const = 0;                                    // [n, n] in float or double
    virtual void take(int k, double* matrix) = 0;                              // the same, dense and whole
    virtual void put(int k, const double* values, const double* vectors) = 0;  // [rank], descending, and [n, rank]
};

struct FinishPlan {
    int64_t height, width;  // of a map
    int64_t rows, columns;  // of the result
    bool resize, normalize;
    double noise;  // a result is constant where it spreads by no more than this part of the map's largest entry
    const Tap *down, *across;  // [rows], [columns]
};

// Columns [n, count] in 16-bit integers, each times a number of its own, and the largest and smallest products with
// them that were found (level/word_dots.inl).
struct WordColumns {
    int64_t n, count;
    int64_t whole;             // the first of them stand in `tiles` by whole vectors, the others one by one in `dots`
    int64_t ld;                // of rows and dots: n up to whole vectors of words
    int32_t* tiles{};          // [(n + 1) / 2, whole], two words an entry
    int16_t *dots{}, *rows{};  // [count - whole, ld], and scratch for a panel
    float* inverse{};          // [count], of the factor of each column
    float *most{}, *least{};   // [count], or 0
    double longest = 0;        // of all rows
};
using WordPanel = void (*)(WordColumns& columns, const float* rows, int64_t ld, int64_t count, const char* ahead,
                           int64_t lines);
// For machines with an instruction for dots of words; null elsewhere.
WordPanel wide_word_panel();

// `wide`: accumulate and solve in double. `narrow`: the vectors are wanted in float. `in_float`: so are the
// eigenvalues, all of them, and what rounding of the largest moves of the others may be lost. Results of hooi and
// saliency may lie in `memory`, until it is used again.
struct Level {
    const char* name;

    void (*mode_gram)(bool wide, const Tensor& x, int mode, bool center, double* g, const ArenaState& memory);

    int (*truncated_svd_group)(bool wide, int64_t n, bool in_float);
    void (*truncated_svd)(bool wide, EighItems& items, int count, int n, int rank, bool narrow, bool in_float,
                          const ArenaState& memory);

    // As many items as truncated_svd_group says for double.
    void (*singular_triplets)(const TripletsPlan& plan, TripletsItem* items, int count, const ArenaState& memory);

    // factors[n]: [I_n, R_n], or without data where mode n stays.
    // next: the item that will be read after x, or null
    void (*core_contraction)(bool wide, const Tensor& x, const Tensor* factors, const void* next, void* out,
                             const ArenaState& memory);

    int (*hooi_group)(bool wide, const CpuHooiPlan& plan);
    void (*hooi)(bool wide, const CpuHooiPlan& plan, HooiItem* items, int count, const ArenaState& memory);

    int (*saliency_group)(bool wide, const SaliencyPlan& plan);
    void (*saliency)(bool wide, const SaliencyPlan& plan, SaliencyItem* items, int count, const ArenaState& memory);

    bool (*channel_mean)(bool wide, const Tensor& x, double* map, const ArenaState& memory);  // whether it is finite

    // map [height, width] and out [rows, columns] in double when `wide`, else in float
    void (*finish)(bool wide, const FinishPlan& plan, const void* map, void* out, const ArenaState& memory);
    bool (*is_ordinary)(bool wide, const OrdinaryMaps& plan, const void* map);
};

// The level in use: the best that this machine supports, or the one that TSM_FAST_SIMD names.
const Level& level();
// Names of the levels this machine supports, the best last; null behind them.
const char* const* supported_levels();

}  // namespace tsm
