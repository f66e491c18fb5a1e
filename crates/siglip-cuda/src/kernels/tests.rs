//! Every kernel's source, run on the emulator, beside its host twin, and the twins beside plain loops in f64.

use std::sync::Arc;

use super::*;
use crate::check::{self, exact, part};
use crate::emulator::Emulator;
use crate::kernels::attention::Attention;
use crate::kernels::attention_rows::AttentionRows;
use crate::kernels::embedding::{PatchShape, Patches, TokenEmbedding};
use crate::kernels::layer_norm::{LayerNorm, LayerNormFp8};
use crate::memory::DeviceBuffer;
use crate::random::Random;

/// Hidden size, heads and format: odd heads that no vector fits, so400m's that need padding, heads of 22 values (pairs, but
/// no vectors), and the widest there are.
const SIZES: [(usize, usize, Number); 8] = [
    (35, 5, Number::Bf16),
    (35, 5, Number::F16),
    (35, 5, Number::F32),
    (144, 2, Number::Bf16),
    (144, 2, Number::F16),
    (144, 2, Number::F32),
    (66, 3, Number::Bf16),
    (128, 1, Number::Bf16),
];

#[test]
fn layer_norm_is_its_twin_and_the_twin_is_a_layer_norm() {
    for_each_size(|bench| {
        let hidden = bench.kernels.constants.hidden;
        for (rows, stride, x_is_wide) in [(1, hidden, true), (5, hidden, false), (7, 3 * hidden, false)] {
            let x_number = if x_is_wide { Number::F32 } else { bench.number() };
            let x: Vec<f32> = values(1, rows * stride, 3.0).iter().map(|x| x_number.round(*x)).collect();
            let (weight, bias) = (values(2, hidden, 1.0), values(3, hidden, 1.0));
            let got = bench.run(rows * hidden, bench.number(), |bench, out| {
                LayerNorm {
                    x: bench.upload(x_number, &x[..(rows - 1) * stride + hidden]).view(),
                    x_is_wide,
                    stride,
                    weight: bench.upload(Number::F32, &weight).view(),
                    bias: bench.upload(Number::F32, &bias).view(),
                    out,
                    rows,
                    epsilon: 1e-6,
                }
                .launch(&bench.kernels, &bench.stream)
            });
            for (got, x) in got.chunks(hidden).zip(x.chunks(stride)) {
                let x = &x[..hidden];
                let twin = layer_norm::twin::layer_norm(x, &weight, &bias, 1e-6, bench.number());
                assert_eq!(got, twin, "{:?}", bench.kernels.constants);
                bench.close(&twin, &exact::layer_norm(x, &weight, &bias, 1e-6));
            }
        }
    });
}

#[test]
fn an_fp8_layer_norm_is_its_twin_and_adds_to_its_rows_afterwards() {
    for_sizes(&[(144, 2, Number::E4m3), (1152, 16, Number::E4m3)], |bench| {
        let hidden = bench.kernels.constants.hidden;
        for (rows, stride, scale) in [(1, hidden, 1.0), (6, 2 * hidden, 0.125)] {
            let x = values(1, rows * stride, 3.0);
            let x: Vec<f32> = x.iter().map(|x| Number::Bf16.round(*x)).collect();
            let x = &x[..(rows - 1) * stride + hidden];
            // Some values are too large for the format, which keeps its largest for them.
            let (weight, bias) = (values(2, hidden, 900.0), values(3, hidden, 1.0));
            let add = values(4, hidden, 1.0);
            for then_add in [false, true] {
                let rows_on_card = bench.upload(Number::Bf16, x);
                let add_on_card = bench.upload(Number::F32, &add);
                let got = bench.run(rows * hidden, Number::E4m3, |bench, out| {
                    LayerNormFp8 {
                        x: rows_on_card.view(),
                        stride,
                        weight: bench.upload(Number::F32, &weight).view(),
                        bias: bench.upload(Number::F32, &bias).view(),
                        out,
                        then_add: then_add.then(|| add_on_card.view()),
                        rows,
                        epsilon: 1e-6,
                        scale,
                    }
                    .launch(&bench.kernels, &bench.stream)
                });
                let after = bench.download(&rows_on_card, Number::Bf16);
                for (row, got) in got.chunks(hidden).enumerate() {
                    let before = &x[row * stride..][..hidden];
                    let normed = layer_norm::twin::layer_norm(before, &weight, &bias, 1e-6, Number::F32);
                    let twin: Vec<f32> =
                        normed.iter().map(|value| Number::E4m3.round(value * (1.0 / scale))).collect();
                    assert_eq!(got, twin);
                    assert!(twin.contains(&448.0) && twin.contains(&-448.0));
                    let sum =
                        |(x, add): (&f32, &f32)| if then_add { Number::Bf16.round(x + add) } else { *x };
                    let added: Vec<f32> = before.iter().zip(&add).map(sum).collect();
                    assert_eq!(after[row * stride..][..hidden], added);
                }
            }
        }
    });
}

