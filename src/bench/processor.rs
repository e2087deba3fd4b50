//! A step on the CPU, product by product and pass by pass, beside the rate of fused multiply-adds that its cores reach.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use pulp::{Arch, Simd, WithSimd};
use serde::Serialize;

use crate::backend::cpu::Cpu;
use crate::backend::cpu::clock::{Clock, Log, Product, Work};
use crate::backend::device::Precision;
use crate::bench::sizes::Sizes;
use crate::bench::step::{LEARNING_RATE, LOSS, WARM_UP, forward_flops, model_of, repeat};
use crate::bench::timing::Times;
use crate::error::Result;
use crate::optimizer::Adam;
use crate::report::table::plain_table;
use crate::terminal::{duration, wrap};

/// Multiply-adds of each chain in a burst: about 4 ms.
const BURST_STEPS: usize = 1 << 20;
/// Independent chains of a thread: enough to hide the latency of two units, few enough for 16 registers.
const CHAINS: usize = 12;
/// Part of the budget for embeddings.
const EMBED_PART: u32 = 4;

/// Where the time of a step goes, on a number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Processor {
    /// Number of threads.
    pub threads: usize,
    /// Rate of fused multiply-adds in single precision with all operands in registers, all threads together: median of bursts,
    /// one before each timed step. Other programs, and other guests of the machine, slow down bursts and steps alike.
    pub fma_gflop_per_s: f64,
    /// The fastest burst.
    pub best_fma_gflop_per_s: f64,
    /// Products of a step, in the order of their first calls.
    pub products: Vec<Part>,
    /// Passes between products, from the longest to the shortest.
    pub passes: Vec<Part>,
    /// Median time of a step in ms while its parts are timed.
    pub step_ms: f64,
    /// Median time in ms to embed the graphs of the batch, with the running statistics.
    pub embed_ms: f64,
    /// Minimum time for the products of the embeddings in ms, at the rate of multiply-adds.
    pub embed_floor_ms: f64,
}

/// Products of one shape, or a pass, of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Operands, or name of the pass.
    pub name: String,
    /// Rows, columns and terms of a product; empty for a pass.
    pub shape: String,
    /// Distances between stored rows of both operands of a product, in values; empty for a pass.
    pub strides: String,
    /// Number of calls in a step.
    pub calls: usize,
    /// Number of floating-point operations of all calls; 0 for a pass.
    pub flops: u64,
    /// Time of all calls of a step in ms: the median over the steps.
    pub ms: f64,
    /// The least over the steps.
    pub least_ms: f64,
    /// Share of the step.
    pub share: f64,
}

impl Part {
    /// Sum of parts.
    fn sum(name: &str, parts: &[Part]) -> Part {
        Part {
            name: name.into(),
            shape: String::new(),
            strides: String::new(),
            calls: parts.iter().map(|part| part.calls).sum(),
            flops: parts.iter().map(|part| part.flops).sum(),
            ms: parts.iter().map(|part| part.ms).sum(),
            least_ms: parts.iter().map(|part| part.least_ms).sum(),
            share: parts.iter().map(|part| part.share).sum(),
        }
    }

    /// Rate of a product at the median time.
    pub fn gflop_per_s(&self) -> f64 {
        self.flops as f64 / self.ms / 1e6
    }

    /// Rate of a product at the least time.
    pub fn best_gflop_per_s(&self) -> f64 {
        self.flops as f64 / self.least_ms / 1e6
    }
}

