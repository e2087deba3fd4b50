//! Decodes one instruction.

use super::body::{Body, immediate};
use super::warpgroup;
use crate::arithmetic;
use crate::kernel::{Inst, NONE, Pool, Reg};
use crate::operation::{Access, Op, Shuffle, Space};

/// Opcode, its parts, and the operands of an instruction.
pub(super) struct Text<'a> {
    pub opcode: &'a str,
    pub parts: Vec<&'a str>,
    pub operands: Vec<String>,
}

impl Text<'_> {
    pub fn operand(&self, i: usize) -> Result<&str, String> {
        self.operands.get(i).map(String::as_str).ok_or_else(|| format!("operand {i} is missing"))
    }

    /// Last part of the opcode: mostly the type.
    fn last(&self) -> &str {
        self.parts.last().unwrap_or(&"")
    }
}

/// Decodes a statement.
pub(super) fn instruction(body: &mut Body<'_>, statement: &str) -> Result<Inst, String> {
    let mut rest = statement;
    let mut guard = None;
    if let Some(guarded) = rest.strip_prefix('@') {
        let (name, instruction) = guarded.split_once(char::is_whitespace).ok_or("guard")?;
        let (negated, name) = name.strip_prefix('!').map_or((false, name), |name| (true, name));
        guard = Some((body.register(name).ok_or("guard")?.at, negated));
        rest = instruction.trim();
    }
    let (opcode, operands) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let text = Text { opcode, parts: opcode.split('.').collect(), operands: split_operands(operands) };
    let mut inst = Inst {
        op: Op::Nop,
        guard,
        dst: NONE,
        src: [NONE; 4],
        list: Vec::new(),
        imm: 0,
        ptx_line: 0,
        source: [(0, 0); 2],
    };
    match text.parts[0] {
        "bra" => {
            let label = text.operand(0)?;
            inst.imm = *body.labels.get(label).ok_or_else(|| format!("label {label}"))? as i64;
            inst.op = Op::Bra { uniform: text.last() == "uni" };
        }
        "ret" | "exit" => inst.op = Op::Ret,
        "bar" if text.parts[1..] == ["warp", "sync"] => {
            inst.src[3] = body.source(text.operand(0)?, false)?;
            inst.op = Op::WarpBar;
        }
        "bar" if text.parts.get(1) == Some(&"sync") => {
            if text.operands.len() != 1 {
                return Err("a barrier with a count".into());
            }
            inst.imm = immediate(text.operand(0)?).ok_or("barrier")? as i64;
            inst.op = Op::Bar;
        }
        "membar" => inst.op = Op::Membar { device: text.last() != "cta" },
        "griddepcontrol" => {
            inst.op = if text.last() == "wait" { Op::GridWait } else { Op::GridLaunch };
        }
        "cp" => async_copy(body, &text, &mut inst)?,
        "ld" | "st" => access(body, &text, &mut inst)?,
        "atom" => {
            let (ordered, kind) = match text.parts[1..] {
                ["acq_rel", "gpu", "global", "add", kind] => (true, kind),
                ["relaxed", "gpu", "global", "add", kind] | ["global", "add", kind] => (false, kind),
                _ => return Err("opcode".into()),
            };
            let wide = match kind {
                "u32" | "s32" => false,
                "u64" => true,
                _ => return Err("opcode".into()),
            };
            inst.dst = destination(body, text.operand(0)?)?;
            (inst.src[0], inst.imm) = body.address(text.operand(1)?, true)?;
            inst.src[1] = body.source(text.operand(2)?, wide)?;
            inst.op = Op::AtomAdd { wide, ordered };
        }
        "shfl" | "vote" => exchange(body, &text, &mut inst)?,
        "mma" | "ldmatrix" => matrices(body, &text, &mut inst)?,
        "setmaxnreg" => warpgroup::registers(&text, &mut inst)?,
        "mbarrier" => warpgroup::mbarrier(body, &text, &mut inst)?,
        "wgmma" => warpgroup::product(body, &text, &mut inst)?,
        "fence" if text.opcode == "fence.proxy.async.shared::cta" => inst.op = Op::ProxyFence,
        "mov" | "cvta" => move_value(body, &text, &mut inst)?,
        _ => compute(body, &text, &mut inst)?,
    }
    Ok(inst)
}

