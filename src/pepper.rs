//! The configured peppers. The postmaster reads them when it starts, its children inherit them, and
//! all read the file again when the configuration is reloaded.
//!
//! A reload only adds peppers. Keys in the directory are found without a pepper, so a pepper that is
//! in force stays so until the server restarts.

use keysmith_core::key::pepper::Peppers;
use pg::error::{Code, Error, Result};
use pg::settings::{About, Check, Context, SettingProblem, Text, is_preloading};
use pg::{notice, server};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;

/// The file with the peppers. By default it is empty: an installation works without a pepper, and
/// one can be added later. The setting is defined only if the library is preloaded, and another
/// path needs a restart. Otherwise a session that loads the library could choose the value.
static FILE: Text<Watched> = Text::new(
    About {
        name: c"keysmith.pepper_file",
        description: c"File outside the data directory with the peppers of key digests.",
        explanation: c"One line for each generation, number:hex. Empty for no peppers.",
        context: Context::Postmaster,
        flags: pg_sys::GUC_SUPERUSER_ONLY,
    },
    c"",
);

/// PostgreSQL checks the settings of its files whenever it reads them, also if none has changed. So
/// each process learns that the configuration was reloaded.
struct Watched;

impl Check for Watched {
    fn problem(_: &CStr) -> Option<SettingProblem> {
        reloaded();
        None
    }
}

thread_local! {
    static KNOWN: Cell<Option<&'static Peppers>> = const { Cell::new(None) };
    /// Whether the file may have more peppers.
    static IS_STALE: Cell<bool> = const { Cell::new(false) };
}

pub fn define() {
    if is_preloading() {
        FILE.define();
    }
}

/// All peppers; empty if the library is not preloaded. Then keys that were stored with a pepper are
/// not found, and new keys can't be made in their keyspace.
#[inline]
pub fn peppers() -> &'static Peppers {
    static NONE: LazyLock<Peppers> = LazyLock::new(Peppers::default);
    if IS_STALE.get() {
        IS_STALE.set(false);
        // The postmaster has logged what is wrong.
        read_again().ok();
    }
    KNOWN.get().unwrap_or_else(|| &NONE)
}

/// All peppers. If they lack a generation that the database has by now, the file is read first: the
/// session that stored it may have read the file before this one.
pub fn knowing(generation: i16) -> &'static Peppers {
    if generation > peppers().newest() {
        read_again().ok();
    }
    peppers()
}

/// Reads the configured file, if there is one.
pub fn load() -> Result<()> {
    let Some(path) = path() else { return Ok(()) };
    let peppers = read(Path::new(&path)).map_err(|why| {
        Error::new(Code::Pepper, format!("keysmith.pepper_file {why}"))
            .hint("See \"Peppers\" in SECURITY.md.")
    })?;
    KNOWN.set(Some(Box::leak(Box::new(peppers))));
    Ok(())
}

/// What is wrong with the file now, if anything.
pub fn complaint() -> Option<String> {
    let path = path()?;
    let (known, found) = (peppers(), read(Path::new(&path)));
    match found.and_then(|found| usable(known, found)) {
        Err(why) => Some(why),
        Ok(found) if !found.are_all_in(known) => {
            Some("was changed since it was read: reload the configuration".into())
        }
        Ok(_) => None,
    }
}

fn path() -> Option<String> {
    Some(FILE.get()).filter(|path| !path.is_empty())
}

/// The configuration is reloaded. The postmaster reads the file at once: the processes that it
/// starts from now on need not, and only it logs an error. Others read it when they need a pepper.
fn reloaded() {
    let Some(known) = KNOWN.get() else { return };
    if !server::is_postmaster() {
        IS_STALE.set(true);
        return;
    }
    match read_again() {
        Err(why) => notice::log(format!(
            "keysmith.pepper_file {why}; the peppers that were read before stay in force"
        )),
        Ok(now) if !std::ptr::eq(known, now) => notice::log(format!(
            "keysmith.pepper_file was read again: its newest pepper is {}",
            now.newest()
        )),
        Ok(_) => (),
    }
}

/// Reads the file again, if one was read before. After an error the known peppers stay.
fn read_again() -> std::result::Result<&'static Peppers, String> {
    let (Some(known), Some(path)) = (KNOWN.get(), path()) else { return Ok(peppers()) };
    let found = usable(known, read(Path::new(&path))?)?;
    if found.are_all_in(known) {
        return Ok(known);
    }
    // Somewhere in the transaction the old ones may still be in use. A file changes rarely.
    let found = Box::leak(Box::new(found));
    KNOWN.set(Some(found));
    Ok(found)
}

/// The peppers of the file, if they may come into force without a restart.
fn usable(known: &Peppers, found: Peppers) -> std::result::Result<Peppers, String> {
    if known.are_all_in(&found) {
        return Ok(found);
    }
    Err("lacks a pepper that is in force, or has another one: that needs a restart".into())
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