impl Processor {
    /// Times the parts of a step on rayon's threads.
    pub fn measure(sizes: &Sizes, precision: Precision, budget: Duration) -> Result<Self> {
        let log = Log::default();
        let backend = match precision {
            Precision::Bf16 => Cpu::rounding_to_bf16(),
            Precision::Fp32 | Precision::Fp64 | Precision::Bf16x3 => Cpu::new(),
        };
        let (mut model, mut state) = model_of(sizes, backend.timed(Clock::writing_to(log.clone())))?;
        let adam = Adam::new(LEARNING_RATE);
        for _ in 0..WARM_UP {
            model.train_step(&LOSS, &adam, &mut state)?;
        }
        taken(&log);
        let (mut parts, mut rates) = (Parts::default(), Vec::new());
        let step_ms = repeat(budget, || {
            rates.push(fma_rate());
            let started = Instant::now();
            model.train_step(&LOSS, &adam, &mut state)?;
            let elapsed = started.elapsed();
            parts.add_step(taken(&log));
            Ok(elapsed)
        })?
        .ms;
        let (products, passes) = parts.finish(step_ms);
        // The first call folds batch norm into the weights.
        model.embed(&sizes.batch)?;
        let embed_ms = repeat(budget / EMBED_PART, || {
            let started = Instant::now();
            black_box(model.embed(&sizes.batch)?);
            Ok(started.elapsed())
        })?
        .ms;
        rates.sort_by(f64::total_cmp);
        let (fma_gflop_per_s, best_fma_gflop_per_s) = (rates[rates.len() / 2], rates[rates.len() - 1]);
        Ok(Processor {
            threads: rayon::current_num_threads(),
            fma_gflop_per_s,
            best_fma_gflop_per_s,
            products,
            passes,
            step_ms,
            embed_ms,
            embed_floor_ms: forward_flops(sizes) as f64 / fma_gflop_per_s / 1e6,
        })
    }

    /// Minimum time of `flops` operations in ms.
    pub fn floor_ms(&self, flops: u64) -> f64 {
        flops as f64 / self.fma_gflop_per_s / 1e6
    }

    /// Tables of the products and of the passes, at most 100 columns wide.
    pub fn text(&self) -> String {
        let Processor { threads, fma_gflop_per_s, best_fma_gflop_per_s, .. } = self;
        let Processor { products, passes, step_ms, embed_ms, embed_floor_ms, .. } = self;
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let of_fma = |rate: f64, fma_rate: &f64| format!("{:.0}%", 100.0 * rate / fma_rate);
        let mut table = plain_table([
            "product",
            "rows, columns, terms",
            "strides",
            "calls",
            "ms",
            "GFLOP/s",
            "of FMA",
            "best",
            "of step",
        ]);
        let all_products = Part::sum("all products", products);
        let all_passes = Part::sum("all passes", passes);
        for part in products.iter().chain([&all_products]) {
            table.add_row([
                part.name.clone(),
                part.shape.clone(),
                part.strides.clone(),
                part.calls.to_string(),
                format!("{:.2}", part.ms),
                format!("{:.1}", part.gflop_per_s()),
                of_fma(part.gflop_per_s(), fma_gflop_per_s),
                of_fma(part.best_gflop_per_s(), best_fma_gflop_per_s),
                percent(part.share),
            ]);
        }
        let mut others = plain_table(["pass", "calls", "ms", "least ms", "of step"]);
        let timed = all_products.ms + all_passes.ms;
        for part in passes.iter().chain([&all_passes]) {
            others.add_row([
                part.name.clone(),
                part.calls.to_string(),
                format!("{:.2}", part.ms),
                format!("{:.2}", part.least_ms),
                percent(part.share),
            ]);
        }
        let whole = format!(
            "threads: {threads}, fused multiply-adds: {fma_gflop_per_s:.1} GFLOP/s (best \
             {best_fma_gflop_per_s:.1}); a step whose parts are timed takes {}, {} of it outside the parts",
            duration(step_ms / 1e3),
            duration((step_ms - timed).max(0.0) / 1e3),
        );
        let embed = format!(
            "embeddings of the batch's graphs: {}, {:.2} times the minimum for their products",
            duration(embed_ms / 1e3),
            embed_ms / embed_floor_ms,
        );
        [wrap(&whole, 0, 2), table.to_string(), others.to_string(), embed].join("\n")
    }
}

fn taken(log: &Log) -> Vec<(Work, Duration)> {
    log.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
}

/// Times of each kind of work.
#[derive(Default)]
struct Parts {
    /// Place of the first call, number of calls in a step, and ms of all calls of each step.
    of: BTreeMap<Work, (usize, usize, Vec<f64>)>,
}

