//! Small PTX with known answers and known defects.

use std::sync::Arc;

use scenerank_ptx::device::{Interpreter, Request, parse_kernels};
use scenerank_ptx::machine::Options;

const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

/// d [16, 8] = a [16, 16] b [16, 8] + (1, 2; 3, 4 in the lower half), by copies, `ldmatrix` and `mma`.
const PRODUCT: &str = r#".visible .entry mma_bf16(
	.param .u64 mma_bf16_param_0,
	.param .u64 mma_bf16_param_1,
	.param .u64 mma_bf16_param_2
)
{
	.reg .b32 	%r<20>;
	.reg .pred 	%p<4>;
	.reg .f32 	%f<8>;
	.reg .b64 	%rd<20>;
	.shared .align 16 .b8 tile[1024];
	griddepcontrol.wait;
	ld.param.u64 	%rd1, [mma_bf16_param_0];
	ld.param.u64 	%rd2, [mma_bf16_param_1];
	ld.param.u64 	%rd3, [mma_bf16_param_2];
	mov.u32 	%r1, %tid.x;
	mov.u32 	%r2, tile;
	// each lane copies 16 bytes of a [16][16] (512 bytes) and of b [16][8] (256 bytes)
	shl.b32 	%r3, %r1, 4;
	add.s32 	%r4, %r2, %r3;
	cvt.u64.u32 	%rd4, %r3;
	add.s64 	%rd5, %rd1, %rd4;
	mov.u32 	%r15, 16;
	cp.async.cg.shared.global [%r4], [%rd5], 16, %r15;
	and.b32 	%r5, %r1, 15;
	shl.b32 	%r5, %r5, 4;
	add.s32 	%r6, %r2, %r5;
	cvt.u64.u32 	%rd6, %r5;
	add.s64 	%rd7, %rd2, %rd6;
	add.s32 	%r6, %r6, 512;
	setp.lt.u32 	%p1, %r1, 16;
	@%p1 cp.async.cg.shared.global [%r6], [%rd7], 16, %r15;
	cp.async.commit_group;
	cp.async.wait_group 0;
	bar.sync 	0;
	// a: rows of 32 bytes; matrices: rows 0-7 k 0-7, rows 8-15 k 0-7, rows 0-7 k 8-15, rows 8-15 k 8-15
	and.b32 	%r7, %r1, 15;
	shl.b32 	%r7, %r7, 5;
	shr.u32 	%r8, %r1, 4;
	shl.b32 	%r8, %r8, 4;
	add.s32 	%r7, %r7, %r8;
	add.s32 	%r7, %r7, %r2;
	ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r7];
	// b: rows k of 16 bytes: matrices k 0-7 and k 8-15, transposed; the others again
	and.b32 	%r9, %r1, 15;
	shl.b32 	%r9, %r9, 4;
	add.s32 	%r9, %r9, %r2;
	ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r16, %r17, %r18, %r19}, [%r9+512];
	mov.f32 	%f0, 0f3F800000;
	mov.f32 	%f1, 0f40000000;
	mov.f32 	%f2, 0f40400000;
	mov.f32 	%f3, 0f40800000;
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r10, %r11, %r12, %r13}, {%r16, %r17}, {%f0, %f1, %f2, %f3};
	// d [16][8]
	shr.u32 	%r3, %r1, 2;
	shl.b32 	%r3, %r3, 5;
	and.b32 	%r4, %r1, 3;
	shl.b32 	%r4, %r4, 3;
	add.s32 	%r3, %r3, %r4;
	cvt.u64.u32 	%rd8, %r3;
	add.s64 	%rd9, %rd3, %rd8;
	st.global.v2.f32 	[%rd9], {%f0, %f1};
	st.global.v2.f32 	[%rd9+256], {%f2, %f3};
	ret;
}
"#;

