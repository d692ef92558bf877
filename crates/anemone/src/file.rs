//! Replacing a file in one step: whoever reads it finds the old bytes or the new ones, never a mixture.

use crate::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// How the names of temporary files end. Between the name of the target and this stand [`N_RANDOM`] characters.
const SUFFIX: &str = ".anemone-tmp";
/// Random characters in the name of a temporary file.
const N_RANDOM: usize = 6;

/// Makes `bytes` the contents of the file at `path`, which need not exist; its folder must.
///
/// The bytes go to a temporary file beside the target (`.name.XXXXXX.anemone-tmp`), reach the disk, and only then
/// take the target's name. Temporary files that killed processes left for this target are removed first. A
/// symbolic link at `path` stays; the file it points at is replaced.
///
/// # Errors
///
/// Whatever the operating system reports, with `path`. The target then is as it was and the temporary file is
/// gone. The one exception is named ``sync the folder of``: the new contents are in place, but may not survive a
/// power cut.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |w| w.write_all(bytes))
}

/// [`write_atomically`] for contents that `write` produces piece by piece.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let (target, old) = match fs::canonicalize(path) {
        Ok(target) => {
            let old = fs::metadata(&target).map_err(failed)?;
            // To rename over a device such as `/dev/null` would delete it.
            if !old.is_file() {
                return Err(failed(io::Error::other("there is something there that is no regular file")));
            }
            (target, Some(old.permissions()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => (path.to_path_buf(), None),
        Err(e) => return Err(failed(e)),
    };
    let name = target.file_name().ok_or_else(|| failed(io::Error::other("the path names no file")))?;
    let folder = folder_of(&target);
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".");

    remove_left_overs(folder, &prefix);
    let temporary = create_temporary(folder, &prefix, old).map_err(failed)?;
    let mut w = BufWriter::new(temporary.as_file());
    write(&mut w).and_then(|()| w.flush()).map_err(failed)?;
    drop(w);
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(&target).map_err(|e| failed(e.error))?;
    sync_folder(&target)
}

/// Reads as many bytes as there is room for, from that offset on, wherever others read in the file.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// Reads as many bytes as there is room for, from that offset on, wherever others read in the file.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, offset) = (&mut bytes[n..], offset + n as u64),
        }
    }
    Ok(())
}

/// Brings the folder entry of the file at `path` to the disk.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(()); // elsewhere a folder cannot be opened as a file
    }
    match File::open(folder_of(path)).and_then(|folder| folder.sync_all()) {
        // Some file systems have nothing to bring to the disk and say so in this way.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result.map_err(|e| Error::io("sync the folder of", path, e)),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A temporary file, locked for as long as it is open, with the permissions of the file it is to replace.
fn create_temporary(
    folder: &Path,
    prefix: &OsStr,
    permissions: Option<fs::Permissions>,
) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX).rand_bytes(N_RANDOM);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // What any new file gets; the crate's own default shuts out everybody but the owner.
        builder.permissions(permissions.unwrap_or_else(|| fs::Permissions::from_mode(0o666)));
    }
    #[cfg(not(unix))]
    drop(permissions);
    loop {
        let temporary = builder.tempfile_in(folder)?;
        // A file system without locks is no reason to fail: left-overs then stay.
        let _ = temporary.as_file().lock();
        // Before the lock, another writer of this target may have taken the file for a left-over.
        if temporary.path().exists() {
            return Ok(temporary);
        }
    }
}

