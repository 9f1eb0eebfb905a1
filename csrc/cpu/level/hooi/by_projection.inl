// HOOI where no mode is larger than the product of the others: every update projects X on the other factors. X is read
// twice a sweep: the updates of the first half of the modes share its product with the factors of the second half, and
// the other way round. Items share only the calls of the eigensolver. Passes over X run in P (float or double), the
// rest in double.
#pragma once
#include "cpu/level/hooi/common.inl"
#include "cpu/level/hooi/mode_products.inl"

namespace tsm::TSM_LEVEL {
namespace {

// An eigenproblem and its results.
struct Problem {
    double *matrix, *values, *vectors;
};

// One item, beside its results.
template <class P>
struct ProjectedItem {
    const P* dense;    // X as contiguous P: the input itself, or own
    P* own;            // where a converted or scaled copy of X goes; null: nowhere yet
    P* room;           // for a product of X with the factors of half of the modes
    const P* half;     // that product
    int left_by;       // the half that this sweep has multiplied; -1: none yet
    double* unfolded;  // projected unfolding of the mode being updated
    Problem problem;
};

// Of items whose modes start on threads of their own: those of fewer are not worth one, of more one mode keeps all
// busy.
constexpr int64_t kFewElements = 1 << 15, kManyElements = 1 << 20;

template <class P>
struct ByProjection {
    const CpuHooiPlan& plan;
    HooiItem* items;
    int count;
    Arena arena;  // what is left of it is scratch
    ProjectedItem<P> parts[kMostItems];
    const int middle;  // the first mode of the second half
    P* spare[2];       // products on their way
    P* narrow;         // factors in P

    // Results lie in front of what `from` has left.
    ByProjection(const CpuHooiPlan& p, HooiItem* its, int n, Arena& from)
        : plan(p), items(its), count(n), arena(take_results<P>(p, its, n, from)), middle((p.order + 1) / 2) {
        const int64_t largest = largest_problem(p), product = largest_product();
        for (int k = 0; k < count; ++k) {
            parts[k].own = nullptr;
            parts[k].room = arena.take<P>(product);
            parts[k].problem = {arena.take<double>(largest * largest), arena.take<double>(largest),
                                arena.take<double>(largest * largest)};
            parts[k].unfolded = arena.take<double>(unfolded_size(p));
        }
        int64_t sizes = 0;
        for (int m = 0; m < p.order; ++m) sizes += p.kept[m] ? 0 : p.shape[m] * p.rank[m];
        narrow = arena.take<P>(sizes);
        for (auto& buffer : spare) buffer = arena.take<P>(product);
    }
    // Elements of the largest of what contract_modes makes of X: by one factor where both halves have one.
    int64_t largest_product() const {
        int64_t most = 1;
        for (int half = 0; half < 2; ++half) {
            int64_t least = plan.elements();  // after the mode that shrinks most
            for (int i = half ? middle : 0; i < (half ? plan.order : middle); ++i) {
                const int64_t left = plan.elements() / plan.shape[i] * plan.rank[i];
                least = left < least ? left : least;
            }
            most = least > most ? least : most;
        }
        return most;
    }
    static int64_t bytes(const CpuHooiPlan& p, int count) {
        return bytes_taken([&](Arena& arena) {
            HooiItem items[kMostItems] = {};
            arena = ByProjection(p, items, count, arena).arena;
            for (int k = 0; k < count; ++k) arena.take<P>(p.elements());  // own copies of X
        });
    }

