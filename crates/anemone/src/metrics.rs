//! The metrics log: one JSON object a line, one line a step, in step with the checkpoint.
//!
//! The trainer's lines are [`StepReport`](crate::train::StepReport)s: `step`, `time_us`, `loss`, `lr`, times,
//! counters; on the last step of an update `gradient_norm`; where kernels were compiled `compiled`; where the
//! validation data was looked at `validation`, an object with `loss`, `accuracy` for classes, `n_targets`,
//! `n_batches` and `best`. `docs/metrics.md` has all of it. [`Run`](crate::run::Run) reads it.

use crate::{Error, Result, file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// When this many bytes wait, they are written without being asked for.
const N_BUFFER_BYTES: usize = 1 << 16;

/// When the last writing was so long ago, the next line is written at once, so that whoever watches sees it.
const FRESH: Duration = Duration::from_millis(100);

/// A log of metrics open for appending. Lines wait in memory until [`MetricsLog::flush`], until they are many,
/// until one comes a tenth of a second after the last writing, or until the log is dropped, which cannot report an
/// error.
///
/// Every line is a JSON object with an unsigned integer `step`, higher than the one before. JSON has no infinities
/// and no NaN: such a number becomes `null`.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines that are in the file.
    n_written: u64,
    /// Whole lines that are not in the file yet.
    waiting: Vec<u8>,
    written_at: Instant,
    last_step: Option<u64>,
}

/// A log that goes on after what an earlier process wrote.
#[derive(Debug)]
pub struct ResumedLog {
    /// The log.
    pub log: MetricsLog,
    /// Lines that were kept.
    pub n_kept: usize,
    /// Lines that were dropped: of steps that will come again, repeated, or torn.
    pub n_dropped: usize,
    /// The steps, counted from 0, below the first one to come of which the log has no line.
    pub missing: Vec<Range<u64>>,
}

/// What must be in every line.
#[derive(Deserialize)]
struct Line {
    step: u64,
}

/// The step of a line of the log, if it is one.
fn step_of(line: &[u8]) -> Option<u64> {
    // Serde would also take an array for a struct.
    line.starts_with(b"{").then(|| serde_json::from_slice::<Line>(line).ok())?.map(|line| line.step)
}

/// The step of an object that begins with it, as those of the trainer do: without reading all of it.
fn leading_step(object: &[u8]) -> Option<u64> {
    let rest = object.strip_prefix(b"{\"step\":")?;
    let n_digits = rest.iter().position(|b| !b.is_ascii_digit())?;
    let step = std::str::from_utf8(&rest[..n_digits]).ok()?.parse().ok()?;
    matches!(rest[n_digits], b',' | b'}').then_some(step)
}

impl MetricsLog {
    /// Begins an empty log at `path`, in place of any file that is there.
    ///
    /// # Errors
    ///
    /// If the file cannot be made.
    pub fn create(path: &Path) -> Result<MetricsLog> {
        File::create(path).map_err(|e| Error::io("create the metrics log", path, e))?;
        file::sync_folder(path)?;
        MetricsLog::append_to(path, None)
    }

