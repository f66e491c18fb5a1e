//! `kernels/embedding.cu`: how rows begin.

use super::Kernels;
use crate::error::CudaError;
use crate::memory::View;
use crate::stream::Stream;

/// `x[row] = tokens[ids[row]] + positions[row mod positions_len]`, with the residual stream's scale.
pub(crate) struct TokenEmbedding<'a> {
    /// u32, `[rows]`, each below `vocabulary`: the engine checks what comes from outside.
    pub(crate) ids: View<'a>,
    /// `[vocabulary, hidden]`.
    pub(crate) tokens: View<'a>,
    /// f32, `[positions_len, hidden]`.
    pub(crate) positions: View<'a>,
    /// `[rows, hidden]`.
    pub(crate) x: View<'a>,
    pub(crate) rows: usize,
    pub(crate) vocabulary: usize,
    pub(crate) positions_len: usize,
}

#[repr(C)]
struct TokenEmbeddingParameters {
    ids: u64,
    tokens: u64,
    positions: u64,
    x: u64,
    positions_len: u32,
}

impl TokenEmbedding<'_> {
    pub(crate) fn launch(&self, kernels: &Kernels, stream: &Stream) -> Result<(), CudaError> {
        let constants = &kernels.constants;
        let (hidden, size) = (constants.hidden, constants.number.beside().size());
        let parameters = TokenEmbeddingParameters {
            ids: self.ids.holding(self.rows * 4),
            tokens: self.tokens.holding(self.vocabulary * hidden * size),
            positions: self.positions.holding(self.positions_len * hidden * 4),
            x: self.x.holding(self.rows * hidden * size),
            positions_len: self.positions_len as u32,
        };
        // SAFETY: the sizes were checked above; a block a row.
        unsafe { kernels.launch(kernels.token_embedding, [self.rows, 1, 1], parameters, stream) }
    }
}

/// Cuts images into patches, a row each, and starts each row's sum with its position.
pub(crate) struct Patches<'a> {
    /// f32, `[items, channels, side, side]`.
    pub(crate) pixels: View<'a>,
    /// f32, `[grid², hidden]`.
    pub(crate) positions: View<'a>,
    /// `[items · grid², stride]`.
    pub(crate) patches: View<'a>,
    /// `[items · grid², hidden]`.
    pub(crate) x: View<'a>,
    pub(crate) items: usize,
    pub(crate) shape: PatchShape,
}

/// How an image is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PatchShape {
    pub(crate) channels: usize,
    /// Pixels along an image's side.
    pub(crate) side: usize,
    /// Pixels along a patch's side.
    pub(crate) patch: usize,
}

impl PatchShape {
    /// Patches along a side; pixels beyond them are dropped.
    pub(crate) fn grid(&self) -> usize {
        self.side / self.patch
    }

    /// Values of a patch.
    pub(crate) fn len(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Values of a row: a multiple of 16 bytes, as tensor cores want it. so400m's patches have 588, which is none.
    pub(crate) fn stride(&self) -> usize {
        self.len().next_multiple_of(8)
    }
}

#[repr(C)]
struct PatchesParameters {
    pixels: u64,
    positions: u64,
    patches: u64,
    x: u64,
    channels: u32,
    side: u32,
    patch: u32,
    grid: u32,
    stride: u32,
}

impl Patches<'_> {
    pub(crate) fn launch(&self, kernels: &Kernels, stream: &Stream) -> Result<(), CudaError> {
        let constants = &kernels.constants;
        let PatchShape { channels, side, patch } = self.shape;
        let positions = self.shape.grid() * self.shape.grid();
        let (rows, size) = (self.items * positions, constants.number.beside().size());
        let parameters = PatchesParameters {
            pixels: self.pixels.holding(self.items * channels * side * side * 4),
            positions: self.positions.holding(positions * constants.hidden * 4),
            patches: self.patches.holding(rows * self.shape.stride() * size),
            x: self.x.holding(rows * constants.hidden * size),
            channels: channels as u32,
            side: side as u32,
            patch: patch as u32,
            grid: self.shape.grid() as u32,
            stride: self.shape.stride() as u32,
        };
        // SAFETY: the sizes were checked above; a block a patch.
        unsafe { kernels.launch(kernels.patches, [rows, 1, 1], parameters, stream) }
    }
}

/// The same on the host, to the bit.
pub(crate) mod twin {
    use super::PatchShape;
    use crate::number::Number;

    /// Returns x.
    pub(crate) fn token_embedding(
        ids: &[u32],
        tokens: &[f32],
        positions: &[f32],
        hidden: usize,
        number: Number,
    ) -> Vec<f32> {
        let sum =
            |(token, position): (&f32, &f32)| number.round((token + position) * number.residual_scale());
        let positions_len = positions.len() / hidden;
        let row = |(row, id): (usize, &u32)| {
            let token = &tokens[*id as usize * hidden..][..hidden];
            let position = &positions[row % positions_len * hidden..][..hidden];
            token.iter().zip(position).map(sum).collect::<Vec<_>>()
        };
        ids.iter().enumerate().flat_map(row).collect()
    }

    /// Returns the rows of patches.
    pub(crate) fn patches(pixels: &[f32], shape: PatchShape, number: Number) -> Vec<f32> {
        let PatchShape { channels, side, patch } = shape;
        let grid = shape.grid();
        let mut rows = Vec::new();
        for image in pixels.chunks(channels * side * side) {
            for index in 0..grid * grid {
                for i in 0..shape.stride() {
                    let (channel, y, x) = (i / (patch * patch), i % (patch * patch) / patch, i % patch);
                    let at = (channel * side + index / grid * patch + y) * side + index % grid * patch + x;
                    rows.push(if channel < channels { number.round(image[at]) } else { 0.0 });
                }
            }
        }
        rows
    }
}
