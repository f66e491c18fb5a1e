//! Every kernel of every instruction set of the machine against plain loops in f64, over odd sizes.

mod attention;

use attention::{
    check_attention, check_attention_of_huge_scores, check_attention_of_next_to_nothing,
    check_attention_of_what_is_not_finite, check_attention_with_many_small_weights,
};

use crate::dot::Loops;
use crate::epilogue::Epilogue;
use crate::gemm::{Part, Product};
use crate::isa::Isa;
use crate::kernels::Kernels;
use crate::ops::LayerNorm;
use crate::ops::Quantize;
use crate::path::{Element, F32, Int8, Layout, Path, RowScale, Widened, inner_layout, lanes, steps};
use crate::simd::Portable;

/// Instantiates a generic check for every path that this machine can run.
macro_rules! for_every_path {
    ($name:ident, $check:ident) => {
        #[test]
        fn $name() {
            $check::<F32<Portable>>();
            $check::<Widened<Portable>>();
            #[cfg(target_arch = "x86_64")]
            {
                use crate::simd::{Avx2, Avx512};
                if Isa::Avx2.is_available() {
                    $check::<F32<Avx2>>();
                    $check::<Widened<Avx2>>();
                }
                use crate::dot::{EmulatedVdpbf16ps, Vdpbf16ps};
                use crate::path::Bf16;
                use crate::tiles::{Amx, Emulated, Tiled};
                if Isa::Avx512.is_available() {
                    $check::<F32<Avx512>>();
                    $check::<Widened<Avx512>>();
                    $check::<Bf16<EmulatedVdpbf16ps>>();
                    $check::<Bf16<Tiled<Emulated<false>, EmulatedVdpbf16ps>>>();
                }
                if Isa::Avx512Bf16.is_available() {
                    $check::<Bf16<Vdpbf16ps>>();
                    if Isa::Amx.is_available() {
                        $check::<Bf16<Tiled<Amx<false>, Vdpbf16ps>>>();
                    }
                }
            }
            #[cfg(target_arch = "aarch64")]
            {
                $check::<F32<crate::simd::Neon>>();
                $check::<Widened<crate::simd::Neon>>();
                if Isa::NeonBf16.is_available() {
                    $check::<crate::path::Bf16<crate::dot::Bfmmla>>();
                }
            }
            assert!(Isa::Portable.is_available());
        }
    };
}

for_every_path!(products_of_odd_sizes, check_products);
for_every_path!(products_in_parts, check_parts);
for_every_path!(epilogues, check_epilogues);
for_every_path!(layer_norms_of_odd_sizes, check_layer_norms);
for_every_path!(attention_of_odd_sizes, check_attention);
for_every_path!(attention_of_huge_scores, check_attention_of_huge_scores);
for_every_path!(attention_of_what_is_not_finite, check_attention_of_what_is_not_finite);
for_every_path!(attention_of_next_to_nothing, check_attention_of_next_to_nothing);
for_every_path!(attention_with_many_small_weights, check_attention_with_many_small_weights);

