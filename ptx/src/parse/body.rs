//! Body of a kernel: declarations, labels and statements.

use std::collections::HashMap;
use std::sync::Arc;

use super::instruction::instruction;
use super::{align_up, shared_symbol};
use crate::kernel::{Kernel, Param, Pool, Reg, SharedSymbol};

/// A kernel before its body is parsed.
pub(super) struct Entry<'a> {
    pub name: &'a str,
    pub params: Vec<Param>,
    /// Threads per block; 0 if not declared.
    pub max_threads: u32,
    /// Whether its launch may begin before its predecessor has ended.
    pub overlaps: bool,
    /// Lines between the braces, without comments.
    pub lines: &'a [&'a str],
    /// Number of the first of them in the file.
    pub first_line: u32,
    /// Shared symbols of the file.
    pub globals: &'a [SharedSymbol],
    pub files: Arc<HashMap<u32, String>>,
}

/// Declared registers with one prefix, such as `%rd`.
struct Class {
    wide: bool,
    /// Index of the first register in its file.
    base: u32,
    count: u32,
}

/// Names in scope while instructions are decoded.
pub(super) struct Body<'a> {
    classes: HashMap<String, Class>,
    /// Registers with a name of their own, of inline assembly. Blocks that declare the same name share the register.
    named: HashMap<String, Reg>,
    regs32: u32,
    regs64: u32,
    pool: Vec<(Reg, Pool)>,
    pooled: HashMap<(bool, Pool), Reg>,
    pub params: &'a [Param],
    /// Shared symbols, and whether an instruction names them.
    symbols: Vec<(SharedSymbol, bool)>,
    /// Index of the instruction behind each label.
    pub labels: HashMap<String, usize>,
}

/// A statement, its line and its place in the source.
struct Statement {
    text: String,
    line: u32,
    source: [(u32, u32); 2],
}

impl Body<'_> {
    /// Register that holds `pool`.
    pub(super) fn pooled(&mut self, wide: bool, pool: Pool) -> Reg {
        if let Some(&reg) = self.pooled.get(&(wide, pool)) {
            return reg;
        }
        let count = if wide { &mut self.regs64 } else { &mut self.regs32 };
        let reg = Reg { wide, at: *count };
        *count += 1;
        self.pool.push((reg, pool));
        self.pooled.insert((wide, pool), reg);
        reg
    }

    /// Declared register with this name.
    pub(super) fn register(&self, text: &str) -> Option<Reg> {
        if let Some(&reg) = self.named.get(text) {
            return Some(reg);
        }
        let digits = text.find(|c: char| c.is_ascii_digit())?;
        let class = self.classes.get(&text[..digits])?;
        let index: u32 = text[digits..].parse().ok()?;
        (index < class.count).then_some(Reg { wide: class.wide, at: class.base + index })
    }

    /// Source operand of an instruction with this width.
    pub(super) fn source(&mut self, text: &str, wide: bool) -> Result<Reg, String> {
        let text = text.trim();
        if let Some(reg) = self.register(text) {
            return Ok(reg);
        }
        let pool = if let Some(special) = text.strip_prefix('%') {
            special_register(special).ok_or_else(|| format!("special register {text}"))?
        } else if let Some(value) = immediate(text) {
            Pool::Imm(value)
        } else if let Some(at) = self.symbols.iter().position(|(symbol, _)| symbol.name == text) {
            self.symbols[at].1 = true;
            Pool::Shared(at)
        } else if let Some(param) = self.params.iter().find(|param| param.name == text) {
            Pool::Param(param.offset)
        } else {
            return Err(format!("operand {text}"));
        };
        Ok(self.pooled(wide, pool))
    }

    /// Base register and offset of `[base+offset]`.
    pub(super) fn address(&mut self, text: &str, wide: bool) -> Result<(Reg, i64), String> {
        let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let inner = inner.map(str::trim).filter(|inner| !inner.is_empty());
        let inner = inner.ok_or_else(|| format!("address {text}"))?;
        let (base, offset) = match inner[1..].find(['+', '-']).map(|at| at + 1) {
            Some(at) => {
                let offset = inner[at..].trim_start_matches('+');
                (&inner[..at], immediate(offset).ok_or_else(|| format!("offset {offset}"))? as i64)
            }
            None => (inner, 0),
        };
        Ok((self.source(base, wide)?, offset))
    }

    fn declare_registers(&mut self, declaration: &str) -> Option<()> {
        let declaration = declaration.trim().trim_end_matches(';');
        let (kind, declared) = declaration.split_once(char::is_whitespace)?;
        let wide = matches!(kind, ".b64" | ".f64" | ".u64" | ".s64");
        let file = if wide { &mut self.regs64 } else { &mut self.regs32 };
        let Some((prefix, count)) = declared.trim().split_once('<') else {
            let reg = *self.named.entry(declared.trim().to_string()).or_insert(Reg { wide, at: *file });
            *file += u32::from(reg.at == *file);
            return (reg.wide == wide).then_some(());
        };
        let count: u32 = count.trim_end_matches('>').parse().ok()?;
        self.classes.insert(prefix.to_string(), Class { wide, base: *file, count });
        *file += count;
        Some(())
    }

    /// Splits lines into statements. Takes in declarations and labels.
    fn statements(&mut self, entry: &Entry<'_>) -> Result<Vec<Statement>, String> {
        let mut statements: Vec<Statement> = Vec::new();
        let (mut source, mut pending) = ([(0, 0); 2], String::new());
        for (line, number) in entry.lines.iter().zip(entry.first_line..) {
            let unknown = || format!("line {number}: {line}");
            if line.is_empty() || matches!(*line, "{" | "}") || line.starts_with(".pragma") {
                continue;
            } else if let Some(rest) = line.strip_prefix(".loc") {
                let inlined = rest.split_once("inlined_at").map_or((0, 0), |(_, text)| place(text));
                source = [place(rest), inlined];
                continue;
            } else if let Some(rest) = line.strip_prefix(".reg") {
                self.declare_registers(rest).ok_or_else(unknown)?;
                continue;
            } else if line.starts_with(".shared") || line.starts_with(".extern .shared") {
                self.symbols.push((shared_symbol(line).ok_or_else(unknown)?, false));
                continue;
            } else if line.starts_with('.') {
                return Err(unknown());
            } else if pending.is_empty()
                && let Some(label) = line.strip_suffix(':')
            {
                self.labels.insert(label.to_string(), statements.len());
                continue;
            }
            let mut line = *line;
            while let Some((statement, rest)) = line.split_once(';') {
                pending.push_str(statement);
                let text = std::mem::take(&mut pending).trim().to_string();
                statements.push(Statement { text, line: number, source });
                line = rest.trim();
            }
            if !line.is_empty() {
                pending.push_str(line);
                pending.push(' ');
            }
        }
        Ok(statements)
    }

    /// Places the named symbols in order, dynamic memory last. Returns the static bytes and the dynamic offset.
    fn place_shared(&mut self) -> (u32, Option<u32>) {
        let (mut bytes, mut dynamic) = (0, None);
        for (symbol, _) in self.symbols.iter_mut().filter(|(_, used)| *used) {
            if let Some(size) = symbol.bytes {
                symbol.offset = align_up(bytes, symbol.align);
                bytes = symbol.offset + size;
            }
        }
        for (symbol, _) in self.symbols.iter_mut().filter(|(_, used)| *used) {
            if symbol.bytes.is_none() {
                symbol.offset = align_up(bytes, symbol.align);
                dynamic = Some(symbol.offset);
            }
        }
        (bytes, dynamic)
    }
}

