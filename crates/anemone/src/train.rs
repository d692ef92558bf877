//! The trainer: one step after the other, with everything in sight.

mod kernels;
pub(crate) mod plan;
pub(crate) mod programs;

use crate::checkpoint::Checkpoint;
use crate::config::{Config, Io, NonFinite, Strategy};
use crate::data::Data;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{Graph, Model};
use crate::optim::{self, Optimizer};
use crate::params::ParamSpec;
use crate::random::Random;
use crate::report::{Evaluation, Report, Stats};
use crate::weights_file::NamedTensor;
use kernels::{Background, Compiler, Kernels, LayerWeights};
use plan::{Environment, Piece, TrainPlan};
use serde::{Deserialize, Serialize};
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
    params: Vec<Vec<f32>>,
    optimizer: Box<dyn Optimizer>,
    environment: Environment,
    compiler: Arc<Compiler>,
    kernels: Option<Kernels>,
    /// Kernels for the next batch but one, and the update whose weights they get.
    background: Option<(Background, u64)>,
    batch: Batch,
    state: State,
    /// The step at which this process began, and the compiles of the device that are not this run's or are in its
    /// counters already.
    begun_at: u64,
    n_compiles_before: usize,
    energy_before_j: Option<f64>,
    clock: Instant,
    finished: bool,
    evaluator: Evaluator,
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
    stats: Stats,
}

/// The update that is being accumulated.
#[derive(Default)]
struct Batch {
    gradients: Vec<Vec<f32>>,
    /// Steps whose gradients are in.
    n_added: u64,
    /// Steps of this batch, those left out included.
    n_steps: u64,
    /// The update whose weights the kernels hold.
    kernel_update: u64,
    /// Whether kernels with newer weights are being compiled meanwhile.
    stale: bool,
}

/// What [`Trainer::step`] did.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step.
    Step(StepReport),
    /// Nothing: this process cannot go on, for the reason given, but a new one may. Save a checkpoint, and resume it
    /// there.
    Restart(String),
    /// Nothing: training is over.
    Finished,
}

/// One step, as `metrics.jsonl` has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The index of the step, from 0.
    pub step: u64,
    /// The loss before the step's update.
    pub loss: f32,
    /// Updates done after this step.
    pub update: u64,
    /// By how many updates the weights in the kernels were behind.
    pub staleness: u64,
    /// Whether this step was left out of its update because its loss was not finite.
    pub skipped: bool,
    /// Time the device took, copies to and from it included, in microseconds.
    pub device_us: f64,
    /// Time the host took, in microseconds.
    pub host_us: f64,
    /// Time this step waited for compiles, in microseconds.
    pub compile_wait_us: f64,
    /// Compiles of the whole run so far.
    pub compiles: u64,
}

