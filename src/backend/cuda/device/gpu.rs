//! A GPU through the CUDA driver, which is loaded when a device opens: nothing of CUDA is needed before.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute_enum, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaStream, DevicePtr, DriverError, result, sys,
};
use cudarc::nvrtc::Ptx;

use super::buffer::{Buffer, Element};
use super::kernel::{KernelFile, KernelInfo};
use super::launch::{Launch, MOST_PARAMETERS};
use super::streams::{Event, Pinned, Stream};
use crate::backend::cuda::device::Functions;
use crate::error::{Error, Result};

/// Each kernel file's fat binary; empty where the build found no nvcc.
static FAT_BINARIES: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/fat_binaries.rs"));

/// The least compute capability that the kernels are written for: asynchronous copies and bf16 begin there.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// The least driver, by the CUDA that it knows (1000 major + 10 minor): all functions that are called are there.
const LEAST_DRIVER: i32 = 12_000;

/// The least compute capability, driver, and PTX that a kernel was compiled through, of launches that begin before the
/// one ahead of them has ended (`kernels/launch.cuh`): earlier drivers cannot capture them, and what was compiled for
/// earlier GPUs does not wait.
const OVERLAP_CAPABILITY: (i32, i32) = (9, 0);
const OVERLAP_DRIVER: i32 = 12_030;
const OVERLAP_PTX: i32 = 90;

/// Set to 1, every launch begins when the one ahead of it has ended: to see what the overlap gains, and to rule it out.
const SERIAL_LAUNCHES: &str = "SCENERANK_SERIAL_LAUNCHES";

/// An open GPU.
pub(crate) struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Of batches; work on it is ordered with the other's by events alone.
    copies: Arc<CudaStream>,
    branch: Branch,
    functions: Functions<Function>,
    /// Whether the next launch begins when all is over that it follows: it follows two.
    joins: AtomicBool,
}

/// A stream beside that of launches, which leaves it and comes back to it by events.
struct Branch {
    /// Of low priority: the other's blocks come first.
    stream: Arc<CudaStream>,
    left: CudaEvent,
    done: CudaEvent,
    /// Whether launches go there now.
    taken: AtomicBool,
    /// Whether some have, since it was joined.
    open: AtomicBool,
}

/// A kernel.
struct Function {
    function: CudaFunction,
    /// Whether a launch may begin before the one ahead of it has ended.
    overlaps: bool,
}

fn problem(index: usize, problem: impl Into<String>, remedy: &str) -> Error {
    Error::Device { device: format!("cuda:{index}"), problem: problem.into(), remedy: remedy.into() }
}

