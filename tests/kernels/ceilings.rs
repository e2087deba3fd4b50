//! ceilings: the kernels that measure peak rates do all of their arithmetic, and count it correctly.

use crate::support::{Values, devices, poisoned, to_device, to_host};
use scenerank::backend::cuda::launchers::ceilings::{ceiling_fma, ceiling_mma};

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
