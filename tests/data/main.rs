//! Tests of the data: raw files and their preparation, the data file, synthetic collections, and the triples
//! for training.

mod raw_files;
mod readers;

mod bad_data;
mod boxes;
mod dataset;
mod fuzzed;
mod graph_pair;
mod npy;
mod prepare;
mod query_graph;
mod spellings;
mod spill;
mod synth;
mod triples;
