//! Ownership of allocated memory.

/// Memory allocated by a driver, freed when this is dropped.
pub(crate) trait Memory: Send + Sync {
    /// Device address of the first byte. For page-locked memory it is also valid on the host.
    fn address(&self) -> u64;
}
