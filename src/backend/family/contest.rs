//! Contest of wgmma with mma.sync: first the results, then the time.

use half::bf16;

use super::Choice;
use super::layer::Layer;
use super::products::{Difference, Exactness, Product, Shape};
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::graph::Graph;
use crate::backend::cuda::launchers::linear::StoredFormat;
use crate::backend::cuda::launchers::stored::StoredElement;
use crate::backend::kernels::Kernels;
use crate::error::Result;
use crate::network::config::ModelConfig;
use crate::terminal::duration;

/// Rows and columns of compared products. Each takes another tile of wgmma: 64 x 128, and 128 x 152, 224 or 256 in grids for
/// many rows. Four columns fewer leave the last step of every loop in part; 150 nodes and 200 edges are several tiles of rows,
/// the last one in part, and two parts of a weight's gradient.
const COMPARED: [Shape; 4] =
    [compared(124, 0), compared(148, MANY_ROWS), compared(220, MANY_ROWS), compared(252, MANY_ROWS)];
const MANY_ROWS: usize = 9_216;

const fn compared(columns: usize, room: usize) -> Shape {
    Shape { nodes: 150, edges: 200, inputs: columns, hidden: columns, room }
}

/// Nodes and edges of a triple in a timed layer: three graphs of the paper's mean size.
const NODES: usize = 3 * 22;
const EDGES: usize = 3 * 36;
/// Number of times of each family. The products of a layer take about 0.1 ms at 16 triples, and 1 ms at 256.
const TIMES: usize = 15;

/// A format by mma.sync, and by wgmma.
#[derive(Clone, Copy)]
pub(super) struct Families<T: StoredElement> {
    pub mma: StoredFormat<T>,
    pub wgmma: StoredFormat<T>,
}

impl Families<bf16> {
    pub(super) const BF16: Self = Families { mma: StoredFormat::BF16, wgmma: StoredFormat::BF16_WARPGROUP };
}

impl Families<f32> {
    pub(super) const BF16X3: Self =
        Families { mma: StoredFormat::BF16X3, wgmma: StoredFormat::BF16X3_WARPGROUP };
}

/// Result of a contest.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    /// Largest difference of the results, as a share of its limit.
    pub difference: Difference,
    /// Median times of the products of a layer in seconds, by mma.sync and by wgmma; `None` if the results differ.
    pub seconds: Option<[f64; 2]>,
    /// Number of triples of the timed layer's batch.
    pub triples: usize,
}

impl Contest {
    /// wgmma if it is right and faster.
    pub(super) fn decide(&self) -> Choice {
        let Difference { product, output, columns, by, limit } = self.difference;
        let Some([by_mma, by_wgmma]) = self.seconds.filter(|_| self.difference.is_allowed()) else {
            let reason = format!(
                "wgmma is wrong on this GPU: {output} of {product} with {columns} columns differs by {by:.2e} from \
                 mma.sync's, {limit:.2e} are allowed"
            );
            return Choice { kernels: Kernels::Mma, reason };
        };
        let [mma, wgmma] = [by_mma, by_wgmma].map(duration);
        let times = format!(
            "at {} triples a layer's products take {wgmma} by wgmma and {mma} by mma.sync",
            self.triples
        );
        if by_wgmma < by_mma {
            let share = 100.0 * self.difference.share();
            let reason = format!("{times}, and results differ by {share:.0} % of what is allowed");
            return Choice { kernels: Kernels::Wgmma, reason };
        }
        let slower = 100.0 * (by_wgmma / by_mma - 1.0);
        let reason = format!("{times}: wgmma is {slower:.1} % slower on this GPU");
        Choice { kernels: Kernels::Mma, reason }
    }
}

/// The arrays of a contest on a device.
pub(super) struct Arrays<'d, T: StoredElement> {
    device: &'d Device,
    families: Families<T>,
    compared: Vec<Layer<'d, T>>,
    timed: Timed<'d, T>,
    triples: usize,
}

impl<'d, T: StoredElement> Arrays<'d, T> {
    /// Arrays of the compared products, and of the products of a batch of so many triples, which are timed.
    pub(super) fn new(device: &'d Device, families: Families<T>, triples: usize) -> Result<Self> {
        let timed = Timed::new(device, NODES * triples, EDGES * triples, ModelConfig::PAPER)?;
        Ok(Arrays { device, families, compared: layers(device, &COMPARED)?, timed, triples })
    }

