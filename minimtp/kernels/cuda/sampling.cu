// Choosing tokens: the largest logits / temperature + noise of each row, and the largest probability.
#include "common.cuh"

// Whether score a of token i goes before score b of token j: the larger score, then the lower id. NaN goes before all numbers, so
// that it is detected.
__device__ __forceinline__ bool goes_before(double a, int i, double b, int j) {
    bool a_is_none = a != a, b_is_none = b != b;
    if (a_is_none != b_is_none) return a_is_none;
    return a > b || (!(a < b) && i < j);
}

// The arithmetic is that of plain.choose, operation by operation: the quotient in float32, the sum in float64.
__device__ __forceinline__ double score_of(float logit, float temperature, const double* noise, int token) {
    float scaled = __fdiv_rn(logit, temperature);
    return noise ? __dadd_rn((double)scaled, noise[token]) : (double)scaled;
}

// logits (R, V), noise (R, V) or null for zeros -> tokens (R,), -1 if the chosen logit, or its quotient, is not finite; and, unless null,
// probabilities (R,), the largest of a softmax of the logits. Grid (R,), block whole warps.
extern "C" __global__ void choose(const float* logits, const double* noise, float temperature, int vocabulary, long long* tokens,
                                  float* probabilities) {
    __shared__ double scores[WARP];
    __shared__ int ids[WARP];
    long long start = (long long)blockIdx.x * vocabulary;
    const float* row = logits + start;
    const double* row_noise = noise ? noise + start : noise;
    double best = 0;
    float largest = -INFINITE;
    int id = vocabulary;  // none yet
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
        double score = score_of(row[i], temperature, row_noise, i);
        largest = fmaxf(largest, row[i]);
        if (id == vocabulary || goes_before(score, i, best, id)) {
            best = score;
            id = i;
        }
    }
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        double score = __shfl_xor_sync(ALL_LANES, best, distance);
        int other = __shfl_xor_sync(ALL_LANES, id, distance);
        if (other < vocabulary && (id == vocabulary || goes_before(score, other, best, id))) {
            best = score;
            id = other;
        }
    }
    if (lane() == 0) {
        scores[warp()] = best;
        ids[warp()] = id;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < blockDim.x / WARP; i++)
            if (ids[i] < vocabulary && (id == vocabulary || goes_before(scores[i], ids[i], best, id))) {
                best = scores[i];
                id = ids[i];
            }
        tokens[blockIdx.x] = fabsf(__fdiv_rn(row[id], temperature)) < INFINITE ? id : -1;
    }
    if (!probabilities) return;  // the same for all threads
    float sum = 0;
    largest = block_max(largest);
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) sum += expf(row[i] - largest);
    sum = block_sum(sum);
    if (threadIdx.x == 0) probabilities[blockIdx.x] = 1.0f / sum;
}
