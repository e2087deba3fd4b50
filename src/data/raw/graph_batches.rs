//! Graphs by name in the record batches of an Arrow stream or file, a graph per row.
//!
//! | column | type |
//! | --- | --- |
//! | `image_id` | an integer |
//! | `objects` | list of names |
//! | `relationships` | list of structs `subject`, `predicate`, `object` |
//! | or `subject`, `predicate`, `object` | three lists of one length |
//!
//! A subject or object is the position of an object, from 0, or its name. Other columns are not read.

use std::fmt::Write;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, LargeListArray, LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray,
    StructArray, downcast_integer_array,
};
use arrow_schema::{DataType, Field, Schema};

use super::arrow_stream::ArrowBatches;
use super::raw_box::RawBox;
use super::raw_file::RawFile;
use super::raw_graphs::{RawGraphs, RawObject, RawRelationship, normalised};
use crate::Result;
use crate::terminal::excerpt;

const IMAGE_ID: &str = "image_id";
const OBJECTS: &str = "objects";
const RELATIONSHIPS: &str = "relationships";
/// Columns, or fields of the structs in `relationships`.
const PARTS: [&str; 3] = ["subject", "predicate", "object"];

/// Position of an object that is absent.
const ABSENT: u64 = u64::MAX;

/// What is wrong in a row, and the remedy.
struct Problem(String, &'static str);

type OfRow<T> = std::result::Result<T, Problem>;

/// Reads the rows of all batches and calls `each` after every one. Memory is that of a batch, so images may have the same id.
pub(in crate::data) fn read(
    file: RawFile,
    skip_absent_objects: bool,
    mut each: impl FnMut(&mut RawGraphs) -> Result<()>,
) -> Result<RawGraphs> {
    let mut batches = ArrowBatches::open(file)?;
    let path = batches.path().to_path_buf();
    let wanted = columns(batches.schema())
        .map_err(|(column, Problem(problem, remedy))| batches.error(&column, &problem, remedy))?;
    let mut graphs = RawGraphs::default();
    while let Some(batch) = batches.next(&wanted)? {
        let columns = Columns::of(&batch);
        for row in 0..batch.num_rows() {
            let Row { image_id, objects, relationships } =
                columns.row(row, skip_absent_objects).map_err(|Problem(problem, remedy)| {
                    let place = format!("batch {}, row {}", batches.number(), row + 1);
                    batches.error(&place, &problem, remedy)
                })?;
            let objects = (0..).zip(objects).map(|(id, name)| RawObject { id, name, place: RawBox::NONE });
            let (image, local) = graphs.add_image(&path, image_id, None, objects)?;
            graphs.set_relationships(&path, image, &local, relationships, skip_absent_objects)?;
            each(&mut graphs)?;
            graphs.forget_ids();
        }
    }
    Ok(graphs)
}

/// Numbers of the columns that are read: `image_id`, `objects`, and one or three of relationships.
fn columns(schema: &Schema) -> std::result::Result<Vec<usize>, (String, Problem)> {
    let wrong = |name: &str, problem: String, remedy| (format!("column `{name}`"), Problem(problem, remedy));
    let find = |name: &str| -> std::result::Result<Option<usize>, _> {
        let mut found = (0..schema.fields().len()).filter(|&at| schema.field(at).name() == name);
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(wrong(name, "there are two of them".into(), "remove one of the two")),
            (found, None) => Ok(found),
        }
    };
    let missing = |name: &str, remedy| {
        let names: Vec<String> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
        wrong(name, format!("it is missing; there are {}", excerpt(&names.join(", "))), remedy)
    };
    let check = |at: usize, is_right: fn(&DataType) -> bool, expected: &str, remedy| {
        let field = schema.field(at);
        match is_right(field.data_type()) {
            true => Ok(at),
            false => {
                // Spelled out, a type may be as long as the schema.
                let mut spelled = String::new();
                let _ = write!(spelled, "{}", field.data_type());
                let problem = format!("it is {}, not {expected}", excerpt(&spelled));
                Err(wrong(field.name(), problem, remedy))
            }
        }
    };
    const TO_NAMES: &str =
        "cast it to list<string>, with names in utf8, large_utf8, utf8_view or a dictionary";
    let image_id = find(IMAGE_ID)?.ok_or_else(|| missing(IMAGE_ID, "name the column of ids so"))?;
    check(image_id, DataType::is_integer, "an integer", "cast it to uint64")?;
    let objects =
        find(OBJECTS)?.ok_or_else(|| missing(OBJECTS, "name the column of the objects' names so"))?;
    check(objects, |of| item(of).is_some_and(is_text), "a list of names", TO_NAMES)?;
    let whole = find(RELATIONSHIPS)?;
    let [subject, predicate, object] = PARTS.map(find);
    let parts = [subject?, predicate?, object?];
    let relationships = match (whole, parts) {
        (Some(_), [Some(_), Some(_), Some(_)]) => {
            let problem = "there are columns `subject`, `predicate` and `object` too".to_string();
            return Err(wrong(RELATIONSHIPS, problem, "leave out one of the two forms"));
        }
        (Some(whole), _) => {
            let expected = "a list of structs of subject, predicate, object";
            let remedy = "give integers or names as subject and object, and names as predicate";
            check(whole, |of| item(of).is_some_and(is_relationship), expected, remedy)?;
            vec![whole]
        }
        (None, [Some(subject), Some(predicate), Some(object)]) => {
            for end in [subject, object] {
                let expected = "a list of integers or names";
                check(end, |of| item(of).is_some_and(is_end), expected, "give positions from 0, or names")?;
            }
            check(predicate, |of| item(of).is_some_and(is_text), "a list of names", TO_NAMES)?;
            vec![subject, predicate, object]
        }
        _ => {
            let remedy = "add it, or `subject`, `predicate` and `object`; a graph may have empty lists";
            return Err(missing(RELATIONSHIPS, remedy));
        }
    };
    Ok([image_id, objects].into_iter().chain(relationships).collect())
}

