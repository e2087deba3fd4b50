//! In place of `amx.rs` on processors of other families, which have no such instructions.

use super::{Accumulate, MatMut, MatRef};

/// The matrix instructions, which no processor of this family has.
#[derive(Clone, Copy, Debug)]
pub enum Amx {}

impl Amx {
    /// None.
    pub fn new() -> Option<Amx> {
        None
    }
}

/// Operand of products that cannot be made.
#[derive(Debug)]
pub struct PackedBf16(Amx);

impl PackedBf16 {
    /// Cannot be called.
    pub fn new(amx: Amx) -> Self {
        PackedBf16(amx)
    }

    /// Cannot be called.
    pub fn pack(&mut self, _: MatRef<'_, f32>) {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn multiply_in_parallel(&self, _: MatMut<'_, f32>, _: Accumulate, _: MatRef<'_, f32>) {
        match self.0 {}
    }
}
