// Rounding to the grids: one warp per group of 32, one lane per value. The arithmetic is that of kernels/ggml/blocks.py and
// kernels/plain/quantize.py, operation by operation. __fmul_rn and the like keep the compiler from fusing a product and a sum,
// which would give other codes.
#include "common.cuh"

constexpr float MAX_WITHOUT_INVERSE = 127 * 0x1p-128f;  // at and below this |x|, 127 / |x| is not finite
constexpr float MAX_STEP_WITHOUT_RECIPROCAL = 0x1p-128f;

__device__ __forceinline__ long long group() { return (long long)blockIdx.x * (blockDim.x / WARP) + warp(); }

__device__ __forceinline__ float reciprocal(float step) {
    return fabsf(step) > MAX_STEP_WITHOUT_RECIPROCAL ? __fdiv_rn(1.0f, step) : 0.0f;
}

// ggml's Q4_0: w (groups, 32) -> the values that it stores.
extern "C" __global__ void fake_quantize_q4_0(const float* w, long long groups, float* y) {
    if (group() >= groups) return;
    long long at = group() * WARP + lane();
    float x = w[at], extreme = fabsf(x);
    int holder = lane();  // the lane of the first value of largest magnitude
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        float other = __shfl_xor_sync(ALL_LANES, extreme, distance);
        int other_holder = __shfl_xor_sync(ALL_LANES, holder, distance);
        if (other > extreme || (other == extreme && other_holder < holder)) {
            extreme = other;
            holder = other_holder;
        }
    }
    float step = __fdiv_rn(__shfl_sync(ALL_LANES, x, holder), -8.0f);
    float level = truncf(__fadd_rn(__fmul_rn(x, reciprocal(step)), 8.5f));
    y[at] = __fmul_rn(fminf(level, 15.0f) - 8.0f, from_half(to_half(step)));
}

// ggml's Q8_0: w (groups, 32) -> what it stores of it.
extern "C" __global__ void fake_quantize_q8_0(const float* w, long long groups, float* y) {
    if (group() >= groups) return;
    long long at = group() * WARP + lane();
    float x = w[at], step = __fdiv_rn(warp_max(fabsf(x)), 127.0f);
    float scaled = __fmul_rn(x, reciprocal(step)), magnitude = fabsf(scaled), whole = floorf(magnitude);
    int code = (int)copysignf(whole + floorf(2.0f * (magnitude - whole)), scaled);
    y[at] = __fmul_rn((float)code, from_half(to_half(step)));
}

// Floats to the bits of bfloat16, their upper halves, rounded half to even -> y. Grid (size / 256,), block (256,).
extern "C" __global__ void to_bfloat16(const float* x, long long size, unsigned short* y) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    unsigned bits = __float_as_uint(x[i]);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;  // rounding could turn it into an infinity
    y[i] = is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

__device__ __forceinline__ int activation_code(float x, float& scale) {
    float largest = warp_max(fabsf(x));
    scale = __fdiv_rn(largest, 127.0f);
    float inverse = largest > MAX_WITHOUT_INVERSE ? __fdiv_rn(127.0f, largest) : 0.0f;
    return __float2int_rn(__fmul_rn(x, inverse));
}

// x (groups, 32) -> codes int8 (groups, 32), scales (groups,), and the codes' sums (groups,), which products with offset codes need.
extern "C" __global__ void quantize_activations(const float* x, long long groups, signed char* codes, float* scales, int* sums) {
    if (group() >= groups) return;
    float scale;
    int code = activation_code(x[group() * WARP + lane()], scale);
    codes[group() * WARP + lane()] = (signed char)code;
    int sum = warp_sum(code);
    if (lane() == 0) {
        scales[group()] = scale;
        sums[group()] = sum;
    }
}

extern "C" __global__ void fake_quantize_activations(const float* x, long long groups, float* y) {
    if (group() >= groups) return;
    float scale;
    int code = activation_code(x[group() * WARP + lane()], scale);
    y[group() * WARP + lane()] = __fmul_rn((float)code, scale);
}