/// Each thread reads what its neighbour wrote, without a barrier, and writes its neighbour's result.
const RACY: &str = r#".visible .entry racy(
	.param .u64 racy_param_0
)
{
	.reg .b32 	%r<20>;
	.reg .b64 	%rd<20>;
	.shared .align 4 .b8 tile[256];
	ld.param.u64 	%rd1, [racy_param_0];
	mov.u32 	%r1, %tid.x;
	mov.u32 	%r2, tile;
	shl.b32 	%r3, %r1, 2;
	add.s32 	%r4, %r2, %r3;
	st.shared.u32 	[%r4], %r1;
	xor.b32 	%r5, %r3, 4;
	add.s32 	%r6, %r2, %r5;
	ld.shared.u32 	%r7, [%r6];
	cvt.u64.u32 	%rd2, %r3;
	add.s64 	%rd3, %rd1, %rd2;
	st.global.u32 	[%rd3], %r7;
	st.global.u32 	[%rd3+4], %r7;
	ld.shared.u32 	%r8, [%r2+252];
	ret;
}
"#;

/// A sum of two values in a struct of parameters, read by register and as a pair.
const PARAMETERS: &str = r#"
.visible .entry parameters(
	.param .align 8 .b8 parameters_param_0[24]
)
.maxntid 32, 1, 1
{
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	griddepcontrol.wait;
	mov.b64 	%rd1, parameters_param_0;
	add.s64 	%rd2, %rd1, 8;
	ld.param.u64 	%rd3, [parameters_param_0];
	cvta.to.global.u64 	%rd4, %rd3;
	ld.param.v2.u32 	{%r1, %r2}, [parameters_param_0+8];
	ld.param.u32 	%r3, [%rd2+8];
	add.s32 	%r4, %r1, %r2;
	add.s32 	%r5, %r4, %r3;
	st.global.u32 	[%rd4], %r5;
	ret;
}
"#;

/// The last of two blocks reads what the other wrote.
const TICKET: &str = r#"
.visible .entry ticket(
	.param .u64 ticket_param_0,
	.param .u64 ticket_param_1
)
.maxntid 32, 1, 1
{
	.reg .pred 	%p<2>;
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	griddepcontrol.wait;
	ld.param.u64 	%rd1, [ticket_param_0];
	ld.param.u64 	%rd2, [ticket_param_1];
	mov.u32 	%r1, %tid.x;
	setp.ne.s32 	%p1, %r1, 0;
	@%p1 bra 	$L__end;
	mov.u32 	%r2, %ctaid.x;
	mul.wide.u32 	%rd3, %r2, 4;
	add.s64 	%rd4, %rd2, %rd3;
	st.global.u32 	[%rd4], %r2;
	atom.acq_rel.gpu.global.add.u32 	%r3, [%rd1], 1;
	setp.ne.s32 	%p1, %r3, 1;
	@%p1 bra 	$L__end;
	ld.global.cg.u32 	%r4, [%rd2];
	st.global.u32 	[%rd2+4], %r4;
$L__end:
	ret;
}
"#;

/// to = from + 1, where `from` is read before the wait.
const EARLY: &str = r#".visible .entry early(
	.param .u64 early_param_0,
	.param .u64 early_param_1
)
{
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	ld.param.u64 	%rd1, [early_param_0];
	ld.param.u64 	%rd2, [early_param_1];
	ld.global.cg.u32 	%r1, [%rd1];
	griddepcontrol.wait;
	griddepcontrol.launch_dependents;
	mov.u32 	%r3, %tid.x;
	mul.wide.u32 	%rd3, %r3, 4;
	add.s64 	%rd4, %rd2, %rd3;
	add.s32 	%r2, %r1, 1;
	st.global.u32 	[%rd4], %r2;
	ret;
}
"#;

fn interpreter(bodies: &[&str]) -> Interpreter {
    let texts: Vec<String> = bodies.iter().map(|body| format!("{HEAD}{body}")).collect();
    let kernels = parse_kernels(texts.iter().map(String::as_str)).unwrap();
    Interpreter::new(Arc::new(kernels), Options::default(), None)
}

/// Launches one block of 32 threads whose parameters are pointers.
fn launch(interpreter: &mut Interpreter, kernel: &str, pointers: &[u64]) -> Result<(), String> {
    launch_in(interpreter, kernel, pointers, false)
}

/// Launches in the main stream or on the branch.
fn launch_in(
    interpreter: &mut Interpreter,
    kernel: &str,
    pointers: &[u64],
    on_branch: bool,
) -> Result<(), String> {
    let arguments: Vec<u8> = pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
    let request = Request {
        kernel,
        grid: [1; 3],
        block: [32, 1, 1],
        dynamic_shared_bytes: 0,
        arguments: &arguments,
        pointers,
        on_branch,
    };
    // SAFETY: the callers' arrays are the interpreter's memory, and live.
    unsafe { interpreter.launch(&request) }
}

