// edge_hidden: what joins the parts of an edge's first product, split by operand, and the way back.
//   z[e] = e W_e^T + P[subject(e), 0..H] + P[object(e), H..2H],   P = x [W_s; W_o]^T
// (in layer 0; later the product of the edge states adds the other parts, linear_forward_gather in linear.cuh)
//   sums[n] = (sum of d_z over edges with subject n, sum over edges with object n)
// Rows n are nodes; in layer 0, where x and e are rows of the embedding tables, they are the types that occur, and
// e W_e^T is one row per predicate type.
// Where the sums are _through_norm, d_z is what batch norm's backward makes of d [E, H], the gradient by relu(norm(z)), as
// it is read: in the bits in which it would be stored.
// in   projected = P [n, 2H]; subject, object [E] -> n; edge_projected [u, H], edge_row [E] -> u;
//      offsets [n + 1], entries (2 e + role) or (e)
// out  z [E, H], sums [n, 2H] or [u, H], written
// All matrices are of T; rows of H are `stride` apart (stored.cuh), those of 2 H `ends_stride`.
// grid one block per row of the output, E, n or u of them in device memory (common.cuh), threads stride over H, four
//      columns each; sums in the order of `entries`: bit-reproducible
// cost reads 3 T E H and writes T E H bytes; sums read 2 T E H, or of d and z 4 T E H, and write 2 T n H bytes: bandwidth

#include "stored.cuh"

constexpr int THREADS = 128;

// Rows of H, and of 2 H.
struct Strides {
    int stride, ends_stride;
};

template <class T>
__device__ __forceinline__ void edge_hidden_lookup(T *__restrict__ z, const T *__restrict__ edge_projected,
                                                   const T *__restrict__ projected, const int *__restrict__ edge_row,
                                                   const int *__restrict__ subject, const int *__restrict__ object,
                                                   int edge_count, int hidden, Strides strides) {
    int edge = blockIdx.x;
    if (edge >= edge_count) {
        return;
    }
    const T *of_edge = edge_projected + size_t(edge_row[edge]) * strides.stride;
    const T *of_subject = projected + size_t(subject[edge]) * strides.ends_stride;
    const T *of_object = projected + size_t(object[edge]) * strides.ends_stride + hidden;
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        Four sum = load_four(of_edge, c, hidden);
        Four s = load_four(of_subject, c, hidden), o = load_four(of_object, c, hidden);
#pragma unroll
        for (int i = 0; i < COLUMNS_EACH; i++) {
            sum[i] += s[i] + o[i];
        }
        store_four(z + size_t(edge) * strides.stride, c, hidden, sum);
    }
}

// The rows of d_z, as `columns` gives them four columns at a time: in memory,
template <class T> struct Stored {
    const T *__restrict__ d_z;
    int stride;

    __device__ __forceinline__ auto columns(int c, int hidden) const {
        return [=, of = *this](int edge) { return load_four(of.d_z + size_t(edge) * of.stride, c, hidden); };
    }
};

// or made of d and z.
template <class T> struct ThroughNorm {
    const T *__restrict__ d, *__restrict__ z;
    int stride;
    NormBackwardRows norm;

    __device__ __forceinline__ auto columns(int c, int hidden) const {
        return [=, of = *this, backward = load_norm_backward(norm, c, hidden)](int edge) {
            size_t row = size_t(edge) * of.stride;
            Four d_z = backward(load_four(of.d + row, c, hidden), load_four(of.z + row, c, hidden));
#pragma unroll
            for (int i = 0; i < COLUMNS_EACH; i++) {
                d_z[i] = rounded<T>(d_z[i]);
            }
            return d_z;
        };
    }
};

// By node, or by object type.
template <class T, class Gradient>
__device__ __forceinline__ void edge_hidden_sum_ends(T *__restrict__ sums, const Gradient &d_z,
                                                     const int *__restrict__ offsets, const int *__restrict__ entries,
                                                     int row_count, int hidden, int ends_stride) {
    int n = blockIdx.x;
    if (n >= row_count) {
        return;
    }
    int first = offsets[n], end = offsets[n + 1];
    T *to = sums + size_t(n) * ends_stride;
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        auto row = d_z.columns(c, hidden);
        Four as_subject = {}, as_object = {};
        for (int i = first; i < end; i++) {
            int entry = entries[i];
            Four value = row(entry >> 1);
            // The role is the same for the whole block.
            if (entry & 1) {
                add_four(as_object, value);
            } else {
                add_four(as_subject, value);
            }
        }
        store_four(to, c, hidden, as_subject);
        store_four(to + hidden, c, hidden, as_object);
    }
}

