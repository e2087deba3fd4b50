//! The GPU that tests run on.

use std::sync::Once;

use scenerank::backend::cuda::device::Device;
use scenerank::backend::cuda::launchers;

/// Opens the first GPU, which must exist. One device of the process is leaked, so that the driver keeps its context between
/// tests: creating one takes longer than most tests.
pub fn gpu() -> Device {
    static LEAKED: Once = Once::new();
    let open = || launchers::gpu(0).expect("a device, which SCENERANK_TEST_DEVICE asks for");
    LEAKED.call_once(|| std::mem::forget(open()));
    open()
}