fn async_copy(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    match &text.parts[1..] {
        ["async", "commit_group"] => inst.op = Op::CpCommit,
        ["async", "wait_group"] => {
            inst.imm = immediate(text.operand(0)?).ok_or("groups")? as i64;
            inst.op = Op::CpWait;
        }
        ["async", level @ ("ca" | "cg"), "shared", "global"] => {
            let (to, to_offset) = body.address(text.operand(0)?, false)?;
            let (from, from_offset) = body.address(text.operand(1)?, true)?;
            if to_offset != 0 || from_offset != 0 {
                return Err("an offset in cp.async".into());
            }
            let bytes = immediate(text.operand(2)?).ok_or("bytes")?;
            if !(matches!(bytes, 4 | 8 | 16) && (*level == "ca" || bytes == 16)) {
                return Err("bytes of cp.async".into());
            }
            let valid = match text.operands.get(3) {
                Some(valid) => body.source(valid, false)?,
                None => body.pooled(false, Pool::Imm(bytes)),
            };
            inst.src = [to, from, valid, NONE];
            inst.op = Op::CpAsync { bytes: bytes as u8 };
        }
        _ => return Err("opcode".into()),
    }
    Ok(())
}

fn access(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    let store = text.parts[0] == "st";
    let (mut space, mut param, mut nc, mut cg, mut count) = (Space::Generic, false, false, false, 1u8);
    for part in &text.parts[1..text.parts.len() - 1] {
        match *part {
            "param" if !store => param = true,
            "global" => space = Space::Global,
            "shared" => space = Space::Shared,
            "nc" => nc = true,
            "cg" | "volatile" => cg = true,
            "v2" => count = 2,
            "v4" => count = 4,
            _ => return Err(format!("modifier {part}")),
        }
    }
    let bytes = type_bytes(text.last()).ok_or("type")?;
    let (value, address) = if store { (1, 0) } else { (0, 1) };
    let value = text.operand(value)?;
    (inst.src[0], inst.imm) = body.address(text.operand(address)?, space != Space::Shared)?;
    let names = if count > 1 { braces(value).ok_or("a vector")? } else { vec![value.to_string()] };
    if names.len() != usize::from(count) {
        return Err("a vector's length".into());
    }
    for name in names {
        let reg = if store { body.source(&name, bytes == 8)? } else { destination(body, &name)? };
        inst.list.push(reg);
    }
    let (signed, float) = (matches!(text.last(), "s8" | "s16"), text.last().starts_with('f'));
    let access = Access { space, bytes, count, signed, float, nc, cg };
    inst.op = match (param, store) {
        (true, _) => Op::LdParam { bytes },
        (_, true) => Op::St(access),
        (_, false) => Op::Ld(access),
    };
    Ok(())
}

fn exchange(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    match text.parts[..] {
        ["shfl", "sync", mode, "b32"] => {
            let mode = match mode {
                "up" => Shuffle::Up,
                "down" => Shuffle::Down,
                "bfly" => Shuffle::Butterfly,
                "idx" => Shuffle::Index,
                _ => return Err("mode".into()),
            };
            let (value, predicate) = match text.operand(0)?.split_once('|') {
                Some((value, predicate)) => (value.trim(), destination(body, predicate.trim())?),
                None => (text.operand(0)?, NONE),
            };
            inst.dst = destination(body, value)?;
            inst.list.push(predicate);
            for i in 0..4 {
                inst.src[i] = body.source(text.operand(i + 1)?, false)?;
            }
            inst.op = Op::Shfl(mode);
        }
        ["vote", "sync", "ballot", "b32"] => {
            inst.dst = destination(body, text.operand(0)?)?;
            let voted = text.operand(1)?;
            let (negated, name) = voted.strip_prefix('!').map_or((false, voted), |name| (true, name));
            inst.src[0] = body.source(name, false)?;
            inst.src[3] = body.source(text.operand(2)?, false)?;
            inst.op = Op::Ballot { negated };
        }
        _ => return Err("opcode".into()),
    }
    Ok(())
}

