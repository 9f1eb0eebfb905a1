// Kernels with a fault each, which the emulation must find, and sound ones.
#pragma once
#include <string>

// Runs a kernel by its name; NaN as its result is an error too.
void run_planted(const std::string& name);