#[test]
fn tokens_are_looked_up() {
    for_each_size(|bench| {
        let hidden = bench.kernels.constants.hidden;
        let (vocabulary, positions_len, rows) = (11, 3, 9);
        let tokens: Vec<f32> =
            values(4, vocabulary * hidden, 1.0).iter().map(|value| bench.number().round(*value)).collect();
        let positions = values(5, positions_len * hidden, 1.0);
        let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7 % vocabulary as u32).collect();
        let id_bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let got = bench.run(rows * hidden, bench.number(), |bench, x| {
            TokenEmbedding {
                ids: bench.upload_bytes(&id_bytes).view(),
                tokens: bench.upload(bench.number(), &tokens).view(),
                positions: bench.upload(Number::F32, &positions).view(),
                x,
                rows,
                vocabulary,
                positions_len,
            }
            .launch(&bench.kernels, &bench.stream)
        });
        assert_eq!(got, embedding::twin::token_embedding(&ids, &tokens, &positions, hidden, bench.number()));
    });
}

#[test]
fn images_are_cut_into_patches() {
    for_each_size(|bench| {
        let hidden = bench.kernels.constants.hidden;
        for (channels, side, patch) in [(3, 29, 7), (1, 8, 4), (3, 14, 14)] {
            let shape = PatchShape { channels, side, patch };
            let (items, positions) = (2, shape.grid() * shape.grid());
            let pixels = values(6, items * channels * side * side, 1.0);
            let position = values(7, positions * hidden, 1.0);
            let x = bench.output(items * positions * hidden, bench.number());
            let got = bench.run(items * positions * shape.stride(), bench.number(), |bench, patches| {
                Patches {
                    pixels: bench.upload(Number::F32, &pixels).view(),
                    positions: bench.upload(Number::F32, &position).view(),
                    patches,
                    x: x.view(),
                    items,
                    shape,
                }
                .launch(&bench.kernels, &bench.stream)
            });
            assert_eq!(got, embedding::twin::patches(&pixels, shape, bench.number()));
            let scaled = |x: &f32| bench.number().round(x * bench.number().residual_scale());
            let position: Vec<f32> = position.iter().map(scaled).collect();
            assert_eq!(bench.download(&x, bench.number()), position.repeat(items));
        }
    });
}

#[test]
fn attention_is_its_twin_and_the_twin_is_attention() {
    for_each_size(|bench| {
        let (hidden, head_dim) = (bench.kernels.constants.hidden, bench.kernels.constants.head_dim());
        let items = 2;
        for positions in [1, 16, 63, 64, 65, 131] {
            // Scores far apart in the first tile and the last: the softmax is rescaled on the way.
            let spread = |i: usize| if i.is_multiple_of(5) { 4.0 } else { 1.0 };
            let qkv: Vec<f32> = values(8, items * positions * 3 * hidden, 1.0)
                .iter()
                .enumerate()
                .map(|(i, value)| bench.number().round(value * spread(i / (3 * hidden))))
                .collect();
            let got = bench.run(items * positions * hidden, bench.number(), |bench, out| {
                let qkv = bench.upload(bench.number(), &qkv);
                Attention { qkv: qkv.view(), out, items, positions }.launch(&bench.kernels, &bench.stream)
            });
            for (item, qkv) in qkv.chunks(positions * 3 * hidden).enumerate() {
                let got = &got[item * positions * hidden..][..positions * hidden];
                for head in bench.of_check().heads() {
                    let [q, k, v] = [0, 1, 2].map(|which| part(qkv, 3 * hidden, which * hidden, &head));
                    let got = part(got, hidden, 0, &head);
                    let twin = match bench.number() {
                        Number::F32 => q
                            .chunks(head_dim)
                            .flat_map(|q| attention_rows::twin::attention_row(q, &k, &v, Number::F32))
                            .collect(),
                        number => attention::twin::attention(&q, &k, &v, head_dim, number),
                    };
                    assert_eq!(got, twin, "{:?} {positions}", bench.kernels.constants);
                    for (q, twin) in q.chunks(head_dim).zip(twin.chunks(head_dim)) {
                        bench.close(twin, &exact::attention(q, &k, &v));
                    }
                }
            }
        }
    });
}

