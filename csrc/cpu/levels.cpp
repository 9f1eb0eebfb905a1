#include "cpu/levels.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace tsm {
// clang-format off
#if defined(__x86_64__)
namespace scalar { extern const Level kLevel; }
namespace avx2 { extern const Level kLevel; }
namespace avx512 { extern const Level kLevel; }
namespace avx512vnni { extern const WordPanel kWordPanel; }
#elif defined(__aarch64__)
namespace neon { extern const Level kLevel; }
#else
namespace scalar { extern const Level kLevel; }
#endif
// clang-format on

namespace {

// Supported levels, the best last.
struct Supported {
    const Level* levels[4] = {};
    const char* names[4] = {};
    int count = 0;
    void add(const Level& level) {
        levels[count] = &level;
        names[count++] = level.name;
    }
    Supported() {
#if defined(__x86_64__)
        __builtin_cpu_init();
        add(scalar::kLevel);
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
            add(avx2::kLevel);
        if (count == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            add(avx512::kLevel);
#elif defined(__aarch64__)
        add(neon::kLevel);
#else
        add(scalar::kLevel);
#endif
    }
};

const Supported& supported() {
    static const Supported s;
    return s;
}

const Level& choose() {
    const Supported& s = supported();
    const char* wanted = std::getenv("TSM_FAST_SIMD");
    if (!wanted || !*wanted) return *s.levels[s.count - 1];
    std::string names;
    for (int i = 0; i < s.count; ++i) {
        if (std::strcmp(wanted, s.names[i]) == 0) return *s.levels[i];
        names += (i ? ", " : "") + std::string(s.names[i]);
    }
    throw std::runtime_error("TSM_FAST_SIMD must be one of the levels this machine supports (" + names + "), got '" +
                             wanted + "'");
}

}  // namespace

const Level& level() {
    static const Level& chosen = choose();
    return chosen;
}

WordPanel wide_word_panel() {
#if defined(__x86_64__)
    static const bool there = __builtin_cpu_supports("avx512vnni");
    return there ? avx512vnni::kWordPanel : nullptr;
#else
    return nullptr;
#endif
}

const char* const* supported_levels() {
    return supported().names;
}

}  // namespace tsm
