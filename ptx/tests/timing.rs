//! The timing model on small PTX whose cycles can be counted by hand.

use std::collections::HashMap;
use std::sync::Arc;

use scenerank_ptx::device::{Interpreter, Request, TimingOptions, parse_kernels};
use scenerank_ptx::machine::Options;
use scenerank_ptx::timing::{Parameters, wavefronts};

/// Cycles of a block of `threads` threads: optimistic, likely, pessimistic.
fn cycles(body: &str, threads: u32) -> [u32; 3] {
    cycles_of_blocks(body, threads, 1, "handover_us=0")
}

/// The same of several blocks, with changed parameters.
fn cycles_of_blocks(body: &str, threads: u32, blocks: u32, changes: &str) -> [u32; 3] {
    let text = format!(
        ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(\n\t.param .u64 k_param_0\n)\n{{\n\t.reg .b32 \t%r<40>;\n\
         \t.reg .f32 \t%f<40>;\n\t.reg .b64 \t%rd<40>;\n\t.reg .pred \t%p<10>;\n\t.shared .align 16 .b8 tile[4096];\n\
         \tld.param.u64 \t%rd1, [k_param_0];\n{body}\n\tret;\n}}\n"
    );
    let kernels = Arc::new(parse_kernels([text.as_str()]).unwrap());
    // Each 8 bytes point to the next sector.
    let mut data: Vec<u64> = vec![0; 4096];
    let start = data.as_mut_ptr() as u64;
    (0..4096).for_each(|i| data[i] = start + 8 * (i as u64 + 4).min(4095));
    // A cycle is a microsecond.
    let parameters = Parameters::with(&format!("ghz=0.001,l2_tbs=1e9,{changes}")).unwrap();
    let timing = TimingOptions { parameters, registers: HashMap::from([("k".to_string(), 32)]) };
    let mut interpreter =
        Interpreter::new(kernels, Options { races: false, ..Options::default() }, Some(timing));
    interpreter.allocated(start, 8 * 4096);
    interpreter.written(start, 8 * 4096);
    let request = Request {
        kernel: "k",
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        dynamic_shared_bytes: 0,
        arguments: &start.to_le_bytes(),
        pointers: &[start],
        on_branch: false,
    };
    // SAFETY: the array is the interpreter's memory, and lives.
    unsafe { interpreter.launch(&request) }.unwrap();
    let times = interpreter.take_times();
    let micros = times[0].micros;
    [micros.optimistic, micros.likely, micros.pessimistic].map(|cycles| cycles.round() as u32)
}

#[track_caller]
fn about(is: u32, expected: u32) {
    assert!(is.abs_diff(expected) <= 40, "{is} cycles, not about {expected}");
}

#[test]
fn dependent_loads_take_their_sum() {
    let body = "ld.global.cg.u64 %rd2, [%rd1];\nld.global.cg.u64 %rd3, [%rd2];\nld.global.cg.u64 %rd4, [%rd3];\nst.global.u64 [%rd1], %rd4;";
    for time in cycles(body, 32) {
        about(time, 3 * 270);
    }
}

#[test]
fn independent_loads_overlap_but_where_each_is_used_at_once() {
    let body: String = (0..3)
        .map(|i| format!("ld.global.cg.f32 %f{i}, [%rd1+{}];\nadd.f32 %f9, %f9, %f{i};\n", 64 * i))
        .collect();
    let [optimistic, likely, pessimistic] =
        cycles(&format!("mov.f32 %f9, 0f00000000;\n{body}st.global.f32 [%rd1], %f9;"), 32);
    about(optimistic, 270);
    about(likely, 270);
    about(pessimistic, 3 * 270);
}

