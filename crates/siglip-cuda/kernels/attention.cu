// Attention of all positions to all positions, on the tensor cores, for 16-bit numbers.
//
// A block computes 64 or 128 queries of one head of one item, 16 or 32 for each of its four warps. Keys and values pass
// through shared memory in tiles, the next tile's copies running while one is computed; scores stay in registers, with the
// softmax rescaled as larger scores appear (Milakov and Gimelshein 2018; Dao et al. 2022), so no matrix of scores is ever
// written:
//
//     for each tile of keys:  s = q · kᵀ;  m' = max(m, max s);  w = 2^(c·(s − m'));  d = 2^(c·(m − m'))
//                             sum = sum · d + Σ w;  out = out · d + w · v
//     out · (1 / sum)
//
// With 32 queries a warp, what it reads of a tile serves two products, so that shared memory is not what bounds it; but
// 64 positions are one block of the other kind.
//
// The instruction multiplies 16 values of a head at a time, so a head of 72 is zeroed up to 80 in shared memory (it is not
// in device memory); the product with the values needs no such rounding, its columns come in eights.
#include "number.cuh"

struct Attention {
    const Number* qkv;  // rows of queries, keys and values, HEADS · HEAD_DIM each
    Number* out;        // [items · positions, HEADS · HEAD_DIM]
    u32 positions;
    float scale_log2;   // c: log2(e) / √HEAD_DIM
};

#ifndef NUMBER_F32

constexpr int HEADS_WIDTH = HEADS * HEAD_DIM;
constexpr int STEPS = (HEAD_DIM + 15) / 16;  // products along the head
constexpr int DIM_TILES = (HEAD_DIM + 7) / 8;
// Rows of an odd number of 16 bytes: eight of them lie in different banks.
constexpr int STRIDE = STEPS * 16 + 8;
// Keys of a tile: two stages of keys and values fit the shared memory that every card gives without being asked.
constexpr int TILE = 4 * 64 * STRIDE * sizeof(u16) <= 48 << 10 ? 64 : 32;
// What is copied at once.
constexpr int WIDTH = HEAD_DIM % 8 == 0 ? 8 : 1;
constexpr int PER_ROW = HEAD_DIM / WIDTH;
typedef Vector<u16, WIDTH> Part;

// Begins to copy rows of one head into shared memory, zeroing those beyond the valid ones.
template <int ROWS>
DEVICE void copy_rows(u16* to, const u16* from, int valid) {
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * PER_ROW; i += 128) {
        const int row = i / PER_ROW, column = i % PER_ROW * WIDTH;
        const bool there = row < valid;
        u16* target = to + row * STRIDE + column;
        const u16* source = from + (there ? row : 0) * 3 * HEADS_WIDTH + column;
        if (WIDTH == 8) {
            copy_async(target, source, there);
        } else {
            *target = there ? *source : 0;
        }
    }
}

// Sum and maximum over the four lanes that share a row of a product.
DEVICE float row_sum(float x) {
    x += from_lane_xor(x, 1);
    return x + from_lane_xor(x, 2);
}
DEVICE float row_max(float x) {
    x = fmaxf(x, from_lane_xor(x, 1));
    return fmaxf(x, from_lane_xor(x, 2));
}

// A warp's 16 queries, and what became of them so far. A lane holds two rows of each product: lane / 4, and that plus 8.
struct Rows {
    u32 query[STEPS][4];
    float out[DIM_TILES][4];
    float sum[2];
    float highest[2];
};

// Turns the scores of a tile into weights.
DEVICE void soften(Rows& rows, float (&score)[TILE / 8][4], int valid, float scale_log2) {
    if (valid < TILE) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int tile = 0; tile < TILE / 8; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (tile * 8 + lane % 4 * 2 + i % 2 >= valid) score[tile][i] = negative_infinity();
            }
        }
    }
    float tile_max[2] = {negative_infinity(), negative_infinity()};
#pragma unroll
    for (int tile = 0; tile < TILE / 8; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) tile_max[i / 2] = fmaxf(tile_max[i / 2], score[tile][i]);
    }
    float decay[2], offset[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        // Finite: every tile has a valid key.
        const float now = fmaxf(rows.highest[half], row_max(tile_max[half]));
        decay[half] = exp2_fast((rows.highest[half] - now) * scale_log2);
        rows.highest[half] = now;
        offset[half] = -now * scale_log2;
        rows.sum[half] *= decay[half];
    }
#pragma unroll
    for (int tile = 0; tile < TILE / 8; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            score[tile][i] = exp2_fast(fmaf(score[tile][i], scale_log2, offset[i / 2]));
            rows.sum[i / 2] += score[tile][i];
        }
    }
#pragma unroll
    for (int tile = 0; tile < DIM_TILES; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) rows.out[tile][i] *= decay[i / 2];
    }
}

