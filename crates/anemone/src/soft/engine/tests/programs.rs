//! Whole programs against the arithmetic of whole numbers.

use super::{integers, small};
use crate::device::Arithmetic;
use crate::random::Random;
use crate::soft::plan::Plan;
use crate::soft::steps::Work;
use anemone_mil::builder::{self, Builder};
use anemone_mil::grad::{Seed, gradient};
use anemone_mil::ir::{DType, TensorType, Version};
use anemone_mil::ops::{Args, Bound, Eval, Operand, Value};
use anemone_mil::valid::{Origin, ValidCall, ValidFunction, ValueId};
use anemone_mil::{Limits, Tensor, ValidProgram, Weights, validate};
use std::collections::HashMap;

fn floats(t: &Tensor) -> Vec<f32> {
    t.to_f64s().into_iter().map(|x| x as f32).collect()
}

/// Runs a function op by op: what is summed, added, multiplied and compared with zero by whole numbers, the rest,
/// which moves elements or picks them, by its definition.
fn reference(f: &ValidFunction, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut values: HashMap<ValueId, Value> = HashMap::new();
    for (i, v) in f.ids().zip(&f.values) {
        if let Origin::Constant(value) = &v.origin {
            values.insert(i, value.clone());
        }
    }
    for (&id, t) in f.inputs.iter().zip(inputs) {
        values.insert(id, t.clone().into());
    }
    for call in &f.body.calls {
        let result =
            by_integers(f, call, &values).map_or_else(|| by_definition(f, call, &values), |t| vec![t.into()]);
        for (&id, value) in call.outputs.iter().zip(result) {
            values.insert(id, value);
        }
    }
    let tensor = |id: &ValueId| match &values[id] {
        Value::Tensor(t) => t.clone(),
        other => panic!("{other:?} is no tensor"),
    };
    f.outputs.iter().map(tensor).collect()
}

fn by_definition(f: &ValidFunction, call: &ValidCall, values: &HashMap<ValueId, Value>) -> Vec<Value> {
    let Eval::By(eval) = call.op.eval else { panic!("`{}` has no definition", call.op.name) };
    let bound = |id: &ValueId| Bound { ty: &f.value(*id).ty, value: values.get(id), constant: false };
    let operand = |(arg, param): (&Option<anemone_mil::valid::ArgIds>, &anemone_mil::ops::Param)| {
        let ids = arg.as_ref()?.ids();
        Some(if param.variadic {
            Operand::Many(ids.iter().map(bound).collect())
        } else {
            Operand::One(bound(&ids[0]))
        })
    };
    let operands = call.args.iter().zip(call.op.params).map(operand).collect();
    eval(&Args { def: call.op, operands }).unwrap()
}

fn by_integers(f: &ValidFunction, call: &ValidCall, values: &HashMap<ValueId, Value>) -> Option<Tensor> {
    let ty = f.value(call.outputs[0]).ty.as_tensor()?;
    if ty.dtype != DType::Fp16 {
        return None;
    }
    let shape = ty.fixed_shape()?;
    let arg = |name: &str| -> Option<&Tensor> {
        let (place, _) = call.op.param(name)?;
        match values.get(call.args[place].as_ref()?.ids().first()?)? {
            Value::Tensor(t) => Some(t),
            _ => None,
        }
    };
    let truth = |name| arg(name).is_some_and(|t| t.ints() == Some(&[1]));
    let tensor = |x: Vec<f32>| Some(Tensor::exact(DType::Fp16, &shape, x.into_iter().map(f64::from).collect()));
    // Of operands of one element, of all of them, or of one for each row of columns.
    let zip = |g: fn(f32, f32) -> f32| {
        let (x, y) = (arg("x")?, arg("y")?);
        let n: usize = shape.iter().product();
        let of = |t: &Tensor| -> Vec<f32> {
            let (own, x) = (t.shape().to_vec(), floats(t));
            let skip = shape.len() - own.len();
            let at = |mut i: usize| {
                let (mut at, mut step) = (0, 1);
                for a in (0..shape.len()).rev() {
                    let place = i % shape[a];
                    i /= shape[a];
                    if a >= skip {
                        at += if own[a - skip] == 1 { 0 } else { place * step };
                        step *= own[a - skip];
                    }
                }
                x[at]
            };
            (0..n).map(at).collect()
        };
        tensor(of(x).into_iter().zip(of(y)).map(|(x, y)| g(x, y)).collect())
    };
    match call.op.name {
        "conv" => {
            // Of one point and one image, with no bias: all that these programs have.
            let (x, w) = (arg("x")?, arg("weight")?);
            let (k, n) = (x.shape()[1], x.shape()[3]);
            let (x, w) = (floats(x), floats(w));
            let at = |i: usize| integers::sum(0.0, (0..k).map(|l| (w[i / n * k + l], x[l * n + i % n])));
            tensor((0..w.len() / k * n).map(at).collect())
        }
        "matmul" => {
            let (x, y) = (arg("x")?, arg("y")?);
            let [m, n] = [shape[shape.len() - 2], shape[shape.len() - 1]];
            let k = x.len() / m;
            assert_eq!((x.len(), y.len()), (m * k, k * n), "one product, no batch");
            let (turned_x, turned_y) = (truth("transpose_x"), truth("transpose_y"));
            let (x, y) = (floats(x), floats(y));
            let term = |i: usize, j: usize, l: usize| {
                let a = if turned_x { x[l * m + i] } else { x[i * k + l] };
                (a, if turned_y { y[j * k + l] } else { y[l * n + j] })
            };
            tensor((0..m * n).map(|at| integers::sum(0.0, (0..k).map(|l| term(at / n, at % n, l)))).collect())
        }
        "add" => zip(integers::add),
        "sub" => zip(|x, y| integers::add(x, -y)),
        "mul" => zip(integers::mul),
        "square" => tensor(floats(arg("x")?).into_iter().map(|x| integers::mul(x, x)).collect()),
        "relu" => tensor(floats(arg("x")?).into_iter().map(|x| integers::max(x, 0.0)).collect()),
        "reduce_sum" => {
            assert_eq!(shape.iter().product::<usize>(), 1, "of everything");
            tensor(vec![floats(arg("x")?).into_iter().fold(0.0, integers::add)])
        }
        _ => None,
    }
}

