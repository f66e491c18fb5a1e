//! What came of one way to classify: accuracy of all and of each class, and what is taken for what.

use std::collections::BTreeMap;

use super::Method;

/// The classes of an image, the most likely first, each with what ranks it: a part of the votes, or a cosine.
pub(crate) type Ranking = Vec<(usize, f64)>;

/// The results of a method.
pub(crate) struct Results {
    pub(crate) method: Method,
    /// In the order of the images: the true class and the five most likely ones. Classes without a vote are not listed.
    pub(crate) rankings: Vec<(usize, Ranking)>,
    /// For each class.
    pub(crate) tallies: Vec<Tally>,
}

/// Images, and how many of them are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) images: usize,
    pub(crate) top1: usize,
    pub(crate) top5: usize,
}

/// Images of one class that were taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confusion {
    pub(crate) truth: usize,
    pub(crate) predicted: usize,
    pub(crate) images: usize,
}

impl Results {
    pub(crate) fn new(method: Method, classes: usize, rankings: Vec<(usize, Ranking)>) -> Results {
        let mut tallies = vec![Tally::default(); classes];
        for (truth, ranking) in &rankings {
            let tally = &mut tallies[*truth];
            tally.images += 1;
            tally.top1 += usize::from(ranking.first().is_some_and(|(class, _)| class == truth));
            tally.top5 += usize::from(ranking.iter().take(5).any(|(class, _)| class == truth));
        }
        Results { method, rankings, tallies }
    }

    /// All classes together.
    pub(crate) fn total(&self) -> Tally {
        self.tallies.iter().fold(Tally::default(), |all, tally| Tally {
            images: all.images + tally.images,
            top1: all.top1 + tally.top1,
            top5: all.top5 + tally.top5,
        })
    }

    /// Pairs of classes by how many images of the one were taken for the other, the most first.
    pub(crate) fn confusions(&self) -> Vec<Confusion> {
        let mut pairs = BTreeMap::new();
        for (truth, ranking) in &self.rankings {
            if let Some((predicted, _)) = ranking.first().filter(|(class, _)| class != truth) {
                *pairs.entry((*truth, *predicted)).or_insert(0) += 1;
            }
        }
        let mut confusions: Vec<Confusion> = pairs
            .into_iter()
            .map(|((truth, predicted), images)| Confusion { truth, predicted, images })
            .collect();
        confusions.sort_by_key(|confusion| std::cmp::Reverse(confusion.images));
        confusions
    }

    /// Classes that have images, the least accurate first.
    pub(crate) fn by_accuracy(&self) -> Vec<usize> {
        let mut classes: Vec<usize> =
            (0..self.tallies.len()).filter(|&class| self.tallies[class].images > 0).collect();
        classes.sort_by(|&a, &b| self.tallies[a].accuracy().total_cmp(&self.tallies[b].accuracy()));
        classes
    }
}

impl Tally {
    /// The part whose most likely class is right.
    pub(crate) fn accuracy(&self) -> f64 {
        self.top1 as f64 / self.images as f64
    }

    /// The part whose class is among the five most likely.
    pub(crate) fn accuracy5(&self) -> f64 {
        self.top5 as f64 / self.images as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_counted_by_class() {
        let ranking = |classes: &[usize]| classes.iter().map(|class| (*class, 0.5)).collect::<Ranking>();
        let rankings = vec![
            (0, ranking(&[0, 1])),
            (0, ranking(&[1, 2])),
            (0, ranking(&[1, 0])),
            (2, ranking(&[1, 3, 4, 5, 2])),
            (2, ranking(&[1, 3, 4, 5, 0, 2])),
        ];
        let results = Results::new(Method::ZeroShot, 4, rankings);
        assert_eq!(results.tallies[0], Tally { images: 3, top1: 1, top5: 2 });
        assert_eq!(results.total(), Tally { images: 5, top1: 1, top5: 3 });
        let confusion = |truth, predicted, images| Confusion { truth, predicted, images };
        assert_eq!(results.confusions(), [confusion(0, 1, 2), confusion(2, 1, 2)]);
        assert_eq!(results.by_accuracy(), [2, 0]);
    }
}
