//! The simulated clock: beside published times, against what runs count, and in reports.

mod support;

use anemone::Trainer;
use anemone::clock::{Call, Clock, Counts, Estimate, StepTime};
use anemone::config::{Config, Strategy};
use anemone::mil::Chip;
use support::{STRATEGIES, open, run, small, tiny};

/// What is known of where a published time and its estimate differ, and so how far they may.
#[derive(Clone, Copy)]
enum Why {
    /// The figures of the clock were made from it.
    Calibrates,
    /// Calls of single products: nothing is left out.
    Calls,
    /// The figure contains work of the host.
    Host,
    /// Compiles by other machines of the same generation, or of other programs.
    Compiles,
    /// Another driver.
    Driver,
}

impl Why {
    /// The least and the largest ratio of estimated to published.
    fn bounds(self) -> [f64; 2] {
        match self {
            Why::Calibrates => [0.97, 1.03],
            Why::Calls => [0.8, 1.25],
            Why::Host => [0.25, 1.0],
            Why::Compiles => [1.0 / 3.0, 3.0],
            Why::Driver => [1.0 / 3.0, 3.0],
        }
    }

    fn words(self) -> &'static str {
        match self {
            Why::Calibrates => "the table is made from it",
            Why::Calls => "calls alone",
            Why::Host => "it contains the host's work, the estimate does not",
            Why::Compiles => "other programs, or another machine of the generation",
            Why::Driver => "through another driver, on Linux",
        }
    }
}

/// A time that somebody has published, in seconds, and the estimate of it.
struct Published {
    what: &'static str,
    who: &'static str,
    published_s: f64,
    estimated_s: f64,
    why: Why,
}

/// Stories110M, one run of 256 tokens: 12 layers of width 768, 2048 channels inside, by so many calls.
fn stories(chip: Chip, convolves: bool, n_calls: usize) -> StepTime {
    let (n_layers, length, width, hidden) = (12.0, 256.0, 768.0, 2048.0);
    let weights = 4.0 * width * width + 3.0 * width * hidden;
    // Products with weights once forward and once backward; of attention two forward, five backward.
    let flops = 2.0 * 2.0 * weights * length + 7.0 * 2.0 * length * length * width;
    // Inputs and outputs of the seven linear layers, forward and backward.
    let channels = 2.0 * (4.0 * 2.0 * width + 3.0 * (width + hidden));
    let share = n_layers / n_calls as f64;
    let call = Call {
        convolves,
        flops: share * flops,
        weight_bytes: share * 2.0 * 2.0 * weights,
        bytes: share * 2.0 * channels * length,
    };
    let mut step = StepTime::default();
    (0..n_calls).for_each(|_| step += Clock::new(chip).call(&call));
    step
}

/// The compiles of the 72 programs of Stories110M with weights compiled in, loads included.
fn stories_compiled_s(chip: Chip) -> f64 {
    let weight_bytes = 12.0 * (4.0 * 768.0 * 768.0 + 3.0 * 768.0 * 2048.0) * 2.0 * 2.0;
    let clock = Clock::new(chip);
    72.0 * (clock.compile_s(weight_bytes / 72.0) + clock.load_s())
}

/// A product of `[m, k]` and `[k, n]`.
fn product(chip: Chip, [m, k, n]: [usize; 3]) -> f64 {
    let [weights, x, y] = [m * k, k * n, m * n].map(|n| 2.0 * n as f64);
    let call = Call { convolves: false, flops: 2.0 * (m * k * n) as f64, weight_bytes: weights, bytes: x + y };
    Clock::new(chip).call(&call).engine_s()
}

/// The estimates of the whole run by the configured plan, and by those of the other strategies.
fn estimates(config: &Config) -> Vec<Estimate> {
    let comparison = Trainer::new(config, open(config)).unwrap().estimates();
    assert!(comparison.impossible.is_empty(), "{:?}", comparison.impossible);
    comparison.estimates
}

