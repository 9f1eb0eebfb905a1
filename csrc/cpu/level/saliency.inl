// Saliency maps of a group of items, from the eigenpairs of the smaller Gram matrix of the features F [C, S]:
// positions, where F^T u_i = sigma_i v_i gives the maps without another pass and only the sign of u_i needs one,
// or channels, where the combination of the u_i is projected in one pass.
#pragma once
#include "cpu/level/eigen/leading_pair.inl"
#include "cpu/level/extremes.inl"
#include "cpu/level/hooi.inl"
#include "cpu/level/mode_gram.inl"
#include "cpu/level/truncated_svd.inl"

namespace tsm::TSM_LEVEL {
namespace {

// Magnitudes this close are the same one but for rounding.
template <class T>
constexpr double kTie = sizeof(T) == 4 ? 1e-6 : 1e-13;

// The entry of largest magnitude, the first one on a tie.
static inline double largest_entry(const double* x, int64_t n, int64_t step = 1) {
    double most = 0;
    for (int64_t i = 0; i < n; ++i) most = __builtin_fabs(x[i * step]) > most ? __builtin_fabs(x[i * step]) : most;
    for (int64_t i = 0; i < n; ++i)
        if (__builtin_fabs(x[i * step]) >= (1 - kTie<double>)*most) return x[i * step];
    return most;  // NaN alone, or nothing
}

// Rounding of a Gram matrix G in float moves the product of two of its eigenvectors v and w over it by about this much
// times the roots of what each sees of the diagonal, sum_i v_i^2 G_ii: the mean eigenvalue where v is spread, the first
// one where a few large entries make it. In most cases it is a tenth of it.
constexpr double kGramRounding = 4e-7;
// The same where the vectors have many entries: of 6000 pairs the largest was 9e-8.
constexpr double kGramRoundingOfMany = 1.3e-7;
constexpr int64_t kMany = 256;

// How far that turns two eigenvectors into one another.
static inline double turned(double rounding, double gap) {
    return gap > rounding ? rounding / gap : 1;
}
// weights[j]: of vector j in a map. The same for what turning the vectors of neighbouring eigenvalues adds to it, in a
// fixed irregular order of signs; of near values the nearest decide alone. seen[j]: of the diagonal, by vector j
static inline void turn_weights(const double* lambda, const double* weights, int64_t n, const double* seen,
                                double* moved, double relative = kGramRounding) {
    for (int64_t j = 0; j < n; ++j) moved[j] = 0;
    for (int64_t j = 0; j + 1 < n; ++j) {
        const double rounding = relative * __builtin_sqrt(seen[j] * seen[j + 1]);
        const double by = turned(rounding, lambda[j] - lambda[j + 1]) * (j % 3 == 0 ? -1 : 1);
        moved[j + 1] += by * weights[j];
        moved[j] -= by * weights[j + 1];
    }
}

static inline double dot(const double* a, const double* b, int64_t n, bool absolute = false) {
    constexpr int L = kLanes<double>;
    Vec<double> sums{};
    int64_t j = 0;
    for (; j + L <= n; j += L) {
        const Vec<double> x = load(b + j);
        sums += load(a + j) * (absolute ? vabs<double>(x) : x);
    }
    double sum = sum_lanes<double>(sums);
    for (; j < n; ++j) sum += a[j] * (absolute ? __builtin_fabs(b[j]) : b[j]);
    return sum;
}
static inline double larger_size(double most, double x) {
    return __builtin_fabs(x) > most ? __builtin_fabs(x) : most;
}

constexpr double kNarrowVectors = 1e-6;  // what eigenvectors in float move of a map, and of a vector's entries
constexpr double kSingleError = 1e-5, kCombinedError = 5e-5;  // of a normalised map, half of what is promised

// Whether a map [size] that may be wrong by `error` holds when it is normalised.
static inline bool holds(const double* map, int64_t size, double error, double limit) {
    double low = map[0], high = map[0];
    for (int64_t i = 1; i < size; ++i) {
        low = map[i] < low ? map[i] : low;
        high = map[i] > high ? map[i] : high;
    }
    return error <= limit * (high - low);
}

template <class T>
struct SaliencyGroup {
    const SaliencyPlan& plan;
    int64_t c, s, n;
    bool by_position;
    bool narrow;  // vectors that are good to float do
    Arena arena;
    Tensor matrix[kMostItems];  // F as [C, S]
    double scale[kMostItems], gain[kMostItems];
    double* means[kMostItems];  // of the channels, for centring the channel Gram
    double *gram[kMostItems], *values[kMostItems], *vectors[kMostItems];  // vectors: [n, found]
    int found[kMostItems];

