//! From logits to the next token.

use crate::error::{Error, Result};
use crate::random::Random;
use std::cmp::Ordering;

/// How the next token is drawn. First come the logits divided by the temperature, of these the `top_k` largest, of
/// their shares the largest that together reach `top_p`; from what is left a token is drawn by its share.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by: the smaller, the likelier the likely. 0 takes the likeliest always, the first
    /// of equals.
    pub temperature: f32,
    /// The most tokens to draw from; 0 for all. Of equal logits the first count.
    pub top_k: usize,
    /// The share that the likeliest tokens must reach, above 0 and at most 1; the one with which they reach it is
    /// among them.
    pub top_p: f32,
    /// Only tokens below this are drawn, where a model has logits for more tokens than there are; 0 for all.
    pub n_tokens: usize,
    /// The seed of the generator.
    pub seed: u64,
}

impl Default for Sampling {
    /// By the model's own shares.
    fn default() -> Sampling {
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, n_tokens: 0, seed: 0 }
    }
}

/// Draws tokens: for the same seed and logits the same ones.
///
/// ```
/// use anemone::generate::{Sampler, Sampling};
///
/// let logits = [0.0, 2.0, 1.0, -1.0];
/// let two = Sampler::new(Sampling { top_k: 2, ..Sampling::default() })?;
/// let shares = two.shares(&logits)?;
/// // 1 / (1 + exp(-1)) and the rest.
/// assert_eq!((shares[0].0, shares[1].0, shares.len()), (1, 2, 2));
/// assert!((shares[0].1 - 0.731058578).abs() < 1e-9);
/// # Ok::<(), anemone::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    random: Random,
}

