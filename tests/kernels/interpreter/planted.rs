//! Defects planted in the PTX. Each must be found: by the interpreter, or by a wrong result.

use std::sync::Arc;

use scenerank::Error;
use scenerank::backend::cuda::device::interpreter::{self, Interpretation};
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::bench::case::Case;
use scenerank::bench::cases;
use scenerank::bench::cases::adam::Update;
use scenerank::bench::cases::linear::Product;
use scenerank::bench::cases::linear::forward::{ForwardProduct, forward};
use scenerank::optimizer::Adam;
use scenerank_ptx::device::parse_kernels;

use super::{architectures, compared};
use crate::support::cases::{Edge, Graphs};

/// Descriptor of a factor whose lines are rows: a swizzle of 128 bytes, and 1,024 bytes from 8 lines to the next.
const DESCRIPTOR: u64 = 0x4000_0040_0001_0000;

/// A defect.
struct Planted {
    name: &'static str,
    /// Kernel file.
    file: &'static str,
    /// Changes a line of its PTX.
    change: fn(&str) -> String,
    /// A launch that executes it.
    case: fn() -> Case,
    /// How it is reported: a part of the error, or [`WRONG`].
    found: &'static str,
}

/// The result is off by more than its limit.
const WRONG: &str = "wrong";

/// A product of several tiles, and of several steps of its inner loop.
fn product_in(format: Format) -> Case {
    let product = Product { what: "test", rows: 70, inputs: 200, outputs: 72, format, seed: 1 };
    let part = product.whole();
    forward(ForwardProduct { product, activated: false, with_statistics: true, part, ends: None })
}

fn bf16() -> Case {
    product_in(Format::Bf16)
}

fn fp32() -> Case {
    product_in(Format::Fp32)
}

/// Sums over two blocks of nodes or more.
fn pooling() -> Case {
    let ring = |node: u32| Edge { subject: node, predicate: 0, object: (node + 1) % 40, copies: 2 };
    let graphs = Graphs { sizes: vec![40], edges: (0..40).map(ring).collect() };
    let all = cases::edge_pool::cases::<f32>(&graphs.sizes(64, 8, 1));
    all.into_iter().find(|case| case.kernel == "edge_pool_backward_sums").expect("a case")
}

fn adam() -> Case {
    let of = Update { count: 3000, parts: 1, adam: Adam::new(0.1), steps_done: 3, seed: 1 };
    cases::adam::step(of, None)
}

fn without<const N: usize>(line: &str, parts: [&str; N]) -> String {
    if parts.iter().any(|part| line.contains(part)) { String::new() } else { line.to_string() }
}

/// Instruction that waits for the launch ahead, and the defect without it.
const WAIT: &str = "griddepcontrol.wait";
const NO_WAIT: &str = "no wait for the launch ahead";

/// Tile of the products by warpgroups that have defects, and their file.
const WARPGROUP: &str = "linear_warpgroup_bf16_64x128";

/// The same tile in bf16x3, whose producer splits what it has copied.
const WARPGROUP_SPLIT: &str = "linear_warpgroup_bf16x3_64x128";

/// More steps than the ring has stages.
fn warpgroup() -> Case {
    of_warpgroups(Format::Bf16Warpgroup)
}

fn warpgroup_split() -> Case {
    of_warpgroups(Format::Bf16x3Warpgroup)
}

fn of_warpgroups(format: Format) -> Case {
    let product = Product { what: "test", rows: 130, inputs: 400, outputs: 152, format, seed: 1 };
    forward(ForwardProduct::activated(product))
}

