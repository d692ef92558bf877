//! Conformance: op cases with known outputs, run on the reference interpreter.
//!
//! A file of cases has one JSON object a line: `id`, `atol`, `rtol`, `stateful`, `mil` (the program's text),
//! `weight_b64` (its weights file, where it has one), and `inputs` and `outputs` by name, each `dtype`, `shape`
//! and `b64` (little-endian elements). NumPy's rule decides whether an output agrees: no further than
//! `atol + rtol * |expected|` away. Integers and booleans agree if they are equal.

use anemone_mil::ir::{Block, DType, Dim, Program, Type};
use anemone_mil::ops::Eval;
use anemone_mil::valid::{ValidBlock, ValidProgram, check};
use anemone_mil::{Interpreter, Limits, Tensor, Weights, text};
use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Absolute and relative tolerance of programs that compute in fp16: 4 steps of its grid around 1.
const FP16_TOLERANCE: f64 = 4e-3;
/// What a program calls its weights file.
const WEIGHTS_PATH: &str = "@model_path/weights/weight.bin";

/// Which cases to run, and how much to say.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Files of cases, one JSON object a line, as they are or compressed by gzip
    #[arg(required = true, value_name = "FILE.jsonl[.gz]")]
    files: Vec<PathBuf>,
    /// Only cases whose program has this op
    #[arg(long, value_name = "NAME")]
    op: Option<String>,
    /// Only cases whose id has this in it
    #[arg(long, value_name = "SUBSTRING")]
    id: Option<String>,
    /// Say what became of every case
    #[arg(long)]
    verbose: bool,
}

/// One line of a file.
#[derive(Deserialize)]
struct Case {
    id: String,
    atol: f64,
    rtol: f64,
    mil: String,
    weight_b64: Option<String>,
    inputs: BTreeMap<String, Array>,
    outputs: BTreeMap<String, Array>,
}

/// A tensor as NumPy has it.
/// Cases that are wrong themselves: an op, a part of the case's id, and what is wrong. They count as unsupported
/// where they do not pass.
const WRONG: &[(&str, &str, &str)] = &[
    ("crop_resize", "precision='fp32', opset_version=<AvailableTarget.iOS16: 7>)-pad_value", ROUNDED_LITERAL),
    ("crop_resize", "precision='fp32', opset_version=<AvailableTarget.iOS17: 8>)-N=3", ROUNDED_LITERAL),
    (
        "batch_norm",
        "x_param_dtype=(<class 'numpy.float16'>",
        "the case is wrong: its input was made fp32 after the fact, mean and output are still fp16",
    ),
    (
        "fill",
        "TestFill::test_builder_to_backend_symbolic",
        "the case is wrong: it declares a vector where the result has as many axes as the input says",
    ),
    ("scatter", INVALID_INDICES, REFUSED_INDICES),
    ("scatter_along_axis", INVALID_INDICES, REFUSED_INDICES),
    ("scatter_nd", INVALID_INDICES, REFUSED_INDICES),
];
const ROUNDED_LITERAL: &str =
    "the case is wrong: 7.9 is expected as 7.899, within the tolerance of fp16 but not of fp32";
const INVALID_INDICES: &str = "invalid_indices";
const REFUSED_INDICES: &str =
    "the case is wrong: its indices are to be validated and are out of range, so that running it is an error";

#[derive(Deserialize)]
struct Array {
    dtype: String,
    shape: Vec<usize>,
    b64: String,
}

/// What became of a case.
enum Outcome {
    Passed,
    Failed(String),
    Unsupported(String),
}

/// What became of all cases.
#[derive(Default)]
pub(crate) struct Report {
    n_passed: usize,
    /// First message and number of failures, by the ops of the program.
    failed: BTreeMap<String, (String, usize)>,
    /// Number of cases, by reason.
    unsupported: BTreeMap<String, usize>,
    /// A line for each case, if those were asked for.
    lines: Vec<String>,
}

impl Report {
    /// The number of cases whose outputs are not those expected.
    pub(crate) fn n_failed(&self) -> usize {
        self.failed.values().map(|(_, n)| n).sum()
    }

    fn n_unsupported(&self) -> usize {
        self.unsupported.values().sum()
    }

