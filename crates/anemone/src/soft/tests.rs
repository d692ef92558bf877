//! Tests of the engine against the reference interpreter.

mod kept;
mod models;
mod ops;
mod parameters;

use super::plan::Plan;
use super::steps::Work;
use anemone_mil::builder::{Builder, Value};
use anemone_mil::ir::{DType, TensorType, Version};
use anemone_mil::{Interpreter, Limits, Result, Tensor, ValidProgram, Weights, validate};

/// Numbers that look random, the same in every run.
pub(super) struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// Between -1 and 1.
    fn float(&mut self) -> f64 {
        f64::from(self.bits()) / f64::from(1u32 << 30) - 1.0
    }
}

/// A program built from inputs of these types.
fn program(
    inputs: &[TensorType],
    build: impl FnOnce(&mut Builder, &[Value]) -> Result<Vec<Value>>,
) -> Result<ValidProgram> {
    let mut b = Builder::new(Version::V1_3);
    let inputs = inputs.iter().enumerate().map(|(i, ty)| b.input(&format!("in{i}"), ty.clone()));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let outputs = build(&mut b, &inputs)?;
    validate(b.finish(&outputs)?, &Limits::none())
}

fn planned(program: &ValidProgram) -> Plan {
    Plan::new(program.main(), &Weights::new()).expect("it can be planned")
}

/// The ops that have no step of their own, in the order of the plan.
fn references(plan: &Plan) -> Vec<&str> {
    let of = |w: &_| match w {
        Work::Reference(r) => Some(r.call.op.name),
        _ => None,
    };
    plan.steps().iter().filter_map(|s| of(&s.work)).collect()
}

/// What the engine gives for these inputs.
fn engine(plan: &Plan, inputs: &[Tensor]) -> crate::Result<Vec<Vec<f32>>> {
    let mut memory = plan.memory();
    for (i, t) in inputs.iter().enumerate() {
        let elements: Vec<f32> = t.to_f64s().into_iter().map(|x| x as f32).collect();
        memory.write_input(plan, i, &elements);
    }
    plan.run(&mut memory)?;
    let read = |(i, (_, ty)): (usize, &(String, anemone_mil::ir::Type))| {
        let mut out = vec![0.0; ty.as_tensor().and_then(TensorType::n_elements).unwrap_or(0)];
        memory.read_output(plan, i, &mut out);
        out
    };
    Ok(plan.outputs().iter().enumerate().map(read).collect())
}

/// What the reference interpreter gives.
fn reference(program: &ValidProgram, inputs: &[Tensor]) -> Result<Vec<Vec<f64>>> {
    let outputs = Interpreter::new(program, &Weights::new())?.run(inputs)?;
    Ok(outputs.iter().map(Tensor::to_f64s).collect())
}

fn fp32(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Fp32, shape)
}

fn int32(shape: &[usize]) -> TensorType {
    TensorType::new(DType::Int32, shape)
}
