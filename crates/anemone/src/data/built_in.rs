//! The data sets that are compiled in. Their sources and licences are in `data/README.md` of this crate.

use super::array::{built_in, built_in_text};
use super::{Array, Pairs};
use crate::error::Result;

/// 1797 handwritten digits: inputs `[1797, 8, 8]` from 0 to 16, targets `[1797]` the classes 0 to 9. Neighbours
/// are alike.
///
/// # Errors
///
/// None that can be met: the data are part of the program.
pub fn digits() -> Result<Pairs> {
    let array = |name: &str, gz: &[u8]| -> Result<Array> { built_in(name, gz) };
    Ok(Pairs {
        inputs: array("digits (images)", include_bytes!("../../data/digits-images.idx.gz"))?,
        targets: array("digits (labels)", include_bytes!("../../data/digits-labels.idx.gz"))?,
    })
}

/// Nine plays of Shakespeare: 1.14 million characters, 63 different ones.
///
/// # Errors
///
/// None that can be met: the text is part of the program.
pub fn shakespeare() -> Result<String> {
    built_in_text("shakespeare", include_bytes!("../../data/shakespeare.txt.gz"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn digits_are_all_there() {
        let Pairs { inputs, targets } = digits().unwrap();
        assert_eq!((&inputs.shape[..], &targets.shape[..]), (&[1797, 8, 8][..], &[1797][..]));
        // The counts that scikit-learn documents, and the first image's first rows.
        let count = |class| targets.values.iter().filter(|&&c| c == class as f32).count();
        assert_eq!((0..10).map(count).collect::<Vec<_>>(), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!(inputs.values[..16], [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0].map(|x| x as f32));
        assert_eq!(inputs.values.iter().copied().fold(0.0, f32::max), 16.0);
    }

    #[test]
    fn shakespeare_is_a_play() {
        let text = shakespeare().unwrap();
        assert!(text.starts_with("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n"));
        assert!(text.len() < 1_200_000, "{}", text.len());
        assert_eq!(text.chars().collect::<BTreeSet<_>>().len(), 63);
    }
}
