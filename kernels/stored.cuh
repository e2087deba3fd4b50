// Activations and their gradients as stored between kernels: in the element type T of a run, float or bf16. Arithmetic
// is always in single precision; a value is rounded once, to nearest even, when it is stored.
//
// Rows lie `stride` values apart. For bf16 the stride is a multiple of 8 (16 bytes, the unit of asynchronous copies);
// for float it is the number of columns. The values between the columns and the stride are padding and may hold
// anything. Elementwise kernels neither read nor write the padding. Matrix products load zeros in its place and discard
// the results there.
#pragma once

#include "common.cuh"
#include "tensor_core.cuh"

// The upper half of a float's bits.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(bf16 value) { return low_bf16(value.bits); }

template <class T> __device__ __forceinline__ T narrow(float value);
template <> __device__ __forceinline__ float narrow<float>(float value) { return value; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float value) {
    return {static_cast<unsigned short>(pack_bf16(value, 0.0f))};
}

// Value that is read back after `value` was stored.
template <class T> __device__ __forceinline__ float rounded(float value) { return widen(narrow<T>(value)); }

// ---- rows ----------------------------------------------------------------------------------------------------------

// Product of 32 bits by 32 bits with 64. The compiler widens a stride ahead of a loop and then multiplies 64 bits by 64,
// which takes four instructions for this one.
__device__ __forceinline__ long long wide_product(int a, int b) {
#ifdef __CUDACC__
    long long product;
    asm("mul.wide.s32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
    return product;
#else
    return (long long)(a) * b;
#endif
}

// Start of a row of a matrix whose rows lie `stride` values apart.
template <class T> __device__ __forceinline__ const T *row_of(const T *matrix, int row, int stride) {
    const char *bytes = reinterpret_cast<const char *>(matrix);
    return reinterpret_cast<const T *>(bytes + wide_product(row, stride * int(sizeof(T))));
}
template <class T> __device__ __forceinline__ T *row_of(T *matrix, int row, int stride) {
    return const_cast<T *>(row_of(const_cast<const T *>(matrix), row, stride));
}

// ---- four columns at a time ---------------------------------------------------------------------------------------

// A thread handles four adjacent columns. It uses one access of 8 or 16 bytes if the address is aligned to that size.
// Otherwise, and at the end of the row, it accesses single values. Values beyond the end are 0.
constexpr int COLUMNS_EACH = 4;

struct Four {
    float of[COLUMNS_EACH];
    __device__ __forceinline__ float &operator[](int i) { return of[i]; }
    __device__ __forceinline__ float operator[](int i) const { return of[i]; }
};

// Four adjacent values as loaded. A kernel that reads several rows loads all of them before it widens the first: their
// latencies then overlap.
template <class T> struct PackedFour;
template <> struct PackedFour<float> {
    float4 all;
    __device__ __forceinline__ Four widen() const { return {{all.x, all.y, all.z, all.w}}; }
};
template <> struct PackedFour<bf16> {
    uint2 all;
    __device__ __forceinline__ Four widen() const {
        return {{low_bf16(all.x), high_bf16(all.x), low_bf16(all.y), high_bf16(all.y)}};
    }
};

__device__ __forceinline__ PackedFour<float> pack_four(const float (&of)[COLUMNS_EACH]) {
    return {make_float4(of[0], of[1], of[2], of[3])};
}
__device__ __forceinline__ PackedFour<bf16> pack_four(const bf16 (&of)[COLUMNS_EACH]) {
    return {make_uint2(of[0].bits | unsigned(of[1].bits) << 16, of[2].bits | unsigned(of[3].bits) << 16)};
}
__device__ __forceinline__ PackedFour<float> load_aligned(const float *from) {
    return {*reinterpret_cast<const float4 *>(from)};
}
__device__ __forceinline__ PackedFour<bf16> load_aligned(const bf16 *from) {
    return {*reinterpret_cast<const uint2 *>(from)};
}
__device__ __forceinline__ void store_aligned(float *to, const Four &all) {
    *reinterpret_cast<float4 *>(to) = make_float4(all[0], all[1], all[2], all[3]);
}
__device__ __forceinline__ void store_aligned(bf16 *to, const Four &all) {
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack_bf16(all[0], all[1]), pack_bf16(all[2], all[3]));
}

