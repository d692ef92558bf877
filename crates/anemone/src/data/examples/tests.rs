//! Which examples are in a batch, and where.

use super::*;
use std::collections::BTreeSet;

fn array(shape: &[usize], values: Vec<f32>) -> Array {
    Array { name: "a.npy".into(), shape: shape.to_vec(), values, columns: None }
}

/// `n` examples `[x, -x]` of class `x % 3`, where `x` is the row.
fn pairs(n: usize) -> Pairs {
    Pairs {
        inputs: array(&[n, 2], (0..n).flat_map(|x| [x as f32, -(x as f32)]).collect()),
        targets: array(&[n], (0..n).map(|x| (x % 3) as f32).collect()),
    }
}

fn options(batch: usize) -> ExamplesOptions {
    ExamplesOptions {
        layout: Layout::Columns,
        n_classes: Some(3),
        image: None,
        scale: 1.0,
        standardize: false,
        batch,
        seed: 5,
    }
}

fn batch(data: &mut Examples, part: Part, index: u64) -> (Vec<f32>, Vec<f32>) {
    let [mut x, mut y] = [data.input(), data.target()].map(|ty| vec![7.7; ty.n_elements().unwrap()]);
    data.batch(part, index, &mut x, &mut y).unwrap();
    (x, y)
}

/// The rows of the examples in the batch, and that their inputs and targets are theirs.
fn rows(data: &mut Examples, part: Part, index: u64) -> Vec<usize> {
    let (x, y) = batch(data, part, index);
    let n = data.batch;
    let of = |r: usize| {
        assert_eq!(x[n + r], -x[r]);
        match y[r] == IGNORE as f32 {
            true => assert_eq!(x[r], 0.0),
            false => assert_eq!(y[r], x[r] % 3.0),
        }
        (y[r] != IGNORE as f32).then_some(x[r] as usize)
    };
    (0..n).filter_map(of).collect()
}

#[test]
fn every_epoch_is_a_permutation_of_the_training_part() {
    // Batches that divide the part, that do not, and that are larger than it.
    for n in [4, 5, 27] {
        let mut data = Examples::new(pairs(15), Held::Fraction(0.2, Split::Tail), &options(n)).unwrap();
        let stream: Vec<usize> = (0..20).flat_map(|i| rows(&mut data, Part::Train, i)).collect();
        let epochs: Vec<&[usize]> = stream.chunks_exact(12).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), (0..12).collect());
        }
        assert_eq!(epochs.iter().collect::<BTreeSet<_>>().len(), epochs.len(), "an epoch comes again");
        let mut expected = [0; 12];
        Order::new(5).permutation(1, &mut expected);
        assert!(epochs[1].iter().eq(expected.map(|x| x as usize).iter()));
    }
}

#[test]
fn a_batch_is_the_same_whenever_it_is_asked_for() {
    let new = || Examples::new(pairs(15), Held::Fraction(0.2, Split::Scattered), &options(5)).unwrap();
    let mut data = new();
    let all: Vec<_> = (0..12).map(|i| batch(&mut data, Part::Train, i)).collect();
    for i in [11, 0, 5, 4, 7, 2, 2] {
        batch(&mut data, Part::Validation, 0);
        assert_eq!(batch(&mut data, Part::Train, i), all[i as usize]);
        assert_eq!(batch(&mut new(), Part::Train, i), all[i as usize]);
    }
    let last = batch(&mut data, Part::Train, u64::MAX);
    assert_eq!(batch(&mut new(), Part::Train, u64::MAX), last);
    let mut other = Examples::new(
        pairs(15),
        Held::Fraction(0.2, Split::Scattered),
        &ExamplesOptions { seed: 6, ..options(5) },
    )
    .unwrap();
    assert!((0..12).any(|i| batch(&mut other, Part::Train, i) != all[i as usize]));
    // The split is another matter than the order.
    assert_eq!(rows(&mut other, Part::Validation, 0), rows(&mut data, Part::Validation, 0));
}

