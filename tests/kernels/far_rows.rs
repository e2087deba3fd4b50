//! Rows so far apart that positions pass 2^31 and 2^32 values: each kernel writes what it writes for rows side by side.
//!
//! The kernels take the distance of rows as an argument. Memory is mapped without being allocated: the system provides a page
//! when it is first touched, so a matrix of 16 GiB takes one or two pages a row.

use std::collections::BTreeMap;

use crate::support::cases::no_device;
use memmap2::{MmapMut, MmapOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::cuda::device::emulator::launch_on_addresses;
use scenerank::backend::cuda::device::kernel::{ArgumentsLayout, FieldKind, KernelInfo};
use scenerank::backend::cuda::launchers::FILES;

/// Number of edges and of nodes: the last rows begin beyond 2^32 values.
const ROWS: usize = 2_112;
/// Distance of rows.
const FAR: usize = (1 << 21) + 4;
const HIDDEN: usize = 36;

/// A matrix whose rows lie any distance apart.
struct Matrix {
    map: MmapMut,
    stride: usize,
    columns: usize,
}

impl Matrix {
    /// Rows of these values, or of NaN.
    fn new(stride: usize, columns: usize, values: Option<&[f32]>) -> Self {
        let bytes = ROWS * stride * size_of::<f32>();
        let map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon().expect("addresses");
        let mut matrix = Matrix { map, stride, columns };
        for row in 0..ROWS {
            let from = values.map(|values| &values[row * columns..][..columns]);
            let nan = vec![f32::NAN; columns];
            matrix.row_mut(row).copy_from_slice(from.unwrap_or(&nan));
        }
        matrix
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let bytes = &mut self.map[row * self.stride * 4..][..self.columns * 4];
        bytemuck::cast_slice_mut(bytes)
    }

    fn values(&mut self) -> Vec<f32> {
        (0..ROWS).flat_map(|row| self.row_mut(row).to_vec()).collect()
    }
}

/// Argument of a kernel, by the path of its field.
enum Argument {
    Int(i32),
    List(Vec<i32>),
    Values(Vec<f32>),
    /// Matrix that is read: number of columns.
    Read(usize),
    /// Matrix that is written.
    Written(usize),
}
use Argument::{Int, List, Read, Values, Written};

/// A launch. Each field of `strides` takes the distance of rows.
struct Case {
    kernel: &'static str,
    blocks: [u32; 3],
    arguments: Vec<(&'static str, Argument)>,
    strides: &'static [&'static str],
}

/// Offset and size of the field at `path`, such as `norm.scale`.
fn field(layout: &ArgumentsLayout, path: &str) -> (usize, usize) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let found = layout.fields.iter().find(|field| field.name == name);
    let found = found.unwrap_or_else(|| panic!("{} has no field {name}", layout.name));
    match (&found.kind, rest) {
        (FieldKind::Arguments(inner), Some(rest)) => {
            let (offset, size) = field(inner, rest);
            (found.offset + offset, size)
        }
        _ => (found.offset, found.size),
    }
}

fn info(name: &str) -> KernelInfo {
    let kernels = FILES.iter().flat_map(|file| file.kernels);
    *kernels.into_iter().find(|kernel| kernel.name == name).unwrap_or_else(|| panic!("no kernel {name}"))
}

impl Case {
    /// Runs the kernel with rows `stride` apart; returns the matrices that it wrote.
    fn run(&self, stride: usize) -> BTreeMap<&'static str, Vec<f32>> {
        let kernel = info(self.kernel);
        let mut words = vec![0u64; kernel.arguments.size.div_ceil(8)];
        let mut set = |path: &str, value: &[u8]| {
            let (offset, size) = field(&kernel.arguments, path);
            assert_eq!(size, value.len(), "{path}");
            bytemuck::cast_slice_mut::<u64, u8>(&mut words)[offset..][..size].copy_from_slice(value);
        };
        let mut random = StdRng::seed_from_u64(11);
        let mut matrices = Vec::new();
        for (path, argument) in &self.arguments {
            match argument {
                Int(value) => set(path, &value.to_ne_bytes()),
                List(list) => set(path, &(list.as_ptr() as usize).to_ne_bytes()),
                Values(values) => set(path, &(values.as_ptr() as usize).to_ne_bytes()),
                &Read(columns) | &Written(columns) => {
                    let values: Vec<f32> =
                        (0..ROWS * columns).map(|_| random.random_range(-1.0..1.0)).collect();
                    let read = matches!(argument, Read(_));
                    let mut matrix = Matrix::new(stride, columns, read.then_some(&values));
                    set(path, &(matrix.row_mut(0).as_mut_ptr() as usize).to_ne_bytes());
                    matrices.push((*path, read, matrix));
                }
            }
        }
        self.strides.iter().for_each(|path| set(path, &(stride as i32).to_ne_bytes()));
        let bytes = &bytemuck::cast_slice(&words)[..kernel.arguments.size];
        // SAFETY: all pointers in the arguments point to the live arrays above, which have the rows and columns that the kernel
        // is told.
        unsafe { launch_on_addresses(kernel, self.blocks, bytes) }.expect(self.kernel);
        let written = matrices.into_iter().filter(|(_, read, _)| !read);
        written.map(|(path, _, mut matrix)| (path, matrix.values())).collect()
    }
}

