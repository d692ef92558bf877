//! Event files for TensorBoard: TensorFlow's `Event` messages in its record format, written from a run's metrics.
//!
//! A record is its length (8 bytes, little-endian), a checksum of that, the message, and a checksum of it. The
//! checksums are CRC-32C, rotated and added to. Source: `tensorflow/core/util/event.proto`,
//! `lib/io/record_writer.cc`.

use anemone::Run;
use anemone::run::now_us;
use anyhow::Context;
use prost::Message;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often what is new is written.
const EVERY: Duration = Duration::from_secs(1);

/// A message of an event file, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Unix time in seconds.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// In the first message: `brain.Event:2`.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    /// Says that what earlier files have from this step on does not count any more.
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, for a zero is written too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1 is `START`.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A thread that writes event files from a run's folder, so that training does not wait for it.
pub(crate) struct Board {
    end: Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Board {
    /// Begins a file in `folder` for the steps of the run from `first_step` on.
    pub(crate) fn open(run: &Path, folder: &Path, first_step: u64) -> anyhow::Result<Board> {
        let mut events = EventFile::create(folder)?;
        events.begin(first_step)?;
        let run: PathBuf = run.into();
        let (end, ended) = channel();
        let thread = std::thread::Builder::new().name("tensorboard".into()).spawn(move || {
            let mut run = Run::open(&run)?;
            let mut written = Written { n_steps: 0, n_validations: 0, first_step };
            loop {
                let is_over = !matches!(ended.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout));
                run.refresh()?;
                written.catch_up(&run, &mut events)?;
                if is_over {
                    return Ok(());
                }
            }
        })?;
        Ok(Board { end, thread })
    }

    /// Writes the rest, which must be in the run's metrics; says what went wrong, if anything did.
    pub(crate) fn close(self) -> Option<String> {
        drop(self.end);
        match self.thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(format!("the event files for TensorBoard are not complete: {e:#}")),
            Err(_) => Some("the event files for TensorBoard are not complete: the thread panicked".into()),
        }
    }
}

/// How much of a run is in an event file.
struct Written {
    n_steps: usize,
    n_validations: usize,
    first_step: u64,
}

impl Written {
    fn catch_up(&mut self, run: &Run, events: &mut EventFile) -> anyhow::Result<()> {
        let steps = run.steps();
        let columns = [
            ("loss/train", &steps.loss),
            ("train/learning_rate", &steps.lr),
            ("train/gradient_norm", &steps.gradient_norm),
            ("train/loss_scale", &steps.loss_scale),
            ("time/device_us", &steps.device_us),
            ("time/copy_us", &steps.copy_us),
            ("time/host_us", &steps.host_us),
            ("time/compile_wait_us", &steps.compile_wait_us),
        ];
        let begin = self.n_steps.max(steps.step.partition_point(|&step| step < self.first_step));
        for i in begin..steps.len() {
            let values = columns.iter().filter(|(_, c)| c[i].is_finite()).map(|(tag, c)| value(tag, c[i]));
            events.write(steps.time_us[i], steps.step[i], values.collect())?;
        }
        for v in steps.validations[self.n_validations..].iter().filter(|v| v.step > self.first_step) {
            let mut values = vec![value("loss/validation", v.loss)];
            values.extend(v.accuracy.map(|a| value("validation/accuracy", a)));
            // Its line is that of the step before.
            let i = steps.step.partition_point(|&step| step + 1 < v.step);
            events.write(steps.time_us[i], v.step - 1, values)?;
        }
        (self.n_steps, self.n_validations) = (steps.len(), steps.validations.len());
        Ok(events.file.flush()?)
    }
}

fn value(tag: &str, x: f64) -> Value {
    Value { tag: tag.into(), simple_value: Some(x as f32) }
}

/// An event file, open for writing.
struct EventFile {
    file: BufWriter<File>,
}

