//! Times of the products and passes of a step, for the bench.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scenerank_matmul::{Accumulate, Amx, MatMut, MatRef, Packed, PackedBf16};

/// Work that is timed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A product of matrices, packing included.
    Product(Product),
    /// A pass over rows between products, by its name.
    Pass(&'static str),
}

/// A product `[rows, depth] [depth, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Product {
    /// The operands as in the formulas, such as `x W^T`.
    pub operands: &'static str,
    /// Number of rows of the product.
    pub rows: usize,
    /// Number of columns of the product.
    pub columns: usize,
    /// Number of terms of a sum.
    pub depth: usize,
    /// Distance between stored rows of the left and of the right operand, in values.
    pub strides: [usize; 2],
}

impl Product {
    /// Number of floating-point operations.
    pub fn flops(&self) -> u64 {
        2 * (self.rows * self.columns * self.depth) as u64
    }
}

/// Work and its times in the order of the calls, shared with the bench.
pub type Log = Arc<Mutex<Vec<(Work, Duration)>>>;

/// Clock of a backend; off by default.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Log>);

/// Running measurement, which ends when it is dropped.
pub struct Running<'a>(Option<(&'a Log, Work, Instant)>);

impl Clock {
    /// A clock that writes to `log`.
    pub fn writing_to(log: Log) -> Self {
        Clock(Some(log))
    }

    /// Begins to time `work`.
    pub fn time(&self, work: Work) -> Running<'_> {
        Running(self.0.as_ref().map(|log| (log, work, Instant::now())))
    }

    /// Times a pass.
    pub fn pass<R>(&self, name: &'static str, run: impl FnOnce() -> R) -> R {
        let _running = self.time(Work::Pass(name));
        run()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some((log, work, started)) = self.0
            && let Ok(mut log) = log.lock()
        {
            log.push((work, started.elapsed()));
        }
    }
}

/// Timed products.
#[derive(Debug, Default)]
pub struct Products {
    right: RightOperand,
    clock: Clock,
}

impl Products {
    /// Products timed by `clock`: by `amx` of operands that are bf16 values, without it in single precision.
    pub fn new(amx: Option<Amx>, clock: Clock) -> Self {
        let right = match amx {
            Some(amx) => RightOperand::Bf16(PackedBf16::new(amx)),
            None => RightOperand::default(),
        };
        Products { right, clock }
    }

    /// `c = a b` or `c += a b` on all of rayon's threads. `operands` names a and b.
    pub fn multiply(
        &mut self,
        operands: &'static str,
        c: MatMut<'_, f32>,
        accumulate: Accumulate,
        a: MatRef<'_, f32>,
        b: MatRef<'_, f32>,
    ) {
        let (rows, columns, depth) = (c.rows(), c.columns(), a.columns());
        let product = Product { operands, rows, columns, depth, strides: [a.stride(), b.stride()] };
        let _running = self.clock.time(Work::Product(product));
        self.right.pack(b);
        self.right.multiply(c, accumulate, a);
    }

    /// `c_i = a_i b` for both i, with b packed once.
    pub fn multiply_both(
        &mut self,
        operands: &'static str,
        [c, other_c]: [MatMut<'_, f32>; 2],
        [a, other_a]: [MatRef<'_, f32>; 2],
        b: MatRef<'_, f32>,
    ) {
        let (rows, columns, depth) = (c.rows() + other_c.rows(), c.columns(), a.columns());
        let product = Product { operands, rows, columns, depth, strides: [a.stride(), b.stride()] };
        let _running = self.clock.time(Work::Product(product));
        self.right.pack(b);
        rayon::join(
            || self.right.multiply(c, Accumulate::Replace, a),
            || self.right.multiply(other_c, Accumulate::Replace, other_a),
        );
    }
}

/// The packed right operand of a product.
#[derive(Debug)]
enum RightOperand {
    Single(Packed<f32>),
    Bf16(PackedBf16),
}

impl Default for RightOperand {
    fn default() -> Self {
        RightOperand::Single(Packed::default())
    }
}

impl RightOperand {
    fn pack(&mut self, b: MatRef<'_, f32>) {
        match self {
            RightOperand::Single(packed) => packed.pack(b),
            RightOperand::Bf16(packed) => packed.pack(b),
        }
    }

    /// `c = a b` or `c += a b` on all of rayon's threads.
    fn multiply(&self, c: MatMut<'_, f32>, accumulate: Accumulate, a: MatRef<'_, f32>) {
        match self {
            RightOperand::Single(packed) => packed.multiply_in_parallel(c, accumulate, a),
            RightOperand::Bf16(packed) => packed.multiply_in_parallel(c, accumulate, a),
        }
    }
}
