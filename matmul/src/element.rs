//! The two element types of products, and their vectors.

use std::marker::PhantomData;

use bytemuck::Pod;
use pulp::{Arch, Simd};

use super::pack::TERMS;
use super::{Multiply, PackPanels, TileSize};

/// `f32` or `f64`.
pub trait Element: Pod + Default + Send + Sync {
    /// Zero.
    const ZERO: Self;
    /// A register of values.
    type Vector<S: Simd>: Pod;

    /// The same value in every lane.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;

    /// `a b + c`, rounded once where the machine has the instruction.
    fn multiply_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;

    /// `a + b`.
    fn add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;

    /// `to[i][k] = from[k][i]`
    #[inline(always)]
    fn transposed(from: [&[Self; TERMS]; TERMS]) -> [[Self; TERMS]; TERMS] {
        transposed_by_value(from)
    }

    // The functions below run generic code for one type. They are compiled in this crate, which is one unit of compilation: code
    // that is split between units loses its vector instructions where a call crosses them.

    /// Numbers of rows and columns of a tile on this machine. A panel has as many columns.
    fn tile_size() -> (usize, usize);

    #[doc(hidden)]
    fn pack_panels(of: PackPanels<'_, Self>);

    #[doc(hidden)]
    fn multiply(of: Multiply<'_, Self>);
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, value: f32) -> S::f32s {
        simd.splat_f32s(value)
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, c)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn transposed(from: [&[f32; TERMS]; TERMS]) -> [[f32; TERMS]; TERMS] {
        if is_x86_feature_detected!("avx") {
            // SAFETY: the processor has the instructions.
            return unsafe { transposed_by_avx(from) };
        }
        transposed_by_value(from)
    }

    fn tile_size() -> (usize, usize) {
        Arch::new().dispatch(TileSize::<f32>(PhantomData))
    }

    fn pack_panels(of: PackPanels<'_, f32>) {
        Arch::new().dispatch(of);
    }

    fn multiply(of: Multiply<'_, f32>) {
        Arch::new().dispatch(of);
    }
}

impl Element for f64 {
    const ZERO: f64 = 0.0;
    type Vector<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, value: f64) -> S::f64s {
        simd.splat_f64s(value)
    }

    #[inline(always)]
    fn multiply_add<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        simd.mul_add_e_f64s(a, b, c)
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }

    fn tile_size() -> (usize, usize) {
        Arch::new().dispatch(TileSize::<f64>(PhantomData))
    }

    fn pack_panels(of: PackPanels<'_, f64>) {
        Arch::new().dispatch(of);
    }

    fn multiply(of: Multiply<'_, f64>) {
        Arch::new().dispatch(of);
    }
}

/// One value after the other.
#[inline(always)]
fn transposed_by_value<T: Copy>(from: [&[T; TERMS]; TERMS]) -> [[T; TERMS]; TERMS] {
    std::array::from_fn(|i| from.map(|row| row[i]))
}

/// Three exchanges: between neighbours, between pairs, and between the halves of registers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx")]
fn transposed_by_avx(from: [&[f32; TERMS]; TERMS]) -> [[f32; TERMS]; TERMS] {
    use std::arch::x86_64::{
        __m256, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };
    let r: [__m256; TERMS] = from.map(|row| bytemuck::cast(*row));
    let pair = |i: usize| (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
    let [(a0, a1), (b0, b1), (c0, c1), (d0, d1)] = [pair(0), pair(2), pair(4), pair(6)];
    const LOW: i32 = 0b01_00_01_00;
    const HIGH: i32 = 0b11_10_11_10;
    let top = [
        _mm256_shuffle_ps::<LOW>(a0, b0),
        _mm256_shuffle_ps::<HIGH>(a0, b0),
        _mm256_shuffle_ps::<LOW>(a1, b1),
        _mm256_shuffle_ps::<HIGH>(a1, b1),
    ];
    let bottom = [
        _mm256_shuffle_ps::<LOW>(c0, d0),
        _mm256_shuffle_ps::<HIGH>(c0, d0),
        _mm256_shuffle_ps::<LOW>(c1, d1),
        _mm256_shuffle_ps::<HIGH>(c1, d1),
    ];
    const FIRST_HALVES: i32 = 0x20;
    const SECOND_HALVES: i32 = 0x31;
    std::array::from_fn(|i| {
        let (top, bottom) = (top[i % 4], bottom[i % 4]);
        bytemuck::cast(if i < 4 {
            _mm256_permute2f128_ps::<FIRST_HALVES>(top, bottom)
        } else {
            _mm256_permute2f128_ps::<SECOND_HALVES>(top, bottom)
        })
    })
}
