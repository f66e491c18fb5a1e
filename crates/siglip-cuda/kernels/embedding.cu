// How rows begin: tokens looked up, patches cut out. Memory-bound and a few thousandths of a pass.
#include "number.cuh"

struct TokenEmbedding {
    const u32* ids;          // [rows]
    const Number* tokens;    // [vocabulary, HIDDEN]
    const float* positions;  // [positions_len, HIDDEN]
    Number* x;               // [rows, HIDDEN]
    u32 positions_len;
};

// x[row] = tokens[ids[row]] + positions[row mod positions_len], scaled: a block a row.
KERNEL(token_embedding, TokenEmbedding, 128) {
    const u64 row = blockIdx.x;
    const Number* token = p.tokens + (u64)p.ids[row] * HIDDEN;
    const float* position = p.positions + row % p.positions_len * HIDDEN;
    for (u32 i = threadIdx.x; i < HIDDEN; i += 128) {
        p.x[row * HIDDEN + i] = from_float((to_float(token[i]) + position[i]) * RESIDUAL_SCALE);
    }
}

struct Patches {
    const float* pixels;     // [items, channels, side, side]
    const float* positions;  // [grid · grid, HIDDEN]
    Number* patches;         // [items · grid · grid, stride]
    Number* x;               // [items · grid · grid, HIDDEN]
    u32 channels;
    u32 side;
    u32 patch;
    u32 grid;    // patches along a side; pixels beyond grid · patch are dropped
    u32 stride;  // channels · patch · patch, rounded up; the rest is zeroed
};

// Lays each patch out as a row of [channels, patch, patch], so that the convolution is a matrix product, and starts that
// product's sum with the position embedding: a block a patch.
KERNEL(patches, Patches, 128) {
    const u64 row = blockIdx.x;
    const u32 index = row % (p.grid * p.grid);
    const u64 item = row / (p.grid * p.grid);
    const u32 area = p.patch * p.patch;
    const u32 top = index / p.grid * p.patch, left = index % p.grid * p.patch;
    for (u32 i = threadIdx.x; i < p.stride; i += 128) {
        const u32 channel = i / area, y = i % area / p.patch, x = i % p.patch;
        float pixel = 0;
        if (channel < p.channels) {
            pixel = p.pixels[((item * p.channels + channel) * p.side + top + y) * p.side + left + x];
        }
        p.patches[row * p.stride + i] = from_float(pixel);
    }
    const float* position = p.positions + (u64)index * HIDDEN;
    for (u32 i = threadIdx.x; i < HIDDEN; i += 128) {
        p.x[row * HIDDEN + i] = from_float(position[i] * RESIDUAL_SCALE);
    }
}
