//! Validation: from a program as written to one in which every name, type and op is resolved.

use crate::builder::call_error;
use crate::error::{Diagnostic, Error, Result, Severity};
use crate::ir::*;
use crate::limits::Limits;
use crate::ops::{self, Args, Bound, OpDef, OpError, OpResult, Operand};
use std::collections::{HashMap, HashSet};

/// A program that is right: names are resolved and defined before they are used, ops exist in their op set, types
/// follow the ops' rules, and no rule of the limits it was checked against is broken. Only [`validate`] and
/// [`check`] make one, so who takes it may return errors but must not panic on it.
#[derive(Clone, Debug)]
pub struct ValidProgram {
    program: Program,
    functions: Vec<ValidFunction>,
}

/// The number of a value in its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(u32);

impl ValueId {
    /// As an index into [`ValidFunction::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A function with its names resolved. Values are numbered in the order of definition.
#[derive(Clone, Debug)]
pub struct ValidFunction {
    /// The name.
    pub name: String,
    /// All values, those of nested blocks included.
    pub values: Vec<ValueInfo>,
    /// The inputs, in the order of the program.
    pub inputs: Vec<ValueId>,
    /// The outputs, in the order of the program.
    pub outputs: Vec<ValueId>,
    /// What it computes. Constants are values, not calls.
    pub body: ValidBlock,
}

/// A block with its names resolved.
#[derive(Clone, Debug, Default)]
pub struct ValidBlock {
    /// What a nested block takes.
    pub params: Vec<ValueId>,
    /// The calls.
    pub calls: Vec<ValidCall>,
    /// What it returns.
    pub outputs: Vec<ValueId>,
}

/// A call with its op and names resolved.
#[derive(Clone, Debug)]
pub struct ValidCall {
    /// The op's signature.
    pub op: &'static OpDef,
    /// What each of the op's parameters is bound to; `None` where it was left out.
    pub args: Vec<Option<ArgIds>>,
    /// What it defines.
    pub outputs: Vec<ValueId>,
    /// Its nested blocks.
    pub blocks: Vec<ValidBlock>,
    /// Where the op's name stands.
    pub span: Span,
}

/// The values bound to a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ArgIds {
    /// One.
    One(ValueId),
    /// A tuple.
    Many(Vec<ValueId>),
}

impl ArgIds {
    /// The values, however many.
    pub fn ids(&self) -> &[ValueId] {
        match self {
            ArgIds::One(v) => std::slice::from_ref(v),
            ArgIds::Many(vs) => vs,
        }
    }
}

/// A value of a function.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// The name; empty for a constant written in place.
    pub name: String,
    /// The declared type.
    pub ty: Type,
    /// Where it comes from.
    pub origin: Origin,
    /// Where its name stands.
    pub span: Span,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// An input of the function or of a nested block.
    Input,
    /// The output of a call.
    Call,
    /// A constant of the text.
    Constant(ops::Value),
    /// A constant of a weights file.
    Blob(BlobRef),
}

impl ValueInfo {
    /// The value of a constant of the text.
    pub fn constant(&self) -> Option<&ops::Value> {
        match &self.origin {
            Origin::Constant(v) => Some(v),
            _ => None,
        }
    }

    /// Whether it is a constant, of the text or of a weights file.
    pub fn is_constant(&self) -> bool {
        matches!(self.origin, Origin::Constant(_) | Origin::Blob(_))
    }

    /// Whether it is an argument such as an axis or a flag, and no data of its own.
    pub fn is_scalar_constant(&self) -> bool {
        self.constant().is_some()
    }
}

impl ValidFunction {
    /// The value of that number.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        &self.values[id.index()]
    }

    /// The numbers of all values, in order.
    pub fn ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// What a call is known by: its first output, or its op if it has none.
    pub fn label(&self, call: &ValidCall) -> &str {
        call.outputs.first().map_or(call.op.name, |&v| &self.value(v).name)
    }

    /// The constants kept in weights files.
    pub fn blobs(&self) -> impl Iterator<Item = (ValueId, &BlobRef)> {
        self.values.iter().enumerate().filter_map(|(i, v)| match &v.origin {
            Origin::Blob(b) => Some((ValueId(i as u32), b)),
            _ => None,
        })
    }
}

impl ValidProgram {
    /// The program as written.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The functions, in the order of the program.
    pub fn functions(&self) -> &[ValidFunction] {
        &self.functions
    }

    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<&ValidFunction> {
        self.functions.iter().find(|f| f.name == name)
    }