template <class T> __device__ __forceinline__ bool is_aligned(const T *at) {
    return reinterpret_cast<size_t>(at) % (COLUMNS_EACH * sizeof(T)) == 0;
}

// Four columns of the rows of a matrix, all of which exist: one access reads them.
template <class T> struct WholeColumns {
    static constexpr bool whole = true;
    static constexpr int accesses = 1; // at most, for the columns of a row
    const T *first_row; // at the first of the columns
    int stride;

    // `shift` columns further on; the same alignment is assumed there.
    __device__ __forceinline__ PackedFour<T> load(int row, int shift = 0) const {
        return load_aligned(row_of(first_row, row, stride) + shift);
    }
};

// Four columns of the rows of a matrix. Whether one access reads them is decided once for all rows.
template <class T> struct FourColumns {
    static constexpr int accesses = COLUMNS_EACH;
    const T *first_row; // at the first of the columns
    int stride, count;  // number of columns that exist
    bool whole;

    // `shift` columns further on; the same alignment is assumed there.
    __device__ __forceinline__ PackedFour<T> load(int row, int shift = 0) const {
        return load_from(row_of(first_row, row, stride) + shift);
    }
    __device__ __forceinline__ PackedFour<T> load_from(const T *from) const {
        if (whole) {
            return load_aligned(from);
        }
        T all[COLUMNS_EACH] = {};
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            if (i < count) {
                all[i] = from[i];
            }
        }
        return pack_four(all);
    }
};

// Four columns, starting at `column`, of a matrix with `columns` columns.
template <class T>
__device__ __forceinline__ FourColumns<T> four_columns(const T *matrix, int stride, int column, int columns) {
    const T *first = matrix + column;
    bool whole = column + COLUMNS_EACH <= columns && is_aligned(first) && stride % COLUMNS_EACH == 0;
    return {first, stride, columns - column, whole};
}

// Calls use(columns) with WholeColumns if one access reads four columns, else with FourColumns. In WholeColumns no branch
// lies between the loads of several rows.
template <class T, class Use> __device__ __forceinline__ void for_columns(const FourColumns<T> &of, const Use &use) {
    if (of.whole) {
        use(WholeColumns<T>{of.first_row, of.stride});
    } else {
        use(of);
    }
}

// The same for two matrices.
template <class T, class Use>
__device__ __forceinline__ void for_columns(const FourColumns<T> &a, const FourColumns<T> &b, const Use &use) {
    if (a.whole && b.whole) {
        use(WholeColumns<T>{a.first_row, a.stride}, WholeColumns<T>{b.first_row, b.stride});
    } else {
        use(FourColumns<T>{a.first_row, a.stride, a.count, false},
            FourColumns<T>{b.first_row, b.stride, b.count, false});
    }
}

// Loads four columns, starting at `column`, of a row with `columns` values.
template <class T> __device__ __forceinline__ Four load_four(const T *row, int column, int columns) {
    return four_columns(row, 0, column, columns).load_from(row + column).widen();
}

// Stores four columns, starting at `column`, of a row with `columns` values. `whole`: one access stores them.
template <class T>
__device__ __forceinline__ void store_four(T *row, int column, int columns, const Four &all, bool whole) {
    T *to = row + column;
    if (whole) {
        store_aligned(to, all);
        return;
    }
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        if (column + i < columns) {
            to[i] = narrow<T>(all[i]);
        }
    }
}

template <class T> __device__ __forceinline__ void store_four(T *row, int column, int columns, const Four &all) {
    store_four(row, column, columns, all, column + COLUMNS_EACH <= columns && is_aligned(row + column));
}

__device__ __forceinline__ void add_four(Four &sum, const Four &value) {
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        sum[i] += value[i];
    }
}

// Four values that are read back after `values` were stored.
template <class T> __device__ __forceinline__ Four rounded_four(Four values) {
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        values[i] = rounded<T>(values[i]);
    }
    return values;
}

// ---- columns in 4 bytes ---------------------------------------------------------------------------------------------

// Adjacent columns of a row that fill 4 bytes: one float, or two bf16.
template <class T> struct Adjacent;
template <> struct Adjacent<float> {
    static constexpr int count = 1;
    float all;
    __device__ __forceinline__ float operator[](int) const { return all; }
};
template <> struct Adjacent<bf16> {
    static constexpr int count = 2;
    unsigned all;
    __device__ __forceinline__ float operator[](int i) const { return i == 0 ? low_bf16(all) : high_bf16(all); }
};