/// Instantiates a generic check for every quantised path that this machine can run.
macro_rules! for_every_quantized_path {
    ($name:ident, $check:ident) => {
        #[test]
        fn $name() {
            $check::<Int8<Loops, F32<Portable>>>();
            #[cfg(target_arch = "x86_64")]
            {
                use crate::dot::{EmulatedVdpbf16ps, Vdpbf16ps, Vpdpbusd, Vpdpbusd256, Vpmaddwd};
                use crate::path::Bf16;
                use crate::simd::{Avx2, Avx512};
                use crate::tiles::{Amx, Emulated, Tiled};
                if Isa::Avx2.is_available() {
                    $check::<Int8<Vpmaddwd, F32<Avx2>>>();
                }
                if Isa::AvxVnni.is_available() {
                    $check::<Int8<Vpdpbusd256, F32<Avx2>>>();
                }
                if Isa::Avx512Vnni.is_available() {
                    $check::<Int8<Vpdpbusd, F32<Avx512>>>();
                    $check::<Int8<Vpdpbusd, Bf16<EmulatedVdpbf16ps>>>();
                    type Tiles = Bf16<Tiled<Emulated<false>, EmulatedVdpbf16ps>>;
                    $check::<Int8<Tiled<Emulated<true>, Vpdpbusd>, Tiles>>();
                }
                if Isa::Avx512Bf16.is_available() {
                    $check::<Int8<Vpdpbusd, Bf16<Vdpbf16ps>>>();
                    if Isa::Amx.is_available() {
                        $check::<Int8<Tiled<Amx<true>, Vpdpbusd>, Bf16<Tiled<Amx<false>, Vdpbf16ps>>>>();
                    }
                }
            }
            #[cfg(target_arch = "aarch64")]
            {
                use crate::dot::{Bfmmla, Sdot, Usmmla};
                use crate::path::Bf16;
                use crate::simd::Neon;
                if Isa::NeonDotprod.is_available() {
                    $check::<Int8<Sdot, F32<Neon>>>();
                }
                if Isa::NeonBf16.is_available() {
                    $check::<Int8<Usmmla, Bf16<Bfmmla>>>();
                }
            }
        }
    };
}

for_every_quantized_path!(integer_products_of_odd_sizes, check_integer_products);
for_every_quantized_path!(quantized_rows, check_quantized_rows);
for_every_quantized_path!(attention_with_scores_in_8_bits, check_attention);
for_every_quantized_path!(attention_in_8_bits_of_huge_scores, check_attention_of_huge_scores);
for_every_quantized_path!(attention_in_8_bits_of_next_to_nothing, check_attention_of_next_to_nothing);
for_every_quantized_path!(attention_in_8_bits_of_what_is_not_finite, check_attention_of_what_is_not_finite);
for_every_quantized_path!(
    attention_in_8_bits_with_many_small_weights,
    check_attention_with_many_small_weights
);

/// A value that every format here stores exactly: sixteenths up to ±2.
fn exact(i: usize) -> f32 {
    let x = (i as u32).wrapping_add(7).wrapping_mul(2_654_435_761) >> 26;
    x as f32 / 16.0 - 2.0
}

fn to_f32<T: Element>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

struct Case<P: Path> {
    rows: usize,
    stride: usize,
    activations: Vec<P::Activation>,
    vectors: usize,
    steps: usize,
    panel: Vec<P::Weight>,
    /// `[rows][columns]` in f64.
    sums: Vec<Vec<f64>>,
}

/// A product of small exact values, whose sums are exact in f32 as well.
fn case<P: Path<Activation: Element, Weight: Element>>(rows: usize, k: usize, vectors: usize) -> Case<P> {
    let steps = steps::<P>(k);
    let stride = match P::LAYOUT {
        Layout::Rows => steps * P::STEP + 3,
        Layout::Blocks => (steps * P::STEP + 1).next_multiple_of(64),
    };
    let columns = vectors * lanes::<P>();
    let activation = |row: usize, i: usize| exact(row * 131 + i);
    let weight = |column: usize, i: usize| if i < k { exact(column * 37 + i * 5 + 1) } else { 0.0 };
    let mut activations = vec![P::Activation::from_f32(0.5); P::LAYOUT.rows(rows) * stride];
    let mut panel = vec![P::Weight::default(); steps * columns * P::STEP];
    for row in 0..rows {
        for i in 0..k {
            let at = P::LAYOUT.row::<P::Activation>(row, stride) + P::LAYOUT.column::<P::Activation>(i);
            activations[at] = P::Activation::from_f32(activation(row, i));
        }
    }
    for column in 0..columns {
        for i in 0..k {
            panel[(i / P::STEP * columns + column) * P::STEP + i % P::STEP] =
                P::Weight::from_f32(weight(column, i));
        }
    }
    let sum =
        |row, column| (0..k).map(|i| f64::from(activation(row, i)) * f64::from(weight(column, i))).sum();
    let sums = (0..rows).map(|row| (0..columns).map(|column| sum(row, column)).collect()).collect();
    Case { rows, stride, activations, vectors, steps, panel, sums }
}

