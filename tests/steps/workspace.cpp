// What an Arena promises, as a program: exit code 0 where it holds. Built and run by test_fuzz.py.
#include "cpu/arena.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace {
using namespace tsm;

int failures = 0;
void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("%s\n", what);
    ++failures;
}

template <class Body>
bool throws(Body body) {
    try {
        body();
    } catch (const std::logic_error&) {
        return true;
    }
    return false;
}
}  // namespace

int main() {
    tsm::Workspace plain;
    Arena arena(plain.start());
    auto* first = arena.take<double>(3);
    first[2] = 7;
    expect(reinterpret_cast<uintptr_t>(first) % 64 == 0, "pieces are aligned");
    {
        Arena scope = arena;
        for (int i = 0; i < 50; ++i) std::memset(scope.take<char>(300000 * (1 + i % 3)), i, 300000);
        expect(scope.block > 0, "blocks are added");
    }
    auto* second = arena.take<double>(1);
    expect(second == first + 8 && first[2] == 7, "a scope that ended left no trace");
    char* large = arena.take<char>(int64_t{5} << 20);
    std::memset(large, 1, size_t{5} << 20);
    Arena again(plain.start());
    expect(again.take<double>(3) == first, "a new chunk starts at the front");
    expect(bytes_taken([](Arena& a) { a.take<char>(1), a.take<double>(9); }) == 64 + 128, "bytes are counted");

    tsm::guard_workspaces(true);
    tsm::Workspace guarded;
    expect(!throws([&] {
        Arena outer(guarded.start());
        auto* a = outer.take<float>(5);
        for (int i = 0; i < 5; ++i) a[i] = 1;
        for (int scopes = 0; scopes < 3; ++scopes) {
            Arena inner = outer;
            std::memset(inner.take<char>(3000000), 1, 3000000);
        }
        guarded.check();
    }),
           "what keeps to its piece is left alone");
    Arena outer(guarded.start());
    auto* a = outer.take<float>(5);
    expect(a[4] != a[4], "fresh memory is NaN");
    a[5] = 1;  // the piece is 64 bytes long in memory, its red zone begins at once
    expect(throws([&] { guarded.check(); }), "one element too many is seen at the end");
    tsm::Workspace other;
    Arena base(other.start());
    base.take<double>(8);
    {
        Arena inner = base;
        inner.take<double>(8)[8] = 1;
    }
    expect(throws([&] { base.take<double>(1); }), "and when its scope has ended");
    return failures != 0;
}
