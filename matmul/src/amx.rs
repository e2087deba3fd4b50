//! Products of bf16 operands with sums in single precision, by the processor's matrix instructions (Intel AMX).
//!
//! The instructions work on eight registers, each a tile of 16 lines of 64 bytes. A tile of the left operand holds 32 terms of
//! 16 rows: a line is a row. A tile of the right operand holds 32 terms of 16 columns: a line is two terms, and a column's two
//! values lie side by side. One instruction adds the products of two tiles to a tile of 16 x 16 sums.
//!
//! Operands come in single precision. Packing rounds them to bf16, to the nearest, ties to even.
//!
//! A value of the product is a sum in ascending order of the inner index, two terms at a time, whose bits depend neither on its
//! place nor on the number of threads. Values below the least normal number count as zero.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, __m512, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_cvtneps_pbh,
    _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_slli_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};
use std::mem::{MaybeUninit, transmute};
use std::sync::OnceLock;

use bytemuck::Zeroable;
use rayon::prelude::*;

use super::task::Task;
use super::{Accumulate, Line, MatMut, MatRef};

/// Rows of a tile of the left operand, columns of a tile of the right one, and lines of both.
const SIDE: usize = 16;
/// Terms of a tile.
const TERMS: usize = 32;
/// Number of values that a vector register holds.
const LANES: usize = 16;
/// Rows and columns of the product that are summed together: two tiles by two.
const SQUARE: usize = 2 * SIDE;
/// Rows of a block of the left operand.
const BLOCK_ROWS: usize = 2 * SQUARE;
/// Terms of a block of the left operand.
const BLOCK_DEPTH: usize = 512;

/// A tile as it lies in memory.
type Tile = [Line; SIDE];

/// The matrix instructions: proof that the processor has them and that the system lets this process use them.
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

impl Amx {
    /// The instructions, if this process may use them. Asks the system once.
    pub fn new() -> Option<Amx> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        PERMITTED.get_or_init(|| has_instructions() && is_permitted()).then_some(Amx(()))
    }
}

fn has_instructions() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16_PRODUCTS: u32 = 1 << 22;
    let vectors = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16");
    // SAFETY: every processor with these vectors tells its features. Newer compilers know that.
    #[allow(unused_unsafe)]
    let features = || unsafe { __cpuid_count(7, 0) }.edx;
    vectors && features() & (TILES | BF16_PRODUCTS) == TILES | BF16_PRODUCTS
}

/// Linux gives a process the tile registers when it asks for them.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const REQUEST_STATE: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    // SAFETY: the call has no pointer argument. It only lets the threads of this process have more state.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_STATE, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The right operand `[depth, columns]` of products, rounded to bf16.
#[derive(Debug)]
pub struct PackedBf16 {
    /// Pairs of panels of 16 columns. In a pair, `[depth / 32, 2]` tiles. What lies beyond the operand is zeros.
    lines: Vec<Line>,
    depth: usize,
    columns: usize,
    amx: Amx,
}

impl PackedBf16 {
    /// An operand without values.
    pub fn new(amx: Amx) -> Self {
        PackedBf16 { lines: Vec::new(), depth: 0, columns: 0, amx }
    }

    /// Packs `b` in place of what was packed before, on all of rayon's threads.
    pub fn pack(&mut self, b: MatRef<'_, f32>) {
        (self.depth, self.columns) = (b.rows(), b.columns());
        let tiles = self.depth.div_ceil(TERMS) * self.columns.div_ceil(SQUARE) * 2;
        if self.lines.len() < tiles * SIDE {
            self.lines.resize(tiles * SIDE, Line::zeroed());
        }
        if tiles == 0 {
            return;
        }
        let by_column = b.transpose();
        let panels = self.lines[..tiles * SIDE].par_chunks_mut(self.depth.div_ceil(TERMS) * 2 * SIDE);
        panels.enumerate().for_each(|(index, lines)| {
            let columns = index * SQUARE..by_column.rows().min((index + 1) * SQUARE);
            let tiles: &mut [Tile] = lines.as_chunks_mut().0;
            // SAFETY: an `Amx` exists, so the processor has the instructions. `pack` writes nothing but tiles.
            unsafe { pack(by_column.row_range(columns), Order::Terms, as_uninit(tiles)) };
        });
    }

