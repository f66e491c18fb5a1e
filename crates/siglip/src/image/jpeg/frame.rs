//! The frame header and the geometry that follows from it.

use super::JpegError;

/// A frame: what the SOF segment says.
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) progressive: bool,
    pub(super) components: Vec<Component>,
    /// The largest sampling factors of its components.
    pub(super) h_max: usize,
    pub(super) v_max: usize,
}

/// One component, luma or chroma or the like.
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors: blocks in an MCU, across and down.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Which quantization table it uses.
    pub(super) quantization: usize,
    /// Samples that count.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Blocks that hold them.
    pub(super) blocks_across: usize,
    pub(super) blocks_down: usize,
    /// Blocks with those that fill up the last MCUs.
    pub(super) padded_across: usize,
    pub(super) padded_down: usize,
}

impl Component {
    /// Bytes from one row of samples to the next.
    pub(super) fn stride(&self) -> usize {
        self.padded_across * 8
    }
}

impl Frame {
    /// Reads a SOF segment. The size is not checked.
    pub(super) fn parse(segment: &[u8], progressive: bool) -> Result<Frame, JpegError> {
        let [precision, h1, h0, w1, w0, count, rest @ ..] = segment else {
            return Err(JpegError::Segment { marker: "SOF" });
        };
        if *precision != 8 {
            return Err(JpegError::Unsupported { what: format!("{precision} bits a sample") });
        }
        let (width, height) =
            (usize::from(u16::from_be_bytes([*w1, *w0])), usize::from(u16::from_be_bytes([*h1, *h0])));
        if rest.len() != usize::from(*count) * 3 {
            return Err(JpegError::Segment { marker: "SOF" });
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(JpegError::Unsupported { what: format!("{count} components") });
        }
        let factors: Vec<(u8, usize, usize, usize)> = rest
            .chunks_exact(3)
            .filter_map(|entry| <[u8; 3]>::try_from(entry).ok())
            .map(|[id, factors, table]| {
                (id, usize::from(factors >> 4), usize::from(factors & 15), usize::from(table))
            })
            .collect();
        let sound = |&(_, h, v, table): &(u8, usize, usize, usize)| {
            (1..=4).contains(&h) && (1..=4).contains(&v) && table < 4
        };
        if !factors.iter().all(sound) {
            return Err(JpegError::Segment { marker: "SOF" });
        }
        let h_max = factors.iter().map(|factor| factor.1).max().unwrap_or(1);
        let v_max = factors.iter().map(|factor| factor.2).max().unwrap_or(1);
        let (mcus_across, mcus_down) = (width.div_ceil(8 * h_max), height.div_ceil(8 * v_max));
        let components = factors
            .into_iter()
            .map(|(id, h, v, quantization)| {
                if h_max % h != 0 || v_max % v != 0 {
                    return Err(JpegError::Unsupported { what: "fractional sampling factors".to_owned() });
                }
                Ok(Component {
                    id,
                    h,
                    v,
                    quantization,
                    width: (width * h).div_ceil(h_max),
                    height: (height * v).div_ceil(v_max),
                    blocks_across: (width * h).div_ceil(h_max * 8),
                    blocks_down: (height * v).div_ceil(v_max * 8),
                    padded_across: mcus_across * h,
                    padded_down: mcus_down * v,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Frame { width, height, progressive, components, h_max, v_max })
    }
}
