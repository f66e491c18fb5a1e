/* What the AVX-512 units can reach in f32 when operands have to come from somewhere: the engine's loop of six rows by four
 * vectors, bare, on one thread.
 *
 *     gcc -O2 -march=sapphirerapids -o avx512_limits tools/avx512_limits.c && ./avx512_limits
 *
 * Each kind of run takes its turn in every round, and the fastest round of each is printed, in GFLOP/s and of the first
 * line's: neighbours on a shared machine disturb some rounds and not others. Before that, how long two instructions take
 * that do the same work in bf16 and in f32. */

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* so400m's first MLP product for 252 rows: a multiple of six that one thread has of 512. */
enum { ROWS = 252, K = 1152, COLUMNS = 64, PANELS = 67, LAYERS = 4, ROUNDS = 12, LINE = 64 };
enum { A_STRIDE = K + 16, C_STRIDE = 4352, PANEL = K * COLUMNS };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

/* Memory to be fetched ahead: a line every so many pairs of steps, until there is none left; 0 for never. */
struct ahead {
    const char *next, *end;
    int every, left;
};

#define EACH(i, n) _Pragma("GCC unroll 6") for (int i = 0; i < (n); i++)

/* Six rows times a panel. */
__attribute__((noinline)) static void block(
    const float *a, const float *panel, float *c, long c_stride, struct ahead *ahead) {
    __m512 sums[6][4];
    EACH(r, 6) EACH(v, 4) sums[r][v] = _mm512_setzero_ps();
    struct ahead now = *ahead;
    for (long k = 0; k < K; k += 2) {
        if (now.every && --now.left == 0) {
            now.left = now.every;
            if (now.next < now.end) _mm_prefetch(now.next, _MM_HINT_T1), now.next += LINE;
        }
        EACH(odd, 2) {
            __m512 b[4];
            EACH(v, 4) b[v] = _mm512_loadu_ps(panel + (k + odd) * COLUMNS + 16 * v);
            EACH(r, 6) {
                __m512 x = _mm512_set1_ps(a[r * A_STRIDE + k + odd]);
                EACH(v, 4) sums[r][v] = _mm512_fmadd_ps(x, b[v], sums[r][v]);
            }
        }
    }
    *ahead = now;
    EACH(r, 6) EACH(v, 4) _mm512_storeu_ps(c + r * c_stride + 16 * v, sums[r][v]);
}

/* Independent sums, as many as the block has, nothing loaded. */
__attribute__((noinline)) static double registers_only(int bf16) {
    const long rounds = 100000;
    __m512 sums[24];
    __m512 x = _mm512_set1_ps(0.37f), y = _mm512_set1_ps(0.21f);
    for (int i = 0; i < 24; i++) sums[i] = _mm512_setzero_ps();
    double start = now();
    for (long round = 0; round < rounds; round++) {
        if (bf16) {
#pragma GCC unroll 24
            for (int i = 0; i < 24; i++) sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)x, (__m512bh)y);
        } else {
#pragma GCC unroll 24
            for (int i = 0; i < 24; i++) sums[i] = _mm512_fmadd_ps(x, y, sums[i]);
        }
        /* The operands may have changed, as far as the compiler knows. */
        __asm__ volatile("" : "+v"(x), "+v"(y));
    }
    double seconds = now() - start;
    float total = 0;
    for (int i = 0; i < 24; i++) total += _mm512_reduce_add_ps(sums[i]);
    if (total == 1.5f) puts("");
    return rounds * 24.0 / seconds / 1e9;
}

static void *large(size_t bytes) {
    const size_t page = 2 << 20;
    char *memory = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) exit(1);
    memory = (char *)(((size_t)memory + page - 1) & ~(page - 1));
    madvise(memory, bytes, MADV_HUGEPAGE);
    memset(memory, 1, bytes);
    return memory;
}

static float *weights, *rows, *results;

/* All panels of one layer, or the first one as often. */
static double layer(int which, int same_panel, int every, int written) {
    double start = now();
    for (int p = 0; p < PANELS; p++) {
        const float *panel = weights + (same_panel ? 0L : (long)which * PANELS + p) * PANEL;
        const char *next = (const char *)(weights + ((long)which * PANELS + p + 1) % (PANELS * LAYERS) * PANEL);
        struct ahead ahead = {next, next + PANEL * sizeof *weights, every, every};
        for (int row = 0; row < ROWS; row += 6) {
            float *c = written ? results + (long)row * C_STRIDE + p * COLUMNS : results;
            block(rows + row * A_STRIDE, panel, c, written ? C_STRIDE : COLUMNS, &ahead);
        }
    }
    return 2.0 * PANELS * ROWS * COLUMNS * K / (now() - start) / 1e9;
}

int main(void) {
    weights = large((size_t)PANELS * LAYERS * PANEL * sizeof *weights);
    rows = large((size_t)ROWS * A_STRIDE * sizeof *rows);
    results = large((size_t)ROWS * C_STRIDE * sizeof *results);
    for (long i = 0; i < (long)PANELS * LAYERS * PANEL; i++) weights[i] = (i * 2654435761u >> 8 & 1023) / 1024.f - .5f;
    for (long i = 0; i < ROWS * A_STRIDE; i++) rows[i] = (i * 2654435761u >> 8 & 1023) / 1024.f - .5f;

    const char *names[] = {
        "registers only",
        "panel from L2",
        "panels from memory, not fetched ahead",
        "panels from memory, a line ahead every second step",
        "panels from memory, lines ahead evenly",
        "and results written where another layer reads them",
    };
    enum { KINDS = sizeof names / sizeof *names };
    double best[KINDS] = {0}, products[2] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            double rate = registers_only(bf16);
            if (rate > products[bf16]) products[bf16] = rate;
        }
        int which = round % LAYERS;
        double rates[KINDS] = {
            products[0] * 32, layer(which, 1, 0, 0), layer(which, 0, 0, 0),
            layer(which, 0, 1, 0), layer(which, 0, 5, 0), layer(which, 0, 5, 1),
        };
        for (int i = 0; i < KINDS; i++)
            if (rates[i] > best[i]) best[i] = rates[i];
    }
    printf("vfmadd231ps %.2f, vdpbf16ps %.2f thousand million a second\n\n", products[0], products[1]);
    for (int i = 0; i < KINDS; i++) printf("%-52s %4.0f %5.2f\n", names[i], best[i], best[i] / best[0]);
}
