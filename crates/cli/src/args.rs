//! The arguments of the command line: what is a string there has its type here.

mod setup;

use anemone::Instructions;
use anemone::config::{Place, Strategy};
use anemone::device::{Arithmetic, Faults, Select};
use anemone_mil::Chip;
use anemone_mil::ir::Version;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
pub(crate) use setup::{Completions, Family, Init, Man};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  anemone train                        train the preset `tiny`, a two-layer network
  anemone watch runs/tiny              how is it going?
  anemone runs                         what was trained here, and how did it end?
  anemone init gpt                     a configuration to start from, with comments
  anemone eval runs/tiny               how good are its weights?
  anemone report runs/tiny --open      its curves, times and checks as a page
  anemone generate runs/shakespeare    text from it, if it predicts tokens
  anemone import gpt2                  a model of Hugging Face's, to train further
  anemone devices                      what this machine can train on
  anemone doctor                       what its engine can do, tried
  anemone check model.mil              is this program right?
  anemone check --chip m1 model.mil    ... and does the Neural Engine of an M1 take it?
  anemone inspect model.mlpackage      what is in this model?
  anemone run model.mlpackage --input x=x.npy --output results
  anemone fmt --check *.mil            which files are not laid out as coremlc does it?

`anemone help <command>` says more about a command, `anemone man` what manuals say.

Exit codes:
  0    success
  1    the command found errors, or failed; the last line says what to do
  2    the command line is wrong
  130  interrupted twice";

/// Train neural networks on Apple's Neural Engine, or on its software twin on any other machine.
#[derive(Debug, Parser)]
#[command(name = "anemone", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// The most threads the software engine uses; results are the same with any number [default: all cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// The instructions the software engine uses; results are the same with all but AMX [default: widest]
    #[arg(long, global = true, value_name = "SET", value_parser = instructions())]
    pub(crate) instructions: Option<Instructions>,
}

fn instructions() -> impl TypedValueParser<Value = Instructions> {
    let named = |name: String| Instructions::ALL.into_iter().find(|i| i.name() == name).unwrap_or_default();
    PossibleValuesParser::new(Instructions::ALL.map(Instructions::name)).map(named)
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Train(Train),
    Watch(Watch),
    Runs(Runs),
    Init(Init),
    Eval(Eval),
    Generate(Generate),
    Import(Import),
    Export(Export),
    Check(Check),
    Fmt(Fmt),
    Devices(Devices),
    Doctor(Doctor),
    Inspect(Inspect),
    Run(Run),
    Report(Report),
    Completions(Completions),
    Man(Man),
}

/// Train a model: a preset, or what a configuration file says
///
/// The run gets a folder with its configuration, metrics, checkpoints, trained weights and report. A run that was
/// interrupted, killed or out of compiles goes on with --resume, bit for bit where it was saved.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Presets:
  tiny   y = W2 relu(W1 x), 64 to 128 to 64 channels, 16 rows of a sine, 2000 steps

Examples:
  anemone train                                  the preset `tiny`, in runs/tiny
  anemone train --weights operand --steps 500    weights passed in instead of compiled in
  anemone train digits                           handwritten digits; digits-convnet with convolutions
  anemone train shakespeare                      a small transformer on the characters of plays
  anemone train shakespeare --plan               what its steps would do where
  anemone train digits --print-config > my.toml  its configuration, with a comment for each key
  anemone train my.toml --run-dir runs/mine      your own configuration
  anemone train my.toml --lr 3e-4 --clip 1       ... with another learning rate, gradients clipped
  anemone train --resume --run-dir runs/mine     go on where it was saved
  anemone train --chip m1 --json --quiet         the rules of an M1; the report as JSON

Faults on purpose (--inject), items with commas between them:
  compile@3     the third compile of each process fails; also load@N, evaluate@N
  compile@3+    the third and all later ones fail
  evaluate%0.01 each evaluation fails with probability 0.01; also compile%P, load%P
  seed=7        the seed of such random faults
  delay=20      each compile takes 20 ms longer

