//! The header of a safetensors file: 8 bytes with its length, then JSON, then the tensors' bytes.
//!
//! The format (<https://huggingface.co/docs/safetensors>) asks that the tensors fill the rest of the file
//! exactly, and so a file that was cut short, or whose header lies, is told from a good one here, before
//! anything is read from it. Read by hand and not by the `safetensors` crate, because its 0.8.0 adds up offsets
//! without a check for overflow and its errors do not say which tensor they are about.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Dtype;

/// A tensor as the header describes it.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// The name of its number format: [`Dtype`]'s or another.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Its bytes in the file. Inside the file, and no other tensor's.
    pub(crate) range: Range<usize>,
}

/// The longest header that is accepted, as everywhere: JSON of 100 MB is no model.
const LONGEST_HEADER: usize = 100_000_000;

/// Bytes of the header's length.
const PREFIX: usize = 8;

/// Where the header of a file of `file_len` bytes ends and the tensors' bytes start, by the file's first bytes. The
/// error is a clause that says what is wrong.
pub(crate) fn end(start: &[u8], file_len: usize) -> Result<usize, String> {
    let (length, _) = start
        .split_first_chunk::<PREFIX>()
        .ok_or("it is too short to hold the 8 bytes of a header's length")?;
    let length = u64::from_le_bytes(*length);
    let available = file_len.saturating_sub(PREFIX);
    let header = usize::try_from(length).ok().filter(|length| *length <= LONGEST_HEADER.min(available));
    header.map(|header| PREFIX + header).ok_or_else(|| {
        format!(
            "its first 8 bytes say that a header of {length} bytes follows, but {available} bytes do, and at most \
             {LONGEST_HEADER} are allowed"
        )
    })
}

/// Reads the header of a file of `file_len` bytes, of which `start` holds the header at least. The error is a clause
/// that says what is wrong.
pub(crate) fn parse(start: &[u8], file_len: usize) -> Result<BTreeMap<String, TensorInfo>, String> {
    let data = end(start, file_len)?;
    let header = start.get(PREFIX..data).ok_or("it is cut short in its header")?;
    let Header { tensors, .. } = serde_json::from_slice(header)
        .map_err(|error| format!("its header of {} bytes is not as it must be: {error}", header.len()))?;

    check_layout(&tensors, file_len - data)?;
    let located = tensors.into_iter().map(|(name, raw)| {
        let (start, end) = raw.data_offsets;
        // In bounds, and so without overflow: the layout was checked against the length of the file.
        let range = data + start..data + end;
        (name, TensorInfo { dtype: raw.dtype, shape: raw.shape, range })
    });
    Ok(located.collect())
}

#[derive(Deserialize)]
struct Header {
    /// Free text of whoever wrote the file.
    #[serde(rename = "__metadata__")]
    _metadata: Option<IgnoredAny>,
    #[serde(flatten)]
    tensors: BTreeMap<String, RawTensor>,
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<usize>,
    /// From the end of the header on.
    data_offsets: (usize, usize),
}

/// Checks that the tensors, put in the order of their offsets, fill `available` bytes without a hole or an overlap,
/// and that each one's length is what its shape and type ask for.
fn check_layout(tensors: &BTreeMap<String, RawTensor>, available: usize) -> Result<(), String> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, tensor)| tensor.data_offsets);
    let mut filled = 0;
    for (name, tensor) in in_order {
        let (start, end) = tensor.data_offsets;
        if start != filled {
            let wrong = if start < filled { "overlaps the one before it" } else { "leaves a hole before it" };
            return Err(format!(
                "tensor `{name}` {wrong}: it starts at {start}, and the one before it ends at {filled}"
            ));
        }
        if end < start || end > available {
            return Err(format!(
                "tensor `{name}` is said to be at {start} to {end} of {available} bytes of data; the file is cut \
                 short or its header is wrong"
            ));
        }
        if let Some(dtype) = Dtype::from_name(&tensor.dtype) {
            let elements = tensor.shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
            if elements.and_then(|elements| elements.checked_mul(dtype.size())) != Some(end - start) {
                return Err(format!(
                    "tensor `{name}` of type {dtype} and shape {:?} is said to take {} bytes",
                    tensor.shape,
                    end - start
                ));
            }
        }
        filled = end;
    }
    if filled != available {
        return Err(format!(
            "its tensors take {filled} bytes, but {available} follow the header; it has something appended"
        ));
    }
    Ok(())
}
