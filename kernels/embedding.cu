// embedding: rows of the two tables by type, for the types that occur in a batch, and the way back.
//   forward: rows[u] = table[types[u]];   backward: d_table[types[u]] = d_rows[u], and 0 where no type occurs
// in   table [V, D] in single precision, or d_rows [U, D]; types [U], ascending, each once; of objects and of predicates
// out  rows [U, D], or d_table [V, D] in single precision, written whole
// rows and d_rows are of T, `stride` apart (stored.cuh)
// grid x one block per row, U of them in device memory (common.cuh), y the table; threads stride over D, four columns
//      each. Backward, a block writes the zeros up to the next row too, and the first one those before it
// cost copies of (4 + T) U D bytes; backward reads T U D and writes 4 V D

#include "stored.cuh"

constexpr int THREADS = 128;

// Of one table; given by value, for where one of two is chosen by its address both lie on the stack.
template <class To, class From> struct Rows {
    To *to;
    const From *from;
    const int *types;
    int count;
};

template <class T>
__device__ __forceinline__ void embedding_forward(Rows<T, float> rows, int width, int stride) {
    int row = blockIdx.x;
    if (row >= rows.count) {
        return;
    }
    const float *from = rows.from + size_t(rows.types[row]) * width;
    for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
        store_four(rows.to + size_t(row) * stride, c, width, load_four(from, c, width));
    }
}

template <class T>
__device__ __forceinline__ void embedding_backward(Rows<float, T> rows, int type_count, int width, int stride) {
    int row = blockIdx.x;
    if (row >= max(rows.count, 1)) { // without rows the first block writes all zeros
        return;
    }
    int occurs = row < rows.count ? rows.types[row] : -1;
    int first = row == 0 ? 0 : occurs, end = row + 1 < rows.count ? rows.types[row + 1] : type_count;
    for (int type = first; type < end; type++) {
        for (int c = threadIdx.x * COLUMNS_EACH; c < width; c += THREADS * COLUMNS_EACH) {
            Four d = {};
            if (type == occurs) {
                d = load_four(rows.from + size_t(row) * stride, c, width);
            }
            store_four(rows.to + size_t(type) * width, c, width, d);
        }
    }
}

#define EMBEDDING_KERNELS(T, suffix)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) embedding_forward_##suffix(                                 \
        T *objects, const float *object_table, const int *object_types,        \
        const int *object_count, T *predicates, const float *predicate_table,  \
        const int *predicate_types, const int *predicate_count, int width, int stride) {    \
        begin_kernel();                                                                                               \
        Rows<T, float> of_objects = {objects, object_table, object_types, *object_count};                             \
        Rows<T, float> of_predicates = {predicates, predicate_table, predicate_types, *predicate_count};              \
        embedding_forward(blockIdx.y == 0 ? of_objects : of_predicates, width, stride);                               \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) embedding_backward_##suffix(                                \
        float *d_object_table, const T *d_objects, const int *object_types,    \
        const int *object_count, int all_objects, float *d_predicate_table,                 \
        const T *d_predicates, const int *predicate_types,                                  \
        const int *predicate_count, int all_predicates, int width, int stride) {                         \
        begin_kernel();                                                                                               \
        Rows<float, T> of_objects = {d_object_table, d_objects, object_types, *object_count};                         \
        Rows<float, T> of_predicates = {d_predicate_table, d_predicates, predicate_types, *predicate_count};          \
        bool first = blockIdx.y == 0;                                                                                 \
        embedding_backward(first ? of_objects : of_predicates, first ? all_objects : all_predicates, width, stride);  \
    }

STORED_KERNELS(EMBEDDING_KERNELS)
EMULATED_KERNELS(embedding, EMULATED_STORED_KERNEL(embedding_forward), EMULATED_STORED_KERNEL(embedding_backward))
