//! linear: products of the backward that compute d_y, batch norm's backward of (d, z), while they read it. They must
//! give the same bits as two launches. The case of the bench runs at random shapes.

use crate::support::agreement::{agree_in_orders, assert_same_bits, outputs_once, stored_gradient, with};
use crate::support::cases::{FORMATS, check, rows, seeds};
use crate::support::{ROWS, devices};
use half::bf16;
use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::backend::cuda::launchers::stored::StoredElement;
use scenerank::bench::case::Case;
use scenerank::bench::cases::linear::backward::{BackwardProduct, backward};
use scenerank::bench::cases::linear::{Product, Source, X};
use scenerank::bench::matrix::HostMatrix;

/// Numbers of inputs and outputs: below, at and above a tile, with and without whole 16-byte copies.
const WIDTHS: [(usize, usize); 6] = [(13, 19), (64, 64), (65, 1), (1, 65), (100, 67), (36, 100)];

const ALL: [X; 3] = [X::Values, X::Activated, X::ActivatedWithSums];

fn case(product: Product, x: X, d_y: Source) -> Case {
    backward(BackwardProduct { product, x, part: product.whole(), d_y })
}

/// The case with a d_y that batch norm's backward stored in a launch before.
fn made_before<T: StoredElement>(product: Product, x: X) -> Case {
    let through_norm = case(product, x, Source::ThroughNorm);
    let (d_y, prepare) = (stored_gradient::<T>(&through_norm, product.rows), through_norm.prepare);
    with(case(product, x, Source::Stored), move |spare, prepared| {
        let mut host = prepare(spare).host;
        host.stored[0] = HostMatrix::new::<T>(d_y.clone(), product.outputs).with_room(spare);
        host.stored_outputs[0] = HostMatrix::new::<T>(Vec::new(), product.outputs);
        prepared.host = host;
    })
}

/// The products agree with the reference, which computes d_y too, and have the same bits as those of two launches.
fn agrees(device: &Device, product: Product, seed: u64) {
    for x in ALL {
        let two = match product.format {
            Format::Bf16 => made_before::<bf16>(product, x),
            _ => made_before::<f32>(product, x),
        };
        let (two, _) = outputs_once(device, &two, 0);
        let one = agree_in_orders(&[seed, seed + 1], &case(product, x, Source::ThroughNorm));
        for (one, two) in one.iter().zip(&two).skip(1) {
            assert_same_bits(&format!("{x:?} of {product:?}"), one, two);
        }
    }
}

#[test]
fn products_through_norm_agree_with_the_reference_and_have_the_bits_of_two_launches() {
    let devices = devices();
    let Some(device) = devices.first() else { return };
    let sizes = ROWS.iter().flat_map(|&rows| WIDTHS.map(|(inputs, outputs)| (rows, inputs, outputs)));
    for (seed, (rows, inputs, outputs)) in (0..).zip(sizes) {
        for format in FORMATS {
            agrees(device, Product { what: "test", rows, inputs, outputs, format, seed }, seed);
        }
    }
    for (cases, widest) in [(30, 150usize), (5, 200)] {
        check(cases, (rows(), 1..=widest, 1..=widest, seeds()), |(rows, inputs, outputs, seed)| {
            for format in FORMATS {
                agrees(device, Product { what: "test", rows, inputs, outputs, format, seed }, seed);
            }
        });
    }
}

/// A grid for so many rows that d_y is computed before the products, and that these use the larger tile if there is
/// one.
#[test]
fn where_a_bound_has_them_made_changes_no_bit() {
    for device in devices().iter().take(1) {
        for format in FORMATS {
            let product = Product { what: "test", rows: 70, inputs: 1021, outputs: 21, format, seed: 5 };
            for x in ALL {
                let case = case(product, x, Source::ThroughNorm);
                let d = (case.prepare)(0).host.stored_outputs[0].wide();
                let (small, _) = outputs_once(device, &case, 0);
                let (large, _) = outputs_once(device, &case, 4149);
                for (small, large) in small.iter().zip(&large).skip(1) {
                    assert_same_bits(&format!("{x:?} in {format:?}"), small, large);
                }
                assert!(small[0] == d && large[0] != d, "{x:?} in {format:?}: made before if large");
            }
        }
    }
}