#[test]
fn validation_goes_once_through_what_is_not_trained_on() {
    for split in [Split::Tail, Split::Scattered] {
        let mut data = Examples::new(pairs(15), Held::Fraction(0.5, split), &options(4)).unwrap();
        assert_eq!(data.n_validation_batches(), 2);
        let validation: Vec<_> = (0..2).flat_map(|i| rows(&mut data, Part::Validation, i)).collect();
        let train: BTreeSet<_> = (0..2).flat_map(|i| rows(&mut data, Part::Train, i)).collect();
        assert_eq!((validation.len(), train.len()), (7, 8), "{split:?}");
        assert!(validation.iter().all(|x| !train.contains(x)), "{split:?}: {validation:?} and {train:?}");
        assert_eq!(validation == [8, 9, 10, 11, 12, 13, 14], split == Split::Tail, "{validation:?}");
        let (_, target) = batch(&mut data, Part::Validation, 1);
        assert_eq!(target[3], IGNORE as f32);
        let e = data.batch(Part::Validation, 2, &mut [0.0; 8], &mut [0.0; 4]).unwrap_err().to_string();
        assert!(e.contains("validation batch 2: there are 2"), "{e}");
    }
    let mut data = Examples::new(pairs(8), Held::Fraction(0.0, Split::Tail), &options(4)).unwrap();
    assert_eq!(data.n_validation_batches(), 0);
    assert!(data.batch(Part::Validation, 0, &mut [0.0; 8], &mut [0.0; 4]).is_err());
    assert!(data.batch(Part::Train, 0, &mut [0.0; 7], &mut [0.0; 4]).is_err());
}

#[test]
fn other_examples_can_be_the_validation_part() {
    let mut other = pairs(3);
    other.inputs.values = vec![40.0, -40.0, 41.0, -41.0, 42.0, -42.0];
    other.targets.values = vec![1.0, 2.0, 0.0];
    let mut data = Examples::new(pairs(5), Held::Separate(other.clone()), &options(2)).unwrap();
    let validation: Vec<_> = (0..2).flat_map(|i| rows(&mut data, Part::Validation, i)).collect();
    assert_eq!(validation, [40, 41, 42]);
    let train: BTreeSet<_> = (0..5).flat_map(|i| rows(&mut data, Part::Train, i)).collect();
    assert_eq!(train, (0..5).collect());
    let named = |mut pairs: Pairs, names: [&str; 2]| {
        pairs.inputs.columns = Some(names.map(String::from).to_vec());
        pairs
    };
    let held = Held::Separate(named(other.clone(), ["v", "u"]));
    let e = Examples::new(named(pairs(5), ["u", "v"]), held, &options(2)).err().unwrap().to_string();
    assert!(e.contains("the columns v, u, expected u, v"), "{e}");
    other.inputs.shape = vec![6];
    other.targets = array(&[6], vec![0.0; 6]);
    let e = Examples::new(pairs(5), Held::Separate(other), &options(2)).err().unwrap().to_string();
    assert!(e.contains("1 numbers a row, expected 2 as in `a.npy`"), "{e}");
}

#[test]
fn layouts_and_targets_have_their_types() {
    let image = |n: usize, shape: &[usize]| Pairs {
        inputs: array(shape, (0..n * 6).map(|x| x as f32).collect()),
        targets: array(&[n, 1], vec![1.0; n]),
    };
    let images = ExamplesOptions { layout: Layout::Images, ..options(2) };
    for (shape, image_option, expected) in [
        (&[4, 2, 3][..], None, "fp32 [2, 1, 2, 3]"),
        (&[4, 1, 2, 3], None, "fp32 [2, 1, 2, 3]"),
        (&[4, 6], Some([2, 1, 3]), "fp32 [2, 2, 1, 3]"),
    ] {
        let options = ExamplesOptions { image: image_option, ..images.clone() };
        let mut data = Examples::new(image(4, shape), Held::Fraction(0.5, Split::Tail), &options).unwrap();
        assert_eq!(data.input().to_string(), expected);
        assert_eq!(data.target().to_string(), "int32 [2, 1]");
        let (x, y) = batch(&mut data, Part::Validation, 0);
        assert_eq!((x, y), ((12..24).map(|x| x as f32).collect(), vec![1.0; 2]));
    }
    // Numbers as targets: columns of them, and no batch that is not full.
    let regression = Pairs { targets: pairs(7).inputs, ..pairs(7) };
    let options = ExamplesOptions { n_classes: None, ..options(2) };
    let mut data = Examples::new(regression, Held::Fraction(0.5, Split::Tail), &options).unwrap();
    assert_eq!(data.target(), data.input());
    assert_eq!(data.n_validation_batches(), 1);
    let (x, y) = batch(&mut data, Part::Validation, 0);
    assert_eq!((&x, &y), (&vec![4.0, 5.0, -4.0, -5.0], &x));
}

