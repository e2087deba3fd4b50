// norm_arguments: batch norm's parts of kernels' argument structs, as src/backend/cuda/launchers/norm_arguments.rs has
// them.
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

// A normalisation of C columns, [C] each.
struct NormArguments {
    const float *mean, *rstd, *weight, *bias;

    __device__ __forceinline__ NormRows rows() const { return {mean, rstd, weight, bias}; }
};

// The statistics of a batch's rows and the memory of their sums; all null where no statistics are wanted.
struct StatisticsArguments {
    float *partials; // [chunks, 2, C]
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]: zeros before and after
    float *mean, *rstd;                // [C], written
    float *running_mean, *running_var; // [C], moved

    __device__ __forceinline__ ColumnMemory memory() const { return {partials, groups, tickets}; }
    __device__ __forceinline__ StatisticsMerge merge() const { return {mean, rstd, running_mean, running_var}; }
};

// What the backward of relu(norm(z)) sums over rows and the memory of these sums; all null where no sums are wanted.
struct NormGradientArguments {
    float *partials; // [chunks, 2, C]
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]: zeros before and after
    float *d_weight, *d_bias; // [C] gradients with respect to the norm's weight and bias, written
    float *terms;             // [2, C] what NormBackwardArguments reads, written
    int batch_statistics;     // 1: mean and rstd depend on z; 0: they are constants
    int reserved;

    __device__ __forceinline__ ColumnMemory memory() const { return {partials, groups, tickets}; }
    __device__ __forceinline__ BackwardMerge merge(const NormArguments &norm) const {
        return {d_weight, d_bias, terms, norm.rstd, norm.weight, batch_statistics};
    }
};

// What makes the gradient with respect to z [R, C] of the gradient d with respect to relu(norm(z)).
template <class T> struct NormBackwardArguments {
    const T *z; // rows lie as those of d do
    NormArguments norm;
    const float *terms; // [2, C]: the constants, and below them the slopes

    __device__ __forceinline__ NormBackwardRows rows(int columns) const {
        return norm_backward_rows(norm.rows(), terms, columns);
    }
};