    /// Goes on with the log at `path` for a run whose next step is `first_step`: keeps the lines of lower steps
    /// (the last one if a step comes twice) in the order of steps, and drops the others and what a dying process
    /// tore. The file is replaced in one step if that changes it. If there is none, one is made.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or replaced, if it is no metrics log, or if there is something other than a
    /// metrics line before a line that would be kept. The file then is as it was.
    pub fn resume(path: &Path, first_step: u64) -> Result<ResumedLog> {
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|e| Error::io("read the metrics log", path, e))?,
        };
        let refuse = |why: String| Error::config(format!("metrics log `{}`: {why}", path.display()));
        let mut kept = BTreeMap::new();
        let mut n_lines = 0;
        let mut any_step = false;
        let mut first_bad = None;
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
            let line = line.trim_ascii();
            n_lines += usize::from(!line.is_empty());
            let Some(step) = step_of(line) else {
                first_bad = first_bad.or((!line.is_empty()).then_some(i + 1));
                continue;
            };
            any_step = true;
            if step >= first_step {
                continue;
            }
            // Lines are on the disk before the checkpoint that covers them, so only what comes later can be torn.
            if let Some(bad) = first_bad {
                return Err(refuse(format!("line {bad} is no JSON object with a `step`: mend or remove it")));
            }
            kept.insert(step, line);
        }
        if !any_step && first_bad.is_some() && bytes.contains(&b'\n') {
            return Err(refuse("no line is a JSON object with a `step`: give the path of a metrics log".into()));
        }

        let text: Vec<u8> = kept.values().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        if text != bytes || bytes.is_empty() {
            file::write_atomically(path, &text)?;
        }
        let mut missing = Vec::new();
        let mut next = 0;
        for step in kept.keys().copied().chain([first_step]) {
            if next < step {
                missing.push(next..step);
            }
            next = step.saturating_add(1);
        }
        let log = MetricsLog::append_to(path, kept.keys().last().copied())?;
        Ok(ResumedLog { log, n_kept: kept.len(), n_dropped: n_lines - kept.len(), missing })
    }

    fn append_to(path: &Path, last_step: Option<u64>) -> Result<MetricsLog> {
        let failed = |e| Error::io("open the metrics log", path, e);
        let file = File::options().append(true).open(path).map_err(failed)?;
        let n_written = file.metadata().map_err(failed)?.len();
        let written_at = Instant::now();
        Ok(MetricsLog { path: path.to_path_buf(), file, n_written, waiting: Vec::new(), written_at, last_step })
    }

    /// Adds a line.
    ///
    /// # Errors
    ///
    /// If `line` does not become a JSON object with an unsigned integer `step` above the last one; or as
    /// [`MetricsLog::flush`], but then the line is not lost.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let refuse = |why: String| Error::config(format!("metrics log `{}`: {why}", self.path.display()));
        let json = serde_json::to_vec(line).map_err(|e| refuse(format!("a line does not become JSON: {e}")))?;
        let Some(step) = leading_step(&json).or_else(|| step_of(&json)) else {
            let json = String::from_utf8_lossy(&json);
            return Err(refuse(format!("a line must be an object with an unsigned integer `step`, not {json}")));
        };
        if let Some(last) = self.last_step.filter(|&last| step <= last) {
            return Err(refuse(format!(
                "a line of step {step} after one of step {last}: write one line a step, in their order"
            )));
        }
        self.last_step = Some(step);
        self.waiting.extend(json);
        self.waiting.push(b'\n');
        let is_due = self.waiting.len() >= N_BUFFER_BYTES || self.written_at.elapsed() >= FRESH;
        if is_due { self.flush() } else { Ok(()) }
    }

    /// Hands the waiting lines to the operating system: other processes see them.
    ///
    /// # Errors
    ///
    /// If writing fails. No line is lost: the file keeps whole lines, and the next flush tries again with the
    /// rest.
    pub fn flush(&mut self) -> Result<()> {
        self.written_at = Instant::now();
        if let Err(e) = self.file.write_all(&self.waiting) {
            // Part of a line may be in the file. Should it not go away either, the first error is the one to
            // report.
            let _ = self.file.set_len(self.n_written);
            return Err(Error::io("write the metrics log", &self.path, e));
        }
        self.n_written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Brings all lines to the disk. To be called before a checkpoint is saved, so that the log covers it.
    ///
    /// # Errors
    ///
    /// If writing fails.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(|e| Error::io("sync the metrics log", &self.path, e))
    }
}

