//! Numbers that are the same in every run, for what is tried on a card before it is used.

/// xorshift32.
pub(crate) struct Random(u32);

impl Random {
    /// For a seed of any value.
    pub(crate) fn seeded(seed: u32) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9) | 1)
    }

    /// Any number but zero, which the state never is.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// Values evenly spread from -`most` to `most`.
    pub(crate) fn values(&mut self, len: usize, most: f32) -> Vec<f32> {
        (0..len).map(|_| (self.bits() >> 8) as f32 / (1 << 23) as f32 * most - most).collect()
    }

    /// A value of either sign below `largest`, of a magnitude that is spread over 14 powers of two, so that hardly any sum of
    /// such values' products is exact.
    pub(crate) fn spread(&mut self, largest: f32) -> f32 {
        let bits = self.bits();
        let significand = 1.0 + (bits >> 9) as f32 / (1 << 23) as f32;
        let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
        sign * largest / 2.0 * significand * 0.5_f32.powi((bits >> 1 & 0xff) as i32 % 14)
    }
}