    /// The function a device runs: `main`, or the first if none is called so.
    pub fn main(&self) -> &ValidFunction {
        // Validation refuses programs without a function.
        self.function("main").unwrap_or(&self.functions[0])
    }
}

/// Checks a program against the rules of the language and against `limits`.
///
/// # Errors
///
/// If the program is wrong ([`Error::is_invalid`]), or right but refused by the limits ([`Error::is_refused`]);
/// with every finding, not just the first.
pub fn validate(program: Program, limits: &Limits) -> Result<ValidProgram> {
    let (valid, findings) = check(program, limits);
    if findings.iter().any(|d| d.severity == Severity::Error) {
        return Err(if valid.is_some() { Error::refused(findings) } else { Error::invalid(findings) });
    }
    // Without errors there is a program.
    valid.ok_or_else(|| Error::invalid(findings))
}

/// As [`validate`], but for tools: what was found, warnings too, and the program if it follows the language's
/// rules, whether or not it breaks those of `limits`.
pub fn check(program: Program, limits: &Limits) -> (Option<ValidProgram>, Vec<Diagnostic>) {
    let mut findings = Vec::new();
    if program.functions.is_empty() {
        findings.push(Diagnostic::error("no-function", "the program has no function"));
    }
    let mut names = HashSet::new();
    for f in &program.functions {
        if !names.insert(&f.name) {
            let message = format!("function `{}` is defined twice", f.name);
            findings.push(Diagnostic::error("duplicate-name", message).at(f.span, "again here"));
        }
    }
    let mut functions = Vec::new();
    for f in &program.functions {
        functions.push(Resolver::new(f, &mut findings).function());
    }
    if findings.iter().any(|d| d.severity == Severity::Error) {
        let n_more = findings.len().saturating_sub(MAX_FINDINGS);
        if n_more > 0 {
            findings.truncate(MAX_FINDINGS);
            findings.push(Diagnostic::error("too-many", format!("{n_more} more were found: mend these first")));
        }
        return (None, findings);
    }
    findings.extend(limits.findings(&program, &functions));
    (Some(ValidProgram { program, functions }), findings)
}

/// Resolves one function.
struct Resolver<'a> {
    function: &'a Function,
    findings: &'a mut Vec<Diagnostic>,
    values: Vec<ValueInfo>,
    /// What each name means; nested blocks add to it and take back.
    scope: HashMap<&'a str, ValueId>,
    /// The names that were given a meaning, with the one they had before.
    defined: Vec<(&'a str, Option<ValueId>)>,
    /// What is computed from constants alone, as the decompressed weights that `constexpr_*` ops give.
    folded: HashSet<ValueId>,
    /// How many blocks are open.
    depth: usize,
}

/// What is found of a wrong program beyond so many is only counted: each is shown with its line.
const MAX_FINDINGS: usize = 100;

/// Blocks in blocks that a program may have.
const MAX_DEPTH: usize = 64;

