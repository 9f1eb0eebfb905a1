// HOOI where one mode (`big`) is larger than the product of the others, from the Gram matrix G of the others: T =
// X_(big)^T A_big stands in for X. The sweeps run in double, passes over X in P (float
// or double).
#pragma once
#include "cpu/level/hooi/columns.inl"
#include "cpu/level/hooi/common.inl"

namespace tsm::TSM_LEVEL {
namespace {

// Whether the sweeps hold factor m as it is.
static bool has_factor(const HooiPlan& p, int m) {
    return m != p.big && !p.kept[m];
}
// Sizes, ranks and factors of all modes but the big one; returns their number.
template <class V>
static int other_modes(const HooiPlan& plan, const V* const* factor, int64_t* shape, int64_t* rank, const V** factors) {
    int n = 0;
    for (int i = 0; i < plan.order; ++i) {
        if (i == plan.big) continue;
        shape[n] = plan.shape[i];
        rank[n] = plan.rank[i];
        factors[n++] = plan.kept[i] ? nullptr : factor[i];
    }
    return n;
}

// core = T times the factors of the other modes. spare: two buffers of [S, R_big]
template <class V>
static void contract_responses(const HooiPlan& plan, const V* responses, const V* const* factor, V* const* spare,
                               V* core) {
    int64_t shape[kMaxOrder], rank[kMaxOrder], outer = 1, inner = 1;
    const V* factors[kMaxOrder];
    const int64_t r = plan.rank[plan.big];
    const int n = other_modes(plan, factor, shape, rank, factors);
    for (int i = 0; i < plan.order; ++i)
        if (i != plan.big) (i < plan.big ? outer : inner) *= plan.rank[i];
    shape[n] = rank[n] = r;
    factors[n] = nullptr;
    const V* y = multi_mode_product<V>(responses, n + 1, shape, factors, rank, spare);
    for (int64_t o = 0; o < outer; ++o)  // R_big moves from the end to its place
        for (int64_t i = 0; i < inner; ++i)
            for (int64_t k = 0; k < r; ++k) core[(o * r + k) * inner + i] = y[(o * inner + i) * r + k];
}

// What the sweeps keep of the items in the lanes of V: a vector, or double for an item alone.
template <class V>
struct GramItems {
    V* gram;       // [S, S], S the product of the other modes
    V* projected;  // G P, P the Kronecker product of their factors: [S, rho]
    V* weights;    // A_big = X_(big) weights, [S, R_big]
    V* responses;  // T, [S, R_big]
    V* core;
    V* factor[kMaxOrder];
    V* unfolded;
    V *matrix, *values, *vectors;  // an eigenproblem
};

// An item that stops is taken out; what its lane computes after that is not looked at.
template <class V>
struct GramSweeps {
    static constexpr int L = sizeof(V) / 8;
    static constexpr int kMost = kMostItems;
    const CpuHooiPlan& plan;
    HooiItem* items;
    int count;
    Arena arena;        // what is left of it is scratch
    int64_t s, rho, r;  // the others' sizes and ranks multiplied, R_big
    GramItems<V> parts[kMost];
    int n_parts;
    V* turned;  // transposed factors
    V* spare[2];

    // Elements of what a product with one factor may leave.
    static int64_t spare_size(const HooiPlan& p) {
        const int64_t s = p.others_size(p.big);
        int64_t columns = p.rank[p.big];
        for (int m = 0; m < p.order; ++m)
            if (m != p.big && s / p.shape[m] * p.rank[m] > columns) columns = s / p.shape[m] * p.rank[m];
        return s * columns;
    }
    GramSweeps(const CpuHooiPlan& p, HooiItem* its, int n, const Arena& from)
        : plan(p),
          items(its),
          count(n),
          arena(from),
          s(p.others_size(p.big)),
          rho(p.others_rank(p.big)),
          r(p.rank[p.big]),
          n_parts((n + L - 1) / L) {
        const int64_t largest = largest_problem(p);
        int64_t sizes = 0;
        for (int m = 0; m < p.order; ++m) sizes += has_factor(p, m) ? p.shape[m] * p.rank[m] : 0;
        for (int i = 0; i < n_parts; ++i) {
            GramItems<V>& own = parts[i];
            own.gram = arena.take<V>(s * s);
            own.projected = arena.take<V>(s * rho);
            own.weights = arena.take<V>(s * r);
            own.responses = arena.take<V>(s * r);
            own.core = arena.take<V>(p.core_size());
            for (int m = 0; m < p.order; ++m)
                own.factor[m] = has_factor(p, m) ? arena.take<V>(p.shape[m] * p.rank[m]) : nullptr;
            own.unfolded = arena.take<V>(unfolded_size(p));
            own.matrix = arena.take<V>(largest * largest);
            own.values = arena.take<V>(largest);
            own.vectors = arena.take<V>(largest * largest);
        }
        turned = arena.take<V>(sizes);
        for (auto& buffer : spare) buffer = arena.take<V>(spare_size(p));
    }