__device__ __forceinline__ Adjacent<float> load_adjacent(const float *from, bool, bool) { return {*from}; }
__device__ __forceinline__ Adjacent<bf16> load_adjacent(const bf16 *from, bool whole, bool both) {
    if (whole) {
        return {*reinterpret_cast<const unsigned *>(from)};
    }
    return {from[0].bits | unsigned(both ? from[1].bits : 0) << 16};
}

// Adjacent columns of the rows of a matrix. Whether one access reads them is decided once for all rows.
template <class T> struct AdjacentColumns {
    using Row = Adjacent<T>;
    const T *first_row; // at the first of the columns
    int stride;
    bool whole, both; // one access reads them; the second column exists

    __device__ __forceinline__ Adjacent<T> load(int row) const {
        return load_adjacent(first_row + size_t(row) * stride, whole, both);
    }
};

// The columns from `column` on, which exists, of a matrix with `columns` columns.
template <class T>
__device__ __forceinline__ AdjacentColumns<T> adjacent_columns(const T *matrix, int stride, int column, int columns) {
    constexpr int count = Adjacent<T>::count;
    const T *first = matrix + column;
    bool both = column + count <= columns;
    return {first, stride, both && reinterpret_cast<size_t>(first) % 4 == 0 && stride % count == 0, both};
}

// ---- batch norm by column -------------------------------------------------------------------------------------------

// Batch norm of all columns; norm(z) is 0 beyond the end.
struct NormRows {
    const float *scale, *shift;

    __device__ __forceinline__ NormColumn column(int index) const { return {scale[index], shift[index]}; }
    __device__ __forceinline__ NormRows from(int column) const { return {scale + column, shift + column}; }
};

struct NormFour {
    Four scale, shift;
    __device__ __forceinline__ NormColumn operator[](int i) const { return {scale[i], shift[i]}; }
};

__device__ __forceinline__ NormFour load_norm(const NormRows &norm, int column, int columns) {
    return {load_four(norm.scale, column, columns), load_four(norm.shift, column, columns)};
}

// relu(norm(z)) of four columns.
__device__ __forceinline__ Four relu_norm(const NormFour &norm, Four z) {
#pragma unroll
    for (int i = 0; i < COLUMNS_EACH; i++) {
        z[i] = relu_norm(norm[i], z[i]);
    }
    return z;
}

// Backward of batch norm for all columns.
struct NormBackwardRows {
    NormRows norm;
    const float *constant, *slope;

    __device__ __forceinline__ NormBackwardRows from(int column) const {
        return {norm.from(column), constant + column, slope + column};
    }
    __device__ __forceinline__ NormTerms terms(int column) const { return {constant[column], slope[column]}; }
};

// `terms` [2, C] holds the constants, then the slopes.
__device__ __forceinline__ NormBackwardRows norm_backward_rows(const NormRows &norm, const float *terms, int columns) {
    return {norm, terms, terms + columns};
}

struct NormBackwardFour {
    NormFour norm;
    Four constant, slope;

    // d_z from d and z; 0 beyond the end, where d is 0.
    __device__ __forceinline__ Four operator()(Four d, const Four &z) const {
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            d[i] = norm_backward_value(norm[i], {constant[i], slope[i]}, d[i], z[i]);
        }
        return d;
    }
};

__device__ __forceinline__ NormBackwardFour load_norm_backward(const NormBackwardRows &of, int column, int columns) {
    return {load_norm(of.norm, column, columns), load_four(of.constant, column, columns),
            load_four(of.slope, column, columns)};
}

// ---- kernels for both element types -------------------------------------------------------------------------------

// Defines the kernels name_f32 and name_bf16 from a function template `name(const Args<T> &)`, which calls begin_kernel.
// The remaining arguments are those of __launch_bounds__.
#define STORED_KERNEL(name, Args, ...)                                                                                \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_f32(const __grid_constant__ Args<float> args) {  \
        name(args);                                                                                                   \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) name##_bf16(const __grid_constant__ Args<bf16> args) {  \
        name(args);                                                                                                   \
    }
// Table entries of both kernels for the emulator, with the same arguments of __launch_bounds__.
#define EMULATED_STORED_KERNEL(name, ...)                                                                             \
    EMULATED_KERNEL(name##_f32, __VA_ARGS__), EMULATED_KERNEL(name##_bf16, __VA_ARGS__)
