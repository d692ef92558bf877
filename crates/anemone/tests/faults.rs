//! Device calls that fail on purpose: a run then ends in the weights of one without faults, with its recoveries
//! counted, or in an error that says what failed; it never hangs, panics, or goes on with wrong numbers.

mod support;

use anemone::checkpoint::Checkpoint;
use anemone::config::{Config, Strategy};
use anemone::train::Event;
use anemone::{Error, Trainer};
use std::sync::mpsc;
use std::time::Duration;
use support::{Run, STRATEGIES, open, run, run_from, small, try_run};

const OPERAND: (Strategy, bool) = (Strategy::Operand, false);
const BAKED: (Strategy, bool) = (Strategy::Baked, false);
const OVERLAP: (Strategy, bool) = (Strategy::Baked, true);

/// 20 updates of 3 steps; 3 programs.
const STEPS: u64 = 60;

fn with_faults(strategy: (Strategy, bool), faults: &str) -> Config {
    let mut config = small(STEPS, strategy);
    config.device.inject = faults.into();
    config
}

/// What `work` gives, unless it panics or takes so long that it must hang.
fn watched<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(120)).unwrap_or_else(|e| panic!("{what}: it hangs or panicked ({e})"))
}

/// What the same run gives without faults. With overlap, it starts anew with fresh kernels wherever the faulty one
/// did: after a restart, or after a background compile that failed.
fn undisturbed(faulty: &Run, strategy: (Strategy, bool)) -> Run {
    let fresh: Vec<u64> = match strategy {
        OVERLAP => faulty.steps.iter().filter(|s| s.staleness == 0).step_by(3).map(|s| s.step).collect(),
        _ => Vec::new(),
    };
    run_from(&small(STEPS, strategy), None, |t| fresh.contains(&t.n_steps())).unwrap()
}

fn n_recoveries(run: &Run) -> u64 {
    let s = &run.report.stats;
    s.n_retries + s.n_background_failures + s.restarted_at.len() as u64
}

fn check_recovery(faulty: &Run, strategy: (Strategy, bool), what: &str) {
    let expected = undisturbed(faulty, strategy);
    assert_eq!(faulty.loss_bits(), expected.loss_bits(), "{what}");
    assert_eq!(faulty.weights, expected.weights, "{what}");
    assert!(n_recoveries(faulty) > 0, "{what}: {:?}", faulty.report.stats);
    let n_reported: u64 = faulty.steps.iter().map(|s| s.retries).sum();
    assert_eq!(n_reported, faulty.report.stats.n_retries, "{what}");
    assert!(faulty.report.to_string().contains("Recovered") || faulty.report.to_string().contains("Restarts"));
}

fn check_error(e: &Error, what: &str) {
    let message = e.to_string();
    let named = ["compile `", "evaluate `"].iter().any(|w| message.contains(w));
    assert!(e.is_device() && named, "{what}: {e:?}");
    assert!(message.contains("failed 3 times") && message.contains("injected fault"), "{what}: {e}");
}

#[test]
fn a_call_that_fails_once_is_repeated_and_counted() {
    for strategy in STRATEGIES {
        for faults in ["compile@1", "compile@3", "load@1", "load@3", "evaluate@1", "evaluate@3", "evaluate@50"] {
            let what = format!("{strategy:?} {faults}");
            let found = watched(&what, move || run(&with_faults(strategy, faults)));
            check_recovery(&found, strategy, &what);
            let s = &found.report.stats;
            assert_eq!((s.n_retries, s.n_background_failures, s.restarted_at.len()), (1, 0, 0), "{what}");
        }
    }
    // With overlap, compiles 4 to 6 are those in the background.
    let found = run(&with_faults(OVERLAP, "compile@5,load@6"));
    assert_eq!((found.report.stats.n_retries, found.report.stats.n_background_failures), (2, 0));
    assert_eq!(found.weights, run(&small(STEPS, OVERLAP)).weights);
}

#[test]
fn a_background_compile_that_fails_for_good_is_made_up_for_and_counted() {
    let found = watched("background", || run(&with_faults(OVERLAP, "compile@5,compile@6,compile@7")));
    check_recovery(&found, OVERLAP, "background");
    let s = &found.report.stats;
    assert_eq!((s.n_retries, s.n_background_failures, s.restarted_at.len()), (2, 1, 0));
    let errors: Vec<&String> =
        found.steps.iter().flat_map(|s| &s.compiled).filter_map(|c| c.error.as_ref()).collect();
    assert!(matches!(errors[..], [e] if e.contains("compile `") && e.contains("injected fault")), "{errors:?}");
    // The batches of steps 0 and 3 use the first kernels; those for step 6 come from the foreground, up to date.
    assert_eq!(found.steps[6].staleness, 0);
    assert_ne!(found.weights, run(&small(STEPS, OVERLAP)).weights);
}