// By predicate type.
template <class T>
__device__ __forceinline__ void edge_hidden_sum_edges(T *__restrict__ sums, const ThroughNorm<T> &d_z,
                                                      const int *__restrict__ offsets,
                                                      const int *__restrict__ entries, int row_count, int hidden) {
    int u = blockIdx.x;
    if (u >= row_count) {
        return;
    }
    int first = offsets[u], end = offsets[u + 1];
    for (int c = threadIdx.x * COLUMNS_EACH; c < hidden; c += THREADS * COLUMNS_EACH) {
        auto row = d_z.columns(c, hidden);
        Four sum = {};
        for (int i = first; i < end; i++) {
            add_four(sum, row(entries[i]));
        }
        store_four(sums + size_t(u) * d_z.stride, c, hidden, sum);
    }
}

#define THROUGH_NORM_PARAMETERS(T)                                                                                    \
    const T *__restrict__ d, const T *__restrict__ z, const float *__restrict__ mean, const float *__restrict__ rstd, \
        const float *__restrict__ weight, const float *__restrict__ bias, const float *__restrict__ terms
#define THROUGH_NORM(T) ThroughNorm<T>{d, z, stride, norm_backward_rows({mean, rstd, weight, bias}, terms, hidden)}

#define EDGE_HIDDEN_KERNELS(T, suffix)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_hidden_lookup_##suffix(                                \
        T *__restrict__ z, const T *__restrict__ edge_projected, const T *__restrict__ projected,                     \
        const int *__restrict__ edge_row, const int *__restrict__ subject, const int *__restrict__ object,            \
        const int *__restrict__ edge_count, int hidden, int stride, int ends_stride) {                                \
        begin_kernel();                                                                                               \
        edge_hidden_lookup(z, edge_projected, projected, edge_row, subject, object, *edge_count, hidden,              \
                           {stride, ends_stride});                                                                    \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_hidden_sum_ends_##suffix(                              \
        T *__restrict__ sums, const T *__restrict__ d_z, const int *__restrict__ offsets,                             \
        const int *__restrict__ entries, const int *__restrict__ row_count, int hidden, int stride,                   \
        int ends_stride) {                                                                                            \
        begin_kernel();                                                                                               \
        edge_hidden_sum_ends(sums, Stored<T>{d_z, stride}, offsets, entries, *row_count, hidden, ends_stride);        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_hidden_sum_ends_through_norm_##suffix(                 \
        T *__restrict__ sums, THROUGH_NORM_PARAMETERS(T), const int *__restrict__ offsets,                            \
        const int *__restrict__ entries, const int *__restrict__ row_count, int hidden, int stride,                   \
        int ends_stride) {                                                                                            \
        begin_kernel();                                                                                               \
        edge_hidden_sum_ends(sums, THROUGH_NORM(T), offsets, entries, *row_count, hidden, ends_stride);               \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) edge_hidden_sum_edges_through_norm_##suffix(                \
        T *__restrict__ sums, THROUGH_NORM_PARAMETERS(T), const int *__restrict__ offsets,                            \
        const int *__restrict__ entries, const int *__restrict__ row_count, int hidden, int stride) {                 \
        begin_kernel();                                                                                               \
        edge_hidden_sum_edges(sums, THROUGH_NORM(T), offsets, entries, *row_count, hidden);                           \
    }                                                                                                                 \

STORED_KERNELS(EDGE_HIDDEN_KERNELS)
EMULATED_KERNELS(edge_hidden, EMULATED_STORED_KERNEL(edge_hidden_lookup),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_ends),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_ends_through_norm),
                 EMULATED_STORED_KERNEL(edge_hidden_sum_edges_through_norm))
