// What parallel_chunks promises, as a program: exit code 0 where it holds. Built and run by test_threads.py.
#include "cpu/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {
using namespace tsm;

std::atomic<int> failures{0};
void expect(bool holds, const char* what) {
    if (holds) return;
    std::printf("%s\n", what);
    ++failures;
}

// Every number is taken once, whatever shares it.
void count_all(int64_t count, int64_t group, int threads) {
    std::vector<int> seen(static_cast<size_t>(count));
    parallel_chunks(count, group, 1, threads, [&](int64_t first, int64_t last, const ArenaState& memory) {
        in_parts(
            memory, last - first, [](void* what, int64_t part, const ArenaState&) { ++static_cast<int*>(what)[part]; },
            seen.data() + first);
    });
    for (int times : seen) expect(times == 1, "an item was not computed once");
}

void many_calls(int rounds) {
    for (int i = 0; i < rounds; ++i) {
        count_all(1 + i % 9, 1 + i % 3, 1 + i % 5);
        try {
            parallel_chunks(4, 1, 1, 4, [&](int64_t first, int64_t, const ArenaState&) {
                if (first == i % 4) throw std::runtime_error("of the body");
            });
            expect(false, "an exception was lost");
        } catch (const std::runtime_error&) {
        }
    }
}

void all_at_once(int threads, int rounds) {
    std::vector<std::thread> callers;
    for (int i = 0; i < threads; ++i) callers.emplace_back(many_calls, rounds);
    for (auto& caller : callers) caller.join();
}
}  // namespace

int main(int count, char**) {
    share_all_work(true);
    many_calls(300);
    all_at_once(6, 300);
    if (count > 1) return failures != 0;  // thread sanitizer: no threads after a fork
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        while (!stop) many_calls(1);
    });
    for (int i = 0; i < 40; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(60);
            many_calls(10);
            all_at_once(2, 10);
            _exit(failures != 0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child that was forked in the middle of a call");
    }
    stop = true;
    busy.join();
    std::thread([] { many_calls(1 << 30); }).detach();  // the process ends in the middle of a call
    return failures != 0;
}
