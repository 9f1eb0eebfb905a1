// A_big = X_(big) weights, one pass over X after the sweeps: columns at unit length and signed.

// What the columns of a matrix are like, of the rows seen so far.
template <class P>
struct ColumnFacts {
    double* squares;  // [rank] sums of squares
    P *high, *low;    // [padded rank] largest and smallest entries, or 0

    ColumnFacts(int64_t rank, Arena& arena)
        : squares(arena.take<double>(rank)), high(arena.take<P>(padded<P>(rank))), low(arena.take<P>(padded<P>(rank))) {
        for (int64_t k = 0; k < rank; ++k) squares[k] = 0;
        for (int64_t k = 0; k < padded<P>(rank); ++k) high[k] = low[k] = 0;
    }
    void see(const P* a, int64_t rows, int64_t rank) {
        constexpr int L = kLanes<P>;
        for (int64_t k = 0; k < rank; k += L) {
            const int64_t width = rank - k < L ? rank - k : L;
            Vec<P> sum{}, most = load(high + k), least = load(low + k);
            for (int64_t i = 0; i < rows; ++i) {
                const Vec<P> x = width == L ? load(a + i * rank + k) : load_first(a + i * rank + k, width);
                sum += x * x;
                most = x > most ? x : most;
                least = x < least ? x : least;
            }
            store(high + k, most);
            store(low + k, least);
            P part[L];
            store(part, sum);
            for (int64_t l = 0; l < width; ++l) squares[k + l] += static_cast<double>(part[l]);
        }
    }
    // The sign of the entry of largest magnitude of column k, the first one on a tie.
    double sign(const P* a, int64_t rows, int64_t rank, int64_t k) const {
        if (high[k] != -low[k] || high[k] == 0) return high[k] + low[k] < 0 ? -1 : 1;
        int64_t i = 0;
        while (i + 1 < rows && a[i * rank + k] != high[k] && a[i * rank + k] != low[k]) ++i;
        return a[i * rank + k] < 0 ? -1 : 1;
    }
    // Whether no column is so short that its angles are lost; `orthonormalize` mends those.
    bool sound(int64_t rank) const {
        for (int64_t k = 0; k < rank; ++k)
            if (!(squares[k] > 1e-6 * squares[0])) return false;
        return true;
    }
};

// Column k of a times factor[k]
template <class P>
static void scale_columns(P* a, int64_t rows, int64_t rank, const double* factor) {
    constexpr int L = kLanes<P>;
    for (int64_t k = 0; k < rank; k += L) {
        const int64_t width = rank - k < L ? rank - k : L;
        Vec<P> times{};
        for (int64_t l = 0; l < width; ++l) times[l] = static_cast<P>(factor[k + l]);
        for (int64_t i = 0; i < rows; ++i) {
            P* at = a + i * rank + k;
            if (width == L)
                store(at, load(at) * times);
            else
                store_first(at, load_first(at, width) * times, width);
        }
    }
}

// Columns some of which have lost their angles become orthonormal and signed.
template <class P>
static void mend(P* a, int64_t rows, int64_t rank, bool keep_signs, double* sign, Arena scratch) {
    double* wide = scratch.take<double>(rows * rank);
    double* spare = scratch.take<double>(rank);
    for (int64_t i = 0; i < rows * rank; ++i) wide[i] = static_cast<double>(a[i]);
    orthonormalize(wide, rows, rank, spare);
    largest_entries(wide, rows, rank, sign, spare);
    for (int64_t k = 0; k < rank; ++k) sign[k] = !keep_signs && sign[k] < 0 ? -1 : 1;
    for (int64_t i = 0; i < rows * rank; ++i) a[i] = static_cast<P>(wide[i] * sign[i % rank]);
}

// A_big signed, and T and the core from it where asked for.
template <class P>
void HooiGroup<P>::explicit_factor(HooiItem& item) {
    const int64_t rows = plan.shape[plan.big], r = plan.rank[plan.big];
    P* a = static_cast<P*>(item.big_factor);
    Arena scratch = arena;
    const Tensor matrix = unfolding(item, scratch);
    double* sign = scratch.take<double>(r);
    ColumnFacts<P> facts(r, scratch);
    multiply_rows<P>(matrix, item.scale, item.weights, r, a, scratch,
                     [&](const P* done, int64_t count) { facts.see(done, count, r); });
    if (facts.sound(r)) {
        double* factor = scratch.take<double>(r);
        for (int64_t k = 0; k < r; ++k) {
            sign[k] = plan.sign_v ? 1 : facts.sign(a, rows, r, k);
            factor[k] = sign[k] / __builtin_sqrt(facts.squares[k]);
        }
        scale_columns(a, rows, r, factor);
    } else {
        mend(a, rows, r, plan.sign_v, sign, scratch);
    }
    // The right vector of the projected unfolding was signed when it was found.
    if (!plan.sign_v) sign_by_factor(item, sign);
    if (!plan.refine) return;
    multiply_columns<P>(matrix, item.scale, a, r, item.responses, scratch);
    double* spare[2];
    for (auto& buffer : spare) buffer = scratch.take<double>(plan.others_size(plan.big) * r);
    contract_responses<double>(plan, item.responses, item.factor, spare, item.core);
}

// Columns of T and slices of the core with the signs of the columns of A_big.
template <class P>
void HooiGroup<P>::sign_by_factor(HooiItem& item, const double* sign) const {
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