    fn add(&mut self, id: &str, ops: &str, outcome: Outcome, verbose: bool) {
        if verbose {
            self.lines.push(match &outcome {
                Outcome::Passed => format!("passed: {id}"),
                Outcome::Failed(why) => format!("FAILED: {id}: {why}"),
                Outcome::Unsupported(why) => format!("unsupported: {id}: {why}"),
            });
        }
        match outcome {
            Outcome::Passed => self.n_passed += 1,
            Outcome::Failed(why) => {
                self.failed.entry(ops.to_string()).or_insert_with(|| (format!("{why}\n    in {id}"), 0)).1 += 1;
            }
            Outcome::Unsupported(why) => *self.unsupported.entry(why).or_default() += 1,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        if !self.unsupported.is_empty() {
            writeln!(f, "unsupported:")?;
        }
        for (why, n) in &self.unsupported {
            writeln!(f, "  {n:4}  {why}")?;
        }
        if !self.failed.is_empty() {
            writeln!(f, "failed, with the first message of each:")?;
        }
        for (ops, (why, n)) in &self.failed {
            writeln!(f, "  {n:4}  {ops}: {why}")?;
        }
        write!(f, "{} passed, {} failed, {} unsupported", self.n_passed, self.n_failed(), self.n_unsupported())
    }
}

/// Runs the cases that `options` choose.
///
/// # Errors
///
/// If a file cannot be read or is none of cases. What is wrong with a case's program or outputs is in the report.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::default();
    for path in &options.files {
        let file = lines(path).with_context(|| path.display().to_string())?;
        for (i, line) in file.lines().enumerate() {
            let place = || format!("{}:{}", path.display(), i + 1);
            let line = line.with_context(place)?;
            if !line.trim().is_empty() {
                let case: Case = serde_json::from_str(&line).with_context(place)?;
                run_chosen(&case, options, &mut report);
            }
        }
    }
    Ok(report)
}

fn lines(path: &Path) -> Result<BufReader<Box<dyn Read>>> {
    let file = File::open(path)?;
    Ok(BufReader::new(if path.extension().is_some_and(|e| e == "gz") {
        Box::new(GzDecoder::new(file))
    } else {
        Box::new(file)
    }))
}

fn run_chosen(case: &Case, options: &Options, report: &mut Report) {
    if options.id.as_ref().is_some_and(|id| !case.id.contains(id)) {
        return;
    }
    let program = match text::parse(&case.mil) {
        Ok(program) => program,
        Err(e) => return report.add(&case.id, "text", Outcome::Failed(e.to_string()), options.verbose),
    };
    let ops = ops_of(&program);
    if options.op.as_ref().is_some_and(|op| !ops.contains(op.as_str())) {
        return;
    }
    let label = of_interest(&ops);
    // An op that panics is a failure of its own, not the end of the run.
    let outcome = match catch_unwind(AssertUnwindSafe(|| outcome(case, &program))) {
        Ok(outcome) => outcome,
        Err(payload) => {
            let why = format!("panicked: {}", words_of(&*payload));
            return report.add(&case.id, &label, Outcome::Failed(why), options.verbose);
        }
    };
    let wrong = WRONG.iter().find(|(op, part, _)| ops.contains(op) && case.id.contains(part));
    let outcome = match (outcome, wrong) {
        (Outcome::Failed(_), Some((_, _, why))) => Outcome::Unsupported(why.to_string()),
        (outcome, _) => outcome,
    };
    report.add(&case.id, &label, outcome, options.verbose);
}

