//! A GPU through the CUDA driver. The driver library is loaded when a device opens; nothing of CUDA is needed
//! before.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute_enum, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError,
    PinnedHostSlice, result, sys,
};
use cudarc::nvrtc::Ptx;

#[cfg(feature = "mpi")]
use super::driver::{CommunicatorHandle, ID_BYTES};
use super::driver::{Driver, EventHandle, MeasuredLaunch, Recorded, StopwatchHandle, Stream};
use super::identity::Identity;
use super::kernel::{KernelFile, KernelInfo};
use super::launch::Launch;
use super::marks::Marks;
use super::memory::Memory;
use super::properties::Properties;
use super::requirements::{
    LEAST_CAPABILITY, OVERLAP_CAPABILITY, OVERLAP_PTX, TOOLKIT, WARPGROUP_CAPABILITY, lacking, version_words,
};
use crate::error::{Error, Result};

/// Fat binary of each kernel file; empty if the build found no nvcc.
static FAT_BINARIES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/fat_binaries.rs"));

/// Environment variable; if it is 1, every launch waits for its predecessor to end. Measures the overlap, or
/// rules it out as a cause.
const SERIAL_LAUNCHES: &str = "SCENERANK_SERIAL_LAUNCHES";

/// Environment variable; if it is 1, launches of the branch go to the main stream. Measures the branch, or rules it out as
/// a cause.
const NO_BRANCH: &str = "SCENERANK_NO_BRANCH";

/// An open GPU.
pub(super) struct Gpu {
    context: Arc<CudaContext>,
    /// Stream of the launches.
    stream: Arc<CudaStream>,
    /// Stream of the batch copies; events alone order it with the other stream.
    copies: Arc<CudaStream>,
    branch: Branch,
    functions: HashMap<&'static str, Function>,
    /// Whether a launch may begin before its predecessor has ended.
    overlap: AtomicBool,
    /// Whether the latest work in the main stream is a launch, and the next launch depends on nothing else. Only then may
    /// the next launch overlap with it: the first launch of a graph, and a launch after a wait or a copy, may not.
    after_launch: AtomicBool,
    /// Events around the launches of a measured capture.
    marks: Marks,
}

/// A stream beside the main stream. Events order its beginning and its end with that stream.
struct Branch {
    /// Low-priority stream: blocks of the main stream are scheduled first.
    stream: Arc<CudaStream>,
    left: CudaEvent,
    done: CudaEvent,
    /// Whether the branch is used. Otherwise its launches go to the main stream.
    used: AtomicBool,
    /// Whether launches currently go to the branch.
    taken: AtomicBool,
    /// Whether launches have gone to the branch since it was last joined.
    open: AtomicBool,
}

/// A loaded kernel.
struct Function {
    function: CudaFunction,
    /// Whether the kernel waits for its predecessor.
    waits: bool,
}

/// Memory that is freed with its context current. cudarc frees memory in whatever context the thread has. Without one this
/// fails, and the next call of any thread returns the error.
struct Freed<M> {
    _memory: M,
    context: Arc<CudaContext>,
}

impl<M> Drop for Freed<M> {
    fn drop(&mut self) {
        // The context's own `bind_to_thread` would take an error that is meant for the next call. If this fails, freeing the
        // memory fails as well, and cudarc keeps that error.
        // SAFETY: the context lives as long as self.
        let _ = unsafe { result::ctx::set_current(self.context.cu_ctx()) };
    }
}

/// Device memory.
struct GpuMemory {
    _slice: Freed<CudaSlice<u8>>,
    address: u64,
}

impl Memory for GpuMemory {
    fn address(&self) -> u64 {
        self.address
    }
}

/// Page-locked host memory.
struct PageLocked {
    _slice: Freed<PinnedHostSlice<u8>>,
    address: u64,
}

impl Memory for PageLocked {
    fn address(&self) -> u64 {
        self.address
    }
}

struct GpuEvent {
    gpu: Arc<Gpu>,
    event: CudaEvent,
}

struct GpuGraph {
    gpu: Arc<Gpu>,
    graph: CudaGraph,
}

struct GpuStopwatch {
    gpu: Arc<Gpu>,
    start: CudaEvent,
    end: CudaEvent,
}

fn problem(index: usize, problem: impl Into<String>, remedy: &str) -> Error {
    Error::Device { device: format!("cuda:{index}"), problem: problem.into(), remedy: remedy.into() }
}

