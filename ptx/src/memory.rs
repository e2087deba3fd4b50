//! Device memory. A buffer lies at its own address in this process; beside it lies what is known of each byte.

/// A buffer of device memory.
pub struct Buffer {
    /// Address of the first byte.
    pub start: u64,
    /// Size.
    pub bytes: u64,
    /// By byte: 1 if it was written since the buffer was allocated.
    pub written: Vec<u8>,
    /// Number of the launch that wrote to it last.
    pub(crate) last_writer: Option<u64>,
    /// Whether a launch that may not have ended when the running one begins wrote to it.
    pub(crate) in_flight: bool,
    /// By byte: the kind of the value that this launch stored there, at its first byte. Empty if it stored none.
    pub kinds: Vec<u8>,
    pages: Vec<Option<Box<[Cell; PAGE]>>>,
    touched: Vec<u32>,
}

const PAGE: usize = 4096;

/// Latest accesses of a byte in this launch.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cell {
    /// Thread of the grid that wrote last, plus one; 0 for none.
    pub writer: u32,
    /// Barriers that the writer's block had passed.
    pub write_epoch: u32,
    /// Thread of the grid that read last, plus one; 0 for none.
    pub reader: u32,
    /// Barriers that the reader's block had passed.
    pub read_epoch: u32,
    /// Fences that the writer had executed.
    pub writer_fences: u16,
    /// Flags below.
    pub flags: u16,
}

/// Several threads of one block read the byte since the last barrier.
pub(crate) const MANY_THREADS: u16 = 1;
/// Several blocks read the byte.
pub(crate) const MANY_BLOCKS: u16 = 2;
/// The byte was read by `ld.global.nc`.
pub(crate) const READ_NC: u16 = 4;
/// The latest write was atomic.
pub(crate) const ATOMIC: u16 = 8;

/// Kinds of stored values.
pub mod kind {
    /// `f32`.
    pub const F32: u8 = 1;
    /// `f64`.
    pub const F64: u8 = 2;
    /// 8 bits.
    pub const U8: u8 = 3;
    /// 16 bits: an integer or a bf16.
    pub const U16: u8 = 4;
    /// 32 bits: an integer or two bf16.
    pub const U32: u8 = 5;
    /// 64-bit integer.
    pub const U64: u8 = 6;
}

impl Buffer {
    /// Buffer at this address, not written yet.
    pub fn new(start: u64, bytes: u64) -> Self {
        let pages = (bytes as usize).div_ceil(PAGE);
        Buffer {
            start,
            bytes,
            written: vec![0; bytes as usize],
            last_writer: None,
            in_flight: false,
            kinds: Vec::new(),
            pages: (0..pages).map(|_| None).collect(),
            touched: Vec::new(),
        }
    }

    /// First address beyond the buffer.
    pub fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// Whether the buffer holds these bytes.
    pub(crate) fn holds(&self, address: u64, bytes: u32) -> bool {
        address >= self.start && address + u64::from(bytes) <= self.end()
    }

    /// Bytes of the buffer.
    ///
    /// # Safety
    /// The memory must be allocated, and nothing else may access it while the slice lives.
    #[allow(clippy::mut_from_ref)] // the memory is not a part of `self`
    pub(crate) unsafe fn contents(&self) -> &mut [u8] {
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, self.bytes as usize) }
    }

    pub(crate) fn cell(&mut self, at: usize) -> &mut Cell {
        let page = at / PAGE;
        let cells = self.pages[page].get_or_insert_with(|| {
            self.touched.push(page as u32);
            vec![Cell::default(); PAGE].try_into().ok().expect("a page")
        });
        &mut cells[at % PAGE]
    }

    /// Forgets the accesses of the latest launch, with this number, but for whether it wrote.
    pub(crate) fn forget_launch(&mut self, number: u64) {
        if !self.kinds.is_empty() {
            self.last_writer = Some(number);
        }
        for page in std::mem::take(&mut self.touched) {
            self.pages[page as usize] = None;
        }
        self.kinds = Vec::new();
    }
}
