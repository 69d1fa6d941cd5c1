//! The folder that the demo's proxy is configured from: a temporary one that goes with the demo, or
//! one that stays.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::DemoError;

/// A file to be written.
#[derive(Clone, Debug)]
pub struct Document {
    /// Relative to the folder.
    pub path: String,
    pub access: Access,
    pub text: String,
}

/// Who may do what with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Everybody,
    /// Keys and tokens.
    Owner,
    /// A program.
    Run,
}

/// A folder of the demo's own.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Document {
    pub fn new(path: impl Into<String>, access: Access, text: String) -> Document {
        Document { path: path.into(), access, text }
    }
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Access::Everybody => 0o644,
            Access::Owner => 0o600,
            Access::Run => 0o755,
        }
    }
}

impl Folder {
    /// A new folder that nobody else may look into, removed with all that is in it when dropped.
    pub fn temporary() -> Result<Folder, DemoError> {
        let path = std::env::temp_dir().join(format!("countersign-demo-{:08x}", fastrand::u32(..)));
        // Fails where somebody was faster.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| DemoError::Folder { path: path.clone(), source })?;
        Ok(Folder { path, temporary: true })
    }

    /// A folder to stay: one that does not exist yet, or is empty.
    pub fn lasting(path: &Path) -> Result<Folder, DemoError> {
        let failed = |source| DemoError::Folder { path: path.to_owned(), source };
        DirBuilder::new().mode(0o755).recursive(true).create(path).map_err(failed)?;
        if fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(DemoError::NotEmpty(path.to_owned()));
        }
        Ok(Folder { path: path.to_owned(), temporary: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes files, each whole or not at all; a file of that name is replaced.
    pub fn write(&self, documents: &[Document]) -> Result<(), DemoError> {
        documents.iter().try_for_each(|document| {
            let path = self.path.join(&document.path);
            write(&path, document).map_err(|source| DemoError::Folder { path, source })
        })
    }
}

fn write(path: &Path, document: &Document) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension("fresh");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(document.text.as_bytes())?;
    fs::set_permissions(&fresh, Permissions::from_mode(document.access.mode()))?;
    fs::rename(&fresh, path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "the demo's folder could not be removed");
        }
    }
}
