// l2_normalise: rows x = y / max(|y|, eps) of y = relu(norm(z)), computed where z is read.
// backward: d_y = (d_x - x (x . d_x)) / |y|, and d_x / eps where |y| < eps; x comes from z again, not from memory
// in   z [R, C]; mean, rstd, weight, bias [C]; backward: d_x [R, C]; all [R, C] of T, `stride` apart (stored.cuh)
// out  x [R, C]; d_y [R, C], before the ReLU and batch norm
// grid one block per row, R of them in device memory (common.cuh), threads stride over C, four columns each; sums by
//      warp, then over warps, in a fixed order: bit-reproducible
// cost forward reads T R C (again from the cache) and writes T R C bytes; backward 2 T R C (again from the cache) and
//      T R C

#include "stored.cuh"

constexpr int THREADS = 128;

// relu(norm(z)) of four columns of the row.
template <class T>
__device__ __forceinline__ Four activated(const T *z, const NormRows &norm, int column, int columns) {
    Four y = load_four(z, column, columns);
    NormFour norms = load_norm(norm, column, columns);
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        y[i] = relu_norm(norms[i], y[i]);
    }
    return y;
}

template <class T>
__device__ __forceinline__ void l2_normalise_forward(T *__restrict__ x, const T *__restrict__ z, NormRows norm,
                                                     int rows, int columns, int stride) {
    __shared__ float partial[THREADS / WARP_LANES];
    int row = blockIdx.x;
    if (row >= rows) {
        return;
    }
    const T *from = z + size_t(row) * stride;
    float squares = 0.0f;
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four y = activated(from, norm, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            squares += y[i] * y[i];
        }
    }
    float length = sqrtf(block_sum(squares, partial));
    float divisor = length < L2_EPSILON ? L2_EPSILON : length; // keeps NaN
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four y = activated(from, norm, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            y[i] /= divisor;
        }
        store_four(x + size_t(row) * stride, c, columns, y);
    }
}

template <class T>
__device__ __forceinline__ void l2_normalise_backward(T *__restrict__ d_y, const T *__restrict__ d_x,
                                                      const T *__restrict__ z, NormRows norm, int rows, int columns,
                                                      int stride) {
    __shared__ float partial[THREADS / WARP_LANES];
    int row = blockIdx.x;
    if (row >= rows) {
        return;
    }
    const T *of_x = d_x + size_t(row) * stride, *of_z = z + size_t(row) * stride;
    float squares = 0.0f, dot = 0.0f;
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four y = activated(of_z, norm, c, columns), d = load_four(of_x, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            squares += y[i] * y[i];
            dot += y[i] * d[i];
        }
    }
    float length = sqrtf(block_sum(squares, partial));
    bool clamped = length < L2_EPSILON;
    float divisor = clamped ? L2_EPSILON : length;
    float along = clamped ? 0.0f : block_sum(dot, partial) / divisor; // x . d_x; all threads take one way
    for (int c = threadIdx.x * COLUMNS_EACH; c < columns; c += THREADS * COLUMNS_EACH) {
        Four y = activated(of_z, norm, c, columns), d = load_four(of_x, c, columns);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            d[i] = (d[i] - y[i] / divisor * along) / divisor;
        }
        store_four(d_y + size_t(row) * stride, c, columns, d);
    }
}

#define L2_NORMALISE_KERNELS(T, suffix)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) l2_normalise_forward_##suffix(                              \
        T *__restrict__ x, const T *__restrict__ z, const float *__restrict__ mean, const float *__restrict__ rstd,   \
        const float *__restrict__ weight, const float *__restrict__ bias, const int *__restrict__ row_count,          \
        int columns, int stride) {                                                                                    \
        l2_normalise_forward(x, z, {mean, rstd, weight, bias}, *row_count, columns, stride);                          \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) l2_normalise_backward_##suffix(                             \
        T *__restrict__ d_y, const T *__restrict__ d_x, const T *__restrict__ z, const float *__restrict__ mean,      \
        const float *__restrict__ rstd, const float *__restrict__ weight, const float *__restrict__ bias,             \
        const int *__restrict__ row_count, int columns, int stride) {                                                 \
        l2_normalise_backward(d_y, d_x, z, {mean, rstd, weight, bias}, *row_count, columns, stride);                  \
    }

STORED_KERNELS(L2_NORMALISE_KERNELS)
EMULATED_KERNELS(l2_normalise, EMULATED_STORED_KERNEL(l2_normalise_forward),
                 EMULATED_STORED_KERNEL(l2_normalise_backward))