impl Drop for MetricsLog {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log_of(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    const FOUR: &str = "{\"loss\":0.5,\"step\":0}\n{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";

    #[test]
    fn lines_wait_until_flushed_and_go_on_after_resume() {
        let (_folder, path) = log_of("an older log\n");
        let mut log = MetricsLog::create(&path).unwrap();
        // However slow this machine is.
        log.written_at += Duration::from_secs(3600);
        for step in 0..3 {
            log.append(&json!({ "step": step, "loss": 0.5 })).unwrap();
        }
        assert_eq!(text(&path), "");
        log.sync().unwrap();
        assert_eq!(text(&path).lines().count(), 3);
        log.append(&json!({ "step": 3 })).unwrap();
        drop(log);
        assert_eq!(text(&path).lines().count(), 4);

        let mut resumed = MetricsLog::resume(&path, 2).unwrap();
        assert_eq!((resumed.n_kept, resumed.n_dropped, &resumed.missing[..]), (2, 2, &[][..]));
        resumed.log.append(&json!({ "step": 2, "again": true })).unwrap();
        resumed.log.flush().unwrap();
        assert_eq!(
            text(&path),
            "{\"loss\":0.5,\"step\":0}\n{\"loss\":0.5,\"step\":1}\n{\"again\":true,\"step\":2}\n"
        );
    }

    #[test]
    fn a_line_after_a_pause_is_written_unasked() {
        let (_folder, path) = log_of("");
        let mut log = MetricsLog::create(&path).unwrap();
        std::thread::sleep(FRESH);
        log.append(&json!({ "step": 0 })).unwrap();
        assert_eq!(text(&path), "{\"step\":0}\n");
    }

    #[test]
    fn many_lines_are_written_unasked() {
        let (_folder, path) = log_of("");
        let mut log = MetricsLog::create(&path).unwrap();
        log.written_at += Duration::from_secs(3600);
        for step in 0..2000 {
            log.append(&json!({ "step": step, "text": "0123456789012345678901234567890123456789" })).unwrap();
        }
        assert!(text(&path).len() >= N_BUFFER_BYTES);
    }

    #[test]
    fn a_log_torn_anywhere_keeps_its_whole_lines() {
        for n in 0..=FOUR.len() {
            let (_folder, path) = log_of(&FOUR[..n]);
            let resumed = MetricsLog::resume(&path, 4).unwrap();
            // An object is whole at its brace, with or without the end of the line.
            let whole = FOUR[..n].matches('}').count();
            assert_eq!(resumed.n_kept, whole, "{n}");
            assert_eq!(text(&path), FOUR.lines().take(whole).map(|l| format!("{l}\n")).collect::<String>());
            let n_missing: u64 = resumed.missing.iter().map(|steps| steps.end - steps.start).sum();
            assert_eq!(n_missing, 4 - whole as u64);
        }
    }

    #[test]
    fn an_untouched_log_is_not_rewritten_and_a_missing_one_is_all_gap() {
        let (folder, path) = log_of(FOUR);
        let long_ago = std::time::UNIX_EPOCH;
        File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(MetricsLog::resume(&path, 4).unwrap().n_dropped, 0);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
        assert_eq!(text(&path), FOUR);

        let none = folder.path().join("none.jsonl");
        let resumed = MetricsLog::resume(&none, u64::MAX).unwrap();
        assert_eq!((resumed.n_kept, resumed.missing.first()), (0, Some(&(0..u64::MAX))));
        assert_eq!(text(&none), "");
    }

    #[test]
    fn repeated_steps_keep_the_last_line_and_gaps_are_told() {
        let (_folder, path) = log_of(
            "{\"step\":5}\n{\"step\":2,\"v\":1}\n\n{\"step\":2,\"v\":2}\n{\"step\":9}\n{\"step\":11}\n\0\0\n{\"st\n",
        );
        let resumed = MetricsLog::resume(&path, 11).unwrap();
        assert_eq!(resumed.missing, [0..2, 3..5, 6..9, 10..11]);
        assert_eq!((resumed.n_kept, resumed.n_dropped), (3, 4));
        assert_eq!(text(&path), "{\"step\":2,\"v\":2}\n{\"step\":5}\n{\"step\":9}\n");
    }

    #[test]
    fn a_file_that_is_no_log_and_damage_among_kept_lines_are_refused_and_left_alone() {
        for (contents, message) in [
            ("dear diary\ntoday\n", "no line is a JSON object with a `step`"),
            ("[3]\n[4]\n", "no line is a JSON object with a `step`"),
            ("{\"step\":0}\n{\"step\":1.5}\n{\"step\":2}\n", "line 2 is no JSON object with a `step`"),
        ] {
            let (_folder, path) = log_of(contents);
            let e = MetricsLog::resume(&path, 3).unwrap_err().to_string();
            assert!(e.contains(message) && e.contains("metrics.jsonl"), "{e}");
            assert_eq!(text(&path), contents);
        }
    }

    #[test]
    fn a_line_needs_a_step_above_the_last() {
        let (_folder, path) = log_of(FOUR);
        let mut log = MetricsLog::resume(&path, 4).unwrap().log;
        for line in [json!({ "loss": 1 }), json!({ "step": -1 }), json!({ "step": 4.0 }), json!([4]), json!(4)] {
            let e = log.append(&line).unwrap_err().to_string();
            assert!(e.contains("metrics.jsonl") && e.contains("unsigned integer `step`"), "{e}");
        }
        let e = log.append(&json!({ "step": 3 })).unwrap_err().to_string();
        assert!(e.contains("step 3 after one of step 3"), "{e}");
        log.append(&json!({ "step": 4, "loss": f64::NAN })).unwrap();
        drop(log);
        assert_eq!(text(&path), format!("{FOUR}{{\"loss\":null,\"step\":4}}\n"));
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_that_takes_no_more_keeps_whole_lines() {
        if let Some(path) = file::tests::child_file() {
            let mut log = MetricsLog::create(&path).unwrap();
            log.append(&json!({ "step": 0 })).unwrap();
            log.sync().unwrap();
            let e = log.append(&json!({ "step": 1, "text": "x".repeat(1 << 20) })).unwrap_err().to_string();
            assert!(e.contains("write the metrics log"), "{e}");
            return;
        }
        let (_folder, path) = log_of("");
        let test = "metrics::tests::a_disk_that_takes_no_more_keeps_whole_lines";
        file::tests::run_with_small_files(test, &path);
        assert_eq!(text(&path), "{\"step\":0}\n");
    }
}
