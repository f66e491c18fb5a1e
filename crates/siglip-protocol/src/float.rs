//! Writing floating-point numbers.

/// Appends `values` as JSON numbers with commas between them: each the shortest decimal that reads back as the same
/// `f32`, whether a client reads it as single precision or as double precision and rounds.
///
/// Values must be finite: JSON has no way to write the others. What is not finite is written as `null`; callers refuse
/// such values long before.
pub fn write_f32_list(out: &mut Vec<u8>, values: &[f32]) {
    let start = out.len();
    let room = values.len() * (LONGEST + 1);
    // The room is there at once, so that each number is copied by two moves of a fixed size: a thousand calls of
    // `memcpy` for ten bytes each would cost as much as the conversion.
    out.resize(start + room, 0);
    let mut rest = out.get_mut(start..).unwrap_or_default();
    let mut buffer = zmij::Buffer::new();
    for &value in values {
        let text = match value.to_bits() {
            ODD_ONE => "7.0385307e-26",
            bits if bits == ODD_ONE | 1 << 31 => "-7.0385307e-26",
            _ if value.is_finite() => buffer.format_finite(value),
            _ => "null",
        };
        let Some((cell, _)) = rest.split_first_chunk_mut::<{ LONGEST + 1 }>() else { break };
        copy_short(cell, text.as_bytes());
        if let Some(end) = cell.get_mut(text.len()) {
            *end = b',';
        }
        rest = rest.get_mut(text.len() + 1..).unwrap_or_default();
    }
    let unused = rest.len();
    out.truncate(start + room - unused - usize::from(!values.is_empty()));
}

/// The length of the longest number, with its sign; found by writing them all.
const LONGEST: usize = 16;

/// The one `f32`, but for its sign, whose shortest decimal, 7.038531e-26, lies so close to the middle between it and its
/// neighbour that reading it as `f64` and rounding that gives the neighbour. One more digit helps.
const ODD_ONE: u32 = 0x15ae_43fd;

/// Copies up to [`LONGEST`] bytes.
fn copy_short(to: &mut [u8; LONGEST + 1], from: &[u8]) {
    fn two_moves<const N: usize>(to: &mut [u8], from: &[u8]) -> Option<()> {
        to.first_chunk_mut::<N>()?.copy_from_slice(from.first_chunk::<N>()?);
        to.get_mut(from.len() - N..from.len())?.copy_from_slice(from.last_chunk::<N>()?);
        Some(())
    }
    let copied = if from.len() >= 8 { two_moves::<8>(to, from) } else { two_moves::<4>(to, from) };
    if copied.is_none() {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: &[f32]) -> String {
        let mut out = Vec::new();
        write_f32_list(&mut out, values);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_shortest_that_reads_back() {
        assert_eq!(written(&[]), "");
        assert_eq!(written(&[0.0, -0.0, 1.0, 1.001, 0.1, 1152.0]), "0.0,-0.0,1.0,1.001,0.1,1152.0");
        let extremes =
            [f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1), 1e-7, 3.4e38, 123_456_790.0];
        let text = format!("[{}]", written(&extremes));
        crate::json::parse(text.as_bytes()).unwrap();
        let read: Vec<f32> = serde_json::from_str(&text).unwrap();
        assert_eq!(read, extremes);
        assert_eq!(written(&[f32::NAN, f32::INFINITY]), "null,null");
    }

    /// Single and double precision readers agree on a sample of all floats; the ignored test below takes them all.
    #[test]
    fn reads_back_through_double_precision() {
        reads_back((0..=u32::MAX).step_by(104_729).chain([ODD_ONE, ODD_ONE | 1 << 31]));
    }

    #[test]
    #[ignore = "all four billion floats: minutes in a release build"]
    fn every_float_reads_back_through_double_precision() {
        reads_back(0..=u32::MAX);
    }

    fn reads_back(all: impl Iterator<Item = u32>) {
        let mut text = Vec::new();
        for value in all.map(f32::from_bits).filter(|value| value.is_finite()) {
            text.clear();
            write_f32_list(&mut text, &[value]);
            let text = std::str::from_utf8(&text).unwrap();
            assert_eq!(text.parse::<f32>().unwrap().to_bits(), value.to_bits(), "{text}");
            assert_eq!((text.parse::<f64>().unwrap() as f32).to_bits(), value.to_bits(), "{text}");
        }
    }
}