pub(super) fn parse_body(entry: Entry<'_>) -> Result<Kernel, String> {
    let mut body = Body {
        classes: HashMap::new(),
        named: HashMap::new(),
        regs32: 0,
        regs64: 0,
        pool: Vec::new(),
        pooled: HashMap::new(),
        params: &entry.params,
        symbols: entry.globals.iter().map(|symbol| (symbol.clone(), false)).collect(),
        labels: HashMap::new(),
    };
    let statements = body.statements(&entry)?;
    let mut code = Vec::with_capacity(statements.len());
    for Statement { text, line, source } in &statements {
        let mut inst =
            instruction(&mut body, text).map_err(|error| format!("line {line}: {text}: {error}"))?;
        inst.ptx_line = *line;
        inst.source = *source;
        code.push(inst);
    }
    let (static_bytes, dynamic_offset) = body.place_shared();
    let Body { regs32, regs64, pool, symbols, .. } = body;
    Ok(Kernel {
        name: entry.name.to_string(),
        params: entry.params,
        code,
        texts: statements.into_iter().map(|statement| statement.text).collect(),
        regs32,
        regs64,
        pool,
        shared: symbols.into_iter().map(|(symbol, _)| symbol).collect(),
        static_bytes,
        dynamic_offset,
        max_threads: entry.max_threads,
        overlaps: entry.overlaps,
        files: entry.files,
    })
}

/// File and line at the beginning of a text.
fn place(text: &str) -> (u32, u32) {
    let mut words = text.split_whitespace();
    let mut next = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    (next(), next())
}

fn special_register(name: &str) -> Option<Pool> {
    let axis = |rest: &str| match rest {
        "x" => Some(0u8),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    Some(match name.split_once('.') {
        Some(("tid", rest)) => Pool::Tid(axis(rest)?),
        Some(("ntid", rest)) => Pool::Ntid(axis(rest)?),
        Some(("ctaid", rest)) => Pool::Ctaid(axis(rest)?),
        Some(("nctaid", rest)) => Pool::Nctaid(axis(rest)?),
        None if name == "laneid" => Pool::Lane,
        _ => return None,
    })
}

/// Bits of an immediate.
pub(super) fn immediate(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(u64::from);
    }
    if let Some(hex) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex.trim_end_matches('U'), 16).ok();
    }
    if let Some(negative) = text.strip_prefix('-') {
        return negative.parse::<u64>().ok().map(|value| (value as i64).wrapping_neg() as u64);
    }
    text.parse::<u64>().ok()
}
