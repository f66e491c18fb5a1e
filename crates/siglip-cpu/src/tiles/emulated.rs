//! Tiles in plain Rust, after the pseudo-code of Intel's manual: what tests multiply with where there is no AMX. Only
//! the order in which bf16 products are rounded is not the manual's; the tests' sums are exact.

use super::{SIDE, Tiles};
use crate::path::Element;

/// Eight tiles.
#[derive(Clone, Copy, Default)]
pub(crate) struct Emulated<const INTEGERS: bool> {
    tiles: [[[u32; SIDE]; SIDE]; 8],
}

fn dot_bf16(sum: u32, a: u32, b: u32) -> u32 {
    let low = |x: u32| (x as u16).to_f32();
    let high = |x: u32| ((x >> 16) as u16).to_f32();
    (f32::from_bits(sum) + low(a) * low(b) + high(a) * high(b)).to_bits()
}

fn dot_bytes(sum: u32, a: u32, b: u32) -> u32 {
    let products = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
    let dot: i32 = products.map(|(a, b)| i32::from(a) * i32::from(b as i8)).sum();
    sum.wrapping_add(dot as u32)
}

impl<const INTEGERS: bool> Tiles for Emulated<INTEGERS> {
    type Bf16 = Emulated<false>;

    unsafe fn configure() {}
    unsafe fn release() {}
    unsafe fn zero<const TILE: usize>(&mut self) {
        self.tiles[TILE] = [[0; SIDE]; SIDE];
    }
    unsafe fn load<const TILE: usize>(&mut self, p: *const u8, stride: usize) {
        for (r, row) in self.tiles[TILE].iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                // SAFETY: the caller vouches for a tile.
                *value = unsafe { p.add(r * stride + 4 * c).cast::<u32>().read_unaligned() };
            }
        }
    }
    unsafe fn store<const TILE: usize>(&mut self, p: *mut u8, stride: usize) {
        for (r, row) in self.tiles[TILE].iter().enumerate() {
            for (c, value) in row.iter().enumerate() {
                // SAFETY: the caller vouches for a tile.
                unsafe { p.add(r * stride + 4 * c).cast::<u32>().write_unaligned(*value) };
            }
        }
    }
    unsafe fn dot<const SUMS: usize, const A: usize, const B: usize>(&mut self) {
        let dot = if INTEGERS { dot_bytes } else { dot_bf16 };
        let (a, b) = (self.tiles[A], self.tiles[B]);
        for (sums, a) in self.tiles[SUMS].iter_mut().zip(&a) {
            for (a, b) in a.iter().zip(&b) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = dot(*sum, *a, *b);
                }
            }
        }
    }
}