    static int64_t bytes(const CpuHooiPlan& p, int count) {
        return bytes_taken([&](Arena& arena) { arena = GramSweeps(p, nullptr, count, arena).arena; });
    }

    // ---- lanes ----
    static double& at(V* from, int64_t i, int lane) { return reinterpret_cast<double*>(from)[i * L + lane]; }
    static void put(const double* from, int64_t size, int lane, V* to) {
        for (int64_t i = 0; i < size; ++i) at(to, i, lane) = from[i];
    }
    static void get(V* from, int64_t size, int lane, double* to) {
        for (int64_t i = 0; i < size; ++i) to[i] = at(from, i, lane);
    }
    static void copy(const V* from, int64_t size, V* to) {
        __builtin_memcpy(to, from, static_cast<size_t>(size) * sizeof(V));
    }
    // visit(item, its part, its lane) for those that have not stopped
    template <class Visit>
    void each_active(Visit visit) {
        for (int k = 0; k < count; ++k)
            if (items[k].active) visit(items[k], parts[k / L], k % L);
    }
    // The items' Gram matrices, null where there is nothing to decompose: such a lane solves the identity.
    void take(const double* const* grams, const double* any) {
        for (int part = 0; part < n_parts; ++part) {
            const double* from[L];
            for (int lane = 0; lane < L; ++lane) {
                const int k = part * L + lane;
                from[lane] = k < count ? grams[k] : nullptr;
            }
            V* to = parts[part].gram;
            for (int64_t i = 0; i < s * s; ++i)
                for (int lane = 0; lane < L; ++lane) at(to, i, lane) = (from[lane] ? from[lane] : any)[i];
            for (int lane = 0; lane < L; ++lane)
                for (int64_t i = 0; !from[lane] && i < s * s; ++i) at(to, i, lane) = i / s == i % s;
        }
    }
    // What an item has come to.
    void keep(HooiItem& item, const GramItems<V>& own, int lane) const {
        get(own.core, plan.core_size(), lane, item.core);
        for (int m = 0; m < plan.order; ++m)
            if (has_factor(plan, m)) get(own.factor[m], plan.shape[m] * plan.rank[m], lane, item.factor[m]);
        get(own.responses, s * r, lane, item.responses);
        get(own.weights, s * r, lane, item.weights);
    }

    // ---- the eigenproblems in `matrix` ----
    void solve(int64_t n, int64_t rank) {
        if constexpr (L > 1)  // n <= kLockstep, see in_lanes
            for (int i = 0; i < n_parts; ++i) solve_in_lanes(parts[i], static_cast<int>(n), static_cast<int>(rank));
        else
            solve_one_by_one(static_cast<int>(n), static_cast<int>(rank));
    }
    void solve_in_lanes(const GramItems<V>& own, int n, int rank) {
        Arena scratch = arena;
        LaneEigen<double> solver(n, scratch);
        V* a = scratch.take<V>(n * solver.ld);
        V largest{}, power{};
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) largest = vmax<double>(largest, vabs<double>(own.matrix[i * n + j]));
        for (int lane = 0; lane < L; ++lane)
            at(&power, 0, lane) = at(&largest, 0, lane) > 0 ? power_below(at(&largest, 0, lane)) : 1;
        for (int i = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j) {
                const V of_zero = V{} + (i == j ? 1 - i / (2.0 * n) : 0);  // its vectors: columns of the identity
                a[i * solver.ld + j] = largest > 0 ? own.matrix[i * n + j] * power : of_zero;
            }
        solver.solve(a, rank, own.values, own.vectors, plan.loss);
        for (int j = 0; j < rank; ++j) own.values[j] = largest > 0 ? own.values[j] / power : V{};
    }
    void solve_one_by_one(int n, int rank) {
        const double* g[kMost];
        double *value[kMost], *vector[kMost];
        int open = 0;
        each_active([&](HooiItem&, GramItems<V>& own, int) {
            g[open] = own.matrix;
            value[open] = own.values;
            vector[open++] = own.vectors;
        });
        const int group = eigh_group<double>(n);
        for (int first = 0; first < open; first += group)
            eigh_items<double>(g + first, open - first < group ? open - first : group, n, rank, value + first,
                               vector + first, arena, {plan.loss});
    }

