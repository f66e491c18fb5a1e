//! Chroma upsampling: libjpeg's "fancy" triangle filters (`jdsample.c`), which Pillow uses, to the bit.

use super::frame::{Component, Frame};

/// How a component is brought to the size of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upsampling {
    /// It has it already.
    None,
    /// Twice as wide, 3/4 of the nearer and 1/4 of the further sample.
    Wider,
    /// Twice as high, the same way.
    Higher,
    /// Both.
    WiderAndHigher,
    /// Samples repeated so many times across and down.
    Repeat(usize, usize),
}

impl Upsampling {
    /// What libjpeg picks for `component`.
    pub(super) fn of(component: &Component, frame: &Frame) -> Upsampling {
        // Its filters look at two neighbours, so that it repeats what is narrower.
        let fancy = component.width > 2;
        match (frame.h_max / component.h, frame.v_max / component.v) {
            (1, 1) => Upsampling::None,
            (2, 1) if fancy => Upsampling::Wider,
            (1, 2) => Upsampling::Higher,
            (2, 2) if fancy => Upsampling::WiderAndHigher,
            (across, down) => Upsampling::Repeat(across, down),
        }
    }
}

/// Makes row `y` of the image from a component's `plane`. `sums` is scratch space; `out` gets at least the image's
/// width.
#[inline(always)]
pub(super) fn row(
    upsampling: Upsampling,
    component: &Component,
    plane: &[u8],
    y: usize,
    sums: &mut Vec<i16>,
    out: &mut [u8],
) {
    let samples = |row: usize| {
        let start = row.min(component.height.saturating_sub(1)) * component.stride();
        plane.get(start..start + component.width).unwrap_or_default()
    };
    // The row that the image's row lies in, and the one it lies next to; past the edges the outermost again.
    let (near, far) = (y / 2, if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { y / 2 + 1 });
    match upsampling {
        Upsampling::None => {
            let samples = samples(y);
            if let Some(out) = out.get_mut(..samples.len()) {
                out.copy_from_slice(samples);
            }
        }
        Upsampling::Wider => {
            sums.clear();
            sums.extend(samples(y).iter().map(|&sample| i16::from(sample)));
            widen::<1, 2, 2>(sums, out);
        }
        Upsampling::Higher => {
            let bias = if y.is_multiple_of(2) { 1 } else { 2 };
            for ((out, &near), &far) in out.iter_mut().zip(samples(near)).zip(samples(far)) {
                *out = ((u16::from(near) * 3 + u16::from(far) + bias) >> 2) as u8;
            }
        }
        Upsampling::WiderAndHigher => {
            sums.clear();
            sums.extend(
                samples(near)
                    .iter()
                    .zip(samples(far))
                    .map(|(&near, &far)| i16::from(near) * 3 + i16::from(far)),
            );
            widen::<8, 7, 4>(sums, out);
        }
        Upsampling::Repeat(across, down) => {
            for (out, &sample) in out.chunks_mut(across).zip(samples(y / down)) {
                out.fill(sample);
            }
        }
    }
}

/// Doubles a row: each sample becomes two, which lean to the left and to the right neighbour; each end is its own
/// neighbour. `LEFT` and `RIGHT` are what is added before `SHIFT` bits are dropped.
#[inline(always)]
fn widen<const LEFT: i16, const RIGHT: i16, const SHIFT: u32>(samples: &[i16], out: &mut [u8]) {
    let blend = |near: i16, far: i16, bias: i16| ((near * 3 + far + bias) >> SHIFT) as u8;
    let ([first, .., last], [second, ..], [.., last_but_one, _]) =
        (samples, samples.get(1..).unwrap_or_default(), samples)
    else {
        return;
    };
    let count = samples.len();
    let Some(out) = out.get_mut(..2 * count) else { return };
    let (pairs, _) = out.as_chunks_mut::<2>();
    let (Some((head, pairs)), inner) =
        (pairs.split_first_mut(), samples.get(1..count - 1).unwrap_or_default())
    else {
        return;
    };
    *head = [blend(*first, *first, LEFT), blend(*first, *second, RIGHT)];
    let (before, after) = (samples, samples.get(2..).unwrap_or_default());
    for ((([left, right], &sample), &before), &after) in pairs.iter_mut().zip(inner).zip(before).zip(after) {
        *left = blend(sample, before, LEFT);
        *right = blend(sample, after, RIGHT);
    }
    if let Some(tail) = pairs.last_mut() {
        *tail = [blend(*last, *last_but_one, LEFT), blend(*last, *last, RIGHT)];
    }
}
