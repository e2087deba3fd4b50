//! Parameters of the timing model. None was fitted to a measurement; most are guesses near published microbenchmarks.

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident: $default:expr,)*) => {
        /// Latencies in cycles, rates and sizes of an H200, unless a comment says otherwise.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Parameters {
            $($(#[$doc])* pub $name: f64,)*
        }

        impl Default for Parameters {
            fn default() -> Self {
                Parameters { $($name: $default),* }
            }
        }

        impl Parameters {
            /// Sets a parameter by its name.
            pub fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => return Err(format!("no parameter is called {name}; there are {}", Self::NAMES.join(", "))),
                }
                Ok(())
            }

            const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];
        }
    };
}

parameters! {
    /// Integer and f32 arithmetic: 4 in microbenchmarks from Volta to Hopper.
    alu: 4.0,
    /// Integer products and predicates.
    imad: 5.0,
    /// f64 arithmetic.
    f64: 8.0,
    /// Conversions with 64 bits.
    cvt64: 20.0,
    /// Special functions, such as `ex2`.
    mufu: 18.0,
    /// `div.rn.f32`, a sequence of instructions.
    div32: 45.0,
    /// `sqrt.rn.f32` and `rcp.rn.f32`.
    sqrt32: 35.0,
    /// `div.rn.f64` and `sqrt.rn.f64`.
    div64: 150.0,
    /// `rcp.rn.f64`.
    rcp64: 90.0,
    /// Division of 32-bit integers.
    idiv: 75.0,
    /// Division of 64-bit integers.
    idiv64: 300.0,
    /// Shuffles and votes.
    shfl: 25.0,
    /// Loads from shared memory with one pass; each further pass costs a cycle.
    shared: 30.0,
    /// `ldmatrix`.
    ldmatrix: 33.0,
    /// A sector in L1; 0 sends all loads to L2.
    l1: 40.0,
    /// KiB of L1 and shared memory of an SM.
    l1_kib: 256.0,
    /// A sector in L2.
    l2: 270.0,
    /// A sector in HBM.
    hbm: 650.0,
    /// 1 if the first touch of a sector in a launch comes from HBM.
    cold: 0.0,
    /// `cp.async` beyond its load.
    cpasync: 10.0,
    /// An atomic operation with its result.
    atomic: 300.0,
    /// `membar.gl`.
    membar: 500.0,
    /// From the last warp's arrival at a barrier to the next instruction.
    barrier: 20.0,
    /// From a branch to the next instruction.
    branch: 8.0,
    /// Longest jump, in PTX instructions, that ptxas replaces by predicates.
    predicated: 20.0,
    /// `mma.sync` m16n8k16 in bf16.
    mma: 33.0,
    /// Cycles between two mma of a sub-partition: 62 % of the rate of `wgmma`.
    mma_interval: 6.5,
    /// Cycles of a sub-partition for 8 columns of a `wgmma`: 16 x 8 x 16 multiply-adds at 512 per cycle.
    wgmma_interval: 4.0,
    /// From the end of a product's last step to the sums.
    wgmma: 40.0,
    /// From the last arrival at a barrier in shared memory to the next instruction of those who wait.
    mbarrier: 20.0,
    /// Microseconds between launches that depend on each other.
    handover_us: 0.9,
    /// Clock in GHz.
    ghz: 1.8,
    /// Multiprocessors.
    sms: 132.0,
    /// Sub-partitions of an SM; each issues an instruction per cycle.
    partitions: 4.0,
    /// Bandwidth of L2 in TB/s.
    l2_tbs: 5.5,
    /// Bandwidth of HBM in TB/s.
    hbm_tbs: 4.3,
    /// Passes of 128 bytes per cycle through an SM's shared memory and L1.
    passes: 1.0,
    /// Bytes per cycle from L2 to an SM.
    l2_port: 64.0,
    /// Registers of an SM.
    registers: 65_536.0,
    /// KiB of shared memory of an SM that blocks can use.
    shared_kib: 227.0,
    /// Warps that fit on an SM.
    warps: 64.0,
    /// Blocks that fit on an SM.
    blocks: 32.0,
}

impl Parameters {
    /// Parameters with the changes of `name=value,...`.
    pub fn with(changes: &str) -> Result<Self, String> {
        let mut parameters = Parameters::default();
        for change in changes.split(',').filter(|change| !change.trim().is_empty()) {
            let (name, value) = change.split_once('=').ok_or_else(|| format!("{change}: not NAME=VALUE"))?;
            let value = value.trim().parse().map_err(|_| format!("{change}: not a number"))?;
            parameters.set(name.trim(), value)?;
        }
        Ok(parameters)
    }
}
