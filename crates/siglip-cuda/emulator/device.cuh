// The kernels' machine in plain C++, for tests: a block's threads are coroutines that take turns, and meet where the
// machine's would. It stands in for kernels/device.cuh and has the same functions; a kernel becomes a function that runs
// its whole grid.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
using std::min;

namespace emulator {

constexpr int MOST_THREADS = 128;
constexpr size_t STACK = 256 << 10;

struct Index {
    unsigned x, y, z;
};
static Index thread_index, block_index;

// To leave a thread and enter it again, millions of times a pass. GCC's own jumps save no more than they must.
#if defined(__GNUC__) && !defined(__clang__)
typedef void* Place[5];
#define LEAVE_AT(place) __builtin_setjmp(place)
#define ENTER_AT(place) __builtin_longjmp(place, 1)
#else
typedef jmp_buf Place;
#define LEAVE_AT(place) _setjmp(place)
#define ENTER_AT(place) _longjmp(place, 1)
#endif

// Where threads meet: all of a block, or the 32 of a warp.
struct Barrier {
    int arrived = 0;
    unsigned generation = 0;
    void meet(int threads);
};
static Barrier block_barrier, warp_barriers[MOST_THREADS / 32];

// A context begins a thread, which then serves one block after the other.
struct Fiber {
    ucontext_t context;
    Place place;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool begun = false;
    bool done;
    // What it waits for, in the generation that was.
    const Barrier* barrier;
    unsigned generation;
};
static Fiber fibers[MOST_THREADS];
static Place block_end;
static int current, block_threads;
static const std::function<void()>* body;

static void enter();

// Goes on with the next thread that does not wait, or where the block began if there is none.
[[noreturn]] [[gnu::noinline]] static void go_on() {
    for (int step = 1; step <= block_threads; step++) {
        const int next = current + step < block_threads ? current + step : current + step - block_threads;
        Fiber& fiber = fibers[next];
        if (fiber.done || (fiber.barrier && fiber.barrier->generation == fiber.generation)) continue;
        current = next;
        thread_index = {(unsigned)next, 0, 0};
        if (fiber.begun) ENTER_AT(fiber.place);
        fiber.begun = true;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;  // `enter` does not return
        makecontext(&fiber.context, enter, 0);
        setcontext(&fiber.context);
    }
    ENTER_AT(block_end);
}

[[gnu::noinline]] static void yield() {
    if (LEAVE_AT(fibers[current].place) == 0) go_on();
}

inline void Barrier::meet(int threads) {
    if (++arrived == threads) {
        arrived = 0;
        generation++;
        return;
    }
    Fiber& fiber = fibers[current];
    fiber.barrier = this;
    fiber.generation = generation;
    yield();
    fiber.barrier = nullptr;
}

static void enter() {
    for (;;) {
        (*body)();
        fibers[current].done = true;
        yield();
    }
}

[[gnu::noinline]] static void run_block() {
    if (LEAVE_AT(block_end) == 0) go_on();
}

static void run(const unsigned* grid, unsigned threads, const std::function<void()>& thread) {
    body = &thread;
    block_threads = (int)threads;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                block_index = {x, y, z};
                for (int i = 0; i < block_threads; i++) fibers[i].done = false;
                // The first thread comes first.
                current = block_threads - 1;
                run_block();
                const auto waits = [](const Fiber& fiber) { return !fiber.done; };
                if (const long left = std::count_if(fibers, fibers + block_threads, waits)) {
                    fprintf(stderr, "emulator: %ld threads wait for others that never come\n", left);
                    abort();
                }
            }
}

struct Copy {
    void* shared;
    const void* global;
};
static std::vector<Copy> copies[MOST_THREADS];

// What the lanes of a warp show each other. There are two in turns: when a lane shows something in the same place again, all
// have met once more, and so have seen what was there.
struct Shown {
    float value;
    const u16* row;
    float a[8], b[4];
};
static Shown shown[2][MOST_THREADS];
static bool turns[MOST_THREADS];
static Shown& mine() { return shown[turns[current] = !turns[current]][current]; }
static void meet_warp() { warp_barriers[current / 32].meet(32); }
static const Shown& lane(int lane) { return shown[turns[current]][current / 32 * 32 + lane]; }

static void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, float (*to_float)(u16)) {
    Shown& show = mine();
    for (int i = 0; i < 8; i++) show.a[i] = to_float((u16)(a[i / 2] >> (i % 2 * 16)));
    for (int i = 0; i < 4; i++) show.b[i] = to_float((u16)((i < 2 ? b0 : b1) >> (i % 2 * 16)));
    meet_warp();
    const int me = current % 32;
    for (int i = 0; i < 4; i++) {
        const int row = me / 4 + i / 2 * 8, column = me % 4 * 2 + i % 2;
        const Shown *left = &lane(row % 8 * 4), *right = &lane(column * 4);
        for (int k = 0; k < 16; k++) {
            const int lane = k % 8 / 2, pair = k / 8 * 2;
            // The product is exact; in which order the machine adds, NVIDIA does not say.
            c[i] += left[lane].a[row / 8 * 2 + pair * 2 + k % 2] * right[lane].b[pair + k % 2];
        }
    }
}

}  // namespace emulator