/// Each row's messages: edge n as its subject, edge n + 7 as its object.
fn lists() -> (Vec<i32>, Vec<i32>) {
    let offsets = (0..=ROWS as i32).map(|row| 2 * row).collect();
    let other = |row: usize| (row + 7) % ROWS;
    let entries = (0..ROWS).flat_map(|row| [2 * row as i32, 2 * other(row) as i32 + 1]).collect();
    (offsets, entries)
}

fn norm(columns: usize) -> [(&'static str, Argument); 2] {
    let mut random = StdRng::seed_from_u64(5);
    ["norm.scale", "norm.shift"]
        .map(|path| (path, Values((0..columns).map(|_| random.random_range(0.1..1.0)).collect())))
}

fn cases() -> Vec<Case> {
    let (rows, hidden) = (ROWS as u32, HIDDEN as i32);
    let of_row = || List((0..ROWS as i32).collect());
    let shifted = |by: usize| List((0..ROWS).map(|row| ((row + by) % ROWS) as i32).collect());
    let count = || List(vec![ROWS as i32]);
    let (offsets, entries) = lists();
    let listed = |prefix: [&'static str; 3]| {
        let [at, entry, rows] = prefix;
        [(at, List(offsets.clone())), (entry, List(entries.clone())), (rows, count())]
    };
    let by_row = || listed(["by_row.offsets", "by_row.entries", "by_row.row_count"]);
    // A matrix z with its norm, and a result of the same shape.
    let normed = |result: &'static str| -> Vec<_> {
        let matrices = [(result, Written(HIDDEN)), ("z", Read(HIDDEN))];
        let sizes = [("row_count", count()), ("columns", Int(hidden))];
        matrices.into_iter().chain(sizes).chain(norm(HIDDEN)).collect()
    };
    let weight: Vec<f32> = (0..HIDDEN * HIDDEN).map(|at| (at * 37 % 101) as f32 / 101.0 - 0.5).collect();
    vec![
        Case {
            kernel: "edge_hidden_lookup_f32",
            blocks: [1, rows.div_ceil(64), 1],
            arguments: vec![
                ("z", Written(HIDDEN)),
                ("edge_projected", Read(HIDDEN)),
                ("projected", Read(2 * HIDDEN)),
                ("edge_row", shifted(3)),
                ("subject", of_row()),
                ("object", shifted(7)),
                ("edge_count", count()),
                ("hidden", Int(hidden)),
            ],
            strides: &["stride", "ends_stride"],
        },
        Case {
            kernel: "edge_hidden_sum_ends_f32",
            blocks: [rows, 1, 1],
            arguments: [("sums", Written(2 * HIDDEN)), ("d_z", Read(HIDDEN)), ("hidden", Int(hidden))]
                .into_iter()
                .chain(by_row())
                .collect(),
            strides: &["stride", "ends_stride"],
        },
        Case {
            kernel: "edge_pool_forward_f32",
            blocks: [rows, 1, 1],
            arguments: [
                ("pooled", Written(HIDDEN)),
                ("z", Read(3 * HIDDEN)),
                ("width", Int(3 * hidden)),
                ("hidden", Int(hidden)),
            ]
            .into_iter()
            .chain(listed(["incidence.offsets", "incidence.entries", "incidence.row_count"]))
            .chain(norm(3 * HIDDEN))
            .collect(),
            strides: &["z_stride", "pooled_stride"],
        },
        Case {
            kernel: "l2_normalise_forward_f32",
            blocks: [rows, 1, 1],
            arguments: normed("x"),
            strides: &["stride"],
        },
        Case {
            kernel: "batch_norm_relu_f32",
            blocks: [(rows * HIDDEN as u32 / 4).div_ceil(256), 1, 1],
            arguments: normed("y"),
            strides: &["y_stride", "z_stride"],
        },
        Case {
            kernel: "linear_forward_fp32_64",
            blocks: [1, rows.div_ceil(64), 1],
            arguments: vec![
                ("product.y.values", Written(HIDDEN)),
                ("product.y.columns", Int(hidden)),
                ("product.x.values", Read(HIDDEN)),
                ("product.x.columns", Int(hidden)),
                ("product.weight.values", Values(weight)),
                ("product.weight.stride", Int(hidden)),
                ("product.weight.split", Int(i32::MAX)),
                ("product.row_count", count()),
            ],
            strides: &["product.y.stride", "product.x.stride"],
        },
    ]
}

#[test]
fn rows_beyond_two_to_the_32_are_those_side_by_side() {
    if no_device() {
        return;
    }
    for case in cases() {
        let (near, far) = (case.run(4 * HIDDEN), case.run(FAR));
        for (path, near) in &near {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(near.iter().all(|value| value.is_finite()), "{}: {path}", case.kernel);
            assert!(bits(near) == bits(&far[path]), "{}: {path}", case.kernel);
        }
        println!("{}: rows {FAR} values apart, up to value {}", case.kernel, (ROWS - 1) * FAR);
    }
}