/// Type of the values of a list.
fn item(list: &DataType) -> Option<&DataType> {
    match list {
        DataType::List(item) | DataType::LargeList(item) => Some(item.data_type()),
        _ => None,
    }
}

fn is_text(of: &DataType) -> bool {
    let is_plain = |of: &DataType| matches!(of, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match of {
        DataType::Dictionary(_, values) => is_plain(values),
        of => is_plain(of),
    }
}

fn is_end(of: &DataType) -> bool {
    of.is_integer() || is_text(of)
}

fn is_relationship(of: &DataType) -> bool {
    let DataType::Struct(fields) = of else { return false };
    let has = |name: &str, is_right: fn(&DataType) -> bool| {
        let mut named = fields.iter().map(AsRef::<Field>::as_ref).filter(|field| field.name() == name);
        named.next().is_some_and(|field| is_right(field.data_type())) && named.next().is_none()
    };
    has(PARTS[0], is_end) && has(PARTS[1], is_text) && has(PARTS[2], is_end)
}

/// A row.
struct Row {
    image_id: u64,
    /// Names.
    objects: Vec<String>,
    relationships: Vec<RawRelationship<u64>>,
}

/// The columns of a batch.
struct Columns<'a> {
    image_id: Integers<'a>,
    objects: List<'a>,
    names: Texts<'a>,
    /// Lists of the subjects, predicates and objects; one and the same where they are structs.
    lists: [List<'a>; 3],
    /// The structs, of which none may be null.
    structs: Option<&'a StructArray>,
    subjects: Ends<'a>,
    predicates: Texts<'a>,
    related: Ends<'a>,
}

impl<'a> Columns<'a> {
    /// Columns whose types were checked by [`columns`], in that order.
    fn of(batch: &'a RecordBatch) -> Self {
        let (image_id, objects) = (Integers::of(batch.column(0)), List::of(batch.column(1)));
        let (lists, structs, parts) = match batch.num_columns() {
            3 => {
                let list = List::of(batch.column(2));
                let structs = list.values().as_struct();
                let part = |name| structs.column_by_name(name).expect("a field that was checked");
                ([list; 3], Some(structs), PARTS.map(part))
            }
            _ => {
                let lists = [2, 3, 4].map(|at| List::of(batch.column(at)));
                (lists, None, lists.map(List::values))
            }
        };
        Columns {
            image_id,
            objects,
            names: Texts::of(objects.values()),
            lists,
            structs,
            subjects: Ends::of(parts[0]),
            predicates: Texts::of(parts[1]),
            related: Ends::of(parts[2]),
        }
    }

    fn row(&self, row: usize, skip_absent_objects: bool) -> OfRow<Row> {
        let id = self.image_id.get(row).ok_or_else(|| null("`image_id`", "give every graph an id"))?;
        let image_id = u64::try_from(id)
            .map_err(|_| Problem(format!("`image_id` is {id}"), "give ids from 0 to 18446744073709551615"))?;
        let list = |list: List<'_>, name: &str| {
            list.range(row).ok_or_else(|| null(&format!("`{name}`"), "write an empty list"))
        };
        let objects = list(self.objects, OBJECTS)?;
        let objects: Vec<String> = (1..)
            .zip(objects)
            .map(|(number, at)| {
                let name = self.names.get(at).map(str::to_string);
                name.ok_or_else(|| null(&format!("the name of object {number}"), "leave the object out"))
            })
            .collect::<OfRow<_>>()?;
        let names = if self.structs.is_some() { [RELATIONSHIPS; 3] } else { PARTS };
        let [subjects, predicates, related] = [0, 1, 2].map(|part| list(self.lists[part], names[part]));
        let [subjects, predicates, related] = [subjects?, predicates?, related?];
        let counts = [&subjects, &predicates, &related].map(ExactSizeIterator::len);
        if counts.iter().any(|&count| count != counts[0]) {
            let [subjects, predicates, related] = counts;
            let problem =
                format!("{subjects} subjects, {predicates} predicates and {related} objects of them");
            return Err(Problem(problem, "write lists of one length"));
        }
        let keys: Vec<String> = match (&self.subjects, &self.related) {
            (Ends::Positions(_), Ends::Positions(_)) => Vec::new(),
            _ => objects.iter().map(|name| normalised(name)).collect(),
        };
        let mut relationships = Vec::with_capacity(counts[0]);
        for (number, ((subject, predicate), object)) in (1..).zip(subjects.zip(predicates).zip(related)) {
            let missing =
                |what: &str| null(&format!("relationship {number}{what}"), "leave the relationship out");
            if self.structs.is_some_and(|structs| structs.is_null(subject)) {
                return Err(missing(""));
            }
            let end = |what: &str, ends: &Ends<'_>, at| -> OfRow<u64> {
                let found =
                    ends.find(at, objects.len(), &keys).ok_or_else(|| missing(&format!(": its {what}")))?;
                match found {
                    Found::At(position) => Ok(position),
                    Found::Absent(_) if skip_absent_objects => Ok(ABSENT),
                    Found::Absent(given) => {
                        let problem = format!(
                            "relationship {number}: its {what}, object {given}, is not among the {} objects",
                            objects.len()
                        );
                        let remedy = "correct it, or drop such relationships with --skip-absent-objects";
                        Err(Problem(problem, remedy))
                    }
                    Found::Several(name) => {
                        let problem = format!("relationship {number}: several objects have the name {name}");
                        Err(Problem(problem, "give the positions of subject and object, from 0"))
                    }
                }
            };
            let (subject, object) =
                (end("subject", &self.subjects, subject)?, end("object", &self.related, object)?);
            let predicate =
                self.predicates.get(predicate).ok_or_else(|| missing(": its predicate"))?.to_string();
            relationships.push(RawRelationship { subject, predicate, object });
        }
        Ok(Row { image_id, objects, relationships })
    }
}

