//! Attention of every path against plain loops in f64.

use std::marker::PhantomData;

use super::{exact, to_f32};
use crate::attention::{Attention, Output, Scratch};
use crate::kernels::Kernels;
use crate::pack::panel_widths;
use crate::path::{Element, inner_layout};
use crate::scores::in_8_bits;

pub(super) fn check_attention<P: Kernels>() {
    for (queries, keys, head_dim) in [
        (1, 1, 1),
        (1, 7, 4),
        (3, 5, 3),
        (16, 16, 18),
        (25, 25, 72),
        (64, 64, 72),
        (1, 64, 64),
        (50, 50, 20),
        (31, 81, 7),
        // The last group of values is not full, though the groups fill a vector.
        (20, 20, 14),
        (33, 33, 31),
        // Scores in 8 bits, on the paths that have them.
        (1, 128, 16),
        (67, 131, 19),
        (130, 129, 72),
    ] {
        let stride = head_dim + 5;
        // Scores spread over some units, so that the weights are neither all alike nor all zero.
        let values = |rows: usize, offset: usize| -> Vec<P::Inner> {
            (0..rows * stride + 16).map(|i| P::Inner::from_f32(exact(i + offset) * 0.5)).collect()
        };
        let (q, k, v) = (values(queries, 0), values(keys, 17), values(keys, 170));
        let head = TestHead::<P> { queries, keys, head_dim, stride, path: PhantomData };
        let out = head.attend(&q, &k, &v);
        let (q, k, v, mut out) = (to_f32(&q), to_f32(&k), to_f32(&v), to_f32(&out));
        let tolerance = match size_of::<P::Inner>() {
            _ if in_8_bits::<P>(keys, head_dim) => 2e-2,
            2 => 1e-2,
            _ if P::SHORT => 1e-4,
            _ => 2e-6,
        };
        for query in 0..queries {
            let score = |key: usize| -> f64 {
                let dot = |d| f64::from(q[query * stride + d]) * f64::from(k[key * stride + d]);
                (0..head_dim).map(dot).sum::<f64>() / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            for d in 0..head_dim {
                let term =
                    |key: usize| (scores[key] - largest).exp() / total * f64::from(v[key * stride + d]);
                let expected: f64 = (0..keys).map(term).sum();
                let got = f64::from(std::mem::replace(&mut out[head.place(query, d)], -7.5));
                assert!(
                    (got - expected).abs() <= tolerance,
                    "{queries}×{keys}×{head_dim}: {got} for {expected}"
                );
            }
        }
        assert!(out.iter().all(|&x| x == -7.5), "wrote beside the head");
        assert!(panel_widths::<P>(keys).count() > 0);
    }
}

/// Hundreds of weights that are ten thousandths of the largest are a tenth of the result together, and must stay so.
pub(super) fn check_attention_with_many_small_weights<P: Kernels>() {
    const KEYS: usize = 729;
    let (queries, head_dim) = (5, 24);
    let head = TestHead::<P> { queries, keys: KEYS, head_dim, stride: head_dim, path: PhantomData };
    let rows = |rows: usize, value: &dyn Fn(usize) -> f32| -> Vec<P::Inner> {
        (0..rows * head_dim + 16).map(|i| P::Inner::from_f32(value(i / head_dim))).collect()
    };
    // A score of 8.8 for one key and of zero for the others, whose values are one where its is zero.
    let one = (8.8 / (head_dim as f32).sqrt()).sqrt();
    let q = rows(queries, &|_| one);
    let k = rows(KEYS, &|key| if key == 300 { one } else { 0.0 });
    let v = rows(KEYS, &|key| if key == 300 { 0.0 } else { 1.0 });
    let out = to_f32(&head.attend(&q, &k, &v));
    let score = f64::from(q[0].to_f32() * k[300 * head_dim].to_f32()) * (head_dim as f64).sqrt();
    let others = (KEYS - 1) as f64;
    let expected = others / (others + score.exp());
    assert!((0.09..0.11).contains(&expected));
    for query in 0..queries {
        for d in 0..head_dim {
            let got = f64::from(out[head.place(query, d)]);
            assert!((got - expected).abs() <= 6e-3, "{got} for {expected}");
        }
    }
}

/// A score that is far above all others has a weight of one, however far.
pub(super) fn check_attention_of_huge_scores<P: Kernels>() {
    for (keys, head_dim) in [(40, 24), (140, 24)] {
        let queries = 20;
        let head = TestHead::<P> { queries, keys, head_dim, stride: head_dim, path: PhantomData };
        let rows = |rows: usize, value: &dyn Fn(usize) -> f32| -> Vec<P::Inner> {
            (0..rows * head_dim + 16).map(|i| P::Inner::from_f32(value(i / head_dim))).collect()
        };
        // The largest scores are 2^24.
        for size in [30.0, 101.0, 333.3, 512.7, 733.1, 1000.9, 1791.0] {
            let q = rows(queries, &|query| size + query as f32);
            let k = rows(keys, &|key| if key == 30 { size } else { 0.0 });
            let v = rows(keys, &|key| if key == 30 { 0.5 } else { 1.0 });
            let out = to_f32(&head.attend(&q, &k, &v));
            for (query, d) in (0..queries).flat_map(|query| (0..head_dim).map(move |d| (query, d))) {
                let got = out[head.place(query, d)];
                assert!((got - 0.5).abs() <= 4e-3, "{got} for 0.5, with values of {size}");
            }
        }
    }
}

/// Operands that are next to nothing, whose scales have no reciprocal, are taken for nothing.
pub(super) fn check_attention_of_next_to_nothing<P: Kernels>() {
    for (queries, keys, head_dim) in [(3, 5, 4), (20, 81, 16), (20, 130, 24)] {
        let head = TestHead::<P> { queries, keys, head_dim, stride: head_dim, path: PhantomData };
        let values = |rows: usize, value: f32| -> Vec<P::Inner> {
            (0..rows * head_dim + 16).map(|i| P::Inner::from_f32(value * (i % 2) as f32)).collect()
        };
        for tiny in [0.0, 1e-39, 1e-37, 1e-33] {
            for [q, k, v] in [[tiny, 1.0, 1.0], [1.0, tiny, 1.0], [1.0, 1.0, tiny], [tiny; 3]] {
                let out = to_f32(&head.attend(&values(queries, q), &values(keys, k), &values(keys, v)));
                for (query, d) in (0..queries).flat_map(|query| (0..head_dim).map(move |d| (query, d))) {
                    let (got, expected) = (out[head.place(query, d)], v * (d % 2) as f32);
                    assert!((got - expected).abs() <= 1e-2 * expected + 1e-30, "{got} for {expected}");
                }
            }
        }
    }
}

/// Attention's numbers must not vanish: a query or a key that is not finite gives a result that is not.
pub(super) fn check_attention_of_what_is_not_finite<P: Kernels>() {
    for (queries, keys, head_dim) in [(3, 5, 4), (64, 64, 72), (20, 81, 16), (20, 130, 24)] {
        let head = TestHead::<P> { queries, keys, head_dim, stride: head_dim, path: PhantomData };
        let values = |rows: usize| vec![P::Inner::from_f32(0.5); rows * head_dim + 16].into_boxed_slice();
        for not_finite in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let mut q = values(queries);
            q[(queries - 1) * head_dim] = P::Inner::from_f32(not_finite);
            let out = to_f32(&head.attend(&q, &values(keys), &values(keys)));
            assert_eq!(out[head.place(0, 0)], 0.5, "the other queries stay as they are");
            assert!(!out[head.place(queries - 1, 0)].is_finite(), "a query of {not_finite}");

            let mut k = values(keys);
            k[(keys - 1) * head_dim] = P::Inner::from_f32(not_finite);
            let out = to_f32(&head.attend(&values(queries), &k, &values(keys)));
            // A score of minus infinity is a weight of zero.
            assert!(
                not_finite == f32::NEG_INFINITY || !out[head.place(0, 0)].is_finite(),
                "a key of {not_finite}"
            );
        }
    }
}

