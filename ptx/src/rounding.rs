//! Roundings that the host does not have: directed ones, bf16, tf32.

/// Replaces subnormals by zero of the same sign.
pub(crate) fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0.0f32.copysign(value) } else { value }
}

/// Rounds to bf16, halves to even. NaN becomes 0x7fff.
pub(crate) fn bf16(bits: u32) -> u32 {
    if f32::from_bits(bits).is_nan() { 0x7fff } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// The value, or 0 if it is below 0. NaN stays NaN.
pub(crate) fn relu(bits: u32) -> u32 {
    if f32::from_bits(bits) <= 0.0 { 0 } else { bits }
}

/// Rounds to 10 fraction bits, halves away from zero.
pub(crate) fn tf32_rna(bits: u32) -> u32 {
    match bits & 0x7f80_0000 == 0x7f80_0000 {
        true if f32::from_bits(bits).is_nan() => 0x7fff_ffff,
        true => bits,
        false => (bits + 0x1000) & 0xffff_e000,
    }
}

/// Rounds `value + rest` to f32, down or towards zero. `rest` is at most half a unit in the last place of `value`.
fn directed(value: f64, rest: f64, toward_zero: bool) -> f32 {
    let near = value as f32;
    if !near.is_finite() || value == 0.0 {
        return near;
    }
    let over = f64::from(near) - value; // exact
    let above = over > 0.0 || (over == 0.0 && rest < 0.0);
    let below = over < 0.0 || (over == 0.0 && rest > 0.0);
    match (toward_zero && value < 0.0, above, below) {
        (false, true, _) => near.next_down(),
        (true, _, true) => near.next_up(),
        _ => near,
    }
}

/// Sum and its rounding error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// `a + b`, rounded towards zero.
pub(crate) fn add_rz(a: f32, b: f32) -> f32 {
    let (sum, rest) = two_sum(f64::from(a), f64::from(b));
    directed(sum, rest, true)
}

/// `a * b + x`, rounded down.
pub(crate) fn fma_rm(a: f32, b: f32, x: f32) -> f32 {
    let (sum, rest) = two_sum(f64::from(a) * f64::from(b), f64::from(x));
    directed(sum, rest, false)
}
