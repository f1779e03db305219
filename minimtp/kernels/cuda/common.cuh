// Shared by the kernels: reductions over a warp and over a block, and 16-bit floats.
//
// Every reduction adds in an order that depends only on lane and warp, so a result never depends on timing. Products and sums
// whose bits matter are written as __fmul_rn, __fadd_rn and __fmaf_rn, which the compiler neither fuses nor splits.
#pragma once

constexpr int WARP = 32;
[[maybe_unused]] constexpr int KEY_PANEL = 32;  // positions whose cached keys are stored together
constexpr unsigned ALL_LANES = 0xffffffffu;
#define INFINITE __int_as_float(0x7f800000)

__device__ __forceinline__ int lane() { return threadIdx.x % WARP; }
__device__ __forceinline__ int warp() { return threadIdx.x / WARP; }

// The sum over the warp's 32 lanes, in every lane.
__device__ __forceinline__ float warp_sum(float value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ __forceinline__ int warp_sum(int value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

// The sum over the block's threads (whole warps, at most 1024), in every thread. All threads call it.
__device__ inline float block_sum(float value) {
    __shared__ float by_warp[WARP];
    value = warp_sum(value);
    __syncthreads();  // a previous call may still read the array
    if (lane() == 0) by_warp[warp()] = value;
    __syncthreads();
    return warp_sum(lane() < blockDim.x / WARP ? by_warp[lane()] : 0.0f);
}

__device__ inline float block_max(float value) {
    __shared__ float by_warp[WARP];
    value = warp_max(value);
    __syncthreads();
    if (lane() == 0) by_warp[warp()] = value;
    __syncthreads();
    return warp_max(lane() < blockDim.x / WARP ? by_warp[lane()] : -INFINITE);
}

__device__ __forceinline__ float sigmoid(float x) {
    float decay = expf(-fabsf(x));  // of a negative number only: no overflow
    return (x >= 0 ? 1.0f : decay) / (1.0f + decay);
}

// 16-bit floats by their bits, so that no header of the CUDA toolkit is needed.
#ifndef CUDA_ON_HOST  // the tests' emulation has its own
__device__ __forceinline__ float from_half(unsigned short half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}
__device__ __forceinline__ unsigned short to_half(float x) {
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
#endif
