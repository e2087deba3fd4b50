// norm_arguments: batch norm's parts of the kernels' argument structs, as in
// src/backend/cuda/launchers/norm_arguments.rs.
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

// Batch norm of C columns, norm(z) = scale z + shift: [C] each.
struct NormArguments {
    const float *scale, *shift;

    __device__ __forceinline__ NormRows rows() const { return {scale, shift}; }
};

// Statistics of C columns and the batch norm that follows from them: [C] each.
struct NormStatisticsArguments {
    float *mean, *rstd, *scale, *shift; // overwritten
    const float *weight, *bias;

    __device__ __forceinline__ NormStatistics to() const { return {mean, rstd, scale, shift}; }
};

// Statistics over the rows of a batch, and the memory for their sums; all null if no statistics are wanted.
struct StatisticsArguments {
    float *partials; // [chunks, 2, C]
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]: zeros before and after each launch
    NormStatisticsArguments norm;
    float *running_mean, *running_var; // [C], updated in place

    __device__ __forceinline__ ColumnMemory memory() const { return {partials, groups, tickets}; }
    __device__ __forceinline__ StatisticsMerge merge() const {
        return {norm.to(), norm.weight, norm.bias, running_mean, running_var};
    }
};

// Sums over rows in the backward of relu(norm(z)), and their memory; all null if no sums are wanted.
struct NormGradientArguments {
    float *partials; // [chunks, 2, C]
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]: zeros before and after each launch
    float *d_weight, *d_bias; // [C] gradients with respect to the norm's weight and bias, overwritten
    float *terms;             // [2, C] terms that NormBackwardArguments reads, overwritten
    const float *mean, *rstd; // [C] statistics of z
    int batch_statistics;     // 1: mean and rstd depend on z; 0: they are constants
    int reserved;

    __device__ __forceinline__ ColumnMemory memory() const { return {partials, groups, tickets}; }
    __device__ __forceinline__ BackwardMerge merge(const NormArguments &norm) const {
        return {d_weight, d_bias, terms, mean, rstd, norm.scale, batch_statistics};
    }
};

// Inputs needed to turn the gradient d with respect to relu(norm(z)) into the gradient with respect to z [R, C].
template <class T> struct NormBackwardArguments {
    const T *z; // [R, C], rows laid out like those of d
    NormArguments norm;
    const float *terms; // [2, C]: constants, then slopes

    __device__ __forceinline__ NormBackwardRows rows(int columns) const {
        return norm_backward_rows(norm.rows(), terms, columns);
    }
};