#[test]
fn branches_end_what_is_scheduled() {
    let body: String = (0..3)
        .map(|i| {
            format!("ld.global.cg.f32 %f{i}, [%rd1+{}];\nadd.f32 %f9, %f9, %f{i};\nsetp.eq.s32 %p1, %r1, 77;\n@%p1 bra $L_end;\n", 64 * i)
        })
        .collect();
    let body =
        format!("mov.u32 %r1, %tid.x;\nmov.f32 %f9, 0f00000000;\n{body}st.global.f32 [%rd1], %f9;\n$L_end:");
    let [optimistic, likely, pessimistic] = cycles(&body, 32);
    about(optimistic, 270);
    // Addition, predicate, branch.
    about(likely, 3 * (270 + 4 + 8));
    about(pessimistic, 3 * (270 + 4 + 5 + 8));
}

#[test]
fn short_branches_become_predicates() {
    let body: String = (0..3)
        .map(|i| {
            format!("setp.eq.s32 %p1, %r1, 77;\n@%p1 bra $L_{i};\nld.global.cg.f32 %f{i}, [%rd1+{}];\nadd.f32 %f9, %f9, %f{i};\n$L_{i}:\n", 64 * i)
        })
        .collect();
    let body = format!("mov.u32 %r1, %tid.x;\nmov.f32 %f9, 0f00000000;\n{body}st.global.f32 [%rd1], %f9;");
    let [optimistic, likely, pessimistic] = cycles(&body, 32);
    about(optimistic, 270);
    about(likely, 270);
    about(pessimistic, 3 * (270 + 4 + 5 + 8));
}

/// What precedes the wait for the launch ahead takes no time as long as the hand-over lasts, in blocks that find room at once.
#[test]
fn loads_before_the_wait_hide_behind_the_hand_over() {
    let load = |to: u32, from: u32| format!("ld.global.cg.u64 %rd{to}, [%rd{from}];\n");
    let (loads, end) =
        (load(2, 1) + &load(3, 2), "mov.u32 %r2, tile;\nst.shared.u64 [%r2], %rd4;".to_string());
    let late = format!("griddepcontrol.wait;\n{loads}{}{end}", load(4, 3));
    let early = format!("{loads}griddepcontrol.wait;\n{}{end}", load(4, 3));
    let at_once = |body: &str, changes: &str| cycles_of_blocks(body, 32, 1, changes)[1];
    about(at_once(&late, "handover_us=600"), 600 + 3 * 270);
    about(at_once(&early, "handover_us=600"), 600 + 270);
    about(at_once(&early, "handover_us=300"), 300 + 2 * 270 - 300 + 270);
    // A block of the second wave takes the whole time.
    let waves = |body: &str| cycles_of_blocks(body, 32, 2, "handover_us=600,sms=1,blocks=1,l1=0")[1];
    about(waves(&late), 600 + 2 * 3 * 270);
    about(waves(&early), 600 + 270 + 3 * 270);
}

#[test]
fn a_barrier_joins_warps() {
    // The second warp alone waits for two loads before the barrier, and the first for one after it.
    let body = "mov.u32 %r1, %tid.x;\nsetp.lt.u32 %p1, %r1, 32;\n@%p1 bra $L_join;\nld.global.cg.u64 %rd2, [%rd1];\nld.global.cg.u64 %rd3, [%rd2];\n\
                mov.u32 %r2, tile;\nst.shared.u64 [%r2], %rd3;\n$L_join:\nbar.sync 0;\n@!%p1 bra $L_end;\nld.global.cg.f32 %f1, [%rd1+512];\n\
                st.global.f32 [%rd1], %f1;\n$L_end:";
    for time in cycles(body, 64) {
        about(time, 3 * 270 + 20);
    }
}

#[test]
fn what_a_block_has_loaded_comes_from_its_l1() {
    let body = "ld.global.f32 %f1, [%rd1];\nadd.f32 %f2, %f1, %f1;\ncvt.rn.bf16x2.f32 %r1, %f2, %f2;\nand.b32 %r1, %r1, 0;\ncvt.u64.u32 %rd2, %r1;\n\
                add.s64 %rd3, %rd1, %rd2;\nld.global.f32 %f3, [%rd3];\nst.global.f32 [%rd1], %f3;";
    for time in cycles(body, 32) {
        about(time, 270 + 40 + 20);
    }
}

