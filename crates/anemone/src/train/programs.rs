//! The programs a device gets: a linear layer in fp16, its weights compiled in or passed in.

use crate::config::{Io, Strategy};
use crate::error::{Error, Result};
use anemone_mil::builder::{Builder, Value};
use anemone_mil::ir::{BlobRef, DType, Program, TensorType, Version};
use anemone_mil::tensor::Tensor;
use anemone_mil::valid::{ArgIds, ValidCall, ValidFunction, ValueId};

/// Where programs look for their weights file.
pub(crate) const WEIGHTS_PATH: &str = "@model_path/weights/weight.bin";

/// The offset of the first record of a weights file, which follows its header of 64 bytes.
const FIRST_RECORD: u64 = 64;

/// A linear layer of the training graph: a convolution whose weights depend on parameters alone.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// What reports call it: the name of its output in the training graph.
    pub(crate) label: String,
    pub(crate) x: ValueId,
    pub(crate) weight: ValueId,
    pub(crate) y: ValueId,
    x_shape: Vec<usize>,
    weight_shape: Vec<usize>,
    y_shape: Vec<usize>,
    /// The constant arguments of the convolution by name.
    constants: Vec<(&'static str, Tensor)>,
}

impl Linear {
    /// The layer that a call is, if its constants are written in the text.
    pub(crate) fn of(f: &ValidFunction, call: &ValidCall, x: ValueId, weight: ValueId) -> Result<Linear> {
        let shape = |id: ValueId| {
            let v = f.value(id);
            v.ty.as_tensor().and_then(|t| t.fixed_shape()).ok_or_else(|| {
                Error::config(format!("`{}` is {}, expected a tensor of fixed shape", v.name, v.ty))
            })
        };
        let constant = |(p, arg): (&anemone_mil::ops::Param, &Option<ArgIds>)| match arg {
            Some(ArgIds::One(id)) if p.constant => match f.value(*id).constant()? {
                anemone_mil::ops::Value::Tensor(t) => Some((p.name, t.clone())),
                anemone_mil::ops::Value::List(_) => None,
            },
            _ => None,
        };
        let y = call.outputs[0];
        Ok(Linear {
            label: f.label(call).to_string(),
            x,
            weight,
            y,
            x_shape: shape(x)?,
            weight_shape: shape(weight)?,
            y_shape: shape(y)?,
            constants: call.op.params.iter().zip(&call.args).filter_map(constant).collect(),
        })
    }

    /// Floating-point operations of one run: a multiplication and an addition for each term.
    pub(crate) fn n_flops(&self) -> u64 {
        let terms: usize =
            self.y_shape.iter().product::<usize>() * self.weight_shape[1..].iter().product::<usize>();
        2 * terms as u64
    }

    /// The program of this layer.
    ///
    /// # Errors
    ///
    /// If its weights can only be compiled in.
    pub(crate) fn program(&self, strategy: Strategy, io: Io) -> Result<Program> {
        match strategy {
            Strategy::Baked => self.baked(io),
            Strategy::Operand => self.operand(io),
        }
    }

    /// `y = conv(x, W)` with `W` a constant in a weights file.
    ///
    /// Names and order of the constants are those of the field's first such program, so that the texts can be
    /// compared.
    fn baked(&self, io: Io) -> Result<Program> {
        let mut b = Builder::new(Version::V1_0);
        let x = b.input("x", TensorType::new(io.dtype(), &self.x_shape))?;
        let x16 = to_fp16(&mut b, x, io, "x16", ("d1", "cx"))?;
        let blob = BlobRef { path: WEIGHTS_PATH.into(), offset: FIRST_RECORD };
        let w = b.blob("W", TensorType::new(DType::Fp16, &self.weight_shape), blob);
        const NAMES: [(&str, &str); 5] =
            [("pad_type", "pt"), ("strides", "st"), ("pad", "pd"), ("dilations", "dl"), ("groups", "gr")];
        let mut constants = Vec::new();
        for (param, name) in NAMES {
            if let Some((param, t)) = self.constants.iter().find(|(p, _)| *p == param) {
                constants.push((*param, b.named_constant(name, t.clone())));
            }
        }
        let name = if io == Io::Fp32 { "y16" } else { "y" };
        let mut conv = b.call("conv").named(name).labelled("cv").arg("x", x16).arg("weight", w);
        for (param, v) in constants {
            conv = conv.arg(param, v);
        }
        let y16 = conv.finish()?;
        let y = from_fp16(&mut b, y16, io)?;
        Ok(b.finish(&[y])?)
    }

    /// `y = W x` with `W` `[1, 1, O, I]` an input: a matrix product, because the engine's convolution ignores
    /// weights that are no constants.
    fn operand(&self, io: Io) -> Result<Program> {
        let ([n, c, ..], [o, i, kernel @ ..]) = (&self.x_shape[..], &self.weight_shape[..]) else {
            return Err(Error::config(format!("layer `{}`: expected channels", self.label)));
        };
        if i != c || kernel.iter().any(|&k| k != 1) || self.x_shape[2..] != self.y_shape[2..] {
            return Err(Error::config(format!(
                "layer `{}`: weights of shape {:?} cannot be passed as an operand, only those of 1x1 kernels without \
                 strides and groups; use the strategy `baked`",
                self.label, self.weight_shape
            )));
        }
        let size: usize = self.x_shape[2..].iter().product();
        let mut b = Builder::new(Version::V1_0);
        let w = b.input("W", TensorType::new(io.dtype(), &[1, 1, *o, *i]))?;
        let x = b.input("x", TensorType::new(io.dtype(), &self.x_shape))?;
        let w16 = to_fp16(&mut b, w, io, "W16", ("d0", "cw"))?;
        let x16 = to_fp16(&mut b, x, io, "x16", ("d1", "cx"))?;
        let columns = b.reshape(x16, &[*n, 1, *c, size])?;
        let product = b.matmul(w16, columns, false, false)?;
        let y16 = b.reshape(product, &self.y_shape)?;
        let y = from_fp16(&mut b, y16, io)?;
        Ok(b.finish(&[y])?)
    }
}

impl Io {
    /// The element type.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Io::Fp16 => DType::Fp16,
            Io::Fp32 => DType::Fp32,
        }
    }
}

/// `x` in fp16, by a cast where the program's inputs are fp32.
fn to_fp16(b: &mut Builder, x: Value, io: Io, name: &str, (dtype, label): (&str, &str)) -> Result<Value> {
    if io == Io::Fp16 {
        return Ok(x);
    }
    let fp16 = Tensor::string("fp16");
    Ok(b.call("cast").named(name).labelled(label).arg("x", x).constant_named("dtype", dtype, fp16).finish()?)
}

/// The output `y` from its value in fp16.
fn from_fp16(b: &mut Builder, y16: Value, io: Io) -> Result<Value> {
    if io == Io::Fp16 {
        return Ok(y16);
    }
    let fp32 = Tensor::string("fp32");
    Ok(b.call("cast").named("y").labelled("co").arg("x", y16).constant_named("dtype", "d2", fp32).finish()?)
}
