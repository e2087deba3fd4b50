//! Reproduction of the paper: trains and evaluates its 12 models and our baselines, and compares the results.
//!
//! ```text
//! plan       the runs: losses x strategies x seeds, and ablations
//! material   the data, or a subset of it, and the corresponding files
//! training   the runs, several at a time, resumed if interrupted, each measured at its end
//! measure    agreement and retrieval of a model or a baseline
//! paper      the numbers of the paper
//! tables     our numbers, those of the paper, and the differences
//! grid       runs of all combinations of given values, instead of the paper's models
//! schedule   the runs one by one, as the scheduler of a cluster starts them
//! figures, gallery     plots and example queries
//! report     all results as one value
//! page       the report as one HTML page, and as Markdown
//! files      writes JSON, CSV, Markdown, SVG and the page
//! ```

mod expectations;
mod figures;
mod files;
mod gallery;
pub mod grid;
mod material;
mod measure;
mod page;
pub mod paper;
pub mod plan;
pub mod report;
pub mod schedule;
mod tables;
mod training;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use self::figures::Figure;
use self::material::Material;
use self::measure::{
    Measurement, Method, Retrieval, Sweep, Untrained, bag_of_objects, measure_baselines, measure_features,
};
use self::plan::{Ablation, Plan};
use self::report::{About, DataCounts, Report};
use self::training::{Trained, train_all};
use crate::error::{Error, Result};
use crate::evaluation::measure::Measure;
use crate::files::folder_lock::FolderLock;
use crate::train::config::TrainConfig;
use crate::train::run_record::now;

/// Far more runs of each model than a table needs.
const MOST_SEEDS: u64 = 1000;

/// Options of a reproduction.
#[derive(Clone, Debug)]
pub struct Reproduction {
    /// Path of the data file.
    pub data: PathBuf,
    /// Folder of the report.
    pub out: PathBuf,
    /// Settings shared by all runs; loss, sampling and seed come from the plan.
    pub base: TrainConfig,
    /// Number of runs of each model, with the seeds 1, 2, ...
    pub seeds: u64,
    /// Number of images to use, if not all.
    pub subset: Option<usize>,
    /// Whether runs that are not finished are trained. If not, the report shows what is there.
    pub train: bool,
    /// Time after which training stops.
    pub budget: Option<Duration>,
    /// Number of concurrent runs; `None` means one per thread on a CPU, one on a GPU.
    pub jobs: Option<usize>,
    /// Ablations to run in addition.
    pub ablations: Vec<Ablation>,
    /// Features of the same images, for a row of Table 2.
    pub features: Option<PathBuf>,
    /// Comparison of two rows of the features.
    pub measure: Measure,
    /// Caption vectors of another sentence encoder, for an ablation.
    pub caption_vectors: Option<PathBuf>,
    /// Folder with photographs for the gallery.
    pub photographs: Option<PathBuf>,
    /// Whether the page links to the addresses of photographs in the data, for images missing in
    /// `photographs`.
    pub link_photographs: bool,
    /// Command line, printed in the report.
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
        if self.seeds > MOST_SEEDS {
            let problem = format!("is {}", self.seeds);
            return Err(Error::argument("--seeds", problem, format!("give at most {MOST_SEEDS}")));
        }
        if let Some(folder) = self.photographs.as_deref().filter(|folder| !folder.is_dir()) {
            let problem = format!("{} is no folder", folder.display());
            return Err(Error::argument("--images", problem, "give the folder of the photographs"));
        }
        if !self.train && !self.out.join("runs").is_dir() {
            let problem = format!("{} holds no runs", self.out.display());
            return Err(Error::argument(
                "--collect",
                problem,
                "give the --out of the runs, or train them first",
            ));
        }
        self.base.check()
    }

    /// Plan of the paper's models, the ablations and the seeds.
    fn plan(&self, material: &Material) -> Plan {
        Plan::new(&self.base, self.seeds, &self.ablations, material.caption_vectors.clone())
    }
}

/// Trains the runs that are not finished and measures them. The report is written after every finished run, and at the end. If
/// `stop` is set meanwhile, training stops and the report is of the runs that are finished; the same call continues from there.
pub fn reproduce(reproduction: &Reproduction, stop: &AtomicBool) -> Result<Report> {
    let started = Instant::now();
    reproduction.check()?;
    std::fs::create_dir_all(&reproduction.out).map_err(Error::file("create", &reproduction.out))?;
    let _lock = FolderLock::take(&reproduction.out)?;
    let material = Material::open(reproduction)?;
    gallery::check_photographs(&material.dataset, reproduction)?;
    let plan = reproduction.plan(&material);
    let reporter = Reporter {
        reproduction,
        material: &material,
        plan: &plan,
        started,
        unchanging: OnceLock::new(),
        written: Mutex::new(Written { at: started, took: Duration::ZERO }),
    };
    let trained = train_all(reproduction, &material.dataset, &plan, stop, &|states| reporter.update(states))?;
    reporter.write(&trained)
}

