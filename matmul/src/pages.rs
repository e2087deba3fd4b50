//! Large arrays in huge pages.

use bytemuck::{Zeroable, zeroed_vec};

/// `len` zeros. A large array lies in huge pages of 2 MiB where the system has them on request; Linux usually has. Processors
/// remember the places of a few thousand pages. Of pages of 4 KiB, that is less than the arrays of a training step.
pub fn zeros<T: Zeroable>(len: usize) -> Vec<T> {
    // Large arrays come from the system as pages that nothing has touched yet.
    let values = zeroed_vec(len);
    #[cfg(target_os = "linux")]
    ask_for_huge_pages(&values);
    values
}

/// Asks for huge pages for all that lie within `values` as a whole. A refusal changes nothing.
#[cfg(target_os = "linux")]
fn ask_for_huge_pages<T>(values: &[T]) {
    const HUGE_PAGE: usize = 2 << 20;
    let address = values.as_ptr() as usize;
    let (first, end) =
        (address.next_multiple_of(HUGE_PAGE), (address + size_of_val(values)) / HUGE_PAGE * HUGE_PAGE);
    if first < end {
        // SAFETY: the range lies within `values`, and the advice changes no value.
        unsafe { libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;

    use super::*;

    /// The kernel's flags of the mapping that holds an address.
    fn flags(address: usize) -> String {
        let mappings = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut holds = false;
        for line in mappings.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            if let Some((start, end)) = range.and_then(|(start, end)| Some((number(start)?, number(end)?))) {
                holds = (start..end).contains(&address);
            } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| holds) {
                return flags.to_string();
            }
        }
        panic!("no mapping holds {address:x}");
    }

    #[test]
    fn large_arrays_lie_in_huge_pages() {
        let values: Vec<f32> = zeros(4 << 20);
        assert_eq!((values.len(), values.iter().all(|&value| value == 0.0)), (4 << 20, true));
        if fs::exists("/sys/kernel/mm/transparent_hugepage").unwrap() {
            let middle = flags(&raw const values[values.len() / 2] as usize);
            assert!(middle.split(' ').any(|flag| flag == "hg"), "{middle}");
        } else {
            println!("skipped: this system has no huge pages on request");
        }
        assert_eq!(zeros::<u8>(3), [0; 3]);
    }
}