/// The driver's name and words for a code.
fn words(error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("code {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_name()), text(error.error_string()))
}

/// The CUDA that the driver knows, as [`LEAST_DRIVER`].
fn driver_version() -> std::result::Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: it writes the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

fn version_words(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

impl Gpu {
    pub(crate) fn open(index: usize) -> Result<Self> {
        // SAFETY: it tries to load libraries, the driver's, and runs nothing of ours.
        if !unsafe { sys::is_culib_present() } {
            return Err(problem(
                index,
                "no NVIDIA driver is installed (libcuda is not found)",
                "install the driver, or use --device cpu",
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
                let remedy = "take the toolkit's lib/stubs out of LD_LIBRARY_PATH, or use --device cpu";
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
        if version < LEAST_DRIVER {
            let problem_words = format!("{known}, and {} is needed", version_words(LEAST_DRIVER));
            return Err(problem(index, problem_words, update));
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
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                failed("open", "see in nvidia-smi who uses its memory, or use --device cpu")(error)
            }
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
        // SAFETY: all memory is used on one stream, but for batches, whose events are our own.
        unsafe { context.disable_event_tracking() };
        let (least, greatest) =
            result::stream::get_priority_range().map_err(failed("make a stream", driver))?;
        let [stream, copies, beside] = [greatest, greatest, least].map(|priority| {
            context.new_stream_with_priority(priority).map_err(failed("make a stream", driver))
        });
        let [left, done] = [(); 2].map(|()| context.new_event(None).map_err(failed("make an event", driver)));
        let [taken, open] = [(); 2].map(|()| AtomicBool::new(false));
        let branch = Branch { stream: beside?, left: left?, done: done?, taken, open };
        let serial = std::env::var(SERIAL_LAUNCHES).is_ok_and(|value| value == "1");
        let may_overlap = !serial && capability >= OVERLAP_CAPABILITY && version >= OVERLAP_DRIVER;
        let mut functions = Functions::new();
        for KernelFile { name: file, kernels } in crate::backend::cuda::launchers::FILES {
            let binary =
                FAT_BINARIES.iter().find(|(name, _)| name == file).map(|(_, binary)| binary.to_vec());
            let binary = binary.unwrap_or_else(|| panic!("no fat binary of kernels/{file}.cu"));
            let module = context.load_module(Ptx::from_binary(binary)).map_err(|error| {
                let remedy = "update the driver, or set SCENERANK_CUDA_ARCHS to this GPU's architecture and build again";
                problem(index, format!("load the kernels: {}; {known}", words(error)), remedy)
            })?;
            for &KernelInfo { name, dynamic_shared_bytes, .. } in *kernels {
                let function = module.load_function(name).map_err(failed(name, "build again"))?;
                let through = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PTX_VERSION;
                let ptx = function.get_attribute(through).map_err(failed(name, driver))?;
                let shared = dynamic_shared_bytes as i32;
                if shared > most_shared {
                    let words = format!(
                        "{name} takes {shared} bytes of shared memory, and a block has {most_shared} at most"
                    );
                    return Err(problem(index, words, "use another GPU, or --device cpu"));
                }
                // More than 48 KiB are given only where they were asked for.
                if shared > 0 {
                    let most = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                    function.set_attribute(most, shared).map_err(failed(name, driver))?;
                }
                functions.insert(name, Function { function, overlaps: may_overlap && ptx >= OVERLAP_PTX });
            }
        }
        let (stream, copies) = (stream?, copies?);
        Ok(Gpu { context, stream, copies, branch, functions, joins: AtomicBool::new(false) })
    }

    pub(crate) fn failed<'a>(&'a self, operation: &'a str) -> impl Fn(DriverError) -> Error + 'a {
        move |error| {
            let remedy = "run again; if it stays, check the GPU with nvidia-smi and compute-sanitizer";
            problem(self.context.ordinal(), format!("{operation}: {}", words(error)), remedy)
        }
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Of all launches.
    pub(crate) fn stream(&self) -> &CudaStream {
        &self.stream
    }

    pub(crate) fn allocate<T: Element>(&self, len: usize) -> Result<Buffer<T>> {
        // A pointer must be valid even where there is nothing to read.
        // SAFETY: callers write before they read, which is what "unwritten" says.
        let slice = unsafe { self.stream.alloc::<u8>(len.max(1) * size_of::<T>()) }.map_err(|error| {
            let free = self.context.mem_get_info().map_or(0, |(free, _)| free >> 20);
            problem(
                self.context.ordinal(),
                format!(
                    "{} MiB more do not fit, {free} MiB are free: {}",
                    (len * size_of::<T>()).div_ceil(1 << 20).max(1),
                    words(error)
                ),
                "use a smaller --batch-size, see in nvidia-smi who else uses its memory, or use --device cpu",
            )
        })?;
        let address = slice.device_ptr(&self.stream).0;
        Ok(Buffer::on_gpu(slice, address, len))
    }

    pub(crate) fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the address and length are those of a live buffer's part.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(self.failed("zero"))
    }

    pub(crate) fn upload<T: Element>(&self, values: &[T], address: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the address is that of a live buffer's part of at least this length; from pageable memory the call
        // returns after it has read the values.
        unsafe {
            result::memcpy_htod_async(address, bytemuck::cast_slice::<T, u8>(values), self.stream.cu_stream())
        }
        .map_err(self.failed("upload"))
    }

    pub(crate) fn copy_on_device(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the addresses are those of parts of live buffers of this length, one of which is borrowed mutably.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(self.failed("copy"))
    }

    pub(crate) fn download<T: Element>(&self, address: u64, len: usize) -> Result<Vec<T>> {
        self.bind()?;
        let mut values = vec![T::zeroed(); len];
        let bytes = bytemuck::cast_slice_mut::<T, u8>(&mut values);
        // SAFETY: the address is that of a live buffer's part of this length; the values outlive the copy, which is
        // waited for.
        unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) }
            .map_err(self.failed("download"))?;
        self.stream.synchronize().map_err(self.failed("wait"))?;
        Ok(values)
    }

    /// Relaxed, because the driver may load a kernel only now that it is first called, and other threads may go on calling
    /// the driver; what a capture cannot hold, [`super::Device`] refuses by itself.
    pub(crate) fn begin_capture(&self) -> Result<()> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(self.failed("begin to capture a graph"))
    }

    /// The graph, ready to run.
    pub(crate) fn end_capture(&self) -> Result<CudaGraph> {
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        Ok(graph
            .map_err(self.failed("capture a graph"))?
            .expect("a graph, unless the capture was broken off"))
    }

    pub(crate) fn replay(&self, graph: &CudaGraph) -> Result<()> {
        graph.launch().map_err(self.failed("launch a graph"))
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(self.failed("bind"))
    }

    pub(crate) fn pinned(&self, len: usize) -> Result<Pinned> {
        // SAFETY: any bits are numbers; of what is copied all was packed before.
        let slice = unsafe { self.context.alloc_pinned(len.max(1)) };
        slice.and_then(Pinned::on_gpu).map_err(|error| {
            problem(
                self.context.ordinal(),
                format!("{} MiB of page-locked memory: {}", (4 * len) >> 20, words(error)),
                "use a smaller --batch-size, or free memory of the host",
            )
        })
    }

    pub(crate) fn event(&self) -> Result<Event> {
        // The host sleeps while it waits: it is a step ahead, and other threads want its core.
        let sleeping = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        self.context.new_event(Some(sleeping)).map(Event::Gpu).map_err(self.failed("make an event"))
    }

    pub(crate) fn record(&self, event: &CudaEvent, stream: Stream) -> Result<()> {
        let stream = match stream {
            Stream::Compute => &self.stream,
            Stream::Copies => &self.copies,
        };
        event.record(stream).map_err(self.failed("record an event"))
    }

    pub(crate) fn wait(&self, event: &CudaEvent) -> Result<()> {
        self.joins.store(true, Ordering::Relaxed);
        self.stream.wait(event).map_err(self.failed("wait for an event"))
    }

    /// From here on launches go on the branch, behind those before.
    pub(crate) fn take_branch(&self) -> Result<()> {
        let Branch { stream, left, taken, open, .. } = &self.branch;
        left.record(&self.stream).map_err(self.failed("record an event"))?;
        stream.wait(left).map_err(self.failed("wait for an event"))?;
        taken.store(true, Ordering::Relaxed);
        open.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// From here on launches do not go on the branch, and are beside it.
    pub(crate) fn leave_branch(&self) {
        self.branch.taken.store(false, Ordering::Relaxed);
    }

    /// Launches from here on are behind the branch.
    pub(crate) fn join_branch(&self) -> Result<()> {
        let Branch { stream, done, open, .. } = &self.branch;
        if !open.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        done.record(stream).map_err(self.failed("record an event"))?;
        self.wait(done)
    }

    /// # Safety
    /// As for [`super::Device::copy`].
    pub(crate) unsafe fn copy(&self, source: *const i32, len: usize, address: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the source is page-locked memory of this length, the address that of a live buffer's part, and both
        // stay, as the caller promises.
        unsafe {
            let values = std::slice::from_raw_parts(source, len);
            result::memcpy_htod_async(address, values, self.copies.cu_stream())
        }
        .map_err(self.failed("copy a batch"))
    }

    /// # Safety
    /// As for [`super::Device::launch`].
    pub(crate) unsafe fn launch(&self, launch: Launch<'_>) -> Result<()> {
        self.bind()?;
        let Launch { kernel: KernelInfo { name, threads, dynamic_shared_bytes, .. }, blocks, parameters } =
            launch;
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_PARAMETERS];
        for (pointer, bytes) in pointers.iter_mut().zip(parameters) {
            *pointer = bytes.as_ptr().cast_mut().cast();
        }
        let ([x, y, z], [tx, ty, tz]) = (blocks, threads);
        let Function { function, overlaps } = &self.functions[name];
        // What begins the branch follows work of the other stream, what comes after a wait two: neither overlaps.
        let beside = self.branch.taken.load(Ordering::Relaxed);
        let joins = !beside && self.joins.swap(false, Ordering::Relaxed);
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
            hStream: if beside { self.branch.stream.cu_stream() } else { self.stream.cu_stream() },
            attrs: &mut overlap,
            numAttrs: u32::from(*overlaps && !beside && !joins),
        };
        // SAFETY: the arguments are the caller's promise; they outlive the call, which copies them.
        unsafe {
            sys::cuLaunchKernelEx(
                &config,
                function.cu_function(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(|error| self.failed(&format!("{name}: launch"))(error))
    }
}