/// Name and description of a driver error.
fn words(error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("code {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

/// Newest CUDA version that the driver supports: 1000 major + 10 minor.
fn driver_version() -> std::result::Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: the call only writes to `version`.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// Whether an environment variable is 1.
fn asked(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// Number of GPUs that the driver sees; 0 without a driver.
pub(super) fn gpu_count() -> usize {
    // SAFETY: this only tries to load the driver library.
    let present = unsafe { sys::is_culib_present() };
    let count = || result::init().and_then(|()| CudaContext::device_count());
    if present { count().map_or(0, |count| count as usize) } else { 0 }
}

impl Gpu {
    /// Opens the GPU and loads all kernels of `files`.
    pub(super) fn open(index: usize, files: &[KernelFile]) -> Result<Self> {
        // SAFETY: this only tries to load the driver library.
        if !unsafe { sys::is_culib_present() } {
            return Err(problem(
                index,
                "no NVIDIA driver is installed",
                "install the driver, or use --device cpu (libcuda was not found)",
            ));
        }
        let failed = |operation: &'static str, remedy: &'static str| {
            move |error: DriverError| problem(index, format!("{operation}: {}", words(error)), remedy)
        };
        let driver = "check the driver with nvidia-smi, or use --device cpu";
        let update = "update the driver, or use --device cpu";
        let other = "use another GPU, check CUDA_VISIBLE_DEVICES, or use --device cpu";
        result::init().map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => problem(index, "the driver sees no GPU", other),
            CUresult::CUDA_ERROR_STUB_LIBRARY => {
                let remedy = "remove the toolkit's lib/stubs from LD_LIBRARY_PATH, or use --device cpu";
                failed("start the driver", remedy)(error)
            }
            CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
            | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
                failed("start the driver", update)(error)
            }
            _ => failed("start the driver", driver)(error),
        })?;
        let version = driver_version().map_err(failed("ask for the driver's version", driver))?;
        let known = format!("the driver knows CUDA {}", version_words(version));
        if let Some(feature) = lacking(version) {
            let needed = version_words(feature.since);
            return Err(problem(index, format!("{known}, and {} need {needed}", feature.what), update));
        }
        let count = CudaContext::device_count().map_err(failed("count the GPUs", driver))?;
        if index >= count as usize {
            let seen = match count {
                0 => "no GPU".to_string(),
                1 => "1 GPU, cuda:0".to_string(),
                _ => format!("{count} GPUs, cuda:0 to cuda:{}", count - 1),
            };
            return Err(problem(index, format!("the driver sees {seen}"), other));
        }
        if FAT_BINARIES.is_empty() {
            return Err(problem(
                index,
                "this build found no nvcc for its kernels",
                "install the CUDA toolkit (12.8 or later) and build again, or use --device cpu",
            ));
        }
        let context = CudaContext::new(index).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => failed(
                "open",
                "check with nvidia-smi which processes use its memory, or use --device cpu",
            )(error),
            _ => failed("open", driver)(error),
        })?;
        let capability = context.compute_capability().map_err(failed("ask for its capability", driver))?;
        if capability < LEAST_CAPABILITY {
            return Err(problem(
                index,
                format!("has compute capability {}.{}, and 8.0 is needed", capability.0, capability.1),
                "use an Ampere or later GPU, or --device cpu",
            ));
        }
        let most_shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let most_shared =
            context.attribute(most_shared).map_err(failed("ask for its shared memory", driver))?;
        // SAFETY: all memory is used on one stream, except that of batches, which is ordered by explicit
        // events.
        unsafe { context.disable_event_tracking() };
        let (least, greatest) =
            result::stream::get_priority_range().map_err(failed("make a stream", driver))?;
        let [stream, copies, beside] = [greatest, greatest, least].map(|priority| {
            context.new_stream_with_priority(priority).map_err(failed("make a stream", driver))
        });
        let [left, done] = [(); 2].map(|()| context.new_event(None).map_err(failed("make an event", driver)));
        let used = AtomicBool::new(!asked(NO_BRANCH));
        let [taken, open] = [(); 2].map(|()| AtomicBool::new(false));
        let branch = Branch { stream: beside?, left: left?, done: done?, used, taken, open };
        let overlap = AtomicBool::new(capability >= OVERLAP_CAPABILITY && !asked(SERIAL_LAUNCHES));
        let mut functions = HashMap::new();
        for of_file @ KernelFile { name: file, kernels } in files {
            if of_file.is_for_warpgroups() && capability != WARPGROUP_CAPABILITY {
                continue;
            }
            let binary =
                FAT_BINARIES.iter().find(|(name, _)| name == file).map(|(_, binary)| binary.to_vec());
            let binary = binary.unwrap_or_else(|| panic!("no fat binary of kernels/{file}.cu"));
            let module = context.load_module(Ptx::from_binary(binary)).map_err(|error| {
                let remedy = "update the driver, or set SCENERANK_CUDA_ARCHS to this GPU's architecture and build again";
                let built = format!("the kernels were compiled by CUDA {TOOLKIT}");
                problem(index, format!("load the kernels: {}; {known}, {built}", words(error)), remedy)
            })?;
            for &KernelInfo { name, dynamic_shared_bytes, .. } in *kernels {
                let function = match module.load_function(name) {
                    // The build was not for sm_90a.
                    Err(_) if of_file.is_for_warpgroups() => continue,
                    function => function.map_err(failed(name, "build again"))?,
                };
                let through = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PTX_VERSION;
                let ptx = function.get_attribute(through).map_err(failed(name, driver))?;
                let shared = dynamic_shared_bytes as i32;
                if shared > most_shared {
                    let words = format!(
                        "{name} takes {shared} bytes of shared memory, and a block has {most_shared} at most"
                    );
                    return Err(problem(index, words, "use another GPU, or --device cpu"));
                }
                // The driver grants more than 48 KiB only on request.
                if shared > 0 {
                    let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    function.set_attribute(most, shared).map_err(failed(name, driver))?;
                }
                functions.insert(name, Function { function, waits: ptx >= OVERLAP_PTX });
            }
        }
        let (stream, copies) = (stream?, copies?);
        let after_launch = AtomicBool::new(false);
        Ok(Gpu { context, stream, copies, branch, functions, overlap, after_launch, marks: Marks::default() })
    }

    fn failed<'a>(&'a self, operation: &'a str) -> impl Fn(DriverError) -> Error + 'a {
        move |error| {
            let remedy =
                "run again; if the error persists, check the GPU with nvidia-smi and compute-sanitizer";
            problem(self.context.ordinal(), format!("{operation}: {}", words(error)), remedy)
        }
    }

    /// An error of this GPU.
    #[cfg(feature = "mpi")]
    pub(super) fn problem(&self, words: impl Into<String>, remedy: &str) -> Error {
        problem(self.context.ordinal(), words, remedy)
    }

    /// Stream of the launches, for an exchange that is ordered with them.
    #[cfg(feature = "mpi")]
    pub(super) fn stream_of_exchange(&self) -> Result<sys::CUstream> {
        self.bind()?;
        self.after_launch.store(false, Ordering::Relaxed);
        Ok(self.stream.cu_stream())
    }

    /// Makes this GPU's context current on the calling thread.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(self.failed("bind"))
    }

    fn freed<M>(&self, memory: M) -> Freed<M> {
        Freed { _memory: memory, context: self.context.clone() }
    }

    /// Makes the following launches wait for `event`.
    fn wait(&self, event: &CudaEvent) -> Result<()> {
        self.after_launch.store(false, Ordering::Relaxed);
        self.stream.wait(event).map_err(self.failed("wait for an event"))
    }
}