fn matrices(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    let mut fragment = |body: &mut Body<'_>, operand: usize, len: usize, is_destination: bool| {
        let names = braces(text.operand(operand)?).ok_or("a fragment")?;
        if names.len() != len {
            return Err("a fragment's length".to_string());
        }
        for name in names {
            let reg = if is_destination { destination(body, &name)? } else { body.source(&name, false)? };
            inst.list.push(reg);
        }
        Ok(())
    };
    match text.opcode {
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
        | "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" => {
            for (operand, len) in [4, 4, 2, 4].into_iter().enumerate() {
                fragment(body, operand, len, operand == 0)?;
            }
            inst.op = Op::Mma { tf32: text.opcode.contains("tf32") };
        }
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16" | "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16" => {
            fragment(body, 0, 4, true)?;
            (inst.src[0], inst.imm) = body.address(text.operand(1)?, false)?;
            inst.op = Op::Ldmatrix { transposed: text.opcode.contains("trans") };
        }
        _ => return Err("opcode".into()),
    }
    Ok(())
}

fn move_value(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    let bits = if text.last() == "b64" { 32 } else { 16 };
    if let Some(parts) = braces(text.operand(0)?) {
        for name in parts {
            inst.list.push(destination(body, &name)?);
        }
        inst.src[0] = body.source(text.operand(1)?, bits == 32)?;
        inst.op = Op::Unpack { bits };
    } else if let Some(parts) = braces(text.operand(1)?) {
        inst.dst = destination(body, text.operand(0)?)?;
        for name in parts {
            inst.list.push(body.source(&name, false)?);
        }
        inst.op = Op::Pack { bits };
    } else {
        inst.dst = destination(body, text.operand(0)?)?;
        inst.src[0] = body.source(text.operand(1)?, inst.dst.wide)?;
        if inst.src[0].wide != inst.dst.wide {
            return Err("widths".into());
        }
        inst.op = if inst.dst.wide {
            Op::U64(|a, d| *d = *a)
        } else if text.last() == "pred" {
            Op::U32(|a, d| (0..32).for_each(|i| d.0[i] = u32::from(a.0[i] != 0)))
        } else {
            Op::U32(|a, d| *d = *a)
        };
    }
    Ok(())
}

fn compute(body: &mut Body<'_>, text: &Text<'_>, inst: &mut Inst) -> Result<(), String> {
    // A source register may be wider than the type. The low bits are then converted.
    let first = text.operands.get(1).and_then(|operand| body.register(operand));
    let opcode = match text.opcode {
        "cvt.s64.s32" if first.is_some_and(|reg| reg.wide) => "low cvt.s64.s32",
        "cvt.u64.u32" if first.is_some_and(|reg| reg.wide) => "low cvt.u64.u32",
        opcode => opcode,
    };
    let (op, wides) = arithmetic::decode(opcode).ok_or("opcode")?;
    inst.dst = destination(body, text.operand(0)?)?;
    for (i, wide) in wides.iter().enumerate() {
        inst.src[i] = body.source(text.operand(i + 1)?, *wide)?;
        if inst.src[i].wide != *wide {
            return Err(format!("operand {} has another width", i + 1));
        }
    }
    if text.operands.len() != wides.len() + 1 {
        return Err("number of operands".into());
    }
    let wide_result = matches!(
        op,
        Op::U64(_)
            | Op::B64(_)
            | Op::T64(_)
            | Op::U32to64(_)
            | Op::B32to64(_)
            | Op::Shift64(_)
            | Op::Select64
    );
    if inst.dst.wide != wide_result {
        return Err("destination's width".into());
    }
    inst.op = op;
    Ok(())
}

pub(super) fn destination(body: &Body<'_>, name: &str) -> Result<Reg, String> {
    if name == "_" {
        return Ok(NONE);
    }
    body.register(name).ok_or_else(|| format!("destination {name}"))
}

/// Parts of `{a, b}`.
pub(super) fn braces(text: &str) -> Option<Vec<String>> {
    Some(split_operands(text.trim().strip_prefix('{')?.strip_suffix('}')?))
}

fn type_bytes(kind: &str) -> Option<u8> {
    Some(match kind {
        "u8" | "s8" | "b8" => 1,
        "u16" | "s16" | "b16" => 2,
        "u32" | "s32" | "b32" | "f32" => 4,
        "u64" | "s64" | "b64" | "f64" => 8,
        _ => return None,
    })
}

/// Splits at commas outside of brackets.
fn split_operands(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for c in text.chars() {
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(part.trim().to_string());
                part.clear();
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    if !part.trim().is_empty() {
        parts.push(part.trim().to_string());
    }
    parts
}
