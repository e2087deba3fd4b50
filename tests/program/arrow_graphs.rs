//! `embed --graphs` reads Arrow streams and files: the very rows of the same graphs as lines, and one line about what is wrong.

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;

use arrow_array::builder::{
    Int64Builder, LargeListBuilder, LargeStringBuilder, ListBuilder, StringBuilder, StringDictionaryBuilder,
    StringViewBuilder, UInt64Builder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::Field;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::embed_formats::{python, python_has};
use crate::new_graphs::{NamedGraph, Trained, lines};
use crate::program::{refuse, run, scenerank};

/// Lists of names, as utf8.
fn names<'a>(lists: impl IntoIterator<Item = Vec<&'a str>>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    lists.into_iter().for_each(|list| builder.append_value(list.into_iter().map(Some)));
    Arc::new(builder.finish())
}

fn objects(graphs: &[NamedGraph]) -> ArrayRef {
    names(graphs.iter().map(|(_, objects, _)| objects.iter().map(String::as_str).collect()))
}

fn ids(graphs: &[NamedGraph]) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(graphs.iter().map(|graph| graph.0)))
}

/// Lists of structs with these fields, as many of them as each graph has relationships.
fn structs(graphs: &[NamedGraph], fields: [(&str, ArrayRef); 3]) -> ArrayRef {
    let field = |(name, values): (&str, ArrayRef)| {
        (Arc::new(Field::new(name, values.data_type().clone(), true)), values)
    };
    let structs: StructArray = fields.map(field).to_vec().into();
    let offsets = OffsetBuffer::from_lengths(graphs.iter().map(|graph| graph.2.len()));
    let item = Arc::new(Field::new("item", structs.data_type().clone(), true));
    Arc::new(ListArray::new(item, offsets, Arc::new(structs), None))
}

/// Positions of the subjects or objects, and the predicates, of all relationships.
fn ends(graphs: &[NamedGraph], subject: bool) -> ArrayRef {
    let all = graphs.iter().flat_map(|graph| &graph.2);
    Arc::new(Int64Array::from_iter_values(all.map(|(s, _, o)| if subject { *s as i64 } else { *o as i64 })))
}

fn predicates(graphs: &[NamedGraph]) -> ArrayRef {
    let all = graphs.iter().flat_map(|graph| &graph.2);
    Arc::new(StringArray::from_iter_values(all.map(|(_, predicate, _)| predicate)))
}