#[test]
fn compiles_that_fail_from_some_time_on_in_each_process_restart_it() {
    for (strategy, faults) in
        [(BAKED, "compile@7+"), (BAKED, "load@8+"), (OVERLAP, "compile@7+"), (OVERLAP, "load@4+")]
    {
        let what = format!("{strategy:?} {faults}");
        let found = watched(&what, move || run(&with_faults(strategy, faults)));
        check_recovery(&found, strategy, &what);
        assert!(found.report.stats.restarted_at.len() >= 4, "{what}: {:?}", found.report.stats);
        assert!(found.report.stats.restarted_at.is_sorted_by(|a, b| a < b), "each process made progress");
        assert_eq!(found.report.stats.resumed_at, found.report.stats.restarted_at);
    }
    // Where nothing is compiled later, nothing fails.
    assert_eq!(n_recoveries(&run(&with_faults(OPERAND, "compile@7+"))), 0);
}

#[test]
fn what_fails_from_the_beginning_is_an_error() {
    for strategy in STRATEGIES {
        for faults in
            ["compile@1+", "compile@2+", "load@1+", "load@3+", "evaluate@1+", "evaluate@40+", "evaluate%1"]
        {
            let what = format!("{strategy:?} {faults}");
            let result = watched(&what, move || try_run(&with_faults(strategy, faults)).map(|_| ()));
            check_error(&result.expect_err(&what), &what);
        }
    }
}

#[test]
fn random_faults_end_in_the_right_weights_or_a_clear_error() {
    let (mut n_recovered, mut n_failed) = (0, 0);
    for strategy in STRATEGIES {
        for call in ["compile", "load", "evaluate"] {
            for (p, seed) in [(0.05, 1), (0.05, 2), (0.3, 3), (0.3, 4), (0.6, 5)] {
                let faults = format!("{call}%{p},seed={seed}");
                let what = format!("{strategy:?} {faults}");
                match watched(&what, move || try_run(&with_faults(strategy, &faults))) {
                    Ok(found) if n_recoveries(&found) == 0 => {
                        assert!(strategy == OPERAND && call != "evaluate", "{what}: no fault came");
                        assert_eq!(found.weights, run(&small(STEPS, strategy)).weights, "{what}");
                    }
                    Ok(found) => {
                        check_recovery(&found, strategy, &what);
                        n_recovered += 1;
                    }
                    Err(e) => {
                        check_error(&e, &what);
                        n_failed += 1;
                    }
                }
            }
        }
    }
    assert!(n_recovered > 15 && n_failed > 5, "both happen: {n_recovered} recoveries, {n_failed} errors");
}

/// Trains until an error, and gives the last state that could be saved.
fn fail(config: &Config) -> (Error, Option<Checkpoint>) {
    let mut trainer = Trainer::new(config, open(config)).unwrap();
    let mut saved = None;
    loop {
        if trainer.at_boundary() {
            saved = Some(trainer.checkpoint().unwrap());
        }
        match trainer.step() {
            Ok(Event::Step(_)) => {}
            Ok(other) => panic!("expected an error, not {other:?}"),
            Err(e) => {
                assert!(trainer.at_boundary(), "what there is can be saved");
                assert!(trainer.checkpoint().is_ok());
                return (e, saved);
            }
        }
    }
}

#[test]
fn what_was_saved_before_an_error_goes_on_as_if_there_had_been_none() {
    for strategy in [OPERAND, BAKED] {
        let expected = run(&small(STEPS, strategy));
        // Three kernels a step: within a batch, at its begin, at its end.
        for n in [1, 40, 46, 54, 100] {
            let (e, saved) = fail(&with_faults(strategy, &format!("evaluate@{n}+")));
            check_error(&e, "evaluate");
            let rest = run_from(&small(STEPS, strategy), saved, |_| false).unwrap();
            assert_eq!(rest.weights, expected.weights, "{strategy:?}, evaluation {n}");
            assert_eq!(rest.loss_bits(), expected.loss_bits()[rest.steps[0].step as usize..]);
            assert_eq!(rest.report.stats.n_retries, 0, "the failures came after what was saved");
        }
    }
    // With overlap, kernels may be under way.
    for n in [46, 48, 54, 57] {
        check_error(&fail(&with_faults(OVERLAP, &format!("evaluate@{n}+"))).0, "evaluate");
    }
}

