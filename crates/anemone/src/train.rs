//! The trainer: one step after the other, with everything in sight.

mod compiling;
mod estimating;
mod evaluate;
mod kernels;
mod pass;
pub(crate) mod plan;
mod precision;
pub(crate) mod programs;

use crate::checkpoint::{self, Checkpoint};
use crate::config::{Config, Io, Strategy};
use crate::data::{Data, Tokenizer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Built, Graph, Model};
use crate::optim::{self, Optimizer, Update};
use crate::params::{self, ParamSpec};
use crate::pretrained;
use crate::random::Random;
use crate::report::{self, Best, Report, Stats, Validation};
use crate::run::now_us;
use crate::soft::floats::Floats;
use crate::soft::threads;
use crate::weights_file::{self, NamedTensor, TensorView};
use anemone_mil::ir::DType;
pub use compiling::Compiled;
use compiling::{Coming, Cut};
pub use evaluate::Evaluator;
use evaluate::Forward;
use kernels::{Compiler, Kernels};
use pass::Times;
pub use plan::{Description, HostOp, ProgramUse};
use plan::{Environment, TrainPlan};
use precision::Precision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Trains a model on a device, a step at a time.
///
/// ```
/// use anemone::{Config, Trainer, device, train::Event};
///
/// let mut config = Config::preset("tiny").unwrap();
/// config.train.steps = 40;
/// let device = device::open(&config.device.options()?)?;
/// let mut trainer = Trainer::new(&config, device)?;
/// let mut losses = Vec::new();
/// while let Event::Step(step) = trainer.step()? {
///     losses.push(step.loss);
/// }
/// assert!(losses[39] < losses[0]);
/// # Ok::<(), anemone::Error>(())
/// ```
pub struct Trainer {
    config: Config,
    device: Arc<dyn Device>,
    data: Box<dyn Data>,
    plan: TrainPlan,
    specs: Vec<ParamSpec>,
    /// Those of the parameters that are trained, which gradients and the optimizer go by.
    trained: Vec<ParamSpec>,
    params: Vec<Floats>,
    optimizer: Box<dyn Optimizer>,
    environment: Environment,
    compiler: Arc<Compiler>,
    kernels: Option<Kernels>,
    /// Kernels for the next batch but one.
    background: Option<Coming>,
    batch: Batch,
    state: State,
    /// What went wrong after the last step was done, and stops the next one.
    trouble: Option<Error>,
    /// The step at which this process began, and the compiles of the device that are not this run's or are in its
    /// counters already.
    begun_at: u64,
    n_compiles_before: usize,
    energy_before_j: Option<f64>,
    clock: Instant,
    finished: bool,
    /// Whether this process found that fp32 inputs and outputs are refused.
    io_fell_back: bool,
    built: Built,
    forward: Forward,
    /// What the weights do on the validation data, and the steps done by then.
    validated: Option<(u64, Validation)>,
}

/// What goes into a checkpoint beside the parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// Steps done.
    step: u64,
    /// Updates done.
    update: u64,
    /// The loss of the last step.
    last_loss: Option<f32>,
    /// The element type of the programs' inputs and outputs that turned out to work.
    io: Io,
    precision: Precision,
    best: Option<Best>,
    stats: Stats,
    /// Compiles that no step has reported yet.
    #[serde(default)]
    compiled: Vec<Compiled>,
    /// Repeated calls of the device that steps have reported.
    #[serde(default)]
    n_retries_reported: u64,
    /// That of the data, where they have one.
    #[serde(default)]
    checksum: Option<u32>,
}

/// The update that is being accumulated.
#[derive(Default)]
struct Batch {
    /// The sums so far; not used for batches of one step, whose gradients stay where they are.
    gradients: Vec<Vec<f32>>,
    /// Steps whose gradients are in.
    n_added: u64,
    /// Steps of this batch, those left out included.
    n_steps: u64,
    /// The loss of the last step before.
    loss_before: Option<f32>,
    /// The update whose weights the kernels hold.
    kernel_update: u64,
    /// Whether kernels with newer weights are being compiled meanwhile.
    stale: bool,
}

