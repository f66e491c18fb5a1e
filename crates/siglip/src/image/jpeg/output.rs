//! From planes of samples to RGB pixels.

use super::color::{self, Colors};
use super::frame::Frame;
use super::upsample::{self, Upsampling};

/// Brings all components to the size of the image and converts them: width × height × 3 bytes.
pub(super) fn rgb(frame: &Frame, planes: &[Vec<u8>], colors: Colors) -> Vec<u8> {
    let mut pixels = vec![0; frame.width * frame.height * 3];
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || fill(frame, planes, colors, &mut pixels),
    );
    pixels
}

#[inline(always)]
fn fill(frame: &Frame, planes: &[Vec<u8>], colors: Colors, pixels: &mut [u8]) {
    let upsampling: Vec<Upsampling> =
        frame.components.iter().map(|component| Upsampling::of(component, frame)).collect();
    // A row of each component, with room for the samples that upsampling makes past the image's edge.
    let mut rows = [const { Vec::new() }; 4];
    for row in rows.iter_mut().take(frame.components.len()) {
        *row = vec![0; frame.width.next_multiple_of(8 * frame.h_max)];
    }
    let mut sums = Vec::new();
    for (y, out) in pixels.chunks_exact_mut(frame.width * 3).enumerate() {
        for (((component, plane), &upsampling), row) in
            frame.components.iter().zip(planes).zip(&upsampling).zip(&mut rows)
        {
            upsample::row(upsampling, component, plane, y, &mut sums, row);
        }
        color::row(colors, rows.each_ref().map(Vec::as_slice), out);
    }
}