impl Sampler {
    /// A sampler at the beginning of its seed's sequence.
    ///
    /// # Errors
    ///
    /// If a value is out of its range.
    pub fn new(sampling: Sampling) -> Result<Sampler> {
        let Sampling { temperature, top_p, seed, .. } = sampling;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::config(format!("the temperature is {temperature}, expected 0 or more")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::config(format!("top-p is {top_p}, expected a share above 0 and at most 1")));
        }
        Ok(Sampler { sampling, random: Random::new(seed) })
    }

    /// The next token.
    ///
    /// # Errors
    ///
    /// As [`Sampler::shares`].
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        let shares = self.shares(logits)?;
        let mut left = self.random.uniform();
        for &(token, share) in &shares {
            left -= share;
            if left < 0.0 {
                return Ok(token);
            }
        }
        // What rounding leaves belongs to the last that can be drawn at all.
        let last = shares.iter().rev().find(|(_, share)| *share > 0.0);
        Ok(last.map_or(0, |&(token, _)| token))
    }

    /// The tokens that may be drawn and their shares, which add up to 1; where `top_k` or `top_p` leaves any out,
    /// likeliest first.
    ///
    /// # Errors
    ///
    /// If there are no logits, one is NaN or infinite, or all are minus infinity.
    pub fn shares(&self, logits: &[f32]) -> Result<Vec<(u32, f64)>> {
        let Sampling { temperature, top_k, top_p, n_tokens, .. } = self.sampling;
        let n = if n_tokens == 0 { logits.len() } else { n_tokens.min(logits.len()) };
        let logits = &logits[..n];
        if let Some(token) = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
            let found = logits[token];
            return Err(Error::non_finite(format!("the logit of token {token} is {found}, expected a number")));
        }
        let first_largest = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        let best = (0..n).reduce(first_largest).filter(|&i| logits[i] > f32::NEG_INFINITY);
        let Some(best) = best else {
            return Err(Error::non_finite("no logit is a number, expected one or more"));
        };
        if temperature == 0.0 {
            return Ok(vec![(best as u32, 1.0)]);
        }
        let largest = f64::from(logits[best]);
        let weight = |i: usize| ((f64::from(logits[i]) - largest) / f64::from(temperature)).exp();
        let mut shares: Vec<(u32, f64)> = (0..n).map(|i| (i as u32, weight(i))).collect();
        let likeliest_first = |a: &(u32, f64), b: &(u32, f64)| -> Ordering {
            // By logits: at a low temperature different ones may have equal weights.
            let logit = |x: &(u32, f64)| logits[x.0 as usize];
            logit(b).total_cmp(&logit(a)).then(a.0.cmp(&b.0))
        };
        if top_k > 0 && top_k < n {
            shares.select_nth_unstable_by(top_k - 1, likeliest_first);
            shares.truncate(top_k);
            shares.sort_unstable_by(likeliest_first);
        }
        let scale = |shares: &mut Vec<(u32, f64)>| {
            let sum: f64 = shares.iter().map(|(_, x)| x).sum();
            shares.iter_mut().for_each(|(_, x)| *x /= sum);
        };
        scale(&mut shares);
        if top_p < 1.0 {
            shares.sort_unstable_by(likeliest_first);
            let mut sum = 0.0;
            let reached = shares.iter().position(|(_, x)| {
                sum += x;
                sum >= f64::from(top_p)
            });
            shares.truncate(reached.map_or(n, |i| i + 1));
            scale(&mut shares);
        }
        Ok(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.5, -1.0, 2.0, 0.5, -30.0, 1.0];

    fn sampler(temperature: f32, top_k: usize, top_p: f32) -> Sampler {
        Sampler::new(Sampling { temperature, top_k, top_p, seed: 11, ..Sampling::default() }).unwrap()
    }

    fn tokens(sampler: &Sampler, logits: &[f32]) -> Vec<u32> {
        sampler.shares(logits).unwrap().iter().map(|(token, _)| *token).collect()
    }

    /// Pearson's statistic of draws against the shares that the definition gives, worked out here on its own.
    fn statistic(sampler: &mut Sampler, exact: &[f64]) -> f64 {
        let n = 20_000;
        let mut counts = vec![0.0; exact.len()];
        for _ in 0..n {
            counts[sampler.next(&LOGITS).unwrap() as usize] += 1.0;
        }
        let term = |(&count, &share): (&f64, &f64)| match share * f64::from(n) {
            0.0 if count == 0.0 => 0.0,
            expected => (count - expected).powi(2) / expected,
        };
        counts.iter().zip(exact).map(term).sum()
    }

    #[test]
    fn tokens_are_drawn_by_their_shares() {
        let softmax = |temperature: f64, kept: &[usize]| {
            let weight = |i: usize| (f64::from(LOGITS[i]) / temperature).exp();
            let sum: f64 = kept.iter().map(|&i| weight(i)).sum();
            (0..6).map(|i| if kept.contains(&i) { weight(i) / sum } else { 0.0 }).collect::<Vec<_>>()
        };
        // The chance of a statistic above 20.5 with 5 degrees of freedom is 0.001, with fewer it is less.
        for (temperature, top_k, top_p, kept) in [
            (1.0, 0, 1.0, &[0, 1, 2, 3, 4, 5][..]),
            (0.7, 0, 1.0, &[0, 1, 2, 3, 4, 5]),
            (2.0, 3, 1.0, &[2, 5, 0]),
            // Shares 0.52, 0.19, 0.12, 0.12, 0.03: three of them reach 0.8.
            (1.0, 0, 0.8, &[2, 5, 0]),
        ] {
            let exact = softmax(f64::from(temperature), kept);
            let found = statistic(&mut sampler(temperature, top_k, top_p), &exact);
            assert!(found < 20.5, "{temperature} {top_k} {top_p}: {found}");
        }
        // Draws at another temperature are seen to be others.
        assert!(statistic(&mut sampler(1.1, 0, 1.0), &softmax(1.0, &[0, 1, 2, 3, 4, 5])) > 20.5);
    }

    #[test]
    fn edges_of_top_k_and_top_p() {
        assert_eq!(tokens(&sampler(1.0, 1, 1.0), &LOGITS), [2]);
        assert_eq!(tokens(&sampler(1.0, 3, 1.0), &LOGITS), [2, 5, 0], "of equal logits the first");
        assert_eq!(tokens(&sampler(1.0, 99, 1.0), &LOGITS).len(), 6);
        assert_eq!(tokens(&sampler(1.0, 0, 1e-9), &LOGITS), [2], "never none");
        // Four equal shares: two reach a half, and a little more takes a third.
        assert_eq!(tokens(&sampler(1.0, 0, 0.5), &[1.0; 4]), [0, 1]);
        assert_eq!(tokens(&sampler(1.0, 0, 0.51), &[1.0; 4]), [0, 1, 2]);
        // Top-p is of what top-k leaves: 0.5 of two equal ones is one of them.
        assert_eq!(tokens(&sampler(1.0, 2, 0.5), &[1.0; 4]), [0]);
        let sum: f64 = sampler(0.3, 4, 0.9).shares(&LOGITS).unwrap().iter().map(|(_, x)| x).sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }

    #[test]
    fn temperatures_near_0_and_far_from_it() {
        assert_eq!(tokens(&sampler(0.0, 0, 1.0), &[1.0, 3.0, 3.0]), [1]);
        let mut cold = sampler(1e-30, 0, 1.0);
        assert!((0..50).all(|_| cold.next(&LOGITS).unwrap() == 2));
        let hot = sampler(1e30, 0, 1.0).shares(&LOGITS).unwrap();
        assert!(hot.iter().all(|(_, x)| (x - 1.0 / 6.0).abs() < 1e-9));
        // Top-k goes by logits, not by weights, which may all be 0.
        assert_eq!(tokens(&sampler(1e-30, 2, 1.0), &[-5.0, -1.0, -2.0]), [1, 2]);
    }

    #[test]
    fn the_seed_alone_determines_the_draws() {
        let draws = |seed: u64| {
            let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() }).unwrap();
            (0..40).map(|_| sampler.next(&LOGITS).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
    }

    #[test]
    fn tokens_that_there_are_not_are_never_drawn() {
        let sampler = Sampler::new(Sampling { n_tokens: 2, ..Sampling::default() }).unwrap();
        assert_eq!(tokens(&sampler, &LOGITS), [0, 1]);
        let never = sampler.shares(&[f32::NEG_INFINITY, 0.0]).unwrap();
        assert_eq!(never, [(0, 0.0), (1, 1.0)]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (temperature, top_p, words) in
            [(-1.0, 1.0, "temperature is -1"), (f32::NAN, 1.0, "NaN"), (1.0, 0.0, "top-p is 0"), (1.0, 1.5, "1.5")]
        {
            let e = Sampler::new(Sampling { temperature, top_p, ..Sampling::default() }).unwrap_err();
            assert!(e.is_config() && e.to_string().contains(words), "{e}");
        }
        for logits in [&[][..], &[0.0, f32::NAN], &[f32::INFINITY], &[f32::NEG_INFINITY; 3]] {
            for temperature in [0.0, 1.0] {
                let e = sampler(temperature, 0, 1.0).next(logits).unwrap_err();
                assert!(e.is_non_finite(), "{logits:?}: {e}");
            }
        }
    }
}
