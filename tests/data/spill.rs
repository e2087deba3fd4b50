//! Values in temporary files.

use scenerank::files::spill::Spill;
use tempfile::TempDir;

#[test]
fn values_come_back_from_memory_and_from_a_file() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("data");
    for count in [0, 1, 10_000, 200_001] {
        let mut spill = Spill::beside(&target);
        for first in (0..count).step_by(7) {
            let part: Vec<u32> = (first..count.min(first + 7)).collect();
            spill.extend(&part).unwrap();
        }
        assert_eq!((spill.len(), spill.is_empty()), (count as usize, count == 0));
        let mut values = spill.finish().unwrap();
        assert!(values.iter().copied().eq(0..count));
        values.reverse();
        assert!(values.iter().copied().eq((0..count).rev()));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    let mut nowhere = Spill::beside(&folder.path().join("missing/data"));
    let error = nowhere.extend(&vec![0u64; 100_000]).unwrap_err().to_string();
    assert!(error.contains("missing/data"), "{error}");
}