/// `sum((w2 relu(w1 x + b) - t)^2)` and its gradients.
fn network() -> ValidProgram {
    let mut b = Builder::new(Version::V1_3);
    let shapes: [(&str, &[usize]); 5] = [
        ("x", &[1, 24, 1, 20]),
        ("t", &[1, 10, 1, 20]),
        ("w1", &[36, 24, 1, 1]),
        ("w2", &[10, 36, 1, 1]),
        ("b", &[1, 36, 1, 1]),
    ];
    let [x, t, w1, w2, bias] =
        shapes.map(|(name, shape)| b.input(name, TensorType::new(DType::Fp16, shape)).unwrap());
    let h = b.pointwise(x, w1).unwrap();
    let h = b.add(h, bias).unwrap();
    let h = b.relu(h).unwrap();
    let y = b.pointwise(h, w2).unwrap();
    let d = b.sub(y, t).unwrap();
    let squares = b.mul(d, d).unwrap();
    let loss = b.reduce_sum(squares, &[0, 1, 2, 3], true).unwrap();
    let name = b.name(loss).to_string();
    let forward = validate(b.finish(&[loss, y]).unwrap(), &Limits::none()).unwrap();
    let joint = gradient(&forward, &name, &["w1", "w2", "x"], Seed::One).unwrap();
    validate(joint.program, &Limits::none()).unwrap()
}

#[test]
fn a_network_and_its_gradients_are_those_of_whole_numbers() {
    let program = network();
    let f = program.main();
    let plan = Plan::for_device(f, &Weights::new(), Arithmetic::Engine).unwrap();
    let is_reference = |w: &Work| matches!(w, Work::Reference(_) | Work::Product(_) | Work::Reduce(_));
    assert!(!plan.steps().iter().any(|s| is_reference(&s.work)), "all in the engine's arithmetic");
    let mut random = Random::new(5);
    for round in 0..6 {
        let mut input = |(_, ty): &(String, anemone_mil::ir::Type)| {
            let ty = ty.as_tensor().unwrap();
            let (shape, n) = (ty.fixed_shape().unwrap(), ty.n_elements().unwrap());
            let x = match round % 2 {
                0 => small(&mut random, n).into_iter().map(f64::from).collect(),
                _ => (0..n).map(|_| random.normal()).collect(),
            };
            Tensor::float(DType::Fp16, &shape, x)
        };
        let inputs: Vec<Tensor> = plan.inputs().iter().map(&mut input).collect();
        let mut memory = plan.memory();
        for (i, t) in inputs.iter().enumerate() {
            memory.write_input(&plan, i, &floats(t));
        }
        plan.run(&mut memory).unwrap();
        let expected = reference(f, &inputs);
        let mut n_kept = 0;
        for (i, expected) in expected.iter().enumerate() {
            let (found, expected) = (memory.output(&plan, i), floats(expected));
            assert!(
                found.iter().zip(&expected).all(|(x, y)| x == y),
                "output {i}: {found:?}, expected {expected:?}"
            );
            n_kept += found.iter().filter(|x| **x != 0.0 && x.is_finite()).count();
        }
        assert!(n_kept > 200, "{n_kept} numbers that say something");
    }
}

