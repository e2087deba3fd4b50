//! Opcodes that compute registers from registers: functions over the 32 lanes of a warp.

#![allow(clippy::neg_cmp_op_on_partial_ord)] // unordered comparisons: true for NaN

use crate::operation::Op;
use crate::rounding::{add_rz, bf16, flush, fma_rm, relu, tf32_rna};

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}
fn g(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// Bits of an f32 result. NaN results are NVIDIA's canonical NaN, 0x7fffffff.
fn c(value: f32) -> u32 {
    if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
}
/// Bits of an f64 result, with one NaN. Hardware keeps a payload, which no kernel reads.
fn e(value: f64) -> u64 {
    if value.is_nan() { 0xfff8_0000_0000_0000 } else { value.to_bits() }
}

macro_rules! u32op {
    ($f:expr) => {
        (
            Op::U32(|a, d| {
                let f: fn(u32) -> u32 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i]);
                }
            }),
            &[false],
        )
    };
}
macro_rules! u64op {
    ($f:expr) => {
        (
            Op::U64(|a, d| {
                let f: fn(u64) -> u64 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i]);
                }
            }),
            &[true],
        )
    };
}
macro_rules! u32to64 {
    ($f:expr) => {
        (
            Op::U32to64(|a, d| {
                let f: fn(u32) -> u64 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i]);
                }
            }),
            &[false],
        )
    };
}
macro_rules! u64to32 {
    ($f:expr) => {
        (
            Op::U64to32(|a, d| {
                let f: fn(u64) -> u32 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i]);
                }
            }),
            &[true],
        )
    };
}
macro_rules! b32 {
    ($f:expr) => {
        (
            Op::B32(|a, b, d| {
                let f: fn(u32, u32) -> u32 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i]);
                }
            }),
            &[false, false],
        )
    };
}
macro_rules! b64 {
    ($f:expr) => {
        (
            Op::B64(|a, b, d| {
                let f: fn(u64, u64) -> u64 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i]);
                }
            }),
            &[true, true],
        )
    };
}
macro_rules! b32to64 {
    ($f:expr) => {
        (
            Op::B32to64(|a, b, d| {
                let f: fn(u32, u32) -> u64 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i]);
                }
            }),
            &[false, false],
        )
    };
}
macro_rules! b64to32 {
    ($f:expr) => {
        (
            Op::B64to32(|a, b, d| {
                let f: fn(u64, u64) -> u32 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i]);
                }
            }),
            &[true, true],
        )
    };
}
macro_rules! t32 {
    ($f:expr) => {
        (
            Op::T32(|a, b, c, d| {
                let f: fn(u32, u32, u32) -> u32 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i], c.0[i]);
                }
            }),
            &[false, false, false],
        )
    };
}
macro_rules! t64 {
    ($f:expr) => {
        (
            Op::T64(|a, b, c, d| {
                let f: fn(u64, u64, u64) -> u64 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i], c.0[i]);
                }
            }),
            &[true, true, true],
        )
    };
}
macro_rules! q32 {
    ($f:expr) => {
        (
            Op::Q32(|a, b, c, e, d| {
                let f: fn(u32, u32, u32, u32) -> u32 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i], c.0[i], e.0[i]);
                }
            }),
            &[false, false, false, false],
        )
    };
}
macro_rules! shift64 {
    ($f:expr) => {
        (
            Op::Shift64(|a, b, d| {
                let f: fn(u64, u32) -> u64 = $f;
                for i in 0..32 {
                    d.0[i] = f(a.0[i], b.0[i]);
                }
            }),
            &[true, false],
        )
    };
}