fn multiply<P: Kernels>(case: &Case<P>, epilogue: Epilogue<P>) {
    let mut widened = vec![f32::NAN; if P::WIDENED { case.panel.len() } else { 0 }];
    // SAFETY: the case's buffers are as the product says, and the caller checked that the path runs here.
    unsafe {
        P::enter();
        P::multiply(&Product {
            activations: case.activations.as_ptr(),
            row_stride: case.stride,
            rows: case.rows,
            panel: case.panel.as_ptr(),
            steps: case.steps,
            vectors: case.vectors,
            widened: widened.as_mut_ptr(),
            row_scales: std::ptr::null(),
            column_scales: std::ptr::null(),
            column_sums: std::ptr::null(),
            part: Part::WHOLE,
            epilogue,
            prefetch: case.panel.as_ptr().cast(),
            prefetch_bytes: size_of_val(case.panel.as_slice()),
        });
        P::leave();
    }
}

fn check_products<P: Kernels<Activation: Element, Weight: Element>>() {
    for rows in (1..=19).chain([24, 31, 33, 64, 81]) {
        for k in [0, 1, 2, 3, 4, 5, 17, 64, 65] {
            for vectors in 1..=P::MAX_VECTORS {
                if vectors == 3 && P::MAX_VECTORS < 4 {
                    continue;
                }
                let case = case::<P>(rows, k, vectors);
                let columns = vectors * lanes::<P>();
                let stride = columns + 5;
                let mut out = vec![f32::NAN; rows * stride];
                let bias = vec![0.0; columns];
                multiply(&case, Epilogue::StoreF32 { bias: bias.as_ptr(), out: out.as_mut_ptr(), stride });
                for (row, out) in out.chunks(stride).enumerate() {
                    let expected: Vec<f32> = case.sums[row].iter().map(|&x| x as f32).collect();
                    assert_eq!(&out[..columns], expected, "{rows} rows, k {k}, {vectors} vectors, row {row}");
                    assert!(out[columns..].iter().all(|x| x.is_nan()), "wrote past the panel's columns");
                }
            }
        }
    }
}

/// Where the sums are carried from part to part, the bits are those of the whole.
fn check_parts<P: Kernels<Activation: Element, Weight: Element>>() {
    if P::LAYOUT == Layout::Rows {
        return;
    }
    for (rows, vectors) in [(1, 1), (17, 2), (33, 1), (50, 2), (96, 2)] {
        let case = case::<P>(rows, 5 * 32, vectors);
        let columns = vectors * lanes::<P>();
        let bias = vec![0.0; columns];
        let store = |out: &mut [f32]| Epilogue::StoreF32 {
            bias: bias.as_ptr(),
            out: out.as_mut_ptr(),
            stride: columns,
        };
        let mut whole = vec![0.0_f32; rows * columns];
        multiply(&case, store(&mut whole));
        let mut carried = vec![0_u32; rows.next_multiple_of(32) * columns];
        let mut out = vec![0.0_f32; rows * columns];
        let tile = case.steps / 5;
        for (start, end) in [(0, 2 * tile), (2 * tile, 3 * tile), (3 * tile, 5 * tile)] {
            let carried = carried.as_mut_ptr();
            // SAFETY: the parts are of the case's steps, and there is a sum for each value of a block.
            unsafe {
                P::enter();
                P::multiply(&Product {
                    activations: case
                        .activations
                        .as_ptr()
                        .add(P::LAYOUT.column::<P::Activation>(start * P::STEP)),
                    row_stride: case.stride,
                    rows,
                    panel: case.panel.as_ptr().add(start * columns * P::STEP),
                    steps: end - start,
                    vectors,
                    widened: std::ptr::null_mut(),
                    row_scales: std::ptr::null(),
                    column_scales: std::ptr::null(),
                    column_sums: std::ptr::null(),
                    part: Part { carried, first: start == 0, last: end == case.steps },
                    epilogue: store(&mut out),
                    prefetch: std::ptr::null(),
                    prefetch_bytes: 0,
                });
                P::leave();
            }
        }
        assert_eq!(out, whole, "{rows} rows, {vectors} vectors");
        assert!(whole.iter().any(|&x| x != 0.0));
    }
}

