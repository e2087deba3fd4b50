//! Cases of all kernels (`scenerank::bench::cases`) on the emulator, with sizes that take milliseconds, to
//! track their cost in CI. A case with a wrong result ends the bench. On a GPU, `scenerank bench` times them.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use scenerank::backend::cuda::launchers;
use scenerank::backend::cuda::launchers::linear::Format;
use scenerank::bench::case::Arrays;
use scenerank::bench::cases;
use scenerank::bench::sizes::{SMALL, Sizes};

fn kernels(criterion: &mut Criterion) {
    let device = match launchers::emulated(None) {
        Ok(device) => device,
        Err(error) => return println!("skipped: {error}"),
    };
    for case in cases::all(&Sizes::new(SMALL, 1), Format::Fp32) {
        let mut group = criterion.benchmark_group(case.kernel);
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(20))
            .measurement_time(Duration::from_millis(100));
        group.bench_function(&case.shape, |bencher| {
            let prepared = (case.prepare)(0);
            let worst = prepared.check(&device).expect("a launch");
            assert!(worst.is_none_or(|worst| worst.ok()), "{} {}: {worst:?}", case.kernel, case.shape);
            let mut arrays = Arrays::upload(&device, &prepared.host).expect("memory");
            bencher.iter(|| (prepared.launch)(&device, &mut arrays).expect("a launch"));
        });
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
