//! Claims about the order of the models, those of the paper and our own, and whether they hold here.
//!
//! Two models are compared by Welch's test of their means over the seeds, two-sided at 5 %. A difference that is not
//! significant is within the spread of the seeds. A method with one value has no spread, and two such methods are compared
//! by their values alone.

use std::cmp::Ordering;

use serde::Serialize;

use super::measure::Method;
use super::plan::{LOSSES, STRATEGIES, model_name, word};
use super::tables::{Measured, Row, Table};
use crate::batch::triples::Sampling;
use crate::loss::LossKind;

/// Two-sided 5 % points of Student's t for 1, 2, ... degrees of freedom.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A claim about the results.
#[derive(Clone, Debug, Serialize)]
pub struct Expectation {
    /// Claim as a sentence.
    pub claim: String,
    /// Whether the claim is the paper's.
    pub of_paper: bool,
    /// Whether the claim holds; `None` if a run that it needs is missing.
    pub verdict: Option<Verdict>,
    /// Numbers that decide, as a sentence.
    pub seen: String,
}

/// Whether a claim holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every difference is significant and has the claimed sign.
    Yes,
    /// A significant difference has the other sign.
    No,
    /// No difference contradicts the claim, but not all are significant.
    WithinSpread,
}

impl Verdict {
    /// Verdict on a claim that needs all of these differences to be positive.
    fn of_all(differences: impl IntoIterator<Item = Ordering>) -> Self {
        let worst = differences.into_iter().min().unwrap_or(Ordering::Greater);
        match worst {
            Ordering::Less => Verdict::No,
            Ordering::Equal => Verdict::WithinSpread,
            Ordering::Greater => Verdict::Yes,
        }
    }
}

impl Expectation {
    /// Verdict in words.
    pub fn verdict_word(&self) -> &'static str {
        match self.verdict {
            None => "Open",
            Some(Verdict::Yes) => "Yes",
            Some(Verdict::No) => "No",
            Some(Verdict::WithinSpread) => "Within the spread of the seeds",
        }
    }

    /// Class in the page.
    pub fn verdict_class(&self) -> &'static str {
        match self.verdict {
            None => "open",
            Some(Verdict::Yes) => "yes",
            Some(Verdict::No) => "no",
            Some(Verdict::WithinSpread) => "within",
        }
    }
}

/// `Greater` or `Less` if the means differ significantly, otherwise `Equal`.
fn significant(a: &Measured, b: &Measured) -> Ordering {
    // Squared standard error of a mean, and its degrees of freedom.
    let error = |measured: &Measured| {
        let count = measured.values.len() as f64;
        (measured.spread.map_or(0.0, |spread| spread * spread / count), count - 1.0)
    };
    let ((error_a, freedom_a), (error_b, freedom_b)) = (error(a), error(b));
    let difference = a.mean - b.mean;
    let sum = error_a + error_b;
    if sum > 0.0 {
        // Welch and Satterthwaite's degrees of freedom; a term without an error has none.
        let term = |error: f64, freedom: f64| if error > 0.0 { error * error / freedom } else { 0.0 };
        let freedom = sum * sum / (term(error_a, freedom_a) + term(error_b, freedom_b));
        let t = T_95.get((freedom.floor() as usize).max(1) - 1).copied().unwrap_or(1.96);
        if difference.abs() <= t * sum.sqrt() {
            return Ordering::Equal;
        }
    }
    difference.total_cmp(&0.0)
}

/// Order of the models in Tables 2 and 3.
pub(super) fn expectations(table_2: &Table, table_3: &[Table; 2]) -> Vec<Expectation> {
    let mut all = vec![ranking_first(table_2), best_strategy(table_2)];
    all.extend(table_3.iter().map(proposed_first));
    all.push(above_bag_of_objects(table_2));
    all
}

/// Value in the first column of a row: row-wise tau, or MRR.
fn first(row: &Row) -> Option<&Measured> {
    row.cells.first()?.ours.as_ref()
}

fn of(table: &Table, loss: LossKind, sampling: Sampling) -> Option<&Measured> {
    first(table.row(&model_name(loss, sampling))?)
}

fn higher<'a>(a: &'a Measured, b: &'a Measured) -> &'a Measured {
    if a.mean >= b.mean { a } else { b }
}

fn ranking_first(table: &Table) -> Expectation {
    let strategies = STRATEGIES.map(|sampling| {
        let ranking = of(table, LossKind::Ranking, sampling)?;
        let other = higher(of(table, LossKind::Triplet, sampling)?, of(table, LossKind::InfoNce, sampling)?);
        let words = format!("{} {:.3} against {:.3}", word(&sampling), ranking.mean, other.mean);
        Some((significant(ranking, other), words))
    });
    let known: Vec<&(Ordering, String)> = strategies.iter().flatten().collect();
    Expectation {
        claim: "With every strategy the ranking loss has the highest row-wise Kendall τ".into(),
        of_paper: true,
        verdict: (known.len() == STRATEGIES.len())
            .then(|| Verdict::of_all(known.iter().map(|(order, _)| *order))),
        seen: known.iter().map(|(_, words)| words.as_str()).collect::<Vec<_>>().join(", "),
    }
}