/// What a plan gives for inputs of small whole numbers, which both arithmetics compute exactly.
fn of_whole_numbers(program: &ValidProgram, arithmetic: Arithmetic) -> Vec<f32> {
    let plan = Plan::for_device(program.main(), &Weights::new(), arithmetic).unwrap();
    let ours = plan.steps().iter().filter(|s| matches!(s.work, Work::Engine(_))).count();
    assert_eq!(ours > 0, arithmetic == Arithmetic::Engine);
    let mut memory = plan.memory();
    let mut random = Random::new(7);
    for (i, (_, ty)) in plan.inputs().iter().enumerate() {
        let n = ty.as_tensor().unwrap().n_elements().unwrap();
        let x: Vec<f32> = (0..n).map(|_| (random.bits() % 7) as f32 - 3.0).collect();
        memory.write_input(&plan, i, &x);
    }
    plan.run(&mut memory).unwrap();
    memory.output(&plan, 0).to_vec()
}

#[test]
fn windows_groups_batches_and_broadcasts_are_those_of_ieee() {
    let whole = |shape: &[usize]| {
        let x = (0..shape.iter().product::<usize>()).map(|i| (i * 5 % 7) as f64 - 3.0).collect();
        Tensor::float(DType::Fp16, shape, x)
    };
    let ints = Tensor::i32s;
    type Build<'a> = Box<dyn Fn(&mut Builder, &[builder::Value]) -> anemone_mil::Result<builder::Value> + 'a>;
    let cases: Vec<(&str, Vec<Vec<usize>>, Build<'_>)> = vec![
        (
            "conv",
            vec![vec![2, 6, 9, 8]],
            Box::new(|b, v| {
                let conv = b.call("conv").arg("x", v[0]).constant("weight", whole(&[4, 3, 3, 2]));
                let conv = conv.constant("bias", whole(&[4])).constant("groups", Tensor::i32(2));
                let conv = conv.constant("strides", ints(&[2, 1])).constant("dilations", ints(&[1, 2]));
                conv.constant("pad_type", Tensor::string("custom")).constant("pad", ints(&[1, 2, 0, 1])).finish()
            }),
        ),
        (
            "conv_transpose",
            vec![vec![2, 4, 5, 6]],
            Box::new(|b, v| {
                let conv = b.call("conv_transpose").arg("x", v[0]).constant("weight", whole(&[4, 3, 3, 2]));
                let conv = conv.constant("bias", whole(&[6])).constant("groups", Tensor::i32(2));
                conv.constant("strides", ints(&[2, 3])).constant("pad_type", Tensor::string("valid")).finish()
            }),
        ),
        (
            "pointwise",
            vec![vec![3, 5, 2, 7]],
            Box::new(|b, v| {
                let w = b.constant(whole(&[4, 5, 1, 1]));
                b.pointwise(v[0], w)
            }),
        ),
        (
            "linear",
            vec![vec![3, 5]],
            Box::new(|b, v| {
                let linear = b.call("linear").arg("x", v[0]).constant("weight", whole(&[4, 5]));
                linear.constant("bias", whole(&[4])).finish()
            }),
        ),
        ("matmul", vec![vec![2, 1, 4, 5], vec![3, 6, 5]], Box::new(|b, v| b.matmul(v[0], v[1], false, true))),
        ("add", vec![vec![2, 3, 1, 5], vec![3, 4, 1]], Box::new(|b, v| b.add(v[0], v[1]))),
        (
            "select",
            vec![vec![3, 5], vec![5]],
            Box::new(|b, v| {
                let condition = b.call("greater").arg("x", v[0]).arg("y", v[1]).finish()?;
                b.call("select").arg("cond", condition).arg("a", v[0]).arg("b", v[1]).finish()
            }),
        ),
        ("reduce_sum", vec![vec![2, 3, 4]], Box::new(|b, v| b.reduce_sum(v[0], &[0, 2], true))),
    ];
    for (name, shapes, build) in cases {
        let mut b = Builder::new(Version::V1_3);
        let inputs = shapes.iter().enumerate();
        let inputs: Vec<_> =
            inputs.map(|(i, s)| b.input(&format!("x{i}"), TensorType::new(DType::Fp16, s)).unwrap()).collect();
        let y = build(&mut b, &inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let program = validate(b.finish(&[y]).unwrap(), &Limits::none()).unwrap();
        let expected = of_whole_numbers(&program, Arithmetic::Ieee);
        assert_eq!(of_whole_numbers(&program, Arithmetic::Engine), expected, "{name}");
        assert!(expected.iter().filter(|x| **x != 0.0).count() > 2, "{name}");
    }
}
