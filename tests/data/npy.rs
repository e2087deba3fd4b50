//! Reading and writing matrices as `.npy` files, and errors for files with other content.

use std::path::Path;

use half::f16;
use npyz::{AutoSerialize, Order, WriterBuilder};
use scenerank::data::similarity_matrix::SimilarityMatrix;
use scenerank::files::npy::{NpyMatrix, read_npy, write_npy};

fn save<T: AutoSerialize>(path: &Path, values: Vec<T>, shape: &[u64], order: Order) {
    let file = std::fs::File::create(path).unwrap();
    let mut npy =
        npyz::WriteOptions::new().default_dtype().shape(shape).order(order).writer(file).begin_nd().unwrap();
    npy.extend(values).unwrap();
    npy.finish().unwrap();
}

#[test]
fn every_precision_and_order_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let values = vec![1.0f32, 2.0, 3.0, -4.0, 0.5, 6.0];
    let want = NpyMatrix { values: values.clone(), rows: 2, width: 3 };
    write_npy(&path, &values, 3).unwrap();
    assert_eq!(read_npy(&path).unwrap(), want);
    save(&path, values.iter().map(|&v| f16::from_f32(v)).collect(), &[2, 3], Order::C);
    assert_eq!(read_npy(&path).unwrap(), want);
    save(&path, values.iter().map(|&v| f64::from(v)).collect(), &[2, 3], Order::C);
    assert_eq!(read_npy(&path).unwrap(), want);
    save(&path, vec![1.0f32, -4.0, 2.0, 0.5, 3.0, 6.0], &[2, 3], Order::Fortran);
    assert_eq!(read_npy(&path).unwrap(), want);
    // Big-endian, as numpy writes x.astype('>f4').
    save(&path, values.clone(), &[2, 3], Order::C);
    let (start, end) = (std::fs::read(&path).unwrap(), values.iter().flat_map(|value| value.to_be_bytes()));
    let header = String::from_utf8_lossy(&start[10..128]).replace("'<f4'", "'>f4'");
    std::fs::write(&path, [&start[..10], header.as_bytes(), &end.collect::<Vec<_>>()].concat()).unwrap();
    assert_eq!(read_npy(&path).unwrap(), want);
    // The file as another writer would make it.
    write_npy(&path, &values, 3).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), start);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let error = || {
        let message = read_npy(&path).unwrap_err().to_string();
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
        message
    };
    let assert_says = |message: String, words: &str| assert!(message.contains(words), "{message}");
    assert_says(error(), "check the path");
    std::fs::write(&path, "no array").unwrap();
    assert_says(error(), "numpy.save");
    std::fs::write(&path, "").unwrap();
    assert_says(error(), "numpy.save");
    save(&path, vec![1.0f32, 2.0], &[2], Order::C);
    assert_says(error(), "1 dimensions, expected two");
    save(&path, vec![1i32, 2], &[1, 2], Order::C);
    assert_says(error(), "values of type '<i4'");
    save::<f32>(&path, vec![], &[0, 3], Order::C);
    assert_says(error(), "0 x 3");
    save(&path, vec![1.0f32, 2.0, 3.0, f32::NAN], &[2, 2], Order::C);
    assert_says(error(), "row 1, column 1: the value is NaN");
    save(&path, vec![1.0f64, 1e300], &[2, 1], Order::C);
    assert_says(error(), "row 1, column 0: the value is inf in single precision");

    write_npy(&path, &[1.0; 12], 4).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    assert_says(error(), "3 x 4 values of 4 bytes announced, the file holds 43 bytes");
    std::fs::write(&path, &bytes[..30]).unwrap();
    assert_says(error(), "header");
}

/// A header can announce any shape; the product of its sizes must be checked.
#[test]
fn a_shape_beyond_any_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    for shape in [
        "(4294967296, 4294967296)",
        "(18446744073709551615, 2)",
        "(0, 18446744073709551615, 18446744073709551615)",
        "(99999999999999999999999, 1)",
        "(9223372036854775807L, 4L)",
        "(-1, 4)",
        "(4294967295, 4294967295)",
    ] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = read_npy(&path).unwrap_err().to_string();
        assert!(error.contains("x.npy: header: ") || error.contains("announced"), "{shape}: {error}");
        let error = SimilarityMatrix::open(&path, 4).unwrap_err().to_string();
        assert!(error.contains("x.npy: header: ") || error.contains("shape: "), "{shape}: {error}");
    }
    let mut nested = b"\x93NUMPY\x01\x00\x10\x27".to_vec();
    nested.resize(nested.len() + 10_000, b'[');
    std::fs::write(&path, nested).unwrap();
    assert!(read_npy(&path).unwrap_err().to_string().contains("not a header that numpy.save writes"));
    // A header length beyond the end of the file, in both versions of the format.
    for bytes in
        [&b"\x93NUMPY\x01\x00\xff\xff{"[..], b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", b"\x93NUMPY\x01\x00\xff"]
    {
        std::fs::write(&path, bytes).unwrap();
        assert!(read_npy(&path).unwrap_err().to_string().contains("x.npy: header: "));
        assert!(SimilarityMatrix::open(&path, 4).unwrap_err().to_string().contains("x.npy: header: "));
    }
}

/// Python 2 wrote long integers in the shape.
#[test]
fn shapes_of_python_2_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    for shape in ["(4, 4)", "(4L, 4L)", "(4, 4L)"] {
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        header.extend(std::iter::repeat_n(' ', 117 - header.len()));
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        (0..16).for_each(|value| bytes.extend((value as f32 / 16.0).to_le_bytes()));
        std::fs::write(&path, bytes).unwrap();
        let values: Vec<f32> = (0..16).map(|value| value as f32 / 16.0).collect();
        assert_eq!(read_npy(&path).unwrap(), NpyMatrix { values, rows: 4, width: 4 }, "{shape}");
        assert!(SimilarityMatrix::open(&path, 4).is_ok(), "{shape}");
    }
}

/// Whatever is in a header, its fault is told in one line.
#[test]
fn a_header_of_another_kind_is_told_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    for header in ["{\"a\": 1}", "(1, 2)", "{'descr': '<f4'", "\u{1b}[31m", ""] {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.bytes());
        std::fs::write(&path, bytes).unwrap();
        for error in [read_npy(&path).unwrap_err(), SimilarityMatrix::open(&path, 4).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("x.npy: header: "), "{error}");
            assert!(!error.contains("\\n") && !error.contains("\\u001b"), "{header:?}: {error}");
        }
    }
}