    // ---- the start: leading left singular vectors of every unfolding of X itself ----
    void start(int m) {
        const int64_t size = m == plan.big ? s : plan.shape[m];
        const bool of_matrix = plan.hosvd && plan.order == 2 && plan.big == 0;
        if (of_matrix && m == 1) return;  // its vectors are those of mode 0
        for (int i = 0; i < n_parts; ++i)
            m == plan.big ? copy(parts[i].gram, s * s, parts[i].matrix) : partial_trace(parts[i], m);
        solve(size, plan.rank[m]);
        if (of_matrix)
            for (int i = 0; i < n_parts; ++i) copy(parts[i].vectors, s * r, parts[i].factor[1]);
        each_active([&](HooiItem& item, GramItems<V>& own, int lane) {
            const double weakest = at(own.values, plan.rank[m] - 1, lane) / at(own.values, 0, lane);
            item.weakest = weakest < item.weakest ? weakest : item.weakest;
        });
        for (int i = 0; i < n_parts; ++i) {
            if (m == plan.big) respond(parts[i], parts[i].gram, s);
            copy(parts[i].vectors, size * plan.rank[m], m == plan.big ? parts[i].weights : parts[i].factor[m]);
        }
    }
    // G summed over every mode but m
    void partial_trace(const GramItems<V>& own, int m) const {
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < m; ++i) outer *= i == plan.big ? 1 : plan.shape[i];
        for (int i = m + 1; i < plan.order; ++i) inner *= i == plan.big ? 1 : plan.shape[i];
        const int64_t size = plan.shape[m];
        for (int64_t i = 0; i < size; ++i)
            for (int64_t j = 0; j < size; ++j) {
                V sum{};
                for (int64_t o = 0; o < outer; ++o)
                    for (int64_t k = 0; k < inner; ++k)
                        sum += own.gram[((o * size + i) * inner + k) * s + (o * size + j) * inner + k];
                own.matrix[i * size + j] = sum;
            }
    }

    // Given factors, in lanes that no item is in too.
    void take_start(int m) {
        for (int k = 0; k < n_parts * L; ++k)
            put(items[k < count ? k : 0].start[m], plan.shape[m] * plan.rank[m], k % L, parts[k / L].factor[m]);
    }