/// The problem of a null.
fn null(what: &str, remedy: &'static str) -> Problem {
    Problem(format!("{what} is null"), remedy)
}

/// A column of lists.
#[derive(Clone, Copy)]
enum List<'a> {
    Small(&'a ListArray),
    Large(&'a LargeListArray),
}

impl<'a> List<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        match array.as_list_opt() {
            Some(list) => List::Small(list),
            None => List::Large(array.as_list()),
        }
    }

    fn values(self) -> &'a ArrayRef {
        match self {
            List::Small(list) => list.values(),
            List::Large(list) => list.values(),
        }
    }

    /// Values of a row; `None` if it is null.
    fn range(self, row: usize) -> Option<Range<usize>> {
        match self {
            List::Small(list) => list
                .is_valid(row)
                .then(|| list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize),
            List::Large(list) => list
                .is_valid(row)
                .then(|| list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize),
        }
    }
}

/// A column of names.
enum Texts<'a> {
    Small(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
    /// The indices, their places in the dictionary, and the dictionary.
    Dictionary(&'a ArrayRef, Vec<usize>, Box<Texts<'a>>),
}

impl<'a> Texts<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        if let Some(dictionary) = array.as_any_dictionary_opt() {
            // An empty dictionary has nulls only.
            let places = match dictionary.values().is_empty() {
                true => Vec::new(),
                false => dictionary.normalized_keys(),
            };
            return Texts::Dictionary(array, places, Box::new(Texts::of(dictionary.values())));
        }
        match array.data_type() {
            DataType::Utf8 => Texts::Small(array.as_string()),
            DataType::LargeUtf8 => Texts::Large(array.as_string()),
            _ => Texts::View(array.as_string_view()),
        }
    }

    /// `None` if it is null.
    fn get(&self, at: usize) -> Option<&str> {
        match self {
            Texts::Small(texts) => texts.is_valid(at).then(|| texts.value(at)),
            Texts::Large(texts) => texts.is_valid(at).then(|| texts.value(at)),
            Texts::View(texts) => texts.is_valid(at).then(|| texts.value(at)),
            Texts::Dictionary(indices, places, values) => {
                indices.is_valid(at).then(|| places.get(at)).flatten().and_then(|&place| values.get(place))
            }
        }
    }
}

