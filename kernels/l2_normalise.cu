// l2_normalise: rows x = y / max(|y|, eps) of y = relu(norm(z)), computed where z is read.
// backward: d_y = (d_x - x (x . d_x)) / |y|, and d_x / eps where |y| < eps
// in   z [R, C]; mean, rstd, weight, bias [C]; backward: d_x [R, C], and x as forward left it
// out  x [R, C]; d_y [R, C], before the ReLU and batch norm
// grid one block of 128 threads per row, R of them in device memory (common.cuh); sums by warp, then over warps, in a fixed order: bit-reproducible
// cost forward reads 4 R C (again from the cache) and writes 4 R C bytes; backward 12 and 4

#include "common.cuh"

constexpr int THREADS = 128;

extern "C" __global__ void __launch_bounds__(THREADS)
l2_normalise_forward(float *__restrict__ x, const float *__restrict__ z, const float *__restrict__ mean,
                     const float *__restrict__ rstd, const float *__restrict__ weight,
                     const float *__restrict__ bias, const int *__restrict__ row_count, int columns) {
    __shared__ float partial[THREADS / WARP_LANES];
    if (int(blockIdx.x) >= *row_count) {
        return;
    }
    const float *from = z + size_t(blockIdx.x) * columns;
    float *to = x + size_t(blockIdx.x) * columns;
    float squares = 0.0f;
    for (int c = threadIdx.x; c < columns; c += THREADS) {
        float y = relu_norm(norm_column(mean, rstd, weight, bias, c), from[c]);
        to[c] = y; // read back by the same thread
        squares += y * y;
    }
    float norm = sqrtf(block_sum(squares, partial));
    float divisor = norm < L2_EPSILON ? L2_EPSILON : norm;
    for (int c = threadIdx.x; c < columns; c += THREADS) {
        to[c] /= divisor;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
l2_normalise_backward(float *__restrict__ d_y, const float *__restrict__ d_x, const float *__restrict__ x,
                      const float *__restrict__ z, const float *__restrict__ mean, const float *__restrict__ rstd,
                      const float *__restrict__ weight, const float *__restrict__ bias,
                      const int *__restrict__ row_count, int columns) {
    __shared__ float partial[THREADS / WARP_LANES];
    if (int(blockIdx.x) >= *row_count) {
        return;
    }
    size_t row = size_t(blockIdx.x) * columns;
    float squares = 0.0f, dot = 0.0f;
    for (int c = threadIdx.x; c < columns; c += THREADS) {
        // y only for its length: the state is y / |y|.
        float y = relu_norm(norm_column(mean, rstd, weight, bias, c), z[row + c]);
        squares += y * y;
        dot += x[row + c] * d_x[row + c];
    }
    float norm = sqrtf(block_sum(squares, partial));
    float along = block_sum(dot, partial);
    bool clamped = norm < L2_EPSILON;
    float divisor = clamped ? L2_EPSILON : norm;
    for (int c = threadIdx.x; c < columns; c += THREADS) {
        float across = d_x[row + c] - (clamped ? 0.0f : x[row + c] * along);
        d_y[row + c] = across / divisor;
    }
}

EMULATED_KERNELS(l2_normalise, EMULATED_KERNEL(l2_normalise_forward), EMULATED_KERNEL(l2_normalise_backward))