    // ---- updates ----
    void update(int m) {
        for (int i = 0; i < n_parts; ++i) m == plan.big ? big_matrix(parts[i]) : small_matrix(parts[i], m);
        solve(plan.matrix_size(m), plan.rank[m]);
        for (int i = 0; i < n_parts; ++i) m == plan.big ? big_factor(parts[i]) : small_factor(parts[i], m);
        if (m != plan.big && !plan.left_side(m)) orthonormal_factors(m);
    }
    // M = P^T G P
    void big_matrix(const GramItems<V>& own) const {
        int64_t shape[kMaxOrder + 1], rank[kMaxOrder + 1];
        const V* factors[kMaxOrder + 1];
        const int n = other_modes(plan, own.factor, shape + 1, rank + 1, factors + 1);
        shape[0] = rank[0] = s;
        factors[0] = nullptr;
        copy(multi_mode_product<V>(own.gram, n + 1, shape, factors, rank, spare), s * rho, own.projected);
        shape[n + 1] = rank[n + 1] = rho;
        factors[n + 1] = nullptr;
        const V* m = multi_mode_product<V>(own.projected, n + 1, shape + 1, factors + 1, rank + 1, spare);
        copy(m, rho * rho, own.matrix);
    }
    // weights = P V / sigma, T = G weights
    void big_factor(const GramItems<V>& own) const {
        respond(own, own.projected, rho);
        int64_t shape[kMaxOrder], rank[kMaxOrder];
        const V* factors[kMaxOrder];
        const int n = other_modes(plan, own.factor, shape, rank, factors);
        V* t = turned;
        for (int i = 0; i < n; ++i) {  // A_m^T takes R_m back to I_m
            if (!factors[i]) continue;
            for (int64_t a = 0; a < shape[i]; ++a)
                for (int64_t b = 0; b < rank[i]; ++b) t[b * shape[i] + a] = factors[i][a * rank[i] + b];
            factors[i] = t;
            t += shape[i] * rank[i];
        }
        shape[n] = rank[n] = r;
        factors[n] = nullptr;
        copy(multi_mode_product<V>(own.vectors, n + 1, rank, factors, shape, spare), s * r, own.weights);
    }
    // The columns of `vectors` over sigma, and T = g vectors for g [S, depth]. A sigma that is lost in the rounding of
    // g, which may leave lambda below 0, counts as the least that is not: the columns of A_big that come of it are
    // short (explicit_factor).
    void respond(const GramItems<V>& own, const V* g, int64_t depth) const {
        for (int lane = 0; lane < L; ++lane) {
            const double least = 1e-15 * static_cast<double>(s) * at(own.values, 0, lane);
            for (int64_t j = 0; j < r; ++j) {
                double& lambda = at(own.values, j, lane);
                const double size = __builtin_fabs(lambda), counted = size > least ? size : least;
                lambda = counted > 0 ? 1 / __builtin_sqrt(counted) : 0;  // a start may miss X altogether
            }
        }
        for (int64_t i = 0; i < depth; ++i)
            for (int64_t j = 0; j < r; ++j) own.vectors[i * r + j] *= own.values[j];
        product<V, true>(s, r, depth, g, depth, own.vectors, r, own.responses, r);
    }
    // The smaller Gram matrix of the mode-m unfolding of the projection on every other factor.
    void small_matrix(const GramItems<V>& own, int m) const {
        int64_t shape[kMaxOrder], rank[kMaxOrder], outer = 1, inner = r;
        const V* factors[kMaxOrder];
        const int n = other_modes(plan, own.factor, shape, rank, factors);
        const int place = m - (plan.big < m);
        for (int i = 0; i < n; ++i) (i < place ? outer : inner) *= i == place ? 1 : rank[i];
        rank[place] = plan.shape[m];
        factors[place] = nullptr;
        shape[n] = rank[n] = r;
        factors[n] = nullptr;
        const V* y = multi_mode_product<V>(own.responses, n + 1, shape, factors, rank, spare);
        const bool left = plan.left_side(m);
        const int64_t size = plan.shape[m], width = left ? size : outer * inner, depth = left ? outer * inner : size;
        unfold_small(y, outer, size, inner, left, own.unfolded);
        product<V, false>(width, width, depth, own.unfolded, width, own.unfolded, width, own.matrix, width);
    }
    void small_factor(const GramItems<V>& own, int m) const {
        const int64_t size = plan.shape[m], rank = plan.rank[m], width = plan.matrix_size(m);
        if (!plan.left_side(m)) {
            product<V, true>(size, rank, width, own.unfolded, width, own.vectors, rank, own.factor[m], rank);
            return;
        }
        copy(own.vectors, size * rank, own.factor[m]);
        if (plan.sign_v) point_right_vectors_up(own.factor[m], size, rank, own.unfolded, plan.others_rank(m), spare[0]);
    }
    void orthonormal_factors(int m) {
        const int size = static_cast<int>(plan.shape[m]), rank = static_cast<int>(plan.rank[m]);
        Arena scratch = arena;
        double* lengths = scratch.take<double>(2 * rank);
        each_active([&](HooiItem& item, GramItems<V>& own, int lane) {
            double* a = item.factor[m];
            get(own.factor[m], int64_t{size} * rank, lane, a);
            orthonormalize(a, size, rank, plan.loss, scratch);
            if (!plan.sign_v) point_up_one(a, size, rank, lengths, lengths + rank);
            put(a, int64_t{size} * rank, lane, own.factor[m]);
        });
    }

