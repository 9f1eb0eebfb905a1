// The CPU module: descriptions of arrays in, the steps called without the GIL. Only the bindings know Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/array.h"
#include "bindings/codes.h"
#include "cpu/pages.h"
#include "cpu/steps.h"
#include "cpu/threads.h"

namespace py = pybind11;
using namespace pybind11::literals;
using namespace tsm;

namespace {

Output output(uintptr_t address, bool wide) {
    return {memory_at<void>(address), wide};
}

CpuHooiPlan plan_of(const TensorBatch& x, const std::vector<int64_t>& rank, int n_iter_max, double tol, bool sign_v,
                    bool refine, bool guard, const HooiOptions& options = {}) {
    const bool hosvd = n_iter_max == 0;
    CpuHooiPlan plan{
        plan_hooi(x.first.order, x.first.shape, rank.data(), hosvd ? 1 : n_iter_max, tol, sign_v, options)};
    plan.hosvd = hosvd;
    if (hosvd && plan.order == 2 && plan.big < 0) plan.big = 0;  // one eigenproblem for both factors of a matrix
    plan.refine = refine;
    plan.guard = guard;
    return plan;
}

SaliencyPlan saliency_plan(const TensorBatch& x, int method, const std::vector<int64_t>& rank, bool center,
                           bool absolute, int sign, bool relu, int n_iter_max, double tol, bool refine, bool guard) {
    SaliencyPlan plan{};
    plan.method = static_cast<Method>(method);
    plan.center = center && (plan.method == Method::eigencam || plan.method == Method::multivec_eigencam);
    plan.absolute = absolute;
    plan.sign = static_cast<Sign>(sign);
    plan.relu = relu;
    plan.truncated = !rank.empty();
    const std::vector<int64_t> full(x.first.shape, x.first.shape + 3);
    plan.hooi = plan_of(x, plan.truncated ? rank : full, n_iter_max, tol, false, refine, guard);
    return plan;
}

// Maps of batches of one shape, raw and finished.
struct FinishedMaps {
    SaliencyPlan plan;
    bool wide;
    int64_t rows, columns;
    bool normalize;
    std::array<double, 4> ordinary;  // least and largest peak, noise, faint
    bool wide_out;

    // Nothing where all items are finite and, if they are resized or normalised, ordinary; else which are finite, and
    // only the raw maps.
    std::optional<std::vector<bool>> operator()(const Array& x, uintptr_t maps, uintptr_t out, int threads) const {
        const TensorBatch batch = batch_of(x);
        const auto count = static_cast<size_t>(batch.batch);
        const std::unique_ptr<bool[]> flags(new bool[count]);
        saliency(batch, plan, wide, output(maps, wide_out), flags.get(), threads);
        const bool finite = std::find(flags.get(), flags.get() + count, false) == flags.get() + count;
        if (finite && out == maps && !normalize) return {};
        const auto [smallest, largest, noise, faint] = ordinary;
        const void* raw = memory_at<const void>(maps);
        const OrdinaryMaps wanted{plan.positions(), smallest, largest, faint, noise, true};
        if (!finite || !are_ordinary(raw, wide_out, batch.batch, wanted, threads))
            return std::vector<bool>(flags.get(), flags.get() + count);
        finish(raw, batch.batch,
               {plan.hooi.shape[1], plan.hooi.shape[2], rows, columns, false, normalize, noise, nullptr, nullptr},
               output(out, wide_out), threads);
        return {};
    }
};

// The GIL is free meanwhile. Where the process ends before it is taken again, Python ends the thread by unwinding its
// stack, which pybind11's own guard would not let pass.
struct OthersMayRun {
    PyThreadState* state = PyEval_SaveThread();
    ~OthersMayRun() noexcept(false) { PyEval_RestoreThread(state); }
};

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Compiled CPU steps of tsm_fast; tsm_fast.steps.cpu wraps them.";
    level();  // a wrong TSM_FAST_SIMD fails the import, with its message
    export_codes(m);