    static int64_t smaller(const SaliencyPlan& p) {
        return p.channels() < p.positions() ? p.channels() : p.positions();
    }
    static int group_size(const SaliencyPlan& p) {
        const int64_t n = smaller(p);
        int group = eigh_group<double>(n);
        while (group > 1 &&
               group * (item_bytes(p) + (p.copies ? p.channels() * p.positions() * 8 : 0)) > (int64_t{18} << 20))
            group /= 2;
        return group;
    }
    static int64_t item_bytes(const SaliencyPlan& p) {
        const int64_t n = smaller(p);
        return (2 * n * n + n + p.channels()) * 8 + 4 * 64;
    }
    SaliencyGroup(const SaliencyPlan& p, Arena& from, bool narrow_vectors)
        : plan(p),
          c(p.channels()),
          s(p.positions()),
          n(smaller(p)),
          by_position(s <= c),
          narrow(narrow_vectors && (sizeof(T) == 4 || !signs_by_pass())),
          arena(from) {}
    // Whether signs are those of the products of the vectors with F, not their own.
    bool signs_by_pass() const { return !plan.absolute && by_position == (plan.sign == Sign::u); }

    Adjust adjust(int k) const {
        if (!plan.center) return Adjust{false, nullptr, 1, scale[k], gain[k]};
        return by_position ? Adjust{true, nullptr, 1, scale[k], gain[k]}
                           : Adjust{false, means[k], s, scale[k], gain[k]};
    }
    // Rows are channels (fibres over positions).
    Adjust adjust_channels(int k) const { return Adjust{plan.center, nullptr, 1, scale[k], gain[k]}; }
    // What F was multiplied with is taken out again, step by step: the product of the powers may be no number.
    double unscaled(double x, int k) const { return x / gain[k] / scale[k]; }
    Fibres channels(int k) const { return fibres_of(matrix[k], 1); }
    Fibres positions(int k) const { return fibres_of(matrix[k], 0); }

    void run(SaliencyItem* items, int count) {
        int open[kMostItems], left = 0;
        for (int k = 0; k < count; ++k) {
            locate(items[k], k);
            if (!(matrix_free(items[k]) && lead(items, count, k))) open[left++] = k;
        }
        const double* g[kMostItems];
        double *value[kMostItems], *vector[kMostItems];
        const int rank = columns();
        for (int i = 0; i < left; ++i) {
            read(items[open[i]], open[i]);
            g[i] = gram[open[i]];
            value[i] = values[open[i]];
            vector[i] = vectors[open[i]];
        }
        int columns_found[kMostItems];
        Wanted wanted;
        if (!plan.single()) {
            wanted.narrow = narrow;
            wanted.plain = guarded();
            wanted.negligible = kNegligible;
            wanted.found = columns_found;
        }
        if (left > 0) eigh_items<double>(g, left, static_cast<int>(n), rank, value, vector, arena, wanted);
        for (int i = 0; i < left; ++i) {
            const int k = open[i];
            found[k] = plan.single() ? rank : columns_found[i];
            for (int j = 0; j < rank; ++j) value[i][j] = value[i][j] > 0 ? value[i][j] : 0;
            double* map = items[k].map;
            if (!items[k].finite)
                for (int64_t p = 0; p < s; ++p) map[p] = __builtin_nan("");
            else
                items[k].sure &= plan.single() ? single_map(k, map) : combined_map(k, map);
        }
    }

    // Eigenpairs that are wanted: a single map takes the second to know how far the first may be turned.
    int columns() const { return plan.single() ? (n > 1 ? 2 : 1) : static_cast<int>(n); }
    bool guarded() const { return sizeof(T) == 4 && plan.hooi.guard; }
    // What each of the eigenvectors of item k sees of the diagonal of its Gram matrix: [found]
    double* diagonal_seen(int k, Arena& scratch) const {
        const int rank = found[k];
        double* seen = scratch.take<double>(rank);
        for (int j = 0; j < rank; ++j) seen[j] = 0;
        for (int64_t i = 0; i < n; ++i)
            for (int j = 0; j < rank; ++j) {
                const double v = vectors[k][i * rank + j];
                seen[j] += v * v * gram[k][i * n + i];
            }
        return seen;
    }

    // One vector of a large matrix, or of one whose leading value stands out, needs no Gram matrix. Passes in float do
    // for an item in double too, if rounded to float it is in range, unless they were asked for in double.
    bool matrix_free(const SaliencyItem& item) const {
        const bool in_float = sizeof(T) == 4 || (plan.hooi.guard && item.x.dtype == DType::f64);
        return in_float && plan.single() && (!plan.center || n > kLockstep);
    }

