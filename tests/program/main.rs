//! Tests of the `scenerank` program: its commands and devices, from the user's point of view.

#[path = "../support/compiler.rs"]
mod compiler;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod bad_inputs;
mod bench;
mod commands;
mod control_characters;
mod devices;
mod embed_formats;
mod emulated_commands;
mod example;
mod explore;
mod interpreter;
mod interrupted;
mod nvtx;
mod outputs;
mod reproduce;
mod run_folder;
mod stored_embeddings;
mod switches;
mod terminal;
mod training;
mod version;
