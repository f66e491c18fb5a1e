// Layer norm, a warp a row. The row is read once, four values at a time, and stays in registers for both the mean and
// the variance about it.
#include "number.cuh"

struct LayerNorm {
    const void* x;        // rows of HIDDEN values, `stride` apart
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

template <typename X>
DEVICE Part to_floats(const Vector<X, WIDTH>& values) {
    Part part;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) part.at[j] = to_float(values.at[j]);
    return part;
}

// Norms one row of x, and hands each part of it to put with its place, as it was and as it is now.
template <typename X, typename Put>
DEVICE void norm_row(const X* row, const float* weights, const float* biases, float epsilon, Put put) {
    const int lane = threadIdx.x % 32;
    const Vector<X, WIDTH>* x = (const Vector<X, WIDTH>*)row;
    Part part[PARTS_PER_LANE];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < PARTS_PER_LANE; i++) {
        if (i * 32 + lane < PARTS) {
            part[i] = to_floats(x[i * 32 + lane]);
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
    const float scale = 1.0f / sqrtf(warp_sum(squares) / HIDDEN + epsilon);

#pragma unroll
    for (int i = 0; i < PARTS_PER_LANE; i++) {
        const int at = i * 32 + lane;
        if (at < PARTS) {
            const Part weight = ((const Part*)weights)[at], bias = ((const Part*)biases)[at];
            Part normed;
#pragma unroll
            for (int j = 0; j < WIDTH; j++) {
                normed.at[j] = fmaf((part[i].at[j] - mean) * scale, weight.at[j], bias.at[j]);
            }
            put(at, part[i], normed);
        }
    }
}

// Rows of X into rows of numbers.
template <typename X>
DEVICE void norm_rows(const LayerNorm& p) {
    const u64 row = (u64)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= p.rows) return;  // a whole warp, so that those that stay can exchange values
    typedef Vector<Number, WIDTH> Out;
    Out* out = (Out*)(p.out + row * HIDDEN);
    const X* x = (const X*)p.x + row * p.stride;
    norm_row(x, p.weight, p.bias, p.epsilon, [&](int at, const Part&, const Part& normed) {
        Out rounded;
#pragma unroll
        for (int j = 0; j < WIDTH; j++) rounded.at[j] = from_float(normed.at[j]);
        out[at] = rounded;
    });
}

// Of the residual stream.
KERNEL(layer_norm, LayerNorm, 128) { norm_rows<Number>(p); }

// Of f32.
KERNEL(layer_norm_wide, LayerNorm, 128) { norm_rows<float>(p); }

#if FP8
struct LayerNormFp8 {
    Number* x;            // rows of HIDDEN values, `stride` apart
    const float* weight;  // [HIDDEN]
    const float* bias;    // [HIDDEN]
    u32* out;             // [rows, HIDDEN] of e4m3
    const float* add;     // [HIDDEN], or null
    u64 stride;
    u32 rows;
    float epsilon;
    float inverse_scale;
};

// The same in e4m3, for the products that read it so. What is then added to the row is the bias of the product that its
// sum is added to later: cuBLASLt adds to e4m3 products either a bias or a matrix.
KERNEL(layer_norm_fp8, LayerNormFp8, 128) {
    static_assert(WIDTH == 4, "fp8 rows are multiples of 16");
    const u64 row = (u64)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= p.rows) return;
    typedef Vector<Number, WIDTH> Numbers;
    Numbers* x = (Numbers*)(p.x + row * p.stride);
    u32* out = p.out + row * PARTS;
    norm_row(p.x + row * p.stride, p.weight, p.bias, p.epsilon, [&](int at, const Part& before, const Part& normed) {
        const u32 low = floats_to_e4m3(normed.at[0] * p.inverse_scale, normed.at[1] * p.inverse_scale);
        const u32 high = floats_to_e4m3(normed.at[2] * p.inverse_scale, normed.at[3] * p.inverse_scale);
        out[at] = low | high << 16;
        if (p.add) {
            const Part add = ((const Part*)p.add)[at];
            Numbers after;
#pragma unroll
            for (int j = 0; j < 4; j++) after.at[j] = from_float(before.at[j] + add.at[j]);
            x[at] = after;
        }
    });
}
#endif