    // The map of item k from its leading pair; false where the pair could not be had or proved.
    bool lead(SaliencyItem* items, int count, int k) {
        Arena scratch = arena;
        const Fibres f = channels(k);
        Rows rows{static_cast<const float*>(f.data), c, s, f.stride[0]};
        const bool direct = f.dtype == DType::f32 && f.step == 1;
        const int64_t ld = padded<float>(s);
        float* copy = scratch.take<float>(c * ld);
        auto read_copy = [&](double factor) {
            pack_panel<float>(f, Adjust{false, nullptr, 1, factor}, 0, c, copy, ld);
            rows = Rows{copy, c, s, ld};
        };
        if (!direct) read_copy(1);
        const bool fetches = direct && k + 1 < count && c * s * 4 <= kFetchedItem;
        double* v = scratch.take<double>(s);
        LeadingPair pair =
            leading_pair(rows, plan.center, v, scratch,
                         fetches ? static_cast<const char*>(items[k + 1].x.data) : nullptr, fetches ? c * s * 4 : 0);
        if (pair.proof == Proof::out_of_range) {
            const double largest = largest_magnitude(items[k].x, scratch);
            if (!(largest > 0 && largest <= 1.7976931348623157e308)) return false;
            scale[k] = safe_scale<float>(largest);
            read_copy(scale[k]);
            pair = leading_pair(rows, plan.center, v, scratch);
        }
        const bool count_needed = pair.proof == Proof::needs_count;
        if (pair.proof != Proof::proven && !(count_needed && n > kLockstep)) return false;
        const double sigma = __builtin_sqrt(pair.lambda), factor = scale[k];
        for (int64_t i = 0; i < s; ++i) items[k].map[i] = sigma * v[i] / factor;
        if (count_needed) {
            read(items[k], k);  // takes the scratch space of the pair
            Arena after = arena;
            const double relative = scale[k] * gain[k] / factor;
            const double mu = (pair.second + 0.2 * (pair.lambda - pair.second)) * relative * relative;
            if (!one_above(gram[k], static_cast<int>(n), mu, after.take<double>(n * (n + 2)))) return false;
        }
        items[k].finite = true;
        const double largest = __builtin_fabs(largest_entry(items[k].map, s));
        sign_single(k, items[k].map);
        // What is left when the sign cuts the largest entries off may be so little that the passes in float show in it.
        return plan.method == Method::tsm || __builtin_fabs(largest_entry(items[k].map, s)) > largest / 64;
    }

    void locate(const SaliencyItem& item, int k) {
        scale[k] = gain[k] = 1;
        gram[k] = nullptr;
        if (as_matrix(item.x, 0, &matrix[k])) return;
        T* copy = arena.take<T>(c * s);
        copy_dense<T>(item.x, 1, copy, arena);
        const int64_t shape[2] = {c, s};
        matrix[k] = dense_tensor(copy, sizeof(T) == 4 ? DType::f32 : DType::f64, 2, shape);
    }

    void read(SaliencyItem& item, int k) {
        if (gram[k]) return;  // the proof of the leading pair needed it
        gram[k] = arena.take<double>(n * n);
        vectors[k] = arena.take<double>(n * n);
        values[k] = arena.take<double>(n);
        means[k] = plan.center && !by_position ? arena.take<double>(c) : nullptr;
        item.finite = true;
        if (squares_in_range<T>(gather(k))) return;
        const double largest = largest_magnitude(item.x, arena);
        item.finite = largest <= 1.7976931348623157e308;
        if (!item.finite || largest == 0) return;
        scale[k] = safe_scale<T>(largest);
        if (squares_in_range<T>(gather(k))) return;
        double left = 1;  // of the largest magnitude, after the mean
        if (plan.center) {
            if (means[k]) last_mode_means(positions(k), s, scale[k], means[k], arena);
            left = largest_magnitude(by_position ? channels(k) : positions(k), adjust(k), arena);
            gain[k] = left > 0 ? safe_scale<T>(left) : 1;
        }
        item.sure = squares_in_range<T>(gather(k)) || left == 0;
    }
    // The Gram matrix of item k; returns its trace.
    double gather(int k) {
        if (means[k]) last_mode_means(positions(k), s, scale[k], means[k], arena);
        const bool afterwards = sizeof(T) == 4 && plan.single() && plan.center && by_position;
        if (afterwards) gram_item<T>(channels(k), Adjust{false, nullptr, 1, scale[k]}, gram[k], arena);
        if (!afterwards || !center_gram(gram[k], n, arena))
            gram_item<T>(by_position ? channels(k) : positions(k), adjust(k), gram[k], arena);
        double trace = 0;
        for (int64_t i = 0; i < n; ++i) trace += gram[k][i * n + i];
        return trace;
    }

