//! Trains a small network on a synthetic collection, embeds its images and searches them by a graph.
//!
//! ```sh
//! cargo run --release --example train_and_search
//! ```

use std::sync::atomic::AtomicBool;

use scenerank::backend::device::{Device, Precision};
use scenerank::data::prepare::{Preparation, prepare};
use scenerank::data::query_graph::QueryGraph;
use scenerank::data::selection::{Filter, GraphSource, Sources};
use scenerank::data::split::{SplitBy, SplitRatio};
use scenerank::data::{Dataset, Split};
use scenerank::run::{Run, Which};
use scenerank::synth::{SynthConfig, write_collection};
use scenerank::train::config::TrainConfig;
use scenerank::train::train;

pub fn main() -> scenerank::Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [raw, data, run] = ["raw", "data", "run"].map(|name| folder.path().join(name));

    // Raw files in the formats of Visual Genome, COCO and GloVe, then one memory-mapped data file.
    let files = write_collection(&raw, &SynthConfig { images: 1000, ..Default::default() })?;
    let sources = Sources {
        graphs: GraphSource::SceneGraphs(files.scene_graphs),
        image_data: files.image_data,
        captions: vec![files.captions],
    };
    let (filter, split) = (Filter::default(), SplitRatio::default());
    let split_by = SplitBy::default();
    prepare(
        &Preparation {
            sources,
            glove: files.glove,
            filter,
            split,
            split_by,
            seed: 1,
            reading: Default::default(),
        },
        &data,
    )?;

    // The paper's loss and sampling, a smaller network. The last argument stops training when another thread sets it.
    let config = TrainConfig {
        layers: 2,
        state_width: 64,
        hidden_width: 96,
        learning_rate: 1e-3,
        epochs: 6,
        device: Device::Cpu,
        ..Default::default()
    };
    let outcome = train(&Dataset::open(&data)?, config, &run, None, &AtomicBool::new(false))?;
    println!("{} steps, best epoch and its Kendall tau: {:?}", outcome.steps, outcome.best);

    // Embeddings of all images, and of a query that is written by names.
    let run = Run::open(&run, Which::Best, None, Device::Cpu, Precision::Fp32)?;
    let index = run.embed_split(Split::All)?;
    let statements = [["man", "riding", "horse"], ["horse", "on", "grass"]];
    let statements = statements.map(|names| names.map(String::from).to_vec());
    let query =
        QueryGraph::new(&statements, run.dataset.vocabulary()).unwrap_or_else(|problem| panic!("{problem}"));
    let embedding = run.embed(&[query.augmented(run.dataset.vocabulary()).view()])?;
    for (image, cosine) in run.nearest(&embedding, &index, 3)? {
        let caption = run.dataset.captions(image).next().unwrap_or_default();
        println!("{cosine:.4}  image {}: {caption}", run.dataset.image_id(image));
    }
    Ok(())
}
