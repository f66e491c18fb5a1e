//! From a JPEG's colours to RGB: libjpeg's fixed-point arithmetic (`jdcolor.c`), and what Pillow makes of CMYK.

/// The colours that the components stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    Gray,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

impl Colors {
    /// What libjpeg takes the components to be: by the JFIF marker, Adobe's marker, or their names.
    pub(super) fn of(ids: &[u8], jfif: bool, adobe_transform: Option<u8>) -> Colors {
        match (ids, adobe_transform) {
            ([_], _) => Colors::Gray,
            ([_, _, _], _) if jfif => Colors::YCbCr,
            ([_, _, _], Some(0)) => Colors::Rgb,
            ([_, _, _], Some(_)) => Colors::YCbCr,
            (b"RGB", None) => Colors::Rgb,
            ([_, _, _], None) => Colors::YCbCr,
            (_, None | Some(0)) => Colors::Cmyk,
            (_, Some(_)) => Colors::Ycck,
        }
    }
}

// Fixed point with 16 bits after the point, rounded: 1.402, 0.34414, 0.71414 and 1.772.
const RED_OF_CR: i32 = 91881;
const GREEN_OF_CB: i32 = 22554;
const GREEN_OF_CR: i32 = 46802;
const BLUE_OF_CB: i32 = 116130;

/// The red, green and blue of one YCbCr sample.
#[inline(always)]
fn rgb_of(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((RED_OF_CR * cr + HALF) >> 16);
    let green = y + ((HALF - GREEN_OF_CB * cb - GREEN_OF_CR * cr) >> 16);
    let blue = y + ((BLUE_OF_CB * cb + HALF) >> 16);
    [red.clamp(0, 255) as u8, green.clamp(0, 255) as u8, blue.clamp(0, 255) as u8]
}

/// Converts one row. `rows` holds one row of each component, `out` three bytes a pixel.
#[inline(always)]
pub(super) fn row(colors: Colors, rows: [&[u8]; 4], out: &mut [u8]) {
    let [a, b, c, k] = rows;
    let (pixels, _) = out.as_chunks_mut::<3>();
    match colors {
        Colors::Gray => {
            for (pixel, &gray) in pixels.iter_mut().zip(a) {
                *pixel = [gray; 3];
            }
        }
        Colors::Rgb => {
            for (((pixel, &a), &b), &c) in pixels.iter_mut().zip(a).zip(b).zip(c) {
                *pixel = [a, b, c];
            }
        }
        Colors::YCbCr => {
            for (((pixel, &y), &cb), &cr) in pixels.iter_mut().zip(a).zip(b).zip(c) {
                *pixel = rgb_of(y, cb, cr);
            }
        }
        // Pillow takes every CMYK file to be inverted, as Adobe writes them: what is stored is 255 less the ink.
        Colors::Cmyk => {
            for ((((pixel, &c), &m), &y), &k) in pixels.iter_mut().zip(a).zip(b).zip(c).zip(k) {
                *pixel = rgb_of_inks([255 - c, 255 - m, 255 - y], 255 - k);
            }
        }
        // libjpeg turns YCCK into CMYK with inks of 255 less the RGB, and Pillow inverts that.
        Colors::Ycck => {
            for ((((pixel, &y), &cb), &cr), &k) in pixels.iter_mut().zip(a).zip(b).zip(c).zip(k) {
                *pixel = rgb_of_inks(rgb_of(y, cb, cr), 255 - k);
            }
        }
    }
}

/// Pillow's `cmyk2rgb`: each colour is what its ink and black leave of white.
#[inline(always)]
pub(in crate::image) fn rgb_of_inks(inks: [u8; 3], black: u8) -> [u8; 3] {
    let left = i32::from(255 - black);
    inks.map(|ink| {
        let product = i32::from(ink) * left + 128;
        (left - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}