Exit codes:
  0    trained to the end
  1    failed; what was saved can be resumed
  2    the command line is wrong
  130  interrupted twice

SIGTERM and SIGHUP do what Ctrl-C does: the run is saved, and can be resumed.")]
pub(crate) struct Train {
    /// A preset (tiny, digits, digits-convnet, shakespeare), or the path of a configuration (`*.toml`); with
    /// --resume, by default the run's own
    #[arg(value_name = "PRESET|CONFIG")]
    pub(crate) what: Option<String>,

    /// Steps in all [config: train.steps]
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<u64>,

    /// The learning rate [config: train.lr]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub(crate) lr: Option<f32>,

    /// Steps whose gradients are averaged into one update [config: train.accumulate]
    #[arg(long, value_name = "N")]
    pub(crate) accumulate: Option<u64>,

    /// The largest norm of the gradients, to which longer ones are shortened; 0 for any [config: train.clip]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    pub(crate) clip: Option<f32>,

    /// The seed of all random numbers [config: train.seed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Look at the validation data every so many steps; 0 for only at the end [config: eval.every]
    #[arg(long, value_name = "N")]
    pub(crate) eval_every: Option<u64>,

    /// Where to run: `auto` takes the best that is known to work [config: device.select]
    #[arg(long, value_parser = select())]
    pub(crate) device: Option<Select>,

    /// The chip whose rules the software engine follows [config: device.chip]
    #[arg(long, value_parser = chip())]
    pub(crate) chip: Option<Chip>,

    /// How the software engine rounds: as IEEE has it, or as the Neural Engine is reported to
    /// [config: device.arithmetic]
    #[arg(long, value_parser = arithmetic())]
    pub(crate) arithmetic: Option<Arithmetic>,

    /// Whether weights are compiled in or passed in [config: weights.strategy]
    #[arg(long, value_parser = strategy())]
    pub(crate) weights: Option<Strategy>,

    /// With baked weights on the Neural Engine: put new weights beside what a compile has left, instead of
    /// compiling, if the device finds that this works [config: device.donor_patch]
    #[arg(long)]
    pub(crate) donor_patch: bool,

    /// With baked weights: compile in the background while training goes on [config: weights.overlap]
    #[arg(long, overrides_with = "no_overlap")]
    pub(crate) overlap: bool,

    /// With baked weights: wait for every compile [config: weights.overlap]
    #[arg(long, overrides_with = "overlap")]
    pub(crate) no_overlap: bool,

    /// The most compiles a process uses before it is replaced by a new one; 0 for what the device allows
    /// [config: weights.compile_budget]
    #[arg(long, value_name = "N")]
    pub(crate) compile_budget: Option<usize>,

    /// Begin with the weights of this safetensors file or checkpoint [config: train.init_weights]
    #[arg(long, value_name = "FILE")]
    pub(crate) init_weights: Option<PathBuf>,

    /// Save a checkpoint every so many steps; 0 for only at restarts and at the end [config: checkpoint.every]
    #[arg(long, value_name = "N")]
    pub(crate) checkpoint_every: Option<u64>,

    /// Print what a step would do where, and what the run would take on the chip with each strategy (an estimate
    /// by published figures), and train nothing
    #[arg(long, conflicts_with_all = ["resume", "quiet"])]
    pub(crate) plan: bool,

    /// Print the whole configuration that would be trained, flags included, with a comment for each key, and train
    /// nothing
    #[arg(long, conflicts_with_all = ["plan", "quiet"])]
    pub(crate) print_config: bool,

    /// Compute activations again in the backward pass instead of keeping them: less memory, more work
    /// [config: plan.recompute]
    #[arg(long)]
    pub(crate) recompute: bool,

    /// Where the gradients of weights are computed [config: plan.weight_gradients]
    #[arg(long, value_parser = place())]
    pub(crate) weight_gradients: Option<Place>,

    /// The run's folder; by default the next of runs/PRESET, runs/PRESET-2, ...
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,

