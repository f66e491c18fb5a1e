// The number format of activations and weights, `Number`: NUMBER_BF16, NUMBER_F16 or NUMBER_F32 is defined.
#pragma once
#include "device.cuh"

#if defined(NUMBER_BF16)
typedef u16 Number;
DEVICE float to_float(Number x) { return bf16_to_float(x); }
DEVICE Number from_float(float x) { return float_to_bf16(x); }
DEVICE u32 from_floats(float first, float second) { return floats_to_bf16(first, second); }
#define multiply multiply_bf16
#elif defined(NUMBER_F16)
typedef u16 Number;
DEVICE float to_float(Number x) { return f16_to_float(x); }
DEVICE Number from_float(float x) { return float_to_f16(x); }
DEVICE u32 from_floats(float first, float second) { return floats_to_f16(first, second); }
#define multiply multiply_f16
#elif defined(NUMBER_F32)
typedef float Number;
DEVICE float to_float(Number x) { return x; }
DEVICE Number from_float(float x) { return x; }
#else
#error "NUMBER_BF16, NUMBER_F16 or NUMBER_F32 must be defined"
#endif

// Values of the residual stream are of the same format, and multiplied by this where they lie: f16 ends at 65,504.
#ifdef NUMBER_F16
constexpr float RESIDUAL_SCALE = 1.0f / 16;
#else
constexpr float RESIDUAL_SCALE = 1;
#endif
#ifndef NUMBER_F32
DEVICE float to_float(float x) { return x; }
#endif

// N values that are read and written in one access.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

// The sum and the maximum over a warp, in every lane: lanes are paired 16, 8, 4, 2 and 1 apart.
DEVICE float warp_sum(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x += from_lane_xor(x, distance);
    return x;
}
DEVICE float warp_max(float x) {
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, from_lane_xor(x, distance));
    return x;
}

DEVICE float negative_infinity() { return __int_as_float((int)0xff800000u); }
