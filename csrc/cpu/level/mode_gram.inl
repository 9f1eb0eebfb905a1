// G_n = X_(n) X_(n)^T of one item, from panels of fibres: rows of a panel are fibres, so G is a sum of outer products
// and needs no transpose. Products are summed in T over one panel, panels in T by kPanelsPerSum, and these in double.

constexpr int kPanelsPerSum = 4;

// What is subtracted from (`mean`) and multiplied into (`scale`) the elements while a panel is read.
struct Adjust {
    bool center_fibres;   // every fibre minus its own mean
    const double* means;  // or, of what was scaled, means[(k / period) * n + j] for element j of fibre k; null: none
    int64_t period;
    double scale;     // a power of two
    double gain = 1;  // another one, for what is left after the mean
};

template <class T, class S>
static void pack_fibres(const Fibres& f, double scale, int64_t k0, int64_t kc, T* out, int64_t ld) {
    const S* data = static_cast<const S*>(f.data);
    using Wide = decltype(T{} * to_float(S{}));
    const auto factor = static_cast<Wide>(scale);
    int64_t index[kMaxOrder];
    int64_t rest = k0, offset = 0;
    for (int d = f.others - 1; d >= 0; --d) {
        index[d] = rest % f.shape[d];
        rest /= f.shape[d];
        offset += index[d] * f.stride[d];
    }
    const int last = f.others - 1;
    for (int64_t k = 0; k < kc;) {
        // A run of fibres whose starts are evenly spaced.
        const int64_t left = f.shape[last] - index[last];
        const int64_t run = left < kc - k ? left : kc - k;
        const int64_t gap = f.stride[last];
        const S* from = data + offset;
        T* to = out + k * ld;
        if (f.step == 1) {
            for (int64_t r = 0; r < run; ++r)
                for (int64_t j = 0; j < f.n; ++j)
                    to[r * ld + j] = static_cast<T>(static_cast<Wide>(to_float(from[r * gap + j])) * factor);
        } else if (gap != 1) {
            for (int64_t r = 0; r < run; ++r)
                for (int64_t j = 0; j < f.n; ++j)
                    to[r * ld + j] = static_cast<T>(static_cast<Wide>(to_float(from[r * gap + j * f.step])) * factor);
        } else {
            for (int64_t j = 0; j < f.n; ++j)
                for (int64_t r = 0; r < run; ++r)
                    to[r * ld + j] = static_cast<T>(static_cast<Wide>(to_float(from[j * f.step + r])) * factor);
        }
        for (int64_t r = 0; r < run; ++r)
            for (int64_t j = f.n; j < ld; ++j) to[r * ld + j] = 0;
        k += run;
        index[last] += run;
        offset += run * gap;
        for (int d = last; d > 0 && index[d] == f.shape[d]; --d) {
            offset += f.stride[d - 1] - index[d] * f.stride[d];
            index[d] = 0;
            ++index[d - 1];
        }
    }
}

// Fibres [k0, k0 + kc) as rows of T: [kc, ld], zeros behind column n.
template <class T>
static void pack_panel(const Fibres& f, const Adjust& how, int64_t k0, int64_t kc, T* rows, int64_t ld) {
    switch (f.dtype) {
        case DType::f16:
            pack_fibres<T, Half>(f, how.scale, k0, kc, rows, ld);
            break;
        case DType::bf16:
            pack_fibres<T, BFloat>(f, how.scale, k0, kc, rows, ld);
            break;
        case DType::f32:
            pack_fibres<T, float>(f, how.scale, k0, kc, rows, ld);
            break;
        case DType::f64:
            pack_fibres<T, double>(f, how.scale, k0, kc, rows, ld);
            break;
    }
    if (!how.center_fibres && !how.means) return;
    const T gain = static_cast<T>(how.gain);
    for (int64_t k = 0; k < kc; ++k) {
        T* row = rows + k * ld;
        if (how.center_fibres) {
            // Less its first entry, a constant fibre is exactly 0, and one of little contrast keeps its digits.
            const T first = row[0];
            Vec<T> sums{};
            int64_t j = 0;
            for (; j + kLanes<T> <= f.n; j += kLanes<T>) sums += load(row + j) - first;
            T sum = sum_lanes<T>(sums);
            for (int64_t i = j; i < f.n; ++i) sum += row[i] - first;
            const T mean = sum / static_cast<T>(f.n);
            for (j = 0; j < f.n; ++j) row[j] = (row[j] - first - mean) * gain;
        } else {
            const double* mean = how.means + (k0 + k) / how.period * f.n;
            for (int64_t j = 0; j < f.n; ++j) row[j] = static_cast<T>((row[j] - mean[j]) * how.gain);
        }
    }
}

