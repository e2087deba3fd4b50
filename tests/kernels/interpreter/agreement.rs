//! Every kernel at least once, in every format: its results against the reference, and its memory against the emulator's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use half::bf16;
use scenerank::backend::cuda::device::{Compared, Device};
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::ceilings::{
    FRAGMENTS, ceiling_fma, ceiling_launch, ceiling_mma, ceiling_mma_varied,
};
use scenerank::backend::cuda::launchers::linear::{Format, StoredFormat};
use scenerank::bench::case::Case;
use scenerank::bench::cases;
use scenerank::bench::cases::linear::backward::{BackwardProduct, backward};
use scenerank::bench::cases::linear::forward::{Ends, ForwardProduct, Types, forward, forward_two};
use scenerank::bench::cases::linear::states::{self, States};
use scenerank::bench::cases::linear::unit::{self, UnitProduct};
use scenerank::bench::cases::linear::{Launches, Product, X};
use scenerank::bench::sizes::Sizes;
use scenerank::network::config::ModelConfig;
use scenerank::network::parameters::Layout;

use super::{architectures, compared};
use crate::linear_warpgroup as warpgroups;
use crate::support::agreement::assert_within_limits;
use crate::support::cases::{FORMATS, Graphs, OF_WARPGROUPS, TYPES};
use crate::support::poisoned;

/// Widths of states and hidden layers: odd ones, and some for copies of 16 bytes.
const WIDTHS: [[usize; 2]; 2] = [[17, 19], [24, 40]];
/// The same in bf16. The bench's cases copy rows of hidden layers 16 bytes at a time.
const WIDTHS_BF16: [[usize; 2]; 2] = [[17, 24], [24, 40]];

/// Rows beyond those that there are, for which a product of 1,021 columns takes the larger tile.
const LARGE: usize = 4149;

fn config([state_width, hidden_width]: [usize; 2]) -> ModelConfig {
    ModelConfig {
        object_types: TYPES,
        predicate_types: TYPES,
        layers: 2,
        state_width,
        hidden_width,
        ..ModelConfig::PAPER
    }
}

