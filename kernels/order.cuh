// order: numbers in double precision as integers of the same order, which compare and sort without their special cases.
#pragma once

#include "common.cuh"

typedef long long Key;

constexpr Key GREATEST_KEY = 0x7fffffffffffffff;

// Bits of positive numbers ascend with them, and those of negative ones descend until all but the sign are flipped.
// Flipping twice changes nothing.
__device__ __forceinline__ Key ordered(Key bits) { return bits < 0 ? bits ^ GREATEST_KEY : bits; }

// Ascends with the value; -0 and 0 are equal. NaN compares as above or below all numbers, by its sign, and as equal to the
// same NaN.
__device__ __forceinline__ Key key_of(double value) {
    double positive_zero = value + 0.0;
    Key bits;
    memcpy(&bits, &positive_zero, sizeof(bits));
    return ordered(bits);
}

// The value of a key; 0 of -0.
__device__ __forceinline__ double value_of(Key key) {
    Key bits = ordered(key);
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// A similarity is taken within 0..1; NaN stays NaN.
__device__ __forceinline__ double clamped(double similarity) {
    return similarity < 0.0 ? 0.0 : similarity > 1.0 ? 1.0 : similarity;
}