impl<'a> Resolver<'a> {
    fn new(function: &'a Function, findings: &'a mut Vec<Diagnostic>) -> Resolver<'a> {
        Resolver {
            function,
            findings,
            values: Vec::new(),
            scope: HashMap::new(),
            defined: Vec::new(),
            folded: HashSet::new(),
            depth: 0,
        }
    }

    fn function(mut self) -> ValidFunction {
        let f = self.function;
        let inputs = f.params.iter().map(|p| self.define(p, Origin::Input)).collect();
        let body = self.block(&f.body);
        let outputs = body.outputs.clone();
        ValidFunction { name: f.name.clone(), values: self.values, inputs, outputs, body }
    }

    fn define(&mut self, p: &'a Param, origin: Origin) -> ValueId {
        let id = self.push(p.name.clone(), p.ty.clone(), origin, p.span);
        let first = self.scope.insert(&p.name, id);
        self.defined.push((&p.name, first));
        if let Some(first) = first {
            let first = self.values[first.index()].span;
            self.findings.push(
                Diagnostic::error("duplicate-name", format!("`{}` is defined twice", p.name))
                    .at(p.span, "again here")
                    .at(first, "first here")
                    .note("give one of the two another name"),
            );
        }
        id
    }

    fn push(&mut self, name: String, ty: Type, origin: Origin, span: Span) -> ValueId {
        self.values.push(ValueInfo { name, ty, origin, span });
        ValueId(self.values.len() as u32 - 1)
    }

    fn block(&mut self, block: &'a Block) -> ValidBlock {
        let params = block.params.iter().map(|p| self.define(p, Origin::Input)).collect();
        let calls = block.calls.iter().filter_map(|c| self.call(c)).collect();
        let outputs = block.outputs.iter().filter_map(|r| self.name(&r.name, r.span)).collect();
        ValidBlock { params, calls, outputs }
    }

    /// A nested block: what it defines is not seen after it.
    fn nested(&mut self, block: &'a Block, span: Span) -> ValidBlock {
        if self.depth == MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} blocks stand in one another");
            self.findings.push(Diagnostic::error("nesting", message).at(span, ""));
            return ValidBlock::default();
        }
        let outer = self.defined.len();
        self.depth += 1;
        let valid = self.block(block);
        self.depth -= 1;
        for (name, before) in self.defined.drain(outer..).rev() {
            match before {
                Some(id) => self.scope.insert(name, id),
                None => self.scope.remove(name),
            };
        }
        valid
    }

    fn name(&mut self, name: &str, span: Span) -> Option<ValueId> {
        let id = self.scope.get(name).copied();
        if id.is_none() {
            self.findings.push(
                Diagnostic::error("undefined-name", format!("`{name}` is not defined here"))
                    .at(span, "not defined before this")
                    .note("a value is defined before it is used"),
            );
        }
        id
    }

    /// The call, unless it is a constant (which is a value, not a call) or wrong.
    fn call(&mut self, call: &'a Call) -> Option<ValidCall> {
        if call.op == "const" {
            self.constant_call(call);
            return None;
        }
        let opset = call.opset.unwrap_or(self.function.opset);
        let op = self.lookup(call, opset);
        let before = self.findings.len();
        let args = op.map(|op| self.args(call, op));
        let blocks: Vec<ValidBlock> = call.blocks.iter().map(|b| self.nested(b, call.span)).collect();
        if let (Some(op), Some(args)) = (op, &args)
            && self.findings.len() == before
        {
            self.check_types(call, op, args, &blocks);
        }
        // Defined even if wrong, so that one mistake is one finding.
        let outputs: Vec<ValueId> = call.outputs.iter().map(|p| self.define(p, Origin::Call)).collect();
        let of_constants = |args: &Vec<Option<ArgIds>>| {
            let mut ids = args.iter().flatten().flat_map(|a| a.ids()).peekable();
            ids.peek().is_some() && ids.all(|&id| self.is_constant(id))
        };
        if call.blocks.is_empty() && args.as_ref().is_some_and(of_constants) {
            self.folded.extend(&outputs);
        }
        Some(ValidCall { op: op?, args: args?, outputs, blocks, span: call.span })
    }

    fn is_constant(&self, id: ValueId) -> bool {
        self.values[id.index()].is_constant() || self.folded.contains(&id)
    }

    fn constant_call(&mut self, call: &'a Call) {
        let ([output], Some(val)) = (&call.outputs[..], call.attribute("val")) else {
            self.findings.push(
                Diagnostic::error("const", "`const` needs one output and the attribute `val`").at(call.span, ""),
            );
            for p in &call.outputs {
                self.define(p, Origin::Call);
            }
            return;
        };
        if !agree(&val.ty, &output.ty) {
            let message = format!("`{}` is declared as {}, but its `val` is {}", output.name, output.ty, val.ty);
            self.findings.push(Diagnostic::error("type", message).at(output.span, ""));
        }
        let origin = self.origin(val, output.span);
        self.define(output, origin);
    }

    /// A constant as the origin of a value.
    fn origin(&mut self, constant: &Constant, span: Span) -> Origin {
        let list = |items: &[Literal]| {
            items.iter().map(|l| if let Literal::Tensor(t) = l { Some(t.clone()) } else { None }).collect()
        };
        match &constant.value {
            Literal::Tensor(t) => Origin::Constant(t.clone().into()),
            Literal::Blob(b) => Origin::Blob(b.clone()),
            Literal::List(items) => match list(items) {
                Some(items) => Origin::Constant(ops::Value::List(items)),
                None => self.unusable(constant, span),
            },
            Literal::Tuple(_) | Literal::Dict(_) => self.unusable(constant, span),
        }
    }

    fn unusable(&mut self, constant: &Constant, span: Span) -> Origin {
        let message = format!("a constant of type {} cannot be an argument", constant.ty);
        self.findings.push(Diagnostic::error("type", message).at(span, ""));
        Origin::Call
    }

    fn lookup(&mut self, call: &Call, opset: Opset) -> Option<&'static OpDef> {
        let finding = match ops::find(&call.op, opset) {
            Some(Ok(op)) => return Some(op),
            Some(Err(since)) => {
                Diagnostic::error("op-set", format!("op `{}` comes with {since}, not {opset}", call.op))
                    .note(format!("declare the function as `main<{since}>`"))
            }
            None => {
                let d = Diagnostic::error("unknown-op", format!("op `{}` does not exist", call.op));
                match ops::nearest(&call.op) {
                    Some(near) => d.note(format!("did you mean `{near}`?")),
                    None => d,
                }
            }
        };
        self.findings.push(finding.at(call.span, ""));
        None
    }

    /// The values bound to each parameter of `op`. In `program(1.0)`, attributes of the parameters' names count
    /// too: so are the arguments of `constexpr_*` spelled there.
    fn args(&mut self, call: &'a Call, op: &'static OpDef) -> Vec<Option<ArgIds>> {
        let mut out: Vec<Option<ArgIds>> = vec![None; op.params.len()];
        for arg in &call.args {
            let Some((place, param)) = op.param(&arg.name) else {
                let names: Vec<&str> = op.params.iter().map(|p| p.name).collect();
                self.findings.push(
                    Diagnostic::error(
                        "unknown-argument",
                        format!("op `{}` has no parameter `{}`", op.name, arg.name),
                    )
                    .at(arg.span, "")
                    .note(format!("its parameters are {}", names.join(", "))),
                );
                continue;
            };
            if out[place].is_some() {
                let message = format!("argument `{}` is passed twice", arg.name);
                self.findings.push(Diagnostic::error("duplicate-name", message).at(arg.span, "again here"));
            }
            if matches!(arg.value, ArgValue::Tuple(_)) && !param.variadic {
                let message =
                    format!("argument `{}` of op `{}` takes one value, found a tuple", arg.name, op.name);
                self.findings.push(Diagnostic::error("type", message).at(arg.span, ""));
            }
            let mut ids = Vec::new();
            self.arg_values(&arg.value, arg.span, &mut ids);
            out[place] = match (param.variadic, &ids[..]) {
                (false, [one]) => Some(ArgIds::One(*one)),
                (false, _) => None,
                (true, _) => Some(ArgIds::Many(ids)),
            };
        }
        for (name, value) in call.attributes.iter().filter(|(n, _)| n != "name") {
            if let Some((place, _)) = op.param(name)
                && out[place].is_none()
            {
                let origin = self.origin(value, call.span);
                let id = self.push(String::new(), value.ty.clone(), origin, Span::NONE);
                out[place] = Some(ArgIds::One(id));
            }
        }
        out
    }

    fn arg_values(&mut self, value: &'a ArgValue, span: Span, ids: &mut Vec<ValueId>) {
        match value {
            ArgValue::Name(name) => ids.extend(self.name(name, span)),
            ArgValue::Constant(c) => {
                let origin = self.origin(c, span);
                ids.push(self.push(String::new(), c.ty.clone(), origin, span));
            }
            ArgValue::Tuple(values) => values.iter().for_each(|v| self.arg_values(v, span, ids)),
        }
    }

    fn check_types(&mut self, call: &Call, op: &'static OpDef, args: &[Option<ArgIds>], blocks: &[ValidBlock]) {
        let name = call.outputs.first().map_or(call.op.as_str(), |p| &p.name);
        let bind = |id: &ValueId| {
            let v = &self.values[id.index()];
            Bound { ty: &v.ty, value: v.constant(), constant: v.is_constant() }
        };
        let mut operands = Vec::with_capacity(args.len());
        for (arg, p) in args.iter().zip(op.params) {
            if let Some(ids) = arg
                && p.constant
                && let Some(v) = ids.ids().iter().find(|v| !self.is_constant(**v))
            {
                let v = &self.values[v.index()];
                let message = format!(
                    "op `{}` (`{name}`): argument `{}` must be a constant, `{}` is not",
                    op.name, p.name, v.name
                );
                self.findings.push(Diagnostic::error("type", message).at(call.span, ""));
                return;
            }
            operands.push(arg.as_ref().map(|ids| match ids {
                ArgIds::One(v) => Operand::One(bind(v)),
                ArgIds::Many(vs) => Operand::Many(vs.iter().map(bind).collect()),
            }));
        }
        let inferred = ops::infer(&Args { def: op, operands }).and_then(|types| match op.name {
            "cond" => self.cond_types(blocks),
            "while_loop" => self.while_types(args, blocks),
            _ if !blocks.is_empty() => Err(OpError::new("takes no blocks")),
            _ => Ok(types),
        });
        let types = match inferred {
            Ok(types) => types,
            Err(e) => {
                let span =
                    e.param.and_then(|p| call.args.iter().find(|a| a.name == p)).map_or(call.span, |a| a.span);
                self.findings.push(call_error(op.name, name, &e).at(span, ""));
                return;
            }
        };
        if types.len() != call.outputs.len() {
            let message = format!(
                "op `{}` (`{name}`) has {} outputs here, {} are declared",
                op.name,
                types.len(),
                call.outputs.len()
            );
            self.findings.push(Diagnostic::error("type", message).at(call.span, ""));
            return;
        }
        for (p, ty) in call.outputs.iter().zip(&types).filter(|(p, ty)| !agree(&p.ty, ty)) {
            let message = format!("`{}` is declared as {}, but op `{}` gives {ty}", p.name, p.ty, op.name);
            self.findings.push(Diagnostic::error("type", message).at(p.span, ""));
        }
    }
}