    /// `c = a b` or `c += a b` on all of rayon's threads.
    pub fn multiply_in_parallel(&self, c: MatMut<'_, f32>, accumulate: Accumulate, a: MatRef<'_, f32>) {
        assert_eq!((a.columns(), c.columns()), (self.depth, self.columns), "columns of a and of c");
        assert_eq!(a.rows(), c.rows(), "rows of a and of c");
        Task { c, a, first_row: 0 }.in_parts(SQUARE, BLOCK_ROWS, &|Task { c, a, .. }| {
            Multiply { c, accumulate, a, b: self }.alone();
        });
    }
}

/// A product on one thread.
struct Multiply<'a> {
    c: MatMut<'a, f32>,
    accumulate: Accumulate,
    a: MatRef<'a, f32>,
    b: &'a PackedBf16,
}

impl Multiply<'_> {
    /// Multiplies at most `BLOCK_ROWS` rows. Not inlined, so that its block does not lie on the stack for each level of the
    /// division.
    #[inline(never)]
    fn alone(self) {
        let Multiply { mut c, accumulate, a, b } = self;
        if b.depth == 0 && accumulate == Accumulate::Replace {
            (0..c.rows()).for_each(|row| c.row_mut(row).fill(0.0));
        }
        let mut memory = [const { MaybeUninit::<Tile>::uninit() }; BLOCK_ROWS * BLOCK_DEPTH / (SIDE * TERMS)];
        let panel_tiles = b.depth.div_ceil(TERMS) * 2;
        let _tiles = Tiles::new(b.amx);
        for first in (0..b.depth).step_by(BLOCK_DEPTH) {
            let terms = first..b.depth.min(first + BLOCK_DEPTH);
            let to = if first == 0 { accumulate } else { Accumulate::Add };
            let steps = terms.len().div_ceil(TERMS);
            let pairs = c.rows().div_ceil(SQUARE);
            let left = &mut memory[..pairs * steps * 2];
            for (pair, left) in left.chunks_exact_mut(steps * 2).enumerate() {
                let rows = pair * SQUARE..a.rows().min((pair + 1) * SQUARE);
                // SAFETY: an `Amx` exists, so the processor has the instructions.
                unsafe { pack(a.row_range(rows).column_range(terms.clone()), Order::Rows, left) };
            }
            // SAFETY: `pack` wrote all of these tiles.
            let left: &[Tile] = unsafe { std::slice::from_raw_parts(left.as_ptr().cast(), left.len()) };
            let right: &[Tile] = b.lines.as_chunks().0;
            let right = right.chunks_exact(panel_tiles).take(b.columns.div_ceil(SQUARE));
            // 32 rows of the left operand stay in the first-level cache, while the right operand comes from the second.
            for (pair, left) in left.chunks_exact(steps * 2).enumerate() {
                for (panel, right) in right.clone().enumerate() {
                    let right = &right[first / TERMS * 2..][..steps * 2];
                    square(&mut c, (pair * SQUARE, panel * SQUARE), to, left, right);
                }
            }
        }
    }
}

/// Tile registers of this thread, all of them of 16 lines of 64 bytes, until it is dropped.
struct Tiles(());

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