impl Batch {
    /// The sums so far of the `n` parameters that are trained.
    fn gradients<'a>(&'a self, e: &'a Environment, n: usize) -> Vec<&'a [f32]> {
        let sum = |i: usize| self.gradients.get(i).filter(|_| !e.is_added(i));
        (0..n).map(|i| sum(i).map_or_else(|| e.gradient(i), Vec::as_slice)).collect()
    }
}

/// What [`Trainer::step`] did.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step.
    Step(StepReport),
    /// Nothing: this process cannot go on, for the reason given, but a new one may. Save a checkpoint, and resume
    /// it there.
    Restart(String),
    /// Nothing: training is over.
    Finished,
}

/// One step, as `metrics.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The index of the step, from 0.
    pub step: u64,
    /// When it ended, as Unix time in microseconds.
    pub time_us: u64,
    /// The loss before the step's update.
    pub loss: f32,
    /// Updates done after this step.
    pub update: u64,
    /// By how many updates the weights in the kernels were behind.
    pub staleness: u64,
    /// Whether this step was left out of its update because its loss was not finite.
    pub skipped: bool,
    /// Whether the update that this step ended was left out because of numbers that were not finite.
    pub update_skipped: bool,
    /// The learning rate of the update this step belongs to.
    pub lr: f32,
    /// What this step's gradients were multiplied by before they entered fp16.
    pub loss_scale: f32,
    /// If this step ended an update: the norm of all gradients together, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Time the device took, copies to and from it included, in microseconds.
    pub device_us: f64,
    /// The part of it in copies, in microseconds.
    pub copy_us: f64,
    /// Time the host took, in microseconds.
    pub host_us: f64,
    /// Time this step waited for compiles, in microseconds.
    pub compile_wait_us: f64,
    /// Compiles of the whole run so far.
    pub compiles: u64,
    /// Compiles that ended since the step before, with their times.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compiled: Vec<Compiled>,
    /// Device calls that failed since the step before and were repeated.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
    /// Time the host took to look at the validation data, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_us: Option<f64>,
    /// What the weights do on the validation data, where it was time to look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Seconds in microseconds, to the nanosecond: more digits would be of no clock.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e9).round() / 1e3
}

impl Trainer {
    /// A trainer of the configured model on the configured data, at step 0.
    ///
    /// # Errors
    ///
    /// If the configuration asks for something impossible, on this device or at all.
    pub fn new(config: &Config, device: Arc<dyn Device>) -> Result<Trainer> {
        let data = config.data()?;
        // The run's own configuration has all sizes, so that its weights can be used without the data.
        let config = Config { model: config.model.determined(&*data)?, ..config.clone() };
        Trainer::with_model(&config, &*config.model.model(&*data)?, data, device)
    }

    /// A trainer of any model on any data; of the configuration, `model` and `data` are not looked at.
    ///
    /// # Errors
    ///
    /// As [`Trainer::new`].
    pub fn with_model(
        config: &Config,
        model: &dyn Model,
        data: Box<dyn Data>,
        device: Arc<dyn Device>,
    ) -> Result<Trainer> {
        config.check()?;
        let built = Graph::build(model, data.input(), data.target())?;
        if !built.params.iter().any(|(spec, _)| spec.trainable) {
            return Err(Error::config("the model declares no parameter that is trained: there is nothing to do"));
        }
        let mut random = Random::new(config.train.seed);
        let specs: Vec<ParamSpec> = built.params.iter().map(|(spec, _)| spec.clone()).collect();
        let mut params: Vec<Floats> = specs.iter().map(|s| s.initial(&mut random).into()).collect();
        if let Some(path) = &config.train.init_weights {
            pretrained::initialize(&specs, &mut params, &pretrained::load_weights(path)?)
                .map_err(|e| e.context(format!("`train.init_weights`: `{}`", path.display())))?;
        }
        let trained: Vec<ParamSpec> = specs.iter().filter(|s| s.trainable).cloned().collect();
        let Cut { plan, compiler, io, n_fallbacks } = Cut::new(config, &built, &device, config.weights.io)?;
        let forward = Forward::new(&built, &*data)?;
        let n_compiles_before = device.usage().n_compiles;
        let energy_before_j = device.engine_energy_j();
        let trainer = Trainer {
            device,
            environment: plan.environment(),
            compiler,
            kernels: None,
            background: None,
            batch: Batch::default(),
            state: State {
                step: 0,
                update: 0,
                last_loss: None,
                io,
                precision: Precision::new(&config.train.loss_scale),
                best: None,
                stats: Stats { n_io_fallbacks: n_fallbacks, ..Stats::default() },
                compiled: Vec::new(),
                n_retries_reported: 0,
                checksum: data.checksum()?,
            },
            trouble: None,
            begun_at: 0,
            n_compiles_before,
            energy_before_j,
            clock: Instant::now(),
            finished: config.train.steps == 0,
            io_fell_back: io != config.weights.io,
            optimizer: config.optimizer.optimizer(&trained),
            config: config.clone(),
            data,
            plan,
            specs,
            trained,
            params,
            built,
            forward,
            validated: None,
        };
        trainer.check_budget()?;
        Ok(trainer)
    }