fn check_epilogues<P: Kernels<Activation: Element, Weight: Element>>() {
    let case = case::<P>(13, 9, P::MAX_VECTORS);
    let columns = case.vectors * lanes::<P>();
    let bias: Vec<f32> = (0..columns).map(|i| exact(i + 3)).collect();
    let biased = |row: usize, column: usize| case.sums[row][column] + f64::from(bias[column]);
    let close = |got: f32, expected: f64| {
        let tolerance = if size_of::<P::Activation>() == 2 { 4e-3 } else { 1e-6 };
        assert!(
            (f64::from(got) - expected).abs() <= tolerance * expected.abs().max(0.05),
            "{got} for {expected}"
        );
    };

    let mut out = vec![P::Inner::default(); case.rows * columns];
    multiply(&case, Epilogue::Store { bias: bias.as_ptr(), out: out.as_mut_ptr(), stride: columns });
    to_f32(&out).iter().enumerate().for_each(|(i, &got)| close(got, biased(i / columns, i % columns)));

    let layout = inner_layout::<P>();
    let wide = columns.next_multiple_of(64);
    let mut operand = vec![P::Inner::default(); layout.rows(case.rows) * wide];
    let mut gelus = |bias: &[f32]| -> Vec<f32> {
        multiply(&case, Epilogue::Gelu { bias: bias.as_ptr(), out: operand.as_mut_ptr(), stride: wide });
        let at = |i| layout.row::<P::Inner>(i / columns, wide) + layout.column::<P::Inner>(i % columns);
        (0..case.rows * columns).map(|i| operand[at(i)].to_f32()).collect()
    };
    let got = gelus(&bias);
    got.iter().enumerate().for_each(|(i, &got)| close(got, gelu(biased(i / columns, i % columns))));

    // Far from zero, where the exponential in it overflows or vanishes.
    let far = [9.0, -9.0, 14.0, -14.0, 40.0, -40.0, 1e3, -1e3, 1e5, -1e5];
    let bias: Vec<f32> = far.into_iter().cycle().take(columns).collect();
    for (i, &got) in gelus(&bias).iter().enumerate() {
        close(got, gelu(case.sums[i / columns][i % columns] + f64::from(bias[i % columns])));
    }
    let bias: Vec<f32> = (0..columns).map(|i| exact(i + 3)).collect();

    let mut sums: Vec<f32> = (0..case.rows * columns).map(exact).collect();
    multiply(&case, Epilogue::Accumulate { bias: bias.as_ptr(), out: sums.as_mut_ptr(), stride: columns });
    multiply(&case, Epilogue::Accumulate { bias: std::ptr::null(), out: sums.as_mut_ptr(), stride: columns });
    for (i, &got) in sums.iter().enumerate() {
        let (row, column) = (i / columns, i % columns);
        assert_eq!(f64::from(got), f64::from(exact(i)) + biased(row, column) + case.sums[row][column]);
    }
}

fn gelu(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + u.tanh())
}

