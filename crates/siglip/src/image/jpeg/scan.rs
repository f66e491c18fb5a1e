//! Scans: which blocks they hold, in which order, and where the blocks go.

use super::bits::Bits;
use super::frame::{Component, Frame};
use super::huffman::Huffman;
use super::progressive::{self, Band};
use super::{Decoder, JpegError, idct, sequential};

/// One component of a scan.
struct Part {
    /// Its place among the frame's components.
    index: usize,
    /// Which Huffman tables it uses.
    dc: usize,
    ac: usize,
}

/// A block's component (its place in the scan and in the frame) and its place among the component's blocks.
struct Place {
    part: usize,
    row: usize,
    column: usize,
}

/// What is carried from block to block, and reset by a restart marker.
struct Carried<'a> {
    bits: Bits<'a>,
    predictors: [i32; 4],
    blocks_to_skip: u32,
}

const NO_DC: JpegError = JpegError::Missing { what: "a DC Huffman table" };
const NO_AC: JpegError = JpegError::Missing { what: "an AC Huffman table" };
const MALFORMED: JpegError = JpegError::Segment { marker: "SOS" };

/// What a component's blocks are decoded with, in the only scan of a sequential file.
struct Tables<'a> {
    dc: &'a Huffman,
    ac: &'a Huffman,
    quantization: [i16; 64],
    /// Bytes from row to row of the component's plane.
    stride: usize,
}

/// The only scan of a sequential file: entropy decoding and transform block by block.
///
/// Types and not closures do the work that vector instructions speed up: the call of a closure is not always inlined
/// into the code that is compiled for the processor at hand.
struct OnlyScan<'s, 'd> {
    frame: &'s Frame,
    parts: &'s [Part],
    interval: usize,
    carried: &'s mut Carried<'d>,
    tables: &'s [Tables<'s>],
    planes: &'s mut [Vec<u8>],
}

impl pulp::NullaryFnOnce for OnlyScan<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let OnlyScan { frame, parts, interval, carried, tables, planes } = self;
        walk(frame, parts, interval, carried, &mut Samples { parts, tables, planes });
    }
}

/// Puts the samples of each block straight into their plane.
struct Samples<'s> {
    parts: &'s [Part],
    tables: &'s [Tables<'s>],
    planes: &'s mut [Vec<u8>],
}

impl EachBlock for Samples<'_> {
    /// Decodes a block; gray, if the data does not reach it.
    #[inline(always)]
    fn block(&mut self, carried: Option<&mut Carried>, place: Place) {
        let Tables { dc, ac, quantization, stride } = &self.tables[place.part];
        let mut block = [0; 64];
        let mut last = 0;
        if let Some(Carried { bits, predictors, .. }) = carried {
            last = sequential::decode_block(bits, dc, ac, &mut predictors[place.part], &mut block);
        }
        let plane = &mut self.planes[self.parts[place.part].index];
        let plane = plane.get_mut(place.row * 8 * stride + place.column * 8..).unwrap_or_default();
        if last == 0 {
            idct::flat_block(block[0], quantization[0], plane, *stride);
        } else {
            idct::block(&block, quantization, plane, *stride);
        }
    }
}

/// Makes the samples of one component.
struct Transform<'a> {
    coefficients: &'a [[i16; 64]],
    /// Blocks in a row of blocks.
    across: usize,
    table: &'a [i16; 64],
    plane: &'a mut [u8],
    /// Bytes from row to row of the plane.
    stride: usize,
}

impl pulp::NullaryFnOnce for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Transform { coefficients, across, table, plane, stride } = self;
        for (blocks, plane) in coefficients.chunks(across).zip(plane.chunks_mut(stride * 8)) {
            for (column, block) in blocks.iter().enumerate() {
                idct::block(block, table, &mut plane[column * 8..], stride);
            }
        }
    }
}

