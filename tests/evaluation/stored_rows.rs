//! Nearest stored rows, in single and half precision, compared with all inner products in double precision.

use std::path::Path;

use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use scenerank::backend::device::{Device, Precision};
use scenerank::evaluation::{
    Embeddings, EmbeddingsFile, nearest, nearest_many, nearest_stored, nearest_stored_many, normal_features,
    rank, rank_many, ranks,
};
use scenerank::files::npy::{write_npy, write_npy_half};
use tempfile::TempDir;

/// All rows by their inner products with the query, best first, ties by the lower index.
fn brute_force(query: &[f32], rows: &[f32]) -> Vec<(usize, f64)> {
    let products = rows
        .chunks(query.len())
        .map(|row| row.iter().zip(query).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum::<f64>());
    let mut all: Vec<(usize, f64)> = products.enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn open(folder: &TempDir, half: bool, values: &[f32], width: usize) -> EmbeddingsFile {
    let path = folder.path().join(if half { "half.npy" } else { "single.npy" });
    if half { write_npy_half(&path, values, width) } else { write_npy(&path, values, width) }.unwrap();
    EmbeddingsFile::open(&path).unwrap()
}

/// Integers, whose products and sums are exact in any order, so that the answer is unique and there are many
/// ties.
#[test]
fn ties_go_to_the_lower_index() {
    let folder = TempDir::new().unwrap();
    let mut random = StdRng::seed_from_u64(1);
    for (rows, width) in [(1, 1), (2, 3), (1023, 7), (1024, 16), (1025, 17), (5000, 31), (3000, 300)] {
        let mut draw = |count: usize| -> Vec<f32> {
            (0..count).map(|_| random.random_range(-2i32..=2) as f32).collect()
        };
        let (values, query) = (draw(rows * width), draw(width));
        let want = brute_force(&query, &values);
        let query = Embeddings::new(&query, width).unwrap();
        for half in [false, true] {
            let file = open(&folder, half, &values, width);
            for k in [1, 2, 10, rows, rows + 5] {
                let got = nearest_stored(query, file.rows(), k).unwrap();
                let want: Vec<(usize, f32)> =
                    want.iter().take(k).map(|&(row, score)| (row, score as f32)).collect();
                assert_eq!(got, want, "{rows} x {width}, half {half}, k {k}");
            }
            // The rank of a row is the number of rows with at least its score.
            for target in [0, rows / 2, rows - 1] {
                let own = want.iter().find(|(row, _)| *row == target).unwrap().1;
                let at_least = want.iter().filter(|(_, score)| *score >= own).count();
                assert_eq!(rank(query, file.rows(), target).unwrap(), (at_least, own as f32));
            }
        }
    }
}

/// Random rows. The stored values are compared, so half precision is exact for its rounded values.
#[test]
fn random_rows_in_either_precision() {
    let folder = TempDir::new().unwrap();
    let (rows, width) = (4000, 300);
    let values = normal_features(rows, width, 7);
    let query = normal_features(1, width, 8);
    let rounded: Vec<f32> = values.iter().map(|&value| f16::from_f32(value).to_f32()).collect();
    for (half, stored) in [(false, &values), (true, &rounded)] {
        let file = open(&folder, half, &values, width);
        let got = nearest_stored(Embeddings::new(&query, width).unwrap(), file.rows(), 50).unwrap();
        let want = brute_force(&query, stored);
        for ((row, score), (want_row, want_score)) in got.iter().zip(&want) {
            // Sums of 300 products of unit rows: about 300 roundings of 2^-53 in double precision, and one of
            // 2^-24 at the end. The scores for this seed are further apart, so the order is unique.
            assert_eq!(row, want_row, "half {half}");
            assert!(
                (f64::from(*score) - want_score).abs() <= 2f64.powi(-24),
                "half {half}: {score} {want_score}"
            );
        }
        let query = Embeddings::new(&query, width).unwrap();
        let target = got[10].0;
        assert_eq!(rank(query, file.rows(), target).unwrap().0, 11);
        let all = ranks(
            Device::Cpu,
            Precision::Fp32,
            query,
            Embeddings::new(stored, width).unwrap(),
            &[target as u32],
        )
        .unwrap();
        assert_eq!(all, [11]);
    }
    // A file in half precision is half as large.
    let bytes = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert_eq!((bytes("single.npy") - 128, bytes("half.npy") - 128), (4 * 1_200_000, 2 * 1_200_000));
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let folder = TempDir::new().unwrap();
    let refused = |path: &Path, words: &str| {
        let Err(error) = EmbeddingsFile::open(path) else { panic!("{} was opened", path.display()) };
        let error = error.to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(words), "{error}");
    };
    // The first of several, at the end of the last row and beyond the values of the first task.
    for (rows, width, at) in [(1, 1, 0), (3, 5, 14), (2000, 300, 599_999), (2000, 300, 262_144)] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.25; rows * width];
            values[at..].fill(bad);
            for half in [false, true] {
                let path = folder.path().join("bad.npy");
                if half { write_npy_half(&path, &values, width) } else { write_npy(&path, &values, width) }
                    .unwrap();
                refused(&path, &format!(": row {}, column {}: the value is {bad}; ", at / width, at % width));
            }
        }
    }
    let path = folder.path().join("short.npy");
    write_npy(&path, &[0.5; 12], 4).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    refused(&path, "3 x 4 values of 4 bytes announced, the file holds 44 bytes");
    refused(&folder.path().join("none.npy"), "cannot read");

    let file = open(&folder, true, &[0.5; 12], 4);
    let query = [1.0; 3];
    let query = Embeddings::new(&query, 3).unwrap();
    assert!(nearest_stored(query, file.rows(), 1).unwrap_err().to_string().contains("1 rows of 3 values"));
    let query = [1.0; 4];
    let query = Embeddings::new(&query, 4).unwrap();
    assert!(rank(query, file.rows(), 3).unwrap_err().to_string().contains("is row 3, there are 3"));
}