/// A batch of structs with positions.
fn batch(graphs: &[NamedGraph]) -> RecordBatch {
    let fields =
        [("object", ends(graphs, false)), ("subject", ends(graphs, true)), ("predicate", predicates(graphs))];
    let columns = [
        ("objects", objects(graphs)),
        ("note", names(graphs.iter().map(|_| vec!["not read"]))),
        ("relationships", structs(graphs, fields)),
        ("image_id", ids(graphs)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// A batch of three lists with large offsets: the names of subjects where `by_name`, names of every encoding.
fn listed(graphs: &[NamedGraph], by_name: bool) -> RecordBatch {
    let mut objects = LargeListBuilder::new(StringDictionaryBuilder::<Int32Type>::new());
    let mut predicates = ListBuilder::new(StringViewBuilder::new());
    let mut named = LargeListBuilder::new(LargeStringBuilder::new());
    let mut subjects = LargeListBuilder::new(UInt64Builder::new());
    let mut related = ListBuilder::new(Int64Builder::new());
    for (_, of_graph, relationships) in graphs {
        objects.append_value(of_graph.iter().map(Some));
        predicates.append_value(relationships.iter().map(|(_, predicate, _)| Some(predicate)));
        named.append_value(
            relationships.iter().map(|(s, ..)| Some(format!(" {} ", of_graph[*s].to_uppercase()))),
        );
        subjects.append_value(relationships.iter().map(|(s, ..)| Some(*s as u64)));
        related.append_value(relationships.iter().map(|(.., o)| Some(*o as i64)));
    }
    let subjects: ArrayRef = if by_name { Arc::new(named.finish()) } else { Arc::new(subjects.finish()) };
    let id = Int64Array::from_iter_values(graphs.iter().map(|graph| graph.0 as i64));
    let columns: [(&str, ArrayRef); 5] = [
        ("image_id", Arc::new(id)),
        ("subject", subjects),
        ("predicate", Arc::new(predicates.finish())),
        ("object", Arc::new(related.finish())),
        ("objects", Arc::new(objects.finish())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

#[test]
fn graphs_in_arrow_have_the_rows_of_lines() {
    let trained = Trained::new();
    let mut graphs = trained.graphs();
    graphs.insert(3, (70_001, Vec::new(), Vec::new()));
    let first = graphs[0].clone();
    graphs.push(first);
    let embed = |name: &str, content: &[u8]| {
        let (file, out) = (trained.work.text(name), trained.work.text("rows.arrows"));
        fs::write(&file, content).unwrap();
        let said = run(trained.on_run("embed", &["--graphs", &file, "--out", &out]));
        assert!(said.contains("left out: 1 graphs without a known object: 70001"), "{said}");
        (said, fs::read(&out).unwrap())
    };
    let want = embed("graphs.jsonl", lines(&graphs).as_bytes());
    let (start, rest) = graphs.split_at(5);
    let batches = [batch(&[]), batch(start), batch(&[]), batch(rest)];
    let streamed = stream(&batches);
    assert!(embed("graphs.arrows", &streamed) == want, "structs in a stream");
    let mut file = FileWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| file.write(batch).unwrap());
    let file = file.into_inner().unwrap();
    assert!(embed("graphs.arrow", &file) == want, "structs in a file");
    // polars leaves out the marker and the length of the schema.
    let marker = file.windows(4).position(|bytes| bytes == [0xff; 4]).unwrap();
    let unmarked = [b"ARROW1\0\0", &file[marker + 8..]].concat();
    assert!(embed("unmarked.arrow", &unmarked) == want, "a file whose schema has no marker");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&streamed).unwrap();
    assert!(embed("graphs.gz", &packed.finish().unwrap()) == want, "a compressed stream");
    let listed_by = |by_name: bool| move |graphs: &[NamedGraph]| listed(graphs, by_name);
    // Every batch has another dictionary.
    let of_lists = [start, &[], rest].map(listed_by(false));
    assert!(embed("lists.arrows", &stream(&of_lists)) == want, "three lists");

    // By name: a graph per relationship of two objects with different names.
    let pairs = |(id, objects, relationships): &NamedGraph| -> Vec<NamedGraph> {
        let pair = |(s, predicate, o): &(usize, String, usize)| {
            (*id, vec![objects[*s].clone(), objects[*o].clone()], vec![(0, predicate.clone(), 1)])
        };
        relationships.iter().map(pair).filter(|(_, names, _)| names[0] != names[1]).collect()
    };
    let mut distinct: Vec<NamedGraph> = graphs.iter().flat_map(pairs).collect();
    assert!(distinct.len() > 10);
    distinct.push((70_001, Vec::new(), Vec::new()));
    let want = embed("graphs.jsonl", lines(&distinct).as_bytes());
    let by_name = stream(&[listed(&distinct, true)]);
    assert!(embed("names.arrows", &by_name) == want, "subjects by name");

    // From standard input to standard output.
    let piped = scenerank()
        .args(trained.on_run("embed", &["--graphs", "-", "--out", "-"]))
        .write_stdin(by_name)
        .assert()
        .code(0);
    assert!(piped.get_output().stdout == want.1, "standard input");
}

/// Files of the libraries that write most Arrow files; `arrow_graphs/write.py` makes them.
#[test]
fn files_of_pyarrow_and_polars_have_the_rows_of_lines() {
    if !python_has("pyarrow") {
        return;
    }
    python_has("polars");
    let trained = Trained::new();
    let mut graphs = trained.graphs();
    graphs.truncate(14);
    // Without any object, in the second batch.
    graphs.insert(5, (70_001, Vec::new(), Vec::new()));
    let out = trained.work.text("rows.arrows");
    let embed = |name: &str| {
        run(trained.on_run("embed", &["--graphs", &trained.work.text(name), "--out", &out]));
        fs::read(&out).unwrap()
    };
    let embed_lines = |graphs: &[NamedGraph]| {
        fs::write(trained.work.path("graphs.jsonl"), lines(graphs)).unwrap();
        embed("graphs.jsonl")
    };
    let want = embed_lines(&graphs);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/arrow_graphs/write.py");
    let folder = trained.work.text("");
    let output =
        Command::new(python()).args([script, &trained.work.text("graphs.jsonl"), &folder]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files: Value = serde_json::from_slice(&output.stdout).unwrap();
    let same = files["same"].as_array().unwrap();
    assert!(same.len() > 10);
    for name in same.iter().map(|name| name.as_str().unwrap()) {
        assert!(embed(name) == want, "{name}");
    }
    for (name, ends) in files["parts"].as_object().unwrap() {
        let [start, end] = [0, 1].map(|at| ends[at].as_u64().unwrap() as usize);
        let want = embed_lines(&graphs[start..end]);
        assert!(embed(name) == want, "{name}");
    }
    fs::remove_file(&out).unwrap();
    for (name, message) in files["refused"].as_object().unwrap() {
        let message = message.as_str().unwrap();
        let remedy = if message.contains("compressed") { "write it with compression None" } else { "; " };
        let options = ["--graphs", &trained.work.text(name), "--out", &out];
        refuse(trained.on_run("embed", &options), &[name, message, remedy]);
        assert!(!fs::exists(&out).unwrap(), "{name}");
    }
}

/// The format allows lists that begin inside of their values, though most writers move them to the start.
#[test]
fn lists_may_begin_inside_of_their_values() {
    let trained = Trained::new();
    let names = |count: usize| -> Vec<String> {
        trained.graphs().iter().flat_map(|graph| graph.1.clone()).take(count).collect()
    };
    let (file, out) = (trained.work.text("graphs"), trained.work.text("rows.arrows"));
    let embed = |content: &[u8]| {
        fs::write(&file, content).unwrap();
        run(trained.on_run("embed", &["--graphs", &file, "--out", &out]));
        fs::read(&out).unwrap()
    };
    let graphs: Vec<NamedGraph> =
        vec![(1, names(7), Vec::new()), (2, names(12)[7..].to_vec(), vec![(4, "near".into(), 0)])];
    let mut later = graphs.clone();
    later[0].1.drain(..3);
    // Offsets 0, 7, 12 become 3, 7, 12.
    let moved = |mut stream: Vec<u8>, bytes: usize| {
        let offsets: Vec<u8> =
            [0u64, 7, 12].iter().flat_map(|offset| offset.to_le_bytes()[..bytes].to_vec()).collect();
        let found: Vec<usize> =
            (0..stream.len() - offsets.len()).filter(|&at| stream[at..].starts_with(&offsets)).collect();
        assert_eq!(found.len(), 1);
        stream[found[0]] = 3;
        stream
    };
    let want = embed(lines(&later).as_bytes());
    assert!(embed(&moved(stream(&[batch(&graphs)]), 4)) == want, "a small list");
    assert!(embed(&moved(stream(&[listed(&graphs, false)]), 8)) == want, "a large list");
}

#[test]
fn wrong_arrow_graphs_are_refused_by_batch_and_row() {
    let trained = Trained::new();
    let (file, out) = (trained.work.text("graphs.arrows"), trained.work.text("rows.arrows"));
    let refused = |content: &[u8], more: &[&str], parts: &[&str]| {
        fs::write(&file, content).unwrap();
        let options = [&["--graphs", &file, "--out", &out], more].concat();
        refuse(trained.on_run("embed", &options), parts);
        assert!(!fs::exists(&out).unwrap(), "{parts:?}");
    };
    let good: Vec<NamedGraph> = vec![
        (1, vec!["man".into(), "dog".into()], vec![(0, "near".into(), 1)]),
        (2, vec!["man".into()], Vec::new()),
    ];
    let with = |name: &str, column: ArrayRef| {
        let good = batch(&good);
        let names = good.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
        let columns = names.into_iter().zip(good.columns().iter().cloned());
        let mut columns: Vec<(String, ArrayRef)> = columns.filter(|(other, _)| other != name).collect();
        columns.push((name.to_string(), column));
        RecordBatch::try_from_iter(columns).unwrap()
    };
    let without = |name: &str| {
        let good = batch(&good);
        let kept: Vec<usize> = (0..4).filter(|&at| good.schema().field(at).name() != name).collect();
        stream(&[good.project(&kept).unwrap()])
    };
    // Columns.
    let missing = ["graphs.arrows: column `objects`: it is missing; there are `note`", "name the column"];
    refused(&without("objects"), &[], &missing);
    refused(&without("image_id"), &[], &["column `image_id`: it is missing"]);
    refused(&without("relationships"), &[], &["column `relationships`: it is missing", "empty lists"]);
    let wrong = stream(&[with("image_id", names([vec!["1"], vec!["2"]]))]);
    refused(&wrong, &[], &["column `image_id`: it is List(", "not an integer", "cast it to uint64"]);
    let wrong = stream(&[with("objects", ids(&good))]);
    refused(&wrong, &[], &["column `objects`: it is UInt64, not a list of names", "utf8"]);
    let wrong = stream(&[with("relationships", names([vec!["near"], vec![]]))]);
    refused(&wrong, &[], &["column `relationships`: it is List(", "not a list of structs"]);

    // Rows. The second batch is wrong; the first is its second or its first row.
    let id = |values: Vec<Option<u64>>| -> ArrayRef { Arc::new(UInt64Array::from(values)) };
    let nullable = |name: &str, column: ArrayRef| {
        let wrong = with(name, column);
        stream(&[wrong.slice(0, 1), wrong])
    };
    refused(&nullable("image_id", id(vec![Some(1), None])), &[], &["batch 2, row 2: `image_id` is null"]);
    let negative: ArrayRef = Arc::new(Int64Array::from(vec![1, -7]));
    refused(&nullable("image_id", negative), &[], &["batch 2, row 2: `image_id` is -7", "from 0"]);
    let mut builder = ListBuilder::new(StringBuilder::new());
    builder.append_value([Some("man"), Some("dog")]);
    builder.append_null();
    let null_list: ArrayRef = Arc::new(builder.finish());
    refused(&nullable("objects", null_list), &[], &["batch 2, row 2: `objects` is null", "an empty list"]);
    let mut builder = ListBuilder::new(StringBuilder::new());
    builder.append_value([Some("man"), Some("dog")]);
    builder.append_value([Some("man"), None]);
    let null_name: ArrayRef = Arc::new(builder.finish());
    refused(&nullable("objects", null_name), &[], &["batch 2, row 2: the name of object 2 is null"]);
    let related = |subject: Option<i64>, object: Option<i64>, predicate: Option<&str>| {
        let fields: [(&str, ArrayRef); 3] = [
            ("subject", Arc::new(Int64Array::from(vec![subject]))),
            ("object", Arc::new(Int64Array::from(vec![object]))),
            ("predicate", Arc::new(StringArray::from(vec![predicate]))),
        ];
        let wrong = with("relationships", structs(&good, fields));
        stream(&[wrong.slice(1, 1), wrong])
    };
    let absent =
        ["batch 2, row 1: relationship 1: its object, object 2, is not among the 2", "--skip-absent"];
    let outside = related(Some(0), Some(2), Some("near"));
    refused(&outside, &[], &absent);
    refused(&related(Some(-1), Some(1), Some("near")), &[], &["its subject, object -1, is not among"]);
    refused(
        &related(None, Some(1), Some("near")),
        &[],
        &["batch 2, row 1: relationship 1: its subject is null"],
    );
    refused(&related(Some(0), Some(1), None), &[], &["relationship 1: its predicate is null"]);
    fs::write(&file, &outside).unwrap();
    let dropped = run(trained.on_run("embed", &["--graphs", &file, "--out", &out, "--skip-absent-objects"]));
    assert!(dropped.contains("left out: 1 relationships with an absent object"), "{dropped}");
    fs::remove_file(&out).unwrap();

    // By name.
    let same: Vec<NamedGraph> = vec![(1, vec!["man".into(), "Man".into()], vec![(0, "near".into(), 1)])];
    let several = ["batch 1, row 1: relationship 1: several objects have the name \" MAN \"", "positions"];
    refused(&stream(&[listed(&same, true)]), &[], &several);
    let uneven = listed(&good, false);
    let at = uneven.schema().index_of("predicate").unwrap();
    let mut columns = uneven.columns().to_vec();
    let mut builder = ListBuilder::new(StringViewBuilder::new());
    builder.append_value([Some("near"), Some("near")]);
    builder.append_value([None::<&str>; 0]);
    columns[at] = Arc::new(builder.finish());
    let uneven = RecordBatch::try_new(uneven.schema(), columns).unwrap();
    let parts = ["batch 1, row 1: 1 subjects, 2 predicates and 1 objects of them", "one length"];
    refused(&stream(&[uneven]), &[], &parts);

    // Names that the model does not know.
    let strange: Vec<NamedGraph> = vec![(9, vec!["man".into(), "unicorn".into()], Vec::new())];
    let parts = ["image 9: object \"unicorn\" is not a name that the model knows", "--unknown drop"];
    refused(&stream(&[batch(&strange)]), &["--unknown", "error"], &parts);
    refused(&stream(&[batch(&[])]), &[], &["graphs.arrows: file: no graph"]);

    // The stream itself.
    let whole = stream(&[batch(&good), batch(&good)]);
    let ends = [whole.len() - 1, whole.len() - 8, whole.len() - 40, 100, 6];
    for (end, place) in ends.into_iter().zip(["batch 3", "batch 3", "batch 2", "schema", "schema"]) {
        refused(&whole[..end], &[], &[&format!("graphs.arrows: {place}: truncated"), "write the file again"]);
    }
    let twice = [&whole[..], &whole[..]].concat();
    refused(&twice, &[], &["end of the stream: more bytes follow it", "write one stream"]);
    let mut damaged = whole.clone();
    damaged[12..20].fill(0xee);
    refused(&damaged, &[], &["graphs.arrows: schema: damaged metadata"]);
    let mut of_file = FileWriter::try_new(Vec::new(), &batch(&good).schema()).unwrap();
    of_file.write(&batch(&good)).unwrap();
    let of_file = of_file.into_inner().unwrap();
    refused(&of_file[..of_file.len() - 3], &[], &["end of the file: truncated"]);
    let marker = of_file.windows(4).position(|bytes| bytes == [0xff; 4]).unwrap();
    let unmarked = [b"ARROW1\0\0", &of_file[marker + 8..]].concat();
    refused(&unmarked[..100], &[], &["graphs.arrows: schema: truncated"]);
    let other = [b"ARROW1\0\0", &[7; 64][..], &of_file[marker..]].concat();
    refused(&other, &[], &["graphs.arrows: schema: damaged metadata"]);
    let info = trained.work.text("info.json");
    fs::write(&info, "{\"idx_to_files\": [], \"ind_to_classes\": [], \"ind_to_predicates\": []}").unwrap();
    refused(&whole, &["--data-info", &info], &["graphs.arrows: first bytes: it is an Arrow stream"]);
}
