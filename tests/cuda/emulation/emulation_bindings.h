// What the emulation tells the tests beside results.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>

#include "cuda_emulation.h"
#include "planted.h"

inline void emulation_bindings(pybind11::module_& m) {
    m.def("launches", [] { return std::exchange(emulated_launches, {}); });
    m.def("run_planted", &run_planted);
}
