/* What a core with AMX can feed its tile unit: the loop of a layer with less and less taken away from it.
 *
 *     gcc -O2 -march=sapphirerapids -pthread tools/amx_limits.c -o amx_limits && ./amx_limits [THREADS]
 *
 * For docs/performance.md. Each loop multiplies 384 rows of bf16 activations, [blocks of 32 rows][steps][2][16][32], by panels
 * of 32 columns of weights, [steps][16][2][16][2], in blocks of 32 by 32 sums in four tiles, the inner dimension in two parts.
 * Loops take turns, with the peak of tdpbf16ps on tiles that stay as they are between them; the fastest round of each counts,
 * since other machines on the same processor slow some. Threads are bound to the first processors and work in step. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 384, BLOCKS = ROWS / 32, STEPS = 36, PARTS = 2, STEP = 2048, PANEL = STEPS * STEP, COLUMNS = 3456 };
enum { PANELS = 108, ROUNDS = 30, WEIGHTS = 768 << 20 };

/* Where operands are and how results are written. */
enum loop { L1, L2, MEMORY, ROW_AFTER_ROW, ASKED_FOR, BLOCK_AFTER_BLOCK, PAST_CACHES, LOOPS };
static const char *const NAMES[LOOPS] = {
    "tiles from L1",
    "activations from L2, weights from L1",
    "the same, weights from memory, a panel fetched ahead",
    "and results written row after row",
    "and each row asked for with a step of tiles",
    "and results written block after block instead",
    "and results written past the caches instead",
};

static char *weights;
static double fastest[LOOPS], peak = 1e9;
static pthread_barrier_t together;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* Zeroes on huge pages. */
static char *memory(size_t bytes) {
    const size_t huge = 2 << 20;
    bytes = (bytes + huge - 1) / huge * huge;
    char *p = mmap(0, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    p = (char *)(((uintptr_t)p + huge - 1) / huge * huge);
    madvise(p, bytes, MADV_HUGEPAGE);
    return memset(p, 0, bytes);
}

static void configure(void) {
    static struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) whole = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        whole.row_bytes[tile] = 64;
        whole.rows[tile] = 16;
    }
    if (syscall(SYS_arch_prctl, 0x1023, 18)) { /* ARCH_REQ_XCOMP_PERM, XTILEDATA */
        fprintf(stderr, "this machine has no AMX, or not for this process\n");
        exit(1);
    }
    _tile_loadconfig(&whole);
}

struct work {
    char *activations, *carried, *sums;
    uint16_t *out;
    float *bias;
};

/* Two rows of the block before, with bias and in bf16. */
static inline __attribute__((always_inline)) void finish(const struct work *w, enum loop loop, uint16_t *out, int row) {
    const size_t stride = loop == BLOCK_AFTER_BLOCK ? 32 : COLUMNS;
    for (int r = row; r < row + 2 && r < 32; r++) {
        __m512 x = _mm512_add_ps(_mm512_load_ps(w->sums + r * 128), _mm512_load_ps(w->bias));
        __m512 y = _mm512_add_ps(_mm512_load_ps(w->sums + r * 128 + 64), _mm512_load_ps(w->bias + 16));
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(y, x);
        if (loop == PAST_CACHES) _mm512_stream_si512((void *)(out + r * stride), both);
        else _mm512_store_si512(out + r * stride, both);
    }
}