/// A column of integers.
struct Integers<'a>(Box<dyn Fn(usize) -> Option<i128> + 'a>);

impl<'a> Integers<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        downcast_integer_array!(
            array => Integers(Box::new(move |at| array.is_valid(at).then(|| i128::from(array.value(at))))),
            other => unreachable!("{other} was checked to be an integer")
        )
    }

    /// `None` if it is null.
    fn get(&self, at: usize) -> Option<i128> {
        self.0(at)
    }
}

/// Subjects or objects of relationships.
enum Ends<'a> {
    Positions(Integers<'a>),
    Names(Texts<'a>),
}

/// What an end refers to.
enum Found {
    At(u64),
    /// No object; the end as it is given.
    Absent(String),
    /// Several objects of this name.
    Several(String),
}

impl<'a> Ends<'a> {
    fn of(array: &'a ArrayRef) -> Self {
        match array.data_type().is_integer() {
            true => Ends::Positions(Integers::of(array)),
            false => Ends::Names(Texts::of(array)),
        }
    }

    /// Finds the object of an end among `count` objects, whose normalised names are `keys`; `None` if the end is null.
    fn find(&self, at: usize, count: usize, keys: &[String]) -> Option<Found> {
        match self {
            Ends::Positions(positions) => {
                let position = positions.get(at)?;
                let found = u64::try_from(position).ok().filter(|&position| position < count as u64);
                Some(found.map_or_else(|| Found::Absent(position.to_string()), Found::At))
            }
            Ends::Names(names) => {
                let name = names.get(at)?;
                let key = normalised(name);
                let mut found = (0..).zip(keys).filter(|(_, other)| **other == key);
                let quoted = || format!("\"{}\"", excerpt(name));
                Some(match (found.next(), found.next()) {
                    (None, _) => Found::Absent(quoted()),
                    (Some((position, _)), None) => Found::At(position),
                    (Some(_), Some(_)) => Found::Several(quoted()),
                })
            }
        }
    }
}