    // visit(row, products) for every row of `f` and its products with b [f.n, columns]: T products[columns].
    template <class Visit>
    void multiply(const Fibres& f, const Adjust& how, const T* b, int64_t columns, Arena scratch, Visit visit) const {
        Panels<T> panels(f, how, scratch);
        const int64_t ld = padded<T>(columns);
        T* out = scratch.take<T>(panels.per_panel * ld);
        for (int64_t k = 0; k < f.count; k += panels.per_panel) {
            const int64_t count = f.count - k < panels.per_panel ? f.count - k : panels.per_panel;
            product<T, true>(count, columns, f.n, panels.rows(k, count), panels.ld, b, columns, out, ld);
            for (int64_t r = 0; r < count; ++r) visit(k + r, out + r * ld);
        }
    }
    // Of the products of the rows of `f` with b, whose largest and smallest are `high` and `low`: the sign of the one
    // of largest magnitude, the first one on a tie. b: [f.n], ldb apart
    double sign_of_largest(const Fibres& f, const Adjust& how, const double* b, int64_t ldb, double high, double low,
                           Arena scratch) const {
        const double most = high > -low ? high : -low;
        if (most == 0 || __builtin_fabs(high + low) > kTie<T> * most) return high + low < 0 ? -1 : 1;
        T* column = scratch.take<T>(f.n);
        for (int64_t i = 0; i < f.n; ++i) column[i] = static_cast<T>(b[i * ldb]);
        double sign = 0;
        multiply(f, how, column, 1, scratch, [&](int64_t, const T* w) {
            const double x = static_cast<double>(w[0]);
            if (sign == 0 && __builtin_fabs(x) >= (1 - kTie<T>)*most) sign = x < 0 ? -1 : 1;
        });
        return sign < 0 ? -1 : 1;
    }
    // What the last columns may weigh together in a map, of the first: their signs cannot matter, nor can they.
    static constexpr double kNegligible = sizeof(T) == 4 ? 2e-7 : 1e-13;
    T* vectors_as_t(int k, Arena& scratch) const {
        T* b = scratch.take<T>(n * found[k]);
        for (int64_t i = 0; i < n * found[k]; ++i) b[i] = static_cast<T>(vectors[k][i]);
        return b;
    }
    // map = F^T z for z [C]; returns the largest magnitude in F^T other.
    double project(int k, const double* z, const double* other, double* map, Arena scratch) const {
        const Fibres f = positions(k);
        const int64_t np = padded<T>(c);
        T* b = scratch.take<T>(2 * np);
        for (int64_t i = 0; i < np; ++i) {
            b[i] = i < c ? static_cast<T>(z[i]) : T(0);
            b[np + i] = i < c ? static_cast<T>(other[i]) : T(0);
        }
        double most = 0;
        Panels<T> panels(f, adjust(k), scratch);
        for (int64_t at = 0; at < s; at += panels.per_panel) {
            const int64_t count = s - at < panels.per_panel ? s - at : panels.per_panel;
            const T* rows = panels.rows(at, count);
            for (int64_t r = 0; r < count; ++r) {
                map[at + r] = static_cast<double>(row_dot(rows + r * panels.ld, b, c));
                if (guarded()) most = larger_size(most, static_cast<double>(row_dot(rows + r * panels.ld, b + np, c)));
            }
        }
        return most;
    }

