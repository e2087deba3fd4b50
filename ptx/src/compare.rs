//! Memory after a launch, beside the memory that another implementation left.

use crate::memory::{Buffer, kind};

/// Values that a launch wrote, compared with those of another implementation.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Number of values written.
    pub values: u64,
    /// Number of values with equal bits.
    pub equal: u64,
    /// Largest difference of two finite floats, relative to the largest magnitude that the other implementation wrote in
    /// the same buffer.
    pub worst: f64,
    /// Place and values of the largest difference.
    pub example: String,
    /// A difference that rounding does not explain: of integers, of values that are not finite, or of bytes that only one
    /// side wrote.
    pub wrong: Option<String>,
}

impl Comparison {
    /// Whether all bits are equal.
    pub fn is_equal(&self) -> bool {
        self.values == self.equal && self.wrong.is_none()
    }

    /// Adds another comparison.
    pub fn add(&mut self, other: Comparison) {
        self.values += other.values;
        self.equal += other.equal;
        if other.worst > self.worst {
            self.worst = other.worst;
            self.example = other.example;
        }
        self.wrong = self.wrong.take().or(other.wrong);
    }
}

/// Compares the buffers with what the other implementation left in each. `has_pairs`: stored words of 32 bits are pairs
/// of bf16.
///
/// # Safety
/// The buffers must be allocated, and nothing else may access them meanwhile.
pub(crate) unsafe fn compare(buffers: &[Buffer], others: &[Vec<u8>], has_pairs: bool) -> Comparison {
    let mut all = Comparison::default();
    for (buffer, other) in buffers.iter().zip(others) {
        // SAFETY: guaranteed by the caller.
        let contents = unsafe { buffer.contents() };
        all.add(compare_buffer(contents, other, &buffer.kinds, has_pairs));
    }
    all
}

fn compare_buffer(ours: &[u8], others: &[u8], kinds: &[u8], has_pairs: bool) -> Comparison {
    let mut all = Comparison::default();
    // Differing floats, with their offsets.
    let mut differing: Vec<(f64, f64, usize)> = Vec::new();
    let (mut scale, mut at) = (0.0f64, 0);
    while at < ours.len() {
        let kind = kinds.get(at).copied().unwrap_or(0);
        let size = match kind {
            kind::F32 | kind::U32 => 4,
            kind::F64 | kind::U64 => 8,
            kind::U16 => 2,
            kind::U8 => 1,
            _ => {
                if ours[at] != others[at] && all.wrong.is_none() {
                    all.wrong = Some(format!("byte {at} of {} is written by the other alone", ours.len()));
                }
                at += 1;
                continue;
            }
        };
        let (a, b) = (&ours[at..at + size], &others[at..at + size]);
        let (mine, theirs) = (floats(a, kind, has_pairs), floats(b, kind, has_pairs));
        scale = theirs
            .iter()
            .filter(|value| value.is_finite())
            .fold(scale, |scale, value| scale.max(value.abs()));
        all.values += 1;
        if a == b {
            all.equal += 1;
        } else if mine.is_empty() {
            all.wrong = all.wrong.take().or(Some(format!("offset {at}: {a:?} here, {b:?} there")));
        } else {
            differing.extend(mine.into_iter().zip(theirs).map(|(a, b)| (a, b, at)));
        }
        at += size;
    }
    for (a, b, at) in differing {
        // NaN of hardware have other bits than those of the host.
        if a == b || a.is_nan() && b.is_nan() {
            continue;
        }
        let words = || format!("offset {at}: {a:e} here, {b:e} there, largest {scale:e}");
        if !a.is_finite() || !b.is_finite() {
            all.wrong = all.wrong.take().or_else(|| Some(words()));
            continue;
        }
        let relative = (a - b).abs() / scale.max(f64::MIN_POSITIVE);
        if relative > all.worst {
            all.worst = relative;
            all.example = words();
        }
    }
    all
}

/// Floats in a stored value; none for an integer.
fn floats(bytes: &[u8], kind: u8, has_pairs: bool) -> Vec<f64> {
    let half = |bytes: &[u8]| {
        let bits = u16::from_le_bytes(bytes.try_into().expect("2 bytes"));
        f64::from(f32::from_bits(u32::from(bits) << 16))
    };
    match kind {
        kind::F32 => vec![f64::from(f32::from_le_bytes(bytes.try_into().expect("4 bytes")))],
        kind::F64 => vec![f64::from_le_bytes(bytes.try_into().expect("8 bytes"))],
        kind::U16 => vec![half(bytes)],
        kind::U32 if has_pairs => vec![half(&bytes[..2]), half(&bytes[2..])],
        _ => Vec::new(),
    }
}