    void run() {
        int active = 0;
        for (int k = 0; k < count; ++k) {
            read(k);
            active += items[k].active;
        }
        int starting[kMaxOrder], n = 0;
        for (int m = 0; m < plan.order; ++m)
            if (plan.given && !plan.kept[m])
                take_start(m);
            else if (plan.starts(m))
                starting[n++] = m;
        if (plan.elements() >= kFewElements && plan.elements() < kManyElements)
            in_parts(arena, n, [&](int64_t i, const ArenaState& memory) { start(starting[i], Arena(memory)); });
        else
            for (int i = 0; i < n; ++i) start(starting[i], arena);
        for (int sweep = 0; sweep < plan.n_iter_max && active > 0; ++sweep) {
            for (int k = 0; k < count; ++k) parts[k].left_by = -1;
            for (int m = 0; m < plan.order; ++m)
                if (plan.moves(sweep, m)) update(m);
            active = 0;
            for (int k = 0; k < count; ++k) {
                HooiItem& item = items[k];
                if (!item.active) continue;
                const P* y = projected(k, plan.order);
                double norm2 = 0;
                for (int64_t i = 0; i < plan.core_size(); ++i) {
                    item.core[i] = static_cast<double>(y[i]);
                    norm2 += item.core[i] * item.core[i];
                }
                end_sweep(item, sweep, norm2, plan.tol);
                if (guarded() && !(item.errors[sweep] > kLeastError)) {
                    item.hopeless = true;
                    item.active = false;
                }
                active += item.active;
            }
        }
        for (int k = 0; k < count; ++k)
            if (!items[k].hopeless)
                items[k].finite&& items[k].norm2 > 0 ? measure_core(plan, items[k]) : blank<P>(plan, items[k]);
    }

