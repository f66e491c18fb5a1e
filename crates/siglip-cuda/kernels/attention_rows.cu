// Attention a warp a query, in f32 arithmetic for any number format: where there is one query for each item (the pooling
// head's probe, and the last block of the text tower), and for all queries in f32, which exists to check the rest.
//
// Each lane scores one key of 32 at a time; for the sum over values each lane keeps every 32nd value of the head.
#include "number.cuh"

struct AttentionRows {
    const Number* q;  // queries: item · q_item + query · q_row
    const Number* k;  // keys: (item · keys + key) · kv_row
    const Number* v;  // values, likewise
    Number* out;      // [items · queries, HEADS · HEAD_DIM]
    u64 q_item;
    u64 q_row;
    u64 kv_row;
    u32 queries;
    u32 keys;
    u32 rows;          // items · queries
    float scale_log2;  // log2(e) / √HEAD_DIM
};

constexpr int PER_LANE = (HEAD_DIM + 31) / 32;

KERNEL(attention_rows, AttentionRows, 128) {
    const int lane = threadIdx.x % 32;
    const u64 row = (u64)blockIdx.x * 4 + threadIdx.x / 32;
    if (row >= p.rows) return;  // a whole warp
    const u64 item = row / p.queries, head = (u64)blockIdx.y * HEAD_DIM;
    const Number* query = p.q + item * p.q_item + row % p.queries * p.q_row + head;
    const Number* keys = p.k + item * p.keys * p.kv_row + head;
    const Number* values = p.v + item * p.keys * p.kv_row + head;

    float out[PER_LANE] = {};
    float sum = 0, highest = negative_infinity();
    for (u32 first = 0; first < p.keys; first += 32) {
        const u32 key_index = first + lane;
        float score = negative_infinity();
        if (key_index < p.keys) {
            const Number* key = keys + key_index * p.kv_row;
            float dot = 0;
            for (int i = 0; i < HEAD_DIM; i++) dot = fmaf(to_float(query[i]), to_float(key[i]), dot);
            score = dot * p.scale_log2;
        }
        const float now = fmaxf(highest, warp_max(score));
        const float decay = exp2_fast(highest - now), weight = exp2_fast(score - now);
        highest = now;
        sum = sum * decay + weight;
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) out[i] *= decay;
        const int valid = min(32u, p.keys - first);
        for (int j = 0; j < valid; j++) {
            const float other = from_lane(weight, j);
            const Number* value = values + (u64)(first + j) * p.kv_row;
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int column = i * 32 + lane;
                if (column < HEAD_DIM) out[i] = fmaf(other, to_float(value[column]), out[i]);
            }
        }
    }
    const float total = warp_sum(sum);
    Number* target = p.out + row * HEADS * HEAD_DIM + head;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        const int column = i * 32 + lane;
        if (column < HEAD_DIM) target[column] = from_float(out[i] / total);
    }
}
