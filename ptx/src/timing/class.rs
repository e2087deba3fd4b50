//! Cost of each PTX instruction: its class, latency and number of machine instructions.

use super::Parameters;
use crate::kernel::{Inst, Kernel, NONE, Reg};
use crate::operation::{Op, Space};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Absent from machine code: copies of registers, parameters.
    Free,
    Alu,
    LdShared,
    StShared,
    LdGlobal {
        /// Past L1.
        cg: bool,
        /// Non-coherent.
        nc: bool,
    },
    StGlobal,
    Atom {
        /// With a fence before it.
        ordered: bool,
    },
    Mma,
    Ldmatrix,
    CpAsync {
        /// Past L1.
        cg: bool,
    },
    CpCommit,
    CpWait,
    /// Product of a warpgroup, with its number of columns.
    Wgmma {
        columns: u32,
    },
    WgmmaCommit,
    WgmmaWait,
    Membar,
    Branch,
}

/// An instruction, as the scoreboard sees it.
pub(super) struct Info {
    pub class: Class,
    /// Cycles from issue to result.
    pub latency: u32,
    /// Machine instructions.
    pub slots: u32,
    /// Machine instructions of the f64 unit.
    pub doubles: u32,
    /// Machine instructions of the conversion unit.
    pub conversions: u32,
    pub guarded: bool,
    /// Whether it begins a basic block.
    pub leads: bool,
    /// Whether it is a branch that machine code replaces by predicates.
    pub predicated: bool,
    /// Bytes accessed by a lane.
    pub bytes: u32,
    /// Registers read, with the guard first.
    pub src: Vec<u32>,
    /// Registers written.
    pub dst: Vec<u32>,
}

/// All instructions of a kernel.
pub(super) fn infos(kernel: &Kernel, p: &Parameters) -> Vec<Info> {
    let mut infos: Vec<Info> = (0..kernel.code.len()).map(|at| info(kernel, at, p)).collect();
    let targets: Vec<usize> = kernel
        .code
        .iter()
        .filter(|inst| matches!(inst.op, Op::Bra { .. }))
        .map(|inst| inst.imm as usize)
        .collect();
    for (at, inst) in kernel.code.iter().enumerate() {
        let (Op::Bra { .. }, Some((guard, _)), end) = (inst.op, inst.guard, inst.imm as usize) else {
            continue;
        };
        let is_short = end > at + 1 && end - at - 1 <= p.predicated as usize;
        if is_short
            && !targets.iter().any(|target| (at + 1..end).contains(target))
            && (at + 1..end).all(|i| can_be_predicated(kernel, i))
        {
            infos[at].predicated = true;
            infos[at + 1..end].iter_mut().for_each(|info| info.src.push(guard));
        }
    }
    for (at, inst) in kernel.code.iter().enumerate() {
        if matches!(inst.op, Op::Bra { .. }) && !infos[at].predicated {
            for leader in [at + 1, inst.imm as usize] {
                if let Some(info) = infos.get_mut(leader) {
                    info.leads = true;
                }
            }
        }
    }
    infos
}

/// Whether ptxas predicates the instruction instead of jumping over it: plain arithmetic and accesses.
fn can_be_predicated(kernel: &Kernel, at: usize) -> bool {
    let is_control = matches!(
        kernel.code[at].op,
        Op::Bra { .. }
            | Op::Bar
            | Op::Ret
            | Op::Membar { .. }
            | Op::CpWait
            | Op::Mma { .. }
            | Op::Ldmatrix { .. }
    );
    let is_sequence = matches!(kernel.opcode(at).split('.').next(), Some("div" | "rem" | "sqrt" | "rcp"));
    !is_control && !is_sequence
}

