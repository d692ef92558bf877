//! Checkpoints: all that is needed to go on training bit for bit, in one file that is complete or refused.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `ANEMONE\0` |
//! | 4 | format version, little-endian as all numbers here |
//! | 8 | length of the payload |
//! | that many | payload: a safetensors file; its metadata has `config` (TOML) and `state` (JSON) |
//! | 4 | CRC-32 (the one of zlib) of everything before |

use crate::weights_file::{self, Encoded, NamedTensor, TensorView};
use crate::{Error, Result, file};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

const MAGIC: [u8; 8] = *b"ANEMONE\0";
/// The version of the format that is written, and the only one that is read.
const VERSION: u32 = 1;
/// Bytes before the payload.
const N_HEAD: usize = 8 + 4 + 8;
/// Bytes after the payload.
const N_CHECKSUM: usize = 4;

/// Everything a run needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What must not change between save and resume, as TOML in one canonical form, one setting a line.
    pub config: String,
    /// Where the run stands, of which random numbers and the position in the data follow. Integers and finite
    /// floating-point numbers come back exactly; JSON has no others.
    pub state: serde_json::Value,
    /// Parameters and optimizer state, in an order that is kept (but for tensors without elements).
    pub tensors: Vec<NamedTensor>,
}

impl Checkpoint {
    /// Writes the checkpoint to `path`. The file that was there is replaced in one step, when the new one is on
    /// the disk, and stays if anything fails. Equal checkpoints give equal bytes.
    ///
    /// # Errors
    ///
    /// If two tensors have one name, a shape does not fit its elements, or writing fails.
    pub fn save(&self, path: &Path) -> Result<()> {
        save(path, self.config.clone(), &self.state, self.tensors.iter().map(TensorView::from).collect())
    }

    /// Reads the checkpoint at `path`, which is never changed.
    ///
    /// # Errors
    ///
    /// Tells apart by their words, with the path: no file there, something other than a checkpoint, one that is
    /// cut short (bytes expected and found), one whose bytes have changed, one of another format version (found
    /// and read here), and what the operating system reports.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let refuse = |why: String| Error::checkpoint(format!("checkpoint `{}` {why}", path.display()));
        let failed = |e| Error::io("read checkpoint", path, e);
        let metadata = match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let why = "does not exist: give the path of a checkpoint, or start without one";
                return Err(refuse(why.into()));
            }
            other => other.map_err(failed)?,
        };
        let foreign = "is not an anemone checkpoint: give the path of a file that anemone saved";
        if !metadata.is_file() {
            return Err(refuse(foreign.into()));
        }
        let file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();

        let mut head = Vec::new();
        (&file).take(N_HEAD as u64).read_to_end(&mut head).map_err(failed)?;
        if !head.iter().zip(&MAGIC).all(|(a, b)| a == b) {
            return Err(refuse(foreign.into()));
        }
        let truncated = |expected: String| {
            refuse(format!("is truncated: expected {expected} bytes, found {found}; use an older checkpoint"))
        };
        let Some((version, n_payload)) = head[MAGIC.len().min(head.len())..].split_first_chunk() else {
            return Err(truncated(format!("at least {}", N_HEAD + N_CHECKSUM)));
        };
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(refuse(format!(
                "has format version {version}, but only {VERSION} is supported: use the anemone that saved it"
            )));
        }
        let Ok(n_payload) = n_payload.try_into().map(u64::from_le_bytes) else {
            return Err(truncated(format!("at least {}", N_HEAD + N_CHECKSUM)));
        };
        let damaged = |how: &str| refuse(format!("is damaged: {how}; use an older checkpoint"));
        let expected = n_payload.saturating_add((N_HEAD + N_CHECKSUM) as u64);
        if expected > found {
            return Err(truncated(expected.to_string()));
        }
        if expected < found {
            return Err(damaged(&format!("it has {found} bytes, but its length field says {expected}")));
        }

        let mut r = Summing { inner: file, sum: crc32fast::Hasher::new() };
        r.sum.update(&head);
        let shorter = || damaged("it became shorter while it was read");
        let failed = |e: io::Error| if e.kind() == io::ErrorKind::UnexpectedEof { shorter() } else { failed(e) };
        let decoded = weights_file::decode(&mut r, n_payload);
        // What cannot be read because bytes have changed is told by the checksum.
        let n_read = r.inner.stream_position().map_err(failed)?;
        let n_rest = (N_HEAD as u64 + n_payload).saturating_sub(n_read);
        io::copy(&mut (&mut r).take(n_rest), &mut io::sink()).map_err(failed)?;
        let mut checksum = [0; N_CHECKSUM];
        r.inner.read_exact(&mut checksum).map_err(failed)?;
        let (found, expected) = (r.sum.finalize(), u32::from_le_bytes(checksum));
        if found != expected {
            return Err(damaged(&format!("its checksum is {found:08x}, but {expected:08x} was saved")));
        }
        let (tensors, mut metadata) = decoded.map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => damaged(&e.to_string()),
            _ => failed(e),
        })?;
        let mut text =
            |key: &str| metadata.remove(key).ok_or_else(|| damaged(&format!("its metadata has no `{key}`")));
        let (config, state) = (text("config")?, text("state")?);
        let state = serde_json::from_str(&state).map_err(|e| damaged(&format!("its state is not JSON: {e}")))?;
        Ok(Checkpoint { config, state, tensors })
    }

    /// Refuses to resume into another configuration than the one saved.
    ///
    /// # Errors
    ///
    /// If any line of `config` differs from the saved ones, with these lines: `-` those only in the checkpoint,
    /// `+` those only in `config`, each with its table.
    pub fn check_config(&self, config: &str) -> Result<()> {
        if self.config.lines().eq(config.lines()) {
            return Ok(());
        }
        let (saved, now) = (settings(&self.config), settings(config));
        let mut differing = only_in(&saved, &now, '-');
        differing.extend(only_in(&now, &saved, '+'));
        if differing.is_empty() {
            differing.push("the same lines in another order".into());
        }
        Err(Error::checkpoint(format!(
            "the checkpoint was saved with another configuration (`-` saved, `+` now): \
             resume with the saved one, or start without the checkpoint\n{}",
            differing.join("\n")
        )))
    }
}

