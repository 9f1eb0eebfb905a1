// The CPU module: descriptions of arrays in, the steps called without the GIL. Only the bindings know Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>

#include "bindings/array.h"
#include "cpu/pages.h"
#include "cpu/steps.h"
#include "cpu/threads.h"

namespace py = pybind11;
using namespace tsm;

namespace {

Output output(uintptr_t address, bool wide) {
    return {memory_at<void>(address), wide};
}

HooiPlan plan_of(const TensorBatch& x, const std::vector<int64_t>& rank, int n_iter_max, double tol, bool sign_v,
                 bool refine, bool guard) {
    HooiPlan plan = plan_hooi(x, rank.data());
    plan.n_iter_max = n_iter_max;
    plan.tol = tol;
    plan.sign_v = sign_v;
    plan.refine = refine;
    plan.guard = guard;
    return plan;
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Compiled CPU steps of tsm_fast; tsm_fast.native wraps them.";
    level();  // a wrong TSM_FAST_SIMD fails the import, with its message

    m.def("simd_level", [] { return level().name; });
    m.def("simd_levels", [] {
        py::list names;
        for (const char* const* name = supported_levels(); *name; ++name) names.append(*name);
        return names;
    });
    m.def("guard_workspaces", &guard_workspaces);
    m.def("prefer_large_pages",
          [](uintptr_t address, int64_t bytes) { prefer_large_pages(reinterpret_cast<void*>(address), bytes); });
    m.def("fma_peak", [](double seconds, int threads) {
        py::gil_scoped_release release;
        const auto start = std::chrono::steady_clock::now();
        std::vector<double> done(static_cast<size_t>(threads));
        auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
        parallel_chunks(threads, 1, threads, [&](int64_t first, int64_t, const ArenaState&) {
            while (elapsed() < seconds) done[static_cast<size_t>(first)] += level().fma_rate(1 << 16);
        });
        double total = 0;
        for (double d : done) total += d;
        return total / elapsed();
    });

    m.def("mode_gram", [](const Array& x, int mode, bool center, bool wide, uintptr_t out, bool wide_out, int threads) {
        py::gil_scoped_release release;
        mode_gram(batch_of(x), mode, center, wide, output(out, wide_out), threads);
    });
    m.def("truncated_svd",
          [](const Array& gram, int rank, bool wide, uintptr_t values, uintptr_t vectors, bool wide_out, int threads) {
              py::gil_scoped_release release;
              truncated_svd(batch_of(gram), rank, wide, output(values, wide_out), output(vectors, wide_out), threads);
          });
    m.def("core_contraction", [](const Array& x, const std::vector<uintptr_t>& factors,
                                 const std::vector<int64_t>& rank, uintptr_t out, bool wide, int threads) {
        py::gil_scoped_release release;
        const TensorBatch batch = batch_of(x);
        const void* pointers[kMaxOrder];
        for (size_t i = 0; i < factors.size(); ++i) {
            const bool same = rank[i] == batch.first.shape[i];  // as the size of a mode without a factor is
            pointers[i] = same ? reinterpret_cast<const void*>(factors[i]) : memory_at<const void>(factors[i]);
        }
        core_contraction(batch, pointers, rank.data(), output(out, wide), threads);
    });
    m.def("hooi", [](const Array& x, const std::vector<int64_t>& rank, int n_iter_max, double tol, bool sign_v,
                     bool refine, bool guard, bool wide, uintptr_t core, const std::vector<uintptr_t>& factors,
                     const std::vector<uintptr_t>& values, uintptr_t errors, uintptr_t n_sweeps, uintptr_t converged,
                     uintptr_t finite, bool wide_out, int threads) {
        py::gil_scoped_release release;
        const TensorBatch batch = batch_of(x);
        HooiOutput out{};
        out.core = output(core, wide_out);
        for (size_t i = 0; i < factors.size(); ++i) {
            out.factors[i] = output(factors[i], wide_out);
            out.singular_values[i] = output(values[i], wide_out);
        }
        out.errors = memory_at<double>(errors);
        out.n_sweeps = memory_at<int64_t>(n_sweeps);
        out.converged = memory_at<bool>(converged);
        out.finite = memory_at<bool>(finite);
        hooi(batch, plan_of(batch, rank, n_iter_max, tol, sign_v, refine, guard), wide, out, threads);
    });
    m.def("saliency", [](const Array& x, int method, const std::vector<int64_t>& rank, bool center, bool absolute,
                         int sign, int n_iter_max, double tol, bool refine, bool guard, bool wide, uintptr_t maps,
                         uintptr_t finite, bool wide_out, int threads) {
        py::gil_scoped_release release;
        const TensorBatch batch = batch_of(x);
        SaliencyPlan plan{};
        plan.method = static_cast<Method>(method);
        plan.center = center && (plan.method == Method::eigencam || plan.method == Method::multivec_eigencam);
        plan.absolute = absolute;
        plan.sign = static_cast<Sign>(sign);
        plan.truncated = !rank.empty();
        const std::vector<int64_t> full(batch.first.shape, batch.first.shape + 3);
        plan.hooi = plan_of(batch, plan.truncated ? rank : full, n_iter_max, tol, false, refine, guard);
        saliency(batch, plan, wide, output(maps, wide_out), memory_at<bool>(finite), threads);
    });
    m.def("finish", [](uintptr_t maps, uintptr_t out, int64_t batch, int64_t height, int64_t width, int64_t height_out,
                       int64_t columns, bool normalize, double noise, bool wide, int threads) {
        py::gil_scoped_release release;
        const FinishPlan plan{height, width, height_out, columns, false, normalize, noise, nullptr, nullptr};
        finish(memory_at<const void>(maps), batch, plan, output(out, wide), threads);
    });
}
