#include "cpu/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace tsm {
namespace {

// Fewer multiply-adds than this are done before a thread that sleeps has a CPU.
constexpr double kWorth = 2.5e6;
std::atomic<bool> g_shares_all{false};

// Waits awake, for so short a time that to sleep and be woken would take longer.
template <class Ready>
void look_out(Ready ready, int microseconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
    while (!ready() && std::chrono::steady_clock::now() < end) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

// Linux may wake a thread on the CPU of the one that wakes it and, while that one keeps working, move it only after
// milliseconds: longer than many calls take. So helpers run where the caller may, but on its own CPU.
class OtherCpus {
public:
#if defined(__linux__)
    OtherCpus() { CPU_ZERO(&cpus_); }
    static OtherCpus of_caller() {
        OtherCpus others;
        const int here = sched_getcpu();
        if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof cpus_, &others.cpus_) != 0) return {};
        if (CPU_COUNT(&others.cpus_) > 1) CPU_CLR(static_cast<size_t>(here), &others.cpus_);
        return others;
    }
    // Moves a helper that was placed on `now`.
    void take(pthread_t helper, OtherCpus& now) const {
        if (CPU_COUNT(&cpus_) == 0 || CPU_EQUAL(&cpus_, &now.cpus_)) return;
        if (pthread_setaffinity_np(helper, sizeof cpus_, &cpus_) == 0) now = *this;
    }

private:
    cpu_set_t cpus_;
#else
    static OtherCpus of_caller() { return {}; }
    void take(std::thread::native_handle_type, OtherCpus&) const {}
#endif
};

// Signals to the process are for its own threads: one that starts meanwhile takes none but those of its own faults.
class NoSignals {
public:
#if defined(__unix__) || defined(__APPLE__)
    NoSignals() {
        sigset_t all;
        sigfillset(&all);
        for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, own);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

private:
    sigset_t before_;
#else
    NoSignals() {}
#endif
};

struct Helper;

// One call, which waits for the helpers that joined it and for no others: on a busy machine a helper may get a CPU only
// after the caller has done everything. Guarded by the mutex of the pool, as all that helpers and callers share.
struct Call {
    const std::function<void()>& work;
    std::atomic<int> at_work{0};
    std::condition_variable idle{};
    std::vector<Helper*> asked{};
};

// Threads that wait between calls. What a process has of them is never freed: they end with it.
struct Pool {
    std::mutex mutex;
    std::vector<Helper*> free;
    int count = 0;

    bool grow(int wanted);
    void hire(Call& call, int wanted);
    void end(Call& call);
};

struct Helper {
    explicit Helper(Pool& owner) : pool(owner) {}

    Pool& pool;
    std::atomic<Call*> call{nullptr};  // that it is asked to join
    std::condition_variable wake{};
    std::thread::native_handle_type thread{};
    OtherCpus cpus{};

    void run() {
        std::unique_lock<std::mutex> hold(pool.mutex);
        for (;;) {
            wake.wait(hold, [this] { return call.load() != nullptr; });
            do {
                Call& joined = *call.exchange(nullptr);
                ++joined.at_work;
                hold.unlock();
                joined.work();
                hold.lock();
                if (--joined.at_work == 0) joined.idle.notify_one();
                pool.free.push_back(this);
                hold.unlock();
                look_out([this] { return call.load() != nullptr; }, 20);
                hold.lock();
            } while (call.load());
        }
    }
};

// Calls from several threads share the helpers: no more than there are CPUs, or than one call asks for. False where the
// system gives no more threads: those that there are, and the caller, do all.
bool Pool::grow(int wanted) {
    if (count >= std::max(wanted, static_cast<int>(std::thread::hardware_concurrency()))) return false;
    try {
        free.reserve(static_cast<size_t>(count) + 1);
        auto helper = std::make_unique<Helper>(*this);
        const NoSignals during;
        std::thread thread([own = helper.get()] { own->run(); });
        helper->thread = thread.native_handle();
        thread.detach();
        free.push_back(helper.release());
        return ++count > 0;
    } catch (const std::exception&) {
        return false;
    }
}