    /// Go on with the run in the run folder (by default the last of runs/PRESET, runs/PRESET-2, ...)
    #[arg(long)]
    pub(crate) resume: bool,

    /// Says that this process replaces one whose compiles were spent
    #[arg(long, hide = true)]
    pub(crate) restarted: bool,

    /// Show the run on the whole terminal while it goes; `?` there says what keys do. See also `anemone watch`
    #[arg(long, conflicts_with_all = ["quiet", "plan"])]
    pub(crate) tui: bool,

    /// Write the metrics as event files for TensorBoard too, into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) tensorboard: Option<PathBuf>,

    /// Print the final report, the plan or the configuration as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// Show no progress
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// Make device calls fail on purpose; see below. Holds for this call alone
    #[arg(long, value_name = "FAULTS")]
    pub(crate) inject: Option<Faults>,
}

/// Watch a run on the terminal, while it trains or after it: curves, where time goes, what happened
///
/// Reads the run's folder and changes nothing in it, so it works beside the process that trains, over ssh, and any
/// number of times at once. Keys: q leaves, l shows the loss on a logarithmic scale, ? helps.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone watch runs/shakespeare
  ssh -t studio anemone watch runs/shakespeare

Exit codes:
  0  left with a key or a signal
  1  there is no such run, or no terminal
  2  the command line is wrong")]
pub(crate) struct Watch {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
}

/// List runs: state, model, steps, losses, speed, age
///
/// States: untrained (imported, or just being made), starting, running, restarting, finished, interrupted (saved
/// on request), failed, killed (the process is gone and has not said why).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone runs
  anemone runs --json | jq -r '.[] | select(.state == \"failed\") | .path'

Exit codes:
  0  listed, be it none
  1  there is no such folder
  2  the command line is wrong")]
pub(crate) struct Runs {
    /// The folder of the runs' folders, or a run's folder
    #[arg(value_name = "DIR", default_value = crate::run_dir::RUNS)]
    pub(crate) folder: PathBuf,

    /// Print a JSON array with an object for each
    #[arg(long)]
    pub(crate) json: bool,
}

/// Evaluate a run's weights on its validation data: loss and, for classes, accuracy
///
/// Computed on the host in f32. Where the data has no validation part, the first batches that were trained on are
/// taken.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone eval runs/tiny                                     its final weights
  anemone eval runs/tiny --weights runs/tiny/best.safetensors
  anemone eval runs/tiny --batches 0 --json | jq .loss       on all of the data

Exit codes:
  0  evaluated
  1  failed: a file is missing or damaged, or the weights are of another model
  2  the command line is wrong")]
pub(crate) struct Eval {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,

    /// A safetensors file or a checkpoint (`*.anemone`) of the same model; by default the run's final weights, or
    /// those of its last checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,

    /// Take at most so many batches; 0 for all of the validation part [config: eval.batches]
    #[arg(long, value_name = "N")]
    pub(crate) batches: Option<u64>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Generate text with a model, shown as it comes, on the host in f32
///
/// The model is a run's folder or one of its weights, a folder of Hugging Face's (GPT-2, Llama), or a file of
/// llama2.c. When a model has seen as many tokens as it can, it goes on with the later half of them. Where there
/// is no tokenizer, the prompt is numbers of tokens, and so is what comes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone generate runs/shakespeare --prompt 'ROMEO:'
  anemone generate runs/shakespeare --temperature 0 --tokens 100     always the likeliest
  anemone generate runs/shakespeare --top-k 20 --top-p 0.9 --seed 7
  anemone generate stories15M.bin --prompt 1

Exit codes:
  0  generated
  1  failed: a file is missing or damaged, or the prompt has characters that the tokenizer has not
  2  the command line is wrong")]
pub(crate) struct Generate {
    /// The folder of a run, one of its weights, a folder of Hugging Face's, or a file of llama2.c
    #[arg(value_name = "RUN|FILE")]
    pub(crate) path: PathBuf,

