// What the emulation tells the tests beside results.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>

#include "cuda_emulation.h"

inline void emulation_bindings(pybind11::module_& m) {
    m.def("launches", [] { return std::exchange(emulated_launches, {}); });
    m.def("missed_barrier", [] {
        emulate(
            +[] {
                if (threadIdx.x < 32) __syncthreads();
            },
            1, 64, 0);
    });
    m.def("missed_shuffle", [] {
        emulate(
            +[] {
                if (threadIdx.x < 3) __syncwarp(~0u);
            },
            1, 32, 0);
    });
}