    // ---- reading X ----
    void read(int k) {
        HooiItem& item = items[k];
        parts[k].dense = dense_data<P>(item.x);
        if (!parts[k].dense) own_copy(k);
        item.norm2 = squares(parts[k].dense);
        if (!squares_in_range<P>(item.norm2)) {
            if (find_scale<P>(item, arena)) {
                own_copy(k);
                item.norm2 = squares(parts[k].dense);
            } else {
                item.norm2 = 0;
            }
        }
        item.active = item.finite && item.norm2 > 0;
    }
    void own_copy(int k) {
        if (!parts[k].own) parts[k].own = arena.take<P>(plan.elements());
        copy_dense<P>(items[k].x, items[k].scale, parts[k].own, arena);
        parts[k].dense = parts[k].own;
    }
    double squares(const P* x) const {
        constexpr int64_t kPart = 1 << 18;
        const int64_t n = plan.elements(), count = (n + kPart - 1) / kPart;
        Arena scratch = arena;
        auto* sums = scratch.take<double>(count);
        in_ranges(scratch, n, kPart, [&](int64_t first, int64_t last, const ArenaState&) {
            sums[first / kPart] = squares(x + first, last - first);
        });
        double sum = 0;
        for (int64_t i = 0; i < count; ++i) sum += sums[i];
        return sum;
    }
    static double squares(const P* x, int64_t n) {
        // In blocks and lanes: the error of an exact fit is the root of what rounding leaves of this sum.
        constexpr int64_t kBlock = 1024, kSums = 8;
        double sum = 0;
        for (int64_t first = 0; first < n; first += kBlock) {
            const int64_t end = first + kBlock < n ? first + kBlock : n;
            double sums[kSums] = {};
            int64_t i = first;
            for (; i + kSums <= end; i += kSums)
                for (int64_t l = 0; l < kSums; ++l)
                    sums[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
            for (; i < end; ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
            for (const double part : sums) sum += part;
        }
        return sum;
    }

    // ---- eigenproblems of one size ----
    void solve(const Problem* problems, int n, int size, int rank, const Arena& scratch) const {
        const double* g[kMostItems];
        double *values[kMostItems], *vectors[kMostItems];
        const int group = eigh_group<double>(size);
        Wanted wanted;
        wanted.loss = plan.loss;
        wanted.apart = true;
        for (int i = 0; i < n; ++i) {
            g[i] = problems[i].matrix;
            values[i] = problems[i].values;
            vectors[i] = problems[i].vectors;
        }
        for (int first = 0; first < n; first += group)
            eigh_items<double>(g + first, n - first < group ? n - first : group, size, rank, values + first,
                               vectors + first, scratch, wanted);
    }

    // ---- the start: leading left singular vectors of every unfolding of X itself ----
    // Their Gram matrices are in double where results are vouched for: squared in float, a small sigma leaves vectors
    // that turn with the rounding, and from them sweeps that stop elsewhere.
    void start(int m, Arena scratch) {
        const int64_t size = plan.shape[m], rank = plan.rank[m];
        const auto bytes = static_cast<size_t>(size * rank) * 8;
        Problem problem[kMostItems];
        int n = 0;
        for (int k = 0; k < count; ++k) {
            if (!items[k].active || items[k].has_hosvd[m]) continue;
            problem[n] = {scratch.take<double>(size * size), scratch.take<double>(size), items[k].factor[m]};
            guarded() ? unfolding_gram<double>(k, m, problem[n].matrix, scratch)
                      : unfolding_gram<P>(k, m, problem[n].matrix, scratch);
            ++n;
        }
        solve(problem, n, static_cast<int>(size), static_cast<int>(rank), scratch);
        for (int k = 0; k < count; ++k) {
            HooiItem& item = items[k];
            if (!item.active) continue;
            if (item.has_hosvd[m]) __builtin_memcpy(item.factor[m], item.hosvd[m], bytes);
            if (guarded()) {
                __builtin_memcpy(item.hosvd[m], item.factor[m], bytes);
                item.has_hosvd[m] = true;
            }
            if (!plan.sign_v) continue;
            Arena own = scratch;
            StartSigns<P> signs(plan, m, item.factor[m], own);
            signs.see(parts[k].dense);
            signs.point_up(item.factor[m]);
        }
    }
    bool guarded() const { return sizeof(P) == 4 && plan.guard; }

    template <class A>
    void unfolding_gram(int k, int m, double* gram, const Arena& scratch) const {
        const int64_t n = plan.shape[m], inner = product_of(plan.shape + m + 1, plan.order - m - 1);
        if (sizeof(A) == 8 && n <= kSmallMode)
            return small_mode_gram(parts[k].dense, plan.others_size(m) / inner, n, inner, gram, scratch);
        const Tensor x = dense_tensor(parts[k].dense, sizeof(P) == 4 ? DType::f32 : DType::f64, plan.order, plan.shape);
        gram_item<A>(fibres_of(x, m), Adjust{false, nullptr, 1, 1}, gram, scratch);
    }
    void take_start(int m) {
        const size_t bytes = static_cast<size_t>(plan.shape[m] * plan.rank[m]) * 8;
        for (int k = 0; k < count; ++k)
            if (items[k].active) __builtin_memcpy(items[k].factor[m], items[k].start[m], bytes);
    }

    // ---- one update ----
    void update(int m) {
        Problem problem[kMostItems];
        int n = 0;
        for (int k = 0; k < count; ++k) {
            if (!items[k].active) continue;
            unfold_projection(k, m);
            problem[n++] = parts[k].problem;
        }
        solve(problem, n, static_cast<int>(plan.matrix_size(m)), static_cast<int>(plan.found(m)), arena);
        for (int k = 0; k < count; ++k) {
            if (!items[k].active) continue;
            m == plan.padded ? take_padded(k, m) : take_factor(k, m);
        }
    }
    // The mode-m unfolding of the projection on every other factor.
    void unfold_projection(int k, int m) {
        int64_t outer = 1, inner = 1;
        for (int i = 0; i < plan.order; ++i) {
            if (i < m) outer *= plan.rank[i];
            if (i > m) inner *= plan.rank[i];
        }
        const P* y = projected(k, m);
        const bool left = plan.left_side(m);
        const int64_t size = plan.shape[m], columns = outer * inner;
        if (left && size <= 32 && !plan.sign_v)
            return small_mode_gram(y, outer, size, inner, parts[k].problem.matrix, arena);
        unfold_small(y, outer, size, inner, left, parts[k].unfolded);
        gram_of_rows(parts[k].unfolded, left ? columns : size, left ? size : columns, parts[k].problem.matrix, arena);
    }
    // x [shape] times the factors of modes first .. last - 1 but for mode m; shape becomes that of the result.
    const P* multiply(int k, const P* x, int64_t* shape, int first, int last, int m, P* const* buffers) {
        int64_t rank[kMaxOrder];
        const P* factors[kMaxOrder];
        P* to = narrow;
        for (int i = 0; i < plan.order; ++i) {
            const bool stays = i < first || i >= last || i == m || plan.kept[i];
            rank[i] = stays ? shape[i] : plan.rank[i];
            factors[i] = nullptr;
            if (stays) continue;
            for (int64_t j = 0; j < plan.shape[i] * plan.rank[i]; ++j) to[j] = static_cast<P>(items[k].factor[i][j]);
            factors[i] = to;
            to += plan.shape[i] * plan.rank[i];
        }
        const P* y = contract_modes<P>(arena, x, plan.order, shape, factors, rank, buffers);
        for (int i = 0; i < plan.order; ++i) shape[i] = rank[i];
        return y;
    }
    // X times every factor but that of mode m, or times all; a factor of the second half moves after all of the first.
    const P* projected(int k, int m) {
        ProjectedItem<P>& part = parts[k];
        const bool first = m < middle;
        const int begin = first ? 0 : middle, end = first ? middle : plan.order;  // what is left to multiply
        int64_t shape[kMaxOrder];
        int products = 0;
        for (int i = 0; i < plan.order; ++i) {
            shape[i] = plan.shape[i];
            products += (i < begin || i >= end) && !plan.kept[i];
        }
        if (part.left_by != begin) {
            P* buffers[2] = {part.room, part.room};
            buffers[products % 2] = spare[0];  // the last of them goes to `room`
            part.half = multiply(k, part.dense, shape, first ? middle : 0, first ? plan.order : middle, -1, buffers);
            part.left_by = begin;
        } else {
            for (int i = 0; i < plan.order; ++i)
                if ((i < begin || i >= end) && !plan.kept[i]) shape[i] = plan.rank[i];
        }
        return multiply(k, part.half, shape, begin, end, m, spare);
    }
    void take_factor(int k, int m) {
        const int64_t size = plan.shape[m], r = plan.rank[m], n = plan.matrix_size(m);
        double* a = items[k].factor[m];
        if (plan.left_side(m)) {
            __builtin_memcpy(a, parts[k].problem.vectors, static_cast<size_t>(size * r) * 8);
            if (!plan.sign_v) return;
            Arena scratch = arena;
            const int64_t columns = plan.others_rank(m);
            point_right_vectors_up(a, size, r, parts[k].unfolded, columns, scratch.take<double>(columns * r));
            return;
        }
        left_vectors(k, size, r, n, a, arena);
    }
    // From the right ones.
    void left_vectors(int k, int64_t size, int64_t r, int64_t n, double* a, Arena scratch) const {
        product<double, true>(size, r, n, parts[k].unfolded, n, parts[k].problem.vectors, r, a, r);
        orthonormalize(a, size, r, plan.loss, scratch);
        if (!plan.sign_v)
            point_up_one(a, static_cast<int>(size), static_cast<int>(r), scratch.take<double>(r),
                         scratch.take<double>(r));
    }
    // The left vectors that there are, and beside them the columns that are given.
    void take_padded(int k, int m) const {
        const int64_t size = plan.shape[m], found = plan.found(m);
        Arena scratch = arena;
        double* vectors = scratch.take<double>(size * found);
        left_vectors(k, size, found, found, vectors, scratch);
        pad_columns(vectors, size, found, items[k].padding, plan.rank[m], items[k].factor[m], scratch);
    }
};

}  // namespace
}  // namespace tsm::TSM_LEVEL
