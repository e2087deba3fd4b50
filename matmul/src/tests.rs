//! Products against plain loops in double precision.

use std::sync::Mutex;

use proptest::prelude::*;
use proptest::sample::select;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::task::Task;
use super::{Accumulate, Amx, BLOCK_DEPTH, BLOCK_ROWS, Element, MatMut, MatRef, Packed, PackedBf16, matmul};

/// A matrix that lies in a larger one, by rows or by columns, with NaN around it.
#[derive(Clone, Copy, Debug)]
struct Place {
    transposed: bool,
    rows_before: usize,
    columns_before: usize,
    columns_after: usize,
}

struct Operand<T> {
    values: Vec<T>,
    stride: usize,
    rows: usize,
    columns: usize,
    place: Place,
}

impl<T: Element + From<f32>> Operand<T> {
    fn new(rng: &mut StdRng, (rows, columns): (usize, usize), place: Place) -> Self {
        let (outer, inner) = if place.transposed { (columns, rows) } else { (rows, columns) };
        let stride = place.columns_before + inner + place.columns_after;
        let mut values = vec![T::from(f32::NAN); (place.rows_before + outer) * stride];
        for row in values[place.rows_before * stride..].chunks_exact_mut(stride.max(1)) {
            row[place.columns_before..][..inner].fill_with(|| T::from(rng.random_range(-1.0f32..1.0)));
        }
        Operand { values, stride, rows, columns, place }
    }

    fn view(&self) -> MatRef<'_, T> {
        let Place { transposed, rows_before, columns_before, .. } = self.place;
        let (outer, inner) = if transposed { (self.columns, self.rows) } else { (self.rows, self.columns) };
        let whole = MatRef::new(&self.values, rows_before + outer, self.stride);
        let view = whole
            .row_range(rows_before..rows_before + outer)
            .column_range(columns_before..columns_before + inner);
        if transposed { view.transpose() } else { view }
    }

    fn at(&self, row: usize, column: usize) -> T {
        let (outer, inner) = if self.place.transposed { (column, row) } else { (row, column) };
        self.values[(self.place.rows_before + outer) * self.stride + self.place.columns_before + inner]
    }
}

/// The formats of operands.
trait Format: Element + From<f32> + Into<f64> {
    /// `c = a b` or `c += a b`, by memory that held another operand.
    fn product(c: MatMut<'_, Self>, accumulate: Accumulate, a: MatRef<'_, Self>, b: MatRef<'_, Self>) {
        let mut memory = Packed::of(MatRef::new(&[Self::from(f32::NAN); 700], 35, 20));
        matmul(&mut memory, c, accumulate, a, b);
    }
}

impl Format for f32 {}
impl Format for f64 {}

fn agrees<T: Format>(sizes: (usize, usize, usize), places: [Place; 2], accumulate: Accumulate, epsilon: f64) {
    agrees_by(T::product, |value: T| value.into(), sizes, places, accumulate, epsilon);
}