    /// Compares both families, and times them if the results agree.
    pub(super) fn hold(mut self) -> Result<Contest> {
        let Families { mma, wgmma } = self.families;
        let difference = compare(&mut self.compared, mma, |layer, product| layer.run(product, wgmma))?;
        let seconds = match difference.is_allowed() {
            true => Some(times_of(self.device, self.timed, self.families)?),
            false => None,
        };
        Ok(Contest { difference, seconds, triples: self.triples })
    }
}

fn layers<'d, T: StoredElement>(device: &'d Device, shapes: &[Shape]) -> Result<Vec<Layer<'d, T>>> {
    shapes.iter().map(|&shape| Layer::new(device, shape)).collect()
}

/// Largest difference, as a share of its limit, of any product of these layers between mma.sync and `run`.
fn compare<'d, T: StoredElement>(
    layers: &mut [Layer<'d, T>],
    mma: StoredFormat<T>,
    mut run: impl FnMut(&mut Layer<'d, T>, Product) -> Result<Vec<Vec<f32>>>,
) -> Result<Difference> {
    let mut differences = Vec::new();
    for layer in layers {
        for product in Product::ALL {
            let (by_mma, by_wgmma) = (layer.run(product, mma)?, run(layer, product)?);
            let exactness = Exactness::of(mma);
            differences.push(Difference::of(product, layer.shape, exactness, &by_mma, &by_wgmma));
        }
    }
    let largest = differences.into_iter().max_by(|one, other| one.share().total_cmp(&other.share()));
    Ok(largest.expect("there are products"))
}

/// The products of a layer of the paper's model: arrays, and the launches on them.
struct Timed<'d, T: StoredElement>(Vec<(Layer<'d, T>, &'static [Product])>);

impl<'d, T: StoredElement> Timed<'d, T> {
    fn new(device: &'d Device, nodes: usize, edges: usize, model: ModelConfig) -> Result<Self> {
        let (state, hidden, heads) = (model.state_width, model.hidden_width, model.heads_width(0));
        let edge_hidden: &[Product] =
            &[Product::ForwardUnit, Product::ForwardGatherNorm, Product::BackwardStates];
        let activated: &[Product] = &[Product::ForwardNorm, Product::BackwardNorm];
        let plain: &[Product] = &[Product::Forward, Product::Backward];
        let layers = [
            (Shape { nodes, edges, inputs: state, hidden, room: 0 }, edge_hidden),
            (Shape { nodes: edges, edges: 1, inputs: hidden, hidden: heads, room: 0 }, activated),
            (Shape { nodes, edges: 1, inputs: hidden, hidden, room: 0 }, plain),
            (Shape { nodes, edges: 1, inputs: hidden, hidden: state, room: 0 }, activated),
        ];
        let layers = layers.map(|(shape, products)| Ok((Layer::new(device, shape)?, products)));
        Ok(Timed(layers.into_iter().collect::<Result<_>>()?))
    }

    fn launch(&mut self, format: StoredFormat<T>) -> Result<()> {
        for (layer, products) in &mut self.0 {
            products.iter().try_for_each(|&product| layer.launch(product, format))?;
        }
        Ok(())
    }
}

/// Median times in seconds of the products of a layer, by mma.sync and by wgmma.
fn times_of<T: StoredElement>(
    device: &Device,
    mut timed: Timed<'_, T>,
    families: Families<T>,
) -> Result<[f64; 2]> {
    let mut captured = |format| -> Result<Graph> {
        // Grows the memory for sums, and loads the kernels.
        timed.launch(format)?;
        device.begin_capture()?;
        let launched = timed.launch(format);
        let graph = device.end_capture()?;
        launched.map(|()| graph)
    };
    let graphs = [captured(families.mma)?, captured(families.wgmma)?];
    let pair = || Ok([device.stopwatch()?, device.stopwatch()?]);
    let mut watches = (0..TIMES).map(|_| pair()).collect::<Result<Vec<_>>>()?;
    // All are queued before the host waits for the first, so that the GPU does not wait for the host.
    for pair in &mut watches {
        for (watch, graph) in pair.iter_mut().zip(&graphs) {
            watch.start()?;
            // SAFETY: the layers, which own all memory of the launches, live as long as this function; nothing else
            // refers to that memory.
            unsafe { device.replay(graph) }?;
            watch.stop()?;
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    for pair in &watches {
        for (times, watch) in times.iter_mut().zip(pair) {
            times.push(watch.elapsed_ms()? / 1e3);
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::cuda::device::interpreter::Interpretation;
    use crate::backend::cuda::device::kernel::KernelFile;
    use crate::backend::cuda::launchers;
    use crate::backend::cuda::launchers::linear::{BF16_WARPGROUP_FILES, BF16X3_WARPGROUP_FILES};
    use crate::backend::family::products::Output;

    /// The emulator; reports a skip and returns `None` if it is not built.
    fn emulator() -> Option<Device> {
        launchers::emulated(None).inspect_err(|error| println!("skipped: {error}")).ok()
    }

    fn contest(by: f64, seconds: Option<[f64; 2]>) -> Contest {
        let (product, output) = (Product::BackwardNorm, Output::DX);
        let difference = Difference { product, output, columns: 148, by, limit: 0.5 };
        Contest { difference, seconds, triples: 64 }
    }

    #[test]
    fn wgmma_must_be_right_and_faster() {
        let choice = |by, seconds| contest(by, seconds).decide();
        let won = choice(0.125, Some([2e-4, 1e-4]));
        assert_eq!(won.kernels, Kernels::Wgmma);
        let words = "kernels auto: wgmma, since at 64 triples a layer's products take 100 us by wgmma and 200 us by mma.sync, \
                     and results differ by 25 % of what is allowed";
        assert_eq!(won.words(), words);
        let lost = choice(0.5, Some([1e-4, 1.25e-4]));
        assert_eq!(lost.kernels, Kernels::Mma);
        let words = "kernels auto: mma.sync, since at 64 triples a layer's products take 125 us by wgmma";
        assert!(lost.words().starts_with(words), "{}", lost.words());
        assert!(lost.reason.ends_with("wgmma is 25.0 % slower on this GPU"), "{}", lost.reason);
        // Equally fast, or times that are not numbers.
        assert_eq!(choice(0.0, Some([1e-4; 2])).kernels, Kernels::Mma);
        assert_eq!(choice(0.0, Some([1e-4, f64::NAN])).kernels, Kernels::Mma);
        // A wrong family is not taken, however fast.
        for by in [0.51, f64::NAN, f64::INFINITY] {
            let wrong = choice(by, Some([2e-4, 1e-4]));
            assert_eq!(wrong.kernels, Kernels::Mma);
            let part = "d_x of linear_backward_norm with 148 columns differs by";
            assert!(
                wrong.reason.contains(part) && wrong.reason.ends_with("5.00e-1 are allowed"),
                "{}",
                wrong.reason
            );
        }
        assert_eq!(choice(0.0, None).kernels, Kernels::Mma);
    }

    fn agree<T: StoredElement>(device: &Device, families: Families<T>, shapes: &[Shape]) {
        let Families { mma, wgmma } = families;
        let mut layers = layers(device, shapes).unwrap();
        let difference = compare(&mut layers, mma, |layer, product| layer.run(product, wgmma)).unwrap();
        println!("{difference:?}, {:.2} of the limit", difference.share());
        assert!(difference.is_allowed(), "{difference:?}");
        // Sums in another order differ somewhere.
        assert!(difference.by > 0.0, "{difference:?}");
    }

    #[test]
    fn the_emulated_families_agree() {
        let Some(device) = emulator() else { return };
        agree(&device, Families::BF16, &COMPARED);
        agree(&device, Families::BF16X3, &COMPARED);
    }

    /// nvcc's code of the products, without an access that the interpreter refuses. One tile: four take long.
    #[test]
    fn the_interpreted_families_agree() {
        let opened = Interpretation::from_environment().and_then(launchers::interpreted);
        let Ok(device) = opened.inspect_err(|error| println!("skipped: {error}")) else { return };
        agree(&device, Families::BF16, &COMPARED[..1]);
        agree(&device, Families::BF16X3, &COMPARED[..1]);
    }

    #[test]
    fn one_wrong_value_of_any_output_is_found() {
        let Some(device) = emulator() else { return };
        one_wrong_value_is_found(&device, Families::BF16);
        one_wrong_value_is_found(&device, Families::BF16X3);
    }

    fn one_wrong_value_is_found<T: StoredElement>(device: &Device, families: Families<T>) {
        let shape = Shape { nodes: 33, edges: 37, inputs: 20, hidden: 28, room: 0 };
        let (mut layer, exactness) = (Layer::new(device, shape).unwrap(), Exactness::of(families.mma));
        for product in Product::ALL {
            let right = layer.run(product, families.wgmma).unwrap();
            let same = Difference::of(product, shape, exactness, &right, &right);
            assert_eq!((same.by, same.is_allowed()), (0.0, true), "{same:?}");
            // A launch that writes nothing does not leave what another wrote.
            let nothing = layer.outputs_of(product, |_| Ok(())).unwrap();
            assert!(nothing.iter().flatten().all(|value| value.is_nan()), "{product}");
            for (i, &output) in product.outputs().iter().enumerate() {
                let size = right[i].iter().fold(0f32, |most, value| most.max(value.abs()));
                for change in [size / 2.0, f32::NAN] {
                    let mut wrong = right.clone();
                    *wrong[i].last_mut().unwrap() += change;
                    let found = Difference::of(product, shape, exactness, &right, &wrong);
                    assert!(!found.is_allowed(), "{found:?}");
                    assert_eq!((found.product, found.output), (product, output));
                }
            }
        }
    }

    /// What the choice rests on when one product is wrong.
    #[test]
    fn a_wrong_product_is_named_and_not_timed() {
        let Some(device) = emulator() else { return };
        let spoilt = |layer: &mut Layer<'_, bf16>, product| {
            let mut written = layer.run(product, StoredFormat::BF16_WARPGROUP)?;
            if product == Product::ForwardGatherNorm {
                written[0][7] += 1.0;
            }
            Ok(written)
        };
        let shape = Shape { nodes: 20, edges: 24, inputs: 20, hidden: 28, room: 0 };
        let difference =
            compare(&mut layers(&device, &[shape]).unwrap(), StoredFormat::BF16, spoilt).unwrap();
        let choice = Contest { difference, seconds: None, triples: 16 }.decide();
        assert_eq!(choice.kernels, Kernels::Mma);
        assert!(
            choice.reason.contains("y of linear_forward_gather_norm with 20 columns"),
            "{}",
            choice.reason
        );
    }

    /// Names of the kernels that `launches` launches.
    fn launched(launches: impl FnOnce(&Device)) -> Vec<&'static str> {
        let device = Device::planned();
        launches(&device);
        device.take_observations().planned.iter().map(|launch| launch.kernel.name).collect()
    }

    #[test]
    fn every_kernel_of_warpgroups_is_compared() {
        all_are_compared(Families::BF16, &BF16_WARPGROUP_FILES, "bf16");
        all_are_compared(Families::BF16X3, &BF16X3_WARPGROUP_FILES, "bf16x3");
    }

    fn all_are_compared<T: StoredElement>(families: Families<T>, files: &[KernelFile], format: &str) {
        let kernels = launched(|device| {
            for shape in COMPARED {
                let mut layer = Layer::new(device, shape).unwrap();
                for product in Product::ALL {
                    layer.launch(product, families.wgmma).unwrap();
                }
            }
        });
        let compared: BTreeSet<&str> = kernels.iter().copied().collect();
        let all = files.iter().flat_map(|file| file.kernels).map(|kernel| kernel.name).collect();
        assert_eq!(compared, all);
        // Names in the reason are those of kernels.
        for product in Product::ALL {
            assert!(compared.contains(&*format!("{product}_{format}_128x152")), "{product}");
        }
    }

    #[test]
    fn a_layers_products_are_timed() {
        let kernels = launched(|device| {
            let mut arrays = Arrays::new(device, Families::BF16, 16).unwrap();
            arrays.timed.launch(StoredFormat::BF16_WARPGROUP).unwrap();
        });
        assert_eq!(kernels.len(), 9, "{kernels:?}");
        let is_of_warpgroups = |kernel: &&str| kernel.contains("_bf16_64x") || kernel.contains("_bf16_128x");
        assert!(kernels.iter().all(is_of_warpgroups), "{kernels:?}");
        let Some(device) = emulator() else { return };
        let model = ModelConfig { state_width: 12, hidden_width: 20, ..ModelConfig::PAPER };
        let seconds = times_of(&device, Timed::new(&device, 6, 9, model).unwrap(), Families::BF16).unwrap();
        assert!(seconds.iter().all(|&seconds| seconds > 0.0), "{seconds:?}");
    }
}