impl EventFile {
    /// A new file in `folder`, which is made if it is not there.
    fn create(folder: &Path) -> anyhow::Result<EventFile> {
        fs::create_dir_all(folder).with_context(|| format!("create the folder `{}`", folder.display()))?;
        // TensorBoard reads files in the order of their names, and knows them by `tfevents`.
        let now = now_us();
        let name =
            format!("events.out.tfevents.{}.anemone.{}.{}", now / 1_000_000, std::process::id(), now % 1_000_000);
        let path = folder.join(name);
        let file = File::create_new(&path).with_context(|| format!("create `{}`", path.display()))?;
        Ok(EventFile { file: BufWriter::new(file) })
    }

    fn begin(&mut self, first_step: u64) -> anyhow::Result<()> {
        let wall_time = now_us() as f64 / 1e6;
        let version = Event { wall_time, file_version: Some("brain.Event:2".into()), ..Event::default() };
        self.record(&version)?;
        let session_log = Some(SessionLog { status: 1 });
        self.record(&Event { wall_time, step: first_step as i64, session_log, ..Event::default() })?;
        Ok(self.file.flush()?)
    }

    fn write(&mut self, time_us: u64, step: u64, values: Vec<Value>) -> anyhow::Result<()> {
        let summary = Some(Summary { values });
        let wall_time = time_us as f64 / 1e6;
        self.record(&Event { wall_time, step: step as i64, summary, ..Event::default() })
    }

    fn record(&mut self, event: &Event) -> anyhow::Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked(&length).to_le_bytes())?;
        self.file.write_all(&message)?;
        self.file.write_all(&masked(&message).to_le_bytes())?;
        Ok(())
    }
}

/// The checksum of a record's part.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anemone::run::{CONFIG, METRICS};

    /// The messages of an event file, with its checksums checked.
    fn read(bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let n = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (length_sum, after) = after.split_at(4);
            let (message, after) = after.split_at(n);
            let (message_sum, after) = after.split_at(4);
            assert_eq!(length_sum, masked(length).to_le_bytes());
            assert_eq!(message_sum, masked(message).to_le_bytes());
            events.push(Event::decode(message).unwrap());
            rest = after;
        }
        events
    }

    /// The first record that TensorFlow 2 writes: 24 bytes of a version at time 0, by hand from its format.
    #[test]
    fn a_record_is_as_tensorflow_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path()).unwrap();
        file.record(&Event { wall_time: 1.0, file_version: Some("brain.Event:2".into()), ..Event::default() })
            .unwrap();
        file.file.flush().unwrap();
        let path = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(path).unwrap();
        let message = b"\x09\0\0\0\0\0\0\xf0\x3f\x1a\x0dbrain.Event:2";
        assert_eq!(bytes[..8], 24u64.to_le_bytes());
        assert_eq!(&bytes[12..36], message);
        // The check value of CRC-32C.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(bytes.len(), 40);
    }

    #[test]
    fn steps_are_written_from_the_first_on_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let (run, board) = (folder.path().join("run"), folder.path().join("board"));
        fs::create_dir(&run).unwrap();
        fs::write(run.join(CONFIG), "").unwrap();
        let line = |step: u64| {
            format!(
                "{{\"step\":{step},\"time_us\":{}000000,\"loss\":0.5,\"lr\":null,\"validation\":{{\"loss\":0.25}}}}\n",
                step + 1
            )
        };
        fs::write(run.join(METRICS), (0..6).map(line).collect::<String>()).unwrap();
        let writing = Board::open(&run, &board, 4).unwrap();
        assert_eq!(writing.close(), None);
        let path = fs::read_dir(&board).unwrap().next().unwrap().unwrap().path();
        let events = read(&fs::read(path).unwrap());
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, events[1].session_log.clone()), (4, Some(SessionLog { status: 1 })));
        let scalars: Vec<(i64, f64, Value)> = events[2..]
            .iter()
            .flat_map(|e| e.summary.clone().unwrap().values.into_iter().map(|v| (e.step, e.wall_time, v)))
            .collect();
        let expected = [
            (4, 5.0, value("loss/train", 0.5)),
            (5, 6.0, value("loss/train", 0.5)),
            (4, 5.0, value("loss/validation", 0.25)),
            (5, 6.0, value("loss/validation", 0.25)),
        ];
        assert_eq!(scalars, expected);
    }
}
