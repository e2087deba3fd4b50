//! Products of a warpgroup, `wgmma.mma_async`. They run beside the warps that issue them: a product is performed when its group
//! is waited for. Until then its registers and its memory are in use, and any other access to them is a finding. Each warp
//! computes 16 rows of d from 16 rows of a and all of b, so the warps of a group need not meet; they must agree.

use super::Machine;
use super::descriptor::Descriptor;
use super::shared::{IN_FLIGHT, WRITTEN};
use super::warp::{Thread, Warp};
use crate::kernel::{Inst, NONE, Reg};
use crate::operation::{Op, Product};

/// Warps of a group.
const WARPS: u32 = 4;
/// Rows of a and d of a warp.
const ROWS: usize = 16;
/// Registers of a multiprocessor.
const REGISTERS: u32 = 65_536;
/// Inner steps of a product.
const INNER: usize = 16;

/// Uses of a register by products in flight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    None,
    /// Sums, of a product with so many columns.
    Sums(u16),
    Factor,
}

/// Products of a warp.
pub(super) struct Products {
    /// By 32-bit register: its last access by another instruction.
    accessed: Vec<u32>,
    /// By 32-bit register: its use in flight.
    uses: Vec<Use>,
    /// Number of instructions.
    now: u32,
    /// The last `wgmma.fence`; 0 before the first.
    fence: u32,
    /// Products not committed, then groups, the oldest first.
    open: Vec<Issued>,
    groups: Vec<Vec<Issued>>,
    /// Number of the warp's instructions that its group executes together.
    executed: usize,
}

/// An instruction that the warps of a group execute together: its index, and the descriptors.
pub(super) type Together = (u32, [u64; 2]);

/// A product in flight.
struct Issued {
    pc: u32,
    of: Product,
    /// Registers of d, then of a.
    list: Vec<Reg>,
    a: Option<Descriptor>,
    b: Descriptor,
    adds: bool,
}

impl Products {
    pub(super) fn new(registers: u32) -> Box<Self> {
        Box::new(Products {
            accessed: vec![0; registers as usize],
            uses: vec![Use::None; registers as usize],
            now: 0,
            fence: 0,
            open: Vec::new(),
            groups: Vec::new(),
            executed: 0,
        })
    }

    /// Whether products are in flight.
    pub(super) fn are_in_flight(&self) -> bool {
        !self.open.is_empty() || !self.groups.is_empty()
    }
}

impl Issued {
    fn sums(&self) -> &[Reg] {
        &self.list[..usize::from(self.of.columns) / 2]
    }

    fn factors(&self) -> &[Reg] {
        &self.list[usize::from(self.of.columns) / 2..]
    }

    /// Places in shared memory of a and b that a warp of the group reads, by value.
    fn places(&self, warp: u32) -> Vec<i64> {
        let rows = |of: Descriptor, rows: std::ops::Range<u32>| {
            rows.flat_map(move |row| (0..INNER as u32).map(move |inner| of.place(row, inner)))
        };
        let first = warp % WARPS * ROWS as u32;
        let of_a = self.a.into_iter().flat_map(|a| rows(a, first..first + ROWS as u32));
        rows(self.b, 0..u32::from(self.of.columns)).chain(of_a).collect()
    }
}