impl Tiles {
    fn new(_: Amx) -> Self {
        let (mut line_bytes, mut lines) = ([0; 16], [0; 16]);
        line_bytes[..8].fill(size_of::<Line>() as u16);
        lines[..8].fill(SIDE as u8);
        let all = Configuration { palette: 1, start_row: 0, reserved: [0; 14], line_bytes, lines };
        // SAFETY: an `Amx` exists, so the processor and the system allow it. The configuration is a legal one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &all, options(nostack, preserves_flags)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the registers were configured by `new`, and no code below uses them.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Adds the products of `left` and `right`, `[steps, 2]` tiles each, to zeros or to the square of `c` at `at`.
///
/// The caller holds a [`Tiles`].
fn square(
    c: &mut MatMut<'_, f32>,
    (row, column): (usize, usize),
    to: Accumulate,
    left: &[Tile],
    right: &[Tile],
) {
    let (rows, columns) = (SQUARE.min(c.rows() - row), SQUARE.min(c.columns() - column));
    let mut beside = [[0.0f32; SQUARE]; SQUARE];
    if (rows, columns) == (SQUARE, SQUARE) {
        let first = c.row_mut(row)[column..].as_mut_ptr();
        // SAFETY: the square lies within `c`, which is borrowed for the call.
        return unsafe { sum(first, c.row_stride() * size_of::<f32>(), to, left, right) };
    }
    if to == Accumulate::Add {
        for (beside, row) in beside.iter_mut().zip(row..row + rows) {
            beside[..columns].copy_from_slice(&c.row_mut(row)[column..column + columns]);
        }
    }
    // SAFETY: the square is `beside`.
    unsafe { sum(beside.as_flattened_mut().as_mut_ptr(), size_of::<[f32; SQUARE]>(), to, left, right) };
    for (beside, row) in beside.iter().zip(row..row + rows) {
        c.row_mut(row)[column..column + columns].copy_from_slice(&beside[..columns]);
    }
}

/// [`square`] at `c`, whose rows lie `stride` bytes apart.
///
/// # Safety
///
/// 32 rows of 32 values at `c` may be read and written, and this thread holds a [`Tiles`].
unsafe fn sum(c: *mut f32, stride: usize, to: Accumulate, left: &[Tile], right: &[Tile]) {
    let corners = [c, c.wrapping_add(SIDE), c.wrapping_byte_add(SIDE * stride)];
    let last = corners[2].wrapping_add(SIDE);
    // SAFETY: the blocks use tile registers, which the compiler never does, and read and write what the caller allows and
    // `left` and `right` hold.
    unsafe {
        match to {
            Accumulate::Replace => asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nomem, nostack, preserves_flags)
            ),
            Accumulate::Add => asm!(
                "tileloadd tmm0, [{c0} + {stride}]",
                "tileloadd tmm1, [{c1} + {stride}]",
                "tileloadd tmm2, [{c2} + {stride}]",
                "tileloadd tmm3, [{c3} + {stride}]",
                c0 = in(reg) corners[0],
                c1 = in(reg) corners[1],
                c2 = in(reg) corners[2],
                c3 = in(reg) last,
                stride = in(reg) stride,
                options(nostack, preserves_flags)
            ),
        }
        for (left, right) in left.as_chunks::<2>().0.iter().zip(right.as_chunks::<2>().0) {
            asm!(
                "tileloadd tmm4, [{left} + {line}]",
                "tileloadd tmm6, [{right} + {line}]",
                "tileloadd tmm7, [{right} + {line} + 1024]",
                "tileloadd tmm5, [{left} + {line} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                left = in(reg) left,
                right = in(reg) right,
                line = in(reg) size_of::<Line>(),
                options(readonly, nostack, preserves_flags)
            );
        }
        asm!(
            "tilestored [{c0} + {stride}], tmm0",
            "tilestored [{c1} + {stride}], tmm1",
            "tilestored [{c2} + {stride}], tmm2",
            "tilestored [{c3} + {stride}], tmm3",
            c0 = in(reg) corners[0],
            c1 = in(reg) corners[1],
            c2 = in(reg) corners[2],
            c3 = in(reg) last,
            stride = in(reg) stride,
            options(nostack, preserves_flags)
        );
    }
}

/// What a line of a tile is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// 32 terms of a row.
    Rows,
    /// Two terms of 16 rows.
    Terms,
}

