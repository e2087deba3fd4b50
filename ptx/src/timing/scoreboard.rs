//! When the instructions of a warp issue, and when their results are ready.

use std::collections::VecDeque;

use super::class::Class;
use super::{
    CONVERSIONS, DOUBLES, ISSUES, ORDER, PASSES, PRODUCTS, SCHEDULED, Times, Timing, WINDOW, later, latest,
    memory::wavefronts,
};
use crate::kernel::{Inst, Kernel};
use crate::machine::Registers;
use crate::operation::lanes;

/// Scoreboard of a warp.
pub struct WarpTime {
    /// When each register is ready.
    ready: Vec<Times>,
    /// Instruction that made each register.
    producer: Vec<u32>,
    /// Last issue, in order.
    now: u32,
    /// Earliest next issue: barriers, and undecided branches of the window.
    pub(super) floor: Times,
    /// Earliest next access to memory.
    fence: Times,
    /// Last stores.
    stored_shared: Times,
    stored_global: Times,
    /// Last issue of an access to memory.
    pub(super) memory: Times,
    /// Last issue of any instruction.
    pub(super) last: Times,
    /// Arrival of copies that are not committed, and of each committed group.
    copies: Times,
    groups: VecDeque<Times>,
    /// Ends of products that are not committed, and of each committed group.
    products: Times,
    product_groups: VecDeque<Times>,
    /// When the tensor core is free, in tenths of cycles.
    tensor: Times,
    /// Machine instructions since the last barrier, and when that was.
    pub(super) slots: u32,
    pub(super) since: Times,
    /// Cycles waited in order, with the instruction waited for.
    pub(super) stalls: Vec<(u32, u32)>,
    /// Machine instructions of the running basic block.
    basic: u32,
    /// Instruction that the last issue of the basic block waited for.
    waited: u32,
    /// Cycles waited by basic blocks, with the instruction waited for.
    pub(super) waits: Vec<(u32, u32)>,
}

/// An instruction that is about to be executed.
#[derive(Clone, Copy)]
pub struct Issue {
    /// Its index.
    pub pc: u32,
    /// Lanes that execute it.
    pub taken: u32,
    /// Lanes that are at it.
    pub mask: u32,
}

/// Addresses of an access, by lane.
struct Addresses {
    narrow: [u32; 32],
    wide: [u64; 32],
    count: usize,
}

impl WarpTime {
    pub(crate) fn new(kernel: &Kernel) -> Self {
        let count = (kernel.regs32 + kernel.regs64) as usize;
        WarpTime {
            ready: vec![[0; 4]; count],
            producer: vec![u32::MAX; count],
            now: 0,
            floor: [0; 4],
            fence: [0; 4],
            stored_shared: [0; 4],
            stored_global: [0; 4],
            memory: [0; 4],
            last: [0; 4],
            copies: [0; 4],
            groups: VecDeque::new(),
            products: [0; 4],
            product_groups: VecDeque::new(),
            tensor: [0; 4],
            slots: 0,
            since: [0; 4],
            stalls: Vec::new(),
            basic: 0,
            waited: u32::MAX,
            waits: Vec::new(),
        }
    }

    /// Ends the basic block: it has issued by `until`, and takes a cycle per machine instruction at least.
    pub(super) fn end_basic(&mut self, until: u32) {
        let least = self.floor[SCHEDULED] + self.basic;
        if until > least {
            self.waits.push((self.waited, until - least));
        }
        self.floor[SCHEDULED] = until.max(least);
        self.basic = 0;
    }

    /// When the warp has passed all instructions so far. `of`: the time of those that matter.
    pub(super) fn arrival(&mut self, of: Times) -> Times {
        self.end_basic(of[SCHEDULED]);
        let mut at = latest(latest(of, self.floor), later(self.since, self.slots));
        at[ORDER] = self.now + 1;
        at
    }

    /// Goes on after a barrier.
    pub(super) fn release(&mut self, at: Times) {
        self.floor = latest(self.floor, at);
        self.last = latest(self.last, at);
        self.now = at[ORDER];
        self.since = at;
        self.slots = 0;
        self.stalls.clear();
        self.waits.clear();
    }

