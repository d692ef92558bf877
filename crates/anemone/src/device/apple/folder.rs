//! The folders that the framework reads models from: one for each content, shared by all who have that content.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The folders in use, by the model's identifier.
#[derive(Debug, Default)]
pub(super) struct Folders {
    users: Mutex<HashMap<String, usize>>,
}

impl Folders {
    /// How many there are now.
    pub(super) fn n_folders(&self) -> usize {
        self.lock().len()
    }

    /// Writes a model's files, or joins those who have written them already.
    ///
    /// Two models of one content have one identifier and so one folder: were it removed with the first of them,
    /// the other would lose its files.
    pub(super) fn enter(
        self: &Arc<Self>,
        parent: &Path,
        identifier: &str,
        mil: &str,
        weights: &[(&str, &[u8])],
    ) -> Result<Folder> {
        let is_name = !identifier.is_empty() && identifier.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_name {
            return Err(Error::device(format!(
                "`hexStringIdentifier` said `{identifier}`, expected letters, digits and underscores"
            )));
        }
        let path = parent.join(identifier);
        let mut users = self.lock();
        // Written again for each user, as another process may have removed the folder of the same content. What is
        // written is the same, and each file is complete before it has its name.
        write(&path, mil, weights).inspect_err(|_| {
            if !users.contains_key(identifier) {
                let _ = fs::remove_dir_all(&path);
            }
        })?;
        *users.entry(identifier.into()).or_default() += 1;
        Ok(Folder { folders: self.clone(), identifier: identifier.into(), path })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.users.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn write(path: &Path, mil: &str, weights: &[(&str, &[u8])]) -> Result<()> {
    let folder = path.join("weights");
    fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    write_file(&path.join("model.mil"), mil.as_bytes())?;
    for (name, bytes) in weights {
        let name = name.rsplit('/').next().unwrap_or(name);
        write_file(&folder.join(name), bytes)?;
    }
    Ok(())
}

/// Makes `bytes` the contents of a file in one step. They need not reach the disk: they are read at once and
/// removed with the model.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    // Another process may be writing the same file.
    let temporary = path.with_extension(format!("{}.anemone-tmp", std::process::id()));
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| Error::io("write", path, e))
}

/// A share in a model's folder, which is removed with the last of them.
#[derive(Debug)]
pub(super) struct Folder {
    folders: Arc<Folders>,
    identifier: String,
    path: PathBuf,
}

impl Folder {
    /// The file of that name, if there is one.
    pub(super) fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.path.join(name)).ok()
    }

    /// Adds a file.
    pub(super) fn add(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_file(&self.path.join(name), bytes)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let mut users = self.folders.lock();
        if let Some(n) = users.get_mut(&self.identifier) {
            *n -= 1;
            if *n == 0 {
                users.remove(&self.identifier);
                // Whatever is left behind here lies in a folder for temporary files.
                let _ = fs::remove_dir_all(&self.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lives_as_long_as_its_last_user() {
        let parent = tempfile::tempdir().unwrap();
        let folders = Arc::new(Folders::default());
        let enter = || folders.enter(parent.path(), "AB_12", "program", &[("@model_path/weights/w.bin", b"x")]);
        let (a, b) = (enter().unwrap(), enter().unwrap());
        drop(a);
        assert_eq!(fs::read(parent.path().join("AB_12/weights/w.bin")).unwrap(), b"x");
        assert_eq!(fs::read(parent.path().join("AB_12/model.mil")).unwrap(), b"program");
        drop(b);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        assert_eq!(folders.n_folders(), 0);
    }

    #[test]
    fn an_identifier_that_is_no_name_is_no_path() {
        let parent = tempfile::tempdir().unwrap();
        let folders = Arc::new(Folders::default());
        for identifier in ["", "..", "a/b", "/tmp"] {
            assert!(folders.enter(parent.path(), identifier, "", &[]).unwrap_err().is_device(), "{identifier}");
        }
    }
}
