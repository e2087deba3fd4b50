//! ceilings: the kernels that measure peak rates do all of their arithmetic, and count it correctly.

use crate::support::{Values, devices, poisoned, to_device, to_host};
use scenerank::backend::cuda::launchers::ceilings::{
    FRAGMENTS, ceiling_fma, ceiling_launch, ceiling_mma, ceiling_mma_varied,
};

#[test]
fn chains_have_as_many_steps_as_are_counted() {
    let (threads, steps, factor, addend) = (512, 37, 0.75f32, 1.5f32);
    for device in devices() {
        let mut sums = poisoned(&device, threads);
        let flops =
            ceiling_fma(&device, &mut sums.slice_mut(0..threads), factor, addend, steps).expect("a launch");
        let chain = |start: usize| (0..steps).fold(start as f32, |s, _| s.mul_add(factor, addend));
        let want: Vec<f32> =
            (0..threads).map(|thread| (0..8).fold(0.0, |sum, i| sum + chain(thread % 256 + i))).collect();
        // Fused multiply-adds in a fixed order give the same bits.
        let got = to_host(&device, &sums);
        assert!(got == want, "{:?} and so on, where {:?} is expected", &got[..3], &want[..3]);
        assert_eq!(flops, 512 * 8 * 37 * 2);
    }
}

#[test]
fn products_have_as_many_steps_as_are_counted() {
    let (threads, steps) = (256, 5);
    for device in devices() {
        let mut sums = poisoned(&device, threads);
        let flops =
            ceiling_mma(&device, &mut sums.slice_mut(0..threads), 1.5, 0.25, steps).expect("a launch");
        // Small multiples of 3 / 8 are exact. A thread has four values of each of four tiles.
        let want = (4 * 4 * steps * 16) as f32 * 1.5 * 0.25;
        assert_eq!(to_host(&device, &sums), vec![want; threads]);
        assert_eq!(flops as usize, 8 * 4 * steps * 2 * 16 * 8 * 16, "eight warps");
    }
}

/// Number of registers of a left and of a right fragment, and of chains.
const REGISTERS: [usize; 2] = [4, 2];
const CHAINS: usize = 4;

/// A pair of values that fills a register, as in the kernel: hashed bits are signs and significands.
fn random_pair(index: usize) -> [f64; 2] {
    let mut bits = index as u32;
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    bits = ((bits ^ (bits >> 16)) & 0x807f_807f) | 0x3f00_3f00;
    [bits << 16, bits & 0xffff_0000].map(|bits| f64::from(f32::from_bits(bits)))
}

/// Left fragment [16, 16] and right fragment [16, 8] of a warp, in the order of `kernels/tensor_core.cuh`.
fn fragments(first_thread: usize, fragment: usize) -> ([[f64; 16]; 16], [[f64; 8]; 16]) {
    let (mut a, mut b) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        let first = ((first_thread + lane) * FRAGMENTS + fragment) * (REGISTERS[0] + REGISTERS[1]);
        for register in 0..REGISTERS[0] {
            let (row, column) = (g + 8 * (register % 2), 2 * t + 8 * (register / 2));
            [a[row][column], a[row][column + 1]] = random_pair(first + register);
        }
        for register in 0..REGISTERS[1] {
            let row = 2 * t + 8 * register;
            [b[row][g], b[row + 1][g]] = random_pair(first + REGISTERS[0] + register);
        }
    }
    (a, b)
}

#[test]
fn products_of_varied_fragments_have_as_many_steps_as_are_counted() {
    let (threads, steps) = (512, 2 * FRAGMENTS);
    for device in devices() {
        let mut sums = poisoned(&device, threads);
        let flops = ceiling_mma_varied(&device, &mut sums.slice_mut(0..threads), steps).expect("a launch");
        assert_eq!(flops as usize, 16 * CHAINS * steps * 2 * 16 * 8 * 16, "sixteen warps");
        let got = to_host(&device, &sums);
        for (warp, got) in got.chunks_exact(32).enumerate() {
            let all: Vec<_> = (0..FRAGMENTS).map(|fragment| fragments(32 * warp, fragment)).collect();
            let mut d = [[0.0; 8]; 16];
            for (step, chain) in (0..steps).flat_map(|step| (0..CHAINS).map(move |chain| (step, chain))) {
                let (a, b) = (all[(step + chain) % FRAGMENTS].0, all[step % FRAGMENTS].1);
                for (row, d) in d.iter_mut().enumerate() {
                    for (column, d) in d.iter_mut().enumerate() {
                        *d += (0..16).map(|inner| a[row][inner] * b[inner][column]).sum::<f64>();
                    }
                }
            }
            for (lane, &got) in got.iter().enumerate() {
                let (g, t) = (lane / 4, lane % 4);
                let want = d[g][2 * t] + d[g][2 * t + 1] + d[g + 8][2 * t] + d[g + 8][2 * t + 1];
                // Some 2,000 products below 1, of either sign, in single precision.
                assert!((f64::from(got) - want).abs() < 2e-3, "warp {warp}, lane {lane}: {got} for {want}");
            }
        }
    }
}

#[test]
fn an_empty_kernel_leaves_everything_as_it_is() {
    for device in devices() {
        let sums = poisoned(&device, 8);
        ceiling_launch(&device, 3).expect("a launch");
        assert!(to_host(&device, &sums).iter().all(|value| value.is_nan()));
    }
}

#[test]
fn copies_arrive() {
    for device in devices() {
        let values = Values::new(1).signed(1000);
        let from = to_device(&device, &values);
        let mut to = poisoned(&device, 1001);
        device.copy_on_device(from.slice(0..1000), to.slice_mut(0..1001)).expect("a copy");
        let got = to_host(&device, &to);
        assert_eq!(got[..1000], values);
        assert!(got[1000].is_nan());
    }
}
