//! Which engine a run gets: what was asked for, and for `auto` what `anemone doctor` has found out on this
//! machine.

use anemone::config::DeviceConfig;
use anemone::device::self_test::Verdict;
use anemone::device::{Options, Select, apple};
use anemone_mil::Chip;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

/// What a verdict is valid for, and of: with another chip, system or anemone it is void.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The name of the chip, such as `Apple M4 Pro`.
    pub(crate) chip: String,
    /// The build of the system, such as `24G84`.
    pub(crate) os_build: String,
    /// The version of the system, such as `15.6`.
    pub(crate) os_version: String,
    /// The version of anemone.
    pub(crate) anemone: String,
}

/// A verdict with the machine that it is about.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cached {
    pub(crate) machine: Machine,
    pub(crate) verdict: Verdict,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Machine {
        let unknown = || "unknown".to_string();
        let sysctl = |key: &str| ask("/usr/sbin/sysctl", &["-n", key]);
        let (chip, os_build, os_version) = match cfg!(target_os = "macos") {
            true => {
                (sysctl("machdep.cpu.brand_string"), sysctl("kern.osversion"), sysctl("kern.osproductversion"))
            }
            false => (None, None, None),
        };
        Machine {
            chip: chip.unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH)),
            os_build: os_build.unwrap_or_else(unknown),
            os_version: os_version.unwrap_or_else(|| std::env::consts::OS.into()),
            anemone: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The generation whose rules hold: the number in `Apple M4 Pro`, or the newest known for a newer one.
    pub(crate) fn generation(&self) -> Option<Chip> {
        let name = self.chip.strip_prefix("Apple ")?.split(' ').next()?.to_lowercase();
        let newest = Chip::ALL[Chip::ALL.len() - 1];
        let number: u32 = name.strip_prefix('m')?.parse().ok()?;
        Some(Chip::from_name(&name).unwrap_or(if number == 0 { return None } else { newest }))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match cfg!(target_os = "macos") {
            true => write!(f, "{}, macOS {} (build {})", self.chip, self.os_version, self.os_build),
            false => write!(f, "{}, {}", self.chip, self.os_version),
        }
    }
}

fn ask(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// Where verdicts are kept: the user's folder for caches.
pub(crate) fn cache_file() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(PathBuf::from);
    let folder = match cfg!(target_os = "macos") {
        true => home()?.join("Library/Caches"),
        false => std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cache")))?,
    };
    Some(folder.join("anemone").join("doctor.json"))
}

/// The verdict about this machine, or why there is none to go by.
fn cached_verdict(machine: &Machine) -> Result<Verdict, String> {
    let path = cache_file().ok_or("there is no folder for caches")?;
    let text = std::fs::read_to_string(&path).map_err(|_| "`anemone doctor` has not been run here yet")?;
    let cached: Cached = serde_json::from_str(&text)
        .map_err(|_| "the verdict of another version of anemone is void, run `anemone doctor`")?;
    if cached.machine != *machine {
        return Err("chip, system or anemone have changed since `anemone doctor` was run; run it again".into());
    }
    match cached.verdict.is_usable() {
        true => Ok(cached.verdict),
        false => Err("`anemone doctor` found that the Neural Engine does not train here".into()),
    }
}

/// How the Neural Engine of this machine is driven where nothing is known of it yet.
pub(crate) fn apple_options(chip: Chip) -> apple::Options {
    let chip = Machine::this().generation().unwrap_or(chip);
    with_stand_ins(apple::Options { chip, ..apple::Options::default() })
}

/// Options to open the configured device with, and for `auto` why it is that one.
pub(crate) fn options(config: &DeviceConfig) -> anyhow::Result<(Options, Option<String>)> {
    let mut options = config.options()?;
    options.apple = apple::Options { donor_patch: config.donor_patch, ..apple_options(options.chip) };
    let machine = Machine::this();
    let verdict = cached_verdict(&machine);
    if options.select != Select::Soft
        && let Ok(verdict) = &verdict
    {
        verdict.apply(&mut options.apple);
    }
    if options.select != Select::Auto {
        return Ok((options, None));
    }
    let why = match verdict {
        Ok(_) => {
            options.select = Select::Ane;
            format!("auto: the Neural Engine, as `anemone doctor` found that it trains on this {}", machine.chip)
        }
        Err(why) => {
            options.select = Select::Soft;
            match cfg!(target_os = "macos") {
                true => format!("auto: the software engine, as {why}"),
                false => "auto: the software engine, as the Neural Engine is in Apple's machines".into(),
            }
        }
    };
    Ok((options, Some(why)))
}

/// Keeps a verdict.
pub(crate) fn keep(cached: &Cached) -> anyhow::Result<PathBuf> {
    let path = cache_file().context("there is no folder for caches: set HOME")?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
    }
    anemone::file::write_atomically(&path, serde_json::to_string_pretty(cached)?.as_bytes())?;
    Ok(path)
}

/// With the feature `gnustep`, `ANEMONE_STAND_INS` names a library with stand-ins for Apple's classes, and
/// `ANEMONE_STAND_INS_PLAIN` asks for the plain form of programs.
#[cfg(feature = "gnustep")]
fn with_stand_ins(options: apple::Options) -> apple::Options {
    let Some(library) = std::env::var_os("ANEMONE_STAND_INS") else { return options };
    let form = match std::env::var_os("ANEMONE_STAND_INS_PLAIN") {
        Some(_) => apple::Options::plain(),
        None => apple::Options::default(),
    };
    apple::Options { chip: options.chip, stand_ins: Some(vec![PathBuf::from(library)]), ..form }
}

#[cfg(not(feature = "gnustep"))]
fn with_stand_ins(options: apple::Options) -> apple::Options {
    options
}

/// The most memory this process has had at once, in bytes, where the system tells.
#[cfg(unix)]
pub(crate) fn peak_bytes() -> Option<usize> {
    use nix::sys::resource::{UsageWho, getrusage};
    // getrusage(2): kilobytes, but on Apple's systems bytes.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    usize::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?.checked_mul(unit)
}

/// The most memory this process has had at once, in bytes, where the system tells.
#[cfg(not(unix))]
pub(crate) fn peak_bytes() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_is_read_from_the_name_of_the_chip() {
        let of = |chip: &str| Machine { chip: chip.into(), ..Machine::this() }.generation();
        assert_eq!(of("Apple M1"), Some(Chip::M1));
        assert_eq!(of("Apple M4 Pro"), Some(Chip::M4));
        assert_eq!(of("Apple M9 Ultra"), Some(Chip::M5), "the newest known");
        assert_eq!(of("Intel(R) Core(TM) i7"), None);
        assert_eq!(of("Apple processor"), None);
    }
}