#[test]
fn passes_through_shared_memory() {
    let strided = |count: u32, stride: u32| (0..count).map(|i| i * stride).collect::<Vec<_>>();
    assert_eq!(wavefronts(&strided(32, 4), 4), 1);
    assert_eq!(wavefronts(&strided(32, 128), 4), 32);
    assert_eq!(wavefronts(&strided(32, 8), 4), 2);
    assert_eq!(wavefronts(&strided(32, 0), 4), 1);
    assert_eq!(wavefronts(&strided(32, 8), 8), 2);
    assert_eq!(wavefronts(&strided(32, 16), 16), 4);
    assert_eq!(wavefronts(&strided(32, 144), 16), 4);
    assert_eq!(wavefronts(&strided(32, 128), 16), 32);
}

/// Products of 32 columns by a warpgroup, `count` of them in each of `groups` groups, each of which is waited for.
fn products(groups: usize, count: usize) -> [u32; 3] {
    let mut body = String::from(
        "mov.u32 %r1, %tid.x;\nmov.u32 %r2, tile;\nshl.b32 %r3, %r1, 5;\nadd.s32 %r3, %r3, %r2;\nst.shared.v4.u32 [%r3], \
         {%r1, %r1, %r1, %r1};\nst.shared.v4.u32 [%r3+16], {%r1, %r1, %r1, %r1};\nfence.proxy.async.shared::cta;\nbar.sync \
         0;\nshr.u32 %r4, %r2, 4;\ncvt.u64.u32 %rd2, %r4;\nmov.b64 %rd3, 4611686293305360384;\nor.b64 %rd2, %rd2, \
         %rd3;\nsetp.ne.s32 %p1, %r1, 5000;\nwgmma.fence.sync.aligned;\n",
    );
    let sums = (0..16).map(|i| format!("%f{i}")).collect::<Vec<_>>().join(", ");
    for _ in 0..groups {
        for _ in 0..count {
            body += &format!(
                "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {{{sums}}}, {{%r1, %r1, %r1, %r1}}, %rd2, %p1, 1, 1, 0;\n"
            );
        }
        body += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
    }
    cycles(&(body + "st.global.f32 [%rd1], %f0;"), 128)
}

#[test]
fn products_of_a_warpgroup_queue_up_until_they_are_waited_for() {
    // 32 columns take 16 cycles, and the last of a group 40 more.
    let once = products(1, 1);
    for (groups, count, more) in [(1, 20, 19 * 16), (10, 1, 9 * (16 + 40)), (10, 2, 9 * (32 + 40) + 16)] {
        for (time, once) in products(groups, count).into_iter().zip(once) {
            about(time, once + more);
        }
    }
}

#[test]
fn those_who_wait_for_a_phase_go_on_after_its_last_arrival() {
    // The second warp waits until the first has loaded twice, and then loads itself.
    let body = "mov.u32 %r1, %tid.x;\nmov.u32 %r2, tile;\nsetp.ne.s32 %p1, %r1, 0;\n@%p1 bra $made;\n\
                mbarrier.init.shared::cta.b64 [%r2], 32;\n$made:\nbar.sync 0;\nsetp.ge.u32 %p2, %r1, 32;\n@%p2 bra $wait;\n\
                ld.global.cg.u64 %rd2, [%rd1];\nld.global.cg.u64 %rd3, [%rd2];\nst.shared.u64 [%r2+8], %rd3;\n\
                mbarrier.arrive.shared::cta.b64 _, [%r2];\nbra $end;\n$wait:\nmov.u32 %r3, 0;\n\
                mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r2], %r3;\nld.shared.u64 %rd4, [%r2+8];\n\
                ld.global.cg.u64 %rd5, [%rd4];\nst.global.u64 [%rd1], %rd5;\n$end:\n";
    for time in cycles(body, 64) {
        about(time, 3 * 270 + 20 + 30 + 20);
    }
}
