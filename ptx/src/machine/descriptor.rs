//! Operands of a warpgroup's products in shared memory, as the PTX manual's section on matrix descriptors gives them. Only the
//! swizzle of 128 bytes is modelled.
//!
//! ```text
//! bits  0..14   address / 16           bits 49..52   base offset
//! bits 16..30   leading offset / 16    bits 62..64   swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32
//! bits 32..46   stride offset / 16
//! ```
//!
//! In units of T = 8 values of 16 bytes, with the swizzle of 128 bytes, (outer, inner) is at
//!
//! ```text
//! K-major   ((8, m), (T, 2 k)) : ((8 T, stride), (1, T))             rows of 64 inner steps, 8 rows together
//! MN-major  ((T, 8, m), (8, k)) : ((1, T, leading), (8 T, stride))   lines of 64 outer rows, 8 lines together
//! ```
//!
//! and bits 4..7 of the address are then changed by an exclusive or with bits 7..10.

use crate::kernel::SHARED_BASE;

/// A decoded descriptor.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    /// Address of the first value.
    start: u32,
    leading: u32,
    stride: u32,
    /// Whether outer rows lie side by side.
    transposed: bool,
}

impl Descriptor {
    /// Decodes a descriptor, or says what is wrong with it.
    pub(super) fn decode(bits: u64, transposed: bool) -> Result<Self, String> {
        let field = |at: u32| (bits >> at & 0x3fff) as u32 * 16;
        let (start, leading, stride) = (field(0), field(16), field(32));
        let (base, swizzle) = (bits >> 49 & 7, bits >> 62);
        if swizzle != 1 {
            return Err(format!("swizzle {swizzle} is not modelled"));
        }
        if base != 0 || start >> 7 & 7 != 0 {
            return Err(format!(
                "base offset {base} of a matrix at {start:#x}, not at a pattern of 1,024 bytes"
            ));
        }
        if !stride.is_multiple_of(1024) || transposed && !leading.is_multiple_of(1024) {
            return Err(format!("offsets {leading} and {stride} within a pattern of 1,024 bytes"));
        }
        Ok(Descriptor { start, leading, stride, transposed })
    }

    /// Offset in shared memory of the value of an outer row and an inner step. Negative or too large ones are out of bounds.
    pub(super) fn place(&self, outer: u32, inner: u32) -> i64 {
        let offset = match self.transposed {
            false => outer % 8 * 128 + outer / 8 * self.stride + inner * 2,
            true => outer % 64 * 2 + outer / 64 * self.leading + inner % 8 * 128 + inner / 8 * self.stride,
        };
        let address = self.start + offset;
        i64::from(address ^ (address >> 7 & 7) << 4) - i64::from(SHARED_BASE)
    }
}
