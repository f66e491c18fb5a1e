//! Two batches at once on a card, and two cards at once.

use siglip::engine::{Engine, EngineError, Input, Precision};
use siglip::weights::TextWeights;

use super::{embed, open, options, scatter};
use crate::Options;
use crate::build;
use crate::emulator::Emulator;
use crate::engine::{CudaEngine, bytes_of};

fn two(emulator: &Emulator, weights: &TextWeights) -> [CudaEngine; 2] {
    let options = Options { engines: 2, ..options(emulator, Precision::Bf16) };
    build::text(weights, &options).unwrap().try_into().unwrap_or_else(|_| panic!("not two"))
}

/// Ids of `items` rows, others for every seed.
fn ids(engine: &CudaEngine, items: usize, seed: usize) -> Vec<u32> {
    let info = engine.info();
    (0..items * info.input_len).map(|i| scatter(seed * 10_000 + i) % info.vocab_size as u32).collect()
}

/// The emulator does everything as late as it may, and so shows what had to be done for a result and what had not.
#[test]
fn a_batch_is_queued_while_another_is_computed_and_fetched_while_the_next_is() {
    let Some(emulator) = Emulator::lock() else { return };
    let before_all = emulator.in_use();
    let model = open("text_f16");
    let [mut first, mut second] = two(&emulator, model.text.as_ref().unwrap());
    let batches: Vec<Vec<u32>> = [(3, 1), (7, 2), (1, 3)].map(|(n, seed)| ids(&first, n, seed)).to_vec();
    let inputs: Vec<Input<'_>> = batches.iter().map(|ids| Input::TokenIds(ids)).collect();
    let alone: Vec<Vec<f32>> = inputs.iter().map(|input| embed(&mut first, *input)).collect();
    for (input, alone) in inputs.iter().zip(&alone) {
        assert!(embed(&mut second, *input) == *alone, "the engines' bits differ");
    }

    let launched = emulator.calls("cuGraphLaunch");
    let ran = || emulator.calls("graph ran");
    let before = ran();
    first.begin(bytes_of(&batches[0])).unwrap();
    second.begin(bytes_of(&batches[1])).unwrap();
    assert_eq!(emulator.calls("cuGraphLaunch") - launched, 2);
    assert_eq!(ran() - before, 0, "neither waited for anything");
    let finish = |engine: &CudaEngine, expected: &Vec<f32>| {
        let embeddings: Vec<f32> = engine.finish().unwrap().take(expected.len()).collect();
        assert!(embeddings == *expected);
    };
    finish(&first, &alone[0]);
    assert_eq!(ran() - before, 1, "the first is back before the second is computed");
    first.begin(bytes_of(&batches[2])).unwrap();
    assert_eq!(ran() - before, 1);
    finish(&second, &alone[1]);
    assert_eq!(ran() - before, 2);
    finish(&first, &alone[2]);

    // What they share lives as long as either.
    drop(first);
    assert!(embed(&mut second, inputs[0]) == alone[0]);
    drop(second);
    assert_eq!(emulator.in_use(), before_all, "something was not given back");
}

#[test]
fn two_threads_get_the_bits_of_one() {
    let Some(emulator) = Emulator::lock() else { return };
    let model = open("text_f16");
    let engines = two(&emulator, model.text.as_ref().unwrap());
    let rounds: Vec<Vec<u32>> = (0..24).map(|round| ids(&engines[0], 1 + round * 5 % 19, round)).collect();
    let results: Vec<Vec<Vec<f32>>> = std::thread::scope(|scope| {
        let threads = engines.map(|mut engine| {
            let rounds = &rounds;
            scope.spawn(move || {
                rounds.iter().map(|ids| embed(&mut engine, Input::TokenIds(ids))).collect::<Vec<_>>()
            })
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results[0] == results[1]);
    let [mut alone, _] = two(&emulator, model.text.as_ref().unwrap());
    for (ids, result) in rounds.iter().zip(&results[0]) {
        assert!(embed(&mut alone, Input::TokenIds(ids)) == *result);
    }
}

/// The emulator refuses what belongs to one card while the other one is current.
#[test]
fn two_cards_compute_the_same_bits_and_one_that_is_lost_leaves_the_other() {
    let Some(emulator) = Emulator::lock() else { return };
    let before_all = emulator.in_use();
    let model = open("text_f16");
    let weights = model.text.as_ref().unwrap();
    let mut cards = [0, 1].map(|card| {
        let options = Options { card, ..options(&emulator, Precision::Bf16) };
        build::text(weights, &options).unwrap().remove(0)
    });
    assert_eq!(cards.each_ref().map(|engine| engine.info().device.as_str()), ["cuda:0", "cuda:1"]);
    let batch = ids(&cards[0], 5, 1);
    let input = Input::TokenIds(&batch);
    let expected = embed(&mut cards[0], input);
    assert!(embed(&mut cards[1], input) == expected);

    emulator.lose(1);
    let mut out = vec![0.0; expected.len()];
    for _ in 0..2 {
        let error = cards[1].embed(input, &mut out).unwrap_err();
        let EngineError::Lost(words) = error else { panic!("{error}") };
        let reason = "CUDA_ERROR_ILLEGAL_ADDRESS (700), an illegal memory access was encountered";
        assert!(words.starts_with("card 1: ") && words.contains(reason), "{words}");
        assert!(embed(&mut cards[0], input) == expected);
    }
    emulator.machine(2, 12040, 90, 2 << 30);
    drop(cards);
    assert_eq!(emulator.in_use(), before_all, "something was not given back");
}
