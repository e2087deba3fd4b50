//! Occupancy: values computed by hand, and the table of every compiled kernel.

use std::fs;
use std::path::Path;

use crate::machine_code::warpgroup_tile;
use scenerank::bench::occupancy::{Limit, Multiprocessor, Occupancy};

/// Blocks, warps and limit for these numbers of threads, of registers, and of bytes of shared memory.
fn held(architecture: &str, [threads, registers, shared_bytes]: [u64; 3]) -> (u64, u64, Limit) {
    let of = Multiprocessor::of(architecture).expect("an architecture of the list");
    let Occupancy { blocks, warps, limit } = of.occupancy(threads, registers, shared_bytes);
    (blocks, warps, limit)
}

#[test]
fn occupancy_equals_what_is_computed_by_hand() {
    // A block has 8 of 64 warps. 32 registers per thread are 1,024 per warp, and 64 warps take all 65,536.
    assert_eq!(held("sm_90a", [256, 32, 0]), (8, 64, Limit::Warps));
    assert_eq!(held("sm_120", [256, 32, 0]), (6, 48, Limit::Warps));
    // 33 registers count as 40: 1,280 per warp, and 12 warps in each quarter of 16,384.
    assert_eq!(held("sm_90a", [256, 33, 0]), (6, 48, Limit::Registers));
    // 128 registers are 4,096 per warp: 4 warps in a quarter, 16 in all. 255 count as 256: 2 warps in a quarter.
    assert_eq!(held("sm_80", [256, 128, 0]), (2, 16, Limit::Registers));
    assert_eq!(held("sm_100", [256, 255, 0]), (1, 8, Limit::Registers));
    // 168 registers are 5,376 per warp, and a quarter holds 3 warps. All registers together would hold 12.19 warps; 12
    // warps are 3 blocks of 4.
    assert_eq!(held("sm_90a", [128, 168, 0]), (3, 12, Limit::Registers));
    // 208 registers are 6,656 per warp: 2 warps in a quarter, 8 in all, although all registers together would hold 9.8.
    assert_eq!(held("sm_90a", [96, 208, 0]), (2, 6, Limit::Registers));
    // A block of 9 warps with 256 registers does not fit.
    assert_eq!(held("sm_90a", [288, 256, 0]), (0, 0, Limit::Registers));
    // 40,960 bytes and 1,024 of the system are 41,984, out of 233,472, 167,936 and 102,400.
    assert_eq!(held("sm_90a", [128, 32, 40_960]), (5, 20, Limit::SharedMemory));
    assert_eq!(held("sm_80", [128, 32, 40_960]), (4, 16, Limit::SharedMemory));
    assert_eq!(held("sm_120", [128, 32, 40_960]), (2, 8, Limit::SharedMemory));
    // 1 byte and 1,024 count as 1,152, so 202 blocks would fit. 7,296 bytes fit 32 times, and 7,297 count as 7,424.
    assert_eq!(held("sm_90a", [32, 32, 1]), (32, 32, Limit::Blocks));
    assert_eq!(held("sm_90a", [32, 32, 6_272]), (32, 32, Limit::Blocks));
    assert_eq!(held("sm_90a", [32, 32, 6_273]), (31, 31, Limit::SharedMemory));
    assert_eq!(held("sm_120", [32, 32, 0]), (24, 24, Limit::Blocks));
    // One thread counts as a warp.
    assert_eq!(held("sm_80", [1, 20, 0]), (32, 32, Limit::Blocks));
    assert_eq!(Multiprocessor::of("sm_75"), None);
    assert_eq!(Multiprocessor::of("sm_90"), Multiprocessor::of("sm_90a"));
}

/// The table that the build writes beside the kernels if there is nvcc.
#[test]
fn every_kernel_fits_a_multiprocessor() {
    let path = Path::new(concat!(env!("OUT_DIR"), "/kernel_resources.csv"));
    if !path.exists() {
        println!("skipped: no kernel was compiled by nvcc");
        return;
    }
    let table = fs::read_to_string(path).unwrap();
    let mut of_sm_90 = 0;
    for line in table.lines().skip(1) {
        let [kernel, architecture, registers, shared, stack, spilt, threads, blocks, warps, limit] =
            line.split(',').collect::<Vec<_>>()[..]
        else {
            panic!("ten columns, not {line}");
        };
        let number =
            |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("a number, not {text}: {line}"));
        assert_eq!((number(stack), number(spilt)), (0, 0), "{line}");
        let of = [threads, registers, shared].map(number);
        // Threads per block, registers per thread, and shared memory per block on the GPU with the least of it, or on those
        // with products of warpgroups.
        let most_shared = if warpgroup_tile(kernel).is_some() { 227 << 10 } else { 99 << 10 };
        assert!((1..=1024).contains(&of[0]) && of[1] <= 255 && of[2] <= most_shared, "{line}");
        if Multiprocessor::of(architecture).is_none() {
            continue;
        }
        let want = held(architecture, of);
        assert_eq!(
            (number(blocks), number(warps), limit),
            (want.0, want.1, want.2.to_string().as_str()),
            "{line}"
        );
        assert!(want.0 >= 1, "{kernel} does not fit: {line}");
        of_sm_90 += u64::from(architecture.starts_with("sm_90"));
    }
    assert!(of_sm_90 == 0 || of_sm_90 >= 80, "{of_sm_90} kernels for sm_90");
}
