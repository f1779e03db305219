// Softmax with cross-entropy, and the token table's gradient.
#include "common.cuh"

// logits (N, V), targets (N,), -1 is ignored -> losses (N,), log_sum_exp (N,). Grid (N,).
extern "C" __global__ void cross_entropy(const float* logits, const long long* targets, int vocabulary, float* losses,
                                         float* log_sum_exp) {
    const float* row = logits + (long long)blockIdx.x * vocabulary;
    float largest = -INFINITE, sum = 0;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) largest = fmaxf(largest, row[i]);
    largest = block_max(largest);
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) sum += expf(row[i] - largest);
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        float total = largest + logf(sum);
        long long target = targets[blockIdx.x];
        losses[blockIdx.x] = target >= 0 ? total - row[target] : 0.0f;
        log_sum_exp[blockIdx.x] = total;
    }
}

// (softmax - one-hot) * grad -> dlogits (N, V). Grid (N,).
extern "C" __global__ void cross_entropy_backward(const float* logits, const long long* targets, const float* log_sum_exp,
                                                  const float* grad, int vocabulary, float* dlogits) {
    long long start = (long long)blockIdx.x * vocabulary, target = targets[blockIdx.x];
    float weight = target >= 0 ? grad[blockIdx.x] : 0.0f, total = log_sum_exp[blockIdx.x];
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x)
        dlogits[start + i] = expf(logits[start + i] - total) * weight - (i == target ? weight : 0.0f);
}

// Add rows of grad (N, D) to the rows of out (V, D) that their tokens name, in a fixed order. order (N,): the rows sorted by
// token. starts (V + 1,): the first row of each token. Grid (V, D / 32), block (256,): 32 columns, 8 rows at a time.
extern "C" __global__ void embedding_backward(const float* grad, const long long* order, const long long* starts, int width,
                                              float* out) {
    __shared__ float sums[8][WARP];
    long long first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    if (first == last) return;
    int column = blockIdx.y * WARP + lane();
    float sum = 0;
    if (column < width)
        for (long long i = first + warp(); i < last; i += 8) sum += grad[order[i] * width + column];
    sums[warp()][lane()] = sum;
    __syncthreads();
    if (warp() == 0 && column < width) {
        for (int i = 1; i < 8; i++) sum += sums[i][lane()];
        out[(long long)blockIdx.x * width + column] += sum;
    }
}
