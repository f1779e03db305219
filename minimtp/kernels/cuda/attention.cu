// The masked softmax of training, and attention of a few new tokens over the cache.
#include "common.cuh"

// scores (M, L, S), in place: row i of L sees columns 0 .. S-L+i, zero to the right. A warp a row: grid (rows / 4,), block (128,).
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

// grad (M, L, S), in place, and the probabilities -> the scores' gradient. A warp a row, as above.
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

// Attention over the cache in two steps. The cache is cut into stretches of CHUNK positions, always at the same places, so a
// token's bits depend on its position and not on its neighbours. Each stretch gives its largest score, the sum of its
// exponentials and the weighted sum of its values:
//
//     partial (T, H, stretches, C + 2) = values' sum, largest, sum
//
// q (T, H, C), keys and values (S, G, C); token t sits at `start` (plus *start_at) + t and sees the positions up to its own.
// Grid (stretches, H, T), block (256,); C at most 256.
constexpr int CHUNK = 128, THREADS = 256;

extern "C" __global__ void cached_attention_partial(const float* q, const float* keys, const float* values, int heads, int groups,
                                                    int channels, int start, const int* start_at, float scale, float* partial) {
    __shared__ float query[THREADS], weights[CHUNK], sums[THREADS];
    int head = blockIdx.y, token = blockIdx.z, group = head / (heads / groups);
    int first = blockIdx.x * CHUNK, seen = start + (start_at ? *start_at : 0) + token + 1;
    if (first >= seen) return;
    int count = min(CHUNK, seen - first);
    if (threadIdx.x < channels) query[threadIdx.x] = q[((long long)token * heads + head) * channels + threadIdx.x];
    if (threadIdx.x < CHUNK) weights[threadIdx.x] = -INFINITE;
    __syncthreads();
    for (int i = warp(); i < count; i += THREADS / WARP) {  // a warp a key
        const float* key = keys + ((long long)(first + i) * groups + group) * channels;
        float product = 0;
        for (int c = lane(); c < channels; c += WARP) product = __fmaf_rn(query[c], key[c], product);
        product = warp_sum(product);
        if (lane() == 0) weights[i] = __fmul_rn(product, scale);
    }
    __syncthreads();
    float score = threadIdx.x < CHUNK ? weights[threadIdx.x] : -INFINITE;
    float largest = block_max(score), weight = threadIdx.x < count ? expf(__fsub_rn(score, largest)) : 0.0f;
    float sum = block_sum(weight);
    if (threadIdx.x < CHUNK) weights[threadIdx.x] = weight;
    __syncthreads();
    int parts = THREADS / channels, channel = threadIdx.x % channels, part = threadIdx.x / channels;
    float total = 0;
    if (part < parts)
        for (int i = part; i < count; i += parts)
            total = __fmaf_rn(weights[i], values[((long long)(first + i) * groups + group) * channels + channel], total);
    sums[threadIdx.x] = total;
    __syncthreads();
    float* to = partial + (((long long)token * heads + head) * gridDim.x + blockIdx.x) * (channels + 2);
    if (threadIdx.x < channels) {
        for (int p = 1; p < parts; p++) total += sums[p * channels + channel];
        to[channel] = total;
    }
    if (threadIdx.x == 0) {
        to[channels] = largest;
        to[channels + 1] = sum;
    }
}

// The stretches put together -> y (T, H, C). Grid (H, T), block (channels, rounded up to warps,).
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
