//! The instruction sets that the engine has kernels for, and which of them this machine has.

use std::fmt;
use std::str::FromStr;

use siglip::engine::Precision;

/// An instruction set with kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 with the BF16 and VNNI extensions (Zen 4, Cooper Lake, Sapphire Rapids and later).
    Avx512Bf16,
    /// AVX-512 with the VNNI extension (Cascade Lake, Ice Lake and later).
    Avx512Vnni,
    /// AVX-512 F, BW, DQ, VL (Skylake-SP, Zen 4 and later).
    Avx512,
    /// AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// NEON, the baseline of aarch64. Compiled, not yet run by us on such a machine.
    Neon,
    /// Whatever the target's baseline is.
    Portable,
}

impl Isa {
    /// All sets, the fastest first.
    pub const ALL: [Isa; 6] =
        [Isa::Avx512Bf16, Isa::Avx512Vnni, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];

    /// Whether this machine has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Portable => true,
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Avx512 | Isa::Avx2 => false,
        }
    }

    /// Whether there are kernels for this precision. A precision that the set has no instructions for may still be
    /// stored: bf16 weights are then widened to f32 as they are read.
    pub fn supports(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => !matches!(self, Isa::Avx512Bf16 | Isa::Avx512Vnni),
            Precision::Bf16 => self != Isa::Avx512Vnni,
            Precision::Int8 => matches!(self, Isa::Avx512Bf16 | Isa::Avx512Vnni | Isa::Portable),
            _ => false,
        }
    }

    /// The sets that this machine has and that have kernels for a precision, the fastest first.
    pub fn candidates(precision: Precision) -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(move |isa| isa.supports(precision) && isa.is_available())
    }

    /// The set's name, as `--isa` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}

/// The precision that `auto` means here: bf16 where the processor multiplies it, f32 elsewhere.
pub fn auto_precision() -> Precision {
    if Isa::Avx512Bf16.is_available() { Precision::Bf16 } else { Precision::F32 }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no instruction set.
#[derive(Debug, thiserror::Error)]
#[error("unknown instruction set `{0}`: known are avx512-bf16, avx512-vnni, avx512, avx2, neon, portable")]
pub struct UnknownIsa(String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.into()))
    }
}
