/* What the AVX-512 units can reach when operands have to come from somewhere: the engine's loop of six rows by four vectors,
 * bare, on one thread, in f32 and in 8 bits.
 *
 *     gcc -O2 -march=native -o avx512_limits tools/avx512_limits.c && ./avx512_limits
 *
 * Each kind of run takes its turn in every round, between two runs that multiply registers only. Printed is its rate of theirs,
 * the median and the upper quartile of the rounds: neighbours on a shared machine disturb some rounds and not others, and
 * change its clock. Before that, how many of each instruction the processor completes in a second. */

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* so400m's first MLP product for 252 rows: a multiple of six that one thread has of 512. All operands are counted in groups of
 * four bytes: of f32 one value, of 8 bits four. */
enum { ROWS = 252, F32_STEPS = 1152, INT8_STEPS = F32_STEPS / 4, COLUMNS = 64, PANELS = 67, LAYERS = 4, ROUNDS = 40 };
enum { LINE = 64, C_STRIDE = 4352, STEPS_AHEAD = 8, LAYER = PANELS * F32_STEPS * COLUMNS };

enum product { F32, INT8, BF16 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

#define EACH(i, n) _Pragma("GCC unroll 24") for (int i = 0; i < (n); i++)
#define INLINE static inline __attribute__((always_inline))

/* Assembly, since compilers copy the sums of some of these instructions to and fro. */
INLINE __m512 dot(enum product product, __m512 sum, __m512 a, __m512 b) {
    if (product == F32) __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    if (product == INT8) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    if (product == BF16) __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

/* Memory to be fetched ahead: a line every so many pairs of steps, until there is none left; 0 for never. */
struct ahead {
    const char *next, *end;
    int every, left;
};

/* How a layer is computed. */
struct way {
    const char *name;
    /* Whether each panel is another one, and after how many pairs of steps a line of the next is asked for into L2. */
    int from_memory, every;
    /* Whether lines of the panel are asked for into L1; 2 if the last steps of a block ask for those of the next block's first,
     * and for its rows' first lines. */
    int near;
    /* Whether results go where another layer reads them, and in how many turns a block asks for their rows while it computes. */
    int written, turns;
};

/* One step of a block, which asks for a line some steps away. */
INLINE void step(enum product product, __m512 sums[6][4], const float *a, const float *panel, long steps, long k, int near, long away) {
    __m512 b[4];
    EACH(v, 4) {
        const float *line = panel + k * COLUMNS + 16 * v;
        b[v] = _mm512_loadu_ps(line);
        if (near) _mm_prefetch((const char *)(line + away * COLUMNS), _MM_HINT_T0);
    }
    EACH(r, 6) {
        __m512 x = _mm512_set1_ps(a[r * steps + k]);
        EACH(v, 4) sums[r][v] = dot(product, sums[r][v], x, b[v]);
    }
}

INLINE void fetch(struct ahead *ahead) {
    if (ahead->every && --ahead->left == 0) {
        ahead->left = ahead->every;
        if (ahead->next < ahead->end) _mm_prefetch(ahead->next, _MM_HINT_T1), ahead->next += LINE;
    }
}

/* Six rows times a panel. */
INLINE void block(enum product product, struct way way, const float *a, const float *panel, float *c, struct ahead *ahead) {
    const long steps = product == F32 ? F32_STEPS : INT8_STEPS, c_stride = way.written ? C_STRIDE : COLUMNS;
    const long last = way.near == 2 ? steps - STEPS_AHEAD : steps;
    __m512 sums[6][4];
    EACH(r, 6) EACH(v, 4) sums[r][v] = _mm512_setzero_ps();
    struct ahead now = *ahead;
    long k = 0;
    for (int turn = 0; turn <= way.turns; turn++) {
        if (turn < way.turns)
            for (int r = turn * 6 / way.turns; r < (turn + 1) * 6 / way.turns; r++)
                EACH(v, 4) _mm_prefetch((const char *)(c + r * c_stride + 16 * v), _MM_HINT_T1);
        for (const long end = (turn + 1) * (last / 2) / (way.turns + 1) * 2; k < end; k += 2) {
            fetch(&now);
            EACH(odd, 2) step(product, sums, a, panel, steps, k + odd, way.near, STEPS_AHEAD);
        }
    }
    if (way.near == 2) EACH(r, 6) _mm_prefetch((const char *)(a + (6 + r) * steps), _MM_HINT_T0);
    for (; k < steps; k += 2) {
        fetch(&now);
        EACH(odd, 2) step(product, sums, a, panel, steps, k + odd, way.near, STEPS_AHEAD - steps);
    }
    *ahead = now;
    EACH(r, 6) EACH(v, 4) _mm512_storeu_ps(c + r * c_stride + 16 * v, sums[r][v]);
}

/* Independent sums, as many as the block has, nothing loaded: thousand millions of instructions a second. */
INLINE double registers_only(enum product product) {
    const long rounds = 100000;
    __m512 sums[24], x = _mm512_set1_ps(0.37f), y = _mm512_set1_ps(0.21f);
    for (int i = 0; i < 24; i++) sums[i] = _mm512_setzero_ps();
    double start = now();
    for (long round = 0; round < rounds; round++) EACH(i, 24) sums[i] = dot(product, sums[i], x, y);
    double seconds = now() - start;
    float total = 0;
    for (int i = 0; i < 24; i++) total += _mm512_reduce_add_ps(sums[i]);
    if (total == 1.5f) puts("");
    return rounds * 24 / seconds / 1e9;
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

/* All panels of one layer, or the first one as often: thousand millions of instructions a second. */
INLINE double layer(enum product product, struct way way, int which) {
    const long steps = product == F32 ? F32_STEPS : INT8_STEPS, panel_size = steps * COLUMNS;
    const float *all = weights + which * (long)LAYER;
    double start = now();
    for (int p = 0; p < PANELS; p++) {
        const float *panel = all + (way.from_memory ? p * panel_size : 0);
        const char *next = (const char *)(all + (p + 1) % PANELS * panel_size);
        struct ahead ahead = {next, next + panel_size * sizeof *weights, way.every, way.every};
        for (int row = 0; row < ROWS; row += 6) {
            float *c = way.written ? results + (long)row * C_STRIDE + p * COLUMNS : results;
            block(product, way, rows + row * steps, panel, c, &ahead);
        }
    }
    return (double)PANELS * ROWS * COLUMNS / 16 * steps / (now() - start) / 1e9;
}

#define WAYS(WAY)                                                                              \
    WAY("panel from L2", 0, 0, 0, 0, 0)                                                        \
    WAY("panel from L2, each line asked for into L1 before", 0, 0, 1, 0, 0)                    \
    WAY("and the first lines of the next block", 0, 0, 2, 0, 0)                                \
    WAY("panels from memory, not fetched ahead", 1, 0, 0, 0, 0)                                \
    WAY("panels from memory, a line ahead every second step", 1, 1, 0, 0, 0)                   \
    WAY("panels from memory, lines ahead evenly", 1, 5, 0, 0, 0)                               \
    WAY("and each line asked for into L1 before", 1, 5, 1, 0, 0)                               \
    WAY("and the first lines of the next block", 1, 5, 2, 0, 0)                                \
    WAY("and results written where another layer reads them", 1, 5, 2, 1, 0)                   \
    WAY("and their rows asked for at once", 1, 5, 2, 1, 1)                                     \
    WAY("and in three turns instead", 1, 5, 2, 1, 3)                                           \
    WAY("and in six turns instead", 1, 5, 2, 1, 6)

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

INLINE void measure(const char *name, enum product product) {
    enum { KINDS = 12 };
    const char *names[KINDS];
    static double ratios[KINDS][ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        int kind = 0;
        double before = registers_only(product);
#define RUN(...)                                                          \
    {                                                                     \
        const struct way way = {__VA_ARGS__};                             \
        double rate = layer(product, way, round % LAYERS);                \
        double after = registers_only(product);                           \
        ratios[kind][round] = rate * 2 / (before + after);                \
        before = after;                                                   \
        names[kind++] = way.name;                                         \
    }
        WAYS(RUN)
    }
    printf("\n%-56s median  quartile\n", name);
    for (int i = 0; i < KINDS; i++) {
        qsort(ratios[i], ROUNDS, sizeof(double), compare);
        printf("  %-52s %8.2f %8.2f\n", names[i], ratios[i][ROUNDS / 2], ratios[i][ROUNDS * 3 / 4]);
    }
}

static double most(double (*rate)(void)) {
    double best = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double now = rate();
        if (now > best) best = now;
    }
    return best;
}
static double f32_rate(void) { return registers_only(F32); }
static double int8_rate(void) { return registers_only(INT8); }
static double bf16_rate(void) { return registers_only(BF16); }

int main(void) {
    weights = large((size_t)LAYER * LAYERS * sizeof *weights);
    rows = large((size_t)(ROWS + 6) * F32_STEPS * sizeof *rows);
    results = large((size_t)ROWS * C_STRIDE * sizeof *results);
    for (long i = 0; i < (long)LAYER * LAYERS; i++) weights[i] = (i * 2654435761u >> 8 & 1023) / 1024.f - .5f;
    for (long i = 0; i < ROWS * F32_STEPS; i++) rows[i] = (i * 2654435761u >> 8 & 1023) / 1024.f - .5f;

    int vnni = __builtin_cpu_supports("avx512vnni"), bf16 = __builtin_cpu_supports("avx512bf16");
    printf("thousand million a second: vfmadd231ps %.2f", most(f32_rate));
    if (vnni) printf(", vpdpbusd %.2f", most(int8_rate));
    if (bf16) printf(", vdpbf16ps %.2f", most(bf16_rate));
    puts("");
    measure("f32", F32);
    if (vnni) measure("8 bits", INT8);
}
