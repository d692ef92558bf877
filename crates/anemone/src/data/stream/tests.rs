//! Which windows are in a batch.

use super::*;

/// The tokens from 0 up, of a vocabulary just large enough, as a file of 16 bits each.
fn counted(n: u16) -> Tokens {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), (0..n).flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    Tokens::open(file.path().to_str().unwrap(), super::super::TokenFormat::U16, n.into()).unwrap()
}

fn options(batch: usize, length: usize, validation: f64) -> StreamOptions {
    StreamOptions { batch, length, validation, seed: 1337 }
}

fn batch(data: &mut Stream, part: Part, index: u64) -> (Vec<f32>, Vec<f32>) {
    let [mut x, mut y] = [data.input(), data.target()].map(|ty| vec![7.7; ty.n_elements().unwrap()]);
    data.batch(part, index, &mut x, &mut y).unwrap();
    (x, y)
}

#[test]
fn windows_of_the_training_part_begin_where_the_order_says() {
    // The offsets of the test of the order, which are those of its Python: 1064 tokens, windows of 64, 3 a batch.
    let mut data = Stream::new(counted(1183), None, None, &options(3, 64, 0.1008)).unwrap();
    assert_eq!(data.train, 0..1064);
    for (index, offsets) in [(0, [139, 893, 123]), (1, [409, 347, 74])] {
        let (x, y) = batch(&mut data, Part::Train, index);
        let windows = offsets.into_iter().flat_map(|at| at..at + 64);
        assert!(x.iter().copied().eq(windows.clone().map(|t| t as f32)), "{index}");
        assert!(y.iter().copied().eq(windows.map(|t| (t + 1) as f32)), "{index}");
    }
}

#[test]
fn a_batch_is_the_same_whenever_it_is_asked_for() {
    let new = || Stream::new(counted(100), None, None, &options(2, 8, 0.2)).unwrap();
    let mut data = new();
    let all: Vec<_> = (0..50).map(|i| batch(&mut data, Part::Train, i)).collect();
    for i in [49, 0, 7, 7, 20] {
        batch(&mut data, Part::Validation, 0);
        assert_eq!(batch(&mut data, Part::Train, i), all[i as usize]);
        assert_eq!(batch(&mut new(), Part::Train, i), all[i as usize]);
    }
    assert_eq!(batch(&mut data, Part::Train, u64::MAX), batch(&mut new(), Part::Train, u64::MAX));
    // All of the training part is used, to its last token, and no more.
    let largest = (0..2000).flat_map(|i| batch(&mut data, Part::Train, i).1).fold(0.0, f32::max);
    assert_eq!(largest, 79.0);
}

#[test]
fn each_validation_token_but_the_first_is_a_target_once() {
    for (n, length, rows) in [(40, 8, 2), (41, 8, 2), (42, 8, 5), (33, 32, 2), (33, 64, 1), (2, 1, 1)] {
        let mut data = Stream::new(counted(100), Some(counted(n)), None, &options(rows, length, 0.3)).unwrap();
        let mut targets = Vec::new();
        for i in 0..data.n_validation_batches() {
            let (x, y) = batch(&mut data, Part::Validation, i);
            assert_ne!(y[0], IGNORE as f32, "a batch of nothing");
            for (x, y) in x.into_iter().zip(y) {
                if y == IGNORE as f32 {
                    assert_eq!(x, 0.0);
                } else {
                    assert_eq!(x + 1.0, y);
                    targets.push(y);
                }
            }
        }
        assert!(targets.into_iter().eq((1..n).map(f32::from)), "{n} tokens, {length} a window, {rows} a batch");
        let n_batches = data.n_validation_batches();
        let size = rows * length;
        assert!(data.batch(Part::Validation, n_batches, &mut vec![0.0; size], &mut vec![0.0; size]).is_err());
    }
}

#[test]
fn the_parts_do_not_overlap() {
    let mut data = Stream::new(counted(100), None, None, &options(1, 4, 0.25)).unwrap();
    let first = batch(&mut data, Part::Validation, 0).0[0];
    let last = (0..1000).flat_map(|i| batch(&mut data, Part::Train, i).1).fold(0.0, f32::max);
    assert_eq!((last, first), (74.0, 75.0));
    let none = Stream::new(counted(100), None, None, &options(1, 4, 0.0)).unwrap();
    assert_eq!(none.n_validation_batches(), 0);
}

#[test]
fn what_is_too_short_is_said() {
    for (n, held, options, named) in [
        (0, None, options(1, 4, 0.0), "0 tokens to train on"),
        (4, None, options(1, 4, 0.0), "4 tokens to train on, expected more than a window of 4"),
        (10, None, options(1, 4, 0.1), "1 tokens for validation, expected 2 or more"),
        (10, Some(0), options(1, 4, 0.1), "0 tokens for validation"),
        (10, Some(1), options(1, 4, 0.1), "1 tokens for validation"),
        (10, None, options(0, 4, 0.1), "a batch of 0 times 4 numbers"),
        (10, None, options(1, 0, 0.1), "a batch of 1 times 0 numbers"),
        (10, None, options(usize::MAX, 2, 0.1), "numbers, expected 1 to 2147483648 in all"),
    ] {
        // An empty vocabulary is refused earlier.
        let tokens = |n: u16| match n {
            0 => Tokens::of_text("empty", "", &Tokenizer::bytes()).unwrap(),
            n => counted(n),
        };
        let e = Stream::new(tokens(n), held.map(tokens), None, &options).err().map(|e| e.to_string());
        assert!(e.as_ref().is_some_and(|e| e.contains(named)), "expected {named}: {e:?}");
    }
}

#[test]
fn a_token_beyond_the_vocabulary_ends_the_batch_with_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [1, 0, 1, 0, 9, 0, 1, 0]).unwrap();
    let format = super::super::TokenFormat::U16;
    let tokens = Tokens::open(file.path().to_str().unwrap(), format, 9).unwrap();
    let mut data = Stream::new(tokens, None, None, &options(1, 3, 0.0)).unwrap();
    let e = data.batch(Part::Train, 0, &mut [0.0; 3], &mut [0.0; 3]).unwrap_err().to_string();
    assert!(e.contains("token 2 is 9"), "{e}");
}
