#include "cuda_emulation.h"

#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "races.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

Dimensions threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kStack = 64 * 1024;
enum class Waits { no, lanes, warp, block, done };  // lanes: of its warp, for what they hand over

// ---- switching between stacks ----
#if defined(__x86_64__)
extern "C" void tsm_switch(void** save, void* to);
asm(R"(
.text
.globl tsm_switch
.hidden tsm_switch
.type tsm_switch, @function
tsm_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size tsm_switch, .-tsm_switch
)");
struct Context {
    void* stack = nullptr;
};
void change(Context& from, Context& to) {
    tsm_switch(&from.stack, to.stack);
}
void prepare(Context& context, char* memory, void (*entry)()) {
    auto* top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(memory) + kStack) & ~uintptr_t{15});
    *--top = nullptr;  // keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context.stack = top;
}
#else
struct Context {
    ucontext_t state;
};
void change(Context& from, Context& to) {
    swapcontext(&from.state, &to.state);
}
void prepare(Context& context, char* memory, void (*entry)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = memory;
    context.state.uc_stack.ss_size = kStack;
    makecontext(&context.state, entry, 0);
}
#endif

constexpr size_t kCopy = 16;  // bytes of an asynchronous copy
struct Copy {
    void* to;
    const void* from;
};

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    Waits waits = Waits::no;
    uint64_t bits = 0;           // what this lane offers the others of its warp
    double a0, a1, b;            // and to the matrix unit
    uint32_t a[4], columns[2];   // the same in 16 bits
    void* fake = nullptr;        // AddressSanitizer's own
    std::vector<Copy> copies;    // asynchronous ones on their way, oldest first
    std::vector<size_t> groups;  // how many copies were started when each group was committed
};

struct Scheduler {
    std::vector<std::unique_ptr<Fiber>> fibers;
    Context home;
    void* home_fake = nullptr;
    const void* home_bottom = nullptr;
    size_t home_size = 0;
    unsigned current = 0, threads = 0;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    std::unique_ptr<void, void (*)(void*)> shared{nullptr, std::free};
    std::exception_ptr failure;
    bool reverse = false;
} scheduler;

Fiber& own() {
    return *scheduler.fibers[scheduler.current];
}

void leave(bool last) {
    [[maybe_unused]] Fiber& fiber = own();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake, scheduler.home_bottom, scheduler.home_size);
#else
    (void)last;
#endif
    change(fiber.context, scheduler.home);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake, nullptr, nullptr);
#endif
}

void enter(unsigned thread) {
    scheduler.current = thread;
    threadIdx.x = thread;
    Fiber& fiber = own();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler.home_fake, fiber.stack.get(), kStack);
#endif
    races::enter(thread, fiber.stack.get(), kStack);
    change(scheduler.home, fiber.context);
    races::leave();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler.home_fake, nullptr, nullptr);
#endif
}

void start() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.home_bottom, &scheduler.home_size);
#endif
    try {
        scheduler.body(scheduler.argument);
        if (!own().copies.empty())
            throw std::logic_error("a kernel that ends before its copies have come, in block " +
                                   std::to_string(blockIdx.x));
    } catch (...) {
        scheduler.failure = std::current_exception();
    }
    own().waits = Waits::done;
    leave(true);
}

void wait(Waits at) {
    const unsigned thread = scheduler.current;
    own().waits = at;
    leave(false);
    scheduler.current = thread;
}

bool all(unsigned first, unsigned last, Waits state) {
    for (unsigned t = first; t < last; ++t)
        if (scheduler.fibers[t]->waits != state) return false;
    return true;
}

void release(unsigned first, unsigned last) {
    for (unsigned t = first; t < last; ++t) scheduler.fibers[t]->waits = Waits::no;
}

// Lets the threads of a warp run until each waits for the block or is done.
void run_warp(unsigned first, unsigned last) {
    for (;;) {
        for (unsigned i = first; i < last; ++i) {
            const unsigned t = scheduler.reverse ? first + last - 1 - i : i;
            if (scheduler.fibers[t]->waits == Waits::no) enter(t);
            if (scheduler.failure) return;
        }
        if (all(first, last, Waits::warp))
            races::warp_barrier(first / 32);
        else if (!all(first, last, Waits::lanes))
            break;
        release(first, last);
    }
    for (unsigned t = first; t < last; ++t)
        if (scheduler.fibers[t]->waits == Waits::warp || scheduler.fibers[t]->waits == Waits::lanes)
            throw std::logic_error("a warp operation that not all lanes of the warp reach, in block " +
                                   std::to_string(blockIdx.x));
}

void run_block() {
    for (unsigned t = 0; t < scheduler.threads; ++t) {
        Fiber& fiber = *scheduler.fibers[t];
        fiber.waits = Waits::no;
        fiber.copies.clear();
        fiber.groups.clear();
        prepare(fiber.context, fiber.stack.get(), start);
    }
    for (;;) {
        const unsigned warps = scheduler.threads / 32;
        for (unsigned i = 0; i < warps; ++i) {
            const unsigned w = scheduler.reverse ? warps - 1 - i : i;
            run_warp(32 * w, 32 * w + 32);
            if (scheduler.failure) return;
        }
        if (all(0, scheduler.threads, Waits::done)) return;
        if (!all(0, scheduler.threads, Waits::block))
            throw std::logic_error("a barrier that not all threads of the block reach, in block " +
                                   std::to_string(blockIdx.x));
        races::block_barrier();
        release(0, scheduler.threads);
    }
}

}  // namespace

