//! From one version of the language to the other, and into coremlc's order.

use crate::error::{Diagnostic, Error, Result};
use crate::ir::{
    ArgValue, Block, Call, Constant, DType, Function, Opset, Param, Program, Span, TensorType, Type, Version,
};
use crate::ops;
use crate::tensor::Tensor;
use std::collections::HashMap;

impl Program {
    /// The same program in the other version of the language.
    ///
    /// Scalars need nothing, as only their spelling differs. A function whose op set does not go with the version
    /// gets the nearest that does, which is iOS 17 either way. Going to 1.0, constants written in place become
    /// `const` calls of their own, and the arguments of `constexpr_cast` and `constexpr_affine_dequantize`
    /// become attributes, as they were before iOS 18.
    ///
    /// # Errors
    ///
    /// An invalid program ([`Error::is_invalid`]) with a diagnostic for each thing that the version cannot say.
    /// 1.3 can say everything but ops and arguments that iOS 17 no longer has. 1.0 has no states, laid-out
    /// buffers, elements narrower than a byte and 8-bit floats, nor the `constexpr` ops as iOS 18 defines them.
    pub fn to_version(&self, version: Version) -> Result<Program> {
        let mut program = Program { version, ..self.clone() };
        if version == self.version {
            return Ok(program);
        }
        let (first, last) = opsets(version);
        let mut errors = Vec::new();
        for function in &mut program.functions {
            let before = function.opset;
            function.opset = function.opset.clamp(first, last);
            for_each_call(&mut function.body, &mut |call| {
                let (before, opset) =
                    (call.opset.unwrap_or(before), call.opset.unwrap_or(before).clamp(first, last));
                call.opset = call.opset.map(|_| opset);
                // What `Lowering` says in another way, or refuses.
                if !call.op.starts_with("constexpr_") {
                    errors.extend(lost(call, before, opset));
                }
            });
            if version == Version::V1_0 {
                let mut lowering = Lowering::new(function);
                lowering.function(function);
                errors.append(&mut lowering.errors);
            }
        }
        if errors.is_empty() { Ok(program) } else { Err(Error::invalid(errors)) }
    }

    /// Brings what has no order into coremlc's, by name: the inputs of functions, the arguments and attributes of
    /// calls. A tuple of one value becomes the value. Outputs and the inputs of nested blocks have an order that
    /// means something, and keep it.
    pub fn normalize(&mut self) {
        self.attributes.sort_by(|a, b| a.0.cmp(&b.0));
        for function in &mut self.functions {
            function.params.sort_by(|a, b| a.name.cmp(&b.name));
            function.attributes.sort_by(|a, b| a.0.cmp(&b.0));
            for_each_call(&mut function.body, &mut normalize_call);
        }
    }
}

/// What of a call that is right in one op set is not in another.
fn lost(call: &Call, before: Opset, after: Opset) -> Option<Diagnostic> {
    let Ok(old) = ops::find(&call.op, before)? else { return None };
    let new = match ops::find(&call.op, after)? {
        Ok(new) if std::ptr::eq(new, old) => return None,
        Ok(new) => new,
        Err(since) => {
            let what = format!("op `{}` comes with {since}, and the nearest op set there is {after}", call.op);
            return Some(Diagnostic::error("version", what).at(call.span, "not in that version"));
        }
    };
    let arg = call.args.iter().find(|arg| old.param(&arg.name).is_some() && new.param(&arg.name).is_none())?;
    let what = format!("op `{}` has no parameter `{}` in {after}, the nearest op set", call.op, arg.name);
    Some(Diagnostic::error("version", what).at(arg.span, "not in that version"))
}

/// Calls `f` for the calls of a block and of the blocks in them.
fn for_each_call(block: &mut Block, f: &mut impl FnMut(&mut Call)) {
    for call in &mut block.calls {
        f(call);
        call.blocks.iter_mut().for_each(|b| for_each_call(b, f));
    }
}

fn normalize_call(call: &mut Call) {
    call.args.sort_by(|a, b| a.name.cmp(&b.name));
    call.attributes.sort_by(|a, b| a.0.cmp(&b.0));
    for arg in &mut call.args {
        if let ArgValue::Tuple(values) = &mut arg.value
            && values.len() == 1
            && let Some(value) = values.pop()
        {
            arg.value = value;
        }
    }
}

/// The first and the last op set of the functions that coremlc writes in that version.
fn opsets(version: Version) -> (Opset, Opset) {
    match version {
        Version::V1_0 => (Opset::Ios15, Opset::Ios17),
        Version::V1_3 => (Opset::Ios17, Opset::Ios18),
    }
}

/// Says one function in `program(1.0)`, as far as it can be said.
struct Lowering {
    /// Every name of the function, so that new ones are new, with the last number that was hung on it for that.
    names: HashMap<String, usize>,
    /// What the `const` calls hold that can be seen from here.
    constants: HashMap<String, Constant>,
    errors: Vec<Diagnostic>,
}

impl Lowering {
    fn new(function: &Function) -> Lowering {
        let names = function.params.iter().map(|p| (p.name.clone(), 0)).collect();
        let mut lowering = Lowering { names, constants: HashMap::new(), errors: Vec::new() };
        lowering.collect(&function.body);
        lowering
    }

