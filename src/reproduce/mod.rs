//! The paper, run again: its 12 models and our baselines trained and measured, beside its own numbers.
//!
//! ```text
//! plan       which runs: losses x strategies x seeds, and ablations
//! material   the data, or a subset of it, and the files that go with it
//! training   the runs, several at a time, resumed where they stopped, each measured when it ends
//! measure    agreement and retrieval of a model or of a baseline
//! paper      the paper's numbers
//! tables     ours, the paper's and the difference
//! figures, gallery     what is to be looked at
//! report     all of it as one value
//! page       the value as one HTML page, and as Markdown
//! files      what is written: JSON, CSV, Markdown, SVG and the page
//! ```

mod expectations;
mod figures;
mod files;
mod gallery;
mod material;
mod measure;
mod page;
pub mod paper;
pub mod plan;
pub mod report;
mod tables;
mod training;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use self::material::Material;
use self::measure::measure_baselines;
use self::plan::{Ablation, Plan};
use self::report::{About, DataCounts, Report};
use self::training::train_all;
use crate::error::{Error, Result};
use crate::train::config::TrainConfig;

/// What to reproduce, and how much of it.
#[derive(Clone, Debug)]
pub struct Reproduction {
    /// The data file.
    pub data: PathBuf,
    /// The report's folder.
    pub out: PathBuf,
    /// What all runs share; loss, sampling and seed are the plan's.
    pub base: TrainConfig,
    /// Runs of each model, with the seeds 1, 2, ...
    pub seeds: u64,
    /// Only so many images.
    pub subset: Option<usize>,
    /// Training stops when so much time is spent.
    pub budget: Option<Duration>,
    /// Runs at a time; `None` is one per thread on a CPU, one on a GPU.
    pub jobs: Option<usize>,
    /// What to vary besides.
    pub ablations: Vec<Ablation>,
    /// Features of the same images, a row of Table 2.
    pub features: Option<PathBuf>,
    /// Another sentence encoder's caption vectors, an ablation.
    pub caption_vectors: Option<PathBuf>,
    /// Photographs for the gallery.
    pub photographs: Option<PathBuf>,
    /// Whether the page names the addresses of photographs that the data has, for images that `photographs` lacks.
    pub link_photographs: bool,
    /// How all this was asked for, to be printed in the report.
    pub command: String,
}

impl Reproduction {
    fn check(&self) -> Result<()> {
        for (name, value) in [
            ("--seeds", self.seeds as usize),
            ("--epochs", self.base.epochs),
            ("--jobs", self.jobs.unwrap_or(1)),
            ("--subset", self.subset.unwrap_or(1)),
        ] {
            if value == 0 {
                return Err(Error::argument(name, "is 0", "give a positive number"));
            }
        }
        self.base.check()
    }
}

/// Trains what is not trained yet, measures it and writes the report; `None` where `stop` was raised: what was done so
/// far is saved, and the same call goes on from there.
pub fn reproduce(reproduction: &Reproduction, stop: &AtomicBool) -> Result<Option<Report>> {
    let started = Instant::now();
    reproduction.check()?;
    std::fs::create_dir_all(&reproduction.out).map_err(Error::file("create", &reproduction.out))?;
    let material = Material::open(reproduction)?;
    let plan = Plan::new(
        &reproduction.base,
        reproduction.seeds,
        &reproduction.ablations,
        material.caption_vectors.clone(),
    );
    let trained = train_all(reproduction, &material.dataset, &plan, stop)?;
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let baselines = measure_baselines(&material, reproduction)?;
    let table_2 = tables::agreement_table(&plan, &trained, &baselines, &material)?;
    let table_3 = tables::retrieval_tables(&plan, &trained, &baselines);
    let chosen = figures::Chosen::new(&plan, &trained, reproduction)?;
    let mut figures = figures::figures(&chosen, &material)?;
    figures::draw(&mut figures)?;
    let gallery = gallery::gallery(chosen.best.as_ref(), &material, reproduction)?;
    let report = Report {
        about: About {
            title: "Scene graph embeddings, reproduced".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            command: reproduction.command.clone(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            seconds: started.elapsed().as_secs_f64(),
            threads: rayon::current_num_threads(),
            seeds: reproduction.seeds,
            settings: reproduction.base.clone(),
            data: DataCounts::of(&material.dataset, &reproduction.data, reproduction.subset.is_some()),
        },
        missing: training::missing(&plan, &trained),
        expectations: expectations::expectations(&table_2, &table_3),
        ablations: tables::ablation_table(&plan, &trained),
        runs: report::run_summaries(&plan, &trained),
        table_2,
        table_3,
        figures,
        gallery,
    };
    files::write(&report, &reproduction.out)?;
    Ok(Some(report))
}
