//! The instruction sets that the engine has kernels for, and which of them this machine has.

use std::fmt;
use std::str::FromStr;

use siglip::engine::Precision;

/// An instruction set with kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AMX with bf16 and 8-bit products, beside AVX-512 BF16 and VNNI (Sapphire Rapids and later).
    Amx,
    /// AVX-512 with the BF16 and VNNI extensions (Zen 4, Cooper Lake, Sapphire Rapids and later).
    Avx512Bf16,
    /// AVX-512 with the VNNI extension (Cascade Lake, Ice Lake and later).
    Avx512Vnni,
    /// AVX-512 F, BW, DQ, VL (Skylake-SP, Zen 4 and later).
    Avx512,
    /// AVX2, FMA and AVX-VNNI (Alder Lake, Zen 5 and later).
    AvxVnni,
    /// AVX2 and FMA (Haswell, Zen and later).
    Avx2,
    /// NEON with the BF16 and I8MM extensions, whose products are of two rows by two columns (Neoverse V1 and N2, Apple M2
    /// and later).
    NeonBf16,
    /// NEON with the dot product extension (Neoverse N1, Apple M1 and later).
    NeonDotprod,
    /// NEON, the baseline of aarch64.
    Neon,
    /// Whatever the target's baseline is.
    Portable,
}

impl Isa {
    /// All sets, by what they can do, the most first.
    pub const ALL: [Isa; 10] = [
        Isa::Amx,
        Isa::Avx512Bf16,
        Isa::Avx512Vnni,
        Isa::Avx512,
        Isa::AvxVnni,
        Isa::Avx2,
        Isa::NeonBf16,
        Isa::NeonDotprod,
        Isa::Neon,
        Isa::Portable,
    ];

    /// Whether this machine has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.is_available() && crate::tiles::is_available(),
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
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonBf16 => {
                std::arch::is_aarch64_feature_detected!("bf16")
                    && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            Isa::Portable => true,
            #[allow(unreachable_patterns, reason = "the sets of the other architectures")]
            _ => false,
        }
    }

    /// Whether there are kernels for this precision. A precision that the set has no instructions for may still be
    /// stored: bf16 weights are then widened to f32 before they are multiplied.
    pub fn supports(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => Isa::F32_SETS.contains(&self),
            Precision::Bf16 => Isa::F32_SETS.contains(&self) || self.multiplies_bf16(),
            Precision::Int8 => !matches!(self, Isa::Avx512 | Isa::Neon),
            _ => false,
        }
    }

    /// Whether the set multiplies bf16 values as they are.
    pub fn multiplies_bf16(self) -> bool {
        matches!(self, Isa::Amx | Isa::Avx512Bf16 | Isa::NeonBf16)
    }

    /// Where the set's kernels have been run so far (`docs/processors.md`). All of them are checked on every machine before
    /// they are used.
    pub fn experience(self) -> Experience {
        match self {
            Isa::NeonBf16 | Isa::NeonDotprod | Isa::Neon => Experience::Emulator,
            _ => Experience::Processor,
        }
    }

    /// The sets that this machine has and that have kernels for a precision, in the order of [`Isa::ALL`].
    pub fn candidates(precision: Precision) -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(move |isa| isa.supports(precision) && isa.is_available())
    }

    /// The set's name, as `--isa` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::Avx512 => "avx512",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx2 => "avx2",
            Isa::NeonBf16 => "neon-bf16",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    const F32_SETS: [Isa; 4] = [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];
}

/// Where kernels have been run by those who wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experience {
    /// On processors that have the instructions.
    Processor,
    /// In an emulator (QEMU).
    Emulator,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no instruction set.
#[derive(Debug, thiserror::Error)]
#[error("unknown instruction set `{0}`: known are {known}", known = Isa::ALL.map(Isa::name).join(", "))]
pub struct UnknownIsa(String);

impl FromStr for Isa {
    type Err = UnknownIsa;

    fn from_str(name: &str) -> Result<Self, UnknownIsa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| UnknownIsa(name.into()))
    }
}