fn check_layer_norms<P: Kernels<Activation: Element>>() {
    for size in (1..=40_usize).chain([54, 144, 1152]) {
        let padded = size.next_multiple_of(64);
        // Far from zero, where a variance from squares alone would lose its bits.
        let x: Vec<f32> = (0..size).map(|i| 100.0 + exact(i * 3)).collect();
        let parameter = |offset: usize| -> Vec<f32> {
            (0..padded).map(|i| if i < size { exact(i + offset) } else { 0.0 }).collect()
        };
        let (weight, bias) = (parameter(1), parameter(2));
        let mut out = vec![P::Activation::from_f32(9.0); P::LAYOUT.rows(1) * padded];
        // SAFETY: the buffers have the sizes that the fields ask for, and the path runs here.
        unsafe {
            P::layer_norm(&LayerNorm {
                x: x.as_ptr(),
                size,
                weight: weight.as_ptr(),
                bias: bias.as_ptr(),
                epsilon: 1e-6,
                out: out.as_mut_ptr(),
                scale: std::ptr::null_mut(),
                row: std::ptr::null_mut(),
            });
        }
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / size as f64;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / size as f64;
        let tolerance = if size_of::<P::Activation>() == 2 { 8e-3 } else { 5e-5 };
        let column = |i| out[P::LAYOUT.column::<P::Activation>(i)].to_f32();
        let out: Vec<f32> = (0..padded).map(column).collect();
        for i in 0..size {
            let normal = (f64::from(x[i]) - mean) / (variance + 1e-6).sqrt();
            let expected = normal * f64::from(weight[i]) + f64::from(bias[i]);
            assert!(
                (f64::from(out[i]) - expected).abs() <= tolerance * expected.abs().max(1.0),
                "{size}: {i}"
            );
        }
        let whole = P::LAYOUT.filled::<P::Activation>(size, lanes::<P>());
        assert!(out[size..whole].iter().all(|&x| x == 0.0), "the padding must be zero");
    }
}

fn check_integer_products<P: Kernels<Activation = u8, Weight = i8>>() {
    for (rows, k, vectors) in
        [(1, 1_usize, 1), (2, 3, 1), (7, 4, P::MAX_VECTORS), (13, 66, P::MAX_VECTORS), (64, 129, 1)]
    {
        let steps = steps::<P>(k);
        let stride = match P::LAYOUT {
            Layout::Rows => steps * P::STEP + 5,
            Layout::Blocks => steps * P::STEP + 64,
        };
        let columns = vectors * lanes::<P>();
        let byte = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 24;
        let activations: Vec<u8> = (0..P::LAYOUT.rows(rows) * stride).map(|i| byte(i) as u8).collect();
        let weight = |column: usize, i: usize| {
            if i < k { (byte(column * 977 + i + 5) as u8 as i8).max(-127) } else { 0 }
        };
        let mut panel = vec![0_i8; steps * columns * P::STEP];
        for column in 0..columns {
            for i in 0..steps * P::STEP {
                panel[(i / P::STEP * columns + column) * P::STEP + i % P::STEP] = weight(column, i);
            }
        }
        let row_scales: Vec<RowScale> =
            (0..rows).map(|i| RowScale { scale: exact(i) + 3.0, offset: exact(i + 9) }).collect();
        let scales: Vec<f32> = (0..columns).map(|i| exact(i + 1) + 3.0).collect();
        let sums: Vec<f32> = (0..columns).map(|c| (0..k).map(|i| f32::from(weight(c, i))).sum()).collect();
        let mut out = vec![f32::NAN; rows * columns];
        let bias = vec![0.0; columns];
        // SAFETY: the buffers are as the product says, and the path runs here.
        unsafe {
            P::enter();
            P::multiply(&Product {
                activations: activations.as_ptr(),
                row_stride: stride,
                rows,
                panel: panel.as_ptr(),
                steps,
                vectors,
                widened: std::ptr::null_mut(),
                row_scales: row_scales.as_ptr(),
                column_scales: scales.as_ptr(),
                column_sums: sums.as_ptr(),
                part: Part::WHOLE,
                epilogue: Epilogue::StoreF32 { bias: bias.as_ptr(), out: out.as_mut_ptr(), stride: columns },
                prefetch: std::ptr::null(),
                prefetch_bytes: 0,
            });
            P::leave();
        }
        for (i, got) in out.into_iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let at = |i| P::LAYOUT.row::<u8>(row, stride) + P::LAYOUT.column::<u8>(i);
            let product = |i| i64::from(activations[at(i)]) * i64::from(weight(column, i));
            let dot = (0..k).map(product).sum::<i64>() as f64;
            let RowScale { scale, offset } = row_scales[row];
            let shifted = f64::from(scale) * dot + f64::from(offset) * f64::from(sums[column]);
            let expected = shifted * f64::from(scales[column]);
            let size = f64::from(scale) * dot.abs() + f64::from(offset * sums[column]).abs();
            assert!((f64::from(got) - expected).abs() <= 1e-6 * size * 5.0 + 1e-6, "{got} for {expected}");
        }
    }
}