    /// Goes on from a checkpoint, which [`Trainer::checkpoint`] made under a configuration of the same
    /// [identity](Config::identity).
    ///
    /// # Errors
    ///
    /// If the checkpoint is of another configuration or model, or was trained on other data; the trainer is then
    /// as it was.
    pub fn resume(&mut self, mut checkpoint: Checkpoint) -> Result<()> {
        checkpoint.check_config(&self.identity())?;
        let mut state: State = serde_json::from_value(checkpoint.state.take())
            .map_err(|e| Error::checkpoint(format!("the checkpoint's state cannot be read: {e}")))?;
        if let (Some(was), Some(is)) = (state.checksum, self.state.checksum)
            && was != is
        {
            return Err(Error::checkpoint(format!(
                "the data have changed since the checkpoint was saved (their checksum was {was:08x}, is {is:08x}): \
                 bring them back as they were, or begin a run of its own with these weights as `train.init_weights`"
            )));
        }
        state.checksum = self.state.checksum;
        self.specs.iter().try_for_each(|spec| params::find(spec, &checkpoint.tensors).map(drop))?;
        let mut optimizer = self.config.optimizer.optimizer(&self.trained);
        optim::restore(&mut *optimizer, &mut checkpoint.tensors, &self.trained)?;
        let mut n_fallbacks = 0;
        if state.io != self.state.io {
            // Where fp32 was taken, it may not be taken here.
            let cut = Cut::new(&self.config, &self.built, &self.device, state.io)?;
            self.environment = cut.plan.environment();
            (self.plan, self.compiler, state.io) = (cut.plan, cut.compiler, cut.io);
            n_fallbacks = cut.n_fallbacks;
            state.stats.n_io_fallbacks += n_fallbacks;
        }
        self.io_fell_back = n_fallbacks > 0;
        for (spec, values) in self.specs.iter().zip(&mut self.params) {
            values.copy_from_slice(params::find(spec, &checkpoint.tensors)?);
        }
        self.optimizer = optimizer;
        self.validated = None;
        self.begun_at = state.step;
        self.n_compiles_before = self.device.usage().n_compiles;
        self.energy_before_j = self.device.engine_energy_j();
        self.finished = state.step >= self.config.train.steps || self.converged(state.last_loss);
        self.kernels = None;
        self.background = None;
        self.trouble = None;
        self.batch = Batch { kernel_update: state.update, ..Batch::default() };
        self.state = state;
        self.state.stats.resumed_at.push(self.begun_at);
        self.clock = Instant::now();
        Ok(())
    }

    /// Does one step, and with the last step of a batch the update.
    ///
    /// # Errors
    ///
    /// If the device failed for good, or numbers are no longer finite and the policy is to fail. What was trained
    /// up to the last update can still be saved where [`Trainer::at_boundary`] says so.
    pub fn step(&mut self) -> Result<Event> {
        let Description { device_flops, host_flops, .. } = self.plan.description();
        threads::together((device_flops + host_flops) as usize / 16, || self.one_step())
    }