impl Trainer {
    /// A trainer of the configured model on the configured data, at step 0.
    ///
    /// # Errors
    ///
    /// If the configuration asks for something impossible, on this device or at all.
    pub fn new(config: &Config, device: Arc<dyn Device>) -> Result<Trainer> {
        Trainer::with_model(config, config.model.model(), config.data(), device)
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
        let built = Graph::build(model, &data.input_shape(), &data.target_shape())?;
        if built.params.is_empty() {
            return Err(Error::config("the model declares no parameter: there is nothing to train"));
        }
        let plan = TrainPlan::new(&built, config.train.input_gradient)?;
        let mut random = Random::new(config.train.seed);
        let specs: Vec<ParamSpec> = built.params.iter().map(|(spec, _)| spec.clone()).collect();
        let params: Vec<Vec<f32>> = specs.iter().map(|s| s.initial(&mut random)).collect();
        let (compiler, io, n_fallbacks) = compiler(config, &device, &plan, config.weights.io)?;
        let evaluator = Evaluator::new(&built)?;
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
                stats: Stats { n_io_fallbacks: n_fallbacks, ..Stats::default() },
            },
            begun_at: 0,
            n_compiles_before,
            energy_before_j,
            clock: Instant::now(),
            finished: config.train.steps == 0,
            optimizer: config.optimizer.optimizer(),
            config: config.clone(),
            data,
            plan,
            specs,
            params,
            evaluator,
        };
        trainer.check_budget()?;
        Ok(trainer)
    }

    /// Goes on from a checkpoint, which [`Trainer::checkpoint`] made under a configuration of the same
    /// [identity](Config::identity).
    ///
    /// # Errors
    ///
    /// If the checkpoint is of another configuration or model; the trainer is then as it was.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.check_config(&self.identity())?;
        let mut state: State = serde_json::from_value(checkpoint.state.clone())
            .map_err(|e| Error::checkpoint(format!("the checkpoint's state cannot be read: {e}")))?;
        let params = self
            .specs
            .iter()
            .map(|spec| {
                let found = checkpoint.tensors.iter().find(|t| t.name == spec.name && t.shape == spec.shape);
                let missing = || {
                    Error::checkpoint(format!("the checkpoint has no `{}` of shape {:?}", spec.name, spec.shape))
                };
                found.map(|t| t.data.clone()).ok_or_else(missing)
            })
            .collect::<Result<_>>()?;
        if state.io != self.state.io {
            // Where fp32 was taken, it may not be taken here.
            let n_fallbacks;
            (self.compiler, state.io, n_fallbacks) = compiler(&self.config, &self.device, &self.plan, state.io)?;
            state.stats.n_io_fallbacks += n_fallbacks;
        }
        let memory = optim::from_tensors(&checkpoint.tensors, &self.specs)?;
        self.params = params;
        self.optimizer = self.config.optimizer.optimizer();
        self.optimizer.restore(state.update, memory);
        self.begun_at = state.step;
        self.n_compiles_before = self.device.usage().n_compiles;
        self.energy_before_j = self.device.engine_energy_j();
        self.finished = state.step >= self.config.train.steps || self.converged(state.last_loss);
        self.kernels = None;
        self.background = None;
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
        if self.finished {
            return Ok(Event::Finished);
        }
        let mut waited = self.state.stats.compile_wait_s;
        if self.at_boundary() && self.out_of_compiles() {
            return self.restart("the budget of compiles is spent".into());
        }
        if self.kernels.is_none()
            && let Err(e) = self.compile_now()
        {
            // A new process may have better luck, but only where this one has got anywhere.
            let hopeless = e.is_refused() || e.is_config() || self.state.step == self.begun_at;
            return if hopeless { Err(e) } else { self.restart(e.to_string()) };
        }
        waited = self.state.stats.compile_wait_s - waited;

        let started = Instant::now();
        let step = self.state.step;
        let staleness = self.state.update - self.batch.kernel_update;
        let device_s = self.forward_and_backward()?;
        let loss = self.environment.get(self.plan.loss)[0];
        let skipped = !loss.is_finite();
        if skipped {
            self.not_finite(&format!("the loss of step {step} is {loss}"))?;
        } else {
            self.accumulate();
        }
        self.batch.n_steps += 1;
        self.state.step += 1;
        self.state.last_loss = Some(loss);

        let before = self.state.stats.compile_wait_s;
        if self.batch.n_steps == self.config.train.accumulate || self.state.step == self.config.train.steps {
            self.end_batch()?;
        }
        let wait_s = self.state.stats.compile_wait_s - before;
        let step_s = started.elapsed().as_secs_f64() - wait_s;
        self.state.stats.device_s += device_s;
        self.state.stats.host_s += step_s - device_s;
        Ok(Event::Step(StepReport {
            step,
            loss,
            update: self.state.update,
            staleness,
            skipped,
            device_us: device_s * 1e6,
            host_us: (step_s - device_s) * 1e6,
            compile_wait_us: (wait_s + waited) * 1e6,
            compiles: self.n_compiles(),
        }))
    }

    /// Whether a checkpoint can be made now: between updates, with no compile under way.
    pub fn at_boundary(&self) -> bool {
        self.batch.n_steps == 0 && self.background.is_none()
    }

    /// Whether fp32 inputs and outputs were asked for, but refused by the device, so that they are fp16.
    pub fn io_fell_back(&self) -> bool {
        self.state.io != self.config.weights.io
    }

    /// What it runs on.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Steps done.
    pub fn n_steps(&self) -> u64 {
        self.state.step
    }

    /// Everything needed to go on from here, bit for bit.
    ///
    /// # Errors
    ///
    /// In the middle of a batch.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        if !self.at_boundary() {
            return Err(Error::config("a checkpoint can only be made between updates"));
        }
        let mut state = self.state.clone();
        state.stats = self.stats();
        let state =
            serde_json::to_value(&state).map_err(|e| Error::checkpoint(format!("write the state: {e}")))?;
        let mut tensors = self.weights();
        tensors.extend(optim::to_tensors(&*self.optimizer, &self.specs));
        Ok(Checkpoint { config: self.identity(), state, tensors })
    }

    /// The parameters as they are now.
    pub fn weights(&self) -> Vec<NamedTensor> {
        let tensor = |(spec, data): (&ParamSpec, &Vec<f32>)| NamedTensor {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            data: data.clone(),
        };
        self.specs.iter().zip(&self.params).map(tensor).collect()
    }

    /// The run so far.
    ///
    /// # Errors
    ///
    /// If the model cannot be computed on the host.
    pub fn report(&mut self) -> Result<Report> {
        let evaluation = self.evaluator.run(&self.params, &*self.data)?;
        let n_params = self.params.iter().map(Vec::len).sum();
        Ok(Report {
            machine: None,
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
            stats: self.stats(),
            device_flops_per_step: self.plan.n_device_flops,
            host_flops_per_step: self.plan.n_host_flops,
            n_params,
            evaluation,
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

    /// One pass over all pieces; gives the time the device took, in seconds.
    fn forward_and_backward(&mut self) -> Result<f64> {
        let e = &mut self.environment;
        let (x, target) = e.batch_mut(&self.plan);
        self.data.batch(self.state.step, x, target);
        e.get_mut(self.plan.loss_scale).fill(self.config.train.loss_scale);
        let Some(kernels) = &mut self.kernels else { return Err(Error::config("there are no kernels")) };
        let mut device_s = 0.0;
        for piece in &mut self.plan.pieces {
            match piece {
                Piece::Host(host) => host.run(e)?,
                Piece::Device(index, linear) => {
                    let start = Instant::now();
                    kernels.run(*index, linear, e, &mut self.state.stats.n_retries)?;
                    device_s += start.elapsed().as_secs_f64();
                }
            }
        }
        Ok(device_s)
    }

    /// Adds the step's gradients to the batch's.
    fn accumulate(&mut self) {
        let e = &self.environment;
        if self.batch.gradients.is_empty() {
            self.batch.gradients = self.params.iter().map(|p| vec![0.0; p.len()]).collect();
        }
        for (sum, &id) in self.batch.gradients.iter_mut().zip(&self.plan.gradients) {
            sum.iter_mut().zip(e.get(id)).for_each(|(sum, g)| *sum += g);
        }
        self.batch.n_added += 1;
    }

    /// The update, and the kernels for the next batch.
    fn end_batch(&mut self) -> Result<()> {
        if let Err(e) = self.update() {
            // The last update is where the run stands; it can be saved there.
            self.state.step -= self.batch.n_steps;
            self.batch.n_steps = 0;
            self.batch.n_added = 0;
            self.batch.gradients.clear();
            return Err(e);
        }
        self.batch.n_steps = 0;
        let over = self.state.step == self.config.train.steps || self.converged(self.state.last_loss);
        let was_stale = std::mem::take(&mut self.batch.stale);
        if let Some((background, update)) = self.background.take() {
            self.swap(background);
            self.batch.kernel_update = update;
        } else if !over && self.config.weights.strategy == Strategy::Operand {
            self.prepare()?;
            let weights = self.layer_weights();
            if let Some(kernels) = &mut self.kernels {
                kernels.write_weights(&weights)?;
            }
            self.batch.kernel_update = self.state.update;
        } else if !over && self.overlaps() && !was_stale && self.kernels.is_some() {
            self.prepare()?;
            match self.compiler.compile_in_background(self.layer_weights()) {
                Ok(background) => {
                    self.background = Some((background, self.state.update));
                    self.batch.stale = true;
                }
                Err(_) => {
                    self.state.stats.n_background_failures += 1;
                    self.kernels = None;
                }
            }
        } else if !over {
            self.kernels = None;
        }
        self.finished = over;
        Ok(())
    }

    /// Takes the kernels compiled meanwhile, which lack the update that was made meanwhile.
    fn swap(&mut self, background: Background) {
        let start = Instant::now();
        let result = background.finish();
        let waited_s = start.elapsed().as_secs_f64();
        self.state.stats.compile_wait_s += waited_s;
        let (result, stats) = result;
        let busy_s = stats.busy.as_secs_f64();
        self.state.stats.compile_busy_s += busy_s;
        self.state.stats.compile_hidden_s += (busy_s - waited_s).max(0.0);
        self.state.stats.n_retries += stats.n_retries;
        match result {
            Ok(kernels) => self.kernels = Some(kernels),
            Err(_) => {
                // The next step compiles in the foreground, and says what is wrong if it still is.
                self.state.stats.n_background_failures += 1;
                self.kernels = None;
            }
        }
    }

    /// Moves the parameters by the batch's mean gradient, and begins another batch.
    fn update(&mut self) -> Result<()> {
        let n = std::mem::take(&mut self.batch.n_added);
        let staleness = if self.batch.stale { self.config.weights.stale_scale } else { 1.0 };
        let scale = staleness / (n.max(1) as f32 * self.config.train.loss_scale);
        let mut finite = true;
        for g in self.batch.gradients.iter_mut().flatten() {
            finite &= g.is_finite();
            *g *= scale;
        }
        if !finite {
            self.not_finite(&format!("a gradient of update {} is not finite", self.state.update))?;
        } else if n > 0 {
            self.optimizer.step(&mut self.params, &self.batch.gradients, self.config.train.lr);
            self.state.update += 1;
        }
        self.batch.gradients.iter_mut().for_each(|g| g.fill(0.0));
        Ok(())
    }

    /// Counts numbers that are not finite, or fails, as the policy says.
    fn not_finite(&mut self, what: &str) -> Result<()> {
        match self.config.train.non_finite {
            NonFinite::Skip => {
                self.state.stats.n_skipped += 1;
                Ok(())
            }
            NonFinite::Fail => Err(Error::non_finite(format!(
                "{what}: lower `train.lr`, change `train.loss_scale`, or set `train.non_finite = \"skip\"`"
            ))),
        }
    }

    /// Computes what the device's weights are made of from the parameters.
    fn prepare(&mut self) -> Result<()> {
        for (&id, p) in self.plan.params.iter().zip(&self.params) {
            self.environment.get_mut(id).copy_from_slice(p);
        }
        self.plan.preparation.run(&mut self.environment)
    }

    fn layer_weights(&self) -> LayerWeights {
        self.plan.layers().map(|l| self.environment.get(l.weight).to_vec()).collect()
    }

    fn compile_now(&mut self) -> Result<()> {
        self.prepare()?;
        let start = Instant::now();
        let (result, stats) = self.compiler.compile(&self.layer_weights());
        self.state.stats.compile_wait_s += start.elapsed().as_secs_f64();
        self.state.stats.compile_busy_s += stats.busy.as_secs_f64();
        self.state.stats.n_retries += stats.n_retries;
        self.kernels = Some(result?);
        self.batch.kernel_update = self.state.update;
        Ok(())
    }

    /// The most compiles this process uses.
    fn budget(&self) -> usize {
        let own = match self.config.weights.compile_budget {
            0 => usize::MAX,
            n => n,
        };
        own.min(self.device.limits().max_compiles().unwrap_or(usize::MAX))
    }

    /// Whether the kernels that will be needed next cannot be compiled any more.
    fn out_of_compiles(&self) -> bool {
        let needed = match (&self.kernels, self.config.weights.strategy) {
            (None, _) => true,
            (Some(_), Strategy::Operand) => false,
            // The batch that begins now compiles at its end, unless it is the last.
            (Some(_), Strategy::Baked) => {
                self.overlaps() && self.state.step + self.config.train.accumulate < self.config.train.steps
            }
        };
        needed && self.device.usage().n_compiles + self.compiler.n_programs() > self.budget()
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

    /// Every process must get somewhere: its compiles must suffice for at least one update.
    fn check_budget(&self) -> Result<()> {
        let n = self.compiler.n_programs();
        let needed = if self.overlaps() { 2 * n } else { n };
        if self.budget() >= needed {
            return Ok(());
        }
        Err(Error::config(format!(
            "a budget of {} compiles a process is too small: one update takes {needed} ({n} programs{}); raise \
             `weights.compile_budget` or use the strategy `operand`",
            self.budget(),
            if self.overlaps() { ", twice with overlap" } else { "" }
        )))
    }

    fn n_compiles(&self) -> u64 {
        self.state.stats.n_compiles + (self.device.usage().n_compiles - self.n_compiles_before) as u64
    }

    /// The engine's energy, if this device is the engine: what earlier processes have used says nothing of another.
    fn engine_energy_j(&self) -> Option<f64> {
        let used = self.device.engine_energy_j()? - self.energy_before_j?;
        Some(self.state.stats.engine_energy_j.unwrap_or(0.0) + used)
    }

    /// The counters with those of this process added.
    fn stats(&self) -> Stats {
        Stats {
            wall_s: self.state.stats.wall_s + self.clock.elapsed().as_secs_f64(),
            n_compiles: self.n_compiles(),
            engine_energy_j: self.engine_energy_j(),
            ..self.state.stats.clone()
        }
    }
}

/// The compiler for the wished element type of inputs and outputs, or for fp16 where that is refused.
fn compiler(
    config: &Config,
    device: &Arc<dyn Device>,
    plan: &TrainPlan,
    io: Io,
) -> Result<(Arc<Compiler>, Io, u64)> {
    let strategy = config.weights.strategy;
    match Compiler::new(device.clone(), plan, strategy, io) {
        Err(e) if e.is_refused() && io == Io::Fp32 => {
            Ok((Arc::new(Compiler::new(device.clone(), plan, strategy, Io::Fp16)?), Io::Fp16, 1))
        }
        result => Ok((Arc::new(result?), io, 0)),
    }
}

/// The model's forward part on the host in f32, to see what the final weights do without a compile.
struct Evaluator {
    plan: crate::soft::plan::Plan,
    memory: crate::soft::steps::Memory,
}

impl Evaluator {
    fn new(built: &crate::nn::Built) -> Result<Evaluator> {
        let program = anemone_mil::validate(built.program.clone(), &anemone_mil::Limits::none())?;
        let plan = crate::soft::plan::Plan::new(program.main(), &anemone_mil::Weights::new())?;
        let memory = plan.memory();
        Ok(Evaluator { plan, memory })
    }

    /// The loss, and the first row of the prediction beside that of the target.
    fn run(&mut self, params: &[Vec<f32>], data: &dyn Data) -> Result<Evaluation> {
        // The graph declares input, target, then parameters, and returns loss and prediction.
        let sizes = [data.input_shape(), data.target_shape()].map(|s| s.iter().product::<usize>());
        let (mut x, mut target) = (vec![0.0; sizes[0]], vec![0.0; sizes[1]]);
        data.batch(0, &mut x, &mut target);
        for (i, values) in [&x, &target].into_iter().chain(params).enumerate() {
            self.memory.input_mut(&self.plan, i).copy_from_slice(values);
        }
        self.plan.run(&mut self.memory)?;
        // The first channels of row 0.
        let rows = data.target_shape()[2..].iter().product::<usize>().max(1);
        let first = |v: &[f32]| v.iter().step_by(rows).take(8).copied().collect();
        Ok(Evaluation {
            loss: self.memory.output(&self.plan, 0)[0],
            prediction: first(self.memory.output(&self.plan, 1)),
            target: first(&target),
        })
    }
}
