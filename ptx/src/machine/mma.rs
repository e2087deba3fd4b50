//! Products of matrix fragments. `d [16, 8] = a [16, k] b [k, 8] + c [16, 8]`.
//!
//! The fragments follow the layouts that CuTe's traits for SM80 give: (thread, value) to `m + 16 k` of a, `n + 8 k` of b,
//! and `m + 16 n` of c and d.

use super::Machine;
use super::warp::Warp;
use crate::kernel::Inst;

/// How a product is summed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProductSum {
    /// In f64, rounded once to nearest.
    Exact,
    /// In f32, one product after another, as the project's emulator does.
    Sequential,
    /// In f64, cut off once towards zero: close to what tensor cores are known to do.
    Truncated,
}

impl Machine<'_> {
    pub(super) fn multiply(&mut self, inst: &Inst, tf32: bool, warp: &mut Warp) {
        let mut a = [[0f32; 16]; 16]; // [m][k]
        let mut b = [[0f32; 16]; 8]; // [n][k]
        let mut c = [[0f32; 8]; 16]; // [m][n]
        let value = |operand: usize, lane: usize| warp.registers.get(inst.list[operand], lane) as u32;
        for lane in 0..32 {
            let (t0, t1) = (lane % 4, lane / 4);
            for i in 0..4 {
                let bits = value(4 + i, lane);
                if tf32 {
                    let at = t0 * 16 + t1 + (i % 2) * 8 + (i / 2) * 64;
                    a[at % 16][at / 16] = f32::from_bits(bits & 0xffff_e000);
                } else {
                    for half in 0..2 {
                        let at = t0 * 32 + t1 + half * 16 + (i % 2) * 8 + (i / 2) * 128;
                        a[at % 16][at / 16] = f32::from_bits((bits >> (16 * half)) << 16);
                    }
                }
            }
            for i in 0..2 {
                let bits = value(8 + i, lane);
                if tf32 {
                    let at = t0 * 8 + t1 + i * 32;
                    b[at % 8][at / 8] = f32::from_bits(bits & 0xffff_e000);
                } else {
                    for half in 0..2 {
                        let at = t0 * 16 + t1 + half * 8 + i * 64;
                        b[at % 8][at / 8] = f32::from_bits((bits >> (16 * half)) << 16);
                    }
                }
            }
            for i in 0..4 {
                let at = t0 * 32 + t1 + (i % 2) * 16 + (i / 2) * 8;
                c[at % 16][at / 16] = f32::from_bits(value(10 + i, lane));
            }
        }
        let inner = if tf32 { 8 } else { 16 };
        for (row, a) in c.iter_mut().zip(&a) {
            for (c, b) in row.iter_mut().zip(&b) {
                *c = self.options.products.sum(*c, &a[..inner], &b[..inner]);
            }
        }
        for lane in 0..32 {
            for i in 0..4 {
                let at = lane % 4 * 32 + lane / 4 + (i % 2) * 16 + (i / 2) * 8;
                warp.registers.set(inst.list[i], lane, u64::from(c[at % 16][at / 16].to_bits()));
            }
        }
    }
}

impl ProductSum {
    pub(super) fn sum(self, c: f32, a: &[f32], b: &[f32]) -> f32 {
        let pairs = a.iter().zip(b);
        if self == ProductSum::Sequential {
            return pairs.fold(c, |sum, (a, b)| sum + a * b);
        }
        let sum = pairs.fold(f64::from(c), |sum, (&a, &b)| sum + f64::from(a) * f64::from(b));
        let near = sum as f32;
        let beyond = self == ProductSum::Truncated && f64::from(near).abs() > sum.abs();
        match (beyond, near > 0.0) {
            (false, _) => near,
            (true, true) => near.next_down(),
            (true, false) => near.next_up(),
        }
    }
}