/// Smallest ratio of the time between two reports and the time that one takes.
const REPORT_INTERVAL: u32 = 10;

/// Writes reports of the runs that are finished.
struct Reporter<'a> {
    reproduction: &'a Reproduction,
    material: &'a Material,
    plan: &'a Plan,
    /// Start of the command.
    started: Instant,
    /// What does not change between reports, measured for the first one.
    unchanging: OnceLock<Unchanging>,
    written: Mutex<Written>,
}

/// What a report shows beside the trained models, the same in each report of a command.
struct Unchanging {
    baselines: Vec<Untrained>,
    /// Agreement of the features supplied by the user.
    features: Option<Measurement>,
    /// Noise sweep of the bag of objects.
    bag_sweep: Sweep,
    /// Figure 2.
    similarities: Figure,
}

impl Unchanging {
    fn measure(material: &Material, reproduction: &Reproduction) -> Result<Self> {
        let dataset = &material.dataset;
        Ok(Unchanging {
            baselines: measure_baselines(material, reproduction)?,
            features: measure_features(material)?,
            bag_sweep: bag_of_objects(dataset).sweep(dataset)?,
            similarities: figures::similarities(dataset),
        })
    }

    /// Retrieval by the bag of objects.
    fn bag_of_objects(&self) -> Option<&Retrieval> {
        let bag = self.baselines.iter().find(|row| row.name == Method::BAG_OF_OBJECTS)?;
        bag.measurements.first()?.retrieval.as_ref()
    }
}

/// The last report: when it was written, and how long that took.
struct Written {
    at: Instant,
    took: Duration,
}

impl Reporter<'_> {
    /// Writes the report after a finished run, unless another worker writes it, or reports would take more than a tenth of the
    /// time. Runs that are short enough for that are in the next report.
    fn update(&self, trained: &[Trained]) -> Result<()> {
        let Ok(mut written) = self.written.try_lock() else { return Ok(()) };
        if written.at.elapsed() < REPORT_INTERVAL * written.took {
            return Ok(());
        }
        self.unchanging()?; // only what each report repeats counts
        let begun = Instant::now();
        self.write(trained)?;
        *written = Written { at: Instant::now(), took: begun.elapsed() };
        Ok(())
    }

    fn unchanging(&self) -> Result<&Unchanging> {
        if let Some(unchanging) = self.unchanging.get() {
            return Ok(unchanging);
        }
        let measured = Unchanging::measure(self.material, self.reproduction)?;
        Ok(self.unchanging.get_or_init(|| measured))
    }

    /// Writes the report of the runs that are finished.
    fn write(&self, trained: &[Trained]) -> Result<Report> {
        let Reporter { reproduction, material, plan, .. } = self;
        let unchanging = self.unchanging()?;
        let Unchanging { baselines, features, .. } = unchanging;
        let table_2 =
            tables::agreement_table(plan, trained, baselines, features.as_ref(), reproduction.measure);
        let table_3 = tables::retrieval_tables(plan, trained, baselines);
        let data = material.dataset.path();
        let chosen = figures::Chosen::new(plan, trained, reproduction, data, &table_3)?;
        let mut figures = figures::figures(&chosen, unchanging)?;
        figures::draw(&mut figures)?;
        let gallery = gallery::gallery(chosen.best.as_ref(), material, reproduction)?;
        let report = Report {
            about: About {
                title: "Scene graph embeddings, reproduced".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                command: reproduction.command.clone(),
                date: now(),
                seconds: self.started.elapsed().as_secs_f64(),
                threads: rayon::current_num_threads(),
                seeds: reproduction.seeds,
                settings: reproduction.base.clone(),
                data: DataCounts::of(&material.dataset, &reproduction.data, reproduction.subset.is_some()),
            },
            missing: training::missing(plan, trained),
            expectations: expectations::expectations(&table_2, &table_3),
            ablations: tables::ablation_table(plan, trained),
            runs: report::run_summaries(plan, trained),
            table_2,
            table_3,
            figures,
            gallery,
        };
        files::write(&report, &reproduction.out)?;
        Ok(report)
    }
}
