//! Which examples and windows a batch has: functions of the seed and the index alone, so that no position has to
//! be kept and no generator moved along.
//!
//! All numbers come from SplitMix64, whose output `k` (from 0) for a seed `s` can be computed directly. In Python,
//! with `N` rows in a batch, a training part of `n` tokens or examples and windows of `S` tokens:
//!
//! ```python
//! M = 2**64 - 1
//!
//! def bits(s, k):
//!     z = (s + (k + 1) * 0x9E3779B97F4A7C15) & M
//!     z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M
//!     z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M
//!     return z ^ z >> 31
//!
//! key = lambda seed: bits(seed ^ 0x64617461, 0)  # "data" in ASCII: other numbers than those of the first weights
//!
//! # Tokens: where the window of row r in batch i begins, in the training part.
//! offset = lambda seed, i, r: bits(key(seed), i * N + r) * (n - S) >> 64
//!
//! # Examples: the order in epoch e. Batch i has the examples i N to i N + N - 1 of all epochs, one after
//! # the other.
//! def permutation(seed, e, n):
//!     p, s = list(range(n)), bits(key(seed), e)
//!     for j in range(n - 1, 0, -1):
//!         k = bits(s, n - 1 - j) * (j + 1) >> 64
//!         p[j], p[k] = p[k], p[j]
//!     return p
//! ```

use crate::random::Random;

/// What SplitMix64 adds to its state before each output.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The order of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    key: u64,
}

impl Order {
    /// The order of a seed.
    pub fn new(seed: u64) -> Order {
        // The first weights are drawn from the sequence of the seed itself.
        let tag = u64::from(u32::from_be_bytes(*b"data"));
        Order { key: nth(seed ^ tag, 0).bits() }
    }

    /// The draw of that number, in `0..n`.
    ///
    /// The product's upper half stands for the remainder of a division; it favours no number by more than
    /// `n / 2^64`.
    pub fn draw(&self, number: u64, n: u64) -> u64 {
        below(nth(self.key, number).bits(), n)
    }

    /// Writes the permutation of an epoch, of the numbers from 0: a shuffle by Fisher and Yates.
    pub fn permutation(&self, epoch: u64, out: &mut [u32]) {
        for (i, x) in out.iter_mut().enumerate() {
            *x = i as u32;
        }
        let mut random = Random::new(nth(self.key, epoch).bits());
        for j in (1..out.len()).rev() {
            out.swap(j, below(random.bits(), j as u64 + 1) as usize);
        }
    }
}

/// The generator of a seed whose next output is the one of that number.
fn nth(seed: u64, number: u64) -> Random {
    Random::new(seed.wrapping_add(number.wrapping_mul(GAMMA)))
}

fn below(bits: u64, n: u64) -> u64 {
    ((u128::from(bits) * u128::from(n)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_by_number_are_those_of_the_sequence() {
        let mut random = Random::new(7);
        for k in 0..5 {
            assert_eq!(nth(7, k).bits(), random.bits());
        }
    }

    /// The figures are what the Python above prints.
    #[test]
    fn the_order_is_the_one_described() {
        let order = Order::new(1337);
        let offsets: Vec<u64> = (0..6).map(|k| order.draw(k, 1000)).collect();
        assert_eq!(offsets, [139, 893, 123, 409, 347, 74]);
        for (epoch, expected) in [(0, [0, 2, 6, 3, 4, 5, 7, 1]), (1, [2, 3, 6, 7, 5, 4, 0, 1])] {
            let mut found = [0; 8];
            order.permutation(epoch, &mut found);
            assert_eq!(found, expected, "epoch {epoch}");
        }
    }
}