impl Machine<'_> {
    /// Notes the registers of an instruction other than a product.
    pub(super) fn note_registers(&mut self, inst: &Inst, pc: u32, warp: &mut Warp) {
        let thread = warp.thread(pc, 0);
        let Some(products) = &mut warp.products else { return };
        products.now += 1;
        let mut early = None;
        for reg in inst.list.iter().chain(&inst.src).chain([&inst.dst]) {
            if *reg == NONE || reg.wide {
                continue;
            }
            products.accessed[reg.at as usize] = products.now;
            if products.uses[reg.at as usize] != Use::None {
                early = Some(reg.at);
            }
        }
        if let Some(at) = early {
            self.find("access to a register of a product in flight", thread, || format!("register {at}"));
        }
    }

    /// Executes an instruction of a warpgroup in a whole warp.
    pub(super) fn warpgroup(&mut self, inst: &Inst, pc: u32, warp: &mut Warp) {
        let thread = warp.thread(pc, 0);
        if !self.threads.is_multiple_of(32 * WARPS) {
            self.find("a warpgroup of fewer than 128 threads", thread, String::new);
        }
        let descriptors = match inst.op {
            Op::Wgmma(_) => {
                [inst.src[0], inst.src[1]].map(|reg| if reg == NONE { 0 } else { warp.registers.get(reg, 0) })
            }
            _ => [0; 2],
        };
        self.check_together((pc, descriptors), warp);
        let products = warp.products.as_mut().expect("a kernel with products");
        products.now += 1;
        match inst.op {
            Op::WgmmaFence => products.fence = products.now,
            Op::WgmmaCommit => {
                let group = std::mem::take(&mut products.open);
                products.groups.push(group);
            }
            Op::WgmmaWait => {
                let ended = products.groups.len().saturating_sub(inst.imm as usize);
                let groups: Vec<Vec<Issued>> = products.groups.drain(..ended).collect();
                for issued in groups.into_iter().flatten() {
                    self.perform_product(&issued, warp);
                }
                self.mark_uses(warp);
            }
            Op::Wgmma(of) => self.issue_product(inst, of, descriptors, pc, warp),
            _ => unreachable!("an instruction of a warpgroup"),
        }
    }

    /// Gives registers to the warp's threads, or takes them back. Returns whether the warp has to wait until others give some up.
    pub(super) fn set_registers(
        &mut self,
        inst: &Inst,
        takes: bool,
        lanes: u32,
        pc: u32,
        warp: &mut Warp,
    ) -> bool {
        let (thread, at) = (warp.thread(pc, 0), warp.first as usize / 32);
        let (count, before) = (inst.imm as u32, self.granted[at]);
        if lanes | warp.exited != u32::MAX {
            self.find("an aligned collective without all lanes", thread, String::new);
        }
        if takes && count < before || !takes && count > before {
            self.find("setmaxnreg in the wrong direction", thread, || {
                format!("{count} of {before} registers")
            });
        }
        // A block has the registers with which it was launched.
        let all = self.granted.iter().sum::<u32>() - before + count;
        if takes && all > registers_at_launch(self.threads) * self.granted.len() as u32 {
            return true;
        }
        self.granted[at] = count;
        self.check_together((pc, [0; 2]), warp);
        false
    }

    /// Reports an instruction that other warps of the group do not execute alike.
    fn check_together(&mut self, own: Together, warp: &mut Warp) {
        let group = (warp.first / 32 / WARPS) as usize;
        let products = warp.products.as_mut().expect("a kernel with products");
        let at = products.executed;
        products.executed += 1;
        self.together.resize_with(self.together.len().max(group + 1), Vec::new);
        match self.together[group].get(at) {
            None => self.together[group].push(own),
            Some(other) if *other == own => {}
            Some(&other) => {
                self.find("warps of a group execute different products", warp.thread(own.0, 0), || {
                    format!("{own:x?} and {other:x?}")
                })
            }
        }
    }

    /// Reports a warp that ends with fewer of these instructions than its group.
    pub(super) fn check_products(&mut self, warp: &Warp) {
        let Some(products) = &warp.products else { return };
        let group = (warp.first / 32 / WARPS) as usize;
        let all = self.together.get(group).map_or(0, Vec::len);
        if products.executed != all {
            let (pc, executed) = (self.together[group][products.executed].0, products.executed);
            self.find("warps of a group execute different products", warp.thread(pc, 0), || {
                format!("{executed} of {all}")
            });
        }
    }

    fn issue_product(&mut self, inst: &Inst, of: Product, bits: [u64; 2], pc: u32, warp: &mut Warp) {
        let thread = warp.thread(pc, 0);
        let adds = warp.registers.get(inst.src[2], 0) != 0;
        for lane in 1..32 {
            let differs =
                (0..2).any(|i| inst.src[i] != NONE && warp.registers.get(inst.src[i], lane) != bits[i]);
            if differs || (warp.registers.get(inst.src[2], lane) != 0) != adds {
                self.find("lanes of a product differ", warp.thread(pc, lane), String::new);
                break;
            }
        }
        let a = (!of.a_in_registers).then(|| Descriptor::decode(bits[0], of.a_transposed)).transpose();
        let (a, b) = match (a, Descriptor::decode(bits[1], of.b_transposed)) {
            (Ok(a), Ok(b)) => (a, b),
            (Err(error), _) | (_, Err(error)) => {
                self.find("matrix descriptor", thread, || error);
                return;
            }
        };
        let issued = Issued { pc, of, list: inst.list.clone(), a, b, adds };
        self.check_registers(&issued, warp);
        for place in issued.places(warp.first / 32) {
            self.check_factor(place, thread);
            if let Some(readers) =
                usize::try_from(place).ok().and_then(|at| self.product_reads.get_mut(at / 2))
            {
                *readers += 1;
            }
        }
        warp.products.as_mut().expect("a kernel with products").open.push(issued);
        self.mark_uses(warp);
    }

    /// Reports registers of a product that a fence does not separate from other accesses, or that are in use.
    fn check_registers(&mut self, issued: &Issued, warp: &Warp) {
        let products = warp.products.as_ref().expect("a kernel with products");
        let of = |reg: &Reg| (products.accessed[reg.at as usize], products.uses[reg.at as usize]);
        let sums_in_use = issued.sums().iter().map(of).any(|(_, used)| match used {
            Use::None => false,
            Use::Sums(columns) => columns != issued.of.columns,
            Use::Factor => true,
        });
        let factors_in_use = issued.factors().iter().map(of).any(|(_, used)| matches!(used, Use::Sums(_)));
        let unfenced = issued.list.iter().map(of).any(|(accessed, _)| accessed > products.fence);
        let is_first = products.fence == 0;
        let thread = warp.thread(issued.pc, 0);
        if sums_in_use || factors_in_use {
            self.find("access to a register of a product in flight", thread, String::new);
        }
        if unfenced || is_first {
            self.find("registers of a product without wgmma.fence", thread, String::new);
        }
    }

    /// Reports a value in shared memory that a product may not read yet.
    fn check_factor(&mut self, place: i64, thread: Thread) {
        let size = self.shared.len();
        let Some(at) = usize::try_from(place).ok().filter(|at| at + 2 <= size) else {
            self.find("shared access out of bounds", thread, || format!("2 bytes at {place} of {size}"));
            return;
        };
        match self.shared_state[at] {
            WRITTEN => {}
            IN_FLIGHT => {
                self.find("shared read of an asynchronous copy in flight", thread, || format!("at {at}"))
            }
            _ => self.find("uninitialised shared read", thread, || format!("at {at}")),
        }
        let cell = self.shared_cells[at];
        if !self.options.races || cell.writer == 0 {
            return;
        }
        let writer = u32::from(cell.writer) - 1;
        if !self.is_before(writer, cell.write_epoch, thread) {
            self.find("race in shared memory: read after write", thread, || {
                format!("byte {at}, written by thread {writer}")
            });
        }
        if !self.is_fenced(at, writer) {
            self.find("a product reads what no fence.proxy.async follows", thread, || {
                format!("byte {at}, written by thread {writer}")
            });
        }
    }

    /// Marks the registers of all products in flight.
    fn mark_uses(&self, warp: &mut Warp) {
        let products = warp.products.as_mut().expect("a kernel with products");
        products.uses.fill(Use::None);
        for issued in products.groups.iter().flatten().chain(&products.open) {
            for reg in issued.factors() {
                products.uses[reg.at as usize] = Use::Factor;
            }
            for reg in issued.sums() {
                products.uses[reg.at as usize] = Use::Sums(issued.of.columns);
            }
        }
    }

    fn perform_product(&mut self, issued: &Issued, warp: &mut Warp) {
        let thread = warp.thread(issued.pc, 0);
        for place in issued.places(warp.first / 32) {
            let Some(at) = usize::try_from(place).ok().filter(|at| at + 2 <= self.shared.len()) else {
                continue;
            };
            self.product_reads[at / 2] -= 1;
            if self.options.races {
                self.note_clocked_read(at, 2, thread);
            }
        }
        let read = |of: &Descriptor, outer: u32, inner: usize| {
            let at = usize::try_from(of.place(outer, inner as u32)).ok();
            let bytes =
                at.and_then(|at| self.shared.get(at..at + 2)).map_or([0xff; 2], |bytes| [bytes[0], bytes[1]]);
            f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
        };
        let mut a = [[0f32; INNER]; ROWS];
        for (row, values) in a.iter_mut().enumerate() {
            for (k, value) in values.iter_mut().enumerate() {
                *value = match &issued.a {
                    Some(of) => read(of, warp.first / 32 % WARPS * ROWS as u32 + row as u32, k),
                    None => factor(issued.factors(), warp, row, k),
                };
            }
        }
        let mut results = Vec::with_capacity(issued.sums().len() * 32);
        for column in 0..usize::from(issued.of.columns) {
            let mut b = [0f32; INNER];
            b.iter_mut().enumerate().for_each(|(k, value)| *value = read(&issued.b, column as u32, k));
            for (row, a) in a.iter().enumerate() {
                let (reg, lane) = place_of_sum(row, column);
                let reg = issued.sums()[reg];
                let before = f32::from_bits(warp.registers.get(reg, lane) as u32);
                let before = if issued.adds { before } else { 0.0 };
                results.push((reg, lane, self.options.products.sum(before, a, &b)));
            }
        }
        for (reg, lane, value) in results {
            warp.registers.set(reg, lane, u64::from(value.to_bits()));
        }
    }
}

/// Registers of a thread as launched: as many as the multiprocessor has for blocks of so many threads.
pub(super) fn registers_at_launch(threads: u32) -> u32 {
    (REGISTERS / threads.max(1) / 8 * 8).min(248)
}

/// Value of a fragment of a: register 0 holds row `lane / 4` and steps `lane % 4 * 2` and the next, register 1 the row 8 further,
/// registers 2 and 3 the steps 8 further.
fn factor(registers: &[Reg], warp: &Warp, row: usize, inner: usize) -> f32 {
    let (reg, lane) = (row / 8 + inner / 8 * 2, row % 8 * 4 + inner % 8 / 2);
    let pair = warp.registers.get(registers[reg], lane) as u32;
    f32::from_bits(pair >> (inner % 2 * 16) << 16)
}

/// Register and lane of a sum of a warp: four registers for every 8 columns.
fn place_of_sum(row: usize, column: usize) -> (usize, usize) {
    (column / 8 * 4 + row / 8 * 2 + column % 2, row % 8 * 4 + column % 8 / 2)
}