    /// Moves the warp's past, up to now, this many cycles back, but not beyond the start.
    fn move_back(&mut self, cycles: u32) {
        let back = |times: Times| times.map(|at| at.saturating_sub(cycles));
        self.ready.iter_mut().for_each(|ready| *ready = back(*ready));
        for times in self.groups.iter_mut().chain(&mut self.product_groups) {
            *times = back(*times);
        }
        let WarpTime { floor, fence, stored_shared, stored_global, memory, last, copies, products, .. } =
            self;
        for times in [floor, fence, stored_shared, stored_global, memory, last, copies, products] {
            *times = back(*times);
        }
        self.tensor = self.tensor.map(|at| at.saturating_sub(10 * cycles));
        self.now = self.now.saturating_sub(cycles);
        self.since = self.floor;
        self.since[ORDER] = self.now;
        (self.slots, self.basic) = (0, 0);
        self.stalls.clear();
        self.waits.clear();
    }

    /// When the warp has done what precedes an arrival at a barrier in shared memory.
    pub(crate) fn arrived(&self) -> Times {
        let mut at = latest(latest(self.last, self.memory), self.floor);
        at[ORDER] = self.now + 1;
        at
    }

    /// Waits at `pc` for the end of a phase.
    pub(crate) fn pass_phase(&mut self, until: Times, pc: u32) {
        self.wait_until(until, pc);
        self.floor = latest(self.floor, until);
    }

    /// When the sources are ready, and the instruction that made the last one.
    fn sources(&self, src: &[u32]) -> (Times, u32) {
        let (mut data, mut producer) = ([0; 4], u32::MAX);
        for &reg in src {
            let ready = self.ready[reg as usize];
            if ready[SCHEDULED] > data[SCHEDULED] {
                producer = self.producer[reg as usize];
            }
            data = latest(data, ready);
        }
        (data, producer)
    }

    /// Makes destinations ready at `done`. Lanes that did not take part keep their values.
    fn write(&mut self, dst: &[u32], done: Times, producer: u32, issue: Issue) {
        for &reg in dst {
            let before = if issue.taken == issue.mask { [0; 4] } else { self.ready[reg as usize] };
            self.ready[reg as usize] = latest(done, before);
            self.producer[reg as usize] = producer;
        }
    }

    /// Makes the warp wait at `pc` until this time.
    fn wait_until(&mut self, until: Times, pc: u32) {
        self.memory = latest(self.memory, until);
        if until[ORDER] > self.now {
            self.stalls.push((pc, until[ORDER] - self.now));
            self.now = until[ORDER];
        }
        self.waited = pc;
        self.last[SCHEDULED] = self.last[SCHEDULED].max(until[SCHEDULED]);
    }
}

impl Timing {
    /// Times one instruction, before it is executed.
    pub(crate) fn step(&mut self, w: &mut WarpTime, inst: &Inst, issue: Issue, registers: &Registers) {
        let Issue { pc, taken, .. } = issue;
        let info = &self.infos[pc as usize];
        let (class, slots) = (info.class, info.slots);
        if info.leads {
            w.end_basic(w.last[SCHEDULED]);
        }
        let sources = if taken == 0 { usize::from(info.guarded) } else { info.src.len() };
        let (data, producer) = w.sources(&info.src[..sources]);
        if class == Class::Free {
            if taken != 0 {
                w.write(&info.dst, data, producer, issue);
            }
            return;
        }
        let next = w.now + 1;
        let at = self.issue_time(w, class, taken, latest(data, [0, 0, 0, next]));
        if at[ORDER] > next {
            w.stalls.push((if data[ORDER] == at[ORDER] { producer } else { pc }, at[ORDER] - next));
        }
        if at[SCHEDULED] > w.last[SCHEDULED] {
            w.waited = if data[SCHEDULED] == at[SCHEDULED] { producer } else { pc };
        }
        w.now = at[ORDER] + slots - 1;
        w.slots += slots;
        w.basic += slots;
        w.last = latest(w.last, at);
        let info = &self.infos[pc as usize];
        self.block.work[ISSUES] += slots as f32;
        self.block.work[DOUBLES] += info.doubles as f32;
        self.block.work[CONVERSIONS] += info.conversions as f32;
        self.block.instructions += 1;
        if class == Class::Branch {
            self.branch(w, at, pc);
        } else if taken != 0 {
            let done = self.perform(w, inst, at, issue, registers);
            w.write(&self.infos[pc as usize].dst, done, pc, issue);
        }
    }

