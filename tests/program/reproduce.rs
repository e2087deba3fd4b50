//! `reproduce`: runs are skipped, resumed and kept apart; every number on the page is in the JSON; and the
//! paper's numbers are correct.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use crate::program::{SMALL_NETWORK, Workplace, refuse, run, run_json, scenerank, small_data};
use scenerank::batch::triples::Sampling;
use scenerank::data::{Dataset, Split};
use scenerank::files::npy::write_npy;
use scenerank::loss::LossKind;
use scenerank::reproduce::paper::Paper;
use scenerank::reproduce::plan::{LOSSES, STRATEGIES, model_name};
use scraper::{Html, Selector};
use serde_json::Value;
use tempfile::TempDir;

impl Workplace {
    pub fn reproduce_arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let data = self.data.display().to_string();
        let mut words = vec!["reproduce".to_owned(), data, "--out".into(), self.text(out)];
        words.extend(SMALL_NETWORK.iter().chain(&["--device", "cpu"]).chain(more).map(ToString::to_string));
        words
    }

    /// Runs `reproduce` successfully; returns the tables on standard output, and the report's JSON.
    pub fn reproduce(&self, out: &str, more: &[&str]) -> (Value, Value) {
        let tables = run_json(self.reproduce_arguments(out, &[more, &["--json"]].concat()));
        (tables, self.report(out))
    }

    pub fn report(&self, out: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(out).join("report.json")).unwrap()).unwrap()
    }
}

fn rows(table: &Value) -> &Vec<Value> {
    table["rows"].as_array().unwrap()
}

fn row<'a>(table: &'a Value, name: &str) -> &'a Value {
    rows(table).iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row {name}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// All tables with their JSON pointers.
fn tables(report: &Value) -> Vec<(String, &Value)> {
    ["/table_2", "/table_3/0", "/table_3/1", "/ablations"]
        .into_iter()
        .filter_map(|place| Some((place.to_owned(), report.pointer(place).filter(|table| !table.is_null())?)))
        .collect()
}

