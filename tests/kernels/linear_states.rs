//! linear: the backward of node states and of edge states in one launch, which must give the same bits as two launches.

use crate::support::agreement::{agree_in_orders, assert_same_bits, outputs_once, with_poisoned_padding};
use crate::support::cases::{FORMATS, check, rows, seeds};
use crate::support::{ROWS, devices};
use half::bf16;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::bench::cases::linear::states::{States, backward};
use scenerank::bench::cases::linear::{Launches, Product};

fn agrees(device: &Device, format: Format, [nodes, edges, width, hidden]: [usize; 4], seed: u64) {
    let product = |rows, outputs| Product { what: "test", rows, inputs: width, outputs, format, seed };
    let of = States { nodes: product(nodes, 2 * hidden), edges: product(edges, hidden) };
    // Rows have no padding in single precision.
    let [one, two] = [Launches::One, Launches::Two].map(|launches| match format {
        Format::Bf16 => with_poisoned_padding::<bf16>(backward(of, launches), 4, width),
        _ => backward(of, launches),
    });
    let one = agree_in_orders(&[seed, seed + 1], &one);
    let (two, _) = outputs_once(device, &two, 0);
    one.iter().zip(&two).for_each(|(one, two)| assert_same_bits(&format!("{of:?}"), one, two));
}

#[test]
fn one_launch_has_the_bits_of_two() {
    let devices = devices();
    let Some(device) = devices.first() else { return };
    let sizes = ROWS.iter().flat_map(|&rows| [(13, 9), (64, 32), (65, 67)].map(|of| (rows, of)));
    for (seed, (rows, (width, hidden))) in (0..).zip(sizes) {
        // Edges without nodes do not occur in training, but the kernel must handle them.
        let edges = ROWS[(seed as usize * 5 + 3) % ROWS.len()];
        for format in FORMATS {
            agrees(device, format, [rows, edges, width, hidden], seed);
        }
    }
    check(5, (rows(), rows(), 1..=150usize, 1..=100usize, seeds()), |(nodes, edges, width, hidden, seed)| {
        for format in FORMATS {
            agrees(device, format, [nodes, edges, width, hidden], seed);
        }
    });
}

/// Parts of both weight gradients at once, each in its own memory.
#[test]
fn gradients_in_many_parts_do_not_meet() {
    let devices = devices();
    let Some(device) = devices.first() else { return };
    for (seed, format) in [1, 2].into_iter().flat_map(|seed| FORMATS.map(|format| (seed, format))) {
        agrees(device, format, [700, 900, 40, 30], seed);
    }
}