fn check(device: &Device, case: &Case, spare: usize) {
    let name = format!("{} {} and {spare} spare rows", case.kernel, case.shape);
    match (case.prepare)(spare).check(device) {
        Ok(worst) => assert_within_limits(&name, worst),
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Products of both tiles: `rows` and the widths are those of the smaller ones.
fn products(format: Format) -> Vec<(Case, usize)> {
    let product = |inputs: usize, outputs: usize, seed: u64| Product {
        what: "test",
        rows: 21,
        inputs,
        outputs,
        format,
        seed,
    };
    let mut all = Vec::new();
    for (inputs, outputs, spare) in [(13, 40, 0), (13, 1021, LARGE)] {
        for (at, gathers) in [(0, false), (1, false), (2, true), (3, true)] {
            let ends = gathers
                .then(|| Ends { of: [0, 1].map(|by| (0..21).map(|i| (i * 5 + by) % 9).collect()), nodes: 9 });
            let product = product(inputs, outputs, at);
            let of = ForwardProduct {
                product,
                activated: at % 2 == 1,
                with_statistics: true,
                part: product.whole(),
                ends,
            };
            all.push((forward(of), spare));
        }
        for (seed, x) in (5..).zip([X::Values, X::Activated, X::ActivatedWithSums]) {
            // The tile follows the columns of d_x.
            let product = product(outputs, inputs, seed);
            all.push((backward(BackwardProduct { product, x, part: product.whole() }), spare));
        }
    }
    for (with_rows, spare) in [(false, 0), (true, 0), (true, LARGE)] {
        let (inputs, outputs) = if spare == 0 { (24, 40) } else { (1021, 1022) };
        let [forward, backward] = [product(24, outputs, 12), product(inputs, 40, 12)];
        all.push((unit::forward(UnitProduct { product: forward, with_rows }), spare));
        all.push((unit::backward(UnitProduct { product: backward, with_rows }), spare));
    }
    for (hidden, spare) in [(40, 0), (449, LARGE)] {
        let of = Types { rows: [7, 13], room: [0; 2], inputs: 21, hidden, format, seed: 15 };
        all.push((forward_two(of, Launches::One), spare));
    }
    for (inputs, spare) in [(24, 0), (1021, LARGE)] {
        let (nodes, edges) = (product(inputs, 80, 13), product(inputs, 40, 14));
        all.push((states::backward(States { nodes, edges }, Launches::One), spare));
    }
    if format == Format::Fp32 {
        // It has one tile.
        all.retain(|(_, spare)| *spare == 0);
    }
    all
}

/// The kernels that have no case of their own.
fn others(device: &Device) {
    let mut sums = poisoned(device, 512);
    ceiling_fma(device, &mut sums.slice_mut(0..512), 0.75, 1.5, 3).expect("a launch");
    ceiling_mma(device, &mut sums.slice_mut(0..512), 1.5, 0.25, 3).expect("a launch");
    ceiling_mma_varied(device, &mut sums.slice_mut(0..512), FRAGMENTS).expect("a launch");
    ceiling_launch(device, 3).expect("a launch");
    check(device, &cases::adam::copy(Layout::new(config(WIDTHS[0])), 1), 0);
}

fn runs_warpgroups(device: &Device) -> bool {
    StoredFormat::BF16_WARPGROUP.runs_on(device)
}

/// Launches of an architecture by kernel.
type Table = BTreeMap<&'static str, Compared>;

fn run_all(device: &Device) -> Table {
    for format in FORMATS {
        let widths = if format == Format::Bf16 { WIDTHS_BF16 } else { WIDTHS };
        for sizes in widths.map(|widths| Sizes::new(config(widths), 1)) {
            for case in cases::all(&sizes, format) {
                check(device, &case, 0);
            }
        }
        for (case, spare) in products(format) {
            check(device, &case, spare);
        }
    }
    if runs_warpgroups(device) {
        // All launchers take the tile of 64 x 128; or, in grids for many rows, that of 152, 224 or 256 columns.
        let many = warpgroups::MANY_ROWS;
        for (inputs, outputs, spare) in [(70, 152, 0), (152, 152, many), (224, 224, many), (256, 512, many)] {
            for format in OF_WARPGROUPS {
                let product = warpgroups::product(format, [20, inputs, outputs], 16);
                warpgroups::all(product).iter().for_each(|case| check(device, case, spare));
            }
        }
    }
    others(device);
    device.take_observations().comparisons
}

#[test]
fn every_kernel_agrees_with_the_reference_and_the_emulator() {
    for architecture in architectures() {
        let started = Instant::now();
        let device = launchers::interpreted(compared(architecture)).expect("an interpreter and an emulator");
        let table = run_all(&device);
        print(architecture, &table, started);
        let files = launchers::FILES.iter();
        let known = files.filter(|file| runs_warpgroups(&device) || !file.is_for_warpgroups());
        let known: BTreeSet<&str> = known.flat_map(|file| file.kernels).map(|kernel| kernel.name).collect();
        let missing: Vec<&str> = known.into_iter().filter(|name| !table.contains_key(name)).collect();
        assert!(missing.is_empty(), "kernels that did not run: {missing:?}");
        // PTX without contraction to fused multiply-adds has the emulator's bits (`scripts/compare_ptx.sh`), but for the loss: CUDA
        // and the C library round exp and log1p differently.
        let differ = table.iter().filter(|(_, compared)| compared.equal < compared.launches);
        let differ: Vec<&str> =
            differ.map(|(name, _)| *name).filter(|name| !name.starts_with("readout_loss")).collect();
        let bits_wanted = std::env::var_os("SCENERANK_PTX_BITS").is_some();
        assert!(!bits_wanted || differ.is_empty(), "kernels with other bits than the emulator's: {differ:?}");
    }
}

/// Prints launches, equal ones and the largest difference of each kernel.
fn print(architecture: Option<&str>, table: &Table, started: Instant) {
    let sum = |of: fn(&Compared) -> u64| table.values().map(of).sum::<u64>();
    println!(
        "{}: {} kernels, {} launches, {} with the bits of the emulator, {:.1} s",
        architecture.unwrap_or("folder"),
        table.len(),
        sum(|compared| compared.launches),
        sum(|compared| compared.equal),
        started.elapsed().as_secs_f64()
    );
    for (name, Compared { launches, equal, all }) in table {
        if equal < launches {
            println!(
                "{name:44} {equal:4} of {launches:4} equal, largest relative difference {:.1e}",
                all.worst
            );
        }
    }
}

/// Batches without edges, without nodes, and with graphs that have neither.
#[test]
fn empty_graphs_agree_with_the_reference_and_the_emulator() {
    for architecture in architectures() {
        let device = launchers::interpreted(compared(architecture)).expect("an interpreter and an emulator");
        for sizes in [vec![], vec![0, 0, 0], vec![1, 0, 3]] {
            let graphs = Graphs { sizes, edges: Vec::new() };
            for widths in WIDTHS {
                let sizes = graphs.sizes(widths[1], widths[0], 3);
                let cases = cases::edge_pool::cases::<f32>(&sizes);
                let halves = cases::edge_pool::cases::<bf16>(&sizes);
                cases.iter().chain(&halves).for_each(|case| check(&device, case, 2));
            }
        }
    }
}