fn published() -> Vec<Published> {
    let tiny = &estimates(&Config::preset("tiny").unwrap())[0];
    let m5 = Clock::new(Chip::M5);
    let channels_256 = Call { convolves: true, flops: 0.0, weight_bytes: 131_072.0, bytes: 65_536.0 };
    let qwen = Call {
        convolves: true,
        flops: 2.0 * 16480.0 * 5120.0 * 512.0,
        weight_bytes: 2.0 * 16480.0 * 5120.0,
        bytes: 2.0 * (16480.0 + 5120.0) * 512.0,
    };
    // 1.78 TFLOP/s for 9.3 ms; the layer is one of Stories110M's with twice the positions.
    let mut layer = StepTime::default();
    let call = Call { convolves: true, flops: 1.78e12 * 9.3e-3 / 6.0, weight_bytes: 4.72e6, bytes: 4.98e6 };
    (0..6).for_each(|_| layer += Clock::new(Chip::M4).call(&call));
    let linux =
        580.0 * Clock::new(Chip::M1).call(&Call { flops: 0.0, weight_bytes: 0.0, bytes: 0.0, ..call }).engine_s();
    let row = |what, who, published_ms: f64, estimated_s, why| Published {
        what,
        who,
        published_s: published_ms * 1e-3,
        estimated_s,
        why,
    };
    use Why::*;
    vec![
        row("tiny, calls of a step", "maderix/ANE PR 23, M4", 0.54, tiny.step_s, Host),
        row(
            "tiny, four programs compiled and loaded",
            "maderix/ANE PR 23, M4",
            55.0,
            tiny.kernels.compile_s + tiny.kernels.load_s,
            Calibrates,
        ),
        row("product 64x64x64", "rane, M1 Pro", 0.143, product(Chip::M1, [64; 3]), Calibrates),
        row("product 256x256x256", "rane, M1 Pro", 0.161, product(Chip::M1, [256; 3]), Calls),
        row("product 1024x1024x256", "rane, M1 Pro", 0.332, product(Chip::M1, [1024, 1024, 256]), Calls),
        row("256 channels, one call", "maderix's probe, M5", 0.07, m5.call(&channels_256).engine_s(), Calls),
        row(
            "64 channels, compiled and loaded",
            "maderix's probe, M5",
            33.0,
            m5.compile_s(8192.0) + m5.load_s(),
            Compiles,
        ),
        row(
            "weights [16480, 5120], 512 positions",
            "qwen-ane, M5 Max",
            12.34,
            m5.call(&qwen).engine_s(),
            Calibrates,
        ),
        row("one layer of width 768, 512 positions, a step", "maderix/ANE, M4", 9.3, layer.total_s(), Host),
        row(
            "Stories110M dynamic, the engine's part (51.1 of 102 ms)",
            "lil-bro, M3 Max",
            51.1,
            stories(Chip::M3, false, 120).engine_s(),
            Calls,
        ),
        row(
            "Stories110M dynamic, copies (14 of 102 ms)",
            "lil-bro, M3 Max",
            14.0,
            stories(Chip::M3, false, 120).transfer_s,
            Calibrates,
        ),
        row(
            "Stories110M dynamic, a step (91 to 115)",
            "maderix/ANE, M4",
            102.3,
            stories(Chip::M4, false, 120).total_s(),
            Host,
        ),
        row(
            "Stories110M dynamic, a step",
            "maderix/ANE PR 50, M5 Max",
            73.5,
            stories(Chip::M5, false, 120).total_s(),
            Host,
        ),
        row(
            "Stories110M dynamic, ten programs compiled",
            "maderix/ANE, M4",
            400.0,
            10.0 * (Clock::new(Chip::M4).compile_s(0.0) + Clock::new(Chip::M4).load_s()),
            Compiles,
        ),
        row("Stories110M static, a step", "maderix/ANE, M4", 106.7, stories(Chip::M4, true, 72).total_s(), Host),
        row(
            "Stories110M static, a step (148 to 163)",
            "maderix/ANE issue 3, M1 Pro",
            155.3,
            stories(Chip::M1, true, 72).total_s(),
            Host,
        ),
        row(
            "Stories110M static, a step (101 to 120)",
            "maderix/ANE issue 3, M5",
            110.1,
            stories(Chip::M5, true, 72).total_s(),
            Host,
        ),
        row(
            "Stories110M static, 72 programs compiled",
            "maderix/ANE, M4",
            7600.0,
            stories_compiled_s(Chip::M4),
            Calibrates,
        ),
        row(
            "Stories110M static, 72 programs compiled",
            "Orion, M4 Max",
            4200.0,
            stories_compiled_s(Chip::M4),
            Compiles,
        ),
        row(
            "Stories110M static, 72 programs compiled",
            "HiQS-Labs, M4 Pro",
            3900.0,
            stories_compiled_s(Chip::M4),
            Compiles,
        ),
        row(
            "Stories110M static, 72 programs compiled",
            "HiQS-Labs, M1 Pro",
            11100.0,
            stories_compiled_s(Chip::M1),
            Calibrates,
        ),
        row(
            "Stories110M static, 72 programs compiled",
            "HiQS-Labs, M1 Max",
            9400.0,
            stories_compiled_s(Chip::M1),
            Compiles,
        ),
        row("GPT-2 124M, 580 dispatches of an update", "allbilly on Asahi, M1", 35.4, linux, Driver),
    ]
}

