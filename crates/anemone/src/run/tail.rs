//! A file of lines that grows, read a piece at a time.

use crate::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Bytes before the place where reading goes on that are looked at again: if they have changed, the file is
/// another. Lines have times in them, so that two of them are never alike.
const N_LOOK_BACK: usize = 512;

/// Where reading a file stands.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    /// Bytes of whole lines that were read.
    offset: u64,
    /// The last of them.
    last: Vec<u8>,
}

/// What has come to a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Whether the file has become another, so that what was read before does not count any more.
    pub(super) again: bool,
    /// Whole lines.
    text: Vec<u8>,
}

impl News {
    /// The lines, without their ends.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|&b| b == b'\n').filter(|line| !line.is_empty())
    }
}

impl Tail {
    pub(super) fn new(path: PathBuf) -> Tail {
        Tail { path, offset: 0, last: Vec::new() }
    }

    /// What has come since. A last line that has no end yet waits.
    ///
    /// # Errors
    ///
    /// If the file cannot be read. One that is not there has no lines.
    pub(super) fn read(&mut self) -> Result<News> {
        let mut text = self.read_from(self.offset - self.last.len() as u64)?;
        let again = !text.starts_with(&self.last);
        if again {
            (self.offset, self.last) = (0, Vec::new());
            text = self.read_from(0)?;
        }
        Ok(self.advance(text, again))
    }

    fn read_from(&self, offset: u64) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.read_to_end(&mut text)
        });
        match read {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("read", &self.path, e)),
            _ => Ok(text),
        }
    }

    /// Goes behind the last whole line of `text`, which begins with the bytes looked at again.
    fn advance(&mut self, mut text: Vec<u8>, again: bool) -> News {
        let begin = self.last.len();
        let end = text.iter().rposition(|&b| b == b'\n').map_or(begin, |i| i + 1);
        text.truncate(end);
        self.offset += (end - begin) as u64;
        self.last = text[end.saturating_sub(N_LOOK_BACK)..].to_vec();
        text.drain(..begin);
        News { again, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn lines(tail: &mut Tail) -> (bool, Vec<String>) {
        let news = tail.read().unwrap();
        (news.again, news.lines().map(|line| String::from_utf8_lossy(line).into_owned()).collect())
    }

    #[test]
    fn lines_come_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tail = Tail::new(path.clone());
        assert_eq!(lines(&mut tail), (false, vec![]));
        let mut file = File::create(&path).unwrap();
        let mut expected = Vec::new();
        for piece in ["on", "e\n", "two\nth", "ree", "\n\n", "four\n"] {
            file.write_all(piece.as_bytes()).unwrap();
            let (again, new) = lines(&mut tail);
            assert!(!again);
            expected.extend(new);
        }
        assert_eq!(expected, ["one", "two", "three", "four"]);
        assert_eq!(lines(&mut tail), (false, vec![]));
    }

    #[test]
    fn a_file_that_is_cut_replaced_or_gone_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let long: String = (0..100).map(|i| format!("line {i}\n")).collect();
        let mut tail = Tail::new(path.clone());
        for (contents, expected) in [
            (&long[..], (false, 100)),
            (&long[..], (false, 0)),
            (&long[..long.len() - 8], (true, 99)),
            // Longer than what was there, and other lines.
            (&long.replace("line", "another line"), (true, 100)),
            ("", (true, 0)),
            (&long, (false, 100)),
        ] {
            fs::write(&path, contents).unwrap();
            let (again, new) = lines(&mut tail);
            assert_eq!((again, new.len()), expected, "{} bytes", contents.len());
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(lines(&mut tail), (true, vec![]));
    }
}