/// Compares `product` with plain loops over what it reads of each value.
fn agrees_by<T: Format>(
    product: impl Fn(MatMut<'_, T>, Accumulate, MatRef<'_, T>, MatRef<'_, T>),
    read: impl Fn(T) -> f64,
    (rows, columns, depth): (usize, usize, usize),
    places: [Place; 2],
    accumulate: Accumulate,
    epsilon: f64,
) {
    let mut rng = StdRng::seed_from_u64((rows + 64 * columns + 4096 * depth) as u64);
    let a = Operand::<T>::new(&mut rng, (rows, depth), places[0]);
    let b = Operand::<T>::new(&mut rng, (depth, columns), places[1]);
    // Nothing beside the columns of c may be written.
    const BESIDE: usize = 3;
    let start = match accumulate {
        Accumulate::Replace => T::from(f32::NAN),
        Accumulate::Add => T::from(0.75),
    };
    let mut c = vec![start; rows * (columns + BESIDE)];
    let (to, _) = MatMut::new(&mut c, rows, columns + BESIDE).split_at_column(columns);
    product(to, accumulate, a.view(), b.view());
    for (row, values) in c.chunks_exact(columns + BESIDE).enumerate() {
        for (column, &value) in values[..columns].iter().enumerate() {
            let terms = (0..depth).map(|k| (a.at(row, k), b.at(k, column)));
            let terms = terms.map(|(a, b)| read(a) * read(b));
            let want = terms.sum::<f64>() + if accumulate == Accumulate::Add { 0.75 } else { 0.0 };
            // Each term is below 1 and each addition rounds a partial sum below depth + 1 once; the errors mostly cancel.
            let limit = epsilon * (depth as f64 + 1.0) * 4.0 * (depth as f64 + 1.0).sqrt().min(4.0);
            let got: f64 = value.into();
            assert!((got - want).abs() <= limit, "[{row}, {column}]: {got} where {want} is expected");
        }
        assert!(values[columns..].iter().all(|&beside| {
            let (beside, start): (f64, f64) = (beside.into(), start.into());
            beside.to_bits() == start.to_bits()
        }));
    }
}

fn place() -> impl Strategy<Value = Place> {
    (any::<bool>(), 0..3usize, 0..3usize, 0..3usize).prop_map(
        |(transposed, rows_before, columns_before, columns_after)| Place {
            transposed,
            rows_before,
            columns_before,
            columns_after,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn products_agree_with_plain_loops(
        rows in prop_oneof![0..60usize, select(vec![BLOCK_ROWS, BLOCK_ROWS + 1, 3 * BLOCK_ROWS - 1])],
        columns in 0..70usize,
        depth in prop_oneof![0..40usize, select(vec![BLOCK_DEPTH, BLOCK_DEPTH + 1, 2 * BLOCK_DEPTH + 5])],
        places in [place(), place()],
        add in any::<bool>(),
    ) {
        let accumulate = if add { Accumulate::Add } else { Accumulate::Replace };
        agrees::<f32>((rows, columns, depth), places, accumulate, f64::from(f32::EPSILON));
        agrees::<f64>((rows, columns, depth), places, accumulate, f64::EPSILON);
    }

    #[test]
    fn products_of_bf16_agree_with_plain_loops(
        rows in prop_oneof![0..70usize, select(vec![96, 129])],
        columns in 0..70usize,
        depth in prop_oneof![0..70usize, select(vec![1024, 1025, 2100])],
        places in [place(), place()],
        add in any::<bool>(),
    ) {
        let Some(amx) = Amx::new() else {
            println!("skipped: this processor, or this system, has no matrix instructions for bf16 (AMX)");
            return Ok(());
        };
        let accumulate = if add { Accumulate::Add } else { Accumulate::Replace };
        let product = |c: MatMut<'_, f32>, accumulate, a: MatRef<'_, f32>, b: MatRef<'_, f32>| {
            let mut memory = PackedBf16::new(amx);
            memory.pack(MatRef::new(&[f32::NAN; 70 * 70], 70, 70));
            memory.pack(b);
            memory.multiply_in_parallel(c, accumulate, a);
        };
        // Products of rounded values are exact in single precision, so only the sums round.
        agrees_by(product, rounded, (rows, columns, depth), places, accumulate, f64::from(f32::EPSILON));
    }
}

/// The nearest bf16, ties to even.
fn rounded(value: f32) -> f64 {
    let bits = value.to_bits();
    let kept = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    f32::from_bits(kept).into()
}

#[test]
fn bits_of_bf16_depend_neither_on_the_place_nor_on_the_threads() {
    let Some(amx) = Amx::new() else {
        println!("skipped: this processor, or this system, has no matrix instructions for bf16 (AMX)");
        return;
    };
    let (rows, columns, depth) = (259, 75, 1100);
    let mut rng = StdRng::seed_from_u64(2);
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (a, b) = (draw(rows * depth), draw(depth * columns));
    let (a, b) = (MatRef::new(&a, rows, depth), MatRef::new(&b, depth, columns));
    let product = |threads: usize, a: MatRef<'_, f32>, b: MatRef<'_, f32>| {
        let mut c = vec![f32::NAN; a.rows() * b.columns()];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut memory = PackedBf16::new(amx);
            memory.pack(b);
            let to = MatMut::new(&mut c, a.rows(), b.columns());
            memory.multiply_in_parallel(to, Accumulate::Replace, a);
        });
        c
    };
    let whole = product(1, a, b);
    assert_eq!(whole, product(3, a, b));
    for (row, first) in [(0, 0), (33, 5), (rows - 1, 70)] {
        let part = product(2, a.row_range(row..row + 1), b.column_range(first..columns));
        assert_eq!(part, whole[row * columns + first..(row + 1) * columns]);
    }
}

#[test]
fn bits_depend_neither_on_the_place_nor_on_the_threads() {
    let (rows, columns, depth) = (5 * BLOCK_ROWS + 7, 37, BLOCK_DEPTH + 19);
    let mut rng = StdRng::seed_from_u64(1);
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (a, b) = (draw(rows * depth), draw(depth * columns));
    let (a, b) = (MatRef::new(&a, rows, depth), MatRef::new(&b, depth, columns));
    let product = |threads: usize| {
        let mut c = vec![f32::NAN; rows * columns];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            Packed::of(b).multiply_in_parallel(MatMut::new(&mut c, rows, columns), Accumulate::Replace, a)
        });
        c
    };
    let whole = product(1);
    assert_eq!(whole, product(3));
    // One row and a part of the columns, wherever they lie.
    for (row, first) in [(0, 0), (11, 5), (rows - 1, 30)] {
        let mut part = vec![f32::NAN; columns - first];
        let to = MatMut::new(&mut part, 1, columns - first);
        Packed::of(b.column_range(first..columns)).multiply(
            to,
            Accumulate::Replace,
            a.row_range(row..row + 1),
        );
        assert_eq!(part, whole[row * columns + first..(row + 1) * columns]);
    }
}

/// The parts of a product are its rows in order, in whole tiles, none much larger than another, and as many for each thread.
#[test]
fn parts_are_equal() {
    const TILE: usize = 8;
    for threads in [2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for rows in [1, 8, 9, 100, 300, 1056, 1324] {
            let (mut product, left) = (vec![0.0f32; rows], vec![0.0f32; rows]);
            let task =
                Task { c: MatMut::new(&mut product, rows, 1), a: MatRef::new(&left, rows, 1), first_row: 0 };
            let parts = Mutex::new(Vec::new());
            pool.install(|| {
                task.in_parts(TILE, BLOCK_ROWS, &|Task { c, a, first_row }| {
                    assert_eq!(a.rows(), c.rows());
                    parts.lock().unwrap().push((first_row, c.rows()));
                });
            });
            let mut parts = parts.into_inner().unwrap();
            parts.sort_unstable();
            let ends = parts.iter().map(|(first, rows)| first + rows);
            assert!(ends.eq(parts[1..].iter().map(|part| part.0).chain([rows])), "{parts:?}");
            let tiles = parts.iter().map(|(_, rows)| rows.div_ceil(TILE));
            let (least, most) = (tiles.clone().min().unwrap(), tiles.max().unwrap());
            assert!(most <= least + 1 && most * TILE <= BLOCK_ROWS, "{parts:?}");
            assert!(parts.len() % threads == 0 || parts.len() == rows.div_ceil(TILE), "{parts:?}");
        }
    }
}