impl Decoder<'_> {
    /// Decodes the scan that begins after the SOS segment `header`.
    pub(super) fn scan(&mut self, header: &[u8]) -> Result<(), JpegError> {
        let frame = self.frame.as_ref().ok_or(JpegError::Missing { what: "a frame" })?;
        let (parts, band) = parse(header, frame)?;
        for part in &parts {
            let (Some(component), Some(table)) =
                (frame.components.get(part.index), self.tables.get_mut(part.index))
            else {
                return Err(MALFORMED);
            };
            if table.is_none() {
                *table = *self.quantization.get(component.quantization).unwrap_or(&None);
            }
        }
        let mut carried =
            Carried { bits: Bits::new(self.data, self.position), predictors: [0; 4], blocks_to_skip: 0 };
        let interval = self.restart_interval;
        let whole = parts.len() == frame.components.len();

        if !frame.progressive && whole && self.coefficients.is_empty() {
            // The only scan: blocks become samples at once, and no coefficients are kept.
            self.planes = frame.components.iter().map(new_plane).collect();
            let tables = parts
                .iter()
                .map(|part| {
                    let dc = table(&self.dc, part.dc, NO_DC).and_then(Huffman::for_dc)?;
                    let ac = table(&self.ac, part.ac, NO_AC)?;
                    let quantization = self.tables.get(part.index).copied().flatten();
                    let quantization =
                        quantization.ok_or(JpegError::Missing { what: "a quantization table" })?;
                    let stride = frame.components.get(part.index).ok_or(MALFORMED)?.stride();
                    Ok(Tables { dc, ac, quantization, stride })
                })
                .collect::<Result<Vec<_>, JpegError>>()?;
            let (tables, planes) = (&tables[..], &mut self.planes[..]);
            let (parts, carried) = (&parts[..], &mut carried);
            pulp::Arch::new().dispatch(OnlyScan { frame, parts, interval, carried, tables, planes });
        } else {
            if self.coefficients.is_empty() {
                let blocks =
                    |component: &Component| vec![[0; 64]; component.padded_across * component.padded_down];
                self.coefficients = frame.components.iter().map(blocks).collect();
            }
            let coefficients = &mut self.coefficients;
            let across = |part: usize| {
                let component = &frame.components[parts[part].index];
                (parts[part].index, component.padded_across)
            };
            let dc = |part: &Part| table(&self.dc, part.dc, NO_DC).and_then(Huffman::for_dc);
            let ac = |part: &Part| table(&self.ac, part.ac, NO_AC);
            // Each kind of scan is a loop of its own; blocks that the data does not reach stay as they are.
            let mut each = |decode: &mut dyn FnMut(&mut Carried, usize, &mut [i16; 64])| {
                walk(
                    frame,
                    &parts,
                    interval,
                    &mut carried,
                    &mut |carried: Option<&mut Carried>, place: Place| {
                        let (index, across) = across(place.part);
                        let block = &mut coefficients[index][place.row * across + place.column];
                        if let Some(carried) = carried {
                            decode(carried, place.part, block);
                        }
                    },
                );
            };
            match band {
                _ if !frame.progressive => {
                    let dc = parts.iter().map(dc).collect::<Result<Vec<_>, _>>()?;
                    let ac = parts.iter().map(ac).collect::<Result<Vec<_>, _>>()?;
                    each(&mut |carried, part, block| {
                        let predictor = &mut carried.predictors[part];
                        sequential::decode_block(&mut carried.bits, dc[part], ac[part], predictor, block);
                    });
                }
                Band { first: 0, high: 0, low, .. } => {
                    let dc = parts.iter().map(dc).collect::<Result<Vec<_>, _>>()?;
                    each(&mut |carried, part, block| {
                        let predictor = &mut carried.predictors[part];
                        progressive::dc_first(&mut carried.bits, dc[part], low, predictor, block);
                    });
                }
                Band { first: 0, low, .. } => {
                    each(&mut |carried, _, block| progressive::dc_refine(&mut carried.bits, low, block));
                }
                Band { high: 0, .. } => {
                    let ac = ac(parts.first().ok_or(MALFORMED)?)?;
                    each(&mut |Carried { bits, blocks_to_skip, .. }, _, block| {
                        progressive::ac_first(bits, ac, band, blocks_to_skip, block);
                    });
                }
                _ => {
                    let ac = ac(parts.first().ok_or(MALFORMED)?)?;
                    each(&mut |Carried { bits, blocks_to_skip, .. }, _, block| {
                        progressive::ac_refine(bits, ac, band, blocks_to_skip, block);
                    });
                }
            }
        }
        if carried.bits.truncated() {
            return Err(JpegError::Truncated);
        }
        self.position = carried.bits.resume_at();
        Ok(())
    }

    /// Makes samples of the coefficients that came in several scans.
    pub(super) fn finish_planes(&mut self) -> Result<(), JpegError> {
        let Some(frame) = &self.frame else { return Err(JpegError::Missing { what: "a frame" }) };
        if !self.planes.is_empty() {
            return Ok(());
        }
        if self.coefficients.is_empty() {
            return Err(JpegError::Missing { what: "a scan" });
        }
        for ((component, coefficients), table) in
            frame.components.iter().zip(std::mem::take(&mut self.coefficients)).zip(&self.tables)
        {
            // A component without a scan has no table either; its coefficients are all zero.
            let table = table.unwrap_or([0; 64]);
            let stride = component.stride();
            let mut plane = new_plane(component);
            let across = component.padded_across.max(1);
            let (coefficients, out) = (&coefficients[..], &mut plane[..]);
            pulp::Arch::new().dispatch(Transform { coefficients, across, table: &table, plane: out, stride });
            self.planes.push(plane);
        }
        Ok(())
    }
}