impl Driver for Gpu {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        // A pointer must be valid even if there is nothing to read.
        // SAFETY: every bit pattern is a valid u8, and callers write before they read.
        let slice = unsafe { self.stream.alloc::<u8>(bytes.max(1)) }.map_err(|error| {
            let free = self.context.mem_get_info().map_or(0, |(free, _)| free >> 20);
            problem(
                self.context.ordinal(),
                format!(
                    "{} MiB more do not fit, {free} MiB are free: {}",
                    bytes.div_ceil(1 << 20).max(1),
                    words(error)
                ),
                "use a smaller --batch-size, check with nvidia-smi which processes use its memory, or use --device cpu",
            )
        })?;
        let address = slice.device_ptr(&self.stream).0;
        Ok(Box::new(GpuMemory { _slice: self.freed(slice), address }))
    }

    fn allocate_page_locked(&self, bytes: usize) -> Result<Box<dyn Memory>> {
        // SAFETY: every bit pattern is a valid u8, and callers write before they read.
        let slice = unsafe { self.context.alloc_pinned::<u8>(bytes.max(1)) };
        let located = slice.and_then(|slice| Ok((slice.as_ptr()? as u64, slice)));
        let (address, slice) = located.map_err(|error| {
            problem(
                self.context.ordinal(),
                format!("{} MiB of page-locked memory: {}", bytes >> 20, words(error)),
                "use a smaller --batch-size, or free memory of the host",
            )
        })?;
        Ok(Box::new(PageLocked { _slice: self.freed(slice), address }))
    }

    #[cfg(feature = "mpi")]
    fn communicator(
        self: Arc<Self>,
        rank: usize,
        count: usize,
        of_first: &dyn Fn([u8; ID_BYTES]) -> [u8; ID_BYTES],
    ) -> Result<Option<Box<dyn CommunicatorHandle>>> {
        self.join_by_nccl(rank, count, of_first).map(Some)
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        self.after_launch.store(false, Ordering::Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(self.failed("zero"))
    }

    unsafe fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.bind()?;
        self.after_launch.store(false, Ordering::Relaxed);
        // SAFETY: guaranteed by the caller. From pageable memory the call returns only after it has read the
        // values.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }.map_err(self.failed("upload"))
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        self.after_launch.store(false, Ordering::Relaxed);
        // SAFETY: guaranteed by the caller; `to` outlives the copy, which is waited for below.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(self.failed("download"))?;
        self.stream.synchronize().map_err(self.failed("wait"))
    }

    unsafe fn copy_on_device(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        self.after_launch.store(false, Ordering::Relaxed);
        // SAFETY: guaranteed by the caller.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(self.failed("copy"))
    }

    unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        self.bind()?;
        let Launch { kernel: KernelInfo { name, threads, dynamic_shared_bytes, .. }, blocks, arguments } =
            launch;
        let mut parameter: *mut c_void = arguments.as_ptr().cast_mut().cast();
        let ([x, y, z], [tx, ty, tz]) = (blocks, threads);
        let Function { function, waits } = &self.functions[name];
        // Launches of the branch never overlap: the first one depends on work of the other stream.
        let beside = self.branch.taken.load(Ordering::Relaxed);
        let after_launch = !beside && self.after_launch.swap(true, Ordering::Relaxed);
        let stream = if beside { &self.branch.stream } else { &self.stream };
        let mark = self.marks.begin(&self.context, stream).map_err(self.failed("measure a launch"))?;
        let overlaps = *waits && after_launch && mark.is_none() && self.overlap.load(Ordering::Relaxed);
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: tx,
            blockDimY: ty,
            blockDimZ: tz,
            sharedMemBytes: dynamic_shared_bytes,
            hStream: stream.cu_stream(),
            attrs: &mut overlap,
            numAttrs: u32::from(overlaps),
        };
        // SAFETY: the caller guarantees the arguments; they outlive the call, which copies them.
        unsafe {
            sys::cuLaunchKernelEx(&config, function.cu_function(), &mut parameter, std::ptr::null_mut())
        }
        .result()
        .map_err(|error| self.failed(&format!("{name}: launch"))(error))?;
        let Some(mark) = mark else { return Ok(()) };
        self.marks.end(mark, stream, (name, beside)).map_err(self.failed("measure a launch"))
    }

    fn has(&self, kernel: &str) -> bool {
        self.functions.contains_key(kernel)
    }

    fn take_branch(&self) -> Result<()> {
        let Branch { stream, left, used, taken, open, .. } = &self.branch;
        if !used.load(Ordering::Relaxed) {
            return Ok(());
        }
        left.record(&self.stream).map_err(self.failed("record an event"))?;
        stream.wait(left).map_err(self.failed("wait for an event"))?;
        taken.store(true, Ordering::Relaxed);
        open.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn leave_branch(&self) {
        self.branch.taken.store(false, Ordering::Relaxed);
    }

    fn join_branch(&self) -> Result<()> {
        let Branch { stream, done, open, .. } = &self.branch;
        if !open.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        done.record(stream).map_err(self.failed("record an event"))?;
        self.wait(done)
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: guaranteed by the caller.
        unsafe {
            let values = std::slice::from_raw_parts(from as *const u8, bytes);
            result::memcpy_htod_async(to, values, self.copies.cu_stream())
        }
        .map_err(self.failed("copy a batch"))
    }

    fn event(self: Arc<Self>) -> Result<Box<dyn EventHandle>> {
        // The host thread sleeps while it waits: it is one step ahead, and other threads need its core.
        let sleeping = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        let event = self.context.new_event(Some(sleeping)).map_err(self.failed("make an event"))?;
        Ok(Box::new(GpuEvent { gpu: self, event }))
    }

    /// Uses the relaxed mode: the driver may load a kernel only at its first call, and other threads may call
    /// the driver during the capture. [`super::Device`] itself rejects operations that cannot be captured.
    fn begin_capture(&self) -> Result<()> {
        // A capture that failed may have left the branch open.
        self.branch.open.store(false, Ordering::Relaxed);
        // The root of the graph has no predecessor to overlap with.
        self.after_launch.store(false, Ordering::Relaxed);
        self.marks.begin_capture();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(self.failed("begin to capture a graph"))
    }

    fn end_capture(self: Arc<Self>) -> Result<Box<dyn Recorded>> {
        self.after_launch.store(false, Ordering::Relaxed);
        self.marks.end_capture();
        // Kernels keep the priorities of their streams. Without the flag, all of them have that of the stream in which the
        // graph is launched, and the branch would compete with the main stream.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
        let graph = self.stream.end_capture(flags);
        let graph = graph.map_err(self.failed("capture a graph"))?;
        let graph = graph.expect("a graph, unless the capture was broken off");
        Ok(Box::new(GpuGraph { gpu: self, graph }))
    }

    fn launch_in_series(&self) -> bool {
        let [overlapped, branched] =
            [&self.overlap, &self.branch.used].map(|used| used.swap(false, Ordering::Relaxed));
        overlapped || branched
    }

    fn allow_overlap(&self, allowed: bool) -> bool {
        self.overlap.swap(allowed, Ordering::Relaxed)
    }

    fn measure_launches(&self, measured: bool) -> Result<()> {
        self.marks.measure(measured);
        Ok(())
    }

    fn measured_launches(&self) -> Result<Vec<MeasuredLaunch>> {
        self.bind()?;
        self.marks.read().map_err(self.failed("read the times of launches"))
    }

    fn stopwatch(self: Arc<Self>) -> Result<Box<dyn StopwatchHandle>> {
        // cudarc creates events without timing by default.
        let event = || self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let start = event().map_err(self.failed("make an event"))?;
        let end = event().map_err(self.failed("make an event"))?;
        Ok(Box::new(GpuStopwatch { gpu: self, start, end }))
    }

    fn properties(&self) -> Result<Properties> {
        let failed = || self.failed("ask for its properties");
        let attribute = |attribute| self.context.attribute(attribute).map_err(failed());
        let multiprocessors = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let l2_bytes = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
        let of_sms = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        let of_memory = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        Ok(Properties {
            name: self.context.name().map_err(failed())?,
            gpu: true,
            multiprocessors: multiprocessors as usize,
            l2_bytes: l2_bytes as usize,
            driver: version_words(driver_version().map_err(failed())?),
            clocks_mhz: Some([of_sms, of_memory].map(|khz| khz as u32 / 1000)),
        })
    }

    fn warpgroup_identity(&self) -> Result<Option<Identity>> {
        let failed = || self.failed("ask for its identity");
        if self.context.compute_capability().map_err(failed())? != WARPGROUP_CAPABILITY {
            return Ok(None);
        }
        let (name, id) = (self.context.name().map_err(failed())?, self.context.uuid().map_err(failed())?);
        let driver = version_words(driver_version().map_err(failed())?);
        let code = FAT_BINARIES.iter().map(|(_, binary)| *binary);
        Ok(Some(Identity::new(name, id.bytes.map(|byte| byte as u8), &driver, code)))
    }
}