/// Writes what [`Checkpoint::save`] writes, of tensors that lie elsewhere.
///
/// # Errors
///
/// As [`Checkpoint::save`].
pub(crate) fn save(
    path: &Path,
    config: String,
    state: &serde_json::Value,
    tensors: Vec<TensorView<'_>>,
) -> Result<()> {
    let metadata = [("config", config), ("state", state.to_string())];
    let metadata: BTreeMap<_, _> = metadata.map(|(key, text)| (key.to_owned(), text)).into();
    let payload = Encoded::new(tensors, &metadata)
        .map_err(|e| e.context(format!("save checkpoint `{}`", path.display())))?;
    file::replace(path, |w| {
        let mut w = Summing { inner: w, sum: crc32fast::Hasher::new() };
        w.write_all(&MAGIC)?;
        w.write_all(&VERSION.to_le_bytes())?;
        w.write_all(&payload.n_bytes().to_le_bytes())?;
        payload.write(&mut w)?;
        w.inner.write_all(&w.sum.finalize().to_le_bytes())
    })
    .map_err(|e| e.context("save checkpoint"))
}

/// The lines of a TOML text that set something, each with the header of its table before it.
fn settings(config: &str) -> Vec<String> {
    let mut table = String::new();
    let mut settings = Vec::new();
    for line in config.lines().map(str::trim_end) {
        if line.starts_with('[') {
            table = format!("{line} ");
        } else if !line.is_empty() {
            settings.push(format!("{table}{line}"));
        }
    }
    settings
}

/// The lines of `these` that `others` lacks, or has fewer times.
fn only_in(these: &[String], others: &[String], mark: char) -> Vec<String> {
    let mut others: Vec<&String> = others.iter().collect();
    let mut only = Vec::new();
    for line in these {
        match others.iter().position(|other| *other == line) {
            Some(i) => drop(others.remove(i)),
            None => only.push(format!("{mark} {line}")),
        }
    }
    only
}

/// Passes bytes on, and sums them up.
struct Summing<T> {
    inner: T,
    sum: crc32fast::Hasher,
}

impl<R: Read> Read for Summing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