// SIXTEENS · 16 queries for each of four warps, and one tile of keys or more.
template <int SIXTEENS, bool ONE_TILE>
DEVICE void attend(const Attention& p) {
    // Keys, then values, of one tile and the next.
    alignas(16) __shared__ u16 stages[2][2 * TILE * STRIDE];
    constexpr int QUERIES = SIXTEENS * 64;
    static_assert(QUERIES <= 2 * TILE, "queries pass through one stage");
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int positions = p.positions;
    const int first_query = blockIdx.x * QUERIES;
    const int own_row = warp * SIXTEENS * 16;
    const u64 item_row = (u64)blockIdx.z * positions;
    const u16* head = p.qkv + item_row * 3 * HEADS_WIDTH + blockIdx.y * HEAD_DIM;

    // Columns that no copy writes: times zero, anything but a number would not be zero.
    constexpr int PAD = (STEPS * 16 - HEAD_DIM) / WIDTH;
    for (int i = threadIdx.x; i < 4 * TILE * PAD; i += 128) {
        *(Part*)(&stages[0][0] + i / PAD * STRIDE + HEAD_DIM + i % PAD * WIDTH) = {};
    }
    const auto copy_tile = [&](int stage, int first_key) {
        const u16* key = head + HEADS_WIDTH + (u64)first_key * 3 * HEADS_WIDTH;
        copy_rows<TILE>(stages[stage], key, positions - first_key);
        copy_rows<TILE>(stages[stage] + TILE * STRIDE, key + HEADS_WIDTH, positions - first_key);
    };
    // Queries pass through the second stage into registers.
    copy_rows<QUERIES>(stages[1], head + (u64)first_query * 3 * HEADS_WIDTH, positions - first_query);
    copy_tile(0, 0);
    wait_for_copies();
    __syncthreads();
    Rows rows[SIXTEENS] = {};
#pragma unroll
    for (int r = 0; r < SIXTEENS; r++) {
        rows[r].highest[0] = rows[r].highest[1] = negative_infinity();
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            const int row = own_row + r * 16 + lane % 16;
            load_matrices(rows[r].query[step], stages[1] + row * STRIDE + step * 16 + lane / 16 * 8);
        }
    }
    __syncthreads();

    int stage = 0;
    for (int first_key = 0; first_key == 0 || (!ONE_TILE && first_key < positions); first_key += TILE) {
        if (first_key > 0) {
            // This tile is there, and the one before it has been used by all.
            wait_for_copies();
            __syncthreads();
        }
        if (!ONE_TILE && first_key + TILE < positions) copy_tile(1 - stage, first_key + TILE);
        const u16 *keys = stages[stage], *values = stages[stage] + TILE * STRIDE;

        float score[SIXTEENS][TILE / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int pair = 0; pair < TILE / 16; pair++) {
                u32 b[4];
                const int row = pair * 16 + lane % 8 + lane / 16 * 8;
                load_matrices(b, keys + row * STRIDE + step * 16 + lane / 8 % 2 * 8);
#pragma unroll
                for (int r = 0; r < SIXTEENS; r++) {
                    multiply(score[r][2 * pair], rows[r].query[step], b[0], b[1]);
                    multiply(score[r][2 * pair + 1], rows[r].query[step], b[2], b[3]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < SIXTEENS; r++) soften(rows[r], score[r], positions - first_key, p.scale_log2);
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
            // The accumulators of two products lie as the left operand of the next one does.
            u32 weight[SIXTEENS][4];
#pragma unroll
            for (int r = 0; r < SIXTEENS; r++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float(&from)[4] = score[r][2 * step + i / 2];
                    weight[r][i] = from_floats(from[i % 2 * 2], from[i % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (int tile = 0; tile < DIM_TILES; tile += 2) {
                u32 b[4];
                load_matrices_transposed(b, values + (step * 16 + lane % 16) * STRIDE + tile * 8 + lane / 16 * 8);
#pragma unroll
                for (int r = 0; r < SIXTEENS; r++) {
                    multiply(rows[r].out[tile], weight[r], b[0], b[1]);
                    if (tile + 1 < DIM_TILES) multiply(rows[r].out[tile + 1], weight[r], b[2], b[3]);
                }
            }
        }
        stage = 1 - stage;
    }

    // Through the stage that the last tile is not in, so that whole rows are written at once.
    u16* staged = stages[stage] + own_row * STRIDE;
#pragma unroll
    for (int r = 0; r < SIXTEENS; r++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float inverse = 1.0f / row_sum(rows[r].sum[half]);
            u16* row = staged + (r * 16 + lane / 4 + half * 8) * STRIDE;
#pragma unroll
            for (int tile = 0; tile < DIM_TILES; tile++) {
                const float(&from)[4] = rows[r].out[tile];
                *(u32*)(row + tile * 8 + lane % 4 * 2) =
                    from_floats(from[half * 2] * inverse, from[half * 2 + 1] * inverse);
            }
        }
    }
    __syncthreads();
    const int valid = positions - first_query - own_row;
    u16* out = p.out + (item_row + first_query + own_row) * HEADS_WIDTH + blockIdx.y * HEAD_DIM;
#pragma unroll
    for (int i = lane; i < SIXTEENS * 16 * PER_ROW; i += 32) {
        const int row = i / PER_ROW, column = i % PER_ROW * WIDTH;
        if (row < valid) *(Part*)(out + row * HEADS_WIDTH + column) = *(const Part*)(staged + row * STRIDE + column);
    }
}

// For up to 64 positions.
KERNEL_OF_MANY(attention, Attention, 128, TILE == 64 ? 4 : 3) { attend<1, TILE == 64>(p); }

// For more.
KERNEL(attention_wide, Attention, 128) { attend<TILE / 32, false>(p); }

#endif
