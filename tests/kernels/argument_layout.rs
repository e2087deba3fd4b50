//! The argument struct of every kernel is the same in Rust and in CUDA. A C++ compiler reads each kernel file with the
//! emulator's header. Static assertions check the size of each struct, and the offset, size and type of each field,
//! including the constness of pointers. They also check that each kernel takes that struct.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use scenerank::backend::cuda::device::kernel::{ArgumentsLayout, Field, FieldKind, KernelFile};
use scenerank::backend::cuda::launchers::FILES;

use crate::compiler::compiler;

/// Collects a struct and the structs within it.
fn add_structs(structs: &mut BTreeMap<String, ArgumentsLayout>, layout: &ArgumentsLayout) {
    for field in layout.fields {
        let mut kind = &field.kind;
        while let FieldKind::Array { of, .. } = kind {
            kind = of;
        }
        if let FieldKind::Arguments(layout) = kind {
            add_structs(structs, layout);
        }
    }
    structs.insert(layout.type_name(), *layout);
}

/// Assertions about a struct, each with a message that names the difference.
fn struct_assertions(index: usize, layout: &ArgumentsLayout) -> String {
    let (name, alias) = (layout.type_name(), format!("Struct{index}"));
    let mut text = format!(
        "using {alias} = {name};\nstatic_assert(sizeof({alias}) == {}, \"{name}: size\");\n",
        layout.size
    );
    for Field { name: field, offset, size, kind } in layout.fields {
        let _ = write!(
            text,
            "static_assert(offsetof({alias}, {field}) == {offset}, \"{name}::{field}: offset\");\n\
             static_assert(sizeof({alias}::{field}) == {size}, \"{name}::{field}: size\");\n\
             static_assert(std::is_same<decltype({alias}::{field}), {kind}>::value, \"{name}::{field}: type\");\n"
        );
    }
    text
}

/// C++ source that compiles only if the structs of the kernel file equal those of Rust.
fn assertions(file: &KernelFile) -> String {
    let mut text = format!("#include <cstddef>\n#include <type_traits>\n#include \"{}.cu\"\n", file.name);
    let mut structs = BTreeMap::new();
    for kernel in file.kernels {
        let layout = &kernel.arguments;
        add_structs(&mut structs, layout);
        let (name, arguments) = (kernel.name, layout.type_name());
        let _ = writeln!(
            text,
            "static_assert(std::is_same<decltype(&{name}), void (*)({arguments})>::value, \"{name}: parameter\");"
        );
    }
    for (index, layout) in structs.values().enumerate() {
        text.push_str(&struct_assertions(index, layout));
    }
    text
}

/// Error messages of the compiler for this source; empty if it compiles.
fn compile(text: &str) -> Result<(), String> {
    let mut child = compiler()
        .expect("the compiler that has just run")
        .args(["-std=c++17", "-fsyntax-only", "-Wno-invalid-offsetof", "-I"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels"))
        .args(["-x", "c++", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn argument_structs_are_the_same_in_rust_and_in_cuda() {
    if compiler().is_none() {
        return;
    }
    let texts: Vec<_> = FILES.iter().map(|file| (file.name, assertions(file))).collect();
    let (next, problems) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, text)) = texts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = compile(text) {
                        problems.lock().expect("no thread panics with it").push(format!("{name}: {error}"));
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().expect("no thread panicked");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Kernel file with a struct, and a layout that agrees with it.
const PLANTED: &str = "#include <cstddef>\n#include <type_traits>\nstruct Part { const float *mean; long long count; };\n\
                       struct Planted { float *to; const int *from; Part part; int rows, columns; };\n";
const PART: ArgumentsLayout = ArgumentsLayout {
    name: "Part",
    elements: &[],
    size: 16,
    fields: &[
        Field { name: "mean", offset: 0, size: 8, kind: FieldKind::Pointer("float") },
        Field { name: "count", offset: 8, size: 8, kind: FieldKind::Scalar("long long") },
    ],
};
const FIELDS: [Field; 5] = [
    Field { name: "to", offset: 0, size: 8, kind: FieldKind::PointerMut("float") },
    Field { name: "from", offset: 8, size: 8, kind: FieldKind::Pointer("int") },
    Field { name: "part", offset: 16, size: 16, kind: FieldKind::Arguments(&PART) },
    Field { name: "rows", offset: 32, size: 4, kind: FieldKind::Scalar("int") },
    Field { name: "columns", offset: 36, size: 4, kind: FieldKind::Scalar("int") },
];

/// Error messages of the compiler for a layout of `Planted` with these fields and this size.
fn planted(size: usize, fields: &[Field]) -> Result<(), String> {
    let fields: &'static [Field] = Box::leak(fields.to_vec().into_boxed_slice());
    let layout = ArgumentsLayout { name: "Planted", elements: &[], size, fields };
    let mut structs = BTreeMap::new();
    add_structs(&mut structs, &layout);
    let assertions: String =
        structs.values().enumerate().map(|(index, layout)| struct_assertions(index, layout)).collect();
    compile(&format!("{PLANTED}{assertions}"))
}

#[test]
fn a_struct_that_differs_is_found() {
    if compiler().is_none() {
        return;
    }
    planted(40, &FIELDS).expect("a layout that agrees");
    let with = |at: usize, field: Field| {
        let mut fields = FIELDS;
        fields[at] = field;
        fields
    };
    let swapped = [
        FIELDS[0],
        FIELDS[1],
        FIELDS[2],
        Field { name: "columns", ..FIELDS[3] },
        Field { name: "rows", ..FIELDS[4] },
    ];
    for (size, fields, expected) in [
        // A different size of the struct or of a field.
        (48, FIELDS, "Planted: size"),
        (40, with(4, Field { size: 8, ..FIELDS[4] }), "Planted::columns: size"),
        // A different offset or order.
        (40, with(4, Field { offset: 40, ..FIELDS[4] }), "Planted::columns: offset"),
        (40, swapped, "Planted::columns: offset"),
        // A different type: pointer, constness, number or struct.
        (40, with(0, Field { kind: FieldKind::PointerMut("int"), ..FIELDS[0] }), "Planted::to: type"),
        (40, with(1, Field { kind: FieldKind::PointerMut("int"), ..FIELDS[1] }), "Planted::from: type"),
        (40, with(3, Field { kind: FieldKind::Scalar("float"), ..FIELDS[3] }), "Planted::rows: type"),
        (40, with(2, Field { kind: FieldKind::Scalar("Planted"), ..FIELDS[2] }), "Planted::part: type"),
    ] {
        let error = planted(size, &fields).expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
