//! One op at a time.

mod moving;
mod pointwise;
mod products;
mod reductions;
mod windowed;

use super::*;

/// A program of one op on inputs of these shapes.
struct Case {
    name: String,
    /// Shapes of the floating-point inputs.
    floats: Vec<Vec<usize>>,
    /// Shapes of the `int32` inputs, which follow, and below what their elements are.
    ints: Vec<(Vec<usize>, i64)>,
    /// What is added to each float.
    offset: f64,
    /// How many terms, of size 1 or so, the results are summed of.
    terms: usize,
    build: Build,
}

type Build = Box<dyn Fn(&mut Builder, &[Value]) -> Result<Vec<Value>>>;

fn case(
    name: impl Into<String>,
    floats: &[&[usize]],
    terms: usize,
    build: impl Fn(&mut Builder, &[Value]) -> Result<Value> + 'static,
) -> Case {
    Case {
        name: name.into(),
        floats: floats.iter().map(|s| s.to_vec()).collect(),
        ints: Vec::new(),
        offset: 0.0,
        terms,
        build: Box::new(move |b, v| Ok(vec![build(b, v)?])),
    }
}

impl Case {
    fn ints(mut self, shape: &[usize], below: i64) -> Case {
        self.ints.push((shape.to_vec(), below));
        self
    }

    fn offset(mut self, offset: f64) -> Case {
        self.offset = offset;
        self
    }

    fn program(&self, dtype: DType) -> ValidProgram {
        let floats = self.floats.iter().map(|s| TensorType::new(dtype, s));
        let types: Vec<_> = floats.chain(self.ints.iter().map(|(s, _)| int32(s))).collect();
        program(&types, |b, v| (self.build)(b, v)).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    fn inputs(&self, dtype: DType, mut number: impl FnMut() -> f64, seed: u64) -> Vec<Tensor> {
        let mut numbers = Numbers::new(seed);
        let floats = self.floats.iter().map(|s| {
            let x = (0..s.iter().product()).map(|_| number() + self.offset).collect();
            Tensor::float(dtype, s, x)
        });
        let ints = self.ints.iter().map(|(s, below)| {
            // Indices may count from the end.
            let x = (0..s.iter().product()).map(|_| i64::from(numbers.bits()) % (2 * below) - below).collect();
            Tensor::int(DType::Int32, s, x)
        });
        floats.chain(ints).collect()
    }

    fn check(&self, dtype: DType) {
        let program = self.program(dtype);
        let plan = planned(&program);
        assert_eq!(references(&plan), [""; 0], "{}", self.name);
        let mut numbers = Numbers::new(self.terms as u64 + self.name.len() as u64);
        let inputs = self.inputs(dtype, || 2.0 * numbers.float(), 7);
        let (found, expected) = (engine(&plan, &inputs).unwrap(), reference(&program, &inputs).unwrap());
        let (mut n_off, mut n) = (0, 0);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len(), "{}", self.name);
            for (i, (&x, &y)) in found.iter().zip(expected).enumerate() {
                // A few units of the result's last place, and half a unit of each term.
                let of_f32 = f64::from(f32::EPSILON) * (6.0 * y.abs() + self.terms as f64);
                // Two numbers that near may round to neighbours of the fp16 grid.
                let grid = if dtype == DType::Fp16 { (y.abs() / 1024.0).max(6e-8) } else { 0.0 };
                let off = if f64::from(x) == y { 0.0 } else { (f64::from(x) - y).abs() };
                assert!(off <= of_f32 + grid, "{} {dtype}: element {i} is {x:e}, expected {y:e}", self.name);
                n_off += usize::from(off > 0.0 && grid > 0.0);
                n += 1;
            }
        }
        assert!(n_off * 20 <= n + 20, "{}: {n_off} of {n} results are not rounded as the exact ones", self.name);
    }

    /// What is not finite spreads as in the reference.
    fn check_special(&self) {
        const SPECIAL: [f64; 8] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, -300.0, 100.0];
        let program = self.program(DType::Fp32);
        let plan = planned(&program);
        for rate in [2, 40] {
            let mut numbers = Numbers::new(rate);
            let mut number = || match u64::from(numbers.bits()) >> 8 {
                n if n % rate == 0 => SPECIAL[n as usize / 64 % SPECIAL.len()],
                _ => numbers.float(),
            };
            let inputs = self.inputs(DType::Fp32, &mut number, 3);
            let (found, expected) = (engine(&plan, &inputs).unwrap(), reference(&program, &inputs).unwrap());
            for (i, (&x, &y)) in found.iter().flatten().zip(expected.iter().flatten()).enumerate() {
                let same = x.is_nan() && y.is_nan() || f64::from(x) == y || (x.is_finite() && y.is_finite());
                assert!(same, "{}: element {i} is {x:e}, expected {y:e}", self.name);
            }
        }
    }
}

