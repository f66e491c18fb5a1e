//! e4m3, the 8-bit floating-point format of fp8 products: a sign, four bits of exponent, three of significand, no infinity.
//!
//! Source: Micikevicius et al., "FP8 formats for deep learning", 2022.

/// The largest value.
pub(crate) const LARGEST: f32 = 448.0;

/// The value of the format that is nearest to `value`, ties to even; the largest for what is larger.
pub(crate) fn encode(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    if value.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = value.abs().min(LARGEST);
    // Values below 2^-6 are as far apart as those from there on.
    let exponent = (((magnitude.to_bits() >> 23) as i32) - 127).max(-6);
    let units = (magnitude * power_of_two(3 - exponent)).round_ties_even();
    // Eight units and more are the next exponent's, which the addition carries over.
    sign | ((exponent + 6) * 8 + units as i32) as u8
}

/// Its bits: `powi` is a loop, and models have billions of values.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The value of a byte.
pub(crate) fn decode(byte: u8) -> f32 {
    let (exponent, units) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => units * 2.0_f32.powi(-9),
        _ => (8.0 + units) * 2.0_f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_itself_and_what_lies_between_goes_to_the_nearer_one() {
        for byte in 0..=255_u8 {
            let value = decode(byte);
            if value.is_nan() {
                assert_eq!(encode(value) & 0x7f, 0x7f);
                continue;
            }
            assert_eq!(encode(value), byte, "{value}");
            if byte & 0x7f < 0x7e {
                let (next, even) = (decode(byte + 1), byte + byte % 2);
                let middle = f32::midpoint(value, next);
                assert_eq!(encode(middle), even, "{value} {next}");
                assert_eq!(encode(middle + (value - middle) * 1e-3), byte);
                assert_eq!(encode(middle + (next - middle) * 1e-3), byte + 1);
            }
        }
        assert_eq!([decode(0x38), decode(0x7e), decode(1)], [1.0, LARGEST, 0.001_953_125]);
        assert_eq!([1e9, f32::INFINITY, -1e9].map(encode), [0x7e, 0x7e, 0xfe]);
    }
}
