//! Parser of PTX text. It knows the subset that nvcc 13.0 emits for this project; anything else is an error that names
//! the line.

mod body;
mod instruction;
mod warpgroup;

use std::collections::HashMap;
use std::sync::Arc;

use crate::kernel::{Module, Param, SharedSymbol};
use body::{Entry, parse_body};

/// Parses one file.
pub fn parse(text: &str) -> Result<Module, String> {
    let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or("").trim()).collect();
    let files = Arc::new(source_files(text));
    let mut module = Module { target: String::new(), kernels: Vec::new() };
    let mut globals: Vec<SharedSymbol> = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        at += 1;
        if let Some(target) = line.strip_prefix(".target") {
            module.target = target.split(',').next().unwrap_or("").trim().to_string();
        } else if line.starts_with(".shared") || line.starts_with(".extern .shared") {
            globals.push(shared_symbol(line).ok_or_else(|| format!("line {at}: {line}"))?);
        } else if let Some((_, name)) = line.split_once(".entry ") {
            let name = name.trim().trim_end_matches(['(', ')']).trim();
            let (params, max_threads) = header(&lines, &mut at)?;
            let first = at;
            let mut depth = 1;
            while depth > 0 {
                match lines.get(at) {
                    Some(&"{") => depth += 1,
                    Some(&"}") => depth -= 1,
                    Some(_) => {}
                    None => return Err(format!("{name}: the file ends in its body")),
                }
                at += 1;
            }
            let number = module.target.trim_start_matches("sm_").trim_end_matches(char::is_alphabetic);
            let entry = Entry {
                name,
                params,
                max_threads,
                overlaps: number.parse::<u32>().is_ok_and(|number| number >= 90),
                lines: &lines[first..at - 1],
                first_line: first as u32 + 1,
                globals: &globals,
                files: files.clone(),
            };
            module.kernels.push(parse_body(entry).map_err(|error| format!("{name}: {error}"))?);
        }
    }
    Ok(module)
}

/// Names of source files by number, without their folders.
fn source_files(text: &str) -> HashMap<u32, String> {
    let declared = text.lines().filter_map(|line| line.trim().strip_prefix(".file"));
    let split = declared.filter_map(|rest| rest.trim().split_once(char::is_whitespace));
    split
        .filter_map(|(number, name)| {
            let name = name.trim().split('"').nth(1)?;
            Some((number.parse().ok()?, name.rsplit('/').next().unwrap_or(name).to_string()))
        })
        .collect()
}

/// Parameters and threads per block, from the lines up to the body. Leaves `at` on the body's first line.
fn header(lines: &[&str], at: &mut usize) -> Result<(Vec<Param>, u32), String> {
    let (mut params, mut offset, mut max_threads) = (Vec::new(), 0u32, 0);
    while !lines.get(*at).ok_or("the file ends in a kernel's header")?.starts_with('{') {
        let line = lines[*at];
        *at += 1;
        if let Some(rest) = line.strip_prefix(".param") {
            let (align, name, bytes) =
                parameter(rest).ok_or_else(|| format!("line {at}: parameter {line}"))?;
            offset = align_up(offset, align);
            params.push(Param { name, offset, bytes });
            offset += bytes;
        } else if let Some(rest) = line.strip_prefix(".maxntid") {
            max_threads = rest.split(',').filter_map(|n| n.trim().parse::<u32>().ok()).product();
        }
    }
    *at += 1;
    Ok((params, max_threads))
}

/// Alignment, name and size of a parameter: `.u64 NAME` or `.align 8 .b8 NAME[BYTES]`.
fn parameter(text: &str) -> Option<(u32, String, u32)> {
    let words: Vec<&str> = text.trim_end_matches(',').split_whitespace().collect();
    match words[..] {
        [".align", align, ".b8", array] => {
            let (name, bytes) = array.trim_end_matches(']').split_once('[')?;
            Some((align.parse().ok()?, name.to_string(), bytes.parse().ok()?))
        }
        [kind, name] => {
            let bytes = kind.get(2..)?.parse::<u32>().ok()? / 8;
            Some((bytes, name.to_string(), bytes))
        }
        _ => None,
    }
}

/// Parses a declaration in shared memory.
fn shared_symbol(line: &str) -> Option<SharedSymbol> {
    let line = line.trim_end_matches(';').trim();
    let rest = line.strip_prefix(".extern").map_or(line, str::trim_start);
    let mut words = rest.strip_prefix(".shared")?.split_whitespace();
    let mut align = 1;
    while let Some(word) = words.next() {
        if word == ".align" {
            align = words.next()?.parse().ok()?;
            continue;
        }
        let unit = word.strip_prefix('.')?.get(1..)?.parse::<u32>().ok()? / 8;
        let declared = words.next()?;
        let (name, count) = match declared.split_once('[') {
            Some((name, count)) => (name, count.trim_end_matches(']')),
            None => (declared, "1"),
        };
        let bytes = if count.is_empty() { None } else { Some(count.parse::<u32>().ok()? * unit) };
        return Some(SharedSymbol { name: name.to_string(), align: align.max(unit), bytes, offset: 0 });
    }
    None
}

fn align_up(value: u32, align: u32) -> u32 {
    value.div_ceil(align.max(1)) * align.max(1)
}