    fn one_step(&mut self) -> Result<Event> {
        let (started, waited_before_s) = (Instant::now(), self.state.stats.compile_wait_s);
        if let Some(event) = self.get_ready()? {
            return Ok(event);
        }
        let (step, first) = (self.state.step, self.state.step - self.batch.n_steps);
        let (lr, loss_scale) = (self.config.train.lr_at(first), self.state.precision.scale);
        let staleness = self.state.update - self.batch.kernel_update;
        let (times, loss) = self.add_to_batch().inspect_err(|_| self.abandon_batch())?;

        let n_updates = self.state.update;
        let ends =
            self.batch.n_steps == self.config.train.accumulate || self.state.step == self.config.train.steps;
        let gradient_norm = if ends { self.end_batch(lr)? } else { None };

        let stats = &mut self.state.stats;
        let wait_s = stats.compile_wait_s - waited_before_s;
        let device_s = times.device.as_secs_f64();
        let host_s = started.elapsed().as_secs_f64() - wait_s - device_s;
        stats.device_s += device_s;
        stats.host_s += host_s;
        stats.copy_s += times.copies.as_secs_f64();
        stats.gradients_s += times.gradients.as_secs_f64();
        stats.gradients_hidden_s += times.gradients_hidden.as_secs_f64();
        let retries = stats.n_retries.saturating_sub(self.state.n_retries_reported);
        self.state.n_retries_reported = stats.n_retries;

        let eval_before_s = stats.eval_s;
        let is_validated = ends && self.trouble.is_none() && self.is_validated_after(first);
        let validation = if is_validated { self.validate() } else { Ok(None) };
        let validation = validation.unwrap_or_else(|e| {
            self.trouble = Some(e);
            None
        });
        Ok(Event::Step(StepReport {
            step,
            time_us: now_us(),
            loss,
            update: self.state.update,
            staleness,
            skipped: !loss.is_finite(),
            update_skipped: ends && self.state.update == n_updates,
            lr,
            loss_scale,
            gradient_norm,
            device_us: micros(device_s),
            copy_us: micros(times.copies.as_secs_f64()),
            host_us: micros(host_s),
            compile_wait_us: micros(wait_s),
            compiles: self.n_compiles(),
            compiled: std::mem::take(&mut self.state.compiled),
            retries,
            eval_us: validation.as_ref().map(|_| micros(self.state.stats.eval_s - eval_before_s)),
            validation,
        }))
    }

    /// Sees to kernels for a step, or says what there is instead of one.
    fn get_ready(&mut self) -> Result<Option<Event>> {
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        if self.finished {
            return Ok(Some(Event::Finished));
        }
        if self.at_boundary() && self.out_of_compiles() {
            return self.restart("the budget of compiles is spent".into()).map(Some);
        }
        if self.kernels.is_none()
            && let Err(e) = self.compile_now()
        {
            // A new process may have better luck, but only where this one has got anywhere.
            let hopeless = e.is_refused() || e.is_config() || self.state.step == self.begun_at;
            return if hopeless { Err(e) } else { self.restart(e.to_string()).map(Some) };
        }
        Ok(None)
    }

    /// One pass, whose gradients become part of the batch; gives its loss.
    fn add_to_batch(&mut self) -> Result<(Times, f32)> {
        let times = self.forward_and_backward()?;
        let loss = self.environment.loss();
        if loss.is_finite() {
            self.accumulate();
        } else {
            self.not_finite(&format!("the loss of step {} is {loss}", self.state.step))?;
        }
        if self.batch.n_steps == 0 {
            self.batch.loss_before = self.state.last_loss;
        }
        self.batch.n_steps += 1;
        self.state.step += 1;
        self.state.last_loss = Some(loss);
        Ok((times, loss))
    }

    /// Whether a checkpoint can be made now: between updates, with no compile under way.
    pub fn at_boundary(&self) -> bool {
        self.batch.n_steps == 0 && self.background.is_none()
    }

