// The masked softmax of training, and attention of a few new tokens over the cache.
#include "common.cuh"

// scores (M, L, S), in place: row i of L sees columns 0 .. S-L+i, zero to the right. One warp per row: grid (rows / 4,), block (128,).
extern "C" __global__ void causal_softmax(float* scores, long long rows, int length, int columns, float scale) {
    long long row = (long long)blockIdx.x * (blockDim.x / WARP) + warp();
    if (row >= rows) return;
    float* at = scores + row * columns;
    int visible = columns - length + row % length + 1;
    float largest = -INFINITE, sum = 0;
    for (int i = lane(); i < visible; i += WARP) largest = fmaxf(largest, at[i] * scale);
    largest = warp_max(largest);
    for (int i = lane(); i < visible; i += WARP) sum += at[i] = expf(at[i] * scale - largest);
    sum = warp_sum(sum);
    for (int i = lane(); i < columns; i += WARP) at[i] = i < visible ? at[i] / sum : 0.0f;
}

// grad (M, L, S), in place, and the probabilities -> the gradient of the scores. One warp per row, as above.
extern "C" __global__ void causal_softmax_backward(float* grad, const float* probabilities, long long rows, int length, int columns,
                                                   float scale) {
    long long row = (long long)blockIdx.x * (blockDim.x / WARP) + warp();
    if (row >= rows) return;
    float* at = grad + row * columns;
    const float* p = probabilities + row * columns;
    int visible = columns - length + row % length + 1;
    float along = 0;
    for (int i = lane(); i < visible; i += WARP) along += at[i] * p[i];
    along = warp_sum(along);
    for (int i = lane(); i < columns; i += WARP) at[i] = i < visible ? (at[i] - along) * p[i] * scale : 0.0f;
}

// Attention over the cache in two steps. The cache is cut into stretches of CHUNK positions, always at the same positions, so a
// token's bits depend on its position only, not on other tokens. Each stretch computes the weighted sum of its values, its
// largest score, and the sum of its exponentials:
//
//     partial (T, H, stretches, C + 2) = values' sum, largest, sum
//
// q (T, H, C), keys (G, N, C, 32), values (S, G, C); token t has position `start` (plus *start_at) + t and sees the positions up to its own. Grid (stretches, H, T), block (CHUNK,); C at most 512.
constexpr int CHUNK = 128, WIDEST = 512;

extern "C" __global__ void cached_attention_partial(const float* q, const float* keys, const float* values, int heads, int groups,
                                                    int channels, int panels, int start, const int* start_at, float scale,
                                                    float* partial) {
    __shared__ float query[WIDEST], weights[CHUNK], sums[CHUNK];
    int head = blockIdx.y, token = blockIdx.z, group = head / (heads / groups), me = threadIdx.x;
    int first = blockIdx.x * CHUNK, seen = start + (start_at ? *start_at : 0) + token + 1;
    if (first >= seen) return;
    int count = min(CHUNK, seen - first);
    for (int c = me; c < channels; c += CHUNK) query[c] = q[((long long)token * heads + head) * channels + c];
    __syncthreads();
    float score = -INFINITE;
    if (me < count) {  // one thread per key, so neighbouring threads read neighbouring keys
        int position = first + me;
        const float* key = keys + ((long long)group * panels + position / KEY_PANEL) * channels * KEY_PANEL + position % KEY_PANEL;
        float product = 0;
        for (int c = 0; c < channels; c++) product = __fmaf_rn(query[c], key[c * KEY_PANEL], product);
        score = __fmul_rn(product, scale);
    }
    float largest = block_max(score), weight = me < count ? expf(__fsub_rn(score, largest)) : 0.0f;
    float sum = block_sum(weight);
    weights[me] = weight;
    __syncthreads();
    float* to = partial + (((long long)token * heads + head) * gridDim.x + blockIdx.x) * (channels + 2);
    int parts = max(1, CHUNK / channels);  // threads that share a channel
    for (int channel = parts > 1 ? me % channels : me; channel < channels; channel += CHUNK) {
        float total = 0;
        int part = parts > 1 ? me / channels : 0;
        if (part < parts)
            for (int i = part; i < count; i += parts)
                total = __fmaf_rn(weights[i], values[((long long)(first + i) * groups + group) * channels + channel], total);
        if (parts == 1) to[channel] = total;
        sums[me] = total;
    }
    __syncthreads();
    if (parts > 1 && me < channels) {
        float total = sums[me];
        for (int p = 1; p < parts; p++) total += sums[p * channels + me];
        to[me] = total;
    }
    if (me == 0) {
        to[channels] = largest;
        to[channels + 1] = sum;
    }
}

// Combine the stretches -> y (T, H, C). Grid (H, T), block (channels, rounded up to warps,).
extern "C" __global__ void cached_attention_join(const float* partial, int heads, int channels, int stretches, int start,
                                                 const int* start_at, float* y) {
    int head = blockIdx.x, token = blockIdx.y;
    int used = (start + (start_at ? *start_at : 0) + token) / CHUNK + 1;
    const float* from = partial + ((long long)token * heads + head) * stretches * (channels + 2);
    float largest = -INFINITE, sum = 0, total = 0;
    for (int i = 0; i < used; i++) largest = fmaxf(largest, from[(long long)i * (channels + 2) + channels]);
    int channel = threadIdx.x;
    if (channel >= channels) return;
    for (int i = 0; i < used; i++) {
        const float* at = from + (long long)i * (channels + 2);
        float weight = expf(__fsub_rn(at[channels], largest));
        sum = __fmaf_rn(weight, at[channels + 1], sum);
        total = __fmaf_rn(weight, at[channel], total);
    }
    y[((long long)token * heads + head) * channels + channel] = total / sum;
}