    // eigencam and tsm: F^T u_1 with its sign, then the negative part or the sign goes. False where the second vector
    // may be in it.
    bool single_map(int k, double* map) {
        const int rank = columns();
        const double *lambda = values[k], *v = vectors[k];
        double by = 0;  // how far the second vector may be in the first
        if (guarded() && n > 1) {
            Arena scratch = arena;
            const double* seen = diagonal_seen(k, scratch);
            by = turned(kGramRounding * __builtin_sqrt(seen[0] * seen[1]), lambda[0] - lambda[1]);
        }
        double error = 0;
        if (by_position) {
            const double sigma = __builtin_sqrt(lambda[0]);
            for (int64_t i = 0; i < s; ++i) {
                map[i] = sigma * v[i * rank];
                error = larger_size(error, by > 0 ? sigma * by * v[i * rank + 1] : 0);
            }
        } else {
            Arena scratch = arena;
            double* u = scratch.take<double>(c);
            double* other = scratch.take<double>(c);
            for (int64_t i = 0; i < c; ++i) {
                u[i] = v[i * rank];
                other[i] = by > 0 ? by * v[i * rank + 1] : 0;
            }
            error = project(k, u, other, map, scratch);
        }
        for (int64_t i = 0; i < s; ++i) map[i] = unscaled(map[i], k);
        sign_single(k, map);
        return !guarded() || holds(map, s, unscaled(error, k), kSingleError);
    }
    void sign_single(int k, double* map) {
        if (plan.relu && plan.method == Method::tsm) {
            for (int64_t i = 0; i < s; ++i) map[i] = __builtin_fabs(map[i]);
            return;
        }
        const double sign = direction_of(k, map) < 0 ? -1 : 1;
        for (int64_t i = 0; i < s; ++i) map[i] = !plan.relu || sign * map[i] > 0 ? sign * map[i] : 0;
    }
    double direction_of(int k, const double* map) const {
        if (plan.sign == Sign::absmax || plan.sign == Sign::v) return largest_entry(map, s);
        Arena scratch = arena;
        if (plan.sign == Sign::u) {
            double* v = scratch.take<double>(s);
            const double largest = __builtin_fabs(largest_entry(map, s));  // u_1 ~ F v_1, v_1 ~ map
            for (int64_t i = 0; i < s; ++i) v[i] = largest > 0 ? map[i] / largest : 0;
            double high, low;
            extremes<T>(channels(k), adjust_channels(k), v, 1, 1, &high, &low, scratch);
            return sign_of_largest(channels(k), adjust_channels(k), v, 1, high, low, scratch);
        }
        // The response of the uncentred features to u_1 ~ F v_1, v_1 ~ map, summed over the positions.
        T* b = scratch.take<T>(2 * s);
        double* sums = scratch.take<double>(c);
        double total = 0;
        const double largest = __builtin_fabs(largest_entry(map, s));
        if (largest == 0) return 1;
        for (int64_t i = 0; i < s; ++i) {
            b[i] = 1;
            b[s + i] = static_cast<T>(map[i] / largest);
        }
        multiply(channels(k), Adjust{false, nullptr, 1, scale[k]}, b, 1, scratch,
                 [&](int64_t channel, const T* w) { sums[channel] = static_cast<double>(w[0]); });
        multiply(channels(k), adjust_channels(k), b + s, 1, scratch,
                 [&](int64_t channel, const T* w) { total += sums[channel] * static_cast<double>(w[0]); });
        return total;
    }