    /// Earliest issue of an instruction whose sources are ready at `data`.
    fn issue_time(&self, w: &mut WarpTime, class: Class, taken: u32, data: Times) -> Times {
        let mut at = latest(w.floor, data);
        if taken != 0 && accesses_memory(class) {
            at = latest(at, w.fence);
            match class {
                Class::LdShared | Class::Ldmatrix => at = latest(at, w.stored_shared),
                Class::LdGlobal { nc: false, .. } | Class::Atom { .. } => at = latest(at, w.stored_global),
                _ => {}
            }
        }
        let interval = match class {
            Class::Mma => self.p.mma_interval,
            Class::Wgmma { columns } => self.p.wgmma_interval * f64::from(columns / 8),
            _ => 0.0,
        };
        if interval > 0.0 {
            let interval = (interval * 10.0) as u32;
            for (at, tensor) in at.iter_mut().zip(&mut w.tensor) {
                // Products of a warpgroup queue up beside the warp.
                if class == Class::Mma {
                    *at = (*at).max(tensor.div_ceil(10));
                }
                *tensor = (*tensor).max(*at * 10) + interval;
            }
        }
        at
    }

    /// The warp waits for the end of the launch ahead. In blocks that find room at once, what precedes takes place while the
    /// launch ahead ends: it takes no time as long as it is no longer than the hand-over.
    pub(crate) fn launch_ahead_ends(&self, w: &mut WarpTime) {
        if self.blocks.len() < self.p.sms as usize * self.resident as usize {
            w.end_basic(w.last[SCHEDULED]);
            w.move_back((self.p.handover_us * self.p.ghz * 1e3) as u32);
        }
    }

    fn branch(&self, w: &mut WarpTime, at: Times, pc: u32) {
        let cost = self.p.branch as u32;
        let info = &self.infos[pc as usize];
        w.now += cost;
        if info.predicated {
            return;
        }
        if info.guarded {
            w.floor[WINDOW] = w.floor[WINDOW].max(at[WINDOW] + cost);
        }
        w.end_basic(w.last[SCHEDULED]);
        w.floor[SCHEDULED] += cost;
        w.waits.push((pc, cost));
    }

