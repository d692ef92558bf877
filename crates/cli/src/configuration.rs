//! What `anemone train` trains: a preset, a file or a run's own configuration, with the flags on top.

use crate::{args, run_dir};
use anemone::config::{Config, PRESETS, Strategy, nearest};
use anyhow::{Context, anyhow, bail};
use std::path::Path;

/// The preset that is trained where none is named.
pub(crate) const DEFAULT_PRESET: &str = "tiny";

/// The preset, file or, when a run is resumed, the run's own configuration, with the flags on top.
pub(crate) fn configuration(args: &args::Train, to_resume: Option<&Path>) -> anyhow::Result<Config> {
    let own = to_resume.map(|folder| folder.join(run_dir::CONFIG)).filter(|own| own.exists());
    // A process that replaces another goes on with what that one had, whatever has become of the file since.
    let what = args.what.as_ref().filter(|_| !args.restarted);
    let mut config = match (what, own) {
        (None, Some(own)) => read_config(&own)?,
        (None, None) => preset(DEFAULT_PRESET)?,
        (Some(what), _) if what.ends_with(".toml") => read_config(Path::new(what))?,
        (Some(what), _) => preset(what)?,
    };
    apply(args, &mut config)?;
    config.check()?;
    Ok(config)
}

/// Puts the flags on top.
fn apply(args: &args::Train, config: &mut Config) -> anyhow::Result<()> {
    fn set<T: Clone>(key: &mut T, flag: &Option<T>) {
        if let Some(value) = flag {
            *key = value.clone();
        }
    }
    let Config { train, eval, weights, plan, device, checkpoint, .. } = config;
    set(&mut train.steps, &args.steps);
    set(&mut train.lr, &args.lr);
    set(&mut train.accumulate, &args.accumulate);
    set(&mut train.clip, &args.clip);
    set(&mut train.seed, &args.seed);
    set(&mut train.init_weights, &args.init_weights.clone().map(Some));
    set(&mut eval.every, &args.eval_every);
    set(&mut weights.strategy, &args.weights);
    set(&mut weights.compile_budget, &args.compile_budget);
    set(&mut plan.recompute, &args.recompute.then_some(true));
    set(&mut plan.weight_gradients, &args.weight_gradients);
    set(&mut device.select, &args.device);
    set(&mut device.chip, &args.chip.map(|chip| chip.as_str().into()));
    set(&mut device.arithmetic, &args.arithmetic);
    set(&mut device.donor_patch, &args.donor_patch.then_some(true));
    set(&mut checkpoint.every, &args.checkpoint_every);
    if args.overlap && weights.strategy == Strategy::Operand {
        bail!(
            "`--overlap` is for baked weights, operand weights need no compiles to overlap: \
             leave it out, or add `--weights baked`"
        );
    }
    if args.overlap || args.no_overlap {
        weights.overlap = args.overlap;
    }
    if device.donor_patch && weights.strategy == Strategy::Operand {
        bail!(
            "the donor patch is for baked weights, operand weights need no compiles that it could replace: \
             leave `--donor-patch` out, or `donor_patch = true`, or add `--weights baked`"
        );
    }
    Ok(())
}

fn preset(name: &str) -> anyhow::Result<Config> {
    Config::preset(name).ok_or_else(|| {
        let hint = nearest(name, PRESETS.iter().copied());
        let hint = hint.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
        anyhow!("there is no preset `{name}`, expected {} or the path of a .toml file{hint}", PRESETS.join(", "))
    })
}

