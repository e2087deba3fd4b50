//! A parsed kernel: parameters, shared memory, registers and decoded instructions.

use std::collections::HashMap;
use std::sync::Arc;

use crate::operation::Op;

/// The kernels of one PTX file.
pub struct Module {
    /// Target of the file, such as `sm_90a`.
    pub target: String,
    /// Kernels in the order of the file.
    pub kernels: Vec<Kernel>,
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Name of the entry.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Instructions in order.
    pub code: Vec<Inst>,
    /// Text of each instruction.
    pub texts: Vec<String>,
    /// Number of 32-bit registers: declared ones, then pooled values.
    pub regs32: u32,
    /// Number of 64-bit registers: declared ones, then pooled values.
    pub regs64: u32,
    /// Registers that are filled when a warp starts.
    pub pool: Vec<(Reg, Pool)>,
    /// Shared symbols in scope.
    pub shared: Vec<SharedSymbol>,
    /// Bytes of static shared memory that the kernel names.
    pub static_bytes: u32,
    /// Offset of dynamic shared memory, if the kernel names any.
    pub dynamic_offset: Option<u32>,
    /// Threads per block by `.maxntid`; 0 if it is absent.
    pub max_threads: u32,
    /// Whether its launch may begin before its predecessor has ended: PTX for sm_90 and later.
    pub overlaps: bool,
    /// Source files by the number that `.loc` gives.
    pub files: Arc<HashMap<u32, String>>,
}

/// A register. Immediates and special registers lie in the same two files: 32 bits (also predicates and 16 bits), and
/// 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    /// Whether it has 64 bits.
    pub wide: bool,
    /// Index in its file.
    pub at: u32,
}

/// An absent operand.
pub const NONE: Reg = Reg { wide: false, at: u32::MAX };

/// A decoded instruction.
#[derive(Clone, Debug)]
pub struct Inst {
    /// Operation.
    pub op: Op,
    /// Index of the guard's register, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// Destination.
    pub dst: Reg,
    /// Sources.
    pub src: [Reg; 4],
    /// Further operands of vectors, mma and ldmatrix: destinations, then sources.
    pub list: Vec<Reg>,
    /// Address offset, immediate count, or branch target.
    pub imm: i64,
    /// Line in the PTX file.
    pub ptx_line: u32,
    /// File and line by `.loc`, and the place it is inlined at (file 0: not inlined).
    pub source: [(u32, u32); 2],
}

/// A parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// Name.
    pub name: String,
    /// Offset in the parameter memory.
    pub offset: u32,
    /// Size.
    pub bytes: u32,
}

/// Value of a pooled register, set when a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool {
    /// An immediate.
    Imm(u64),
    /// Thread index by axis.
    Tid(u8),
    /// Threads per block by axis.
    Ntid(u8),
    /// Block index by axis.
    Ctaid(u8),
    /// Blocks by axis.
    Nctaid(u8),
    /// Lane.
    Lane,
    /// Address of a shared symbol.
    Shared(usize),
    /// Address of a parameter, by its offset.
    Param(u32),
}

/// A symbol in shared memory.
#[derive(Clone, Debug)]
pub struct SharedSymbol {
    /// Name.
    pub name: String,
    /// Alignment in bytes.
    pub align: u32,
    /// Size; none for dynamic memory.
    pub bytes: Option<u32>,
    /// Offset in the block's shared memory.
    pub offset: u32,
}

/// First address of shared memory. It is not 0, so that a null pointer is noticed.
pub const SHARED_BASE: u32 = 1024;

/// First address of parameter memory.
pub const PARAM_BASE: u64 = 4096;

impl Kernel {
    /// Whether its warps meet at barriers in shared memory, or its products run beside them.
    pub(crate) fn is_asynchronous(&self) -> bool {
        self.code.iter().any(|inst| inst.op.is_asynchronous())
    }

    /// Source place and text of an instruction, such as `edge_pool.cu:80 in edge_pool.cu:120: ld.global.f32`.
    pub fn place(&self, pc: u32) -> String {
        let Some(inst) = self.code.get(pc as usize) else { return "start".into() };
        let name = |(file, line): (u32, u32)| {
            format!("{}:{line}", self.files.get(&file).map_or("?", String::as_str))
        };
        match inst.source[1].0 {
            0 => name(inst.source[0]),
            _ => format!("{} in {}", name(inst.source[0]), name(inst.source[1])),
        }
    }

    /// Opcode of an instruction, without its guard.
    pub fn opcode(&self, pc: usize) -> &str {
        self.texts[pc].split_whitespace().find(|word| !word.starts_with('@')).unwrap_or("")
    }
}
