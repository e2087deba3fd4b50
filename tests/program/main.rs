//! Tests of the `scenerank` program: its commands and devices, from the user's point of view.

#[path = "../support/compiler.rs"]
mod compiler;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod arrow_graphs;
mod bad_inputs;
mod bench;
mod c_library;
#[cfg(unix)]
mod changed_files;
mod commands;
mod control_characters;
#[cfg(unix)]
mod damaged_files;
mod devices;
mod embed_formats;
mod emulated_commands;
mod example;
mod explore;
mod explore_load;
mod families;
mod interpreter;
mod interrupted;
#[cfg(unix)]
mod killed;
mod new_graphs;
mod nvtx;
mod outputs;
mod recorded;
mod reproduce;
mod run_folder;
#[cfg(unix)]
mod schedule;
mod served;
mod steering;
mod stored_embeddings;
mod switches;
mod terminal;
mod training;
mod version;
#[cfg(target_os = "linux")]
mod write_errors;