pub(crate) fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?;
    Config::from_toml(&text).with_context(|| format!("configuration `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::{CommandFactory, Parser};
    use std::collections::{BTreeMap, BTreeSet};

    /// Each flag, given as one may give it, and the key that it sets.
    const KEYS: &[(&str, &str)] = &[
        ("--steps=7", "train.steps"),
        ("--lr=0.5", "train.lr"),
        ("--accumulate=3", "train.accumulate"),
        ("--clip=2", "train.clip"),
        ("--seed=9", "train.seed"),
        ("--eval-every=3", "eval.every"),
        ("--device=soft", "device.select"),
        ("--chip=m1", "device.chip"),
        ("--arithmetic=engine", "device.arithmetic"),
        ("--weights=operand", "weights.strategy"),
        ("--donor-patch", "device.donor_patch"),
        ("--overlap", "weights.overlap"),
        ("--no-overlap", "weights.overlap"),
        ("--compile-budget=50", "weights.compile_budget"),
        ("--init-weights=a.safetensors", "train.init_weights"),
        ("--checkpoint-every=5", "checkpoint.every"),
        ("--recompute", "plan.recompute"),
        ("--weight-gradients=device", "plan.weight_gradients"),
    ];

    /// The flags that are no part of a configuration, and why.
    const NO_KEYS: &[(&str, &str)] = &[
        ("plan", "does something else than training"),
        ("print-config", "does something else than training"),
        ("run-dir", "says where the configuration is kept"),
        ("resume", "says where the configuration comes from"),
        ("restarted", "says what this process is"),
        ("json", "says how this call talks"),
        ("quiet", "says how this call talks"),
        ("tui", "says how this call talks"),
        ("tensorboard", "says where this call writes besides"),
        (
            "inject",
            "holds for this call alone, so that a run that failed on purpose can be resumed; `device.inject` stays",
        ),
        (
            "threads",
            "the machine's: results are the same with any number, and configurations are moved between machines",
        ),
        ("instructions", "the machine's, as threads are"),
        ("help", "clap's"),
    ];

    fn name(flag: &str) -> &str {
        flag.trim_start_matches('-').split('=').next().unwrap()
    }

    #[test]
    fn every_flag_has_a_key_or_a_reason_why_not() {
        let mut args = Args::command();
        args.build();
        let train = args.find_subcommand("train").unwrap();
        let mut flags = BTreeSet::new();
        for flag in train.get_arguments().filter(|arg| arg.get_long().is_some()) {
            let long = flag.get_long().unwrap();
            let key = KEYS.iter().find(|(given, _)| name(given) == long).map(|(_, key)| *key);
            let is_left_out = NO_KEYS.iter().any(|(name, _)| *name == long);
            assert!(key.is_some() != is_left_out, "`--{long}`: expected a row in KEYS or in NO_KEYS");
            let help = flag.get_help().map(|help| help.to_string()).unwrap_or_default();
            let named = help.split("[config: ").nth(1).and_then(|rest| rest.split(']').next());
            assert_eq!(named, key, "what the help of `--{long}` says: {help}");
            flags.insert(long);
        }
        let rows = KEYS.iter().map(|(given, _)| name(given)).chain(NO_KEYS.iter().map(|(name, _)| *name));
        assert_eq!(flags, rows.collect(), "rows of flags that there are not");
    }

    /// What a configuration says, by key.
    fn said(config: &Config) -> BTreeMap<String, String> {
        let table: toml::Table = config.to_toml().parse().unwrap();
        let mut said = BTreeMap::new();
        for (section, keys) in &table {
            let keys = keys.as_table().unwrap().iter();
            said.extend(keys.map(|(key, value)| (format!("{section}.{key}"), value.to_string())));
        }
        said
    }

    #[test]
    fn a_flag_sets_its_key_and_no_other() {
        for (given, key) in KEYS {
            let Command::Train(args) = Args::try_parse_from(["anemone", "train", given]).unwrap().command else {
                panic!("expected `train`");
            };
            let mut changed = BTreeSet::new();
            // A flag that says what is said already changes nothing.
            for overlap in [false, true] {
                let mut config = Config::preset("tiny").unwrap();
                config.weights.overlap = overlap;
                let before = said(&config);
                apply(&args, &mut config).unwrap();
                let after = said(&config);
                changed.extend(after.into_iter().filter(|(key, value)| before.get(key) != Some(value)));
            }
            let keys: Vec<&str> = changed.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(keys, [*key], "{given}");
        }
    }
}