fn best_strategy(table: &Table) -> Expectation {
    let claimed = [Sampling::Probability, Sampling::Random];
    let known: Vec<(Sampling, &Measured)> = STRATEGIES
        .into_iter()
        .filter_map(|sampling| Some((sampling, of(table, LossKind::Ranking, sampling)?)))
        .collect();
    let best = |of_claim: bool| {
        let of_kind = known.iter().filter(|(sampling, _)| claimed.contains(sampling) == of_claim);
        of_kind.max_by(|a, b| a.1.mean.total_cmp(&b.1.mean))
    };
    let both = best(true).zip(best(false));
    Expectation {
        claim: "The ranking loss is best with probability or random triples".into(),
        of_paper: true,
        verdict: both
            .filter(|_| known.len() == STRATEGIES.len())
            .map(|(claimed, other)| Verdict::of_all([significant(claimed.1, other.1)])),
        seen: both.map_or(String::new(), |((best, tau), (other, other_tau))| {
            format!("{} {:.3} against {} {:.3}", word(best), tau.mean, word(other), other_tau.mean)
        }),
    }
}

fn proposed_first(table: &Table) -> Expectation {
    let proposed = model_name(LossKind::Ranking, Sampling::Probability);
    let models = || table.rows.iter().filter(|row| row.loss.is_some());
    let known: Vec<(&Measured, &str)> =
        models().filter_map(|row| Some((first(row)?, row.name.as_str()))).collect();
    let ours = known.iter().find(|(_, name)| *name == proposed);
    let others = known.iter().filter(|(_, name)| *name != proposed);
    let both = ours.zip(others.max_by(|a, b| a.0.mean.total_cmp(&b.0.mean)));
    Expectation {
        claim: format!("{proposed} has the highest MRR ({})", table.title),
        of_paper: true,
        verdict: both
            .filter(|_| known.len() == models().count())
            .map(|(ours, other)| Verdict::of_all([significant(ours.0, other.0)])),
        seen: both.map_or(String::new(), |((mrr, _), (other_mrr, other))| {
            format!("{:.3} against {other} {:.3}", mrr.mean, other_mrr.mean)
        }),
    }
}

fn above_bag_of_objects(table: &Table) -> Expectation {
    let bag = table.row(Method::BAG_OF_OBJECTS).and_then(first);
    let models = || LOSSES.iter().flat_map(|&loss| STRATEGIES.iter().map(move |&sampling| (loss, sampling)));
    let known: Vec<(&Measured, String)> = models()
        .filter_map(|(loss, sampling)| Some((of(table, loss, sampling)?, model_name(loss, sampling))))
        .collect();
    let seen = bag.map_or(String::new(), |bag| {
        let below = known.iter().filter(|(tau, _)| tau.mean <= bag.mean);
        let below: Vec<String> = below.map(|(tau, name)| format!("{name} {:.3}", tau.mean)).collect();
        match below.is_empty() {
            true => format!("bag of objects {:.3}; no model below", bag.mean),
            false => format!("bag of objects {:.3}; not above it: {}", bag.mean, below.join(", ")),
        }
    });
    Expectation {
        claim: "Every trained model has a higher row-wise Kendall τ than the bag of objects".into(),
        of_paper: false,
        verdict: bag
            .filter(|_| known.len() == models().count())
            .map(|bag| Verdict::of_all(known.iter().map(|(tau, _)| significant(tau, bag)))),
        seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(values: &[f64]) -> Measured {
        Measured::new(values.to_vec()).unwrap()
    }

    #[test]
    fn differences_are_significant_by_welchs_test() {
        // scipy.stats.ttest_ind(a, b, equal_var=False): p = 0.0056, 0.10 and 0.92.
        let a = measured(&[0.40, 0.41, 0.42]);
        assert_eq!(significant(&a, &measured(&[0.36, 0.37, 0.375])), Ordering::Greater);
        assert_eq!(significant(&measured(&[0.36, 0.37, 0.375]), &a), Ordering::Less);
        assert_eq!(significant(&a, &measured(&[0.37, 0.39, 0.40])), Ordering::Equal);
        assert_eq!(significant(&a, &measured(&[0.40, 0.41, 0.423])), Ordering::Equal);
        // A single value has no spread; scipy.stats.ttest_1samp: p = 0.074 and 0.035.
        assert_eq!(significant(&a, &measured(&[0.39])), Ordering::Equal);
        assert_eq!(significant(&a, &measured(&[0.38])), Ordering::Greater);
        assert_eq!(significant(&measured(&[0.4]), &measured(&[0.39])), Ordering::Greater);
        assert_eq!(significant(&measured(&[0.4]), &measured(&[0.4])), Ordering::Equal);
    }

    #[test]
    fn one_contradiction_refutes_and_one_doubt_leaves_open() {
        use Ordering::{Equal, Greater, Less};
        assert_eq!(Verdict::of_all([Greater, Greater]), Verdict::Yes);
        assert_eq!(Verdict::of_all([Greater, Equal]), Verdict::WithinSpread);
        assert_eq!(Verdict::of_all([Less, Equal, Greater]), Verdict::No);
    }
}