/// Files in double precision and column-major order are converted.
#[test]
fn other_files_are_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("double.npy");
    let header = "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 3), }";
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    bytes.extend(format!("{header:<117}\n").bytes());
    for value in [1.0f64, 4.0, 2.0, 5.0, 3.0, 6.0] {
        bytes.extend(value.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let file = EmbeddingsFile::open(&path).unwrap();
    let query = Embeddings::new(&[1.0, 0.0, 0.0], 3).unwrap();
    assert_eq!(nearest_stored(query, file.rows(), 2).unwrap(), [(1, 4.0), (0, 1.0)]);
    assert_eq!((file.rows().len(), file.rows().width(), file.rows().is_empty()), (2, 3, false));
}

/// Many queries at once find the same rows with the same scores as each query alone: with ties, near ties that single precision
/// cannot tell apart, sums that vanish or overflow in single precision, and more queries than a product takes.
#[test]
fn many_queries_at_once_find_what_each_finds_alone() {
    let folder = TempDir::new().unwrap();
    let mut random = StdRng::seed_from_u64(3);
    for (rows, width, count) in
        [(1, 1, 2), (287, 3, 1), (289, 7, 5), (1500, 31, 300), (1200, 300, 20), (0, 4, 3)]
    {
        let mut ties =
            |count: usize| (0..count).map(|_| random.random_range(-2i32..=2) as f32).collect::<Vec<_>>();
        let (ties_rows, ties_queries) = (ties(rows * width), ties(count * width));
        // Rows that differ by a rounding of single precision, several times each.
        let near: Vec<f32> = (0..rows * width)
            .map(|at| ((at % width) as f32).cos() * (1.0 + (at / width % 7) as f32 * f32::EPSILON))
            .collect();
        let scaled = |values: &[f32], by: f32| values.iter().map(|value| value * by).collect::<Vec<_>>();
        for (name, values, queries) in [
            ("ties", ties_rows.clone(), ties_queries.clone()),
            ("normal", normal_features(rows, width, 4), normal_features(count, width, 5)),
            ("near ties", near, normal_features(count, width, 6)),
            ("tiny", scaled(&ties_rows, 1e-30), scaled(&ties_queries, 1e-14)),
            ("huge", scaled(&ties_rows, 1e30), scaled(&ties_queries, 1e8)),
            ("zeros", vec![0.0; rows * width], ties_queries),
        ] {
            for half in [false, true] {
                if rows == 0 || half && name == "huge" {
                    continue;
                }
                let file = open(&folder, half, &values, width);
                for k in [1, 10, (rows + 5).min(400)] {
                    let many = nearest_stored_many(Embeddings::new(&queries, width).unwrap(), file.rows(), k)
                        .unwrap();
                    let alone = |query| {
                        nearest_stored(Embeddings::new(query, width).unwrap(), file.rows(), k).unwrap()
                    };
                    let want: Vec<_> = queries.chunks(width).map(alone).collect();
                    assert!(many == want, "{name}, {rows} x {width}, {count} queries, half {half}, k {k}");
                }
                for target in [0, rows / 2, rows - 1] {
                    let many =
                        rank_many(Embeddings::new(&queries, width).unwrap(), file.rows(), target).unwrap();
                    let alone =
                        |query| rank(Embeddings::new(query, width).unwrap(), file.rows(), target).unwrap();
                    let want: Vec<_> = queries.chunks(width).map(alone).collect();
                    assert!(many == want, "{name}, {rows} x {width}, half {half}, target {target}");
                }
            }
            let [queries, values] = [&queries, &values].map(|values| Embeddings::new(values, width).unwrap());
            if rows < 300 {
                for device in [Device::Cpu, Device::Reference] {
                    let many = nearest_many(device, Precision::Fp32, queries, values, 3).unwrap();
                    for (query, found) in many.iter().enumerate() {
                        let query = Embeddings::new(queries.row(query), width).unwrap();
                        assert_eq!(
                            found,
                            &nearest(device, Precision::Fp32, query, values, 3).unwrap(),
                            "{name}"
                        );
                    }
                }
            }
        }
    }
    let (three, four) = ([0.5; 6], [0.5; 8]);
    let [three, four] = [Embeddings::new(&three, 3).unwrap(), Embeddings::new(&four, 4).unwrap()];
    let error = nearest_stored_many(three, four, 1).unwrap_err().to_string();
    assert!(error.contains("queries: have 3 values each, the rows have 4"), "{error}");
    assert_eq!(nearest_stored_many(four, four, 0).unwrap(), vec![vec![]; 2]);
}
