//! What keeps memory alive.

/// Memory that a driver allocated, and frees when this is dropped.
pub(crate) trait Memory: Send + Sync {
    /// Address of the first byte, for the device; that of page-locked memory is valid on the host too.
    fn address(&self) -> u64;
}