static inline __attribute__((always_inline)) double run(const struct work *w, enum loop loop, size_t first) {
    double start = now();
    uint16_t *waiting = NULL;
    for (int p = 0; p < PANELS; p++) {
        char *panel = weights + (loop < MEMORY ? 0 : (first + p) * PANEL);
        for (int part = 0; part < PARTS; part++) {
            const int steps = STEPS / PARTS, lines = 32 / BLOCKS + 1;
            const char *next = panel + (part + 1) * steps * STEP;
            for (int block = 0; block < BLOCKS; block++) {
                const char *a = w->activations + ((size_t)block * STEPS + part * steps) * STEP;
                const char *b = panel + part * steps * STEP;
                char *carried = w->carried + block * 4096;
                uint16_t *out = loop == BLOCK_AFTER_BLOCK
                    ? w->out + (size_t)block * 32 * COLUMNS + p % (COLUMNS / 32) * 1024
                    : w->out + (size_t)block * 32 * COLUMNS + p % (COLUMNS / 32) * 32;
                if (loop == L1) a = w->activations, b = panel;
                if (part == 0) {
                    _tile_zero(0);
                    _tile_zero(1);
                    _tile_zero(2);
                    _tile_zero(3);
                } else {
                    _tile_stream_loadd(0, carried, 64);
                    _tile_stream_loadd(1, carried + 1024, 64);
                    _tile_stream_loadd(2, carried + 2048, 64);
                    _tile_stream_loadd(3, carried + 3072, 64);
                }
                for (int step = 0; step < steps; step++) {
                    if (loop == L1) {
                        _tile_loadd(4, a, 64);
                        _tile_loadd(5, a + 1024, 64);
                    } else {
                        _tile_stream_loadd(4, a, 64);
                        _tile_stream_loadd(5, a + 1024, 64);
                    }
                    _tile_loadd(6, b, 128);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(7, b + 64, 128);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_dpbf16ps(3, 5, 7);
                    _tile_dpbf16ps(2, 5, 6);
                    a += STEP, b += STEP;
                    if (loop == L1 && step % 9 == 8) a -= 9 * STEP, b -= 9 * STEP;
                    for (int line = 0; loop >= MEMORY && line < lines; line++, next += 64) _mm_prefetch(next, _MM_HINT_T1);
                    if (loop == ASKED_FOR && part == PARTS - 1)
                        for (int r = 2 * step; r < 2 * step + 2; r++) _mm_prefetch((char *)(out + r * COLUMNS), _MM_HINT_T1);
                    if (loop > MEMORY && waiting) finish(w, loop, waiting, 2 * step);
                }
                char *target = part + 1 < PARTS ? carried : w->sums;
                const int beside = part + 1 < PARTS ? 1024 : 64, stride = part + 1 < PARTS ? 64 : 128, below = 2048;
                _tile_stored(0, target, stride);
                _tile_stored(1, target + beside, stride);
                _tile_stored(2, target + below, stride);
                _tile_stored(3, target + below + beside, stride);
                __asm__ volatile("" ::: "memory"); /* The intrinsics do not say that they write. */
                waiting = part + 1 < PARTS ? NULL : out;
            }
        }
    }
    _mm_sfence();
    return (now() - start) / ((double)PANELS * BLOCKS * STEPS);
}

/* Seconds for four products, nothing loaded. */
static double measure_peak(void) {
    enum { TIMES = 200000 };
    double start = now();
    for (int i = 0; i < TIMES; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 6);
        _tile_dpbf16ps(2, 4, 6);
        _tile_dpbf16ps(3, 4, 6);
    }
    return (now() - start) / TIMES;
}

static void *thread(void *argument) {
    const int id = (int)(intptr_t)argument;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(id, &one);
    sched_setaffinity(0, sizeof one, &one);
    configure();
    struct work w = {memory(ROWS * STEPS * 64), memory(BLOCKS * 4096), memory(4096), 0, (float *)memory(4096)};
    w.out = (uint16_t *)memory((size_t)ROWS * COLUMNS * 2);
    for (int round = 0, panel = 0; round < ROUNDS; round++) {
        double seconds = measure_peak();
        if (id == 0 && seconds < peak) peak = seconds;
        for (int loop = 0; loop < LOOPS; loop++) {
            pthread_barrier_wait(&together);
            switch (loop) { /* So that each is compiled for itself. */
            case L1: seconds = run(&w, L1, panel); break;
            case L2: seconds = run(&w, L2, panel); break;
            case MEMORY: seconds = run(&w, MEMORY, panel); break;
            case ROW_AFTER_ROW: seconds = run(&w, ROW_AFTER_ROW, panel); break;
            case ASKED_FOR: seconds = run(&w, ASKED_FOR, panel); break;
            case BLOCK_AFTER_BLOCK: seconds = run(&w, BLOCK_AFTER_BLOCK, panel); break;
            case PAST_CACHES: seconds = run(&w, PAST_CACHES, panel); break;
            }
            if (id == 0 && seconds < fastest[loop]) fastest[loop] = seconds;
            panel = (panel + PANELS) % (WEIGHTS / PANEL - PANELS - 1);
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    const int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > 64) {
        fprintf(stderr, "usage: amx_limits [THREADS, 1 to 64]\n");
        return 2;
    }
    weights = memory(WEIGHTS);
    for (int loop = 0; loop < LOOPS; loop++) fastest[loop] = 1e9;
    pthread_barrier_init(&together, NULL, threads);
    pthread_t all[64];
    for (intptr_t i = 0; i < threads; i++) pthread_create(&all[i], NULL, thread, (void *)i);
    for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
    printf("peak of a thread: %.0f GFLOP/s\n", 4 * 16384 / peak / 1e9);
    for (int loop = 0; loop < LOOPS; loop++) printf("%.2f  %s\n", peak / fastest[loop], NAMES[loop]);
    return 0;
}
