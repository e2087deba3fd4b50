//! Products of a warpgroup: known answers in all orders of the operands, and planted defects.

use std::fmt::Write as _;
use std::sync::Arc;

use scenerank_ptx::device::{Interpreter, Request, parse_kernels};
use scenerank_ptx::machine::Options;

/// Inner steps of the matrices: two instructions of 16.
const INNER: usize = 32;
/// Bytes of an image of a or b in shared memory. Each has room for 128 rows.
const IMAGE: usize = 16_384;

/// What a kernel does with its operands.
#[derive(Clone, Copy)]
struct Form {
    columns: usize,
    a_in_registers: bool,
    a_transposed: bool,
    b_transposed: bool,
}

/// bf16 bits of small whole numbers, whose products and sums are exact.
fn value(row: usize, inner: usize, salt: usize) -> u16 {
    let value = ((row * 7 + inner * 5 + row * inner / 3 + salt) % 13) as f32 - 6.0;
    (value.to_bits() >> 16) as u16
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Offset in an image of 16 bytes' worth of values and the value in it, by CuTe's `Sw<3,4,3>` on the canonical layouts.
fn place(outer: usize, inner: usize, transposed: bool) -> usize {
    let (line, at) = if transposed { (inner, outer) } else { (outer, inner) };
    // Panels of 64 values side by side; panels of outer rows lie 8,192 bytes apart.
    line * 128 + at / 64 * 8192 + ((at % 64 / 8) ^ (line % 8)) * 16 + at % 8 * 2
}

fn image(rows: usize, transposed: bool, salt: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; IMAGE];
    for outer in 0..rows {
        for inner in 0..INNER {
            let at = place(outer, inner, transposed);
            bytes[at..at + 2].copy_from_slice(&value(outer, inner, salt).to_le_bytes());
        }
    }
    bytes
}

/// Fragments of a: by instruction, thread and register.
fn fragments() -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in 0..INNER / 16 {
        for thread in 0..128 {
            let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
            for (row, inner) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
                for next in 0..2 {
                    let value = value(warp * 16 + g + row, step * 16 + t * 2 + inner + next, 3);
                    bytes.extend(value.to_le_bytes());
                }
            }
        }
    }
    bytes
}