    void run(int active) {
        for (int sweep = 0; sweep < plan.n_iter_max && active > 0; ++sweep) {
            for (int m = 0; m < plan.order; ++m)
                if (plan.moves(sweep, m)) update(m);
            V norm2[kMost];
            for (int i = 0; i < n_parts; ++i) {
                const GramItems<V>& own = parts[i];
                contract_responses<V>(plan, own.responses, own.factor, spare, own.core);
                norm2[i] = V{};
                for (int64_t j = 0; j < plan.core_size(); ++j) norm2[i] += own.core[j] * own.core[j];
            }
            each_active([&](HooiItem& item, GramItems<V>& own, int lane) {
                end_sweep(item, sweep, at(norm2 + (&own - parts), 0, lane), plan.tol);
                if (item.active && sweep + 1 < plan.n_iter_max) return;
                keep(item, own, lane);
                --active;
            });
        }
    }
};

// Whether the items of a group go through the sweeps in the lanes of vectors: beyond the caches they had better not.
static bool in_lanes(const CpuHooiPlan& p) {
    return largest_problem(p) <= kLockstep && GramSweeps<Vec<double>>::bytes(p, kLanes<double>) <= int64_t{3} << 20;
}

template <class P>
struct ByGram {
    const CpuHooiPlan& plan;
    HooiItem* items;
    int count;
    Arena arena;  // scratch

    // Results lie in front of what `from` has left.
    ByGram(const CpuHooiPlan& p, HooiItem* its, int n, Arena& from)
        : plan(p), items(its), count(n), arena(take_results<P>(p, its, n, from)) {}
    static int64_t bytes(const CpuHooiPlan& p, int count) {
        const int64_t results = bytes_taken([&](Arena& arena) {
            HooiItem items[kMostItems] = {};
            take_results<P>(p, items, count, arena);
        });
        const int64_t s = p.others_size(p.big), alone = GramSweeps<double>::bytes(p, count);
        const int64_t lanes = in_lanes(p) ? GramSweeps<Vec<double>>::bytes(p, count) : 0;
        return results + (lanes > alone ? lanes : alone) + count * s * s * 8;
    }

    void run() {
        count > 1 && in_lanes(plan) ? sweep<Vec<double>>() : sweep<double>();
        for (int k = 0; k < count; ++k) {
            HooiItem& item = items[k];
            if (!item.finite || item.norm2 == 0) {
                blank<P>(plan, item);
                continue;
            }
            measure_core(plan, item);
            if (sizeof(P) == 4 && plan.guard && !float_suffices(plan, item)) continue;  // it will be computed again
            if (plan.factors || plan.refine) explicit_factor(item);
        }
    }
    template <class V>
    void sweep() {
        GramSweeps<V> sweeps(plan, items, count, arena);
        Arena rest = sweeps.arena;
        const int64_t s = plan.others_size(plan.big);
        const double *grams[kMostItems], *any = nullptr;
        int active = 0;
        for (int k = 0; k < count; ++k) {
            double* gram = rest.take<double>(s * s);
            read(items[k], gram, rest);
            grams[k] = items[k].active ? gram : nullptr;
            active += items[k].active;
            any = any ? any : grams[k];
        }
        if (active == 0) return;
        sweeps.take(grams, any);
        for (int m = 0; m < plan.order; ++m) {
            if (plan.given && has_factor(plan, m)) sweeps.take_start(m);
            if (!plan.starts(m)) continue;
            sweeps.start(m);
            if (m == plan.big || !plan.sign_v) continue;
            const int64_t size = plan.shape[m] * plan.rank[m];
            sweeps.each_active([&](HooiItem& item, GramItems<V>& own, int lane) {
                sweeps.get(own.factor[m], size, lane, item.factor[m]);
                point_start_up(item, m, sweeps.arena);
                sweeps.put(item.factor[m], size, lane, own.factor[m]);
            });
        }
        sweeps.run(active);
    }

