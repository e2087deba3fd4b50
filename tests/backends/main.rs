//! Tests of the backends: the reference against central differences, the stages of the CPU against the
//! reference, and whole steps and trainings of CPU and CUDA against each other.

#[path = "../support/gpu.rs"]
mod gpu;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/ranks.rs"]
mod ranks_of_threads;
#[path = "../support/mod.rs"]
mod support;

mod backend_stages;
mod cuda_runtime;
mod cuda_step;
mod gradients;
mod interpreter;
mod optimizer;
mod ranks;
mod ranks_train;
mod training_set;
mod training_step;
