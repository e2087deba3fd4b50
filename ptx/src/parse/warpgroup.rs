//! Instructions of sm_90a: barriers in shared memory, and products of a warpgroup.

use super::body::{Body, immediate};
use super::instruction::{Text, braces, destination};
use crate::kernel::Inst;
use crate::operation::{Mbarrier, Op, Product};

pub(super) fn mbarrier(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    let (kind, address) = match text.parts[1..] {
        ["init", "shared::cta", "b64"] => (Mbarrier::Init, 0),
        ["arrive", "shared::cta", "b64"] if text.operand(0)? == "_" => (Mbarrier::Arrive, 1),
        ["try_wait", "parity", "shared::cta", "b64"] => (Mbarrier::Wait, 1),
        _ => return Err("opcode".into()),
    };
    (inst.src[0], inst.imm) = body.address(text.operand(address)?, false)?;
    match kind {
        Mbarrier::Init => inst.src[1] = body.source(text.operand(1)?, false)?,
        Mbarrier::Wait => {
            inst.dst = destination(body, text.operand(0)?)?;
            inst.src[1] = body.source(text.operand(2)?, false)?;
        }
        Mbarrier::Arrive => {}
    }
    inst.op = Op::Mbarrier(kind);
    Ok(())
}

/// `imm`: registers of a thread.
pub(super) fn registers(text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    let count = immediate(text.operand(0)?).filter(|n| (24..=256).contains(n) && n % 8 == 0);
    inst.imm = count.ok_or("registers")? as i64;
    inst.op = match text.parts[1..] {
        ["inc", "sync", "aligned", "u32"] => Op::SetRegisters { takes: true },
        ["dec", "sync", "aligned", "u32"] => Op::SetRegisters { takes: false },
        _ => return Err("opcode".into()),
    };
    Ok(())
}

/// `list`: registers of d, then those of a. Sources: descriptors of a and b, and whether d is added to.
pub(super) fn product(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    match text.parts[1..] {
        ["fence", "sync", "aligned"] => inst.op = Op::WgmmaFence,
        ["commit_group", "sync", "aligned"] => inst.op = Op::WgmmaCommit,
        ["wait_group", "sync", "aligned"] => {
            inst.imm = immediate(text.operand(0)?).ok_or("groups")? as i64;
            inst.op = Op::WgmmaWait;
        }
        ["mma_async", "sync", "aligned", shape, "f32", "bf16", "bf16"] => {
            let columns: u16 = shape
                .strip_prefix("m64n")
                .and_then(|rest| rest.strip_suffix("k16")?.parse().ok())
                .filter(|n| (8..=256).contains(n) && n % 8 == 0)
                .ok_or("shape")?;
            let sums = braces(text.operand(0)?).ok_or("a fragment")?;
            if sums.len() != usize::from(columns) / 2 {
                return Err("a fragment's length".into());
            }
            for name in sums {
                inst.list.push(destination(body, &name)?);
            }
            let factors = braces(text.operand(1)?);
            match &factors {
                Some(names) if names.len() == 4 => {
                    for name in names {
                        inst.list.push(body.source(name, false)?);
                    }
                }
                Some(_) => return Err("a fragment's length".into()),
                None => inst.src[0] = body.source(text.operand(1)?, true)?,
            }
            inst.src[1] = body.source(text.operand(2)?, true)?;
            inst.src[2] = body.source(text.operand(3)?, false)?;
            let flags: Vec<Option<u64>> = text.operands[4..].iter().map(|text| immediate(text)).collect();
            let (a_transposed, b_transposed) = match (flags[..].as_ref(), factors.is_some()) {
                ([Some(1), Some(1), Some(b @ 0..=1)], true) => (0, *b),
                ([Some(1), Some(1), Some(a @ 0..=1), Some(b @ 0..=1)], false) => (*a, *b),
                _ => return Err("signs and orders".into()),
            };
            inst.op = Op::Wgmma(Product {
                columns,
                a_in_registers: factors.is_some(),
                a_transposed: a_transposed == 1,
                b_transposed: b_transposed == 1,
            });
        }
        _ => return Err("opcode".into()),
    }
    Ok(())
}