#[test]
fn products_of_fragments() {
    let mut interpreter = interpreter(&[PRODUCT]);
    // Small whole numbers are exact in bf16, and so are their sums in f32.
    let bf16 = |value: f32| (value.to_bits() >> 16) as u16;
    let a: Vec<u16> = (0..256).map(|i| bf16(((i * 7 + i / 16) % 13) as f32 - 6.0)).collect();
    let b: Vec<u16> = (0..128).map(|i| bf16(((i * 5 + i / 8) % 11) as f32 - 5.0)).collect();
    let mut d = vec![0f32; 128];
    let [from_a, from_b, to] = [a.as_ptr() as u64, b.as_ptr() as u64, d.as_mut_ptr() as u64];
    for (address, bytes) in [(from_a, 512), (from_b, 256), (to, 512)] {
        interpreter.allocated(address, bytes);
    }
    interpreter.written(from_a, 512);
    interpreter.written(from_b, 256);
    launch(&mut interpreter, "mma_bf16", &[from_a, from_b, to]).unwrap();
    let of = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for m in 0..16 {
        for n in 0..8 {
            let start = (n % 2 + m / 8 * 2 + 1) as f32;
            let wanted = (0..16).fold(start, |sum, k| sum + of(a[m * 16 + k]) * of(b[k * 8 + n]));
            assert_eq!(d[m * 8 + n], wanted, "row {m} column {n}");
        }
    }
}

#[test]
fn defects_are_found() {
    let mut out = vec![0u32; 32];
    let to = out.as_mut_ptr() as u64;
    let first_store = "\tst.shared.u32 \t[%r4], %r1;\n";
    let mut found = String::new();
    for body in [RACY.to_string(), RACY.replace(first_store, "")] {
        let mut interpreter = interpreter(&[&body]);
        interpreter.allocated(to, 128);
        found += &launch(&mut interpreter, "racy", &[to]).unwrap_err();
        let error = launch(&mut interpreter, "racy", &[to, to]).unwrap_err();
        assert!(error.contains("parameters of 8 bytes are declared, and 16 are given"), "{error}");
    }
    for what in [
        "race in shared memory: read after write",
        "race in global memory: two writes in a block",
        "uninitialised shared read",
        "out of bounds",
        "global access before griddepcontrol.wait",
        "return without griddepcontrol.wait",
    ] {
        assert!(found.contains(what), "{what}: {found}");
    }
}

/// Before its wait a kernel may read what no launch in flight writes: not the launch ahead, nor one of the branch before it
/// is joined.
#[test]
fn loads_before_the_wait_are_found_where_a_launch_in_flight_writes() {
    let mut memory = [[0u32; 32]; 4];
    let at = memory.each_mut().map(|buffer| buffer.as_mut_ptr() as u64);
    let new = |body: &str| {
        let mut interpreter = interpreter(&[body]);
        at.iter().for_each(|&address| interpreter.allocated(address, 128));
        interpreter.written(at[0], 128);
        interpreter
    };
    let refused = |outcome: Result<(), String>| {
        let error = outcome.unwrap_err();
        assert!(error.contains("before griddepcontrol.wait of what a launch in flight writes"), "{error}");
    };
    let mut device = new(EARLY);
    // What the host wrote, what the launch ahead wrote, and the same once another launch lies between.
    launch(&mut device, "early", &[at[0], at[1]]).unwrap();
    refused(launch(&mut device, "early", &[at[1], at[2]]));
    launch(&mut device, "early", &[at[1], at[2]]).unwrap();
    assert_eq!([memory[1], memory[2]], [[1; 32], [2; 32]]);
    // A launch of the branch may run until it is joined, beside any number of others.
    launch_in(&mut device, "early", &[at[0], at[3]], true).unwrap();
    for _ in 0..2 {
        refused(launch(&mut device, "early", &[at[3], at[1]]));
    }
    // On the branch, nothing that a launch has written may be read early.
    refused(launch_in(&mut device, "early", &[at[2], at[3]], true));
    device.branch_joined();
    launch(&mut device, "early", &[at[3], at[1]]).unwrap();
    // A load through the first-level cache, and a store.
    let through_l1 = EARLY.replace("ld.global.cg", "ld.global");
    let (wait, store) = ("\tgriddepcontrol.wait;\n", "\tst.global.u32 \t[%rd4], %r2;\n");
    let stored = EARLY.replace(wait, "").replace(store, &format!("{store}{wait}"));
    for body in [through_l1, stored] {
        let error = launch(&mut new(&body), "early", &[at[0], at[1]]).unwrap_err();
        assert!(error.contains("global access before griddepcontrol.wait"), "{error}");
    }
}

