// linear_arguments: argument structs of the linear kernels, as in src/backend/cuda/launchers/linear/arguments.rs.
// Letters: R rows, I inputs, O outputs of a layer.
#pragma once

#include "norm_arguments.cuh"

// Input matrix: rows of `columns` values, `stride` values apart.
template <class T> struct MatrixArguments {
    const T *values;
    int stride, columns;
};

// Output matrix: rows of `columns` values, `stride` values apart.
template <class T> struct MatrixMutArguments {
    T *values;
    int stride, columns;
};

// Weight [O, I]. It may consist of two parts of a wider matrix, one above the other: rows from `split` on lie `jump`
// values beyond their regular position.
template <class T> struct WeightArguments {
    const T *values;
    long long jump;
    int stride, split;
};

// Gradient of a weight [O, I], split like the weight, and the memory for its parts.
struct WeightGradientArguments {
    float *values; // overwritten
    float *parts;  // [parts, O, I]: sums over some of the rows; unused if there is one part
    int *tickets;  // [tiles]: zeros before and after each launch
    long long jump;
    int stride, split;
    int most_parts, has_large; // see row_parts in linear_block.cuh
};

// ---- forward ----------------------------------------------------------------------------------------------------

// y [R, O] = x [R, I] weight [O, I]^T
template <class T> struct ForwardArguments {
    MatrixMutArguments<T> y;
    MatrixArguments<T> x;
    WeightArguments<T> weight;
    const int *row_count; // [1]: R
};

// Values gathered by the edges, the rows of y: projected[subject, 0..O] + projected[object, O..2 O].
template <class T> struct GatherArguments {
    MatrixArguments<T> projected; // [n, 2 O]
    const int *subject, *object;  // [R] -> n
};

template <class T> struct LinearForward {
    ForwardArguments<T> product;
    StatisticsArguments statistics; // of y
};

template <class T> struct LinearForwardNorm {
    ForwardArguments<T> product; // the weight in one part
    NormArguments norm;          // of x
    StatisticsArguments statistics;
};

template <class T> struct LinearForwardUnit {
    ForwardArguments<T> product;
    NormArguments norm; // of x
    float *lengths;     // [R]: divisors of y, overwritten; null if y is not divided
};

template <class T> struct LinearForwardGather {
    ForwardArguments<T> product; // the weight in one part
    GatherArguments<T> gather;
    StatisticsArguments statistics;
};

template <class T> struct LinearForwardGatherNorm {
    ForwardArguments<T> product; // the weight in one part
    NormArguments norm;          // of x
    GatherArguments<T> gather;
    StatisticsArguments statistics;
};

template <class T> struct LinearForwardTwo {
    ForwardArguments<T> first, second; // same number of inputs, same strides of x and of weight
    int first_blocks;                  // number of tiles of the first product
    int reserved;
};

// ---- backward ---------------------------------------------------------------------------------------------------

// d_x [R, I] = d_y [R, O] weight [O, I] and d_weight [O, I] = d_y [R, O]^T x [R, I]
template <class T> struct BackwardArguments {
    MatrixMutArguments<T> d_x;
    WeightGradientArguments d_weight;
    MatrixArguments<T> d_y, x;
    WeightArguments<T> weight;
    const int *row_count; // [1]: R
};

template <class T> struct LinearBackward {
    BackwardArguments<T> product;
};

template <class T> struct LinearBackwardNorm {
    BackwardArguments<T> product; // both weights in one part
    NormArguments norm;           // of x
    NormGradientArguments d_norm;
};

template <class T> struct LinearBackwardUnit {
    BackwardArguments<T> product;
    NormArguments norm; // of x
    NormGradientArguments d_norm;
    const float *along; // [R]: multiple of u to subtract from d_x; null: none
};

template <class T> struct LinearBackwardStates {
    LinearBackwardUnit<T> nodes;
    LinearBackwardNorm<T> edges; // d_norm unused: the sums of the edges' norm are not needed
};