    /// Whether fp32 inputs and outputs were asked for, but the device refuses them, so that they are fp16. After a
    /// checkpoint was resumed: whether they were fp32 up to there.
    pub fn io_fell_back(&self) -> bool {
        self.io_fell_back
    }

    /// What a step does where.
    pub fn plan(&self) -> &Description {
        self.plan.description()
    }

    /// The element type of the programs' inputs and outputs.
    pub fn io(&self) -> Io {
        self.state.io
    }

    /// Elements of all parameters.
    pub fn n_params(&self) -> usize {
        self.params.iter().map(|p| p.len()).sum()
    }

    /// What it runs on.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Steps done.
    pub fn n_steps(&self) -> u64 {
        self.state.step
    }

    /// The configuration, with the sizes of the data where it left them out.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What turned text into the tokens that are trained on, where it was text.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.data.tokenizer()
    }

    /// How many targets a step has, and what they are.
    pub fn examples(&self) -> (u64, &'static str) {
        let shape = |ty: anemone_mil::ir::TensorType| ty.fixed_shape().unwrap_or_default();
        let (input, target) = (self.data.input(), self.data.target());
        let n: usize = match target.dtype {
            DType::Int32 => shape(target).iter().product(),
            // Channels belong together.
            _ => shape(target).iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, n)| n).product(),
        };
        (n as u64, if input.dtype == DType::Int32 { "tokens" } else { "rows" })
    }

    /// Everything needed to go on from here, bit for bit.
    ///
    /// # Errors
    ///
    /// In the middle of a batch.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let (state, tensors) = self.saved()?;
        Ok(Checkpoint {
            config: self.identity(),
            state,
            tensors: tensors.into_iter().map(NamedTensor::from).collect(),
        })
    }

    /// Writes what [`Checkpoint::save`] of [`Trainer::checkpoint`] writes, without a second copy of it in memory.
    ///
    /// # Errors
    ///
    /// As these.
    pub fn save_checkpoint(&self, path: &Path) -> Result<()> {
        let (state, tensors) = self.saved()?;
        checkpoint::save(path, self.identity(), &state, tensors)
    }

    fn saved(&self) -> Result<(serde_json::Value, Vec<TensorView<'_>>)> {
        if !self.at_boundary() {
            return Err(Error::config("a checkpoint can only be made between updates"));
        }
        let mut state = self.state.clone();
        state.stats = self.stats();
        let state =
            serde_json::to_value(&state).map_err(|e| Error::checkpoint(format!("write the state: {e}")))?;
        let mut tensors = self.views();
        tensors.extend(optim::to_tensors(&*self.optimizer, &self.trained));
        Ok((state, tensors))
    }

    /// The parameters as they are now.
    pub fn weights(&self) -> Vec<NamedTensor> {
        self.views().into_iter().map(NamedTensor::from).collect()
    }

    /// Writes them as [`weights_file::save_safetensors`] does, without a second copy of them in memory.
    ///
    /// # Errors
    ///
    /// If writing fails.
    pub fn save_weights(&self, path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        weights_file::save_views(path, self.views(), metadata)
    }

    fn views(&self) -> Vec<TensorView<'_>> {
        let tensors = self.specs.iter().zip(&self.params);
        tensors.map(|(spec, data)| TensorView { name: spec.name.clone(), shape: &spec.shape, data }).collect()
    }

    /// The run so far, with what the weights do now on the validation data.
    ///
    /// # Errors
    ///
    /// If the model cannot be computed on the host.
    pub fn report(&mut self) -> Result<Report> {
        let validation = self.validate()?;
        let evaluation = self.forward.first_batch(&self.params, &mut *self.data)?;
        Ok(Report {
            machine: None,
            peak_bytes: None,
            memory: report::Memory {
                parameters: self.n_params() * size_of::<f32>(),
                optimizer: self
                    .optimizer
                    .state()
                    .iter()
                    .flat_map(|(_, s)| *s)
                    .map(|s| s.len() * size_of::<f32>())
                    .sum(),
                step: self.plan.description().host_bytes,
            },
            device: self.device.name(),
            strategy: self.config.weights.strategy,
            overlap: self.overlaps(),
            io: self.state.io,
            arithmetic: self.device.arithmetic().into(),
            steps: self.state.step,
            updates: self.state.update,
            accumulate: self.config.train.accumulate,
            converged: self.converged(self.state.last_loss),
            last_loss: self.state.last_loss,
            lr: self.config.train.lr_at(self.state.step.saturating_sub(self.config.train.accumulate)),
            loss_scale: self.state.precision.scale,
            stats: self.stats(),
            device_flops_per_step: self.plan.description().device_flops,
            host_flops_per_step: self.plan.description().host_flops,
            n_params: self.n_params(),
            evaluation,
            validation,
            best: self.state.best.clone(),
            estimate: self.estimate(),
        })
    }

    /// The configuration's identity and the parameters, which a checkpoint is bound to.
    fn identity(&self) -> String {
        let params: String =
            self.specs.iter().map(|s| format!("# parameter {} {:?}\n", s.name, s.shape)).collect();
        self.config.identity() + &params
    }

    fn overlaps(&self) -> bool {
        self.config.weights.strategy == Strategy::Baked && self.config.weights.overlap
    }

    fn converged(&self, loss: Option<f32>) -> bool {
        loss.is_some_and(|l| l < self.config.train.stop_below)
    }

    /// Adds the step's gradients to the batch's, where they are not added already.
    fn accumulate(&mut self) {
        if self.config.train.accumulate > 1 {
            if self.batch.gradients.is_empty() {
                let is_added = |i| self.environment.is_added(i);
                let n = |(i, p): (usize, &ParamSpec)| if is_added(i) { 0 } else { p.n_elements() };
                self.batch.gradients = self.trained.iter().enumerate().map(|p| vec![0.0; n(p)]).collect();
            }
            let first = self.batch.n_added == 0;
            // Those that are added already have no sum here.
            let sums = self.batch.gradients.iter_mut().enumerate().filter(|(_, sum)| !sum.is_empty());
            for (i, sum) in sums {
                let gradient = self.environment.gradient(i);
                if first {
                    sum.copy_from_slice(gradient);
                } else {
                    sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
                }
            }
        }
        self.batch.n_added += 1;
    }

    /// Goes back to where the last update left the run: some gradients of the batch may be lost.
    fn abandon_batch(&mut self) {
        if let Some(coming) = self.background.take() {
            // Of the weights that there are; with them the run can be saved.
            self.batch.stale = false;
            self.swap(coming);
        }
        if self.batch.n_steps > 0 {
            self.state.step -= std::mem::take(&mut self.batch.n_steps);
            self.state.last_loss = self.batch.loss_before;
        }
        self.batch.n_added = 0;
    }

    /// The update, and the kernels for the next batch; gives the norm of the gradients.
    fn end_batch(&mut self, lr: f32) -> Result<Option<f64>> {
        let result = self.update(lr);
        if result.is_err() {
            // The last update is where the run stands; it can be saved there.
            self.abandon_batch();
            return result;
        }
        self.batch.n_steps = 0;
        self.batch.n_added = 0;
        let over = self.state.step == self.config.train.steps || self.converged(self.state.last_loss);
        if let Err(e) = self.renew_kernels(over) {
            // The update is made and its step will be reported.
            self.kernels = None;
            self.trouble = Some(e);
        }
        self.finished = over;
        result
    }

    /// Moves the parameters by the batch's mean gradient, whose norm it gives, or leaves the update out.
    fn update(&mut self, lr: f32) -> Result<Option<f64>> {
        let n = self.batch.n_added;
        if n == 0 {
            self.state.precision.left_out(&self.config.train)?;
            return Ok(None);
        }
        let n_trained = self.trained.len();
        // The sum of f32 squares in f64 is finite if and only if all of them are.
        let gradients = self.batch.gradients(&self.environment, n_trained);
        let squares: f64 = gradients.iter().map(|g| optim::sum_of_squares(g)).sum();
        let divisor = n as f32 * self.state.precision.scale;
        let norm = squares.sqrt() / f64::from(divisor);
        if !norm.is_finite() {
            self.not_finite(&format!("a gradient of update {} is not finite", self.state.update))?;
            self.state.precision.left_out(&self.config.train)?;
            return Ok(Some(norm));
        }
        let stale_scale = if self.batch.stale { self.config.weights.stale_scale } else { 1.0 };
        let clip = f64::from(self.config.train.clip);
        let shorter = if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 };
        let update = Update { index: self.state.update, scale: shorter * stale_scale / divisor, lr };
        if !self.overlaps() {
            self.plan.release(&mut self.environment);
        }
        let gradients = self.batch.gradients(&self.environment, n_trained);
        let params = self.params.iter_mut().zip(&self.specs).filter(|(_, spec)| spec.trainable);
        let mut params: Vec<&mut [f32]> = params.map(|(p, _)| &mut **p).collect();
        self.optimizer.step(&mut params, &gradients, update);
        self.state.update += 1;
        self.state.precision.made(&self.config.train.loss_scale);
        Ok(Some(norm))
    }

    /// Whether the batch of gradients that began at step `first` and has just ended is one to validate after.
    fn is_validated_after(&self, first: u64) -> bool {
        let every = self.config.eval.every;
        self.finished || (every > 0 && first / every < self.state.step / every)
    }

    /// What the weights do on the validation data, where there is some; kept as the best if it is.
    fn validate(&mut self) -> Result<Option<Validation>> {
        if self.data.n_validation_batches() == 0 {
            return Ok(None);
        }
        let step = self.state.step;
        if let Some((at, validation)) = &self.validated
            && *at == step
        {
            return Ok(Some(validation.clone()));
        }
        let start = Instant::now();
        let mut validation = self.forward.validate(&self.params, &mut *self.data, self.config.eval.batches)?;
        // After a resume it may be the best itself that is looked at again.
        let is_best = |best: &Best| best.step == step || validation.loss < best.loss;
        validation.best = self.state.best.as_ref().map_or(validation.loss < f64::INFINITY, is_best);
        if validation.best {
            let Validation { loss, accuracy, .. } = validation;
            self.state.best = Some(Best { step, loss, accuracy });
        }
        self.validated = Some((step, validation.clone()));
        self.state.stats.eval_s += start.elapsed().as_secs_f64();
        Ok(Some(validation))
    }

    /// Counts numbers that are not finite, or fails, as the policy says.
    fn not_finite(&mut self, what: &str) -> Result<()> {
        if self.config.train.skips_non_finite() {
            self.state.stats.n_skipped += 1;
            return Ok(());
        }
        Err(Error::non_finite(format!(
            "{what}: go on with `train.non_finite = \"skip\"`, or begin anew with a lower `train.lr`, with \
             `train.clip` or with another `train.loss_scale`"
        )))
    }

    fn restart(&mut self, why: String) -> Result<Event> {
        if self.state.step == self.begun_at {
            return Err(Error::budget(format!(
                "{why}, and this process has made no step: another restart would not help"
            )));
        }
        // Whoever asks again gets the same answer.
        if self.state.stats.restarted_at.last() != Some(&self.state.step) {
            self.state.stats.restarted_at.push(self.state.step);
        }
        Ok(Event::Restart(why))
    }

    fn n_compiles(&self) -> u64 {
        self.state.stats.n_compiles + (self.device.usage().n_compiles - self.n_compiles_before) as u64
    }

    /// The engine's energy, if this device is the engine: what earlier processes have used says nothing of
    /// another.
    fn engine_energy_j(&self) -> Option<f64> {
        let used = self.device.engine_energy_j()? - self.energy_before_j?;
        Some(self.state.stats.engine_energy_j.unwrap_or(0.0) + used)
    }

    /// The counters of the run so far, those of earlier processes included.
    pub fn stats(&self) -> Stats {
        Stats {
            wall_s: self.state.stats.wall_s + self.clock.elapsed().as_secs_f64(),
            n_compiles: self.n_compiles(),
            engine_energy_j: self.engine_energy_j(),
            ..self.state.stats.clone()
        }
    }
}
