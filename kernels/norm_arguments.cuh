// norm_arguments: batch norm's parts of the kernels' argument structs, as in
// src/backend/cuda/launchers/norm_arguments.rs.
#pragma once

#include "column_sums.cuh"
#include "stored.cuh"

// Normalisation of C columns: [C] each.
struct NormArguments {
    const float *mean, *rstd, *weight, *bias;

    __device__ __forceinline__ NormRows rows() const { return {mean, rstd, weight, bias}; }
};

// Statistics over the rows of a batch, and the memory for their sums; all null if no statistics are wanted.
struct StatisticsArguments {
    float *partials; // [chunks, 2, C]
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]: zeros before and after each launch
    float *mean, *rstd;                // [C], overwritten
    float *running_mean, *running_var; // [C], updated in place

    __device__ __forceinline__ ColumnMemory memory() const { return {partials, groups, tickets}; }
    __device__ __forceinline__ StatisticsMerge merge() const { return {mean, rstd, running_mean, running_var}; }
};

// Sums over rows in the backward of relu(norm(z)), and their memory; all null if no sums are wanted.
struct NormGradientArguments {
    float *partials; // [chunks, 2, C]
    double *groups;  // [groups, 2, C]
    int *tickets;    // [groups + 1, strips]: zeros before and after each launch
    float *d_weight, *d_bias; // [C] gradients with respect to the norm's weight and bias, overwritten
    float *terms;             // [2, C] terms that NormBackwardArguments reads, overwritten
    int batch_statistics;     // 1: mean and rstd depend on z; 0: they are constants
    int reserved;

    __device__ __forceinline__ ColumnMemory memory() const { return {partials, groups, tickets}; }
    __device__ __forceinline__ BackwardMerge merge(const NormArguments &norm) const {
        return {d_weight, d_bias, terms, norm.rstd, norm.weight, batch_statistics};
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
