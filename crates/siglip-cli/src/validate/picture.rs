//! The picture of what is taken for what: a matrix as a PNG, true classes down, predicted ones across.

use super::results::Results;

/// The most pixels on a side; more classes than that share them.
const SIDE: usize = 300;
/// Right and wrong predictions, as on both light and dark paper.
const RIGHT: [u8; 3] = [0x3d, 0x86, 0xf0];
const WRONG: [u8; 3] = [0xe2, 0x4a, 0x33];

/// The file. The more images of a true class were taken for a class, the more solid is their pixel; a pixel that stands
/// for several classes shows their mean.
pub(super) fn png(results: &Results) -> Result<Vec<u8>, png::EncodingError> {
    let classes = results.tallies.len();
    let side = classes.clamp(1, SIDE);
    let at = |class: usize| class * side / classes.max(1);
    let mut images = vec![0usize; side];
    let mut right = vec![0usize; side];
    let mut counts = vec![0usize; side * side];
    for (truth, ranking) in &results.rankings {
        let Some(&(predicted, _)) = ranking.first() else { continue };
        images[at(*truth)] += 1;
        counts[at(*truth) * side + at(predicted)] += 1;
        right[at(*truth)] += usize::from(predicted == *truth);
    }
    let mut pixels = Vec::with_capacity(side * side * 4);
    for (row, counts) in counts.chunks(side).enumerate() {
        for (column, &count) in counts.iter().enumerate() {
            let [r, g, b] = if row == column && 2 * right[row] >= count { RIGHT } else { WRONG };
            let part = count as f64 / images[row].max(1) as f64;
            // The root lifts what is rare: a single image among many must be seen.
            let solid = if count == 0 { 0.0 } else { 0.25 + 0.75 * part.sqrt() };
            pixels.extend_from_slice(&[r, g, b, (255.0 * solid) as u8]);
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, side as u32, side as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(file)
}