    /// What the text begins with; if not said, a line break
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,

    /// How many tokens to generate
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(crate) tokens: usize,

    /// What logits are divided by: 0 takes the likeliest token always, 1 draws by the model's own shares
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub(crate) temperature: f32,

    /// Draw from so many of the likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) top_k: usize,

    /// Draw from the likeliest tokens that together have this share
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) top_p: f32,

    /// The seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// A safetensors file or a checkpoint (`*.anemone`) of the run's model; by default the run's best weights, its
    /// final ones, or those of its last checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,

    /// The tokenizer, as a run keeps it or as Hugging Face does
    #[arg(long, value_name = "FILE.json")]
    pub(crate) tokenizer: Option<PathBuf>,

    /// Print one JSON object at the end
    #[arg(long)]
    pub(crate) json: bool,

    /// Do not say how fast it was
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Import a model that was trained elsewhere: Hugging Face's GPT-2 and Llama, or a file of llama2.c
///
/// It gets a folder as a run does, for `anemone generate` and `anemone export`. To train it further, copy the
/// folder's config.toml, say in it on what data, and train that: it begins with these weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone import models/gpt2                             in runs/gpt2
  anemone import stories15M.bin --run-dir runs/stories
  anemone train mine.toml                                a copy of runs/stories/config.toml with a section `data`

Exit codes:
  0  imported
  1  failed: a file is missing or damaged, or the model has something that is not implemented
  2  the command line is wrong")]
pub(crate) struct Import {
    /// A folder with config.json and model.safetensors, or a file (`*.bin`) of llama2.c's first format
    #[arg(value_name = "FOLDER|FILE.bin")]
    pub(crate) path: PathBuf,

    /// The folder it gets; by default the next of runs/NAME, runs/NAME-2, ...
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,

    /// Its tokenizer, where the folder has none
    #[arg(long, value_name = "FILE.json")]
    pub(crate) tokenizer: Option<PathBuf>,
}

/// Export a gpt or llama as Hugging Face keeps it: config.json and model.safetensors
///
/// `transformers` loads the folder as GPT2LMHeadModel or LlamaForCausalLM. Adapters are merged into the weights.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone export runs/shakespeare shakespeare-hf
  anemone export runs/mine mine-hf --weights runs/mine/checkpoint.anemone

Exit codes:
  0  exported
  1  failed: a file is missing or damaged, the model has no such form, or the folder is not empty
  2  the command line is wrong")]
pub(crate) struct Export {
    /// The folder of a run, one of its weights, a folder of Hugging Face's, or a file of llama2.c
    #[arg(value_name = "RUN|FILE")]
    pub(crate) path: PathBuf,

    /// The folder to write, which must be empty or not there
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,

    /// A safetensors file or a checkpoint (`*.anemone`) of the run's model; by default the run's best weights, its
    /// final ones, or those of its last checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
}

/// Check MIL programs: syntax, names, types, weights, and the rules of a chip's Neural Engine
///
/// Findings are errors, with which a program does not run, and warnings, with which it may not run or may compute
/// something else. A finding about the engine names the rule, how well it is known, and who says so.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone check model.mil
  anemone check --chip m1 forward.mil backward.mil
  anemone check --json model.mil | jq -r .code | sort | uniq -c

Exit codes:
  0  no errors; there may be warnings
  1  errors were found, or a file could not be read
  2  the command line is wrong")]
pub(crate) struct Check {
    /// MIL text (`.mil` or any other name), `.mlmodelc`, `.mlpackage` or `.mlmodel`; `-` reads text from standard
    /// input
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Apply the rules of this chip's Neural Engine as well as those of the language
    #[arg(long, value_parser = chip())]
    pub(crate) chip: Option<Chip>,