void Pool::hire(Call& call, int wanted) {
    const OtherCpus others = OtherCpus::of_caller();
    call.asked.reserve(static_cast<size_t>(wanted));
    {
        std::lock_guard<std::mutex> hold(mutex);
        for (int i = 0; i < wanted && (!free.empty() || grow(wanted)); ++i) {
            Helper* helper = free.back();
            free.pop_back();
            others.take(helper->thread, helper->cpus);
            helper->call = &call;
            call.asked.push_back(helper);
        }
    }
    for (Helper* helper : call.asked) helper->wake.notify_one();
}

// Takes back those that have not joined, and waits for the others.
void Pool::end(Call& call) {
    std::unique_lock<std::mutex> hold(mutex);
    for (Helper* helper : call.asked) {
        Call* waiting = &call;
        if (helper->call.compare_exchange_strong(waiting, nullptr)) free.push_back(helper);
    }
    if (call.at_work == 0) return;
    hold.unlock();
    look_out([&] { return call.at_work == 0; }, 50);
    hold.lock();
    call.idle.wait(hold, [&] { return call.at_work == 0; });
}

std::atomic<Pool*> g_pool{nullptr};

#if defined(__unix__) || defined(__APPLE__)
// A process that was forked has none of the helpers, and a pool that nobody may ever unlock: it makes its own.
[[maybe_unused]] const int g_forgets = pthread_atfork(nullptr, nullptr, [] { g_pool = nullptr; });
#endif

Pool& pool() {
    Pool* there = g_pool.load();
    if (!there) {
        auto* made = new Pool;
        if (g_pool.compare_exchange_strong(there, made)) return *made;
        delete made;
    }
    return *there;
}

}  // namespace

void parallel_chunks(int64_t count, int64_t group, double work, int threads,
                     const std::function<void(int64_t, int64_t, const ArenaState&)>& body) {
    if (count <= 0) return;
    const int64_t most = std::min<int64_t>(std::max(threads, 1), count);
    const int each = std::max(threads, 1) / static_cast<int>(most);
    const double worth = g_shares_all ? static_cast<double>(most) : work * static_cast<double>(count) / kWorth;
    const auto workers = static_cast<int64_t>(std::clamp(worth, 1.0, static_cast<double>(most)));
    const int64_t rounds = (count + group * workers - 1) / (group * workers);
    const int64_t chunk = (count + rounds * workers - 1) / (rounds * workers), chunks = (count + chunk - 1) / chunk;
    std::atomic<int64_t> next{0};
    const auto share = [&] {
        Workspace workspace;
        for (int64_t k; (k = next.fetch_add(1)) < chunks;) {
            ArenaState memory = workspace.start();
            memory.threads = each;
            body(k * chunk, std::min(count, (k + 1) * chunk), memory);
        }
        workspace.check();
    };
    const auto helpers = static_cast<int>(std::min(workers, chunks)) - 1;
    if (helpers == 0) return share();
    std::exception_ptr error;
    std::mutex errors;
    const std::function<void()> guarded = [&] {
        try {
            share();
        } catch (...) {
            next = chunks;
            std::lock_guard<std::mutex> hold(errors);
            if (!error) error = std::current_exception();
        }
    };
    Call call{guarded};
    Pool& those = pool();
    those.hire(call, helpers);
    guarded();
    those.end(call);
    if (error) std::rethrow_exception(error);
}

void in_parts(const ArenaState& at, int64_t count, void (*body)(void*, int64_t, const ArenaState&), void* what) {
    if (at.threads > 1 && count > 1)
        parallel_chunks(count, 1, kWorth, at.threads,
                        [&](int64_t part, int64_t, const ArenaState& memory) { body(what, part, memory); });
    else
        for (int64_t part = 0; part < count; ++part) body(what, part, at);
}

void share_all_work(bool on) {
    g_shares_all = on;
}

}  // namespace tsm