const PLANTED: [Planted; 22] = [
    Planted {
        name: "no barriers",
        file: "linear_bf16",
        change: |line| without(line, ["bar.sync"]),
        case: bf16,
        found: "race in shared memory",
    },
    Planted {
        name: "one group of copies less is waited for",
        file: "linear_bf16",
        change: |line| line.replace("wait_group 2", "wait_group 3").replace("wait_group 1", "wait_group 2"),
        case: bf16,
        found: "asynchronous copy in flight",
    },
    Planted {
        name: "two registers of a fragment swapped",
        file: "linear_bf16",
        change: |line| match line.split(", ").collect::<Vec<_>>()[..] {
            [d0, d1, d2, d3, a0, a1, a2, ref rest @ ..] if line.contains("mma.sync") => {
                [&[d0, d1, d2, d3, a0, a2, a1], rest].concat().join(", ")
            }
            _ => line.to_string(),
        },
        case: bf16,
        found: WRONG,
    },
    Planted {
        name: "a matrix is not transposed",
        file: "linear_bf16",
        change: |line| match line.contains("x4.trans") {
            true => line.replace("x4.trans", "x4"),
            false => line.replace("x4.shared", "x4.trans.shared"),
        },
        case: bf16,
        found: WRONG,
    },
    Planted {
        name: "copies read 12 of 16 bytes",
        file: "linear_bf16",
        change: |line| match line.split_once("], 16, ") {
            Some((copy, _)) => format!("{copy}], 16, 12;"),
            None => line.to_string(),
        },
        case: bf16,
        // Copies beyond the last row would read nothing.
        found: "out of bounds",
    },
    Planted {
        name: "no fences in a product",
        file: "linear_fp32",
        change: |line| line.replace("atom.acq_rel.", "atom.relaxed."),
        case: fp32,
        found: "race in global memory: read of another block's write",
    },
    Planted {
        name: "no fences in a sum",
        file: "edge_pool",
        change: |line| line.replace("atom.acq_rel.", "atom.relaxed."),
        case: pooling,
        found: "race in global memory: read of another block's write",
    },
    Planted {
        name: "a counter is raised by two",
        file: "edge_pool",
        change: |line| match line.contains("atom.acq_rel.") {
            true => format!("{line}\n{line}"),
            false => line.to_string(),
        },
        case: pooling,
        // The first of two blocks takes itself for the last.
        found: "race in global memory: write after another block's read",
    },
    Planted {
        name: NO_WAIT,
        file: "edge_pool",
        change: |line| without(line, [WAIT]),
        case: pooling,
        found: "global access before griddepcontrol.wait",
    },
    Planted {
        name: "a narrower parameter",
        file: "adam",
        change: |line| match line.contains(".param .align 8 .b8 adam_step_param_0[") {
            true => ".param .align 8 .b8 adam_step_param_0[104]".to_string(),
            false => line.to_string(),
        },
        case: adam,
        found: "parameters of 104 bytes are declared",
    },
    Planted {
        name: "non-coherent loads of what is written",
        file: "adam",
        change: |line| line.replace("ld.global.", "ld.global.nc."),
        case: adam,
        found: "nc in the same launch",
    },
    Planted {
        name: "no proxy fence before products",
        file: WARPGROUP,
        change: |line| without(line, ["fence.proxy"]),
        case: warpgroup,
        found: "what no fence.proxy.async follows",
    },
    Planted {
        name: "a group of products less is waited for",
        file: WARPGROUP,
        change: |line| line.replace("wgmma.wait_group.sync.aligned 0", "wgmma.wait_group.sync.aligned 1"),
        case: warpgroup,
        found: "access to a register of a product in flight",
    },
    Planted {
        name: "registers that are not ready for products",
        file: WARPGROUP,
        change: |line| without(line, ["wgmma.fence"]),
        case: warpgroup,
        found: "without wgmma.fence",
    },
    Planted {
        name: "a stage is full before its copies have arrived",
        file: WARPGROUP,
        change: |line| line.replace("cp.async.wait_group 2", "cp.async.wait_group 3"),
        case: warpgroup,
        found: "asynchronous copy in flight",
    },
    Planted {
        name: "lanes that do not meet before one of them arrives",
        file: WARPGROUP,
        change: |line| without(line, ["bar.warp.sync"]),
        case: warpgroup,
        found: "race in shared memory",
    },
    Planted {
        name: "waits for the other phase",
        file: WARPGROUP,
        change: |line| match line.split_once("], ").filter(|_| line.contains("try_wait")) {
            Some((_, parity)) => {
                let parity = parity.trim_end_matches(';');
                format!("xor.b32 {parity}, {parity}, 1;\n{line}")
            }
            None => line.to_string(),
        },
        case: warpgroup,
        found: "shared",
    },
    Planted {
        name: "8 lines of a factor lie 2,048 bytes from the next",
        file: WARPGROUP,
        change: |line| line.replace(&DESCRIPTOR.to_string(), &(DESCRIPTOR + (64 << 32)).to_string()),
        case: warpgroup,
        found: "race in shared memory",
    },
    Planted {
        name: "a factor in the other order",
        file: WARPGROUP,
        change: |line| line.replace("adds, 1, 1, 0;", "adds, 1, 1, 1;"),
        case: warpgroup,
        found: "matrix descriptor",
    },
    Planted {
        name: "no proxy fence after values are split",
        file: WARPGROUP_SPLIT,
        change: |line| without(line, ["fence.proxy"]),
        case: warpgroup_split,
        found: "what no fence.proxy.async follows",
    },
    Planted {
        name: "lanes that do not meet before one splits what another copied",
        file: WARPGROUP_SPLIT,
        change: |line| without(line, ["bar.warp.sync"]),
        case: warpgroup_split,
        found: "race in shared memory",
    },
    Planted {
        name: "wide stores 4 bytes further",
        file: "adam",
        change: |line| match line.contains("st.global.v4.f32") {
            true => line.replace("],", "+4],"),
            false => line.to_string(),
        },
        case: adam,
        found: "misaligned global access",
    },
];

