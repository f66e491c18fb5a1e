//! Tiles in plain Rust, after the pseudo-code of Intel's manual: what tests multiply with where there is no AMX. Only
//! the order in which bf16 products are rounded is not the manual's; the tests' sums are exact.

use super::{Config, SIDE, Tiles};
use crate::path::Element;

/// Eight tiles and their sizes. Nothing may be used that was not configured, or be as large as it is not.
#[derive(Clone, Copy)]
pub(crate) struct Emulated<const INTEGERS: bool> {
    config: Option<Config>,
    tiles: [[[u32; SIDE]; SIDE]; 8],
}

impl<const INTEGERS: bool> Default for Emulated<INTEGERS> {
    fn default() -> Self {
        Emulated { config: None, tiles: [[[0; SIDE]; SIDE]; 8] }
    }
}

impl<const INTEGERS: bool> Emulated<INTEGERS> {
    /// Rows of a tile and 32-bit values of a row.
    fn size(&self, tile: usize) -> (usize, usize) {
        let config = self.config.as_ref().expect("tiles are configured before they are used");
        let (rows, bytes) = (usize::from(config.rows[tile]), usize::from(config.row_bytes[tile]));
        assert!((1..=SIDE).contains(&rows) && bytes > 0 && bytes <= 64, "an unused tile: {rows} × {bytes}");
        (rows, bytes / 4)
    }
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
    unsafe fn configure(&mut self, config: &Config) {
        assert!(config.palette == 1 && config.start_row == 0 && config.reserved == [0; 14]);
        for (rows, bytes) in config.rows.iter().zip(config.row_bytes) {
            assert!(*rows <= 16 && bytes <= 64 && (*rows == 0) == (bytes == 0), "ldtilecfg would fault");
        }
        *self = Emulated { config: Some(*config), ..Default::default() };
    }
    unsafe fn zero(&mut self, tile: usize) {
        self.size(tile);
        self.tiles[tile] = [[0; SIDE]; SIDE];
    }
    unsafe fn load(&mut self, tile: usize, p: *const u8, stride: usize) {
        let (rows, columns) = self.size(tile);
        self.tiles[tile] = [[0; SIDE]; SIDE];
        for (r, row) in self.tiles[tile].iter_mut().enumerate().take(rows) {
            for (c, value) in row.iter_mut().enumerate().take(columns) {
                // SAFETY: the caller vouches for the configured rows.
                *value = unsafe { p.add(r * stride + 4 * c).cast::<u32>().read_unaligned() };
            }
        }
    }
    unsafe fn store(&mut self, tile: usize, p: *mut u8, stride: usize) {
        let (rows, columns) = self.size(tile);
        for (r, row) in self.tiles[tile].iter().enumerate().take(rows) {
            for (c, value) in row.iter().enumerate().take(columns) {
                // SAFETY: the caller vouches for the configured rows.
                unsafe { p.add(r * stride + 4 * c).cast::<u32>().write_unaligned(*value) };
            }
        }
    }
    unsafe fn dot(&mut self, sums: usize, a: usize, b: usize) {
        let ((rows, columns), (a_rows, inner), (b_rows, b_columns)) =
            (self.size(sums), self.size(a), self.size(b));
        assert_eq!((rows, inner, columns), (a_rows, b_rows, b_columns), "the tiles do not fit one another");
        for m in 0..rows {
            for k in 0..inner {
                for n in 0..columns {
                    let dot = if INTEGERS { dot_bytes } else { dot_bf16 };
                    let sum = self.tiles[sums][m][n];
                    self.tiles[sums][m][n] = dot(sum, self.tiles[a][m][k], self.tiles[b][k][n]);
                }
            }
        }
    }
    unsafe fn release(&mut self) {
        self.config = None;
    }
}