    /// Accounts for an instruction that issues at `at`. Returns when its result is ready.
    fn perform(
        &mut self,
        w: &mut WarpTime,
        inst: &Inst,
        at: Times,
        issue: Issue,
        registers: &Registers,
    ) -> Times {
        let Issue { pc, taken, .. } = issue;
        let info = &self.infos[pc as usize];
        let (class, bytes, latency) = (info.class, info.bytes, info.latency);
        let of = addresses(class, inst, taken, registers);
        let (narrow, wide) = (&of.narrow[..of.count], &of.wide[..of.count]);
        if accesses_memory(class) && class != Class::Membar {
            w.memory = latest(w.memory, at);
        }
        match class {
            Class::LdShared | Class::StShared => {
                let passes = wavefronts(narrow, bytes);
                self.block.work[PASSES] += passes as f32;
                if class == Class::StShared {
                    w.stored_shared = latest(w.stored_shared, later(at, passes));
                }
                later(at, self.p.shared as u32 + passes - 1)
            }
            Class::Ldmatrix => {
                let passes = wavefronts(narrow, 16);
                self.block.work[PASSES] += passes as f32;
                later(at, self.p.ldmatrix as u32 + passes.saturating_sub(4))
            }
            Class::LdGlobal { cg, .. } => self.fetch(wide, at, cg, false),
            Class::StGlobal => {
                self.write(wide);
                w.stored_global = latest(w.stored_global, later(at, 1));
                later(at, latency)
            }
            Class::Atom { ordered: false } => {
                self.write(wide);
                later(at, self.p.atomic as u32)
            }
            // Its result is awaited before later accesses.
            Class::Atom { ordered: true } => {
                self.write(wide);
                let until = later(at, (self.p.membar + self.p.atomic) as u32);
                w.fence = latest(w.fence, until);
                w.wait_until(until, pc);
                until
            }
            Class::CpAsync { cg } => {
                let arrival = if wide.is_empty() { at } else { self.fetch(wide, at, cg, true) };
                w.copies = latest(w.copies, later(arrival, self.p.cpasync as u32));
                self.block.work[PASSES] += (taken.count_ones() * bytes) as f32 / 128.0;
                later(at, latency)
            }
            Class::CpCommit => {
                let group = std::mem::take(&mut w.copies);
                w.groups.push_back(group);
                later(at, latency)
            }
            Class::CpWait => {
                let finished = w.groups.len().saturating_sub(inst.imm as usize);
                let until = w.groups.drain(..finished).fold([0; 4], latest);
                w.stored_shared = latest(w.stored_shared, until);
                w.wait_until(until, pc);
                later(at, latency)
            }
            Class::Membar => {
                let until = later(at, self.p.membar as u32);
                w.fence = latest(w.fence, until);
                w.wait_until(until, pc);
                later(at, latency)
            }
            Class::Mma => {
                self.block.work[PRODUCTS] += 1.0;
                later(at, self.p.mma as u32)
            }
            Class::Wgmma { columns } => {
                self.block.work[PRODUCTS] +=
                    (self.p.wgmma_interval / self.p.mma_interval) as f32 * (columns / 8) as f32;
                w.products =
                    latest(w.products, later(w.tensor.map(|at| at.div_ceil(10)), self.p.wgmma as u32));
                later(at, latency)
            }
            Class::WgmmaCommit => {
                let group = std::mem::take(&mut w.products);
                w.product_groups.push_back(group);
                later(at, latency)
            }
            Class::WgmmaWait => {
                let finished = w.product_groups.len().saturating_sub(inst.imm as usize);
                let until = w.product_groups.drain(..finished).fold([0; 4], latest);
                w.wait_until(until, pc);
                // What follows waits for the sums.
                w.floor = latest(w.floor, until);
                later(at, latency)
            }
            Class::Alu | Class::Branch | Class::Free => later(at, latency),
        }
    }
}

fn accesses_memory(class: Class) -> bool {
    !matches!(
        class,
        Class::Alu
            | Class::Mma
            | Class::Wgmma { .. }
            | Class::WgmmaCommit
            | Class::WgmmaWait
            | Class::Branch
            | Class::CpCommit
            | Class::CpWait
            | Class::Free
    )
}

/// Addresses of an access, of the lanes `taken`.
fn addresses(class: Class, inst: &Inst, taken: u32, registers: &Registers) -> Addresses {
    let mut of = Addresses { narrow: [0; 32], wide: [0; 32], count: 0 };
    if !accesses_memory(class) || class == Class::Membar {
        return of;
    }
    for lane in lanes(taken) {
        match class {
            Class::LdShared | Class::StShared | Class::Ldmatrix => {
                of.narrow[of.count] = registers.shared_address(inst.src[0], inst.imm, lane);
            }
            // A copy without bytes to read only fills shared memory with zeros.
            Class::CpAsync { .. } if registers.narrow[inst.src[2].at as usize].0[lane] == 0 => continue,
            Class::CpAsync { .. } => of.wide[of.count] = registers.global_address(inst.src[1], 0, lane),
            _ => of.wide[of.count] = registers.global_address(inst.src[0], inst.imm, lane),
        }
        of.count += 1;
    }
    of
}
