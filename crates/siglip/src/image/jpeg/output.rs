//! From planes of samples to RGB pixels.

use super::color::{self, Colors};
use super::frame::Frame;
use super::upsample::{self, Upsampling};

/// Brings all components to the size of the image and converts them: width × height × 3 bytes.
pub(super) fn rgb(frame: &Frame, planes: &[Vec<u8>], colors: Colors) -> Vec<u8> {
    let mut pixels = vec![0; frame.width * frame.height * 3];
    pulp::Arch::new().dispatch(Fill { frame, planes, colors, pixels: &mut pixels });
    pixels
}

/// What fills the pixels: a type and not a closure, so that its code is compiled for the processor at hand.
struct Fill<'a> {
    frame: &'a Frame,
    planes: &'a [Vec<u8>],
    colors: Colors,
    pixels: &'a mut [u8],
}

impl pulp::NullaryFnOnce for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Fill { frame, planes, colors, pixels } = self;
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
}