impl EventHandle for GpuEvent {
    fn record(&mut self, stream: Stream) -> Result<()> {
        let stream = match stream {
            Stream::Compute => &self.gpu.stream,
            Stream::Copies => &self.gpu.copies,
        };
        self.event.record(stream).map_err(self.gpu.failed("record an event"))
    }

    fn wait(&self) -> Result<()> {
        self.gpu.wait(&self.event)
    }

    fn host_wait(&self) -> Result<()> {
        self.event.synchronize().map_err(self.gpu.failed("wait for an event"))
    }
}

impl Recorded for GpuGraph {
    unsafe fn replay(&self) -> Result<()> {
        self.gpu.after_launch.store(false, Ordering::Relaxed);
        self.graph.launch().map_err(self.gpu.failed("launch a graph"))
    }
}

impl StopwatchHandle for GpuStopwatch {
    fn start(&mut self) -> Result<()> {
        self.start.record(&self.gpu.stream).map_err(self.gpu.failed("record an event"))
    }

    fn stop(&mut self) -> Result<()> {
        self.end.record(&self.gpu.stream).map_err(self.gpu.failed("record an event"))
    }

    fn elapsed_ms(&self) -> Result<f64> {
        self.start.elapsed_ms(&self.end).map(f64::from).map_err(self.gpu.failed("read an event"))
    }
}
