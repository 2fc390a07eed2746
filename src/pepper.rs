//! The configured peppers, read by the postmaster and inherited by its children.

use crate::settings;
use keysmith_core::key::pepper::Peppers;
use pg::error::{Code, Error, Result};
use pg::server;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

static PEPPERS: OnceLock<Peppers> = OnceLock::new();

/// All peppers; empty if the library is not preloaded. Then keys that were stored with a pepper are
/// not found, and new keys can't be made in their keyspace.
#[inline]
pub fn peppers() -> &'static Peppers {
    PEPPERS.get_or_init(Peppers::default)
}

/// Reads the configured file, if there is one.
pub fn load() -> Result<()> {
    let Some(path) = settings::pepper_file() else { return Ok(()) };
    let peppers = read(Path::new(&path)).map_err(|why| {
        Error::new(Code::Pepper, format!("keysmith.pepper_file {why}"))
            .hint("See \"Peppers\" in SECURITY.md.")
    })?;
    PEPPERS.get_or_init(|| peppers);
    Ok(())
}

/// What is wrong with the file now, if anything. The server read it at its start, and reads it
/// again at the next start.
pub fn complaint() -> Option<String> {
    let path = settings::pepper_file()?;
    match read(Path::new(&path)) {
        Err(why) => Some(why),
        Ok(found) if found.newest() != peppers().newest() => {
            Some("was changed since the server started, and is read at the next start".into())
        }
        Ok(_) => None,
    }
}

/// Reads a file that only the server's user can read. An error completes the sentence
/// "keysmith.pepper_file …", and never quotes the file.
fn read(path: &Path) -> std::result::Result<Peppers, String> {
    let path = path.canonicalize().map_err(|error| format!("can't be opened: {error}"))?;
    let data = server::data_directory();
    if path.starts_with(data.canonicalize().unwrap_or(data)) {
        return Err("must be outside the data directory, or backups would hold both".into());
    }
    let metadata = path.metadata().map_err(|error| format!("can't be read: {error}"))?;
    let ours = metadata.uid() == server::effective_user();
    // The file may also belong to root, and be readable by a group of the server's user.
    let others = if ours { 0o077 } else { 0o027 };
    let is_owned = ours || metadata.uid() == 0;
    if !metadata.is_file() || !is_owned || metadata.mode() & others != 0 {
        return Err("must be a file that no one but the server's user can read or change".into());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("can't be read: {error}"))?;
    Peppers::parse(&text)
}