    // ---- reading X ----
    Tensor unfolding(HooiItem& item, Arena& scratch) const {  // X_(big) as a matrix
        Tensor matrix;
        if (as_matrix(item.x, plan.big, &matrix)) return matrix;
        // Modes that do not lie in memory like one are copied.
        const int64_t n = plan.shape[plan.big], s = plan.others_size(plan.big);
        P* copy = scratch.take<P>(n * s);
        pack_panel<P>(fibres_of(item.x, plan.big), Adjust{false, nullptr, 1, 1}, 0, s, copy, n);
        return Tensor{copy, sizeof(P) == 4 ? DType::f32 : DType::f64, 2, {n, s}, {1, n}};
    }
    // gram: [S, S] of the modes beside the big one, to be filled
    void read(HooiItem& item, double* gram, Arena scratch) const {
        item.norm2 = gather(item, gram, scratch);
        if (!squares_in_range<P>(item.norm2))
            item.norm2 = find_scale<P>(item, scratch) ? gather(item, gram, scratch) : 0;
        item.active = item.finite && item.norm2 > 0;
    }
    double gather(HooiItem& item, double* gram, Arena scratch) const {
        const Tensor matrix = unfolding(item, scratch);
        gram_item<P>(fibres_of(matrix, 1), Adjust{false, nullptr, 1, item.scale}, gram, scratch);
        const int64_t s = plan.others_size(plan.big);
        double trace = 0;
        for (int64_t i = 0; i < s; ++i) trace += gram[i * s + i];
        return trace;
    }
    void point_start_up(HooiItem& item, int m, Arena scratch) const {
        StartSigns<P> signs(plan, m, item.factor[m], scratch);
        const Tensor matrix = unfolding(item, scratch);
        Panels<P> panels(fibres_of(matrix, 1), Adjust{false, nullptr, 1, item.scale}, scratch);
        for (int64_t c = 0; c < plan.shape[plan.big]; ++c) signs.see(panels.rows(c, 1));
        signs.point_up(item.factor[m]);
    }

    // ---- A_big ----
    // X_(big) weights, one pass over X after the sweeps: orthonormal columns, signed. The weights come from the
    // eigenvectors of a Gram matrix, so that the columns lack about eps (sigma_1 / sigma_k)^2 of orthonormality, and
    // are short where sigma_k is lost: both are seen in that pass, and mended. T and the core are made from A_big where
    // asked for, or where it is not what T was made for.
    void explicit_factor(HooiItem& item) {
        const int64_t rows = plan.shape[plan.big], r = plan.rank[plan.big];
        P* a = static_cast<P*>(item.big_factor);
        Arena scratch = arena;
        const Tensor matrix = unfolding(item, scratch);
        double* sign = scratch.take<double>(r);
        double* factor = scratch.take<double>(r);
        ColumnFacts<P> facts(r, scratch);
        multiply_rows<P>(matrix, item.scale, item.weights, r, a, scratch, [&](const P* done, int64_t count) {
            facts.see(done, count, r);
            facts.judge_columns(done, count, r);
        });
        const bool mended = !(facts.loss(r) <= static_cast<double>(loss_kept<P>(plan.loss)));
        if (mended) {
            make_orthonormal(a, rows, r, scratch);
            facts = ColumnFacts<P>(r, scratch);
            facts.see(a, rows, r);
        }
        for (int64_t k = 0; k < r; ++k) {
            sign[k] = plan.sign_v ? 1 : facts.sign(a, rows, r, k);
            factor[k] = mended ? sign[k] : sign[k] / __builtin_sqrt(facts.squares[k]);
        }
        scale_columns(a, rows, r, factor);
        // The right vector of the projected unfolding was signed when it was found.
        if (!plan.sign_v) sign_by_factor(item, sign);
        if (!plan.refine && !mended) return;
        multiply_columns<P>(matrix, item.scale, a, r, item.responses, scratch);
        double* spare[2];
        for (auto& buffer : spare) buffer = scratch.take<double>(plan.others_size(plan.big) * r);
        contract_responses<double>(plan, item.responses, item.factor, spare, item.core);
        measure_core(plan, item);
    }
    // Columns of T and slices of the core with the signs of the columns of A_big.
    void sign_by_factor(HooiItem& item, const double* sign) const {
        const int64_t s = plan.others_size(plan.big), r = plan.rank[plan.big];
        for (int64_t i = 0; i < s; ++i)
            for (int64_t k = 0; k < r; ++k) item.responses[i * r + k] *= sign[k];
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < plan.big; ++i) outer *= plan.rank[i];
        for (int i = plan.big + 1; i < plan.order; ++i) inner *= plan.rank[i];
        for (int64_t o = 0; o < outer; ++o)
            for (int64_t k = 0; k < r; ++k)
                for (int64_t i = 0; i < inner; ++i) item.core[(o * r + k) * inner + i] *= sign[k];
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