    fn collect(&mut self, block: &Block) {
        self.names.extend(block.params.iter().map(|p| (p.name.clone(), 0)));
        for call in &block.calls {
            self.names.extend(call.outputs.iter().map(|p| (p.name.clone(), 0)));
            call.blocks.iter().for_each(|b| self.collect(b));
        }
    }

    fn error(&mut self, what: String, span: Span, label: &str) {
        let d = Diagnostic::error("version", format!("{what} cannot be said in program(1.0)"));
        self.errors.push(d.at(span, label).note("keep the program at version 1.3"));
    }

    fn check_type(&mut self, ty: &Type, span: Span) {
        match ty {
            Type::Tensor(TensorType { dtype, .. }) => {
                if dtype.bits().is_some_and(|b| b < 8) || matches!(dtype, DType::Fp8E4M3Fn | DType::Fp8E5M2) {
                    self.error(
                        format!("the element type `{dtype}`"),
                        span,
                        "of an element type that is new in 1.3",
                    );
                }
            }
            Type::List(element, _) => self.check_type(element, span),
            Type::Tuple(types) => types.iter().for_each(|t| self.check_type(t, span)),
            Type::Dict(key, value) => [key, value].into_iter().for_each(|t| self.check_type(t, span)),
            Type::State(_) => self.error(format!("the type `{ty}`"), span, "a state, which is new in 1.3"),
            Type::Buffer(_) => self.error(format!("the type `{ty}`"), span, "a laid-out buffer, new in 1.3"),
        }
    }

    fn function(&mut self, function: &mut Function) {
        for param in &function.params {
            self.check_type(&param.ty, param.span);
        }
        for (_, constant) in &function.attributes {
            self.check_type(&constant.ty, function.span);
        }
        self.block(&mut function.body);
    }

    fn block(&mut self, block: &mut Block) {
        for param in &block.params {
            self.check_type(&param.ty, param.span);
        }
        // Blocks beside each other may use a name for different things.
        let mut hidden = Vec::new();
        for mut call in std::mem::take(&mut block.calls) {
            if let ("const", [output], Some(value)) = (&*call.op, &*call.outputs, call.attribute("val")) {
                let name = output.name.clone();
                hidden.push((name.clone(), self.constants.insert(name, value.clone())));
            }
            for output in &call.outputs {
                self.check_type(&output.ty, output.span);
            }
            if call.op.starts_with("constexpr_") {
                self.constexpr(&mut call);
            }
            for (_, constant) in &call.attributes {
                self.check_type(&constant.ty, call.span);
            }
            self.name_constants(&mut call, &mut block.calls);
            call.blocks.iter_mut().for_each(|b| self.block(b));
            block.calls.push(call);
        }
        for (name, before) in hidden.into_iter().rev() {
            match before {
                Some(before) => self.constants.insert(name, before),
                None => self.constants.remove(&name),
            };
        }
    }

    /// Makes the arguments of a `constexpr` op attributes, where the op before iOS 18 is the same.
    fn constexpr(&mut self, call: &mut Call) {
        if call.args.is_empty() {
            return;
        }
        if !matches!(&*call.op, "constexpr_cast" | "constexpr_affine_dequantize") {
            self.error(format!("op `{}` of iOS 18", call.op), call.span, "another op, or none, before iOS 18");
            return;
        }
        for arg in std::mem::take(&mut call.args) {
            let constant = match arg.value {
                ArgValue::Constant(constant) => Some(constant),
                ArgValue::Name(name) => self.constants.get(&name).cloned(),
                ArgValue::Tuple(_) => None,
            };
            match constant {
                Some(constant) => call.attributes.push((arg.name, constant)),
                None => {
                    let what = format!("a computed argument `{}` of op `{}`", arg.name, call.op);
                    self.error(what, arg.span, "expected a constant");
                }
            }
        }
        call.attributes.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Gives every constant among the arguments a `const` call in `before`, which 1.0 needs.
    fn name_constants(&mut self, call: &mut Call, before: &mut Vec<Call>) {
        let stem = call.outputs.first().map_or(&call.op, |o| &o.name).clone();
        for arg in &mut call.args {
            self.name_constant(&mut arg.value, &format!("{stem}_{}", arg.name), arg.span, before);
        }
    }

    fn name_constant(&mut self, value: &mut ArgValue, name: &str, span: Span, before: &mut Vec<Call>) {
        match value {
            ArgValue::Name(_) => {}
            ArgValue::Tuple(values) => {
                for (i, value) in values.iter_mut().enumerate() {
                    self.name_constant(value, &format!("{name}_{i}"), span, before);
                }
            }
            ArgValue::Constant(constant) => {
                self.check_type(&constant.ty, span);
                let mut unique = name.to_string();
                while self.names.contains_key(&unique) {
                    let last = self.names.entry(name.to_string()).or_default();
                    *last += 1;
                    unique = format!("{name}_{last}");
                }
                self.names.insert(unique.clone(), 0);
                let ArgValue::Constant(constant) = std::mem::replace(value, ArgValue::Name(unique.clone())) else {
                    return;
                };
                before.push(Call {
                    outputs: vec![Param { name: unique.clone(), ty: constant.ty.clone(), span: Span::NONE }],
                    op: "const".to_string(),
                    opset: None,
                    args: Vec::new(),
                    attributes: vec![
                        ("name".to_string(), Constant::tensor(Tensor::string(unique))),
                        ("val".to_string(), constant),
                    ],
                    blocks: Vec::new(),
                    span: Span::NONE,
                });
            }
        }
    }
}
