//! A step does not allocate once its buffers have their sizes.
//!
//! The allocator counts all allocations of all threads during a step, and prints backtraces of the first few.
//! The steps run inside a thread pool: from outside, rayon's queue of incoming jobs allocates a block of 1.5
//! kB for about every sixty jobs.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use rayon::ThreadPool;
use scenerank::backend::cpu::Cpu;
use scenerank::loss::{Loss, LossKind};
use scenerank::model::{Model, TrainingState};
use scenerank::network::config::ModelConfig;
use scenerank::optimizer::Adam;

use support::{BatchShape, SMALL, random_batch, random_parameters};

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Taking a backtrace allocates.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Counter;

// SAFETY: every call is passed to the system allocator unchanged.
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Relaxed) && !INSIDE.replace(true) {
            BYTES.fetch_add(layout.size(), Relaxed);
            if ALLOCATIONS.fetch_add(1, Relaxed) < 8 {
                println!("{} bytes from\n{}", layout.size(), Backtrace::force_capture());
            }
            INSIDE.set(false);
        }
        // SAFETY: the caller fulfils the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller fulfils the contract of `dealloc`; `alloc` returned the system's pointers.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTER: Counter = Counter;

#[test]
fn a_step_allocates_nothing_after_the_first() {
    let threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
    let (one, several) = (threads(1), threads(4));
    // Every thread has started when it has answered.
    several.broadcast(|_| ());
    several.install(|| count_allocations(&one));
}

/// The step that sizes the buffers runs on another thread, so no thread of this pool has computed a product
/// before the counted step.
fn count_allocations(sizing: &ThreadPool) {
    let wide = ModelConfig { state_width: 300, hidden_width: 512, layers: 2, ..SMALL };
    for config in [SMALL, wide] {
        let shape = BatchShape { triples: 4, objects: 20, relationships: 15, oddities: true };
        let batch = random_batch(config, shape, 1);
        let mut model =
            Model::new(Cpu::new(), config, &random_parameters(config, false, 1), batch.size()).unwrap();
        let mut state = TrainingState::new(&model).unwrap();
        let adam = Adam::new(1e-4);
        let loss = Loss { kind: LossKind::Ranking, temperature: 1.0, margin: 0.5 };
        let mut step = || {
            model.load_batch(&batch).unwrap();
            model.train_step(&loss, &adam, &mut state).unwrap();
        };
        sizing.install(&mut step);
        ALLOCATIONS.store(0, Relaxed);
        BYTES.store(0, Relaxed);
        COUNTING.store(true, Relaxed);
        step();
        COUNTING.store(false, Relaxed);
        let (count, bytes) = (ALLOCATIONS.load(Relaxed), BYTES.load(Relaxed));
        assert_eq!(count, 0, "widths {}, {}: {bytes} bytes", config.state_width, config.hidden_width);
    }
}