#[test]
fn one_query_attends_to_all_keys() {
    for_each_size(|bench| {
        let (hidden, items) = (bench.kernels.constants.hidden, 3);
        for keys in [1, 31, 32, 33, 100] {
            // One query for all items, as the pooling head's, or one each.
            for q_item in [0, hidden] {
                let rounded = |seed, len| -> Vec<f32> {
                    values(seed, len, 2.0).iter().map(|value| bench.number().round(*value)).collect()
                };
                let q = rounded(9, hidden + (items - 1) * q_item);
                let kv = rounded(10, items * keys * 2 * hidden);
                let got = bench.run(items * hidden, bench.number(), |bench, out| {
                    let kv = bench.upload(bench.number(), &kv);
                    AttentionRows {
                        q: bench.upload(bench.number(), &q).view(),
                        q_item,
                        q_row: 0,
                        k: kv.view(),
                        v: kv.view().skip(hidden * bench.number().size()),
                        kv_row: 2 * hidden,
                        out,
                        items,
                        queries: 1,
                        keys,
                    }
                    .launch(&bench.kernels, &bench.stream)
                });
                for item in 0..items {
                    let kv = &kv[item * keys * 2 * hidden..][..keys * 2 * hidden];
                    for head in bench.of_check().heads() {
                        let q = &q[item * q_item..][head.clone()];
                        let [k, v] = [0, 1].map(|which| part(kv, 2 * hidden, which * hidden, &head));
                        let twin = attention_rows::twin::attention_row(q, &k, &v, bench.number());
                        assert_eq!(got[item * hidden..][head], twin, "{:?} {keys}", bench.kernels.constants);
                        bench.close(&twin, &exact::attention(q, &k, &v));
                    }
                }
            }
        }
    });
}

/// An emulated card with kernels of one size.
struct Bench {
    gpu: Arc<Gpu>,
    kernels: Kernels,
    stream: Stream,
}

fn for_each_size(test: impl Fn(&Bench)) {
    for_sizes(&SIZES, test);
}

fn for_sizes(sizes: &[(usize, usize, Number)], test: impl Fn(&Bench)) {
    let Some(emulator) = Emulator::lock() else { return };
    let before = emulator.in_use();
    for &(hidden, heads, number) in sizes {
        let gpu = Gpu::open(&emulator.libraries(), 0).unwrap();
        let kernels = Kernels::new(&gpu, Constants { number, hidden, heads }).unwrap();
        let stream = Stream::new(&gpu).unwrap();
        test(&Bench { gpu, kernels, stream });
    }
    assert_eq!(emulator.in_use(), before, "something was not given back");
}

impl Bench {
    fn of_check(&self) -> check::Bench<'_> {
        check::Bench { gpu: &self.gpu, kernels: &self.kernels, stream: &self.stream }
    }

    fn number(&self) -> Number {
        self.of_check().number()
    }

    fn upload(&self, number: Number, values: &[f32]) -> DeviceBuffer {
        self.of_check().upload(number, values).unwrap()
    }

    fn upload_bytes(&self, bytes: &[u8]) -> DeviceBuffer {
        self.of_check().upload_bytes(bytes).unwrap()
    }

    fn output(&self, len: usize, number: Number) -> DeviceBuffer {
        self.of_check().output(len, number).unwrap()
    }

    fn download(&self, buffer: &DeviceBuffer, number: Number) -> Vec<f32> {
        self.of_check().download(buffer, number).unwrap()
    }

    /// What `launch` writes into a buffer of `len` values.
    fn run(
        &self,
        len: usize,
        number: Number,
        launch: impl FnOnce(&Bench, crate::memory::View<'_>) -> Result<(), CudaError>,
    ) -> Vec<f32> {
        self.of_check().run(len, number, |out| launch(self, out)).unwrap()
    }

    /// Within the rounding of the format, beside the size of the values.
    fn close(&self, got: &[f32], expected: &[f64]) {
        let tolerance = match self.number() {
            Number::Bf16 | Number::E4m3 => 1e-2,
            Number::F16 => 2e-3,
            Number::F32 => 3e-6,
        };
        assert_eq!(check::first_beyond(got, expected, tolerance), None);
    }
}

fn values(seed: u32, len: usize, most: f32) -> Vec<f32> {
    Random::seeded(seed).values(len, most)
}