#[test]
fn blocks_are_ordered_by_atomics_and_fences() {
    let (fence, ordered, relaxed) = ("membar.gl;\n\t", "atom.acq_rel.", "atom.relaxed.");
    let with = |before: &str, atom: &str, after: &str| {
        let end = "%r3, [%rd1], 1;\n\t";
        TICKET.replace(ordered, &format!("{before}{atom}")).replace(end, &format!("{end}{after}"))
    };
    for (body, is_ordered) in [
        (with("", ordered, ""), true),
        (with("", relaxed, ""), false),
        (with(fence, relaxed, fence), true),
        (with(fence, relaxed, ""), false),
    ] {
        let mut interpreter = interpreter(&[&body]);
        let (mut counter, mut values) = ([0u32], [7u32; 2]);
        let pointers = [counter.as_mut_ptr() as u64, values.as_mut_ptr() as u64];
        interpreter.allocated(pointers[0], 4);
        interpreter.allocated(pointers[1], 8);
        interpreter.written(pointers[0], 4);
        let arguments: Vec<u8> = pointers.iter().flat_map(|pointer| pointer.to_le_bytes()).collect();
        let (grid, block) = ([2, 1, 1], [32, 1, 1]);
        let request = Request {
            kernel: "ticket",
            grid,
            block,
            dynamic_shared_bytes: 0,
            arguments: &arguments,
            pointers: &pointers,
            on_branch: false,
        };
        // SAFETY: the arrays are the interpreter's memory, and live.
        match unsafe { interpreter.launch(&request) } {
            Ok(()) => assert!(is_ordered, "not found: {body}"),
            Err(error) => {
                assert!(!is_ordered, "{error}: {body}");
                assert!(error.contains("read of another block's write"), "{error}");
            }
        }
        assert_eq!((counter[0], values), (2, [0; 2]));
    }
}

#[test]
fn structs_of_parameters() {
    let mut interpreter = interpreter(&[PARAMETERS]);
    let mut out = [0u32];
    let to = out.as_mut_ptr() as u64;
    interpreter.allocated(to, 4);
    let mut arguments = to.to_le_bytes().to_vec();
    arguments.extend([3u32, 40, 500, 0].iter().flat_map(|value| value.to_le_bytes()));
    let request = Request {
        kernel: "parameters",
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared_bytes: 0,
        arguments: &arguments,
        pointers: &[to],
        on_branch: false,
    };
    // SAFETY: the array is the interpreter's memory, and lives.
    unsafe { interpreter.launch(&request) }.unwrap();
    assert_eq!(out, [543]);
}

/// Registers of 16 bits hold the low half of what is converted, also beside a constant whose other bits are set.
#[test]
fn values_of_16_bits() {
    let increment = "\tadd.s32 \t%r2, %r1, 1;\n";
    let narrow = "\tadd.s32 \t%r1, %r1, 70001;
	cvt.u16.u32 \t%rs1, %r1;
	and.b16 \t%rs2, %rs1, -4;
	mul.wide.u16 \t%r2, %rs2, 5;
";
    let body = EARLY.replace("\t.reg .b64", "\t.reg .b16 \t%rs<3>;\n\t.reg .b64").replace(increment, narrow);
    let mut interpreter = interpreter(&[&body]);
    let mut memory = [[0u32; 32]; 2];
    let at = memory.each_mut().map(|buffer| buffer.as_mut_ptr() as u64);
    at.iter().for_each(|&address| interpreter.allocated(address, 128));
    interpreter.written(at[0], 128);
    launch(&mut interpreter, "early", &at).unwrap();
    // 70,001 = 65,536 + 4,465.
    assert_eq!(memory[1], [5 * 4464; 32]);
}
