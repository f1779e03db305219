// y = x Wᵀ for the 1 to 16 rows of a decoding step. Reading W once limits its speed.
//
// A warp computes OUTPUTS outputs for ROWS rows: lane l takes groups l, l + 32, ... of 32 weights, loads a group of a weight row
// with 16-byte loads, multiplies it with that group of every row of x (which stays in the cache), and the lanes' sums are added
// at the end. So all rows share one read of the weights. Each (row, output) adds its products in an order that depends on nothing else, so a
// row has the same bits alone and with other rows.
//
// Quantized: the 32 products of a group are integers, and __dp4a sums them exactly, four at a time. The sum is multiplied by the
// product of the two scales. int4 codes are stored with 8 added, as in the file: sum (q + 8) x - 8 sum x is exact, too. Formats
// with a minimum add it as one more product: minimum * (scale of x * sum of x's codes).
//
//     codes (N, K/32, 16) bytes or (N, K/32, 32) bytes, scales float16 (N, K/32): the file's blocks, separated so that both can be loaded in whole vectors
#include "common.cuh"

constexpr int WARPS = 4;

struct Group {  // 32 codes of the activations, four per word
    int words[8];
};

__device__ __forceinline__ Group load(const uint4* at) {
    uint4 a = at[0], b = at[1];
    return {{(int)a.x, (int)a.y, (int)a.z, (int)a.w, (int)b.x, (int)b.y, (int)b.z, (int)b.w}};
}

template <int OFFSET, bool MINIMUM> struct Fours {
    uint4 codes;
    static constexpr int VECTORS = 1;
    static constexpr bool HAS_MINIMUM = MINIMUM;
    __device__ __forceinline__ void read(const uint4* at) { codes = at[0]; }
    // The file keeps codes 0..15 in the low and 16..31 in the high halves of the 16 bytes.
    __device__ __forceinline__ int dot(const Group& x, int sum) const {
        unsigned words[4] = {codes.x, codes.y, codes.z, codes.w};
        int total = -OFFSET * sum;
        for (int i = 0; i < 4; i++) {
            total = __dp4a((int)(words[i] & 0x0f0f0f0fu), x.words[i], total);
            total = __dp4a((int)(words[i] >> 4 & 0x0f0f0f0fu), x.words[i + 4], total);
        }
        return total;
    }
};

template <bool MINIMUM> struct Eights {
    Group codes;
    static constexpr int VECTORS = 2;
    static constexpr bool HAS_MINIMUM = MINIMUM;
    __device__ __forceinline__ void read(const uint4* at) { codes = load(at); }
    __device__ __forceinline__ int dot(const Group& x, int) const {
        int total = 0;
        for (int i = 0; i < 8; i++) total = __dp4a(codes.words[i], x.words[i], total);
        return total;
    }
};

using Q4_0 = Fours<8, false>;
using Q4_1 = Fours<0, true>;
using Q5_1 = Eights<true>;  // codes as bytes
using Q8_0 = Eights<false>;

// The warp's sums of COUNT values per lane (a power of two, at most 32): lane l returns the sum of value l / (32 / COUNT). Each
// exchange halves the values that a lane still holds, so 32 values take 31 shuffles instead of 160. For every COUNT it adds the
// same pairs as `warp_sum`, so the bits are the same.
template <int COUNT, int DISTANCE, int N> __device__ __forceinline__ float warp_sums(float (&values)[N]) {
    if constexpr (COUNT > 1) {
        bool upper = lane() & DISTANCE;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            float mine = upper ? values[i + COUNT / 2] : values[i], theirs = upper ? values[i] : values[i + COUNT / 2];
            values[i] = __fadd_rn(mine, __shfl_xor_sync(ALL_LANES, theirs, DISTANCE));
        }
        return warp_sums<COUNT / 2, DISTANCE / 2>(values);
    } else if constexpr (DISTANCE > 0) {
        values[0] = __fadd_rn(values[0], __shfl_xor_sync(ALL_LANES, values[0], DISTANCE));
        return warp_sums<1, DISTANCE / 2>(values);
    } else {
        return values[0];
    }
}

// Sum the lanes' totals of ROWS x OUTPUTS results, and write the existing ones to y or add them to it.
template <int ROWS, int OUTPUTS>
__device__ __forceinline__ void store(float (&totals)[ROWS * OUTPUTS], int first_row, int first_output, int rows, int outputs,
                                      int add, float* y) {
    float total = warp_sums<ROWS * OUTPUTS, WARP / 2>(totals);
    constexpr int LANES = WARP / (ROWS * OUTPUTS);
    int row = first_row + lane() / LANES / OUTPUTS, output = first_output + lane() / LANES % OUTPUTS;
    if (lane() % LANES == 0 && row < rows && output < outputs) {
        float* to = y + (long long)row * outputs + output;
        *to = add ? __fadd_rn(*to, total) : total;
    }
}