    /// Print one JSON object a line for each finding, and no summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Lay out MIL text as Apple's coremlc does, in place
///
/// Layout alone: nothing is put in another order. A file is replaced as a whole or not at all. coremlc's layout
/// has no comments, so a file that has some is only rewritten with --drop-comments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone fmt model.mil                         rewrite the file
  anemone fmt --check *.mil                     name the files that would change
  anemone fmt --dialect 1.0 --stdout model.mil  the program for macOS 14 and older
  generate | anemone fmt -                      from standard input to standard output

Exit codes:
  0  success; with --check: no file would change
  1  with --check: files would change; or a file is no MIL or could not be written
  2  the command line is wrong")]
pub(crate) struct Fmt {
    /// Files of MIL text; `-` reads standard input and writes standard output
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,

    /// Convert to this version of the language
    #[arg(long, value_name = "VERSION", value_parser = dialect())]
    pub(crate) dialect: Option<Version>,

    /// Change nothing, name the files that would change
    #[arg(long, conflicts_with = "stdout")]
    pub(crate) check: bool,

    /// Print the result instead of rewriting the files
    #[arg(long)]
    pub(crate) stdout: bool,

    /// Rewrite files with comments too; the comments are lost
    #[arg(long)]
    pub(crate) drop_comments: bool,
}

/// Show what this machine can train on, and what was checked of it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone devices
  anemone devices --json | jq '.devices[] | select(.usable) | .name'

Exit codes:
  0  shown
  2  the command line is wrong")]
pub(crate) struct Devices {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Try what this machine's engine can do, and remember it for `--device auto`
///
/// Programs with known answers and short runs of training, in each form and strategy that anemone knows. The text
/// is fit to be pasted into an issue.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone doctor
  anemone doctor --json > doctor.json

Exit codes:
  0  there is a device that trains: the Neural Engine, or the software engine
  1  there is none
  2  the command line is wrong")]
pub(crate) struct Doctor {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what is in a model: functions, inputs, outputs, ops, weights, work
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone inspect model.mlpackage
  anemone inspect --json model.mlmodelc | jq '.functions[0].ops'

Exit codes:
  0  shown
  1  failed: a file is missing or damaged
  2  the command line is wrong")]
pub(crate) struct Inspect {
    /// A `.mil`, `.mlmodelc`, `.mlpackage` or `.mlmodel`; its weights files need not be there
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run a model on arrays from files
///
/// Each output becomes a file NAME.npy in the output folder. States begin as zeros.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone run model.mlpackage --input x=x.npy --output results
  anemone run model.mil --input x=x.npy --output results --device soft

Exit codes:
  0  the outputs are written
  1  failed: a file is missing or damaged, or an input is not what the model takes
  2  the command line is wrong")]
pub(crate) struct Run {
    /// A `.mil`, `.mlmodelc`, `.mlpackage` or `.mlmodel`, with its weights files beside it
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,

    /// The array for an input, once for each
    #[arg(long = "input", value_name = "NAME=FILE.npy", value_parser = named_path)]
    pub(crate) inputs: Vec<(String, PathBuf)>,

    /// The folder for the outputs; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,

    /// `reference` computes every op exactly and slowly; `soft` is the software engine with its rules
    #[arg(long, value_parser = run_on(), default_value = "reference")]
    pub(crate) device: RunOn,

