// Layer norm, a warp a row. The row is read once, in accesses of 16 bytes, and stays in registers for both the mean and
// the variance about it.
#include "number.cuh"

struct LayerNorm {
    const float* x;       // rows of HIDDEN values, `stride` apart
    const float* weight;  // [HIDDEN]
    const float* bias;    // [HIDDEN]
    Number* out;          // [rows, HIDDEN]
    u64 stride;
    u32 rows;
    float epsilon;
};

constexpr int WIDTH = HIDDEN % 4 == 0 ? 4 : 1;
constexpr int PARTS = HIDDEN / WIDTH;
constexpr int PARTS_PER_LANE = (PARTS + 31) / 32;
typedef Vector<float, WIDTH> Part;

KERNEL(layer_norm, LayerNorm, 128) {
    const int lane = threadIdx.x % 32;
    const u64 row = (u64)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= p.rows) return;  // a whole warp, so that those that stay can exchange values

    const Part* x = (const Part*)(p.x + row * p.stride);
    Part part[PARTS_PER_LANE];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PARTS_PER_LANE; i++) {
        if (i * 32 + lane < PARTS) {
            part[i] = x[i * 32 + lane];
#pragma unroll
            for (int j = 0; j < WIDTH; j++) sum += part[i].at[j];
        }
    }
    const float mean = warp_sum(sum) / HIDDEN;

    float squares = 0;
#pragma unroll
    for (int i = 0; i < PARTS_PER_LANE; i++) {
        if (i * 32 + lane < PARTS) {
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                const float distance = part[i].at[j] - mean;
                squares = fmaf(distance, distance, squares);
            }
        }
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / HIDDEN + p.epsilon);

    typedef Vector<Number, WIDTH> Out;
    Out* out = (Out*)(p.out + row * HIDDEN);
#pragma unroll
    for (int i = 0; i < PARTS_PER_LANE; i++) {
        const int at = i * 32 + lane;
        if (at < PARTS) {
            const Part weight = ((const Part*)p.weight)[at], bias = ((const Part*)p.bias)[at];
            Out normed;
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                normed.at[j] = from_float(fmaf((part[i].at[j] - mean) * scale, weight.at[j], bias.at[j]));
            }
            out[at] = normed;
        }
    }
}
