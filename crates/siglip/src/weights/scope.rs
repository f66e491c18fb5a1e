//! Tensors found by the place of their names.

use super::towers::{Linear, Norm};
use super::{Tensor, Weights, WeightsError};

/// A place in the tree of names.
pub(super) struct Scope<'a> {
    weights: &'a Weights,
    /// What every name here starts with: nothing, or a path with a trailing dot.
    prefix: String,
}

impl<'a> Scope<'a> {
    /// The place whose names start with `prefix`: nothing, or a path with a trailing dot.
    pub(super) fn at(weights: &'a Weights, prefix: &str) -> Self {
        Scope { weights, prefix: prefix.to_owned() }
    }

    /// The root of a tower. `marker` is a tensor that every tower of this kind has and the other kind has not.
    pub(super) fn tower(weights: &'a Weights, prefix: &str, marker: &str) -> Self {
        let bare = weights.contains(marker) && !weights.contains(&format!("{prefix}{marker}"));
        Scope { weights, prefix: if bare { String::new() } else { prefix.to_owned() } }
    }

    pub(super) fn has_tower(weights: &Weights, prefix: &str, marker: &str) -> bool {
        weights.contains(marker) || weights.names().any(|name| name.starts_with(prefix))
    }

    pub(super) fn child(&self, name: &str) -> Scope<'a> {
        Scope { weights: self.weights, prefix: format!("{}{name}.", self.prefix) }
    }

    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.weights.tensor(&format!("{}{name}", self.prefix), shape)
    }

    pub(super) fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, WeightsError> {
        let scope = self.child(name);
        Ok(Linear {
            weight: scope.tensor("weight", &[outputs, inputs])?,
            bias: scope.tensor("bias", &[outputs])?,
        })
    }

    pub(super) fn norm(&self, name: &str, hidden: usize) -> Result<Norm, WeightsError> {
        let scope = self.child(name);
        Ok(Norm { weight: scope.tensor("weight", &[hidden])?, bias: scope.tensor("bias", &[hidden])? })
    }
}
