// inner_products: a strip of the matrix of inner products between all pairs of rows, in double precision.
//   products[r, c] = <values[first_row + r], values[c]>
// in   values [n, D]
// out  products [R, n]
// grid one block per tile of 64 x 64, tiles of one row in sequence; sums in the order of the inner dimension:
//      bit-reproducible and symmetric (inner_products.cuh)
// cost reads 4 n D, writes 8 R n bytes; 2 R n D flops in double precision: arithmetic

#include "inner_products.cuh"

struct InnerProducts {
    double *products;
    const float *values;
    int first_row, strip_rows, rows, width; // R is strip_rows, n is rows, D is width
};

extern "C" __global__ void __launch_bounds__(InnerTile::THREADS)
inner_products(const __grid_constant__ InnerProducts args) {
    begin_kernel();
    __shared__ double memory[InnerTile::MEMORY];
    int rows = args.rows, strip_rows = args.strip_rows, first_row = args.first_row;
    int tiles = (rows + InnerTile::SIDE - 1) / InnerTile::SIDE;
    int row0 = blockIdx.x / tiles * InnerTile::SIDE, column0 = blockIdx.x % tiles * InnerTile::SIDE;
    auto left_row = [=](int at) { return row0 + at < strip_rows ? first_row + row0 + at : -1; };
    auto right_row = [=](int at) { return column0 + at < rows ? column0 + at : -1; };
    double product[InnerTile::EACH][InnerTile::EACH];
    InnerTile::multiply(product, memory, args.values, left_row, args.values, right_row, args.width);
#pragma unroll
    for (int i = 0; i < InnerTile::EACH; i++) {
#pragma unroll
        for (int j = 0; j < InnerTile::EACH; j++) {
            int row = row0 + InnerTile::row() + i, column = column0 + InnerTile::column() + InnerTile::APART * j;
            if (row < strip_rows && column < rows) {
                args.products[size_t(row) * rows + column] = product[i][j];
            }
        }
    }
}

EMULATED_KERNELS(inner_products, EMULATED_KERNEL(inner_products, InnerTile::THREADS))
