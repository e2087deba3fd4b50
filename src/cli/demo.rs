//! `scenerank demo`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Args;
use scenerank::compare::results::{EVALUATION, RETRIEVAL, leave_result};
use scenerank::data::prepare::{Preparation, prepare};
use scenerank::data::selection::{Filter, GraphSource, Sources};
use scenerank::data::split::SplitRatio;
use scenerank::data::{Dataset, Split};
use scenerank::evaluation::QueryEdges;
use scenerank::files::npy::write_npy;
use scenerank::run::{Run, Which};
use scenerank::synth::{SynthConfig, write_collection};
use scenerank::train::checkpoint::LAST;
use scenerank::train::config::TrainConfig;
use scenerank::train::train;
use scenerank::{Error, Result};

use super::DeviceArguments;
use super::evaluate::evaluate;
use super::retrieve::{Levels, retrieve};
use super::train::plot_training;

/// Run everything once on a small synthetic collection: generate, prepare, train, evaluate, retrieve.
///
/// Writes OUT/raw (the collection in the public formats), OUT/data (the data file) and OUT/run (checkpoints,
/// metrics, embeddings, plots).
#[derive(Args)]
#[command(after_help = "Examples:
  scenerank demo
  scenerank demo --out /tmp/demo --images 3000 --epochs 20")]
pub struct DemoArguments {
    /// Folder for all output.
    #[arg(long, value_name = "DIR", default_value = "scenerank-demo")]
    out: PathBuf,
    /// Number of images in the collection.
    #[arg(long, default_value_t = 1200)]
    images: u64,
    /// Number of passes over the training images.
    #[arg(long, default_value_t = 8)]
    epochs: usize,
    /// Seed of the collection, the split, the initial parameters and the triples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

/// A smaller network than the paper's, so that two cores train it in about a minute.
fn config(arguments: &DemoArguments) -> TrainConfig {
    TrainConfig {
        layers: 3,
        state_width: 128,
        hidden_width: 192,
        learning_rate: 5e-4,
        epochs: arguments.epochs,
        seed: arguments.seed,
        device: arguments.device.device,
        precision: arguments.device.precision,
        kernels: arguments.device.kernels,
        ..Default::default()
    }
}

impl DemoArguments {
    pub fn run(self) -> Result<()> {
        config(&self).check()?;
        let (raw, data, run) = (self.out.join("raw"), self.out.join("data"), self.out.join("run"));
        if run.join(LAST).exists() {
            return Err(Error::invalid(
                &self.out,
                "folder",
                "already holds a demo",
                "remove it, or choose another folder with --out",
            ));
        }
        let stages = make_data(&raw, &data, &self)?;
        let dataset = Dataset::open(&data)?;
        train(&dataset, config(&self), &run, None, &AtomicBool::new(false))?;
        plot_training(&run)?;

        let arithmetic = self.device.arithmetic();
        let trained = Run::open(&run, Which::Best, None, self.device.device, arithmetic)?;
        let evaluation = evaluate(&trained, Split::Test, None, self.seed)?;
        leave_result(&run, EVALUATION, Split::Test, None, &evaluation);
        let levels = Levels { noise: 12, sweep: Some(20), edges: QueryEdges::Augmented, seed: self.seed };
        let retrieval = retrieve(&trained, &levels, Split::Test)?;
        retrieval.write_curves(&run)?;
        leave_result(&run, RETRIEVAL, Split::Test, None, &retrieval);
        let embeddings = run.join("embeddings.npy");
        write_npy(&embeddings, &trained.embed_split(Split::All)?, trained.width())?;
        trained.origin(trained.dataset.split(Split::All)).write_beside(&embeddings)?;
        if self.json {
            let results =
                serde_json::json!({ "prepare": stages, "evaluate": evaluation, "retrieve": retrieval });
            println!("{results:#}");
        } else {
            println!("{}\n\n{}\n", evaluation.table(), retrieval.text());
            print_next(&self.out);
        }
        Ok(())
    }
}

fn make_data(raw: &Path, data: &Path, arguments: &DemoArguments) -> Result<serde_json::Value> {
    let config =
        SynthConfig { images: arguments.images, seed: arguments.seed, force: true, ..Default::default() };
    let files = write_collection(raw, &config)?;
    let preparation = Preparation {
        sources: Sources {
            graphs: GraphSource::SceneGraphs(files.scene_graphs),
            image_data: files.image_data,
            captions: vec![files.captions],
        },
        glove: files.glove,
        filter: Filter::default(),
        split: SplitRatio::default(),
        split_by: Default::default(),
        seed: arguments.seed,
        reading: Default::default(),
    };
    let stages = prepare(&preparation, data)?;
    Ok(serde_json::to_value(&stages).expect("counts can be written as JSON"))
}

fn print_next(out: &Path) {
    let out = out.display();
    println!("{out}/run holds checkpoints, metrics.jsonl, embeddings.npy and plots. Try:");
    println!("  scenerank inspect {out}/data");
    println!("  echo '[[\"man\", \"riding\", \"horse\"]]' > query.json");
    println!("  scenerank search {out}/run --graph query.json -k 3");
    println!("  scenerank explore {out}/run");
    println!("  tensorboard --logdir {out}/run");
    println!("With real data (Visual Genome, COCO captions, GloVe):");
    println!("  scenerank prepare --scene-graphs scene_graphs.json --image-data image_data.json \\");
    println!("      --captions captions_train2014.json captions_val2014.json \\");
    println!("      --glove glove.6B.300d.txt --out vg.data");
    println!("  scenerank train vg.data --out runs/paper");
    println!("  scenerank evaluate runs/paper");
}