fn table(tables: &[Option<Huffman>; 4], number: usize, missing: JpegError) -> Result<&Huffman, JpegError> {
    tables.get(number).and_then(Option::as_ref).ok_or(missing)
}

fn new_plane(component: &Component) -> Vec<u8> {
    vec![0; component.padded_across * component.padded_down * 64]
}

/// Reads an SOS segment.
fn parse(header: &[u8], frame: &Frame) -> Result<(Vec<Part>, Band), JpegError> {
    let (&count, rest) = header.split_first().ok_or(MALFORMED)?;
    let (entries, rest) = rest.split_at_checked(usize::from(count) * 2).ok_or(MALFORMED)?;
    let &[first, last, precision] = rest else { return Err(MALFORMED) };
    let mut parts: Vec<Part> = Vec::with_capacity(4);
    for entry in entries.chunks_exact(2) {
        let &[id, tables] = entry else { return Err(MALFORMED) };
        let index = frame.components.iter().position(|component| component.id == id).ok_or(MALFORMED)?;
        if parts.iter().any(|part| part.index == index) {
            return Err(MALFORMED);
        }
        parts.push(Part { index, dc: usize::from(tables >> 4), ac: usize::from(tables & 15) });
    }
    let band = Band {
        first: usize::from(first),
        last: usize::from(last),
        high: u32::from(precision >> 4),
        low: u32::from(precision & 15),
    };
    let blocks: usize =
        parts.iter().filter_map(|part| frame.components.get(part.index)).map(|part| part.h * part.v).sum();
    let ac_alone = band.first <= band.last && band.last < 64 && parts.len() == 1;
    let one_bit_more = band.high == 0 || band.low + 1 == band.high;
    let sound = !frame.progressive
        || (if band.first == 0 { band.last == 0 } else { ac_alone } && band.low <= 13 && one_bit_more);
    if parts.is_empty() || (parts.len() > 1 && blocks > 10) || !sound {
        return Err(MALFORMED);
    }
    Ok((parts, band))
}

/// What is done with each block of a scan.
trait EachBlock {
    /// Takes the next block of the data; without the carried state, if the data does not reach it.
    fn block(&mut self, carried: Option<&mut Carried>, place: Place);
}

impl<F: FnMut(Option<&mut Carried>, Place)> EachBlock for F {
    fn block(&mut self, carried: Option<&mut Carried>, place: Place) {
        self(carried, place);
    }
}

/// Goes through the blocks of the scan in the order of the data.
#[inline(always)]
fn walk(frame: &Frame, parts: &[Part], interval: usize, carried: &mut Carried, each: &mut impl EachBlock) {
    let single = if let [part] = parts { frame.components.get(part.index) } else { None };
    // One component alone comes block by block; several come in MCUs of some blocks of each.
    let (across, down) = match single {
        Some(component) => (component.blocks_across, component.blocks_down),
        None => (frame.width.div_ceil(8 * frame.h_max), frame.height.div_ceil(8 * frame.v_max)),
    };
    let mut until_restart = interval;
    let mut next_restart = 0u8;
    let mut starved = false;
    for mcu_row in 0..down {
        for mcu_column in 0..across {
            if interval > 0 && until_restart == 0 {
                if carried.bits.restart(next_restart) {
                    starved = false;
                }
                next_restart = (next_restart + 1) & 7;
                until_restart = interval;
                carried.predictors = [0; 4];
                carried.blocks_to_skip = 0;
            }
            until_restart = until_restart.wrapping_sub(1);
            for (part, Part { index, .. }) in parts.iter().enumerate() {
                let Some(component) = frame.components.get(*index) else { continue };
                let (h, v) = if single.is_some() { (1, 1) } else { (component.h, component.v) };
                for row in mcu_row * v..(mcu_row + 1) * v {
                    for column in mcu_column * h..(mcu_column + 1) * h {
                        each.block((!starved).then_some(&mut *carried), Place { part, row, column });
                    }
                }
            }
            starved |= carried.bits.starved();
        }
        // The bytes ran out: the file will be refused, and there is no use in going on.
        if starved && carried.bits.truncated() {
            return;
        }
    }
}
