//! The one generator of pseudo-random numbers: small enough to be kept in a checkpoint, the same everywhere.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The next number of a normal distribution with mean 0 and variance 1 (Box and Muller's method).
    pub fn normal(&mut self) -> f64 {
        // The logarithm's argument is in (0, 1].
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_the_published_one() {
        // The first outputs of the reference implementation for seed 1234567.
        let mut r = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| r.bits()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn normal_numbers_have_the_moments_of_their_distribution() {
        let mut r = Random::new(1);
        let n = 100_000;
        let mut moments = [0.0; 4];
        for _ in 0..n {
            let x = r.normal();
            moments.iter_mut().zip(1..).for_each(|(m, power)| *m += x.powi(power) / f64::from(n));
        }
        // The largest standard error is that of the fourth, sqrt(96 / n).
        for (found, expected) in moments.into_iter().zip([0.0, 1.0, 0.0, 3.0]) {
            assert!((found - expected).abs() < 0.1, "{moments:?}");
        }
    }
}