    /// How `--device soft` rounds: as IEEE has it, or as the Neural Engine is reported to
    #[arg(long, value_parser = arithmetic(), default_value = "ieee")]
    pub(crate) arithmetic: Arithmetic,
}

/// Make a report of runs: a page to read and show, and pictures
///
/// The page is one file that needs no network: curves, where the time went, compiles beside training, what ran and
/// what was checked, the configuration. Several runs are compared side by side. A run need not have ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anemone report runs/tiny                       runs/tiny/report/report.html, and pictures beside it
  anemone report runs/tiny --open                ... shown in the browser
  anemone report runs/tiny runs/tiny-2           compared, in the folder report
  anemone report runs/tiny --out tiny.html       the page alone, there
  anemone report runs/tiny --text                here in the terminal
  anemone report runs/* --json | jq '.runs[] | [.name, .validation_loss]'

Exit codes:
  0  made
  1  failed: a folder is none of a run, or a file could not be written
  2  the command line is wrong")]
pub(crate) struct Report {
    /// The folder of a run
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,

    /// The folder for page and pictures, made if it is not there; or a file (`*.html`) for the page alone. By
    /// default `report` in the run's folder, or for several runs in the current one
    #[arg(long, value_name = "DIR|FILE.html", conflicts_with_all = ["text", "json"])]
    pub(crate) out: Option<PathBuf>,

    /// Show the page in the browser
    #[arg(long, conflicts_with_all = ["text", "json"])]
    pub(crate) open: bool,

    /// Print a summary with small curves, and write nothing
    #[arg(long, conflicts_with = "json")]
    pub(crate) text: bool,

    /// Print the figures as one JSON object, and write nothing
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `anemone run` runs a model on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunOn {
    /// The reference interpreter.
    Reference,
    /// The software engine.
    Soft,
}

fn run_on() -> impl TypedValueParser<Value = RunOn> {
    named(&[("reference", RunOn::Reference), ("soft", RunOn::Soft)])
}

/// `NAME=PATH`.
fn named_path(given: &str) -> Result<(String, PathBuf), String> {
    match given.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_string(), path.into())),
        _ => Err("expected NAME=FILE.npy".to_string()),
    }
}

fn select() -> impl TypedValueParser<Value = Select> {
    named(&[("auto", Select::Auto), ("ane", Select::Ane), ("soft", Select::Soft)])
}

fn arithmetic() -> impl TypedValueParser<Value = Arithmetic> {
    PossibleValuesParser::new(Arithmetic::ALL.map(Arithmetic::as_str))
        .try_map(|name| Arithmetic::from_name(&name).ok_or_else(|| format!("there is no arithmetic `{name}`")))
}

fn place() -> impl TypedValueParser<Value = Place> {
    named(&[("host", Place::Host), ("device", Place::Device)])
}

fn strategy() -> impl TypedValueParser<Value = Strategy> {
    named(&[("baked", Strategy::Baked), ("operand", Strategy::Operand)])
}

/// One of the named values.
fn named<T: Copy + Send + Sync + 'static>(
    values: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).try_map(|given| {
        values
            .iter()
            .find(|(name, _)| *name == given)
            .map(|(_, v)| *v)
            .ok_or_else(|| format!("there is no `{given}`"))
    })
}

fn chip() -> impl TypedValueParser<Value = Chip> {
    PossibleValuesParser::new(Chip::ALL.map(Chip::as_str))
        .try_map(|name| Chip::from_name(&name).ok_or_else(|| format!("there is no chip `{name}`")))
}

fn dialect() -> impl TypedValueParser<Value = Version> {
    const ALL: [Version; 2] = [Version::V1_0, Version::V1_3];
    PossibleValuesParser::new(ALL.map(Version::as_str)).try_map(|name| {
        ALL.into_iter().find(|v| v.as_str() == name).ok_or_else(|| format!("there is no version `{name}`"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_exit_codes() {
        for command in Args::command().get_subcommands() {
            let help = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            let example = format!("\n  anemone {} ", command.get_name());
            assert!(format!("{help} ").replace('\n', " \n").contains(&example), "{}: {help}", command.get_name());
            assert!(
                help.contains("Examples:\n") && help.contains("\nExit codes:\n  0  "),
                "{}",
                command.get_name()
            );
        }
    }

    #[test]
    fn strings_become_types() {
        let Command::Check(check) =
            Args::try_parse_from(["anemone", "check", "--chip", "m3", "a.mil"]).unwrap().command
        else {
            panic!("expected `check`");
        };
        assert_eq!(check.chip, Some(Chip::M3));
        for wrong in [&["check", "--chip", "m9", "a"][..], &["check"], &["fmt", "--check", "--stdout", "a"], &[]] {
            let e = Args::try_parse_from(["anemone"].iter().chain(wrong)).unwrap_err();
            assert_eq!(e.exit_code(), 2, "{wrong:?}");
        }
    }
}