// Memory that will be read soon; take() hands out the next lines of it.
struct Ahead {
    const char *next, *end;
    int64_t lines() const { return (end - next + 63) / 64; }
    const char* take(int64_t lines, const void* otherwise) {
        if (next >= end) return static_cast<const char*>(otherwise);
        const char* from = next;
        next += lines * 64;
        return from;
    }
};

// Rows of one item as the kernels read them: straight from memory where it already looks like that, else packed.
template <class T>
struct Panels {
    Fibres f;
    Adjust how;
    bool direct;
    int64_t ld;  // of the rows handed out
    int64_t per_panel;
    T* buffer;  // [per_panel, ld] unless direct

    // A panel fits the first-level cache where its rows do; longer rows are read by tile, from the second level.
    static int64_t rows_per_panel(int64_t n) {
        const int64_t rows = (n <= 64 ? 24576 : 131072) / (padded<T>(n) * static_cast<int64_t>(sizeof(T)));
        return rows < 16 ? 16 : rows > 128 ? 128 : rows / 8 * 8;
    }

    Panels(const Fibres& fibres, const Adjust& adjust, Arena& arena) : f(fibres), how(adjust) {
        const DType own = sizeof(T) == 4 ? DType::f32 : DType::f64;
        direct = f.dtype == own && f.step == 1 && f.others == 1 && how.scale == 1 && !how.center_fibres && !how.means;
        per_panel = rows_per_panel(f.n);
        ld = direct ? f.stride[0] : padded<T>(f.n);
        buffer = direct ? nullptr : arena.take<T>(per_panel * ld);
    }
    const T* rows(int64_t k0, int64_t kc) const {
        if (direct) return static_cast<const T*>(f.data) + k0 * ld;
        pack_panel<T>(f, how, k0, kc, buffer, ld);
        return buffer;
    }
    // The `count` rows that stand one panel behind row k.
    Ahead ahead(int64_t k, int64_t count) const {
        const Ahead rows = ahead(k + per_panel);
        const int64_t bytes = count * f.n * size_of(f.dtype);
        return {rows.next, rows.end - rows.next < bytes ? rows.end : rows.next + bytes};
    }
    // Where the panel after this one lies, if in one piece: the kernels fetch it meanwhile, a line a step.
    Ahead ahead(int64_t k0) const {
        if (f.step != 1 || f.others != 1 || f.stride[0] != f.n || k0 >= f.count) return {nullptr, nullptr};
        const int64_t kc = f.count - k0 < per_panel ? f.count - k0 : per_panel, row = f.n * size_of(f.dtype);
        const char* from = static_cast<const char*>(f.data) + k0 * row;
        return {from, from + kc * row};
    }
};

// g[i0 + r][j0 + ...] += sum_k rows[k][i0 + r] * rows[k][j0 + ...] for MR rows and NR vectors of G. The last vector
// holds `last` valid columns when `last` > 0.
template <class T, int MR, int NR>
static inline void gram_tile(const T* rows, int64_t ld, int64_t kc, int64_t i0, int64_t j0, int64_t last, T* g,
                             int64_t ldg, Ahead& ahead) {
    constexpr int L = kLanes<T>;
    const char* fetch = ahead.take(kc, rows);
    const int64_t line = fetch == reinterpret_cast<const char*>(rows) ? 0 : 64;
    Vec<T> acc[MR][NR] = {};
    const T *left = rows + i0, *right = rows + j0;
    for (int64_t k = 0; k < kc; ++k, left += ld, right += ld) {
        __builtin_prefetch(fetch, 0, 2);
        fetch += line;
        Vec<T> b[NR];
        for (int v = 0; v < NR - 1; ++v) b[v] = load(right + v * L);
        b[NR - 1] = last > 0 ? load_first(right + (NR - 1) * L, last) : load(right + (NR - 1) * L);
        for (int r = 0; r < MR; ++r) {
            const Vec<T> a = splat(left[r]);
            for (int v = 0; v < NR; ++v) acc[r][v] += a * b[v];
        }
    }
    // Unrolled, so that the sums stay in registers up to here.
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 3
        for (int v = 0; v < NR; ++v) {
            T* to = g + (i0 + r) * ldg + j0 + v * L;
            store(to, load(to) + acc[r][v]);
        }
}

template <class T, int MR>
static inline void gram_row_block(const T* rows, int64_t ld, int64_t kc, int64_t i0, int64_t j0, int64_t j1,
                                  int64_t last, T* g, int64_t ldg, Ahead& ahead) {
    constexpr int L = kLanes<T>, NR = 3;
    int64_t j = j0;
    for (; j + NR * L < j1; j += NR * L) gram_tile<T, MR, NR>(rows, ld, kc, i0, j, 0, g, ldg, ahead);
    switch ((j1 - j) / L) {
        case 3:
            gram_tile<T, MR, 3>(rows, ld, kc, i0, j, last, g, ldg, ahead);
            break;
        case 2:
            gram_tile<T, MR, 2>(rows, ld, kc, i0, j, last, g, ldg, ahead);
            break;
        case 1:
            gram_tile<T, MR, 1>(rows, ld, kc, i0, j, last, g, ldg, ahead);
            break;
        default:
            break;
    }
}

