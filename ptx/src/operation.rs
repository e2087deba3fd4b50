//! Operations of decoded instructions, and values of a warp's 32 lanes.

/// 32-bit values by lane.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct V32(pub [u32; 32]);

/// 64-bit values by lane.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct V64(pub [u64; 32]);

impl V32 {
    /// The same value in all lanes.
    pub const fn splat(value: u32) -> Self {
        V32([value; 32])
    }

    /// Replaces the lanes in `mask` by those of `from`.
    pub(crate) fn put(&mut self, from: &V32, mask: u32) {
        if mask == u32::MAX {
            *self = *from;
            return;
        }
        for i in 0..32 {
            if mask >> i & 1 != 0 {
                self.0[i] = from.0[i];
            }
        }
    }
}

impl V64 {
    /// The same value in all lanes.
    pub const fn splat(value: u64) -> Self {
        V64([value; 32])
    }

    /// Replaces the lanes in `mask` by those of `from`.
    pub(crate) fn put(&mut self, from: &V64, mask: u32) {
        if mask == u32::MAX {
            *self = *from;
            return;
        }
        for i in 0..32 {
            if mask >> i & 1 != 0 {
                self.0[i] = from.0[i];
            }
        }
    }
}

/// Lanes in `mask`, ascending.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

/// Address space of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Device memory.
    Global,
    /// Memory of the block.
    Shared,
    /// Generic addresses. The kernels use them for device memory only.
    Generic,
}

/// Width and modifiers of a load or store.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Address space.
    pub space: Space,
    /// Bytes of one value.
    pub bytes: u8,
    /// Number of values.
    pub count: u8,
    /// Whether narrow values are sign-extended.
    pub signed: bool,
    /// Whether values are floats.
    pub float: bool,
    /// Whether the load uses the non-coherent path.
    pub nc: bool,
    /// Whether the first-level cache is bypassed (`.cg`, `.volatile`).
    pub cg: bool,
}

/// Mode of a shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// From a lower lane.
    Up,
    /// From a higher lane.
    Down,
    /// From the lane whose index is an exclusive or.
    Butterfly,
    /// From a given lane.
    Index,
}

/// Operands of a product of a warpgroup: `d [64, n] (+)= a [64, 16] b [n, 16]^T` in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Columns of d.
    pub columns: u16,
    /// Whether a lies in registers, as a fragment of each warp.
    pub a_in_registers: bool,
    /// Whether rows of a, in shared memory, lie side by side (M-major).
    pub a_transposed: bool,
    /// Whether rows of b lie side by side (N-major).
    pub b_transposed: bool,
}

/// An instruction on a barrier in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mbarrier {
    /// Makes a barrier for a number of arrivals.
    Init,
    /// One arrival.
    Arrive,
    /// Waits for the end of a phase by its parity.
    Wait,
}

type Unary<A, D> = fn(&A, &mut D);

/// Operation of an instruction. The first variants are pure functions of register values.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names give widths of sources and destination
pub enum Op {
    Nop,
    U32(Unary<V32, V32>),
    U64(Unary<V64, V64>),
    U32to64(Unary<V32, V64>),
    U64to32(Unary<V64, V32>),
    B32(fn(&V32, &V32, &mut V32)),
    B64(fn(&V64, &V64, &mut V64)),
    B32to64(fn(&V32, &V32, &mut V64)),
    B64to32(fn(&V64, &V64, &mut V32)),
    T32(fn(&V32, &V32, &V32, &mut V32)),
    T64(fn(&V64, &V64, &V64, &mut V64)),
    Q32(fn(&V32, &V32, &V32, &V32, &mut V32)),
    /// 64-bit value, 32-bit amount.
    Shift64(fn(&V64, &V32, &mut V64)),
    /// 64-bit values, predicate.
    Select64,
    Bra {
        uniform: bool,
    },
    Ret,
    Bar,
    Membar {
        device: bool,
    },
    GridWait,
    GridLaunch,
    LdParam {
        bytes: u8,
    },
    Ld(Access),
    St(Access),
    AtomAdd {
        wide: bool,
        /// `acq_rel`: a fence of the thread before and after it.
        ordered: bool,
    },
    Shfl(Shuffle),
    Ballot {
        negated: bool,
    },
    Mma {
        tf32: bool,
    },
    Ldmatrix {
        transposed: bool,
    },
    CpAsync {
        bytes: u8,
    },
    CpCommit,
    CpWait,
    /// `bar.warp.sync`.
    WarpBar,
    Mbarrier(Mbarrier),
    /// `fence.proxy.async`.
    ProxyFence,
    Wgmma(Product),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait,
    /// `setmaxnreg`.
    SetRegisters {
        /// Whether registers are taken.
        takes: bool,
    },
    Pack {
        bits: u8,
    },
    Unpack {
        bits: u8,
    },
}

impl Op {
    /// Whether lanes execute it together.
    pub(crate) fn is_collective(&self) -> bool {
        self.names_lanes() || self.is_of_warpgroup() || matches!(self, Op::Mma { .. } | Op::Ldmatrix { .. })
    }

    /// Whether its last source names the lanes that execute it together.
    pub(crate) fn names_lanes(&self) -> bool {
        matches!(self, Op::Shfl(_) | Op::Ballot { .. } | Op::WarpBar)
    }

    /// Whether the four warps of a warpgroup execute it together.
    pub(crate) fn is_of_warpgroup(&self) -> bool {
        matches!(self, Op::Wgmma(_) | Op::WgmmaFence | Op::WgmmaCommit | Op::WgmmaWait)
    }

    /// Whether a kernel with it needs clocks of its warps (`machine/clocks.rs`).
    pub(crate) fn is_asynchronous(&self) -> bool {
        let is_other =
            matches!(self, Op::WarpBar | Op::Mbarrier(_) | Op::ProxyFence | Op::SetRegisters { .. });
        self.is_of_warpgroup() || is_other
    }
}