fn info(kernel: &Kernel, at: usize, p: &Parameters) -> Info {
    let inst = &kernel.code[at];
    let mut info = Info {
        class: Class::Alu,
        latency: p.alu as u32,
        slots: 1,
        doubles: 0,
        conversions: 0,
        guarded: inst.guard.is_some(),
        leads: false,
        predicated: false,
        bytes: 0,
        src: Vec::new(),
        dst: Vec::new(),
    };
    info.class = match inst.op {
        Op::Nop | Op::LdParam { .. } | Op::Unpack { .. } | Op::Pack { bits: 32 } => Class::Free,
        Op::Bra { .. } => Class::Branch,
        Op::Membar { device: true } => Class::Membar,
        Op::Ld(access) => {
            info.bytes = u32::from(access.bytes) * u32::from(access.count);
            match access.space {
                Space::Shared => Class::LdShared,
                _ => Class::LdGlobal { cg: access.cg, nc: access.nc },
            }
        }
        Op::St(access) => {
            info.bytes = u32::from(access.bytes) * u32::from(access.count);
            if access.space == Space::Shared { Class::StShared } else { Class::StGlobal }
        }
        Op::AtomAdd { wide, ordered } => {
            info.bytes = if wide { 8 } else { 4 };
            Class::Atom { ordered }
        }
        Op::Mma { .. } => Class::Mma,
        Op::Ldmatrix { .. } => Class::Ldmatrix,
        Op::CpAsync { bytes } => {
            info.bytes = u32::from(bytes);
            Class::CpAsync { cg: bytes == 16 }
        }
        Op::CpCommit => Class::CpCommit,
        Op::CpWait => Class::CpWait,
        Op::Wgmma(of) => Class::Wgmma { columns: u32::from(of.columns) },
        Op::WgmmaCommit => Class::WgmmaCommit,
        Op::WgmmaWait => Class::WgmmaWait,
        op if op.is_asynchronous() => Class::Alu,
        Op::Shfl(_) | Op::Ballot { .. } => {
            info.latency = p.shfl as u32;
            Class::Alu
        }
        _ => {
            cost_arithmetic(kernel.opcode(at), p, &mut info);
            if info.slots == 0 { Class::Free } else { Class::Alu }
        }
    };
    if info.class == Class::Free {
        info.slots = 0;
    }
    set_registers(kernel, inst, &mut info);
    info
}

fn cost_arithmetic(name: &str, p: &Parameters, info: &mut Info) {
    let (wide, double) = (name.ends_with("64"), name.ends_with(".f64"));
    let head = name.split('.').next().unwrap_or("");
    let (latency, slots) = match head {
        "mov" | "cvta" => (p.alu, 0),
        "cvt" if matches!(name, "cvt.u64.u32" | "cvt.u32.u64" | "cvt.u32.u16" | "cvt.u16.u32") => (p.alu, 0),
        "cvt" if name.contains("f64") => (p.cvt64, 1),
        "div" | "sqrt" if double => (p.div64, 18),
        "rcp" if double => (p.rcp64, 10),
        "div" if name.ends_with("f32") => (p.div32, 10),
        "sqrt" | "rcp" => (p.sqrt32, 8),
        "div" | "rem" if wide => (p.idiv64, 80),
        "div" | "rem" => (p.idiv, 18),
        "ex2" | "popc" | "clz" | "brev" | "bfind" => (p.mufu, 1),
        "selp" if wide => (p.alu, 2),
        "setp" if double => (p.f64, 1),
        "setp" if wide => (p.imad, 2),
        "setp" => (p.imad, 1),
        _ if double => (p.f64, 1),
        "mul" | "mad" if name.contains("wide") => (p.imad, 1),
        "mul" if wide && name.contains(".lo") => (3.0 * p.imad, 4),
        "mul" if wide => (p.imad, 4),
        "mul" | "mad" if name.contains(".lo") || name.contains(".hi") => (p.imad, 1),
        _ if wide => (p.imad, 2),
        _ => (p.alu, 1),
    };
    info.latency = latency as u32;
    info.slots = slots;
    info.conversions = match head {
        "cvt" if name.contains("f64") => 1,
        "ex2" | "popc" | "clz" | "brev" | "bfind" => 1,
        _ => 0,
    };
    info.doubles = match head {
        "cvt" | "selp" => 0,
        "div" | "sqrt" if double => 10,
        "rcp" if double => 6,
        _ => u32::from(double),
    };
}

/// Registers that the instruction reads and writes; 64-bit ones are numbered after the 32-bit ones.
fn set_registers(kernel: &Kernel, inst: &Inst, info: &mut Info) {
    let mut src: Vec<Reg> = Vec::new();
    let mut dst: Vec<Reg> = Vec::new();
    if let Some((guard, _)) = inst.guard {
        src.push(Reg { wide: false, at: guard });
    }
    src.extend(inst.src);
    dst.push(inst.dst);
    match inst.op {
        Op::St(_) | Op::Pack { .. } => src.extend(&inst.list),
        Op::Mma { .. } => {
            dst.extend(&inst.list[..4]);
            src.extend(&inst.list[4..]);
        }
        // Its sums are awaited with its group.
        Op::Wgmma(of) => src.extend(&inst.list[usize::from(of.columns) / 2..]),
        _ => dst.extend(&inst.list),
    }
    let number = |list: Vec<Reg>| {
        let present = list.into_iter().filter(|reg| *reg != NONE);
        present.map(|reg| if reg.wide { kernel.regs32 + reg.at } else { reg.at }).collect()
    };
    info.src = number(src);
    info.dst = number(dst);
}