// Upper triangle of G += rows^T rows; g is [n, padded n] and what lies left of the diagonal's vector is not written.
// The last n % L columns would fill one vector in L for every row, so they are computed as rows instead.
template <class T>
static void gram_panel(const T* rows, int64_t ld, int64_t kc, int64_t n, T* g, int64_t ldg, Ahead ahead) {
    constexpr int L = kLanes<T>;
    constexpr int MR = TSM_VECTOR_BYTES == 64 ? 8 : 4;
    const int64_t whole = n / L * L;
    constexpr int step = MR < L ? MR : L;
    const int64_t corner = L > step && whole > 0 ? whole - L : whole;  // the last diagonal block is one tall tile
    for (int64_t i = 0; i < corner; i += step)
        gram_row_block<T, step>(rows, ld, kc, i, i / L * L, whole, 0, g, ldg, ahead);
    if (corner < whole) gram_tile<T, L, 1>(rows, ld, kc, corner, corner, 0, g, ldg, ahead);
    for (int64_t i = whole; i < n;) {
        if (n - i >= 4) {
            gram_row_block<T, 4>(rows, ld, kc, i, 0, whole + L, n - whole, g, ldg, ahead);
            i += 4;
        } else {
            gram_row_block<T, 1>(rows, ld, kc, i, 0, whole + L, n - whole, g, ldg, ahead);
            i += 1;
        }
    }
}

// The whole symmetric G of one item in double, g: [n, n].
template <class T>
static void gram_item(const Fibres& f, const Adjust& how, double* g, Arena arena) {
    const int64_t n = f.n, ldg = padded<T>(n);
    Panels<T> panels(f, how, arena);
    double* sums = arena.take<double>(n * ldg);
    T* part = arena.take<T>(n * ldg);
    for (int64_t i = 0; i < n * ldg; ++i) sums[i] = part[i] = 0;
    int waiting = 0;
    for (int64_t k = 0; k < f.count; k += panels.per_panel) {
        const int64_t kc = f.count - k < panels.per_panel ? f.count - k : panels.per_panel;
        gram_panel<T>(panels.rows(k, kc), panels.ld, kc, n, part, ldg, panels.ahead(k + kc));
        if (++waiting < kPanelsPerSum && k + kc < f.count) continue;
        waiting = 0;
        for (int64_t i = 0; i < n * ldg; ++i) {
            sums[i] += static_cast<double>(part[i]);
            part[i] = 0;
        }
    }
    // Both halves come from the same sum: from the tail's rows below the last whole vector, else from above the
    // diagonal.
    const int64_t whole = n / kLanes<T> * kLanes<T>, block = 16;
    for (int64_t i0 = 0; i0 < n; i0 += block)
        for (int64_t j0 = i0; j0 < n; j0 += block)
            for (int64_t i = i0; i < n && i < i0 + block; ++i)
                for (int64_t j = j0 < i ? i : j0; j < n && j < j0 + block; ++j)
                    g[i * n + j] = g[j * n + i] = j >= whole ? sums[j * ldg + i] : sums[i * ldg + j];
}

// means[(k / period) * n + j]: element j of fibre k times `scale`, averaged over the `period` fibres that differ in the
// last mode; of equal elements it is exactly their value.
static void last_mode_means(const Fibres& f, int64_t period, double scale, double* means, Arena scratch) {
    Panels<double> panels(f, Adjust{false, nullptr, 1, scale}, scratch);
    double* first = scratch.take<double>(f.n);
    for (int64_t k = 0; k < f.count; k += panels.per_panel) {
        const int64_t kc = f.count - k < panels.per_panel ? f.count - k : panels.per_panel;
        const double* rows = panels.rows(k, kc);
        for (int64_t r = 0; r < kc; ++r) {
            const double* row = rows + r * panels.ld;
            double* mean = means + (k + r) / period * f.n;
            const int64_t at = (k + r) % period;
            for (int64_t j = 0; at == 0 && j < f.n; ++j) {
                first[j] = row[j];
                mean[j] = 0;
            }
            for (int64_t j = 0; j < f.n; ++j) mean[j] += (row[j] - first[j]) / static_cast<double>(period);
            for (int64_t j = 0; at == period - 1 && j < f.n; ++j) mean[j] += first[j];
        }
    }
}
