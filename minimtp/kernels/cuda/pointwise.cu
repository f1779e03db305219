// One thread per element: SwiGLU, the gated update, rotary positions, AdamW.
#include "common.cuh"

__device__ __forceinline__ long long element() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// gate_up (N, 2F), gate first -> y (N, F).
extern "C" __global__ void swiglu(const float* gate_up, long long size, int width, float* y) {
    long long i = element();
    if (i >= size) return;
    long long row = i / width, at = row * 2 * width + i % width;
    y[i] = gate_up[at] * sigmoid(gate_up[at]) * gate_up[at + width];
}

// grad (N, F), gate_up (N, 2F) -> dgate_up (N, 2F).
extern "C" __global__ void swiglu_backward(const float* grad, const float* gate_up, long long size, int width, float* dgate_up) {
    long long i = element();
    if (i >= size) return;
    long long row = i / width, at = row * 2 * width + i % width;
    float gate = gate_up[at], up = gate_up[at + width], s = sigmoid(gate), silu = gate * s;
    dgate_up[at] = grad[i] * up * (s + silu * (1 - s));
    dgate_up[at + width] = grad[i] * silu;
}

// state (N, D), gate_candidate (N, 2D), gate first -> y (N, D), which may be the state itself.
extern "C" __global__ void gated_update(const float* state, const float* gate_candidate, long long size, int width, float* y) {
    long long i = element();
    if (i >= size) return;
    long long row = i / width, at = row * 2 * width + i % width;
    y[i] = state[i] + sigmoid(gate_candidate[at]) * (gate_candidate[at + width] - state[i]);
}

// grad (N, D) -> dstate (N, D), dgate_candidate (N, 2D).
extern "C" __global__ void gated_update_backward(const float* grad, const float* state, const float* gate_candidate,
                                                 long long size, int width, float* dstate, float* dgate_candidate) {
    long long i = element();
    if (i >= size) return;
    long long row = i / width, at = row * 2 * width + i % width;
    float gate = sigmoid(gate_candidate[at]), dcandidate = grad[i] * gate;
    dstate[i] = grad[i] - dcandidate;
    dgate_candidate[at] = dcandidate * (1 - gate) * (gate_candidate[at + width] - state[i]);
    dgate_candidate[at + width] = dcandidate;
}

// x (B, T, H, C), cosine and sine (T, C/2) -> y (B, T, H, C). One thread rotates one pair.
extern "C" __global__ void rotate(const float* x, const float* cosine, const float* sine, long long pairs, int length, int heads,
                                  int channels, float* y) {
    long long i = element();
    if (i >= pairs) return;
    int half = channels / 2, angle = i / half / heads % length * half + i % half;
    float even = x[2 * i], odd = x[2 * i + 1], c = cosine[angle], s = sine[angle];
    y[2 * i] = even * c - odd * s;
    y[2 * i + 1] = even * s + odd * c;
}

// joined (T, H + 2G, C), the queries, keys and values of T new tokens -> queries (T, H, C), rotated; keys, rotated, and values
// are written to the cache, keys (G, N, C, 32) and values (S, G, C), from `start` plus what `start_at` points to, if anywhere.
// cosine, sine (T, C/2): of the new tokens' positions.
extern "C" __global__ void rotate_into_cache(const float* joined, const float* cosine, const float* sine, int tokens, int heads,
                                             int groups, int channels, int panels, int start, const int* start_at,
                                             float* queries, float* keys, float* values) {
    long long i = element();
    int half = channels / 2, all = heads + 2 * groups;
    if (i >= (long long)tokens * all * half) return;
    int pair = i % half, head = i / half % all, token = i / half / all;
    long long row = token + start + (start_at ? *start_at : 0);
    float even = joined[2 * i], odd = joined[2 * i + 1];
    if (head >= heads + groups) {
        float* to = values + (row * groups + head - heads - groups) * channels + 2 * pair;
        to[0] = even;
        to[1] = odd;
        return;
    }
    float c = cosine[token * half + pair], s = sine[token * half + pair];
    float first = __fsub_rn(__fmul_rn(even, c), __fmul_rn(odd, s)), second = __fadd_rn(__fmul_rn(even, s), __fmul_rn(odd, c));
    if (head < heads) {
        float* to = queries + ((long long)token * heads + head) * channels + 2 * pair;
        to[0] = first;
        to[1] = second;
    } else {
        long long panel = (long long)(head - heads) * panels + row / KEY_PANEL;
        float* to = keys + (panel * channels + 2 * pair) * KEY_PANEL + row % KEY_PANEL;
        to[0] = first;
        to[KEY_PANEL] = second;
    }
}

// AdamW on flat parameters, in place. `scale` points to the factor of the gradient (clipping), which the device computed.
extern "C" __global__ void adamw(float* parameters, const float* gradients, float* first, float* second, const float* decay_mask,
                                 long long size, float rate, float epsilon, float decay,
                                 float first_correction, float second_correction, float keep1, float keep2, const float* scale) {
    long long i = element();
    if (i >= size) return;
    float gradient = gradients[i] * *scale;
    float m = first[i] + keep1 * (gradient - first[i]);
    float v = second[i] + keep2 * (gradient * gradient - second[i]);
    first[i] = m;
    second[i] = v;
    float update = m * first_correction / (sqrtf(v * second_correction) + epsilon);
    parameters[i] -= rate * (update + parameters[i] * (decay_mask[i] * decay));
}