/// The types of the ops with blocks.
impl Resolver<'_> {
    fn types(&self, ids: &[ValueId]) -> Vec<Type> {
        ids.iter().map(|v| self.values[v.index()].ty.clone()).collect()
    }

    /// Two blocks without parameters, which give the same types.
    fn cond_types(&self, blocks: &[ValidBlock]) -> OpResult<Vec<Type>> {
        let [yes, no] = blocks else {
            return Err(OpError::new(format!(
                "has {} blocks, expected one for true and one for false",
                blocks.len()
            )));
        };
        if !yes.params.is_empty() || !no.params.is_empty() {
            return Err(OpError::new("has blocks with parameters, expected none: a block sees what is outside"));
        }
        let (a, b) = (self.types(&yes.outputs), self.types(&no.outputs));
        self.same_types("the block for false gives", &b, "the one for true", &a)?;
        Ok(a.iter().zip(&b).map(|(a, b)| common(a, b)).collect())
    }

    /// A condition and a body, both of what is carried from round to round; the body gives the next of it.
    fn while_types(&self, args: &[Option<ArgIds>], blocks: &[ValidBlock]) -> OpResult<Vec<Type>> {
        let [cond, body] = blocks else {
            return Err(OpError::new(format!("has {} blocks, expected a condition and a body", blocks.len())));
        };
        let vars = self.types(args.iter().flatten().next().map(ArgIds::ids).unwrap_or_default());
        if let Some(state) = vars.iter().find(|t| matches!(t, Type::State(_))) {
            return Err(OpError::arg("loop_vars", format!("carries {state}, which is the same in every round")));
        }
        for (what, block) in [("the condition takes", cond), ("the body takes", body)] {
            self.same_types(what, &self.types(&block.params), "argument `loop_vars`", &vars)?;
        }
        let next = self.types(&body.outputs);
        self.same_types("the body gives", &next, "what it takes", &self.types(&body.params))?;
        self.same_types("the body gives", &next, "what the condition takes", &self.types(&cond.params))?;
        let flags = self.types(&cond.outputs);
        let is_flag = |t: &TensorType| {
            t.dtype == DType::Bool && t.shape.iter().all(|d| matches!(d, Dim::Any | Dim::Fixed(1)))
        };
        match &flags[..] {
            [Type::Tensor(t)] if is_flag(t) => Ok(next),
            _ => Err(OpError::new(format!("the condition gives {}, expected one bool", listed(&flags)))),
        }
    }

    fn same_types(&self, what: &str, found: &[Type], like: &str, expected: &[Type]) -> OpResult<()> {
        let same = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| agree(a, b));
        match same {
            true => Ok(()),
            false => Err(OpError::new(format!("{what} {}, {like} has {}", listed(found), listed(expected)))),
        }
    }
}

fn listed(types: &[Type]) -> String {
    let types: Vec<String> = types.iter().map(Type::to_string).collect();
    if types.is_empty() { "nothing".into() } else { types.join(", ") }
}

/// The type of a value that is of one of two types that agree: sizes that differ are unknown.
fn common(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::Tensor(a), Type::Tensor(b)) => {
            let dim = |(&a, &b): (&Dim, &Dim)| if a == b { a } else { Dim::Any };
            TensorType { dtype: a.dtype, shape: a.shape.iter().zip(&b.shape).map(dim).collect() }.into()
        }
        (Type::List(a, n), Type::List(b, m)) => Type::List(Box::new(common(a, b)), if n == m { *n } else { None }),
        _ => a.clone(),
    }
}

/// Whether two types can be those of one value: unknown sizes agree with any.
pub(crate) fn agree(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Tensor(a), Type::Tensor(b)) | (Type::State(a), Type::State(b)) => {
            a.dtype == b.dtype && shapes_agree(&a.shape, &b.shape)
        }
        (Type::List(a, n), Type::List(b, m)) => agree(a, b) && (n == m || n.is_none() || m.is_none()),
        _ => a == b,
    }
}
