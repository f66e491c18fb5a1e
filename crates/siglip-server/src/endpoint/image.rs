//! Pixel values: as they come, or made of image files.

use bytes::Bytes;
use futures_util::future::try_join_all;
use siglip::image::{ImageProcessor, decode_base64};
use siglip_protocol::{CheckedInput, InferRequest, TensorData};

use super::text::strings;
use super::{flag, unprepared};
use crate::batcher::Rows;
use crate::catalogue::VisionTower;
use crate::error::InferError;

/// The values of PIXEL_VALUES.
pub(super) fn read_pixels(count: usize, inputs: Vec<CheckedInput>) -> Rows {
    match inputs.into_iter().next().map(|input| input.data) {
        Some(TensorData::Fp32(pixels)) => Rows::pixels(count, pixels),
        Some(TensorData::Raw(bytes)) => Rows::pixel_bytes(count, bytes),
        // Not after the check; the engine would say so.
        _ => Rows::pixels(count, Vec::new()),
    }
}

/// The pixel values of each image of INPUT_IMAGE, decoded and resized on the pool.
pub(super) async fn pixel_values(
    tower: &VisionTower,
    input: Option<CheckedInput>,
    request: &InferRequest,
) -> Result<Vec<Vec<f32>>, InferError> {
    let base64 = flag(request, "base64_encoded")?;
    let images = strings(input).into_iter().enumerate().map(|(row, image)| async move {
        // Endpoints for images are there only where there is a processor.
        let processor = tower.processor.clone().ok_or(InferError::Preparation)?;
        let prepared = tower.pool.run(move || prepare(&processor, &image, base64, row)).await;
        prepared.map_err(|error| unprepared(request, error))?
    });
    try_join_all(images).await
}

fn prepare(
    processor: &ImageProcessor,
    image: &Bytes,
    base64: bool,
    row: usize,
) -> Result<Vec<f32>, InferError> {
    let decoded;
    let image = if base64 {
        decoded = decode_base64(image).map_err(|error| InferError::Base64 { row, error })?;
        &decoded
    } else {
        &image[..]
    };
    let mut pixels = vec![0.0; processor.output_len()];
    processor.process(image, &mut pixels).map_err(|error| {
        // Base64 where bytes were announced is the commonest mistake, and "not an image" would not help.
        let base64 = !base64 && decode_base64(image).is_ok_and(|bytes| !bytes.is_empty());
        InferError::Image { row, hint: if base64 { BASE64_HINT } else { "" }, error }
    })?;
    Ok(pixels)
}

const BASE64_HINT: &str = "; if it is base64, set the parameter 'base64_encoded' to true";