#[test]
fn a_failure_that_stays_restarts_once_and_is_an_error_in_the_new_process() {
    for strategy in [BAKED, OVERLAP] {
        let config = with_faults(strategy, "compile@4+");
        let mut trainer = Trainer::new(&config, open(&config)).unwrap();
        let why = loop {
            match trainer.step().unwrap() {
                Event::Step(_) => {}
                Event::Restart(why) => break why,
                Event::Finished => panic!("the run cannot have ended"),
            }
        };
        assert!(why.contains("compile `fc1`: failed 3 times: injected fault"), "{why}");
        assert!(trainer.at_boundary() && trainer.n_steps() > 0);
        assert!(matches!(trainer.step(), Ok(Event::Restart(_))), "it stays so, and counts once");
        let checkpoint = trainer.checkpoint().unwrap();

        let config = with_faults(strategy, "compile@1+");
        let mut trainer = Trainer::new(&config, open(&config)).unwrap();
        trainer.resume(checkpoint.clone()).unwrap();
        check_error(&trainer.step().expect_err("no step can be made"), "new process");
        // The failures of both processes are counted: with overlap, the first failed in the background too.
        let (n_first, n_background) = if strategy == OVERLAP { (6, 1) } else { (4, 0) };
        let stats = trainer.report().unwrap().stats;
        assert_eq!((stats.n_retries, stats.n_background_failures), (n_first + 2, n_background), "{strategy:?}");
        assert_eq!(stats.restarted_at.len(), 1);
    }
}

#[test]
fn slow_compiles_change_nothing_but_the_times() {
    let found = watched("delay", || run(&with_faults(OVERLAP, "delay=3")));
    let plain = run(&small(STEPS, OVERLAP));
    assert_eq!(found.weights, plain.weights);
    let s = &found.report.stats;
    assert!(s.compile_busy_s >= 0.003 * s.n_compiles as f64, "{s:?}");
    assert!(s.compile_wait_s >= 0.009, "nothing hides the first compile: {s:?}");
    assert!(found.report.overhead_s() >= 0.0 && s.compile_hidden_s <= s.compile_busy_s);
    assert!(s.compile_wait_s + s.device_s + s.host_s <= s.wall_s, "{s:?}");
}

#[test]
fn a_budget_too_small_for_an_update_is_refused_and_the_smallest_that_will_do_does() {
    for (strategy, needed) in [(OPERAND, 3), (BAKED, 3), (OVERLAP, 6)] {
        let mut config = small(STEPS, strategy);
        for budget in 1..needed {
            config.weights.compile_budget = budget;
            let e = Trainer::new(&config, open(&config)).err().expect("too small");
            assert!(e.is_config() && e.to_string().contains("`weights.compile_budget`"), "{strategy:?}: {e:?}");
        }
        config.weights.compile_budget = needed;
        let found = watched("budget", move || run(&config));
        let restarts = match strategy {
            OPERAND => vec![],
            BAKED => (3..STEPS).step_by(3).collect(),
            // The first set serves for two batches; the one compiled meanwhile would need a third meanwhile.
            _ => (6..STEPS).step_by(6).collect::<Vec<_>>(),
        };
        assert_eq!(found.report.stats.restarted_at, restarts, "{strategy:?}");
        let expected = run_from(&small(STEPS, strategy), None, |t| restarts.contains(&t.n_steps())).unwrap();
        assert_eq!(found.weights, expected.weights, "{strategy:?}");
    }
}

#[test]
fn failures_use_up_compiles_but_never_more_than_there_are() {
    // A process of the engine has 119 compiles, and those that fail count.
    let mut config = with_faults(BAKED, "compile%0.25,seed=11");
    config.train.steps = 300;
    let faulty = watched("budget", move || run(&config));
    let plain = run(&small(300, BAKED));
    assert_eq!(faulty.weights, plain.weights);
    let s = &faulty.report.stats;
    assert_eq!(s.n_compiles, 300 + s.n_retries);
    // 39 updates take 117 compiles.
    assert_eq!(plain.report.stats.restarted_at, [117, 234]);
    assert!(s.restarted_at[0] < 117, "the budget is spent sooner: {s:?}");
}

#[test]
fn a_budget_is_kept_by_compiles_that_are_tried_again() {
    let mut n_restarts = 0;
    for seed in 0..8 {
        let mut config = with_faults(BAKED, &format!("compile%0.25,seed={seed}"));
        config.weights.compile_budget = 11;
        let mut checkpoint: Option<Checkpoint> = None;
        for _ in 0..STEPS {
            let device = open(&config);
            let mut trainer = Trainer::new(&config, device.clone()).unwrap();
            if let Some(checkpoint) = &checkpoint {
                trainer.resume(checkpoint.clone()).unwrap();
            }
            // One that spends all of its budget on a single update has no other end.
            while let Ok(Event::Step(_)) = trainer.step() {}
            assert!(device.usage().n_compiles <= 11, "seed {seed}: {}", device.usage().n_compiles);
            if trainer.n_steps() == STEPS {
                break;
            }
            n_restarts += 1;
            checkpoint = Some(trainer.checkpoint().unwrap());
        }
    }
    assert!(n_restarts > 8, "{n_restarts}");
}