impl Parts {
    fn add_step(&mut self, log: Vec<(Work, Duration)>) {
        let mut step: BTreeMap<Work, (usize, usize, f64)> = BTreeMap::new();
        for (place, (work, time)) in log.into_iter().enumerate() {
            let (_, calls, ms) = step.entry(work).or_insert((place, 0, 0.0));
            *calls += 1;
            *ms += time.as_secs_f64() * 1e3;
        }
        for (work, (place, calls, ms)) in step {
            self.of.entry(work).or_insert((place, calls, Vec::new())).2.push(ms);
        }
    }

    /// Products and passes of a step that takes `step_ms`.
    fn finish(self, step_ms: f64) -> (Vec<Part>, Vec<Part>) {
        let mut parts: Vec<(usize, Work, Part)> = Vec::new();
        for (work, (place, calls, samples)) in self.of {
            let least_ms = samples.iter().copied().fold(f64::INFINITY, f64::min);
            let ms = Times::of(samples).ms;
            let (name, shape, strides, flops) = match work {
                Work::Product(product) => {
                    let Product { operands, rows, columns, depth, strides: [left, right] } = product;
                    let shape = format!("{rows}, {columns}, {depth}");
                    (operands, shape, format!("{left}, {right}"), product.flops() * calls as u64)
                }
                Work::Pass(name) => (name, String::new(), String::new(), 0),
            };
            let name = name.into();
            let part = Part { name, shape, strides, calls, flops, ms, least_ms, share: ms / step_ms };
            parts.push((place, work, part));
        }
        parts.sort_by_key(|&(place, ..)| place);
        let (products, passes): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(_, work, _)| matches!(work, Work::Product(_)));
        let part = |(_, _, part)| part;
        let mut passes: Vec<Part> = passes.into_iter().map(part).collect();
        passes.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        (products.into_iter().map(part).collect(), passes)
    }
}

/// Rate of fused multiply-adds on all of rayon's threads at once, in GFLOP/s.
fn fma_rate() -> f64 {
    let started = Instant::now();
    let flops: f64 = rayon::broadcast(|_| Arch::new().dispatch(Burst)).iter().sum();
    flops / started.elapsed().as_secs_f64() / 1e9
}

/// Chains of multiply-adds in registers; returns the number of floating-point operations.
struct Burst;

impl WithSimd for Burst {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (factor, term) = (simd.splat_f32s(black_box(0.9)), simd.splat_f32s(black_box(0.1)));
        let mut sums = [simd.splat_f32s(1.0); CHAINS];
        for _ in 0..BURST_STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        (2 * BURST_STEPS * CHAINS * size_of::<S::f32s>() / size_of::<f32>()) as f64
    }
}

/// Name of the processor, if the system tells it.
pub fn processor_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::sizes::SMALL;
    use crate::bench::step::step_flops;

    /// Every product of the formulas is timed, and no time is counted twice.
    #[test]
    fn the_parts_make_up_the_step() {
        let sizes = Sizes::new(SMALL, 2);
        let processor = Processor::measure(&sizes, Precision::Fp32, Duration::from_millis(1)).unwrap();
        let flops: u64 = processor.products.iter().map(|part| part.flops).sum();
        assert_eq!(flops, step_flops(&sizes));
        let least: f64 = processor.products.iter().chain(&processor.passes).map(|part| part.least_ms).sum();
        assert!(least > 0.0 && least <= processor.step_ms, "{least} of {}", processor.step_ms);
        let (rate, best) = (processor.fma_gflop_per_s, processor.best_fma_gflop_per_s);
        assert!(rate > 0.0 && rate <= best, "{rate} of {best}");
        let passes: Vec<&str> = processor.passes.iter().map(|part| &*part.name).collect();
        for name in ["adam", "statistics", "pool", "pool, backward", "batch norm, backward"] {
            assert!(passes.contains(&name), "{passes:?}");
        }
    }
}