    m.def("simd_level", [] { return level().name; });
    m.def("simd_levels", [] {
        py::list names;
        for (const char* const* name = supported_levels(); *name; ++name) names.append(*name);
        return names;
    });
    m.def("guard_workspaces", &guard_workspaces);
    m.def("share_all_work", &share_all_work);
    m.def("prefer_large_pages",
          [](uintptr_t address, int64_t bytes) { prefer_large_pages(reinterpret_cast<void*>(address), bytes); });

    const py::kw_only named;
    const auto release = py::call_guard<OthersMayRun>();
    m.def(
        "mode_gram",
        [](const Array& x, int mode, bool center, bool wide, uintptr_t out, bool wide_out, int threads) {
            mode_gram(batch_of(x), mode, center, wide, output(out, wide_out), threads);
        },
        "x"_a, "mode"_a, named, "center"_a, "wide"_a, "out"_a, "wide_out"_a, "threads"_a, release);
    m.def(
        "truncated_svd",
        [](const Array& gram, int rank, bool roots, bool wide, uintptr_t values, uintptr_t vectors, bool wide_out,
           int threads) {
            truncated_svd(batch_of(gram), rank, roots, wide, output(values, wide_out), output(vectors, wide_out),
                          threads);
        },
        "gram"_a, "rank"_a, named, "roots"_a, "wide"_a, "values"_a, "vectors"_a, "wide_out"_a, "threads"_a, release);
    m.def(
        "singular_triplets",
        [](const Array& x, int64_t rank, bool turned, bool sign_right, uintptr_t left, uintptr_t values,
           uintptr_t right, uintptr_t finite, int threads) {
            singular_triplets(batch_of(x), {rank, turned, sign_right}, memory_at<float>(left), memory_at<float>(values),
                              memory_at<float>(right), memory_at<bool>(finite), threads);
        },
        "x"_a, "rank"_a, named, "turned"_a, "sign_right"_a, "left"_a, "values"_a, "right"_a, "finite"_a, "threads"_a,
        release);
    m.def(
        "core_contraction",
        [](const Array& x, const std::vector<std::optional<Array>>& factors, uintptr_t out, bool wide, int threads) {
            TensorBatch each[kMaxOrder]{};
            for (size_t i = 0; i < factors.size() && i < kMaxOrder; ++i)
                if (factors[i]) each[i] = batch_of(*factors[i]);
            core_contraction(batch_of(x), each, output(out, wide), threads);
        },
        "x"_a, "factors"_a, named, "out"_a, "wide"_a, "threads"_a, release);
    m.def(
        "hooi",
        [](const Array& x, const std::vector<int64_t>& rank, const std::vector<int>& modes,
           const std::vector<Shared>& start, const Shared& padding, int n_iter_max, double tol, bool sign_v,
           bool refine, bool guard, bool wide, uintptr_t core, const std::vector<uintptr_t>& factors,
           const std::vector<uintptr_t>& singular_values, uintptr_t errors, uintptr_t n_sweeps, uintptr_t converged,
           uintptr_t finite, bool wide_out, int threads) {
            const TensorBatch batch = batch_of(x);
            const HooiStart from = start_of(modes, start, padding);
            HooiOutput out{};
            out.core = output(core, wide_out);
            for (size_t i = 0; i < modes.size(); ++i) {
                out.factors[modes[i]] = output(factors[i], wide_out);
                out.singular_values[modes[i]] = output(singular_values[i], wide_out);
            }
            out.errors = memory_at<double>(errors);
            out.n_sweeps = memory_at<int64_t>(n_sweeps);
            out.converged = memory_at<bool>(converged);
            out.finite = memory_at<bool>(finite);
            const HooiOptions options = options_of(batch.first.order, modes, !start.empty(), padding.first != 0);
            hooi(batch, plan_of(batch, rank, n_iter_max, tol, sign_v, refine, guard, options), wide, from, out,
                 threads);
        },
        "x"_a, "rank"_a, named, "modes"_a, "start"_a, "padding"_a, "n_iter_max"_a, "tol"_a, "sign_v"_a, "refine"_a,
        "guard"_a, "wide"_a, "core"_a, "factors"_a, "singular_values"_a, "errors"_a, "n_sweeps"_a, "converged"_a,
        "finite"_a, "wide_out"_a, "threads"_a, release);
    m.def(
        "saliency",
        [](const Array& x, int method, const std::vector<int64_t>& rank, bool center, bool absolute, int sign,
           bool relu, int n_iter_max, double tol, bool refine, bool guard, bool wide, uintptr_t maps, uintptr_t finite,
           bool wide_out, int threads) {
            const TensorBatch batch = batch_of(x);
            const SaliencyPlan plan =
                saliency_plan(batch, method, rank, center, absolute, sign, relu, n_iter_max, tol, refine, guard);
            saliency(batch, plan, wide, output(maps, wide_out), memory_at<bool>(finite), threads);
        },
        "x"_a, "method"_a, "rank"_a, named, "center"_a, "absolute"_a, "sign"_a, "relu"_a, "n_iter_max"_a, "tol"_a,
        "refine"_a, "guard"_a, "wide"_a, "maps"_a, "finite"_a, "wide_out"_a, "threads"_a, release);
    py::class_<FinishedMaps>(m, "FinishedMaps")
        .def(py::init([](int method, const std::vector<int64_t>& shape, const std::vector<int64_t>& rank, bool center,
                         bool absolute, int sign, bool relu, int n_iter_max, double tol, bool refine, bool guard,
                         bool wide, int64_t rows, int64_t columns, bool normalize,
                         const std::array<double, 4>& ordinary, bool wide_out) {
                 TensorBatch x{};
                 for (size_t i = 0; i < 3; ++i) x.first.shape[i] = shape.at(i);
                 x.first.order = 3;
                 const SaliencyPlan plan =
                     saliency_plan(x, method, rank, center, absolute, sign, relu, n_iter_max, tol, refine, guard);
                 return FinishedMaps{plan, wide, rows, columns, normalize, ordinary, wide_out};
             }),
             "method"_a, "shape"_a, "rank"_a, named, "center"_a, "absolute"_a, "sign"_a, "relu"_a, "n_iter_max"_a,
             "tol"_a, "refine"_a, "guard"_a, "wide"_a, "rows"_a, "columns"_a, "normalize"_a, "ordinary"_a, "wide_out"_a)
        .def("__call__", &FinishedMaps::operator(), release);  // by place: names cost microseconds
    m.def(
        "finish",
        [](uintptr_t maps, uintptr_t out, int64_t batch, int64_t height, int64_t width, int64_t rows, int64_t columns,
           bool normalize, double noise, bool wide, int threads) {
            const FinishPlan plan{height, width, rows, columns, false, normalize, noise, nullptr, nullptr};
            finish(memory_at<const void>(maps), batch, plan, output(out, wide), threads);
        },
        "maps"_a, "out"_a, named, "batch"_a, "height"_a, "width"_a, "rows"_a, "columns"_a, "normalize"_a, "noise"_a,
        "wide"_a, "threads"_a, release);
    m.def(
        "are_ordinary",
        [](uintptr_t maps, int64_t batch, int64_t size, double smallest, double largest, double faint, double noise,
           bool nan, bool wide, int threads) {
            const OrdinaryMaps plan{size, smallest, largest, faint, noise, nan};
            return are_ordinary(memory_at<const void>(maps), wide, batch, plan, threads);
        },
        "maps"_a, named, "batch"_a, "size"_a, "smallest"_a, "largest"_a, "faint"_a, "noise"_a, "nan"_a, "wide"_a,
        "threads"_a, release);
}
