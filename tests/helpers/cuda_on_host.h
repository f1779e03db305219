// The CUDA language on the host, for tests: a C++ compiler compiles the same .cu files, which run thread by thread.
//
// The threads of a block are fibers. A fiber runs until a barrier or a shuffle, and then waits for the other threads of its
// block or warp. So threads run in lock step only where the hardware guarantees it, and in any order elsewhere. Odd launches
// run the threads in reverse order, so a missing barrier gives a wrong result. Each array argument ends directly before a
// protected page, so a read or write beyond its end is caught. It is not built for speed.
#pragma once
#define CUDA_ON_HOST 1

#include <csetjmp>
#include <csignal>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <type_traits>
#include <ucontext.h>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};

namespace on_host {

constexpr int WARP = 32;
constexpr size_t STACK = 64 << 10;

struct Fiber {
    jmp_buf state;
    ucontext_t start;
    std::unique_ptr<char[]> stack;
    dim3 index;
    bool begun = false, done = false;
    unsigned long warp_operations = 0, block_operations = 0;
    uint64_t exchanged[2];
};

inline std::vector<Fiber> fibers;
inline Fiber* current = nullptr;
inline jmp_buf scheduler, failure;
inline ucontext_t first_switch;
inline dim3 grid_size, block_size, block_index;
inline void (*body)(void**) = nullptr;
inline void** body_arguments = nullptr;
inline const char* error = nullptr;
inline unsigned launches = 0;

inline unsigned number_of(const Fiber* fiber) { return static_cast<unsigned>(fiber - fibers.data()); }

__attribute__((noinline)) inline void yield() {
    if (!_setjmp(current->state)) _longjmp(scheduler, 1);
}

inline void fiber_main() {
    while (true) {  // a fiber runs a thread of one block after another
        body(body_arguments);
        current->done = true;
        yield();
    }
}

// Number of lanes of each warp, and of threads of the block, that wait at their next common operation or have finished.
struct Meeting {
    unsigned members = 0, arrived = 0;
    unsigned long complete = 0;
    void arrive() {
        if (++arrived == members) {
            arrived = 0;
            complete++;
        }
    }
};
inline std::vector<Meeting> warps;
inline Meeting block;

inline bool may_run(const Fiber& fiber) {
    return fiber.warp_operations <= warps[number_of(&fiber) / WARP].complete && fiber.block_operations <= block.complete;
}

inline void meet_warp() {
    current->warp_operations++;
    warps[number_of(current) / WARP].arrive();
    yield();
}

inline void meet_block() {
    current->block_operations++;
    block.arrive();
    yield();
}

__attribute__((noinline)) inline void resume(Fiber& fiber) {
    current = &fiber;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.state, 1);
    fiber.begun = true;
    fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, fiber_main, 0);
    setcontext(&fiber.start);
}

inline void run_block(bool backwards) {
    size_t count = block_size.x * block_size.y * block_size.z, left = count;
    if (fibers.size() < count) fibers.resize(count);
    warps.assign((count + WARP - 1) / WARP, {});
    block = {unsigned(count)};
    for (size_t i = 0; i < count; i++) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.warp_operations = fiber.block_operations = 0;
        fiber.index = {unsigned(i % block_size.x), unsigned(i / block_size.x % block_size.y),
                       unsigned(i / block_size.x / block_size.y)};
        warps[i / WARP].members++;
    }
    while (left) {
        bool moved = false;
        for (size_t k = 0; k < count; k++) {
            Fiber& fiber = fibers[backwards ? count - 1 - k : k];
            if (fiber.done || !may_run(fiber)) continue;
            moved = true;
            resume(fiber);
            if (fiber.done) left--;
        }
        if (!moved) {
            error = "the threads wait for one another: some left, or did not reach, a barrier or a shuffle of the others";
            return;
        }
    }
}

template <class T> T exchange(T value, unsigned from_lane) {
    static_assert(sizeof(T) <= 8);
    Fiber* me = current;
    unsigned slot = me->warp_operations % 2, first = number_of(me) / WARP * WARP;
    std::memcpy(&me->exchanged[slot], &value, sizeof(T));
    meet_warp();
    T result = value;
    if (first + from_lane < block.members) std::memcpy(&result, &fibers[first + from_lane].exchanged[slot], sizeof(T));
    return result;
}

inline void stopped(int signal) {
    error = signal == SIGFPE ? "a thread divided by zero" : "a thread touched memory behind the end of an array";
    siglongjmp(failure, 1);
}

// An array argument, moved to end directly before a protected page.
struct Guarded {
    char *from, *pages, *at;
    size_t size, mapped;
    bool written;
};

template <class T> struct Code;
#define CODE(TYPE, LETTER) template <> struct Code<TYPE> { static std::string of() { return LETTER; } };
CODE(float, "f") CODE(double, "d") CODE(int, "i") CODE(unsigned, "I") CODE(long long, "q") CODE(signed char, "b")
CODE(unsigned char, "B") CODE(unsigned short, "H") CODE(uint4, "V") CODE(float4, "F")
#undef CODE
template <class T> struct Code<T*> {
    static std::string of() { return (std::is_const_v<T> ? "&" : "*") + Code<std::remove_const_t<T>>::of(); }
};