/// Removes the temporary files of this target that no living writer has locked. What cannot be removed stays: that
/// must not keep a checkpoint from being written.
fn remove_left_overs(folder: &Path, prefix: &OsStr) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let ours = name.len() == prefix.len() + N_RANDOM + SUFFIX.len()
            && name.starts_with(prefix.as_encoded_bytes())
            && name.ends_with(SUFFIX.as_bytes())
            && entry.file_type().is_ok_and(|t| t.is_file());
        if ours && let Ok(file) = File::open(entry.path()) {
            // The lock is held until after the removal, so that its creator cannot believe the file to be safe.
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::process::{Command, Output};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn folder_with(contents: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        fs::write(&path, contents).unwrap();
        (folder, path)
    }

    /// The variable that tells a test that it runs in a process of its own, and the file to use there.
    const CHILD_FILE: &str = "ANEMONE_TEST_CHILD_FILE";

    pub(crate) fn child_file() -> Option<PathBuf> {
        std::env::var_os(CHILD_FILE).map(PathBuf::from)
    }

    /// Runs one test of this binary in a process of its own, with a [`child_file`], after the shell commands
    /// `before`.
    #[cfg(unix)]
    fn run_in_child(test: &str, before: &str, path: &Path) -> Output {
        Command::new("sh")
            .arg("-c")
            .arg(format!("{before}; exec \"$0\" --exact \"$1\""))
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .env(CHILD_FILE, path)
            .output()
            .unwrap()
    }

    /// Runs one test in a process that cannot write more than 64 KiB to a file, and expects it to pass.
    #[cfg(unix)]
    pub(crate) fn run_with_small_files(test: &str, path: &Path) {
        // Blocks are 512 or 1024 bytes. With the signal ignored the write itself fails, as on a full disk.
        let out = run_in_child(test, "trap '' XFSZ; ulimit -f 64", path);
        assert!(out.status.success() && String::from_utf8_lossy(&out.stdout).contains("1 passed"), "{out:?}");
    }

    #[test]
    fn makes_and_replaces_a_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        for contents in [&b"first"[..], b"", b"third"] {
            write_atomically(&path, contents).unwrap();
            assert_eq!(fs::read(&path).unwrap(), contents);
            assert_eq!(names(folder.path()), ["target"]);
        }
    }

    #[test]
    fn a_writer_that_fails_leaves_the_old_file_and_no_temporary() {
        let (folder, path) = folder_with(b"old");
        let e = replace(&path, |w| {
            w.write_all(&[7; 100_000])?; // beyond any buffer
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(e.to_string().starts_with(&format!("write `{}`: ", path.display())), "{e}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["target"]);
    }

    #[test]
    fn a_folder_that_is_missing_and_a_target_that_is_no_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let e = write_atomically(&folder.path().join("no/target"), b"x").unwrap_err().to_string();
        assert!(e.contains("no/target"), "{e}");
        let e = write_atomically(folder.path(), b"x").unwrap_err().to_string();
        assert!(e.ends_with("no regular file"), "{e}");
        assert!(write_atomically(Path::new("/"), b"x").is_err());
    }

    #[test]
    fn left_overs_go_but_only_those_of_this_target_that_nobody_writes() {
        let (folder, path) = folder_with(b"old");
        let other = [".target.abcdef.tmp", ".target.old.abcdef.anemone-tmp", ".other.abcdef.anemone-tmp"];
        for name in other.iter().chain(&[".target.abcdef.anemone-tmp"]) {
            fs::write(folder.path().join(name), b"left over").unwrap();
        }
        replace(&path, |outer| {
            outer.write_all(b"outer")?;
            write_atomically(&path, b"inner").unwrap();
            assert_eq!(fs::read(&path)?, b"inner");
            assert_eq!(names(folder.path()).len(), other.len() + 2, "{:?}", names(folder.path()));
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"outer");
        let mut expected = [&other[..], &["target"]].concat();
        expected.sort();
        assert_eq!(names(folder.path()), expected);
    }

    #[test]
    fn writers_at_the_same_time_do_not_disturb_each_other() {
        let (folder, path) = folder_with(&[0; 10_000]);
        std::thread::scope(|scope| {
            for writer in 1..5 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        write_atomically(path, &[writer; 10_000]).unwrap();
                        let read = fs::read(path).unwrap();
                        assert!(read.len() == 10_000 && read.iter().all(|&b| b == read[0]));
                    }
                });
            }
        });
        assert_eq!(names(folder.path()), ["target"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, path) = folder_with(b"old");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        write_atomically(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[cfg(unix)]
    #[test]
    fn a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up() {
        if let Some(path) = child_file() {
            let _ = replace(&path, |w| {
                w.write_all(&[7; 100_000])?;
                std::process::abort()
            });
        }
        let (folder, path) = folder_with(b"old");
        let test = "file::tests::a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up";
        let out = run_in_child(test, "ulimit -c 0", &path);
        assert!(!out.status.success());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()).len(), 2, "{out:?}");
        write_atomically(&path, b"new").unwrap();
        assert_eq!(names(folder.path()), ["target"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_disk_that_takes_no_more_leaves_the_old_file() {
        if let Some(path) = child_file() {
            let e = write_atomically(&path, &[7; 1 << 20]).unwrap_err();
            assert!(e.to_string().contains("large"), "{e}");
            return;
        }
        let (folder, path) = folder_with(b"old");
        run_with_small_files("file::tests::a_disk_that_takes_no_more_leaves_the_old_file", &path);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["target"]);
    }
}
