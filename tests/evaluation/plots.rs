//! Plots, their CSV files, and the plain table. Set SCENERANK_PLOTS to a folder to inspect the plots.

use std::path::PathBuf;

use scenerank::report::plots::{
    NoiseCurve, NoisePoint, RecallCurve, TrainingCurve, noise_csv, noise_plot, recall_csv, recall_plot,
    training_plot,
};
use scenerank::report::table::plain_table;

fn recall_curves() -> Vec<RecallCurve> {
    [("ranking, probability", 0.82), ("InfoNCE, reject & random", 0.5), ("triplet <random>", 0.6)]
        .map(|(label, first)| RecallCurve {
            label: label.into(),
            recall: (1..=100).map(|k| 1.0 - (1.0 - first) / f64::from(k).sqrt()).collect(),
        })
        .into()
}

fn noise_curves() -> Vec<NoiseCurve> {
    [("ranking, probability", 80.0), ("triplet, random", 30.0)]
        .map(|(label, scale)| NoiseCurve {
            label: label.into(),
            points: (1..=20)
                .map(|removed| {
                    let mrr = (-(removed as f64) / scale).exp();
                    NoisePoint { removed, mrr, recall_at_1: mrr * mrr, recall_at_5: mrr.sqrt() }
                })
                .collect(),
        })
        .into()
}

#[test]
fn plots_and_their_numbers_are_written() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("SCENERANK_PLOTS").map_or(temporary.path().to_path_buf(), PathBuf::from);
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();

    recall_plot(&folder.join("recall.svg"), &recall_curves()).unwrap();
    recall_csv(&folder.join("recall.csv"), &recall_curves()).unwrap();
    let svg = text("recall.svg");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for words in
        ["Recall@k", "ranking, probability", "InfoNCE, reject &amp; random", "triplet &lt;random&gt;"]
    {
        assert!(svg.contains(words), "{words}");
    }
    let csv = text("recall.csv");
    assert_eq!(csv.lines().count(), 301);
    assert!(csv.starts_with("model,k,recall\n\"ranking, probability\",1,0.82"), "{csv}");

    noise_plot(&folder.join("noise.svg"), &noise_curves()).unwrap();
    noise_csv(&folder.join("noise.csv"), &noise_curves()).unwrap();
    assert_eq!(text("noise.csv").lines().count(), 41);
    for words in ["MRR", "Recall@1", "Recall@5", "removed edges M"] {
        assert!(text("noise.svg").contains(words), "{words}");
    }

    let training = TrainingCurve {
        label: "ranking".into(),
        loss: (0..200).map(|i| (f64::from(i) / 4.0, 0.69 - 0.02 * f64::from(i).sqrt() / 4.0)).collect(),
        validation_kendall: (1..=50)
            .map(|e| (f64::from(e), 0.39 * (1.0 - (-f64::from(e) / 9.0).exp())))
            .collect(),
    };
    training_plot(&folder.join("training.svg"), &[training]).unwrap();
    assert!(text("training.svg").contains("Kendall tau-b"));
}

#[test]
fn plots_without_points_or_with_odd_ones_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.svg");
    recall_plot(&path, &[]).unwrap();
    noise_plot(&path, &[NoiseCurve { label: "none".into(), points: vec![] }]).unwrap();
    let diverged = TrainingCurve {
        label: "diverged".into(),
        loss: vec![(1.0, 3.0), (2.0, f64::NAN)],
        validation_kendall: vec![(1.0, 0.0)],
    };
    training_plot(&path, &[diverged]).unwrap();

    let error = recall_plot(&folder.path().join("absent/recall.svg"), &[]).unwrap_err().to_string();
    assert!(error.contains("recall.svg: cannot write"), "{error}");
}

#[test]
fn tables_align() {
    let mut table = plain_table(["loss", "tau", "images"]);
    table.add_row(["ranking", "0.391", "4537"]);
    table.add_row(["σ", "-0.1"]);
    assert_eq!(
        table.to_string(),
        "loss       tau  images\n----------------------\nranking  0.391    4537\nσ         -0.1        "
    );
}