void run_blocks(void (*body)(void*), void* context, unsigned blocks, unsigned threads, size_t shared) {
    if (threads == 0 || threads % 32 != 0 || threads > 1024) throw std::logic_error("blocks must be whole warps");
    const char* order = std::getenv("TSM_EMULATION_ORDER");
    scheduler.reverse = order && std::string(order) == "reverse";
    scheduler.threads = threads;
    scheduler.body = body;
    scheduler.argument = context;
    while (scheduler.fibers.size() < threads) scheduler.fibers.push_back(std::make_unique<Fiber>());
    gridDim.x = blocks;
    blockDim.x = threads;
    races::start_launch();
    for (unsigned b = 0; b < blocks; ++b) {
        blockIdx.x = b;
        void* memory = nullptr;
        if (posix_memalign(&memory, 128, shared + (shared == 0)) != 0) throw std::bad_alloc();
        scheduler.shared.reset(memory);
        std::memset(memory, 255, shared);  // NaN: reading before writing shows
        races::start_block(memory, shared);
        scheduler.failure = nullptr;
        run_block();
        if (scheduler.failure) std::rethrow_exception(scheduler.failure);
    }
    races::finish_launch();
}

char* shared_memory() {
    return static_cast<char*>(scheduler.shared.get());
}

void __syncthreads() {
    wait(Waits::block);
}

void __syncwarp(unsigned) {
    wait(Waits::warp);
}

uint64_t exchange(uint64_t bits, int from) {
    own().bits = bits;
    wait(Waits::lanes);
    const uint64_t taken = scheduler.fibers[scheduler.current / 32 * 32 + static_cast<unsigned>(from)]->bits;
    wait(Waits::lanes);
    return taken;
}

unsigned __ballot_sync(unsigned, bool x) {
    own().bits = x;
    wait(Waits::lanes);
    const unsigned first = scheduler.current / 32 * 32;
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        bits |= static_cast<unsigned>(scheduler.fibers[first + lane]->bits) << lane;
    wait(Waits::lanes);
    return bits;
}

void emulated_multiply_add(double (&c)[4], double a0, double a1, double b) {
    Fiber& fiber = own();
    fiber.a0 = a0;
    fiber.a1 = a1;
    fiber.b = b;
    wait(Waits::lanes);
    const unsigned lane = scheduler.current % 32, first = scheduler.current - lane, row = lane / 4 * 4;
    for (unsigned j = 0; j < 2; ++j)
        for (unsigned k = 0; k < 4; ++k) {
            const Fiber& left = *scheduler.fibers[first + row + k];
            const Fiber& right = *scheduler.fibers[first + (2 * (lane % 4) + j) * 4 + k];
            c[j] += left.a0 * right.b;
            c[2 + j] += left.a1 * right.b;
        }
    wait(Waits::lanes);
}

void emulated_multiply_add(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bfloat) {
    Fiber& fiber = own();
    std::memcpy(fiber.a, a, sizeof a);
    std::memcpy(fiber.columns, b, sizeof b);
    wait(Waits::lanes);
    const unsigned lane = scheduler.current % 32, first = scheduler.current - lane;
    const auto value = [&](const uint32_t& pair, unsigned k) {
        const auto bits = static_cast<uint16_t>(k % 2 ? pair >> 16 : pair);
        return bfloat ? __uint_as_float(static_cast<unsigned>(bits) << 16) : __half2float(__ushort_as_half(bits));
    };
    for (unsigned q = 0; q < 4; ++q) {
        double sum = static_cast<double>(c[q]);
        for (unsigned k = 0; k < 16; ++k) {
            const Fiber& left = *scheduler.fibers[first + lane / 4 * 4 + k % 8 / 2];
            const Fiber& right = *scheduler.fibers[first + (2 * (lane % 4) + q % 2) * 4 + k % 8 / 2];
            sum += static_cast<double>(value(left.a[q / 2 + k / 8 * 2], k)) *
                   static_cast<double>(value(right.columns[k / 8], k));
        }
        const float nearest = static_cast<float>(sum);
        c[q] = std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafterf(nearest, 0.0F) : nearest;
    }
    wait(Waits::lanes);
}

void emulated_copy_async(void* shared, const void* global) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % kCopy != 0)
        throw std::logic_error("a copy of 16 bytes at an address that is no multiple of 16");
    races::start_copy(shared, global, kCopy, __builtin_return_address(0));
    std::memset(shared, 255, kCopy);  // NaN until the wait
    own().copies.push_back({shared, global});
}

void emulated_commit_copies() {
    own().groups.push_back(own().copies.size());
}

void emulated_wait_for_copies(size_t newest) {
    Fiber& fiber = own();
    if (fiber.groups.size() <= newest) return;
    const auto waited = fiber.groups.end() - static_cast<std::ptrdiff_t>(newest);
    const size_t done = *(waited - 1);
    for (size_t i = 0; i < done; ++i) {
        races::finish_copy(fiber.copies[i].to, fiber.copies[i].from, kCopy, __builtin_return_address(0));
        std::memcpy(fiber.copies[i].to, fiber.copies[i].from, kCopy);
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + static_cast<std::ptrdiff_t>(done));
    fiber.groups.erase(fiber.groups.begin(), waited);
    for (size_t& count : fiber.groups) count -= done;
}