// x's codes (T, K) with scales and sums (T, K/32); minima are read only if the format has them; y (T, N), added to if `add` is not 0.
// Grid (N / (WARPS * OUTPUTS), T / ROWS), block (128,).
template <class Format, int ROWS, int OUTPUTS>
__device__ __forceinline__ void quantized_product(const uint4* x, const float* x_scales, const int* x_sums, const uint4* codes,
                                                  const unsigned short* scales, const unsigned short* minima, int rows,
                                                  int outputs, int groups, int add, float* y) {
    int first_output = (blockIdx.x * WARPS + warp()) * OUTPUTS, first_row = blockIdx.y * ROWS;
    if (first_output >= outputs) return;
    float totals[ROWS * OUTPUTS] = {};
    for (int group = lane(); group < groups; group += WARP) {
        Format weights[OUTPUTS];
        float weight_scales[OUTPUTS], weight_minima[OUTPUTS];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            long long at = (long long)min(first_output + o, outputs - 1) * groups + group;
            weights[o].read(codes + at * Format::VECTORS);
            weight_scales[o] = from_half(scales[at]);
            if constexpr (Format::HAS_MINIMUM) weight_minima[o] = from_half(minima[at]);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            long long at = (long long)min(first_row + r, rows - 1) * groups + group;
            Group row = load(x + at * 2);
            float scale = x_scales[at];
            int sum = x_sums[at];
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++) {
                float& total = totals[r * OUTPUTS + o];
                total = __fmaf_rn(__int2float_rn(weights[o].dot(row, sum)), __fmul_rn(weight_scales[o], scale), total);
                if constexpr (Format::HAS_MINIMUM) {
                    total = __fmaf_rn(weight_minima[o], __fmul_rn(scale, __int2float_rn(sum)), total);
                }
            }
        }
    }
    store<ROWS, OUTPUTS>(totals, first_row, first_output, rows, outputs, add, y);
}

// The same for float weights (N, K), K a multiple of 4.
template <int ROWS, int OUTPUTS>
__device__ __forceinline__ void float_product(const float4* x, const float4* weight, int rows, int outputs, int vectors, int add,
                                              float* y) {
    int first_output = (blockIdx.x * WARPS + warp()) * OUTPUTS, first_row = blockIdx.y * ROWS;
    if (first_output >= outputs) return;
    float totals[ROWS * OUTPUTS] = {};
    for (int i = lane(); i < vectors; i += WARP) {
        float4 w[OUTPUTS];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) w[o] = weight[(long long)min(first_output + o, outputs - 1) * vectors + i];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float4 v = x[(long long)min(first_row + r, rows - 1) * vectors + i];
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++) {
                float& total = totals[r * OUTPUTS + o];
                total = __fmaf_rn(w[o].x, v.x, total);
                total = __fmaf_rn(w[o].y, v.y, total);
                total = __fmaf_rn(w[o].z, v.z, total);
                total = __fmaf_rn(w[o].w, v.w, total);
            }
        }
    }
    store<ROWS, OUTPUTS>(totals, first_row, first_output, rows, outputs, add, y);
}

// The same for float16 weights (N, K), K a multiple of 8: a load of 16 bytes holds eight of them, converted once for all rows.
template <int ROWS, int OUTPUTS>
__device__ __forceinline__ void half_product(const float4* x, const uint4* weight, int rows, int outputs, int vectors, int add,
                                             float* y) {
    int first_output = (blockIdx.x * WARPS + warp()) * OUTPUTS, first_row = blockIdx.y * ROWS;
    if (first_output >= outputs) return;
    float totals[ROWS * OUTPUTS] = {};
    for (int i = lane(); i < vectors; i += WARP) {
        uint4 halves[OUTPUTS];
        float w[OUTPUTS][8];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) halves[o] = weight[(long long)min(first_output + o, outputs - 1) * vectors + i];
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
            unsigned words[4] = {halves[o].x, halves[o].y, halves[o].z, halves[o].w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                w[o][2 * k] = from_half((unsigned short)(words[k] & 0xffffu));
                w[o][2 * k + 1] = from_half((unsigned short)(words[k] >> 16));
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float4* row = x + ((long long)min(first_row + r, rows - 1) * vectors + i) * 2;
            float4 a = row[0], b = row[1];
            float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++) {
                float& total = totals[r * OUTPUTS + o];
#pragma unroll
                for (int k = 0; k < 8; k++) total = __fmaf_rn(w[o][k], v[k], total);
            }
        }
    }
    store<ROWS, OUTPUTS>(totals, first_row, first_output, rows, outputs, add, y);
}

// One kernel per format and number of rows. Kernels for more rows share each load of x among more outputs.
#define QUANTIZED(NAME, FORMAT, ROWS, OUTPUTS)                                                                               \
    extern "C" __global__ void NAME##_##ROWS(const uint4* x, const float* x_scales, const int* x_sums, const uint4* codes,   \
                                             const unsigned short* scales, const unsigned short* minima, int rows,           \
                                             int outputs, int groups, int add, float* y) {                                   \
        quantized_product<FORMAT, ROWS, OUTPUTS>(x, x_scales, x_sums, codes, scales, minima, rows, outputs, groups, add, y); \
    }
#define FLOAT(ROWS, OUTPUTS)                                                                                                 \
    extern "C" __global__ void linear_f32_##ROWS(const float4* x, const float4* weight, int rows, int outputs, int vectors,  \
                                                 int add, float* y) {                                                        \
        float_product<ROWS, OUTPUTS>(x, weight, rows, outputs, vectors, add, y);                                             \
    }
#define HALF(ROWS, OUTPUTS)                                                                                                  \
    extern "C" __global__ void linear_f16_##ROWS(const float4* x, const uint4* weight, int rows, int outputs, int vectors,   \
                                                 int add, float* y) {                                                        \
        half_product<ROWS, OUTPUTS>(x, weight, rows, outputs, vectors, add, y);                                              \
    }
#define ALL(ROWS, OUTPUTS)                         \
    QUANTIZED(linear_q4_0, Q4_0, ROWS, OUTPUTS)    \
    QUANTIZED(linear_q4_1, Q4_1, ROWS, OUTPUTS)    \
    QUANTIZED(linear_q5_1, Q5_1, ROWS, OUTPUTS)    \
    QUANTIZED(linear_q8_0, Q8_0, ROWS, OUTPUTS)    \
    FLOAT(ROWS, OUTPUTS)                           \
    HALF(ROWS, OUTPUTS)
ALL(1, 1)
ALL(2, 1)
ALL(4, 2)
ALL(8, 4)
ALL(16, 2)
