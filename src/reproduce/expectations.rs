//! Claims of the paper about the order of its models, and whether they hold here.

use serde::Serialize;

use super::measure::Method;
use super::plan::{LOSSES, STRATEGIES, model_name, word};
use super::tables::{Row, Table};
use crate::batch::triples::Sampling;
use crate::loss::LossKind;

/// A claim about the results.
#[derive(Clone, Debug, Serialize)]
pub struct Expectation {
    /// Claim as a sentence.
    pub claim: String,
    /// Whether the claim holds; `None` if a run that it needs is missing.
    pub holds: Option<bool>,
    /// Numbers that decide, as a sentence.
    pub seen: String,
}

/// Order of the models in the paper's Tables 2 and 3.
pub(super) fn expectations(table_2: &Table, table_3: &[Table; 2]) -> Vec<Expectation> {
    let mut all = vec![ranking_first(table_2)];
    all.push(best_strategy(table_2));
    all.push(above_bag_of_objects(table_2));
    all.extend(table_3.iter().map(proposed_first));
    all
}

/// Mean in the first column of a row: row-wise tau, or MRR.
fn first(row: &Row) -> Option<f64> {
    row.cells.first()?.ours.as_ref().map(|ours| ours.mean)
}

fn of(table: &Table, loss: LossKind, sampling: Sampling) -> Option<f64> {
    first(table.row(&model_name(loss, sampling))?)
}

fn ranking_first(table: &Table) -> Expectation {
    let strategies = STRATEGIES.map(|sampling| {
        let ranking = of(table, LossKind::Ranking, sampling)?;
        let others = [of(table, LossKind::Triplet, sampling)?, of(table, LossKind::InfoNce, sampling)?];
        let best = others[0].max(others[1]);
        let words = format!("{} {ranking:.3} against {best:.3}", word(&sampling));
        Some((ranking > best, words))
    });
    let known: Vec<&(bool, String)> = strategies.iter().flatten().collect();
    Expectation {
        claim: "With every strategy the ranking loss has the highest row-wise Kendall τ".into(),
        holds: (known.len() == STRATEGIES.len()).then(|| known.iter().all(|(first, _)| *first)),
        seen: known.iter().map(|(_, words)| words.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn best_strategy(table: &Table) -> Expectation {
    let taus = STRATEGIES.map(|sampling| Some((of(table, LossKind::Ranking, sampling)?, sampling)));
    let known: Vec<(f64, Sampling)> = taus.into_iter().flatten().collect();
    let best = known.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0));
    Expectation {
        claim: "The ranking loss is best with probability or random triples".into(),
        holds: (known.len() == STRATEGIES.len())
            .then(|| best.is_some_and(|(_, s)| matches!(s, Sampling::Probability | Sampling::Random))),
        seen: best.map_or(String::new(), |(tau, sampling)| format!("{} with {tau:.3}", word(&sampling))),
    }
}

fn above_bag_of_objects(table: &Table) -> Expectation {
    let bag = table.row(Method::BAG_OF_OBJECTS).and_then(first);
    let models = || LOSSES.iter().flat_map(|&loss| STRATEGIES.iter().map(move |&sampling| (loss, sampling)));
    let known: Vec<(f64, String)> = models()
        .filter_map(|(loss, sampling)| Some((of(table, loss, sampling)?, model_name(loss, sampling))))
        .collect();
    let bag_tau = bag.unwrap_or(f64::NAN);
    let below: Vec<String> = known
        .iter()
        .filter(|(tau, _)| *tau <= bag_tau)
        .map(|(tau, name)| format!("{name} {tau:.3}"))
        .collect();
    let words = match below.is_empty() {
        true => format!("bag of objects {bag_tau:.3}; no model below"),
        false => format!("bag of objects {bag_tau:.3}; not above it: {}", below.join(", ")),
    };
    Expectation {
        claim: "Every trained model has a higher row-wise Kendall τ than the bag of objects".into(),
        holds: (known.len() == models().count() && bag.is_some()).then_some(below.is_empty()),
        seen: words,
    }
}

fn proposed_first(table: &Table) -> Expectation {
    let models = table.rows.iter().filter(|row| row.loss.is_some());
    let known: Vec<(f64, &str)> =
        models.clone().filter_map(|row| Some((first(row)?, row.name.as_str()))).collect();
    let best = known.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0));
    let proposed = model_name(LossKind::Ranking, Sampling::Probability);
    Expectation {
        claim: format!("{proposed} has the highest MRR ({})", table.title),
        holds: (known.len() == models.count()).then(|| best.is_some_and(|(_, name)| name == proposed)),
        seen: best.map_or(String::new(), |(mrr, name)| format!("{name} with {mrr:.3}")),
    }
}