    // multivec_eigencam and mtsm at full rank.
    bool combined_map(int k, double* map) {
        Arena scratch = arena;
        const double* lambda = values[k];
        const int64_t columns = found[k];
        double* weights = scratch.take<double>(columns);
        for (int64_t j = 0; j < columns; ++j) weights[j] = by_position ? lambda[j] : __builtin_sqrt(lambda[j]);
        double* doubtful = scratch.take<double>(columns);
        for (int64_t j = 0; j < columns; ++j) doubtful[j] = 0;
        if (!plan.absolute) apply_signs(k, weights, doubtful, scratch);
        double* moved = scratch.take<double>(columns);
        turn_weights(lambda, weights, columns, diagonal_seen(k, scratch), moved,
                     n < kMany ? kGramRounding : kGramRoundingOfMany);
        for (int64_t j = 0; sizeof(T) == 8 && j < columns; ++j) moved[j] = 0;  // the Gram matrix is in double
        double error = 0, missing = 0;
        for (int64_t j = columns; j < n; ++j) missing += lambda[j];
        if (by_position) {
            for (int64_t i = 0; i < s; ++i) {
                const double* v = vectors[k] + i * columns;
                map[i] = plan.rectified(dot(weights, v, columns, plan.absolute));
                error =
                    larger_size(error, __builtin_fabs(dot(moved, v, columns)) + 2 * dot(doubtful, v, columns, true));
            }
        } else if (plan.absolute) {
            multiply(positions(k), adjust(k), vectors_as_t(k, scratch), columns, scratch, [&](int64_t row, const T* w) {
                double sum = 0, other = 0;
                for (int64_t j = 0; j < columns; ++j) {
                    sum += weights[j] * __builtin_fabs(static_cast<double>(w[j]));
                    other += moved[j] * static_cast<double>(w[j]);
                }
                map[row] = sum;
                error = larger_size(error, other);
            });
        } else {
            double* z = scratch.take<double>(c);
            double* other = scratch.take<double>(c);
            for (int64_t i = 0; i < c; ++i) {
                z[i] = dot(weights, vectors[k] + i * columns, columns);
                other[i] = dot(moved, vectors[k] + i * columns, columns);
            }
            error = project(k, z, other, map, scratch);
            for (int64_t i = 0; i < s; ++i) map[i] = plan.rectified(map[i]);
        }
        if (narrow) error += kNarrowVectors * __builtin_fabs(largest_entry(map, s));
        bool sure = !(guarded() || narrow) || holds(map, s, error + missing, kCombinedError);
        for (int64_t j = 0; !by_position && j < columns; ++j) sure = sure && !(doubtful[j] > 0);
        for (int64_t i = 0; i < s; ++i) map[i] = unscaled(unscaled(map[i], k), k);
        return sure;
    }
    // Multiplies the weights with the signs of their vectors. doubtful: those of vectors that could have another sign
    // in float, else 0. Rounding of the Gram matrix turns vector j by up to 1e-7 / n trace / gap_j, and a pass over F
    // moves the entries of F v_j by 1e-7 sigma_1 / sigma_j of the largest.
    void apply_signs(int k, double* weights, double* doubtful, Arena scratch) const {
        const double *lambda = values[k], *v = vectors[k];
        const int64_t ld = found[k], that_matter = leading_values(lambda, n, kNegligible),
                      columns = that_matter < ld ? that_matter : ld;
        double* high = scratch.take<double>(columns);
        double* low = scratch.take<double>(columns);
        double* off = scratch.take<double>(columns);
        double* moved = scratch.take<double>(columns);
        const bool pass = signs_by_pass();
        const Fibres rows = by_position ? channels(k) : positions(k);
        const Adjust how = by_position ? adjust_channels(k) : adjust(k);
        double trace = 0;
        for (int64_t j = 0; j < n; ++j) trace += lambda[j];
        for (int64_t j = 0; j < columns; ++j) {
            high[j] = low[j] = off[j] = 0;
            const double above = j > 0 ? lambda[j - 1] - lambda[j] : lambda[0],
                         below = j + 1 < n ? lambda[j] - lambda[j + 1] : lambda[j];
            moved[j] = 1e-7 / static_cast<double>(n) * trace / (above < below ? above : below);
            if (pass) moved[j] += 1e-7 * __builtin_sqrt(lambda[0] / lambda[j]);
            if (sizeof(T) == 8) moved[j] = 0;
            if (narrow)
                moved[j] += kNarrowVectors * __builtin_sqrt(pass ? lambda[0] / lambda[j] : static_cast<double>(n));
            if (lambda[j] < 3e-6 * lambda[0]) moved[j] = 0;
        }
        const auto largest = [&](int64_t j) { return high[j] > -low[j] ? high[j] : -low[j]; };
        const auto margin = [&](int64_t j) { return __builtin_fabs(high[j] + low[j]); };
        const auto undecided = [&](int64_t j) {
            return !(margin(j) > (moved[j] > kTie<T> ? moved[j] : kTie<T>)*largest(j) + 2 * off[j]);
        };
        if (!pass) {  // the vectors themselves, which the solver signed
            for (int64_t i = 0; i < n; ++i)
                for (int64_t j = 0; j < columns; ++j) {
                    const double x = v[i * ld + j];
                    high[j] = x > high[j] ? x : high[j];
                    low[j] = x < low[j] ? x : low[j];
                }
        } else if (sizeof(T) == 8) {
            extremes<T>(rows, how, v, ld, columns, high, low, scratch);
        } else {
            word_extremes(rows, how, v, ld, columns, high, low, off, scratch);
            again_in_float(rows, how, v, ld, columns, undecided, high, low, off, scratch);
        }
        for (int64_t j = 0; j < columns; ++j) {
            if (pass)
                weights[j] *= sign_of_largest(rows, how, v + j, ld, high[j], low[j], scratch);
            else if (margin(j) > kTie<double> * largest(j))
                weights[j] *= high[j] < -low[j] ? -1 : 1;
            else
                weights[j] *= largest_entry(v + j, n, ld) < 0 ? -1 : 1;
            if (margin(j) > moved[j] * largest(j)) continue;
            const double sign = guarded() ? sign_in_double(rows, how, k, j, scratch) : 0;
            if (sign == 0)
                doubtful[j] = __builtin_fabs(weights[j]);
            else
                weights[j] = sign * __builtin_fabs(weights[j]);
        }
    }
    // The sign of the largest entry of vector j or of its products, once it is brought back to where rounding turned it
    // from by what it leaves of the matrix in double; 0 where that is not enough to tell.
    double sign_in_double(const Fibres& rows, const Adjust& how, int k, int64_t j, Arena scratch) const {
        constexpr int64_t L = kLanes<double>;
        const double *lambda = values[k], *v = vectors[k];
        const int64_t np = padded<double>(n), ld = found[k];
        double* x = scratch.take<double>(np);
        double* product = scratch.take<double>(np);
        for (int64_t i = 0; i < np; ++i) {
            x[i] = i < n ? v[i * ld + j] : 0;
            product[i] = 0;
        }
        {
            Arena within = scratch;
            Panels<double> panels(rows, how, within);
            for (int64_t at = 0; at < rows.count; at += panels.per_panel) {
                const int64_t count = rows.count - at < panels.per_panel ? rows.count - at : panels.per_panel;
                const double* row = panels.rows(at, count);
                for (int64_t r = 0; r < count; ++r, row += panels.ld) {
                    const double u = row_dot(row, x, n);
                    for (int64_t i = 0; i < n; i += L)
                        store(product + i, load(product + i) + u * load_first(row + i, n - i < L ? n - i : L));
                }
            }
        }
        const double value = dot(x, product, np) / dot(x, x, np);
        for (int64_t i = 0; i < n; ++i) product[i] -= value * x[i];
        double* along = scratch.take<double>(ld);
        for (int64_t p = 0; p < ld; ++p) along[p] = 0;
        for (int64_t i = 0; i < n; ++i)
            for (int64_t p = 0; p < ld; ++p) along[p] += v[i * ld + p] * product[i];
        double turned_by = 0, second = 0;
        for (int64_t p = 0; p < ld; ++p) {
            along[p] = p == j ? 0 : along[p] / (lambda[j] - lambda[p]);
            const double by = __builtin_fabs(along[p]);
            if (!(by < 0.03)) return 0;
            turned_by += by * (lambda[p] > lambda[j] ? __builtin_sqrt(lambda[p] / lambda[j]) : 1);
            second = by > second ? by : second;
        }
        for (int64_t i = 0; i < n; ++i) x[i] += dot(along, v + i * ld, ld);
        double high = 0, low = 0;
        if (signs_by_pass())
            extremes<double>(rows, how, x, 1, 1, &high, &low, scratch);
        else
            for (int64_t i = 0; i < n; ++i) {
                high = x[i] > high ? x[i] : high;
                low = x[i] < low ? x[i] : low;
            }
        // The vectors that it was turned back by are turned themselves, by about as much.
        const double most = high > -low ? high : -low, left = 10 * turned_by * second + (narrow ? 1e-5 : 1e-12);
        return __builtin_fabs(high + low) > left * most ? (high + low < 0 ? -1 : 1) : 0;
    }
    // The extremes of the undecided columns of v [n, ld] by T.
    template <class Undecided>
    void again_in_float(const Fibres& rows, const Adjust& how, const double* v, int64_t ld, int64_t columns,
                        Undecided undecided, double* high, double* low, double* off, Arena scratch) const {
        int64_t* at = scratch.take<int64_t>(columns);
        int64_t count = 0;
        for (int64_t j = 0; j < columns; ++j)
            if (off[j] > 0 && undecided(j)) at[count++] = j;
        if (count == 0) return;
        double* b = scratch.take<double>(n * count);
        double* most = scratch.take<double>(2 * count);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t q = 0; q < count; ++q) b[i * count + q] = v[i * ld + at[q]];
        extremes<T>(rows, how, b, count, count, most, most + count, scratch);
        for (int64_t q = 0; q < count; ++q) {
            high[at[q]] = most[q];
            low[at[q]] = most[count + q];
            off[at[q]] = 0;
        }
    }
};

// Whether the map of the responses t [S, R] times the weights [R] holds where float turned the columns of A_1.
static bool truncated_holds(const SaliencyPlan& plan, const HooiItem& item, const double* t, const double* weights,
                            double* map, Arena scratch) {
    const int64_t c = plan.channels(), s = plan.positions(), r = plan.hooi.rank[0];
    double* lambda = scratch.take<double>(r);
    double* moved = scratch.take<double>(r);
    for (int64_t j = 0; j < r; ++j) lambda[j] = item.sigma[0][j] * item.sigma[0][j];
    // What a vector sees of the diagonal is not known here: the mean, or of a small matrix less.
    const double mean = item.norm2 / static_cast<double>(c < s ? c : s), most = 0.15 * lambda[0];
    double* seen = scratch.take<double>(r);
    for (int64_t j = 0; j < r; ++j) seen[j] = mean < most ? mean : most;
    turn_weights(lambda, weights, r, seen, moved);
    double error = 0;
    if (r == 1) {  // its neighbour is not known: of what else X holds it has all at most
        const double rest = item.norm2 > lambda[0] ? item.norm2 - lambda[0] : 0;
        error = __builtin_fabs(weights[0]) * turned(kGramRounding * seen[0], lambda[0] - rest) * __builtin_sqrt(rest);
    }
    for (int64_t i = 0; i < s; ++i) {
        error = larger_size(error, dot(moved, t + i * r, r));
        map[i] = plan.rectified(map[i]);
    }
    // Where neighbours are close the sweeps hardly bring a vector back, and each turns it again.
    const double turns = plan.single() && item.n_sweeps > 1 ? item.n_sweeps : 1;
    return holds(map, s, turns * error, plan.single() ? kSingleError : kCombinedError);
}

// tsm and mtsm at a rank: the responses F^T a_i of the columns of A_1, whose sign is the factor's or (Sign::v) such
// that the response's entry of largest magnitude is positive.
// False where float may have turned the columns into one another.
template <class T>
static bool truncated_map(const SaliencyPlan& plan, HooiItem& item, double* map, Arena scratch) {
    const int64_t c = plan.channels(), s = plan.positions(), r = plan.hooi.rank[0];
    double* t = item.responses;
    if (plan.hooi.big != 0) {
        t = scratch.take<double>(s * r);
        Tensor matrix;
        if (item.finite && item.norm2 > 0) {
            const int64_t shape[2] = {c, s};
            if (!as_matrix(item.x, 0, &matrix)) {
                T* copy = scratch.take<T>(c * s);
                copy_dense<T>(item.x, 1, copy, scratch);
                matrix = dense_tensor(copy, sizeof(T) == 4 ? DType::f32 : DType::f64, 2, shape);
            }
            multiply_columns<T>(matrix, item.scale, item.factor[0], r, t, scratch);
        } else {
            for (int64_t i = 0; i < s * r; ++i) t[i] = item.finite ? 0 : __builtin_nan("");
        }
    }
    for (int64_t i = 0; i < s; ++i) map[i] = 0;
    const int64_t used = plan.single() ? 1 : r;
    double* weights = scratch.take<double>(r);
    for (int64_t j = 0; j < r; ++j) weights[j] = plan.single() ? j == 0 : item.sigma[0][j];
    for (int64_t j = 0; j < used; ++j) {
        double most = 0, entry = 0;
        for (int64_t i = 0; i < s; ++i)
            if (__builtin_fabs(t[i * r + j]) > most) most = __builtin_fabs(entry = t[i * r + j]);
        const bool by_map = plan.sign == Sign::v || plan.sign == Sign::absmax;
        const bool flip = by_map && !plan.absolute && entry < 0;
        weights[j] *= flip ? -1 : 1;
        for (int64_t i = 0; i < s; ++i)
            map[i] += weights[j] * (plan.absolute ? __builtin_fabs(t[i * r + j]) : t[i * r + j]);
    }
    const bool settled = item.big_wide || !item.finite || truncated_holds(plan, item, t, weights, map, scratch);
    for (int64_t i = 0; i < s; ++i) {
        map[i] = plan.rectified(map[i]) / item.scale;
        if (!plan.single()) map[i] /= item.scale;
    }
    return settled;
}

template <class T>
static int saliency_group_as(const SaliencyPlan& plan) {
    return plan.truncated ? hooi_group_size<T>(plan.hooi) : SaliencyGroup<T>::group_size(plan);
}

template <class T>
static void saliency_full(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
    SaliencyGroup<T>(plan, arena, false).run(items, count);
}
template <class T>
static void saliency_narrow(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
    SaliencyGroup<T>(plan, arena, true).run(items, count);
}

template <class T>
static void saliency_truncated(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
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
static void saliency_as(const SaliencyPlan& plan, SaliencyItem* items, int count, Arena arena) {
    const bool guarded = sizeof(T) == 4 && plan.hooi.guard;
    const bool narrow = guarded && !plan.single() && !plan.truncated && SaliencyGroup<T>::smaller(plan) > kLockstep;
    const auto first = narrow ? saliency_narrow<T> : plan.truncated ? saliency_truncated<T> : saliency_full<T>;
    first(plan, items, count, arena);
    if (!guarded) return;
    const auto again = [&](auto run) {
        const int most = saliency_group_as<double>(plan);
        SaliencyItem left[kMostItems];
        int at[kMostItems], n = 0;
        for (int k = 0; k < count; ++k)
            if (!items[k].sure) {
                at[n] = k;
                left[n] = items[k];
                left[n++].sure = true;
            }
        for (int i = 0; i < n; i += most) run(plan, left + i, n - i < most ? n - i : most, arena);
        for (int i = 0; i < n; ++i) items[at[i]].sure = left[i].sure;
    };
    if (narrow) again(saliency_narrow<double>);
    again(plan.truncated ? saliency_truncated<double> : saliency_full<double>);
}

}  // namespace
}  // namespace tsm::TSM_LEVEL
