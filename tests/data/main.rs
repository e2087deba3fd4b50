//! Tests of the data: raw files and what `prepare` makes of them, the data file, synthetic collections, and the triples
//! that training draws.

mod raw_files;

mod bad_data;
mod boxes;
mod dataset;
mod npy;
mod prepare;
mod synth;
mod triples;
