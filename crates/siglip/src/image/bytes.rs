//! Bytes in rows and columns, eight in a word.

/// Transposes 8×8 bytes, each word a row, by swapping quarters, then quarters of those, then bytes.
#[inline(always)]
pub(super) fn transpose(words: &mut [u64; 8]) {
    let [a, b, c, d, e, f, g, h] = words;
    for (upper, lower) in [(&mut *a, &mut *e), (&mut *b, &mut *f), (&mut *c, &mut *g), (&mut *d, &mut *h)] {
        swap_bits::<32>(upper, lower, 0x0000_0000_FFFF_FFFF);
    }
    for (upper, lower) in [(&mut *a, &mut *c), (&mut *b, &mut *d), (&mut *e, &mut *g), (&mut *f, &mut *h)] {
        swap_bits::<16>(upper, lower, 0x0000_FFFF_0000_FFFF);
    }
    for (upper, lower) in [(a, b), (c, d), (e, f), (g, h)] {
        swap_bits::<8>(upper, lower, 0x00FF_00FF_00FF_00FF);
    }
}

/// Exchanges the part of `lower` under `mask` with the part of `upper` that is `BITS` further up.
#[inline(always)]
pub(super) fn swap_bits<const BITS: u32>(upper: &mut u64, lower: &mut u64, mask: u64) {
    let difference = ((*upper >> BITS) ^ *lower) & mask;
    *lower ^= difference;
    *upper ^= difference << BITS;
}
