//! Nearest-neighbour classification against scikit-learn's, label by label (`tools/make_knn_fixture.py`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use siglip::knn::Classifier;

#[derive(Deserialize)]
struct Fixture {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    width: usize,
    training: Vec<f32>,
    classes: Vec<usize>,
    queries: Vec<f32>,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    /// Of `predict`.
    label: usize,
    /// The five most likely classes of `predict_proba`, those without votes left out.
    top: Vec<(usize, f64)>,
}

#[test]
fn labels_and_probabilities_are_those_of_scikit_learn() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/knn.json");
    let fixture: Fixture = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut zeros, mut ties) = (0, 0);
    for (name, case) in fixture.cases {
        let classifier = Classifier::new(case.training, case.width, case.classes, 10).unwrap();
        let votes = classifier.classify(&case.queries, 2);
        assert_eq!(votes.len(), case.answers.len(), "{name}");
        for (i, (votes, answer)) in votes.iter().zip(&case.answers).enumerate() {
            assert_eq!(votes[0].class, answer.label, "{name}, query {i}");
            let top: Vec<usize> = votes.iter().take(5).map(|vote| vote.class).collect();
            let expected: Vec<usize> = answer.top.iter().map(|(class, _)| *class).collect();
            assert_eq!(top, expected, "{name}, query {i}");
            for (vote, (_, probability)) in votes.iter().zip(&answer.top) {
                // Distances in single precision there: a few units of it, over distances of 0.05 and more.
                let off = (vote.probability - probability).abs();
                assert!(off < 1e-5, "{name}, query {i}: {vote:?} and not {probability}");
            }
            ties += usize::from(answer.top.len() > 1 && answer.top[0].1 == answer.top[1].1);
        }
        for nearest in classifier.nearest(&case.queries, 1) {
            zeros += usize::from(nearest[0].distance == 0.0);
        }
    }
    assert!(zeros >= 20 && ties >= 10, "the fixture has zero distances ({zeros}) and ties ({ties})");
}