#[test]
fn inputs_are_scaled_by_the_training_part() {
    let scaled = ExamplesOptions { scale: 0.5, ..options(2) };
    let mut data = Examples::new(pairs(4), Held::Fraction(0.5, Split::Tail), &scaled).unwrap();
    assert_eq!(batch(&mut data, Part::Validation, 0).0, [1.0, 1.5, -1.0, -1.5]);

    // Rows 0 and 1 have the means 0.5 and 3, the second number never varies.
    let constant = |n: usize| Pairs {
        inputs: array(&[n, 2], (0..n).flat_map(|x| [x as f32, 3.0]).collect()),
        targets: array(&[n], vec![0.0; n]),
    };
    let standardized = ExamplesOptions { standardize: true, ..options(2) };
    let mut data = Examples::new(constant(4), Held::Fraction(0.5, Split::Tail), &standardized).unwrap();
    assert_eq!(batch(&mut data, Part::Validation, 0).0, [3.0, 5.0, 0.0, 0.0]);

    // Of an image all pixels of a channel together: 0, 1, 4, 5 and 2, 3, 6, 7.
    let images = ExamplesOptions { layout: Layout::Images, image: Some([2, 1, 2]), ..standardized };
    let channels =
        Pairs { inputs: array(&[2, 4], (0..8).map(|x| x as f32).collect()), targets: array(&[2], vec![0.0; 2]) };
    let mut data = Examples::new(channels, Held::Fraction(0.0, Split::Tail), &images).unwrap();
    let (mut x, _) = batch(&mut data, Part::Train, 0);
    let deviation = 4.25f64.sqrt();
    let mut expected: Vec<f32> = [-2.5, -1.5, 1.5, 2.5].map(|x| (x / deviation) as f32).repeat(2);
    x.sort_by(f32::total_cmp);
    expected.sort_by(f32::total_cmp);
    assert_eq!(x, expected);
}

#[test]
fn what_does_not_fit_is_said() {
    let none = Held::Fraction(0.0, Split::Tail);
    let images = ExamplesOptions { layout: Layout::Images, ..options(2) };
    let with = |change: &dyn Fn(&mut Pairs)| {
        let mut pairs = pairs(4);
        change(&mut pairs);
        pairs
    };
    for (pairs, held, options, named) in [
        (with(&|p| p.inputs.values[5] = f32::NAN), none.clone(), options(2), "example 2, value 1 is NaN"),
        (
            with(&|p| p.targets.values[1] = 3.0),
            none.clone(),
            options(2),
            "example 1 is 3, expected a class of 0 to 2",
        ),
        (with(&|p| p.targets.values[1] = 0.5), none.clone(), options(2), "example 1 is 0.5"),
        (with(&|p| p.targets.values[1] = -1.0), none.clone(), options(2), "example 1 is -1"),
        (with(&|p| p.targets.values[1] = f32::NAN), none.clone(), options(2), "example 1 is NaN"),
        (with(&|p| p.targets.shape = vec![2, 2]), none.clone(), options(2), "2 targets, expected 4"),
        (with(&|p| p.targets = p.inputs.clone()), none.clone(), options(2), "expected a class for each example"),
        (with(&|p| p.inputs = array(&[0, 2], vec![])), none.clone(), options(2), "0 examples"),
        (pairs(4), Held::Fraction(1.5, Split::Tail), options(2), "no examples are left to train on"),
        (pairs(4), none.clone(), options(0), "a batch of 0 times 2 numbers"),
        (pairs(4), none.clone(), options(usize::MAX), "numbers, expected 1 to 2147483648 in all"),
        (pairs(4), none.clone(), images.clone(), "`data.image` to say [C, H, W]"),
        (
            pairs(4),
            none.clone(),
            ExamplesOptions { image: Some([1, 3, 1]), ..images.clone() },
            "2 numbers an example, which is no image of [1, 3, 1]",
        ),
        (
            pairs(4),
            none.clone(),
            ExamplesOptions { image: Some([1, 2, 1]), n_classes: None, ..images },
            "a model of images needs classes",
        ),
        (pairs(4), none.clone(), ExamplesOptions { layout: Layout::Tokens, ..options(2) }, "takes tokens"),
        (pairs(4), none.clone(), ExamplesOptions { n_classes: Some(1 << 25), ..options(2) }, "`data.classes`"),
        (
            Pairs { targets: pairs(4).inputs, ..pairs(4) },
            Held::Fraction(0.25, Split::Tail),
            ExamplesOptions { n_classes: None, ..options(2) },
            "1 validation examples, expected a whole batch of 2",
        ),
        (
            with(&|p| p.targets.values[1] = f32::INFINITY),
            none,
            ExamplesOptions { n_classes: None, ..options(2) },
            "example 1, value 0 is inf",
        ),
    ] {
        let e = Examples::new(pairs, held, &options).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(e.contains(named), "expected {named}: {e}");
    }
}
