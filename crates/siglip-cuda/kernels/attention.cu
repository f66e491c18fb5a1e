// Attention of all positions to all positions, on the tensor cores, for 16-bit numbers.
//
// A block computes 64 queries of one head of one item, 16 for each of its four warps. Keys and values pass through shared
// memory in tiles of 64; scores stay in registers, with the softmax rescaled as larger scores appear (Milakov and
// Gimelshein 2018; Dao et al. 2022), so no matrix of scores is ever written:
//
//     for each tile of keys:  s = q · kᵀ;  m' = max(m, max s);  w = 2^(c·(s − m'));  d = 2^(c·(m − m'))
//                             sum = sum · d + Σ w;  out = out · d + w · v
//     out / sum
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

constexpr int TILE = 64;
constexpr int HEADS_WIDTH = HEADS * HEAD_DIM;
constexpr int STEPS = (HEAD_DIM + 15) / 16;  // products along the head
constexpr int DIM_TILES = (HEAD_DIM + 7) / 8;
// Rows of an odd number of 16 bytes: eight of them lie in different banks.
constexpr int STRIDE = STEPS * 16 + 8;

// Copies up to TILE rows of one head into shared memory, zeroing what there is not.
DEVICE void load_tile(u16* tile, const u16* source, int rows) {
    constexpr int WIDTH = HEAD_DIM % 8 == 0 ? 8 : 1;
    constexpr int PER_ROW = STEPS * 16 / WIDTH;
    typedef Vector<u16, WIDTH> Part;
    for (int i = threadIdx.x; i < TILE * PER_ROW; i += 128) {
        const int row = i / PER_ROW, column = i % PER_ROW * WIDTH;
        Part part = {};
        if (row < rows && column < HEAD_DIM) part = *(const Part*)(source + (u64)row * 3 * HEADS_WIDTH + column);
        *(Part*)(tile + row * STRIDE + column) = part;
    }
}

DEVICE u32 pack(float low, float high) { return (u32)from_float(low) | (u32)from_float(high) << 16; }

// Sum and maximum over the four lanes that share a row of a product.
DEVICE float row_sum(float x) {
    x += from_lane_xor(x, 1);
    return x + from_lane_xor(x, 2);
}
DEVICE float row_max(float x) {
    x = fmaxf(x, from_lane_xor(x, 1));
    return fmaxf(x, from_lane_xor(x, 2));
}

KERNEL(attention, Attention, 128) {
    alignas(16) __shared__ u16 keys[TILE * STRIDE];
    alignas(16) __shared__ u16 values[TILE * STRIDE];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int positions = p.positions;
    const int first_query = blockIdx.x * TILE;
    const u64 item_row = (u64)blockIdx.z * positions;
    const u16* head = p.qkv + item_row * 3 * HEADS_WIDTH + blockIdx.y * HEAD_DIM;

    // Queries pass through the keys' memory into registers.
    load_tile(keys, head + (u64)first_query * 3 * HEADS_WIDTH, positions - first_query);
    __syncthreads();
    u32 query[STEPS][4];
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        load_matrices(query[step], keys + (warp * 16 + lane % 16) * STRIDE + step * 16 + lane / 16 * 8);
    }

    // A lane holds two rows of each product: lane / 4, and that plus 8.
    float out[DIM_TILES][4] = {};
    float sum[2] = {0, 0};
    float highest[2] = {negative_infinity(), negative_infinity()};

    for (int first_key = 0; first_key < positions; first_key += TILE) {
        const int valid = positions - first_key;
        __syncthreads();  // the tile before has been used by all
        const u16* key = head + HEADS_WIDTH + (u64)first_key * 3 * HEADS_WIDTH;
        load_tile(keys, key, valid);
        load_tile(values, key + HEADS_WIDTH, valid);
        __syncthreads();

        float score[TILE / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int pair = 0; pair < TILE / 16; pair++) {
                u32 b[4];
                const int row = pair * 16 + lane % 8 + lane / 16 * 8;
                load_matrices(b, keys + row * STRIDE + step * 16 + lane / 8 % 2 * 8);
                multiply(score[2 * pair], query[step], b[0], b[1]);
                multiply(score[2 * pair + 1], query[step], b[2], b[3]);
            }
        }

        float tile_max[2] = {negative_infinity(), negative_infinity()};
#pragma unroll
        for (int tile = 0; tile < TILE / 8; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (tile * 8 + lane % 4 * 2 + i % 2 >= valid) score[tile][i] = negative_infinity();
                tile_max[i / 2] = fmaxf(tile_max[i / 2], score[tile][i]);
            }
        }
        float decay[2], offset[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // Finite: every tile has a valid key.
            const float now = fmaxf(highest[half], row_max(tile_max[half]));
            decay[half] = exp2_fast((highest[half] - now) * p.scale_log2);
            highest[half] = now;
            offset[half] = -now * p.scale_log2;
            sum[half] *= decay[half];
        }
#pragma unroll
        for (int tile = 0; tile < TILE / 8; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                score[tile][i] = exp2_fast(fmaf(score[tile][i], p.scale_log2, offset[i / 2]));
                sum[i / 2] += score[tile][i];
            }
        }
#pragma unroll
        for (int tile = 0; tile < DIM_TILES; tile++) {
#pragma unroll
            for (int i = 0; i < 4; i++) out[tile][i] *= decay[i / 2];
        }
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
            // The accumulators of two products lie as the left operand of the next one does.
            const float(&low)[4] = score[2 * step], (&high)[4] = score[2 * step + 1];
            const u32 weight[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]),
                                   pack(high[2], high[3])};
#pragma unroll
            for (int tile = 0; tile < DIM_TILES; tile += 2) {
                u32 b[4];
                load_matrices_transposed(b, values + (step * 16 + lane % 16) * STRIDE + tile * 8 + lane / 16 * 8);
                multiply(out[tile], weight, b[0], b[1]);
                if (tile + 1 < DIM_TILES) multiply(out[tile + 1], weight, b[2], b[3]);
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = row_sum(sum[half]);
        const int query_row = first_query + warp * 16 + lane / 4 + half * 8;
        if (query_row >= positions) continue;
        u16* row = p.out + (item_row + query_row) * HEADS_WIDTH + blockIdx.y * HEAD_DIM;
#pragma unroll
        for (int tile = 0; tile < DIM_TILES; tile++) {
            const int column = tile * 8 + lane % 4 * 2;
            const float first = out[tile][half * 2] / total, second = out[tile][half * 2 + 1] / total;
            if (HEAD_DIM % 2 == 0) {
                if (column < HEAD_DIM) *(u32*)(row + column) = pack(first, second);
            } else {
                if (column < HEAD_DIM) row[column] = from_float(first);
                if (column + 1 < HEAD_DIM) row[column + 1] = from_float(second);
            }
        }
    }
}

#endif
