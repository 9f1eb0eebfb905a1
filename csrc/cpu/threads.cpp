#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace tsm {
namespace {

// Linux may start a thread on the CPU of the one that made it and, while that one keeps working, move it only after
// milliseconds: longer than many calls take. So helpers, which work for one call, run on all CPUs but the caller's.
class OtherCpus {
public:
#if defined(__linux__)
    OtherCpus() {
        const int here = sched_getcpu();
        if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof cpus_, &cpus_) != 0) return;
        CPU_CLR(static_cast<size_t>(here), &cpus_);
        any_ = CPU_COUNT(&cpus_) > 0;
    }
    void take(std::thread& helper) const {
        if (any_) pthread_setaffinity_np(helper.native_handle(), sizeof cpus_, &cpus_);
    }

private:
    cpu_set_t cpus_;
    bool any_ = false;
#else
    void take(std::thread&) const {}
#endif
};

// One call, which waits for the helpers that joined it and for no others: on a busy machine a helper may get a CPU only
// after the caller has done everything.
struct Call {
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex mutex;

    bool join() {
        std::lock_guard<std::mutex> hold(mutex);
        at_work_ += !over_;
        return !over_;
    }
    void leave() {
        std::lock_guard<std::mutex> hold(mutex);
        if (--at_work_ == 0) idle_.notify_one();
    }
    void end() {
        std::unique_lock<std::mutex> hold(mutex);
        over_ = true;
        idle_.wait(hold, [this] { return at_work_ == 0; });
    }

private:
    int at_work_ = 0;
    bool over_ = false;
    std::condition_variable idle_;
};

}  // namespace

void parallel_chunks(int64_t count, int64_t chunk, int threads,
                     const std::function<void(int64_t, int64_t, const ArenaState&)>& body) {
    if (count <= 0) return;
    const int64_t chunks = (count + chunk - 1) / chunk;
    const int64_t wanted = std::min<int64_t>(std::max(threads, 1), chunks);
    const int each = std::max(threads, 1) / static_cast<int>(wanted);
    const auto call = std::make_shared<Call>();
    const auto work = [&, call = call.get()] {
        try {
            Workspace workspace;
            for (int64_t k; (k = call->next.fetch_add(1)) < chunks;) {
                ArenaState memory = workspace.start();
                memory.threads = each;
                body(k * chunk, std::min(count, (k + 1) * chunk), memory);
            }
            workspace.check();
        } catch (...) {
            call->next.store(chunks);
            std::lock_guard<std::mutex> hold(call->mutex);
            if (!call->error) call->error = std::current_exception();
        }
    };
    try {
        std::optional<OtherCpus> others;
        if (wanted > 1) others.emplace();  // a system call
        for (int64_t i = 1; i < wanted; ++i) {
            // Held, so that the helper cannot have ended: to place a thread that has would place the caller.
            std::lock_guard<std::mutex> hold(call->mutex);
            std::thread helper([call, &work] {
                if (!call->join()) return;  // `work` is gone
                work();
                call->leave();
            });
            others->take(helper);
            helper.detach();
        }
    } catch (const std::system_error&) {
        // The system gives no more threads: those that started, and the caller, do all chunks.
    }
    work();
    call->end();
    if (call->error) std::rethrow_exception(call->error);
}

void in_parts(const ArenaState& at, int64_t count, void (*body)(void*, int64_t, const ArenaState&), void* what) {
    if (at.threads > 1 && count > 1)
        parallel_chunks(count, 1, at.threads,
                        [&](int64_t part, int64_t, const ArenaState& memory) { body(what, part, memory); });
    else
        for (int64_t part = 0; part < count; ++part) body(what, part, at);
}

int64_t balanced_chunk(int64_t count, int64_t group, int threads) {
    const int64_t workers = std::max(threads, 1);
    const int64_t rounds = (count + group * workers - 1) / (group * workers);
    return std::max<int64_t>(1, (count + rounds * workers - 1) / (rounds * workers));
}

}  // namespace tsm