/// Packs at most 32 rows of `from [rows, terms]`: `to` is `[terms / 32, 2]` tiles, the first of two with the first 16 rows. Writes
/// every tile.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack(from: MatRef<'_, f32>, order: Order, to: &mut [MaybeUninit<Tile>]) {
    for (step, tiles) in to.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let terms = step * TERMS..from.columns().min((step + 1) * TERMS);
        let from = from.column_range(terms);
        for (half, tile) in tiles.iter_mut().enumerate() {
            let rows = from.rows().min(half * SIDE)..from.rows().min((half + 1) * SIDE);
            let from = from.row_range(rows);
            let (lines, made) = match (from.contiguous_rows(), from.transpose().contiguous_rows()) {
                (Some(by_row), _) => {
                    let mut lines = [_mm512_setzero_si512(); SIDE];
                    for (row, line) in lines[..from.rows()].iter_mut().enumerate() {
                        let row = by_row.row(row);
                        *line = neighbours(load(row, 0), load(row, LANES));
                    }
                    (lines, Order::Rows)
                }
                (None, Some(by_term)) => {
                    let term = |k: usize| {
                        if k < from.columns() { load(by_term.row(k), 0) } else { _mm512_setzero_ps() }
                    };
                    (std::array::from_fn(|line| pairs(term(2 * line), term(2 * line + 1))), Order::Terms)
                }
                (None, None) => unreachable!("one of two strides is 1"),
            };
            let lines = if made == order { lines } else { transposed(lines) };
            // SAFETY: both types are 16 times 64 bytes.
            tile.write(unsafe { transmute::<[__m512i; SIDE], Tile>(lines) });
        }
    }
}

/// Tiles that may be written.
///
/// # Safety
///
/// Nothing but whole tiles is written through the result.
unsafe fn as_uninit(tiles: &mut [Tile]) -> &mut [MaybeUninit<Tile>] {
    // SAFETY: `MaybeUninit<T>` has the layout of `T`, and the caller promises that the values stay tiles.
    unsafe { std::slice::from_raw_parts_mut(tiles.as_mut_ptr().cast(), tiles.len()) }
}

/// 16 values from `first` on, zeros beyond the end.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32], first: usize) -> __m512 {
    let values = &values[first.min(values.len())..];
    let mask = match values.len() {
        LANES.. => u16::MAX,
        len => (1 << len) - 1,
    };
    // SAFETY: the mask selects no value beyond the end.
    unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) }
}

/// Rounds both to bf16: the values of `low`, then those of `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn neighbours(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both types are 64 bytes without padding.
    unsafe { transmute(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Rounds both to bf16, lane by lane: the value of `low` and then that of `high`.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the types are 32 bytes without padding.
    let [low, high] = [low, high].map(|values| unsafe { transmute(_mm512_cvtneps_pbh(values)) });
    _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)))
}

/// `to[i]` holds lane i of each of `from`.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(from: [__m512i; SIDE]) -> [__m512i; SIDE] {
    // Within the quarters of the registers: pairs of lanes, then pairs of pairs.
    let mut quads = [_mm512_setzero_si512(); SIDE];
    for (of, to) in from.as_chunks::<4>().0.iter().zip(quads.as_chunks_mut::<4>().0) {
        let [a, b, c, d] = *of;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        *to = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ];
    }
    // Quarters: `quads[4 r + l]`, quarter q, holds lane `4 q + l` of the registers `4 r..4 r + 4`.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut to = [_mm512_setzero_si512(); SIDE];
    for lane in 0..4 {
        let [a, b, c, d] = [quads[lane], quads[4 + lane], quads[8 + lane], quads[12 + lane]];
        let (ab, cd) = (_mm512_shuffle_i32x4::<EVEN>(a, b), _mm512_shuffle_i32x4::<EVEN>(c, d));
        let (ab_odd, cd_odd) = (_mm512_shuffle_i32x4::<ODD>(a, b), _mm512_shuffle_i32x4::<ODD>(c, d));
        to[lane] = _mm512_shuffle_i32x4::<EVEN>(ab, cd);
        to[8 + lane] = _mm512_shuffle_i32x4::<ODD>(ab, cd);
        to[4 + lane] = _mm512_shuffle_i32x4::<EVEN>(ab_odd, cd_odd);
        to[12 + lane] = _mm512_shuffle_i32x4::<ODD>(ab_odd, cd_odd);
    }
    to
}