fn i32s(x: &[i32]) -> Tensor {
    Tensor::i32s(x)
}

/// A constant of the type of `like`.
fn number(b: &mut Builder, like: Value, x: f64) -> Tensor {
    Tensor::float(b.tensor_ty(like).unwrap().dtype, &[], vec![x])
}

/// A constant tensor of the type of `like`.
fn wave(b: &mut Builder, like: Value, shape: &[usize]) -> Tensor {
    let x = (0..shape.iter().product()).map(|i: usize| (i as f64 * 0.7).sin()).collect();
    Tensor::float(b.tensor_ty(like).unwrap().dtype, shape, x)
}

fn all() -> Vec<Case> {
    [pointwise::cases(), reductions::cases(), moving::cases(), products::cases(), windowed::cases()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_step_gives_what_the_definition_gives() {
    for case in all() {
        case.check(DType::Fp32);
        // Products that are added up are rounded one by one in fp16: no step of their own, no single rounding.
        if !case.name.starts_with("sum of products") {
            case.check(DType::Fp16);
        }
    }
}

#[test]
fn what_is_not_finite_spreads_as_in_the_definition() {
    // Whole numbers have nothing of the kind.
    all().iter().filter(|c| c.ints.is_empty()).for_each(Case::check_special);
}

#[test]
fn an_index_out_of_range_is_an_error_that_names_the_call() {
    let p = program(&[fp32(&[3, 2]), int32(&[1])], |b, v| {
        Ok(vec![b.call("gather").named("row").arg("x", v[0]).arg("indices", v[1]).finish()?])
    });
    let plan = planned(&p.unwrap());
    let table = Tensor::float(DType::Fp32, &[3, 2], vec![0.0; 6]);
    let run = |i| engine(&plan, &[table.clone(), Tensor::int(DType::Int32, &[1], vec![i])]);
    assert!(run(-3).is_ok() && run(2).is_ok());
    let message = run(3).unwrap_err().to_string();
    assert!(
        message.contains("op `gather` (`row`): argument `indices` holds 3, the axis has 3 elements"),
        "{message}"
    );
    assert!(run(-4).is_err());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    // Large enough to be shared.
    let p = program(&[fp32(&[6, 200, 1, 300]), fp32(&[6, 150, 200])], |b, v| {
        let x = b.reshape(v[0], &[6, 200, 300])?;
        let y = b.matmul(v[1], x, false, false)?;
        let w = b.matmul(y, x, false, true)?;
        let w = b.reduce_sum(w, &[0], false)?;
        let g = b.call("gelu").arg("x", v[0]).finish()?;
        let s = b.call("softmax").arg("x", g).constant("axis", Tensor::i32(1)).finish()?;
        let sums = b.reduce_sum(s, &[3], false)?;
        let norm = b.call("layer_norm").arg("x", v[0]).constant("axes", i32s(&[1])).finish()?;
        let image = b.reshape(v[0], &[6, 200, 15, 20])?;
        let weight = wave(b, image, &[8, 200, 3, 3]);
        let conv = b.call("conv").arg("x", image).constant("weight", weight).finish()?;
        let pool = b.call("max_pool").arg("x", image).constant("kernel_sizes", i32s(&[3, 3]));
        let pool = pool.constant("pad_type", Tensor::string("valid")).finish()?;
        let turned = b.transpose(v[0], &[0, 3, 1, 2])?;
        let beside = b.concat(&[v[0], g], 1)?;
        Ok(vec![y, w, sums, norm, conv, pool, s, turned, beside])
    });
    let mut numbers = Numbers::new(5);
    let mut tensor = |shape: &[usize]| {
        Tensor::float(DType::Fp32, shape, (0..shape.iter().product()).map(|_| numbers.float()).collect())
    };
    let inputs = [tensor(&[6, 200, 1, 300]), tensor(&[6, 150, 200])];
    let plan = planned(&p.unwrap());
    let bits = |n: usize| {
        crate::set_n_threads(n);
        let out = engine(&plan, &inputs).unwrap();
        out.into_iter().flatten().map(f32::to_bits).collect::<Vec<_>>()
    };
    let (one, two, all) = (bits(1), bits(2), bits(usize::MAX));
    assert!(one == two && one == all);
}