#[test]
fn estimates_are_as_far_from_published_times_as_the_documents_say() {
    let page = include_str!("../../../docs/clock.md");
    let mut lines = Vec::new();
    let mut wrong = Vec::new();
    for Published { what, who, published_s, estimated_s, why } in published() {
        let ratio = estimated_s / published_s;
        let [low, high] = why.bounds();
        let [published, estimated] = [published_s, estimated_s].map(|s| format!("{:.3} ms", s * 1e3));
        let line = format!("| {what} | {who} | {published} | {estimated} | {ratio:.2} | {} |", why.words());
        if !(low..=high).contains(&ratio) {
            wrong.push(format!("{ratio:.3} is not within {low:.2} to {high:.2}: {line}"));
        }
        lines.push(line);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let written: Vec<&str> =
        page.lines().filter(|line| line.starts_with("| ") && line.contains(" ms |")).collect();
    assert_eq!(written, lines, "docs/clock.md should have the rows:\n{}", lines.join("\n"));
}

#[test]
fn what_a_plan_expects_is_what_a_run_counts_and_what_its_report_says() {
    for (i, strategy) in [1, 2, 0].into_iter().enumerate() {
        // More updates than the budget of one process, and a last batch that is shorter.
        let mut config = small(20, STRATEGIES[strategy]);
        let n_programs = Trainer::new(&config, open(&config)).unwrap().plan().programs.len();
        config.weights.compile_budget = 3 * n_programs;
        let expected = &estimates(&config)[i];
        assert_eq!((expected.strategy, expected.overlap), STRATEGIES[strategy]);
        let report = run(&config).report;
        assert_eq!(report.stats.n_compiles, expected.counts.compiles);
        assert_eq!(report.stats.restarted_at.len() as u64, expected.counts.restarts);
        assert_eq!(&report.estimate, expected);
        assert_eq!(expected.counts.restarts > 0, expected.strategy == Strategy::Baked);
        let text = report.to_string();
        assert!(text.contains("Estimate, not measured: on an M4"), "{text}");
    }
}

#[test]
fn strategies_compare_as_the_field_has_found() {
    let of_chip = |chip: Chip| {
        let mut config = tiny(2000, STRATEGIES[0]);
        config.device.chip = chip.as_str().into();
        <[Estimate; 3]>::try_from(estimates(&config)).unwrap()
    };
    for chip in Chip::ALL {
        let [baked, overlap, operand] = of_chip(chip);
        assert_eq!(baked.chip, chip.as_str());
        // Four tiny programs take longer to compile than ten steps take to run.
        assert!(baked.run.compile_s > 5.0 * baked.run.steps_s, "{baked}");
        assert!(overlap.run.hidden_s > 0.0 && overlap.run_s < baked.run_s, "{overlap}");
        assert!(operand.run.compile_s < operand.run.steps_s && operand.run_s < overlap.run_s, "{operand}");
        for e in [&baked, &overlap, &operand] {
            assert_eq!((e.counts.steps, e.counts.updates), (2000, 200));
            assert!((e.run.steps_s - 2000.0 * e.step.total_s()).abs() < 1e-9);
        }
    }
    let [old, new] = [Chip::M1, Chip::M5].map(|chip| of_chip(chip)[2].run_s);
    assert!(new < old);
}

#[test]
fn a_strategy_whose_compiles_do_not_suffice_is_named_as_impossible() {
    let mut config = tiny(100, STRATEGIES[0]);
    config.weights.compile_budget = 4;
    let comparison = Trainer::new(&config, open(&config)).unwrap().estimates();
    assert_eq!(comparison.estimates.len(), 2, "{comparison}");
    let [(name, why)] = &comparison.impossible[..] else { panic!("{comparison}") };
    assert!(name == "baked, overlap" && why.contains("one update takes 8"), "{why}");
    assert!(comparison.to_string().contains(why));
}

#[test]
fn a_compile_that_fits_behind_a_batch_is_hidden_but_for_what_it_slows() {
    let mut config = tiny(2000, (Strategy::Baked, true));
    config.train.accumulate = 1000;
    let trainer = Trainer::new(&config, open(&config)).unwrap();
    let counts = Counts { steps: 2000, updates: 2, compiles: 8, processes: 1, restarts: 0 };
    let e = Estimate::new(Clock::new(Chip::M4), trainer.plan(), true, 1000, counts);
    let set_s = e.kernels.compile_s + e.kernels.load_s;
    assert!((e.run.hidden_s - set_s).abs() < 1e-12, "{e}");
    assert!(e.kernels.renewal_s > 0.0 && e.kernels.renewal_s < 0.2 * set_s);
    assert!((e.run_s - (e.run.steps_s + set_s + e.kernels.renewal_s)).abs() < 1e-9);
}