struct Kernel {
    std::string signature;
    void (*call)(void**);
};
inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <auto F> struct Caller;
template <class... A, void (*F)(A...)> struct Caller<F> {
    template <size_t... I> static void unpack(void** arguments, std::index_sequence<I...>) {
        F(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
    }
    static void call(void** arguments) { unpack(arguments, std::index_sequence_for<A...>{}); }
    static Kernel kernel() { return {((Code<A>::of() + " ") + ... + ""), call}; }
};

}  // namespace on_host

extern "C" inline const char* signature_of(const char* name) {
    auto found = on_host::kernels().find(name);
    return found == on_host::kernels().end() ? nullptr : found->second.signature.c_str();
}

// sizes: bytes of each array argument, 0 for a number. Returns an error message, or null.
extern "C" inline const char* launch(const char* name, const unsigned* sizes, void** arguments, const size_t* bytes, int count) {
    using namespace on_host;
    grid_size = {sizes[0], sizes[1], sizes[2]};
    block_size = {sizes[3], sizes[4], sizes[5]};
    const Kernel& kernel = kernels()[name];
    std::vector<Guarded> guarded;
    std::vector<void*> values(count), pointers(count);
    size_t page = 4096, letter = 0;
    for (int i = 0; i < count; i++) {
        bool is_written = kernel.signature[letter] == '*';
        letter = kernel.signature.find(' ', letter) + 1;
        values[i] = arguments[i];
        if (!bytes[i]) continue;
        char* from = *static_cast<char**>(arguments[i]);
        Guarded* same = nullptr;
        for (Guarded& other : guarded)
            if (other.from == from && other.size == bytes[i]) same = &other;
        if (!same) {
            size_t mapped = (bytes[i] + page - 1) / page * page + page;
            char* pages = static_cast<char*>(mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            mprotect(pages + mapped - page, page, PROT_NONE);
            char* at = pages + ((mapped - page - bytes[i]) / 16 * 16);
            std::memcpy(at, from, bytes[i]);
            guarded.push_back({from, pages, at, bytes[i], mapped, false});
            same = &guarded.back();
        }
        same->written |= is_written;
        pointers[i] = same->at;
        values[i] = nullptr;
    }
    for (int i = 0; i < count; i++)
        if (!values[i]) values[i] = &pointers[i];
    body = kernel.call;
    body_arguments = values.data();
    error = nullptr;
    bool backwards = launches++ % 2;
    struct sigaction before_segv, before_bus, before_fpe, ours = {};
    ours.sa_handler = stopped;
    ours.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &ours, &before_segv);
    sigaction(SIGBUS, &ours, &before_bus);
    sigaction(SIGFPE, &ours, &before_fpe);
    if (!sigsetjmp(failure, 1))
        for (block_index.z = 0; block_index.z < grid_size.z && !error; block_index.z++)
            for (block_index.y = 0; block_index.y < grid_size.y && !error; block_index.y++)
                for (block_index.x = 0; block_index.x < grid_size.x && !error; block_index.x++) run_block(backwards);
    sigaction(SIGSEGV, &before_segv, nullptr);
    sigaction(SIGBUS, &before_bus, nullptr);
    sigaction(SIGFPE, &before_fpe, nullptr);
    if (error) fibers.clear();  // they have not finished
    for (Guarded& array : guarded) {
        if (array.written && !error) std::memcpy(array.from, array.at, array.size);
        munmap(array.pages, array.mapped);
    }
    return error;
}

#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __constant__ static const
#define __launch_bounds__(...)
#define threadIdx (on_host::current->index)
#define blockIdx (on_host::block_index)
#define blockDim (on_host::block_size)
#define gridDim (on_host::grid_size)

inline void __syncthreads() { on_host::meet_block(); }
inline void __syncwarp(unsigned = ~0u) { on_host::meet_warp(); }
inline unsigned lane_on_host() { return on_host::number_of(on_host::current) % on_host::WARP; }
template <class T> T __shfl_xor_sync(unsigned, T value, int mask) { return on_host::exchange(value, lane_on_host() ^ mask); }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return on_host::exchange(value, unsigned(lane)); }
template <class T> T __shfl_down_sync(unsigned, T value, int by) {
    return on_host::exchange(value, lane_on_host() + by < 32 ? lane_on_host() + by : lane_on_host());
}
template <class T> T __ldg(const T* at) { return *at; }

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __int2float_rn(int a) { return float(a); }
inline int __float2int_rn(float a) { return int(std::nearbyint(a)); }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += int(int8_t(a >> i)) * int(int8_t(b >> i));
    return c;
}
inline float atomicAdd(float* at, float value) { float before = *at; *at += value; return before; }
using std::min;
using std::max;
inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, 4); return x; }

// 16-bit floats by their bits, rounded half to even, as two instructions of the GPU do.
inline float from_half(unsigned short half) {
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    float magnitude = exponent == 0    ? ldexpf(mantissa, -24)
                      : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                       : ldexpf(1024 + mantissa, exponent - 25);
    return half >> 15 ? -magnitude : magnitude;
}
inline unsigned short to_half(float x) {
    unsigned short sign = std::signbit(x) ? 0x8000 : 0;
    float magnitude = fabsf(x);
    if (!(magnitude < 65520.0f)) return sign | (magnitude != magnitude ? 0x7e00 : 0x7c00);
    int exponent = magnitude < ldexpf(1, -14) ? -14 : ilogbf(magnitude);
    int mantissa = int(nearbyintf(ldexpf(magnitude, 10 - exponent)));  // below 2048, or 2048 if it rounds up
    return sign | (exponent == -14 ? mantissa : ((exponent + 15) << 10) + mantissa - 1024);
}