/// Names `%f0, %f1, ...`.
fn names(prefix: &str, range: std::ops::Range<usize>) -> String {
    range.map(|i| format!("{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

/// Copies both images to shared memory, multiplies, and stores the sums of each thread.
fn kernel(form: Form) -> String {
    let Form { columns, a_in_registers, a_transposed, b_transposed } = form;
    let sums = columns / 2;
    // Steps of 16: within a row of 64 inner steps, or 16 lines further.
    let advance = |transposed: bool| if transposed { 2048 / 16 } else { 32 / 16 };
    // Swizzle of 128 bytes; 8 rows or lines lie 1,024 bytes from the next, panels of 64 rows 8,192 bytes.
    let bits = |transposed: bool| {
        let leading = if transposed { 8192 / 16 } else { 1 };
        1u64 << 62 | (1024u64 / 16) << 32 | leading << 16
    };
    let mut text = String::from(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry product(\n\t.param .u64 p0,\n\t.param .u64 \
         p1,\n\t.param .u64 p2\n)\n.maxntid 128, 1, 1\n{\n",
    );
    let _ = write!(
        text,
        ".reg .pred %p<4>;\n.reg .b32 %r<40>;\n.reg .f32 %f<{sums}>;\n.reg .b64 %rd<20>;\n.shared .align 1024 .b8 \
         tile[{}];\ngriddepcontrol.wait;\nld.param.u64 %rd1, [p0];\nld.param.u64 %rd2, [p1];\nld.param.u64 %rd3, \
         [p2];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, tile;\nshl.b32 %r3, %r1, 4;\nadd.s32 %r4, %r2, %r3;\ncvt.u64.u32 \
         %rd4, %r3;\nadd.s64 %rd1, %rd1, %rd4;\nadd.s64 %rd2, %rd2, %rd4;\n",
        2 * IMAGE
    );
    for at in (0..2 * IMAGE).step_by(2048) {
        let _ = write!(
            text,
            "ld.global.v4.u32 {{%r10, %r11, %r12, %r13}}, [%rd1+{at}];\nst.shared.v4.u32 [%r4+{at}], {{%r10, %r11, \
             %r12, %r13}};\n"
        );
    }
    text += "fence.proxy.async.shared::cta;\nbar.sync 0;\n";
    for step in 0..INNER / 16 {
        let (first, at) = (20 + 4 * step, 2048 * step);
        let _ = writeln!(text, "ld.global.v4.u32 {{{}}}, [%rd2+{at}];", names("%r", first..first + 4));
    }
    for i in 0..sums {
        let _ = writeln!(text, "mov.f32 %f{i}, 0f3F800000;");
    }
    let _ = write!(
        text,
        "cvt.u64.u32 %rd5, %r2;\nshr.u64 %rd5, %rd5, 4;\nadd.s64 %rd6, %rd5, {};\nmov.b64 %rd7, {};\nor.b64 %rd5, \
         %rd5, %rd7;\nmov.b64 %rd7, {};\nor.b64 %rd6, %rd6, %rd7;\nsetp.ne.s32 %p1, %r1, 5000;\nwgmma.fence.sync.aligned;\n",
        IMAGE / 16,
        bits(a_transposed),
        bits(b_transposed)
    );
    for step in 0..INNER / 16 {
        let a = if a_in_registers {
            format!("{{{}}}", names("%r", 20 + 4 * step..24 + 4 * step))
        } else {
            "%rd5".into()
        };
        let orders = match a_in_registers {
            true => format!("{}", u8::from(b_transposed)),
            false => format!("{}, {}", u8::from(a_transposed), u8::from(b_transposed)),
        };
        let _ = write!(
            text,
            "wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.bf16.bf16 {{{}}}, {a}, %rd6, %p1, 1, 1, {orders};\nadd.s64 \
             %rd5, %rd5, {};\nadd.s64 %rd6, %rd6, {};\n",
            names("%f", 0..sums),
            advance(a_transposed),
            advance(b_transposed)
        );
    }
    let _ = write!(
        text,
        "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\nmul.wide.u32 %rd8, %r1, {};\nadd.s64 \
         %rd9, %rd3, %rd8;\n",
        4 * sums
    );
    for i in 0..sums {
        let _ = writeln!(text, "st.global.f32 [%rd9+{}], %f{i};", 4 * i);
    }
    text + "ret;\n}\n"
}

/// Runs a kernel. Returns d `[64, columns]`.
fn run(text: &str, form: Form) -> Result<Vec<f32>, String> {
    let mut interpreter =
        Interpreter::new(Arc::new(parse_kernels([text]).unwrap()), Options::default(), None);
    let images = [image(64, form.a_transposed, 3), image(form.columns, form.b_transposed, 0)].concat();
    let fragments = fragments();
    let mut sums = vec![0f32; 64 * form.columns];
    let pointers = [images.as_ptr() as u64, fragments.as_ptr() as u64, sums.as_mut_ptr() as u64];
    for (pointer, bytes) in pointers.into_iter().zip([images.len(), fragments.len(), 4 * sums.len()]) {
        interpreter.allocated(pointer, bytes as u64);
    }
    interpreter.written(pointers[0], images.len() as u64);
    interpreter.written(pointers[1], fragments.len() as u64);
    let arguments: Vec<u8> = pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
    let request = Request {
        kernel: "product",
        grid: [1; 3],
        block: [128, 1, 1],
        dynamic_shared_bytes: 0,
        arguments: &arguments,
        pointers: &pointers,
        on_branch: false,
    };
    // SAFETY: the arrays are the interpreter's memory, and live.
    unsafe { interpreter.launch(&request) }?;
    let each = form.columns / 2;
    let of = |row: usize, column: usize| {
        let (warp, row, pair) = (row / 16, row % 16, column % 8);
        let thread = warp * 32 + row % 8 * 4 + pair / 2;
        sums[thread * each + column / 8 * 4 + row / 8 * 2 + pair % 2]
    };
    Ok((0..64 * form.columns).map(|i| of(i / form.columns, i % form.columns)).collect())
}

/// a b^T + 1.
fn wanted(columns: usize) -> Vec<f32> {
    let sum = |row: usize, column: usize| {
        (0..INNER).fold(1.0, |sum, k| sum + widen(value(row, k, 3)) * widen(value(column, k, 0)))
    };
    (0..64 * columns).map(|i| sum(i / columns, i % columns)).collect()
}

const FROM_REGISTERS: Form =
    Form { columns: 24, a_in_registers: true, a_transposed: false, b_transposed: false };

#[test]
fn orders_of_operands() {
    for (columns, a_in_registers, a_transposed, b_transposed) in [
        (24, true, false, false),
        (128, true, false, true),
        (24, false, false, false),
        (72, false, true, false),
        (128, false, true, true),
    ] {
        let form = Form { columns, a_in_registers, a_transposed, b_transposed };
        assert_eq!(run(&kernel(form), form).unwrap(), wanted(columns), "{columns} columns");
    }
}

#[test]
fn defects_of_products_are_found() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    let in_flight = "access to a register of a product in flight";
    for (from, to, what) in [
        // The result is read before its group is waited for.
        (wait, "wgmma.wait_group.sync.aligned 1;", in_flight),
        (wait, "", "return with products in flight"),
        ("wgmma.commit_group.sync.aligned;\n", "", in_flight),
        // A fragment of a is overwritten while it is read.
        (wait, "mov.u32 %r20, 0;\nwgmma.wait_group.sync.aligned 0;", in_flight),
        ("wgmma.fence.sync.aligned;\n", "", "registers of a product without wgmma.fence"),
        (
            "wgmma.fence.sync.aligned;\n",
            "wgmma.fence.sync.aligned;\nmov.f32 %f3, 0f3F800000;\n",
            "without wgmma.fence",
        ),
        ("fence.proxy.async.shared::cta;\n", "", "what no fence.proxy.async follows"),
        (
            "fence.proxy.async.shared::cta;\nbar.sync 0;\n",
            "fence.proxy.async.shared::cta;\n",
            "read after write",
        ),
        // Memory is written while it is read.
        (
            wait,
            "st.shared.u32 [%r2+16384], %r1;\nwgmma.wait_group.sync.aligned 0;",
            "factor of a product in flight",
        ),
        // One warp leaves out a product.
        (
            "wgmma.commit_group",
            "setp.lt.u32 %p2, %r1, 32;\n@%p2 wgmma.fence.sync.aligned;\nwgmma.commit_group",
            "different",
        ),
        (
            "wgmma.fence.sync.aligned;\n",
            "wgmma.fence.sync.aligned;\nadd.s64 %rd6, %rd6, 8;\n",
            "matrix descriptor",
        ),
        (
            "wgmma.fence.sync.aligned;\n",
            "wgmma.fence.sync.aligned;\nadd.s64 %rd6, %rd6, 1024;\n",
            "out of bounds",
        ),
    ] {
        let text = kernel(FROM_REGISTERS);
        assert!(text.contains(from), "{from}");
        let error = run(&text.replacen(from, to, 1), FROM_REGISTERS).expect_err(what);
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn registers_change_hands() {
    let text = kernel(FROM_REGISTERS);
    // 128 threads are launched with at most 248 registers each.
    let with = |lines: &str| {
        run(&text.replacen("bar.sync 0;\n", &format!("bar.sync 0;\n{lines}"), 1), FROM_REGISTERS)
    };
    let (dec, inc) = ("setmaxnreg.dec.sync.aligned.u32", "setmaxnreg.inc.sync.aligned.u32");
    assert_eq!(with(&format!("{dec} 40;\n{inc} 232;\n")).unwrap(), wanted(24));
    for (lines, what) in [
        (format!("{inc} 40;\n"), "wrong direction"),
        (format!("{dec} 256;\n"), "wrong direction"),
        // More than the block was launched with, although the multiprocessor has them.
        (format!("{inc} 256;\n"), "deadlock"),
        (format!("setp.lt.u32 %p2, %r1, 32;\n@%p2 {dec} 40;\n"), "different products"),
    ] {
        let error = with(&lines).expect_err(what);
        assert!(error.contains(what), "{what}: {error}");
    }
}

#[test]
fn wrong_layouts_give_wrong_results() {
    let text = kernel(FROM_REGISTERS);
    // The descriptor of kernels that have run on GPUs: swizzle 1, stride 1,024 bytes, leading offset unused.
    let bits =
        |stride: u64| format!("mov.b64 %rd7, {};\nor.b64 %rd6", 0x4000_0000_0001_0000 | (stride / 16) << 32);
    assert!(text.contains(&bits(1024)));
    let strided = text.replace(&bits(1024), &bits(2048));
    assert_ne!(run(&strided, FROM_REGISTERS).unwrap(), wanted(24), "a stride of 2,048 bytes");
    // Rows whose pieces of 16 bytes are not swizzled: row 1 and its like move.
    let plain = text.replace("shl.b32 %r3, %r1, 4;", "xor.b32 %r3, %r1, 1;\nshl.b32 %r3, %r3, 4;");
    let plain = plain.replace("cvt.u64.u32 %rd4, %r3;", "mul.wide.u32 %rd4, %r1, 16;");
    assert_ne!(run(&plain, FROM_REGISTERS).unwrap(), wanted(24), "another swizzle");
    let transposed = text.replace("%p1, 1, 1, 0;", "%p1, 1, 1, 1;");
    assert!(run(&transposed, FROM_REGISTERS).is_err_and(|error| error.contains("matrix descriptor")));
}

/// Four steps through two stages: warps 4 to 7 write each step's stage, warps 0 to 3 add it up and store the sums.
const PIPELINE: &str = r#".version 9.0
.target sm_90a
.address_size 64
.visible .entry pipeline(
	.param .u64 p0
)
.maxntid 256, 1, 1
{
	.reg .pred %p<4>;
	.reg .b32 %r<30>;
	.reg .b64 %rd<9>;
	.shared .align 8 .b8 barriers[32];
	.shared .align 16 .b8 stages[1024];
	griddepcontrol.wait;
	ld.param.u64 %rd1, [p0];
	mov.u32 %r1, %tid.x;
	mov.u32 %r2, barriers;
	mov.u32 %r3, stages;
	setp.ne.s32 %p1, %r1, 0;
	@%p1 bra $made;
	mbarrier.init.shared::cta.b64 [%r2], 128;
	mbarrier.init.shared::cta.b64 [%r2+8], 128;
	mbarrier.init.shared::cta.b64 [%r2+16], 4;
	mbarrier.init.shared::cta.b64 [%r2+24], 4;
$made:
	bar.sync 0;
	mov.u32 %r4, 0;
	mov.u32 %r5, 0;
	and.b32 %r6, %r1, 127;
	shl.b32 %r6, %r6, 2;
	add.s32 %r6, %r6, %r3;
	setp.lt.u32 %p1, %r1, 128;
	@%p1 bra $read;
$write:
	and.b32 %r7, %r4, 1;
	shr.u32 %r8, %r4, 1;
	xor.b32 %r8, %r8, 1;
	shl.b32 %r9, %r7, 3;
	add.s32 %r9, %r9, %r2;
$full:
	{
	.reg .pred done;
	mbarrier.try_wait.parity.shared::cta.b64 done, [%r9+16], %r8;
	selp.b32 %r10, 1, 0, done;
	}
	setp.eq.s32 %p2, %r10, 0;
	@%p2 bra $full;
	shl.b32 %r11, %r7, 9;
	add.s32 %r11, %r11, %r6;
	add.s32 %r12, %r1, %r4;
	st.shared.u32 [%r11], %r12;
	mbarrier.arrive.shared::cta.b64 _, [%r9];
	add.s32 %r4, %r4, 1;
	setp.lt.u32 %p3, %r4, 4;
	@%p3 bra $write;
	bra $end;
$read:
	and.b32 %r7, %r4, 1;
	shr.u32 %r8, %r4, 1;
	shl.b32 %r9, %r7, 3;
	add.s32 %r9, %r9, %r2;
$empty:
	{
	.reg .pred done;
	mbarrier.try_wait.parity.shared::cta.b64 done, [%r9], %r8;
	selp.b32 %r10, 1, 0, done;
	}
	setp.eq.s32 %p2, %r10, 0;
	@%p2 bra $empty;
	shl.b32 %r11, %r7, 9;
	add.s32 %r11, %r11, %r6;
	ld.shared.u32 %r12, [%r11];
	add.s32 %r5, %r5, %r12;
	bar.warp.sync -1;
	and.b32 %r13, %r1, 31;
	setp.ne.s32 %p2, %r13, 0;
	@%p2 bra $left;
	mbarrier.arrive.shared::cta.b64 _, [%r9+16];
$left:
	add.s32 %r4, %r4, 1;
	setp.lt.u32 %p3, %r4, 4;
	@%p3 bra $read;
	mul.wide.u32 %rd2, %r1, 4;
	add.s64 %rd3, %rd1, %rd2;
	st.global.u32 [%rd3], %r5;
$end:
	ret;
}
"#;

fn run_pipeline(text: &str, seed: u64) -> Result<Vec<u32>, String> {
    let options = Options { seed, ..Options::default() };
    let mut interpreter = Interpreter::new(Arc::new(parse_kernels([text]).unwrap()), options, None);
    let mut sums = vec![0u32; 128];
    let pointer = sums.as_mut_ptr() as u64;
    interpreter.allocated(pointer, 512);
    let request = Request {
        kernel: "pipeline",
        grid: [1; 3],
        block: [256, 1, 1],
        dynamic_shared_bytes: 0,
        arguments: &pointer.to_le_bytes(),
        pointers: &[pointer],
        on_branch: false,
    };
    // SAFETY: the array is the interpreter's memory, and lives.
    unsafe { interpreter.launch(&request) }?;
    Ok(sums)
}

#[test]
fn phases_of_barriers() {
    let wanted: Vec<u32> = (0..128).map(|i| 4 * (128 + i) + 6).collect();
    for seed in 0..20 {
        assert_eq!(run_pipeline(PIPELINE, seed).unwrap(), wanted, "seed {seed}");
    }
    let full = "shr.u32 %r8, %r4, 1;\n\tshl.b32 %r9, %r7, 3;\n\tadd.s32 %r9, %r9, %r2;\n$empty";
    let turned = full.replace("\n\tshl", "\n\txor.b32 %r8, %r8, 1;\n\tshl");
    for (from, to, what) in [
        // The phase before, which has ended at the start.
        (full, turned.as_str(), "uninitialised shared read"),
        ("xor.b32 %r8, %r8, 1;\n", "", "deadlock"),
        ("[%r2], 128", "[%r2], 129", "deadlock"),
        ("[%r2], 128", "[%r2], 127", "race in shared memory"),
        ("[%r2+16], 4", "[%r2+16], 3", "write after read"),
        // Lanes that have read are not ordered before the lane that arrives.
        ("bar.warp.sync -1;\n", "", "write after read"),
        ("$made:\n\tbar.sync 0;\n", "$made:\n", "barrier"),
        (
            "mbarrier.arrive.shared::cta.b64 _, [%r9];\n",
            "st.shared.u32 [%r9], %r4;\n",
            "plain access to a barrier",
        ),
    ] {
        let text = PIPELINE.replacen(from, to, 1);
        assert_ne!(text, PIPELINE, "{from}");
        let found = (0..4).filter_map(|seed| run_pipeline(&text, seed).err()).collect::<String>();
        assert!(found.contains(what), "{what}: {found}");
    }
}
