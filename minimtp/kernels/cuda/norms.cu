// RMS normalization and its gradients. One block per row, so a row's bits do not depend on the number of rows.
#include "common.cuh"

// x (N, D), weight (D,) -> y (N, D), inverse_rms (N,). Grid (N,).
extern "C" __global__ void rms_norm(const float* x, const float* weight, float epsilon, int width, float* y, float* inverse_rms) {
    long long start = (long long)blockIdx.x * width;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares = __fmaf_rn(x[start + i], x[start + i], squares);
    float inverse = 1.0f / sqrtf(block_sum(squares) / width + epsilon);
    for (int i = threadIdx.x; i < width; i += blockDim.x) y[start + i] = x[start + i] * inverse * weight[i];
    if (threadIdx.x == 0) inverse_rms[blockIdx.x] = inverse;
}

// grad, x (N, D), weight (D,), inverse_rms (N,) -> dx (N, D). Grid (N,).
extern "C" __global__ void rms_norm_backward_x(const float* grad, const float* x, const float* weight, const float* inverse_rms,
                                               int width, float* dx) {
    long long start = (long long)blockIdx.x * width;
    float inverse = inverse_rms[blockIdx.x], along = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        along += grad[start + i] * weight[i] * (x[start + i] * inverse);
    along = block_sum(along) / width;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
        dx[start + i] = (grad[start + i] * weight[i] - x[start + i] * inverse * along) * inverse;
}

// The weight's gradient, summed over one share of the rows -> partial (shares, D). The caller adds the shares.
// Grid (D / 32, shares), block (256,): 32 columns, 8 rows at a time.
extern "C" __global__ void rms_norm_backward_weight(const float* grad, const float* x, const float* inverse_rms, int rows,
                                                    int width, int rows_per_share, float* partial) {
    __shared__ float sums[8][WARP];
    int column = blockIdx.x * WARP + lane();
    int first = blockIdx.y * rows_per_share, last = min(rows, first + rows_per_share);
    float sum = 0;
    if (column < width)
        for (int row = first + warp(); row < last; row += 8) {
            long long at = (long long)row * width + column;
            sum += grad[at] * (x[at] * inverse_rms[row]);
        }
    sums[warp()][lane()] = sum;
    __syncthreads();
    if (warp() == 0 && column < width) {
        for (int i = 1; i < 8; i++) sum += sums[i][lane()];
        partial[(long long)blockIdx.y * width + column] = sum;
    }
}