/// Runs the case on the PTX with `change` applied to one file. Returns how it fails.
fn outcome(architecture: Option<&str>, planted: &Planted, change: fn(&str) -> String) -> Option<String> {
    let texts = interpreter::texts(architecture).expect("PTX, which was there before");
    let texts: Vec<String> = texts
        .into_iter()
        .map(|(name, text)| match name == planted.file {
            true => text.lines().map(change).collect::<Vec<String>>().join("\n"),
            false => text,
        })
        .collect();
    let kernels = parse_kernels(texts.iter().map(String::as_str)).expect("PTX that can be parsed");
    let of = Interpretation { kernels: Arc::new(kernels), compare: false, ..compared(architecture) };
    let device = launchers::interpreted(of).expect("an interpreter");
    match ((planted.case)().prepare)(0).check(&device) {
        // Shown, the message is cut, and where it is cut depends on the addresses of the buffers.
        Err(Error::Device { problem, .. }) => Some(problem),
        Err(error) => panic!("{}: {error}", planted.name),
        Ok(worst) => worst.filter(|worst| !worst.ok()).map(|_| WRONG.to_string()),
    }
}

#[test]
fn planted_defects_are_found() {
    // Only PTX for sm_90 and later waits for the launch ahead.
    let Some(&architecture) = architectures().last() else { return };
    let mut failures = Vec::new();
    let texts = interpreter::texts(architecture).expect("PTX, which was there before");
    let waits = texts.iter().any(|(_, text)| text.contains(WAIT));
    for planted in PLANTED {
        if planted.file.contains("_warpgroup_") && !texts.iter().any(|(_, text)| text.contains("wgmma.fence"))
        {
            println!("skipped: {}: this PTX has no products of warpgroups", planted.name);
            continue;
        }
        if planted.name == NO_WAIT && !waits {
            println!("skipped: {NO_WAIT}: this PTX is for GPUs whose launches do not overlap");
            continue;
        }
        assert_eq!(outcome(architecture, &planted, str::to_string), None, "{}: without it", planted.name);
        let found = outcome(architecture, &planted, planted.change).unwrap_or("nothing".into());
        println!("{}: {found}", planted.name);
        if !found.contains(planted.found) {
            failures.push(planted.name);
        }
    }
    assert!(failures.is_empty(), "not found as expected: {failures:?}");
}
