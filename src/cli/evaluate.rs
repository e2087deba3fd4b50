//! `scenerank evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use scenerank::compare::results::EVALUATION;
use scenerank::data::Split;
use scenerank::evaluation::features::read_features;
use scenerank::evaluation::measure::Measure;
use scenerank::evaluation::{Agreement, Embeddings, agreement, normal_features};
use scenerank::progress::Progress;
use scenerank::report::table::{Table, plain_table};
use scenerank::run::Run;
use scenerank::terminal::shorten;
use scenerank::{Error, Result};
use serde::Serialize;

use super::run_arguments::RunArguments;

const EXAMPLES: &str = "\
Examples:
  scenerank evaluate runs/paper
  scenerank evaluate runs/paper --embeddings resnet152.npy --json";

/// Measure how embeddings agree with caption similarity (the paper's Table 2).
///
/// Agreement is the correlation of two similarities of images: the inner product of embeddings, and the similarity of
/// captions. The columns are Kendall's tau, Spearman's rho and Pearson's r, first as the mean over images ("row", each
/// image with all others), then over all pairs of images. The rows are the model, features from a file (if given), the
/// untrained network, and features drawn from a normal distribution.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct EvaluateArguments {
    #[command(flatten)]
    run: RunArguments,
    /// Images to evaluate.
    #[arg(long, value_enum, default_value_t = Split::Test)]
    split: Split,
    /// Features of the same images, such as those of a classifier: a .npy file with one row per image of the
    /// split, or per image of the whole data.
    #[arg(long, value_name = "NPY")]
    embeddings: Option<PathBuf>,
    /// Comparison of two rows of --embeddings.
    #[arg(long, value_enum, default_value_t, requires = "embeddings")]
    measure: Measure,
    /// Number from which the baseline's normally distributed features are drawn. It does not concern the model.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
pub struct Evaluation {
    pub split: Split,
    pub images: usize,
    /// Comparison of the features from a file, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    pub rows: Vec<EvaluationRow>,
}

#[derive(Serialize)]
pub struct EvaluationRow {
    pub name: String,
    #[serde(flatten)]
    pub agreement: Agreement,
}

impl EvaluateArguments {
    pub fn run(self) -> Result<()> {
        let run = self.run.open()?;
        let features = self.embeddings.as_deref().map(|path| (path, self.measure));
        let evaluation = evaluate(&run, self.split, features, self.seed)?;
        self.run.leave_result(&run, EVALUATION, self.split, &evaluation);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&evaluation).expect("plain fields"));
        } else {
            println!("{}", evaluation.table());
            if let Some((path, measure)) = features {
                let name = shorten(&path.display().to_string(), NAME_WIDTH);
                println!("{name}: compared by the {} of its rows", measure.plural());
            }
        }
        Ok(())
    }
}

/// Computes the rows of the table; `features` are a file and the comparison of its rows.
pub fn evaluate(
    run: &Run,
    split: Split,
    features: Option<(&Path, Measure)>,
    seed: u64,
) -> Result<Evaluation> {
    let images = run.dataset.split(split);
    if images.len() < 3 {
        return Err(Error::argument(
            "--split",
            format!("{split} has {} images, too few for a rank correlation", images.len()),
            "choose another split or prepare more images",
        ));
    }
    let (width, similarity) = (run.width(), run.similarity_of([images.clone()])?);
    let mut rows = Vec::new();
    let mut add = |name: &str, values: &[f32], width: usize| -> Result<()> {
        let progress = Progress::new(name, Some(images.len() as u64), "rows");
        let embeddings = Embeddings::new(values, width)?;
        let (device, arithmetic) = run.place();
        let agreement =
            agreement(device, arithmetic, embeddings, similarity, images.clone(), Some(progress))?;
        rows.push(EvaluationRow { name: name.into(), agreement });
        Ok(())
    };
    let train = &run.model.checkpoint.config.train;
    add(
        &format!("{} + {}", value_name(&train.loss), value_name(&train.sampling)),
        &run.embed_split(split)?,
        width,
    )?;
    if let Some((path, measure)) = features {
        let features = read_features(path, &run.dataset, split, measure)?;
        add(&path.display().to_string(), &features.values, features.width)?;
    }
    add("untrained network", &run.embed_split_untrained(split)?, width)?;
    add("normal features", &normal_features(images.len(), width, seed), width)?;
    let measure = features.map(|(_, measure)| measure);
    Ok(Evaluation { split, images: images.len(), measure, rows })
}

/// Name of a value on the command line.
fn value_name(value: &impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
}

/// Columns for a name, such as the path of features, beside six numbers.
const NAME_WIDTH: usize = 54;

impl Evaluation {
    /// Formats the result like Table 2 of the paper.
    pub fn table(&self) -> Table {
        let mut table = plain_table([
            format!("{} {} images", self.images, self.split),
            "row tau".into(),
            "rho".into(),
            "r".into(),
            "all tau".into(),
            "rho".into(),
            "r".into(),
        ]);
        for EvaluationRow { name, agreement: Agreement { per_image, all_pairs, .. } } in &self.rows {
            let numbers = [per_image, all_pairs].into_iter().flat_map(|c| [c.kendall, c.spearman, c.pearson]);
            table.add_row(
                std::iter::once(shorten(name, NAME_WIDTH)).chain(numbers.map(|value| format!("{value:.3}"))),
            );
        }
        table
    }
}