#[test]
fn a_report_is_whole_and_its_page_says_what_its_json_says() {
    let work = Workplace::new();
    let dataset = Dataset::open(&work.data).unwrap();
    let test = dataset.split(Split::Test).len();
    let features: Vec<f32> = (0..test * 5).map(|i| ((i * 7919 % 1009) as f32).sin()).collect();
    write_npy(&work.path("features.npy"), &features, 5).unwrap();
    // Another encoder: the first half of the caption vectors' columns.
    let width = dataset.word_width();
    let half = |row: &[f32]| row[..width / 2].to_vec();
    let vectors: Vec<f32> = dataset.caption_vectors().chunks(width).flat_map(half).collect();
    write_npy(&work.path("vectors.npy"), &vectors, width / 2).unwrap();
    // The smallest possible picture serves as a photograph.
    fs::create_dir(work.path("photographs")).unwrap();
    for image in dataset.split(Split::Test) {
        fs::write(
            work.path("photographs").join(format!("{}.jpg", dataset.image_id(image))),
            b"\xff\xd8\xff\xd9",
        )
        .unwrap();
    }
    let [features, vectors, photographs] =
        ["features.npy", "vectors.npy", "photographs"].map(|name| work.text(name));
    let options = [
        &["--epochs", "1", "--seeds", "2", "--features", &features, "--caption-vectors", &vectors][..],
        &["--ablations", "layers,temperature,l2-norm,batch-norm,image-node", "--images", &photographs],
    ]
    .concat();
    let (_, report) = work.reproduce("report", &options);
    let text = run(work.reproduce_arguments("report", &options));
    assert!(text.contains("per image (row-wise)") && text.contains(" ± "), "{text}");
    let tables_in_text = text.lines().filter(|line| !line.starts_with('/'));
    tables_in_text.for_each(|line| assert!(line.chars().count() <= 100, "{line}"));

    // Tables 2 and 3 contain all models, with two seeds each, and the paper's values.
    for (place, table) in &tables(&report)[..3] {
        for loss in LOSSES {
            for sampling in STRATEGIES {
                let theirs = match place.as_str() {
                    "/table_2" => Paper::get().agreement(loss, sampling).to_vec(),
                    _ => Paper::get().retrieval(loss, sampling).to_vec(),
                };
                let row = row(table, &model_name(loss, sampling));
                let cells = row["cells"].as_array().unwrap();
                assert_eq!(cells.len(), theirs.len(), "{place}");
                for (cell, theirs) in cells.iter().zip(theirs) {
                    let values: Vec<f64> =
                        cell["ours"]["values"].as_array().unwrap().iter().map(number).collect();
                    let mean = (values[0] + values[1]) / 2.0;
                    assert_eq!((values.len(), number(&cell["ours"]["mean"])), (2, mean));
                    // For two values, the sample deviation is their distance divided by the root of 2.
                    let spread = (values[0] - values[1]).abs() / 2f64.sqrt();
                    assert!((number(&cell["ours"]["spread"]) - spread).abs() < 1e-12);
                    assert_eq!(
                        (number(&cell["paper"]), number(&cell["difference"])),
                        (theirs, mean - theirs)
                    );
                }
            }
        }
        for column in 0..rows(table)[0]["cells"].as_array().unwrap().len() {
            let ours = |row: &Value| row["cells"][column]["ours"]["mean"].as_f64();
            let best = rows(table).iter().filter_map(ours).fold(f64::MIN, f64::max);
            for row in rows(table) {
                let marked = row["cells"][column]["best"].as_bool().unwrap();
                assert_eq!(marked, ours(row) == Some(best), "{place}, {}", row["name"]);
            }
        }
        row(table, "bag of objects");
        row(table, "mean of GloVe vectors of object names");
    }
    let proposed = row(&report["table_2"], "ranking + probability");
    assert_eq!(number(&proposed["cells"][0]["paper"]), 0.391);
    assert!(proposed["cells"][0]["best_in_paper"].as_bool().unwrap());
    let given = row(&report["table_2"], "features from a file (paper: of a classifier)");
    assert_eq!(given["cells"][3]["paper"], 0.247);
    assert!(given["cells"][3]["difference"].is_number());
    // Noise is uncorrelated with captions: the deviation of its correlation is that of 15 x 14 / 2 pairs,
    // about 0.1.
    assert!(number(&row(&report["table_2"], "normal features")["cells"][0]["ours"]["mean"]).abs() < 0.4);

    // The paper's value of a setting needs no separate run.
    let names: Vec<&str> =
        rows(&report["ablations"]).iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 5 + 4 + 3 * 2 + 2, "{names:?}");
    let same = row(&report["ablations"], "layers = 2");
    assert_eq!(same["cells"][0]["ours"]["mean"], proposed["cells"][0]["ours"]["mean"]);
    for switch in ["l2 norm of node states", "batch norm", "image node in the mean"] {
        let [on, off] = ["on", "off"].map(|value| row(&report["ablations"], &format!("{switch} = {value}")));
        assert_eq!(on["cells"], same["cells"], "{switch}");
        assert_ne!(off["cells"][0]["ours"]["mean"], on["cells"][0]["ours"]["mean"], "{switch}");
    }
    let vectors = row(&report["ablations"], "similarity = given caption vectors");
    assert_ne!(vectors["cells"][0]["ours"]["mean"], proposed["cells"][0]["ours"]["mean"]);
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2 * (12 + 4 + 3 + 3 + 1));
    assert_eq!(report["missing"].as_array().unwrap().len(), 0);
    assert!(report["expectations"].as_array().unwrap().iter().all(|claim| claim["verdict"].is_string()));

    let ids: Vec<&str> =
        report["figures"].as_array().unwrap().iter().map(|figure| figure["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["figure-2", "figure-4a", "figure-4b", "training", "projection"]);
    let panels = |figure: usize| report["figures"][figure]["panels"].as_array().unwrap();
    let series = |panel: &Value| panel["series"].as_array().unwrap().clone();
    // Figure 4 draws the strategies that Table 3 marks, and bands of both seeds.
    for (reading, table) in report["table_3"].as_array().unwrap().iter().enumerate() {
        let marked = rows(table).iter().filter(|row| row["cells"][0]["best_of_loss"] == true);
        let marked: Vec<_> =
            marked.map(|row| row["name"].as_str().unwrap()).chain(["bag of objects"]).collect();
        for panel in [&panels(1)[reading], &panels(2)[3 * reading]] {
            let drawn = series(panel);
            assert_eq!(drawn.iter().map(|one| one["label"].as_str().unwrap()).collect::<Vec<_>>(), marked);
            for one in &drawn[..3] {
                let points = one["points"].as_array().unwrap();
                for (point, band) in points.iter().zip(one["band"].as_array().unwrap()) {
                    let middle = (number(&band[0]) + number(&band[1])) / 2.0;
                    assert!((number(&point[1]) - middle).abs() < 1e-12, "{one}");
                }
                assert_eq!(one["band"].as_array().unwrap().len(), points.len());
            }
        }
    }
    let bands = panels(3).iter().flat_map(series).map(|one| one["band"].as_array().map_or(0, Vec::len));
    assert!(bands.collect::<Vec<_>>().iter().all(|&length| length > 0));
    for file in ids.iter().flat_map(|id| [format!("figures/{id}.svg"), format!("figures/{id}.csv")]).chain(
        ["report.html", "report.md", "table-2.csv", "table-3-augmented.csv", "ablations.csv"]
            .map(String::from),
    ) {
        assert!(fs::metadata(work.path("report").join(&file)).unwrap().len() > 100, "{file}");
    }
    check_page(&work.path("report"), &report);
    check_boxes(&work.path("report"), &report, &dataset);
    check_csv(&work.path("report/table-2.csv"), &report["table_2"]);
}

/// Every number on the page is in the JSON at the stated pointer, and every number in the JSON's tables,
/// figures and gallery is on the page.
fn check_page(folder: &Path, report: &Value) {
    let page = Html::parse_document(&fs::read_to_string(folder.join("report.html")).unwrap());
    let all = |words: &str| Selector::parse(words).unwrap();
    let mut shown = BTreeMap::new();
    for element in page.select(&all("[data-value]")) {
        let value = element.value();
        let (place, exact) = (value.attr("data-pointer").unwrap(), value.attr("data-value").unwrap());
        let stored = number(report.pointer(place).unwrap_or_else(|| panic!("nothing at {place}")));
        assert_eq!(exact.parse::<f64>().unwrap(), stored, "{place}");
        let text = element.text().collect::<String>();
        if element.value().name() == "data" {
            assert_eq!(value.attr("value"), Some(exact), "{place}");
            let decimals = text.split('.').nth(1).map_or(0, str::len);
            let rounded: f64 = text.parse().unwrap_or_else(|_| panic!("{text} at {place}"));
            // A number with d decimals has an error of at most half of the last one.
            assert!(
                (rounded - stored).abs() <= 0.5001 * 10f64.powi(-(decimals as i32)),
                "{text} for {stored}"
            );
        }
        shown.insert(place.to_owned(), stored);
    }
    let mut expected = 0;
    let mut must_be_shown = |place: String| {
        expected += 1;
        assert!(shown.contains_key(&place), "{place} is not on the page");
    };
    for (place, table) in tables(report) {
        for (r, row) in rows(table).iter().enumerate() {
            for (c, cell) in row["cells"].as_array().unwrap().iter().enumerate() {
                for part in ["/ours/mean", "/ours/spread", "/paper", "/difference"] {
                    if cell.pointer(part).is_some_and(Value::is_number) {
                        must_be_shown(format!("{place}/rows/{r}/cells/{c}{part}"));
                    }
                }
            }
        }
    }
    for (f, figure) in report["figures"].as_array().unwrap().iter().enumerate() {
        for (p, panel) in figure["panels"].as_array().unwrap().iter().enumerate() {
            for (s, series) in panel["series"].as_array().unwrap().iter().enumerate() {
                for (at, point) in series["points"].as_array().unwrap().iter().enumerate() {
                    assert!(point[1].is_number());
                    must_be_shown(format!("/figures/{f}/panels/{p}/series/{s}/points/{at}/1"));
                }
            }
        }
    }
    for (q, query) in report["gallery"]["queries"].as_array().unwrap().iter().enumerate() {
        let lists = query["lists"].as_array().unwrap();
        assert_eq!(lists.len(), 3);
        for (l, list) in lists.iter().enumerate() {
            let images = list["images"].as_array().unwrap();
            assert_eq!(images.len(), 6);
            let scores: Vec<f64> = images.iter().map(|image| number(&image["score"])).collect();
            assert!(
                scores.is_sorted_by(|a, b| a >= b) && images.iter().all(|i| i["image"] != query["image"])
            );
            for n in 0..images.len() {
                must_be_shown(format!("/gallery/queries/{q}/lists/{l}/images/{n}/score"));
            }
        }
    }
    assert!(expected > 1000, "{expected} numbers");

    // The page loads nothing, and every link inside it has a target.
    let ids: Vec<&str> =
        page.select(&all("[id]")).map(|element| element.value().attr("id").unwrap()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "an id twice");
    for link in page.select(&all("[href]")).map(|element| element.value().attr("href").unwrap()) {
        match link.strip_prefix('#') {
            Some(id) => assert!(ids.contains(&id), "{link}"),
            None => assert!(folder.join(link).is_file(), "{link}"),
        }
    }
    let with_source = all("[src]");
    let sources: Vec<&str> =
        page.select(&with_source).map(|element| element.value().attr("src").unwrap()).collect();
    assert!(!sources.is_empty());
    assert!(sources.iter().all(|source| source.starts_with("data:image/jpeg;base64,")));
    assert_eq!(page.select(&all("link, iframe, object, script[src]")).count(), 0);

    // Its policy allows its own style and script, and nothing else: no style attribute, no inline handler.
    let first = |words: &str, attribute: &str| {
        let element = page.select(&all(words)).next().unwrap_or_else(|| panic!("no {words}"));
        element.value().attr(attribute).unwrap_or_else(|| panic!("no {attribute}")).to_owned()
    };
    let (policy, nonce) =
        (first("meta[http-equiv=Content-Security-Policy]", "content"), first("script", "nonce"));
    assert!(
        policy.starts_with(&format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
        ))
    );
    assert!(!policy.contains("unsafe") && first("style", "nonce") == nonce && nonce.len() == 32, "{policy}");
    let everything = all("*");
    let inline = page.select(&everything).flat_map(|element| element.value().attrs());
    let inline: Vec<_> = inline.filter(|(name, _)| *name == "style" || name.starts_with("on")).collect();
    assert!(inline.is_empty(), "{inline:?}");

    // Shared objects are marked in the drawings of a query's results, and named.
    let style: String =
        page.select(&all("style")).flat_map(|style| style.text().collect::<Vec<_>>()).collect();
    let gallery = &report["gallery"];
    let scene = |image: &Value| {
        let scenes = gallery["scenes"].as_array().unwrap();
        scenes.iter().find(|scene| scene["image"] == *image).unwrap_or_else(|| panic!("no scene of {image}"))
    };
    let objects = |image: &Value| -> HashSet<String> {
        let names = scene(image)["objects"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let mut named = 0;
    for query in gallery["queries"].as_array().unwrap() {
        let asked = objects(&query["image"]);
        let rule = style.split(&format!("#query-{} {{", query["image"])).nth(1).unwrap();
        let rule = rule.split('}').next().unwrap();
        assert_eq!(rule.matches("var(--shared)").count(), asked.len(), "{rule}");
        for found in
            query["lists"].as_array().unwrap().iter().flat_map(|list| list["images"].as_array().unwrap())
        {
            let mut shared: Vec<String> = objects(&found["image"]).intersection(&asked).cloned().collect();
            shared.sort_unstable();
            assert_eq!(found["shared"], serde_json::to_value(&shared).unwrap());
            named += shared.len();
            // As many drawn names are marked as the image has objects of the shared names.
            let marked = scene(&found["image"])["objects"].as_array().unwrap().iter();
            let marked = marked.filter(|name| shared.iter().any(|shared| *name == shared)).count();
            let drawn = all(&format!("#drawing-{} rect[class*=' k']", found["image"]));
            let drawn = page.select(&drawn).filter(|rect| {
                let mut classes = rect.value().classes();
                classes.any(|class| class.starts_with('k') && rule.contains(&format!("--{class}: ")))
            });
            assert_eq!(drawn.count(), marked, "image {}", found["image"]);
        }
    }
    assert!(named > 0);
}

/// The JSON contains the boxes of the data, and the page draws each of them.
fn check_boxes(folder: &Path, report: &Value, dataset: &Dataset) {
    let page = Html::parse_document(&fs::read_to_string(folder.join("report.html")).unwrap());
    let scenes = report["gallery"]["scenes"].as_array().unwrap();
    assert!(scenes.len() > 6);
    for scene in scenes {
        let id = scene["image"].as_u64().unwrap();
        let image = dataset.find_image(id).unwrap();
        let boxes: Vec<_> = dataset.boxes(image).collect();
        assert_eq!(scene["boxes"], serde_json::to_value(&boxes).unwrap(), "image {id}");
        assert_eq!(scene["size"], serde_json::to_value(dataset.image_size(image)).unwrap(), "image {id}");
        let selector = Selector::parse(&format!("#drawing-{id} rect.box")).unwrap();
        assert_eq!(page.select(&selector).count(), boxes.iter().flatten().count(), "image {id}");
        assert!(scene["photograph_url"].is_null());
    }
}

/// Addresses are on the page only if requested, escaped, with the drawing behind them; `--images` takes
/// precedence.
#[test]
fn photographs_are_linked_if_asked_for() {
    let folder = TempDir::new().unwrap();
    let data = small_data(folder.path(), 1);
    let mut work = Workplace { folder, data };
    let settings = ["--epochs", "1", "--budget", "0s", "--link-photographs"];
    refuse(
        work.reproduce_arguments("without", &settings),
        &["--link-photographs: ", "has no address", "image_data.json"],
    );

    let raw = work.path("raw1");
    let mut images: Value = serde_json::from_slice(&fs::read(raw.join("image_data.json")).unwrap()).unwrap();
    for image in images.as_array_mut().unwrap() {
        image["url"] = format!("https://example.org/{}.jpg?a=1&b=2", image["image_id"]).into();
    }
    fs::write(raw.join("image_data.json"), images.to_string()).unwrap();
    work.data = work.path("linked.data");
    let path = |name: &str| raw.join(name).display().to_string();
    crate::program::run([
        "prepare",
        "--scene-graphs",
        &path("scene_graphs.json"),
        "--image-data",
        &path("image_data.json"),
        "--captions",
        &path("captions.json"),
        "--glove",
        &path("glove.txt"),
        "--min-occurrences",
        "15",
        "--out",
        &work.text("linked.data"),
    ]);
    let dataset = Dataset::open(&work.data).unwrap();
    let with_file = dataset.image_id(dataset.split(Split::Test).start);
    fs::create_dir(work.path("photographs")).unwrap();
    fs::write(work.path("photographs").join(format!("{with_file}.jpg")), b"\xff\xd8\xff\xd9").unwrap();

    let sources = |out: &str, more: &[&str]| {
        let (_, report) = work.reproduce(out, more);
        let page = Html::parse_document(&fs::read_to_string(work.path(out).join("report.html")).unwrap());
        let linked = Selector::parse("img").unwrap();
        let sources: Vec<(String, bool)> = page
            .select(&linked)
            .map(|image| {
                // The script removes such a photograph if it does not load.
                let falls_back = image.value().classes().any(|class| class == "linked");
                (image.value().attr("src").unwrap().to_owned(), falls_back)
            })
            .collect();
        let policy = page.select(&Selector::parse("meta[http-equiv]").unwrap()).next().unwrap();
        let policy = policy.value().attr("content").unwrap().to_owned();
        assert_eq!(policy.contains("https:"), sources.iter().any(|(_, linked)| *linked), "{policy}");
        (report, sources)
    };
    let (_, without) = sources("plain", &settings[..4]);
    assert_eq!(without, []);
    let (report, linked) =
        sources("linked", &[&settings[..], &["--images", &work.text("photographs")]].concat());
    for scene in report["gallery"]["scenes"].as_array().unwrap() {
        let id = scene["image"].as_u64().unwrap();
        let url = format!("https://example.org/{id}.jpg?a=1&b=2");
        if id == with_file {
            assert!(scene["photograph_url"].is_null() && linked.iter().all(|(source, _)| *source != url));
        } else {
            assert_eq!(scene["photograph_url"], url);
            assert!(linked.contains(&(url, true)), "image {id}");
        }
    }
    assert!(linked.iter().any(|(source, _)| source.starts_with("data:image/jpeg;base64,")));
}

/// The lines of the CSV, one per cell, contain the numbers of the table.
fn check_csv(path: &Path, table: &Value) {
    let mut lines = csv::Reader::from_path(path).unwrap();
    let lines: Vec<csv::StringRecord> = lines.records().map(Result::unwrap).collect();
    let cells: Vec<(&Value, &Value)> = rows(table)
        .iter()
        .flat_map(|row| row["cells"].as_array().unwrap().iter().map(move |cell| (&row["name"], cell)))
        .collect();
    assert_eq!(lines.len(), cells.len());
    for (line, (name, cell)) in lines.iter().zip(cells) {
        assert_eq!(&line[0], name.as_str().unwrap());
        assert_eq!(line[3].parse().ok(), cell["ours"]["mean"].as_f64());
        assert_eq!(line[6].parse().ok(), cell["paper"].as_f64());
    }
}

#[test]
fn finished_runs_are_skipped_and_stopped_ones_go_on() {
    let work = Workplace::new();
    let settings = ["--epochs", "2", "--subset", "140"];
    let (whole, _) = work.reproduce("whole", &[&settings[..], &["--jobs", "2"]].concat());

    // No time at all: every model is missing, the baselines and the paper's numbers are present.
    let (nothing, report) = work.reproduce("parts", &[&settings[..], &["--budget", "0s"]].concat());
    assert_eq!(nothing["missing"].as_array().unwrap().len(), 12);
    assert!(row(&nothing["table_2"], "triplet + random")["cells"][0]["ours"].is_null());
    assert!(row(&nothing["table_2"], "bag of objects")["cells"][0]["ours"].is_object());
    assert!(report["expectations"][0]["verdict"].is_null());
    let page = fs::read_to_string(work.path("parts/report.html")).unwrap();
    assert!(page.contains("12 runs are missing") && page.contains("infonce-reject-seed1"));

    // Limited time, so that a run is interrupted; then the rest, one run at a time. The interruptions leave
    // no trace.
    work.reproduce("parts", &[&settings[..], &["--budget", "150ms"]].concat());
    let (parts, _) = work.reproduce("parts", &[&settings[..], &["--jobs", "1"]].concat());
    assert_eq!(parts, whole);

    // Finished runs are not changed; missing ones are repeated with the same result.
    let run = |name: &str| work.path("parts/runs").join(name);
    let written = |file: &Path| fs::metadata(file).unwrap().modified().unwrap();
    let kept = run("triplet-random-seed1/last.safetensors");
    let before = written(&kept);
    fs::remove_dir_all(run("ranking-reject-seed1")).unwrap();
    fs::remove_file(run("ranking-random-seed1/result.json")).unwrap();
    let (again, _) = work.reproduce("parts", &settings);
    assert_eq!((again, written(&kept)), (whole, before));

    // A run in a report's folder is an ordinary run.
    let settings_file = fs::read_to_string(run("ranking-reject-seed1/config.toml")).unwrap();
    assert!(settings_file.contains("sampling = \"reject\""), "{settings_file}");
    let folder = run("ranking-reject-seed1").display().to_string();
    let evaluated = run_json(["evaluate", &folder, "--json"]);
    let report = work.report("parts");
    let ours = &row(&report["table_2"], "ranking + reject")["cells"][0]["ours"]["mean"];
    assert_eq!(&evaluated["rows"][0]["per_image"]["kendall"], ours);

    // Other settings or other data in the same folder.
    let other = |more: &[&str], parts: &[&str]| refuse(work.reproduce_arguments("parts", more), parts);
    let remedy = "choose another --out";
    other(
        &["--epochs", "3", "--subset", "140"],
        &["made with epochs = 2, now it is 3", remedy, "seed1: run"],
    );
    other(&["--epochs", "2", "--subset", "130"], &["made on other data (or on another --subset)", remedy]);
    let learning_rate = ["--epochs", "2", "--subset", "140", "--learning-rate", "0.5"];
    other(&learning_rate, &["made with learning-rate = 0.0001, now it is 0.5", remedy]);
    fs::write(run("infonce-random-seed1/result.json"), "{").unwrap();
    other(&settings, &["infonce-random-seed1/result.json: line 1", "remove the file"]);
}

#[cfg(unix)]
#[test]
fn a_stopped_reproduction_reports_what_is_finished() {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, kill_process};
    let work = Workplace::new();
    let arguments = work.reproduce_arguments("report", &["--epochs", "4", "--jobs", "1"]);
    let mut program = Command::new(assert_cmd::cargo::cargo_bin("scenerank"))
        .args(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let finished = || {
        let Ok(runs) = fs::read_dir(work.path("report/runs")) else { return 0 };
        runs.filter(|run| run.as_ref().unwrap().path().join("result.json").exists()).count()
    };
    // The first finished run is in a report while the others are trained.
    while !work.path("report/report.md").exists() {
        assert!(program.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let early = work.report("report");
    assert_eq!(early["runs"].as_array().unwrap().len() + early["missing"].as_array().unwrap().len(), 12);
    assert!((1..12).contains(&early["missing"].as_array().unwrap().len()));
    kill_process(Pid::from_child(&program), crate::program::ctrl_c()).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(130));
    let (report, finished) = (work.report("report"), finished());
    assert!((1..12).contains(&finished), "{finished} finished");
    assert_eq!(report["missing"].as_array().unwrap().len(), 12 - finished);
    assert!(work.path("report/report.html").exists());
}

#[test]
fn what_cannot_be_used_is_refused() {
    let work = Workplace::new();
    let refuse = |more: &[&str], parts: &[&str]| refuse(work.reproduce_arguments("refused", more), parts);
    refuse(&["--epochs", "0"], &["--epochs: is 0", "positive"]);
    refuse(&["--seeds", "0"], &["--seeds: is 0", "positive"]);
    refuse(&["--subset", "0"], &["--subset: is 0", "positive"]);
    refuse(&["--jobs", "0"], &["--jobs: is 0", "positive"]);
    refuse(&["--subset", "1000000"], &["--subset: is 1000000, the data has", "smaller"]);
    refuse(&["--subset", "12"], &["split: ", "at least 3 are needed", "raise --subset"]);
    refuse(&["--learning-rate", "0"], &["--learning-rate: is 0", "positive"]);
    let dataset = Dataset::open(&work.data).unwrap();
    let (images, file) = (dataset.image_count(), work.text("rows.npy"));
    write_npy(&work.path("rows.npy"), &vec![0.5; (images + 1) * 4], 4).unwrap();
    refuse(&["--images", "no/such/folder"], &["--images: no/such/folder is no folder", "give the folder"]);
    refuse(&["--seeds", "1000000000"], &["--seeds: is 1000000000; give at most 1000"]);
    refuse(&["--features", &file], &["rows.npy: shape", "one row per image"]);
    refuse(&["--caption-vectors", &file], &["rows.npy: shape", &format!("the data has {images} images")]);
    write_npy(&work.path("rows.npy"), &vec![0.8; images * 4], 4).unwrap();
    refuse(
        &["--caption-vectors", &file],
        &["rows.npy: row 0: has the norm 1.6", "divide each caption's vector"],
    );
    fs::create_dir(work.path("empty")).unwrap();
    let folder = work.text("empty");
    refuse(
        &["--budget", "0s", "--images", &folder],
        &["--images", "no photograph", "named by Visual Genome or COCO ids"],
    );
    scenerank().args(work.reproduce_arguments("refused", &["--budget", "soon"])).assert().code(2);
}

/// If the text of the paper is available beside the checkout, it contains each row of the tables.
#[test]
fn the_papers_numbers_are_the_papers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/paper.txt");
    let Ok(text) = fs::read_to_string(path) else {
        println!("skipped: ../shared/paper.txt is not there");
        return;
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = |name: &str, numbers: &[f64]| {
        numbers.iter().fold(name.to_owned(), |line, number| format!("{line} {number:.3}"))
    };
    let paper = Paper::get();
    // The text lists the rows of a table one after another, in the order of the losses.
    let name = |sampling| match sampling {
        Sampling::Random => "Random",
        Sampling::Extreme => "Extreme",
        Sampling::Probability => "Probability",
        Sampling::Reject => "Reject",
    };
    let table = |numbers: &dyn Fn(LossKind, Sampling) -> Vec<f64>| {
        let rows = LOSSES
            .iter()
            .flat_map(|&loss| STRATEGIES.map(|sampling| words(name(sampling), &numbers(loss, sampling))));
        rows.collect::<Vec<_>>().join(" ")
    };
    let features = &paper.table_2_features;
    for rows in [
        table(&|loss, sampling| paper.agreement(loss, sampling).to_vec()),
        table(&|loss, sampling| paper.retrieval(loss, sampling).to_vec()),
        words("Normal Features", &features.normal),
        words("Classification Features", &features.classification),
        format!("99th percentile occurring at {}", paper.figure_2.difference_99th_percentile),
    ] {
        assert!(text.contains(&rows), "{rows}");
    }
}
