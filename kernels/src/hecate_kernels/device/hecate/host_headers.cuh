// What the host backend takes from the system, parsed once per flavour and cached: see `cpu_build`.
#pragma once

// The special functions of C++17, which CUDA lacks, make up most of what compiling a small kernel would cost.
#include <cstddef>
#undef _GLIBCXX_USE_STD_SPEC_FUNCS
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
