//! Interleaving, and the ratios that come of it.
//!
//! The machine's mood changes over seconds: another build starts, the kernel moves a thread. So the subjects take turns, A B C
//! and then C B A, and what is kept of a round is each subject's ratio to PgBouncer *in that round*.

use crate::error::Result;
use crate::subject::Subject;

/// One subject's turn in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub transactions: u64,
    pub seconds: f64,
    /// CPU time of the pooler's process per transaction, in µs.
    pub cpu: f64,
    /// Latencies, in µs.
    pub p50: f64,
    pub p99: f64,
    /// Times that the pooler went to sleep, per transaction.
    pub switches: f64,
}

impl Sample {
    pub fn tps(&self) -> f64 {
        self.transactions as f64 / self.seconds
    }
}

/// All rounds of one cell: `rounds[i][subject.index()]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounds(Vec<[Sample; 3]>);

impl Rounds {
    /// Lets the subjects take turns `count` times.
    pub fn run(count: usize, mut turn: impl FnMut(Subject) -> Result<Sample>) -> Result<Self> {
        let mut rounds = Vec::with_capacity(count);
        for round in 0..count {
            let [first, second, third] = Subject::ALL;
            rounds.push(if round % 2 == 0 {
                let (a, b, c) = (turn(first)?, turn(second)?, turn(third)?);
                [a, b, c]
            } else {
                let (c, b, a) = (turn(third)?, turn(second)?, turn(first)?);
                [a, b, c]
            });
        }
        Ok(Self(rounds))
    }

    /// The median of a subject's rounds.
    pub fn median(&self, subject: Subject, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.0.iter().map(|round| of(&round[subject.index()])).collect())
    }

    pub fn min(&self, subject: Subject, of: impl Fn(&Sample) -> f64) -> f64 {
        self.0.iter().map(|round| of(&round[subject.index()])).fold(f64::INFINITY, f64::min)
    }

    /// A subject's figure divided by PgBouncer's, per round.
    pub fn ratio(&self, subject: Subject, of: impl Fn(&Sample) -> f64) -> Ratio {
        let one = |round: &[Sample; 3]| of(&round[subject.index()]) / of(&round[Subject::PgBouncer.index()]);
        let ratios: Vec<f64> = self.0.iter().map(one).collect();
        Ratio { min: ratios.iter().copied().fold(f64::INFINITY, f64::min), median: median(ratios) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    pub median: f64,
    pub min: f64,
}

/// The middle value, or the mean of the two in the middle. NaN for none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu: f64) -> Sample {
        Sample { transactions: 1, seconds: 1.0, cpu, p50: 0.0, p99: 0.0, switches: 0.0 }
    }

    #[test]
    fn turns_alternate_in_direction() {
        let mut order = Vec::new();
        let rounds = Rounds::run(2, |subject| {
            order.push(subject.index());
            Ok(sample(subject.index() as f64))
        });
        assert_eq!(order, [0, 1, 2, 2, 1, 0]);
        assert_eq!(rounds.unwrap().median(Subject::Sharded, |sample| sample.cpu), 2.0);
    }

    #[test]
    fn a_ratio_is_of_its_own_round() {
        let rounds = Rounds(vec![
            [sample(10.0), sample(9.0), sample(10.0)],
            // Another build has started: all cost twice as much, and the ratio stays.
            [sample(20.0), sample(18.0), sample(20.0)],
            [sample(10.0), sample(7.0), sample(12.0)],
        ]);
        let ratio = rounds.ratio(Subject::Unsharded, |sample| sample.cpu);
        assert_eq!(ratio, Ratio { median: 0.9, min: 0.7 });
        assert_eq!(rounds.ratio(Subject::PgBouncer, |sample| sample.cpu), Ratio { median: 1.0, min: 1.0 });
    }
}