/// Operation of an opcode, and whether each of its sources has 64 bits.
#[allow(clippy::neg_cmp_op_on_partial_ord)] // an unordered comparison is the negation of an ordered one
pub(crate) fn decode(opcode: &str) -> Option<(Op, &'static [bool])> {
    let (op, wides): (Op, &'static [bool]) = match opcode {
        // ---- f32
        "add.f32" | "add.rn.f32" => b32!(|a, b| c(f(a) + f(b))),
        "add.rz.f32" => b32!(|a, b| c(add_rz(f(a), f(b)))),
        "sub.f32" | "sub.rn.f32" => b32!(|a, b| c(f(a) - f(b))),
        "mul.f32" | "mul.rn.f32" => b32!(|a, b| c(f(a) * f(b))),
        "div.rn.f32" => b32!(|a, b| c(f(a) / f(b))),
        "fma.rn.f32" => t32!(|a, b, x| c(f(a).mul_add(f(b), f(x)))),
        "fma.rm.f32" => t32!(|a, b, x| c(fma_rm(f(a), f(b), f(x)))),
        "neg.f32" => u32op!(|a| a ^ 0x8000_0000),
        "abs.f32" => u32op!(|a| a & 0x7fff_ffff),
        "rcp.rn.f32" => u32op!(|a| c(1.0 / f(a))),
        "sqrt.rn.f32" => u32op!(|a| c(f(a).sqrt())),
        "ex2.approx.ftz.f32" => u32op!(|a| c(flush((f64::from(flush(f(a)))).exp2() as f32))),
        "cvt.sat.f32.f32" => u32op!(|a| if f(a).is_nan() { 0 } else { f(a).clamp(0.0, 1.0).to_bits() }),
        "max.f32" => b32!(|a, b| f(a).max(f(b)).to_bits()),
        "min.f32" => b32!(|a, b| f(a).min(f(b)).to_bits()),
        // ---- f64
        "add.f64" | "add.rn.f64" => b64!(|a, b| e(g(a) + g(b))),
        "sub.f64" | "sub.rn.f64" => b64!(|a, b| e(g(a) - g(b))),
        "mul.f64" | "mul.rn.f64" => b64!(|a, b| e(g(a) * g(b))),
        "div.rn.f64" => b64!(|a, b| e(g(a) / g(b))),
        "fma.rn.f64" => t64!(|a, b, x| e(g(a).mul_add(g(b), g(x)))),
        "neg.f64" => u64op!(|a| a ^ (1 << 63)),
        "abs.f64" => u64op!(|a| a & !(1 << 63)),
        "rcp.rn.f64" => u64op!(|a| e(1.0 / g(a))),
        "sqrt.rn.f64" => u64op!(|a| e(g(a).sqrt())),
        // ---- conversions
        "cvt.f64.f32" => u32to64!(|a| e(f64::from(f(a)))),
        "cvt.rn.f32.f64" => u64to32!(|a| c(g(a) as f32)),
        "cvt.rn.f32.s32" => u32op!(|a| (a as i32 as f32).to_bits()),
        "cvt.rn.f32.u32" => u32op!(|a| (a as f32).to_bits()),
        "cvt.rn.f64.s32" => u32to64!(|a| f64::from(a as i32).to_bits()),
        "cvt.rn.f64.u32" => u32to64!(|a| f64::from(a).to_bits()),
        "cvt.rn.f64.s64" => u64op!(|a| (a as i64 as f64).to_bits()),
        "cvt.s64.s32" => u32to64!(|a| i64::from(a as i32) as u64),
        "cvt.u64.u32" => u32to64!(u64::from),
        "low cvt.s64.s32" => u64op!(|a| i64::from(a as i32) as u64),
        "low cvt.u64.u32" => u64op!(|a| a & 0xffff_ffff),
        "cvt.u32.u64" => u64to32!(|a| a as u32),
        "cvt.u32.u16" => u32op!(|a| a & 0xffff),
        "cvt.u16.u32" => u32op!(|a| a & 0xffff),
        "cvt.rn.bf16x2.f32" => b32!(|high, low| bf16(high) << 16 | bf16(low)),
        "cvt.rn.relu.bf16x2.f32" => b32!(|high, low| bf16(relu(high)) << 16 | bf16(relu(low))),
        "cvt.rna.tf32.f32" => u32op!(tf32_rna),
        // ---- integers
        "add.s32" | "add.u32" => b32!(|a, b| a.wrapping_add(b)),
        "sub.s32" | "sub.u32" => b32!(|a, b| a.wrapping_sub(b)),
        "mul.lo.s32" | "mul.lo.u32" => b32!(|a, b| a.wrapping_mul(b)),
        "mad.lo.s32" | "mad.lo.u32" => t32!(|a, b, x| a.wrapping_mul(b).wrapping_add(x)),
        "mul.hi.s32" => b32!(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        "mul.hi.u32" => b32!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        "prmt.b32" => t32!(permute),
        "mul.wide.s32" => b32to64!(|a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        "mul.wide.u32" => b32to64!(|a, b| u64::from(a) * u64::from(b)),
        "mul.wide.u16" => b32!(|a, b| (a & 0xffff) * (b & 0xffff)),
        "div.s32" => b32!(|a, b| if b == 0 { 0xdead_beef } else { (a as i32).wrapping_div(b as i32) as u32 }),
        "div.u32" => b32!(|a, b| a.checked_div(b).unwrap_or(0xdead_beef)),
        "rem.s32" => b32!(|a, b| if b == 0 { 0xdead_beef } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        "rem.u32" => b32!(|a, b| a.checked_rem(b).unwrap_or(0xdead_beef)),
        "min.s32" => b32!(|a, b| (a as i32).min(b as i32) as u32),
        "max.s32" => b32!(|a, b| (a as i32).max(b as i32) as u32),
        "min.u32" => b32!(|a, b| a.min(b)),
        "max.u32" => b32!(|a, b| a.max(b)),
        "neg.s32" => u32op!(|a| a.wrapping_neg()),
        "and.b32" | "and.b16" | "and.pred" => b32!(|a, b| a & b),
        "or.b32" | "or.pred" => b32!(|a, b| a | b),
        "xor.b32" => b32!(|a, b| a ^ b),
        "xor.pred" => b32!(|a, b| u32::from((a != 0) ^ (b != 0))),
        "not.b32" => u32op!(|a| !a),
        "not.pred" => u32op!(|a| u32::from(a == 0)),
        "shl.b32" => b32!(|a, b| if b > 31 { 0 } else { a << b }),
        "shr.u32" | "shr.b32" => b32!(|a, b| if b > 31 { 0 } else { a >> b }),
        "shr.s32" => b32!(|a, b| ((a as i32) >> b.min(31)) as u32),
        "popc.b32" => u32op!(|a| a.count_ones()),
        "clz.b32" => u32op!(|a| a.leading_zeros()),
        "brev.b32" => u32op!(|a| a.reverse_bits()),
        "bfind.shiftamt.u32" => u32op!(|a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        "bfi.b32" => q32!(|a, b, at, len| {
            let (at, len) = (at & 0xff, len & 0xff);
            let mask = if len == 0 || at > 31 { 0 } else { (u32::MAX >> (32 - len.min(32))) << at };
            (b & !mask) | (if at > 31 { 0 } else { a << at } & mask)
        }),
        "add.s64" | "add.u64" => b64!(|a, b| a.wrapping_add(b)),
        "sub.s64" | "sub.u64" => b64!(|a, b| a.wrapping_sub(b)),
        "mul.lo.s64" | "mul.lo.u64" => b64!(|a, b| a.wrapping_mul(b)),
        "div.u64" => b64!(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        "rem.u64" => b64!(|a, b| a.checked_rem(b).unwrap_or(u64::MAX)),
        "div.s64" => b64!(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        "rem.s64" => b64!(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        "min.s64" => b64!(|a, b| (a as i64).min(b as i64) as u64),
        "max.s64" => b64!(|a, b| (a as i64).max(b as i64) as u64),
        "min.u64" => b64!(|a, b| a.min(b)),
        "max.u64" => b64!(|a, b| a.max(b)),
        "and.b64" => b64!(|a, b| a & b),
        "or.b64" => b64!(|a, b| a | b),
        "xor.b64" => b64!(|a, b| a ^ b),
        "not.b64" => u64op!(|a| !a),
        "neg.s64" => u64op!(|a| a.wrapping_neg()),
        "shl.b64" => shift64!(|a, b| if b > 63 { 0 } else { a << b }),
        "shr.u64" | "shr.b64" => shift64!(|a, b| if b > 63 { 0 } else { a >> b }),
        "shr.s64" => shift64!(|a, b| ((a as i64) >> b.min(63)) as u64),
        // ---- selections
        "selp.b32" | "selp.u32" | "selp.s32" | "selp.f32" | "selp.u16" | "selp.b16" => {
            t32!(|a, b, p| if p != 0 { a } else { b })
        }
        "selp.b64" | "selp.u64" | "selp.s64" | "selp.f64" => (Op::Select64, &[true, true, false]),
        // ---- comparisons
        "setp.eq.s32" | "setp.eq.b32" | "setp.eq.u32" => b32!(|a, b| u32::from(a == b)),
        "setp.ne.s32" | "setp.ne.b32" | "setp.ne.u32" => b32!(|a, b| u32::from(a != b)),
        "setp.eq.s16" | "setp.eq.b16" | "setp.eq.u16" => b32!(|a, b| u32::from(a & 0xffff == b & 0xffff)),
        "setp.ne.s16" | "setp.ne.b16" | "setp.ne.u16" => b32!(|a, b| u32::from(a & 0xffff != b & 0xffff)),
        "setp.lt.s32" => b32!(|a, b| u32::from((a as i32) < b as i32)),
        "setp.le.s32" => b32!(|a, b| u32::from(a as i32 <= b as i32)),
        "setp.gt.s32" => b32!(|a, b| u32::from(a as i32 > b as i32)),
        "setp.ge.s32" => b32!(|a, b| u32::from(a as i32 >= b as i32)),
        "setp.lt.u32" => b32!(|a, b| u32::from(a < b)),
        "setp.le.u32" => b32!(|a, b| u32::from(a <= b)),
        "setp.gt.u32" => b32!(|a, b| u32::from(a > b)),
        "setp.ge.u32" => b32!(|a, b| u32::from(a >= b)),
        "setp.eq.f32" => b32!(|a, b| u32::from(f(a) == f(b))),
        "setp.ne.f32" => b32!(|a, b| u32::from(f(a) < f(b) || f(a) > f(b))),
        "setp.lt.f32" => b32!(|a, b| u32::from(f(a) < f(b))),
        "setp.le.f32" => b32!(|a, b| u32::from(f(a) <= f(b))),
        "setp.gt.f32" => b32!(|a, b| u32::from(f(a) > f(b))),
        "setp.ge.f32" => b32!(|a, b| u32::from(f(a) >= f(b))),
        "setp.equ.f32" => b32!(|a, b| u32::from(!(f(a) < f(b) || f(a) > f(b)))),
        "setp.neu.f32" => b32!(|a, b| u32::from(f(a) != f(b))),
        "setp.ltu.f32" => b32!(|a, b| u32::from(!(f(a) >= f(b)))),
        "setp.leu.f32" => b32!(|a, b| u32::from(!(f(a) > f(b)))),
        "setp.gtu.f32" => b32!(|a, b| u32::from(!(f(a) <= f(b)))),
        "setp.geu.f32" => b32!(|a, b| u32::from(!(f(a) < f(b)))),
        "setp.nan.f32" => b32!(|a, b| u32::from(f(a).is_nan() || f(b).is_nan())),
        "setp.num.f32" => b32!(|a, b| u32::from(!f(a).is_nan() && !f(b).is_nan())),
        "setp.eq.s64" | "setp.eq.b64" | "setp.eq.u64" => b64to32!(|a, b| u32::from(a == b)),
        "setp.ne.s64" | "setp.ne.b64" | "setp.ne.u64" => b64to32!(|a, b| u32::from(a != b)),
        "setp.lt.s64" => b64to32!(|a, b| u32::from((a as i64) < b as i64)),
        "setp.le.s64" => b64to32!(|a, b| u32::from(a as i64 <= b as i64)),
        "setp.gt.s64" => b64to32!(|a, b| u32::from(a as i64 > b as i64)),
        "setp.ge.s64" => b64to32!(|a, b| u32::from(a as i64 >= b as i64)),
        "setp.lt.u64" => b64to32!(|a, b| u32::from(a < b)),
        "setp.le.u64" => b64to32!(|a, b| u32::from(a <= b)),
        "setp.gt.u64" => b64to32!(|a, b| u32::from(a > b)),
        "setp.ge.u64" => b64to32!(|a, b| u32::from(a >= b)),
        "setp.eq.f64" => b64to32!(|a, b| u32::from(g(a) == g(b))),
        "setp.neu.f64" => b64to32!(|a, b| u32::from(g(a) != g(b))),
        "setp.lt.f64" => b64to32!(|a, b| u32::from(g(a) < g(b))),
        "setp.le.f64" => b64to32!(|a, b| u32::from(g(a) <= g(b))),
        "setp.gt.f64" => b64to32!(|a, b| u32::from(g(a) > g(b))),
        "setp.ge.f64" => b64to32!(|a, b| u32::from(g(a) >= g(b))),
        "setp.ltu.f64" => b64to32!(|a, b| u32::from(!(g(a) >= g(b)))),
        "setp.leu.f64" => b64to32!(|a, b| u32::from(!(g(a) > g(b)))),
        "setp.gtu.f64" => b64to32!(|a, b| u32::from(!(g(a) <= g(b)))),
        "setp.geu.f64" => b64to32!(|a, b| u32::from(!(g(a) < g(b)))),
        _ => return None,
    };
    Some((op, wides))
}

/// `prmt`: byte i of the result is the byte of b and a, of 8, that digit i of the selector names, or its sign.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let chosen = (0..4).map(|i| {
        let digit = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (digit & 7))) as u8;
        if digit & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    });
    chosen.enumerate().fold(0, |all, (i, byte)| all | u32::from(byte) << (8 * i))
}

#[test]
fn bytes_are_permuted() {
    assert_eq!(permute(0x8322_1100, 0x7766_5544, 0xb350), 0xff83_5500);
}