#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index
#define __shared__ static
#define EXPORTED [[gnu::visibility("default")]]
#define DEVICE [[maybe_unused]] static inline
#define KERNEL_OF_MANY(name, Params, THREADS, BLOCKS) KERNEL(name, Params, THREADS)
#define KERNEL(name, Params, THREADS)                                                       \
    static void name##_thread(const Params p);                                              \
    extern "C" EXPORTED const size_t name##_bytes = sizeof(Params);                         \
    extern "C" EXPORTED void name(const void* bytes, const unsigned* grid, unsigned threads) { \
        Params params;                                                                      \
        memcpy(&params, bytes, sizeof params);                                              \
        if (threads != THREADS) {                                                           \
            fprintf(stderr, "emulator: " #name " has blocks of %u threads\n", threads);     \
            abort();                                                                        \
        }                                                                                   \
        emulator::run(grid, threads, [&] { name##_thread(params); });                       \
    }                                                                                       \
    static void name##_thread(const Params p)

DEVICE void __syncthreads() { emulator::block_barrier.meet(emulator::block_threads); }

template <typename To, typename From>
static To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
DEVICE float __int_as_float(int x) { return bits<float>(x); }

DEVICE float bf16_to_float(u16 x) { return bits<float>((u32)x << 16); }
DEVICE u16 float_to_bf16(float x) {
    const u32 b = bits<u32>(x);
    if (std::isnan(x)) return 0x7fff;
    return (b + 0x7fff + (b >> 16 & 1)) >> 16;
}
DEVICE float f16_to_float(u16 x) {
    const float magnitude = bits<float>((u32)(x & 0x7fff) << 13) * bits<float>(0x77800000u);  // 2^112
    const bool special = (x & 0x7c00) == 0x7c00;
    const float value = special ? bits<float>(0x7f800000u | (u32)(x & 0x3ff) << 13) : magnitude;
    return x & 0x8000 ? -value : value;
}
DEVICE u16 float_to_f16(float x) {
    const u32 b = bits<u32>(x), sign = b >> 16 & 0x8000, magnitude = b & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;  // from 65520 on
    if (magnitude < 0x38800000) {                         // below 2^-14: the addition rounds
        return sign | (bits<u32>(bits<float>(magnitude) + 0.5f) - 0x3f000000);
    }
    return sign | ((magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13);
}

DEVICE u32 floats_to_bf16(float first, float second) { return float_to_bf16(first) | (u32)float_to_bf16(second) << 16; }
DEVICE u32 floats_to_f16(float first, float second) { return float_to_f16(first) | (u32)float_to_f16(second) << 16; }

DEVICE u32 float_to_e4m3(float x) {
    const u32 sign = bits<u32>(x) >> 24 & 0x80;
    if (std::isnan(x)) return sign | 0x7f;
    const float magnitude = std::fmin(std::fabs(x), 448.0f);
    const int exponent = magnitude == 0 ? -6 : std::max(std::ilogb(magnitude), -6);
    return sign | ((exponent + 6) * 8 + (u32)std::nearbyint(std::ldexp(magnitude, 3 - exponent)));
}
DEVICE u32 floats_to_e4m3(float first, float second) { return float_to_e4m3(first) | float_to_e4m3(second) << 8; }

DEVICE float exp2_fast(float x) { return exp2f(x); }

DEVICE float from_lane(float x, int lane) {
    emulator::mine().value = x;
    emulator::meet_warp();
    return emulator::lane(lane).value;
}
DEVICE float from_lane_xor(float x, int mask) { return from_lane(x, (emulator::current % 32) ^ mask); }

// Copies are done when their thread waits for them, which is as late as they may be.
DEVICE void copy_async(u16* shared, const u16* global, bool there) {
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16) {
        fprintf(stderr, "emulator: a copy of 16 bytes is not aligned\n");
        abort();
    }
    emulator::copies[emulator::current].push_back({shared, there ? global : nullptr});
}
DEVICE void wait_for_copies() {
    for (const emulator::Copy& copy : emulator::copies[emulator::current]) {
        if (copy.global) memcpy(copy.shared, copy.global, 16);
        else memset(copy.shared, 0, 16);
    }
    emulator::copies[emulator::current].clear();
}

DEVICE void load_matrices(u32 (&r)[4], const u16* row) {
    emulator::mine().row = row;
    emulator::meet_warp();
    const int me = emulator::current % 32;
    for (int i = 0; i < 4; i++) memcpy(&r[i], emulator::lane(i * 8 + me / 4).row + me % 4 * 2, 4);
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const u16* row) {
    emulator::mine().row = row;
    emulator::meet_warp();
    const int me = emulator::current % 32;
    for (int i = 0; i < 4; i++) {
        const u16 low = emulator::lane(i * 8 + me % 4 * 2).row[me / 4];
        const u16 high = emulator::lane(i * 8 + me % 4 * 2 + 1).row[me / 4];
        r[i] = low | (u32)high << 16;
    }
}
DEVICE void multiply_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::multiply(c, a, b0, b1, bf16_to_float);
}
DEVICE void multiply_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::multiply(c, a, b0, b1, f16_to_float);
}