/// Rows of results and rows of layer norms read back to within half a step, and what is not finite stays so.
fn check_quantized_rows<P: Kernels<Activation = u8, Weight = i8>>() {
    for size in [1_usize, 2, 15, 16, 17, 70, 1152] {
        let padded = size.next_multiple_of(64);
        let in_memory = P::LAYOUT.rows(1) * padded;
        let row_of = |out: &[u8]| -> Vec<u8> { (0..size).map(|i| out[P::LAYOUT.column::<u8>(i)]).collect() };
        let mut x: Vec<P::Inner> = (0..padded).map(|i| P::Inner::from_f32(exact(i * 7) * 1.7)).collect();
        let (mut out, mut scale) = (vec![0; in_memory], RowScale::default());
        let mut quantize = |x: &[P::Inner]| {
            let q = out.as_mut_ptr();
            // SAFETY: the buffers are as long as the padded row, and the path runs here.
            unsafe { P::quantize(&Quantize { x: x.as_ptr(), size, out: q, scale: &raw mut scale }) };
            (scale, row_of(&out))
        };
        let (scale, bytes) = quantize(&x);
        for (value, byte) in to_f32(&x).into_iter().zip(&bytes) {
            let read = scale.scale * f32::from(*byte) + scale.offset;
            assert!((read - value).abs() <= 0.501 * scale.scale, "{size}: {read} for {value}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            x[size / 2] = P::Inner::from_f32(bad);
            let (scale, _) = quantize(&x);
            assert!(!scale.offset.is_finite(), "{bad} at {} of {size}", size / 2);
        }

        let values: Vec<f32> = (0..size).map(|i| exact(i * 3)).collect();
        let parameter = |offset: usize| -> Vec<f32> {
            (0..padded).map(|i| if i < size { exact(i + offset) } else { 0.0 }).collect()
        };
        let (weight, bias) = (parameter(1), parameter(2));
        let (mut out, mut scale, mut row) = (vec![0; in_memory], RowScale::default(), vec![0.0; padded]);
        // SAFETY: the buffers have the sizes that the fields ask for, and the path runs here.
        unsafe {
            P::layer_norm(&LayerNorm {
                x: values.as_ptr(),
                size,
                weight: weight.as_ptr(),
                bias: bias.as_ptr(),
                epsilon: 1e-6,
                out: out.as_mut_ptr(),
                scale: &raw mut scale,
                row: row.as_mut_ptr(),
            });
        }
        for (normal, byte) in row.iter().zip(row_of(&out)) {
            let read = scale.scale * f32::from(byte) + scale.offset;
            assert!((read - normal).abs() <= 0.501 * scale.scale, "{size}: {read} for {normal}");
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_even_and_keeps_nan() {
    for (x, bits) in [
        (1.0, 0x3f80),
        (f32::from_bits(0x3f80_8000), 0x3f80),
        (f32::from_bits(0x3f81_8000), 0x3f82),
        (f32::from_bits(0x3f80_8001), 0x3f81),
        (-0.0, 0x8000),
        (f32::INFINITY, 0x7f80),
        (f32::MAX, 0x7f80),
    ] {
        assert_eq!(u16::from_f32(x), bits, "{x}");
    }
    assert!(f32::from_bits(u32::from(u16::from_f32(f32::from_bits(0x7f80_0001))) << 16).is_nan());
}
