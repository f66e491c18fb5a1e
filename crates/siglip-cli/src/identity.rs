//! What tells embeddings of one model from those of another: a hash over everything that a tower's output depends on.

use siglip::engine::Tower;
use siglip::model::Model;
use siglip::weights::Tensor;

use crate::engine_options::EngineOptions;

/// Changes when the same model, options and input would give other embeddings than the version before.
const VERSION: u32 = 1;

/// The identity of a tower and what it is computed with: equal for equal weights, wherever they lie. The weights are
/// read for it as a whole, which takes less time than packing them.
pub(crate) fn of(model: &Model, tower: Tower, options: &EngineOptions) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut text = |text: String| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    text(format!("{VERSION} {tower} {} {}", options.precision(), options.kernels()));
    match tower {
        Tower::Text => {
            text(format!("{:?}", model.text.as_ref().map(|weights| &weights.config)));
            // Texts that any change of tokenizer or of preparation shows in.
            let probes = ["a photo of a cat.", "Zoë's Straße, 42 km: ΣΟΣ 犬の写真 🦄 <b>", ""];
            let ids = |probe| model.tokenizer.as_ref().map(|tokenizer| tokenizer.encode_truncated(probe));
            text(format!("{:?}", probes.map(ids)));
            model
                .text
                .iter()
                .flat_map(|weights| weights.tensors())
                .for_each(|tensor| add(&mut hasher, tensor));
        }
        Tower::Vision => {
            text(format!("{:?}", model.vision.as_ref().map(|weights| &weights.config)));
            text(format!("{:?}", model.preprocessor));
            model
                .vision
                .iter()
                .flat_map(|weights| weights.tensors())
                .for_each(|tensor| add(&mut hasher, tensor));
        }
    }
    hasher.finalize().to_hex().as_str().get(..32).unwrap_or_default().to_owned()
}

fn add(hasher: &mut blake3::Hasher, tensor: &Tensor) {
    hasher.update(format!("{} {:?}", tensor.dtype(), tensor.shape()).as_bytes());
    hasher.update(tensor.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo, load};
    use siglip::engine::Precision;

    #[test]
    fn what_changes_embeddings_changes_the_identity() {
        let mut model = Model::from_static(demo::FILES).unwrap();
        let mut cpu = siglip_cpu::Options::new(Precision::F32, load::pool(Some(1)).unwrap(), 1).unwrap();
        let options = EngineOptions::Cpu(cpu.clone());
        let text = of(&model, Tower::Text, &options);
        let vision = of(&model, Tower::Vision, &options);
        assert_ne!(text, vision);
        model.preprocessor.as_mut().unwrap().rescale_factor = Some(0.5);
        assert_ne!(of(&model, Tower::Vision, &options), vision);
        assert_eq!(of(&model, Tower::Text, &options), text);
        let blocks = &mut model.text.as_mut().unwrap().blocks;
        blocks.swap(0, 1);
        assert_ne!(of(&model, Tower::Text, &options), text);
        model.text.as_mut().unwrap().blocks.swap(0, 1);
        cpu.isa = siglip_cpu::Isa::Portable;
        assert_ne!(of(&model, Tower::Text, &EngineOptions::Cpu(cpu)), text);
    }
}