/// A head between other heads' columns and other items' rows.
struct TestHead<P> {
    queries: usize,
    keys: usize,
    head_dim: usize,
    /// Of queries, keys and values.
    stride: usize,
    path: PhantomData<P>,
}

impl<P: Kernels> TestHead<P> {
    const FIRST_ROW: usize = 3;

    fn first_column(&self) -> usize {
        if self.head_dim.is_multiple_of(8) { 8 } else { 5 }
    }

    fn out_stride(&self) -> usize {
        (self.first_column() + self.head_dim + 1).next_multiple_of(64)
    }

    /// Where a result lies in what [`TestHead::attend`] returns, which is -7.5 elsewhere.
    fn place(&self, query: usize, d: usize) -> usize {
        let layout = inner_layout::<P>();
        layout.row::<P::Inner>(Self::FIRST_ROW + query, self.out_stride())
            + layout.column::<P::Inner>(self.first_column() + d)
    }

    fn attend(&self, q: &[P::Inner], k: &[P::Inner], v: &[P::Inner]) -> Vec<P::Inner> {
        let rows = inner_layout::<P>().rows(Self::FIRST_ROW + self.queries + 1);
        let mut out = vec![P::Inner::from_f32(-7.5); rows * self.out_stride()];
        let mut scratch = Scratch::new::<P>(self.keys, self.head_dim).unwrap();
        for (operand, rows) in [(q, self.queries), (k, self.keys), (v, self.keys)] {
            assert!(operand.len() >= rows * self.stride);
        }
        // SAFETY: the buffers have the sizes that the fields ask for, and the path runs here.
        unsafe {
            P::enter();
            P::attend(&Attention {
                q: q.as_ptr(),
                q_stride: self.stride,
                queries: self.queries,
                k: k.as_ptr(),
                v: v.as_ptr(),
                kv_stride: self.stride,
                keys: self.keys,
                head_dim: self.head_dim,
                scale_log2e: std::f32::consts::LOG2_E / (self.head_dim as f32).sqrt(),
                out: Output {
                    first: out.as_mut_ptr(),
                    stride: self.out_stride(),
                    row: Self::FIRST_ROW,
                    column: self.first_column(),
                },
                next: [std::ptr::null(); 3],
                scratch: scratch.memory(),
            });
            P::leave();
        }
        out
    }
}