/// What a panic said.
fn words_of(payload: &(dyn Any + Send)) -> &str {
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or(payload.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

/// The ops of a program by name.
fn ops_of(program: &Program) -> BTreeSet<&str> {
    fn collect<'a>(block: &'a Block, ops: &mut BTreeSet<&'a str>) {
        for call in &block.calls {
            ops.insert(&call.op);
            call.blocks.iter().for_each(|b| collect(b, ops));
        }
    }
    let mut ops = BTreeSet::new();
    program.functions.iter().for_each(|f| collect(&f.body, &mut ops));
    ops
}

/// What a case is about: its ops without `const` and `cast`, which nearly all have, unless it has no others.
fn of_interest(ops: &BTreeSet<&str>) -> String {
    let others: Vec<&str> = ops.iter().copied().filter(|op| !["const", "cast"].contains(op)).collect();
    match others.is_empty() {
        true => ops.iter().copied().last().unwrap_or("no op").to_string(),
        false => others.join(" + "),
    }
}

fn outcome(case: &Case, program: &Program) -> Outcome {
    let (valid, findings) = check(program.clone(), &Limits::none());
    let Some(valid) = valid else {
        let missing: BTreeSet<&str> = ops_of(program)
            .into_iter()
            .filter(|op| *op != "const" && anemone_mil::ops::all().all(|def| def.name != *op))
            .collect();
        let first = findings.first().map(ToString::to_string).unwrap_or_default();
        return match missing.is_empty() {
            true => Outcome::Failed(first),
            false => {
                Outcome::Unsupported(format!("not in the table of ops: {}", Vec::from_iter(missing).join(", ")))
            }
        };
    };
    let main = valid.main();
    if let Some(why) = not_evaluated(&main.body) {
        return Outcome::Unsupported(why);
    }
    match disagreement(case, &valid) {
        Ok(None) => Outcome::Passed,
        Ok(Some(why)) => Outcome::Failed(why),
        Err(e) => Outcome::Failed(format!("{e:#}")),
    }
}

/// Why a block cannot be run, if the table says so of one of its ops.
fn not_evaluated(block: &ValidBlock) -> Option<String> {
    block.calls.iter().find_map(|call| match call.op.eval {
        Eval::No(why) => Some(format!("`{}` is not evaluated: {why}", call.op.name)),
        _ => call.blocks.iter().find_map(not_evaluated),
    })
}

/// Runs the program; how its outputs differ from those expected, if they do.
fn disagreement(case: &Case, program: &ValidProgram) -> Result<Option<String>> {
    let mut weights = Weights::new();
    if let Some(file) = &case.weight_b64 {
        weights.insert(WEIGHTS_PATH, BASE64_STANDARD.decode(file)?)?;
    }
    let main = program.main();
    // A state is no input; it begins as zeros.
    let declared = main.inputs.iter().map(|&v| main.value(v)).filter(|v| !matches!(v.ty, Type::State(_)));
    let inputs = declared.map(|v| {
        let array = case.inputs.get(&v.name).ok_or_else(|| anyhow!("the case has no input `{}`", v.name))?;
        let ty = v.ty.as_tensor().ok_or_else(|| anyhow!("input `{}` is no tensor", v.name))?;
        let tensor = array.read().with_context(|| format!("input `{}`", v.name))?;
        // A function of Core ML takes no scalars: the tests' own stand for vectors of one element.
        let vector = tensor.reshaped(&[1]).filter(|_| tensor.rank() == 0 && ty.shape == [Dim::Fixed(1)]);
        converted(&vector.unwrap_or(tensor), ty.dtype)
    });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let outputs = Interpreter::new(program, &weights)?.run(&inputs)?;
    let fp16 = case.mil.contains("fp16");
    let (atol, rtol) = if fp16 { (FP16_TOLERANCE, FP16_TOLERANCE) } else { (case.atol, case.rtol) };
    for (&v, got) in main.outputs.iter().zip(&outputs) {
        let name = &main.value(v).name;
        let array = case.outputs.get(name).ok_or_else(|| anyhow!("the case has no output `{name}`"))?;
        let expected = array.read().with_context(|| format!("output `{name}`"))?;
        if let Some(why) = difference(got, &expected, atol, rtol) {
            return Ok(Some(format!("output `{name}` {why}")));
        }
    }
    Ok(None)
}

impl Array {
    fn read(&self) -> Result<Tensor> {
        let dtype = match self.dtype.as_str() {
            "float16" => DType::Fp16,
            "float32" => DType::Fp32,
            "float64" => DType::Fp64,
            other => DType::from_name(other).ok_or_else(|| anyhow!("unknown element type {other:?}"))?,
        };
        let bytes = BASE64_STANDARD.decode(&self.b64)?;
        let tensor = Tensor::from_bytes(dtype, &self.shape, &bytes);
        tensor.with_context(|| format!("{} bytes do not hold {dtype} of shape {:?}", bytes.len(), self.shape))
    }
}

/// The numbers of `tensor` as elements of type `dtype`.
fn converted(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() == dtype {
        return Ok(tensor.clone());
    }
    ensure!(tensor.strs().is_none(), "strings are no numbers");
    if dtype.is_float() {
        return Ok(Tensor::float(dtype, tensor.shape(), tensor.to_f64s()));
    }
    if dtype == DType::String {
        bail!("numbers are no strings");
    }
    let whole = tensor.ints().map(<[i64]>::to_vec);
    let whole = whole.unwrap_or_else(|| tensor.to_f64s().into_iter().map(|x| x as i64).collect());
    Ok(Tensor::int(dtype, tensor.shape(), whole))
}

/// How `got` differs from `expected`, if it does.
fn difference(got: &Tensor, expected: &Tensor, atol: f64, rtol: f64) -> Option<String> {
    if got.shape() != expected.shape() {
        return Some(format!("has shape {:?}, expected {:?}", got.shape(), expected.shape()));
    }
    // Where either side is of whole numbers there is nothing to round.
    let exact = got.floats().is_none() || expected.floats().is_none();
    let (got, expected) = (got.to_f64s(), expected.to_f64s());
    let agree = |a: f64, b: f64| {
        a == b
            || (a.is_nan() && b.is_nan())
            || (!exact && a.is_finite() && b.is_finite() && (a - b).abs() <= atol + rtol * b.abs())
    };
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| !agree(got[i], expected[i])).collect();
    let first = *wrong.first()?;
    Some(format!(
        "differs in {} of {} elements, first at {first}: {}, expected {}",
        wrong.len(),
        got.len(),
        got[first],
        expected[first]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A case of `op` on `x`, written as fp32 in and out.
    fn case(id: &str, op: &str, x: &[f32], y: &[f32]) -> String {
        let array = |xs: &[f32]| {
            let bytes: Vec<u8> = xs.iter().flat_map(|x| x.to_le_bytes()).collect();
            serde_json::json!({"dtype": "float32", "shape": [xs.len()], "b64": BASE64_STANDARD.encode(bytes)})
        };
        let ty = format!("tensor<fp32, [{}]>", x.len());
        let mil = format!(
            "program(1.3)\n{{ func main<ios18>({ty} x) {{ {ty} y = {op}(x = x)[name = string(\"y\")]; }} -> (y); }}"
        );
        serde_json::json!({
            "id": id, "precision": "fp32", "atol": 0.5, "rtol": 0.0, "stateful": false, "mil": mil,
            "inputs": {"x": array(x)}, "outputs": {"y": array(y)},
        })
        .to_string()
    }

    fn cases() -> String {
        [
            case("near", "relu", &[-1.0, 2.0], &[0.4, 2.4]),
            case("off", "relu", &[-1.0, 2.0], &[0.0, 3.0]),
            case("nan", "relu", &[f32::INFINITY], &[f32::NAN]),
            case("no op", "no_such_op", &[1.0], &[1.0]),
            case("shape", "relu", &[1.0], &[1.0, 1.0]),
        ]
        .join("\n")
    }

    fn options(files: Vec<PathBuf>) -> Options {
        Options { files, op: None, id: None, verbose: false }
    }

    #[test]
    fn cases_are_counted_and_failures_listed_by_op() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, zipped) = (folder.path().join("a.jsonl"), folder.path().join("a.jsonl.gz"));
        std::fs::write(&plain, cases()).unwrap();
        let mut gz = flate2::write::GzEncoder::new(File::create(&zipped).unwrap(), flate2::Compression::fast());
        gz.write_all(cases().as_bytes()).unwrap();
        gz.finish().unwrap();

        let report = run(&options(vec![plain.clone(), zipped])).unwrap();
        assert_eq!(
            report.to_string(),
            "unsupported:\n     2  not in the table of ops: no_such_op\n\
             failed, with the first message of each:\n     6  relu: output `y` differs in 1 of 2 elements, \
             first at 1: 2, expected 3\n    in off\n2 passed, 6 failed, 2 unsupported"
        );

        let near = Options { id: Some("ea".into()), verbose: true, ..options(vec![plain.clone()]) };
        assert_eq!(run(&near).unwrap().to_string(), "passed: near\n1 passed, 0 failed, 0 unsupported");
        let other = Options { op: Some("no_such_op".into()), ..options(vec![plain]) };
        assert!(run(&other).unwrap().to_string().ends_with("0 passed, 0 failed, 1 unsupported"));
    }

    #[test]
    fn whole_numbers_have_no_tolerance_and_infinities_match_themselves_alone() {
        let f = |x: f64| Tensor::float(DType::Fp64, &[1], vec![x]);
        let i = |x: i64| Tensor::int(DType::Int32, &[1], vec![x]);
        assert!(difference(&i(3), &i(4), 9.0, 9.0).is_some());
        assert!(difference(&i(3), &f(3.5), 9.0, 9.0).is_some());
        assert!(difference(&i(3), &f(3.0), 0.0, 0.0).is_none());
        assert!(difference(&f(f64::INFINITY), &f(f64::INFINITY), 0.0, 0.0).is_none());
        assert!(difference(&f(1.0), &f(f64::INFINITY), 1.0, 1.0).is_some());
        assert!(difference(&f(f64::NAN), &f(f64::NAN), 0.0, 0.0).is_none());
        assert!(difference(&f(110.0), &f(100.0), 0.0, 0.1).is_none());
        assert!(difference(&f(100.0), &f(111.2), 0.0, 0.1).is_some());
    }

    #[test]
    fn a_file_that_is_none_of_cases_is_an_error_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "\n{}\n").unwrap();
        let error = format!("{:#}", run(&options(vec![path])).err().unwrap());
        assert!(error.contains("a.jsonl:2: missing field `id`"), "{error}");
    }
}
