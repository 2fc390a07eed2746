//! The configured peppers, read by the postmaster and inherited by its children.

use crate::settings;
use keysmith_core::key::pepper::Peppers;
use pg::error::{Code, Error, Result};
use pg::server;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

static PEPPERS: OnceLock<Peppers> = OnceLock::new();

/// All peppers. There are none where the library isn't preloaded: keys that were
/// stored under one are not found then, and no key is minted beside them.
#[inline]
pub fn peppers() -> &'static Peppers {
    PEPPERS.get_or_init(Peppers::default)
}

/// Reads the file that is configured, if any.
pub fn load() -> Result<()> {
    let Some(path) = settings::pepper_file() else { return Ok(()) };
    let peppers = read(Path::new(&path)).map_err(|why| {
        Error::new(Code::Pepper, format!("keysmith.pepper_file {why}"))
            .hint("See \"Peppers\" in SECURITY.md.")
    })?;
    PEPPERS.get_or_init(|| peppers);
    Ok(())
}

/// What is wrong with the file by now, if anything: it was read when the server started,
/// and the next start reads it again.
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

/// Reads a file that only the server's own user can. The reasons for not doing so
/// complete the sentence "keysmith.pepper_file …", and never quote the file.
fn read(path: &Path) -> std::result::Result<Peppers, String> {
    let path = path.canonicalize().map_err(|error| format!("can't be opened: {error}"))?;
    let data = server::data_directory();
    if path.starts_with(data.canonicalize().unwrap_or(data)) {
        return Err("must be outside the data directory, or backups would hold both".into());
    }
    let metadata = path.metadata().map_err(|error| format!("can't be read: {error}"))?;
    let ours = metadata.uid() == server::effective_user();
    // The file may also be root's, readable by a group of the server's user.
    let others = if ours { 0o077 } else { 0o027 };
    let is_owned = ours || metadata.uid() == 0;
    if !metadata.is_file() || !is_owned || metadata.mode() & others != 0 {
        return Err("must be a file that no one but the server's user can read or change".into());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("can't be read: {error}"))?;
    Peppers::parse(&text)
}
