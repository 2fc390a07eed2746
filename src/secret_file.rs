//! Files of secrets that settings name: where they may lie, and when they are read.
//!
//! The postmaster reads a file when it starts, and again when the configuration is reloaded. Its
//! children inherit the secrets. A count in shared memory tells those that run that the postmaster
//! has read it again, and they read it when they next need a secret. A file that can't be used
//! keeps the secrets that were read before in force.
//!
//! The settings are defined only if the library is preloaded, and another path needs a restart.
//! Otherwise a session that loads the library could choose the value.

use pg::error::{Code, Error, Result};
use pg::settings::{About, Check, Context, SettingProblem, Text, is_preloading};
use pg::shmem::{Region, shareable};
use pg::{clock, notice, server};
use pgrx::pg_sys;
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::CStr;
use std::fs::Metadata;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::result::Result as StdResult;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::LocalKey;

/// What a file contains.
pub trait Secrets: Sized + 'static {
    /// The file that has them.
    const FILE: &'static SecretFile<Self>;
    /// What this process knows of it.
    const KNOWN: &'static LocalKey<Known<Self>>;

    /// Reads the text of the file. The error never shows its content.
    fn parse(text: &str) -> StdResult<Self, String>;

    fn is_same(&self, other: &Self) -> bool;

    /// Why these can't replace others without a restart, if they can't.
    fn problem_after(&self, known: &Self) -> Option<&'static str>;

    /// The words of the log when these come into force.
    fn summary(&self) -> String;
}

/// A file of secrets.
pub struct SecretFile<S: Secrets> {
    setting: Text<Watched<S>>,
    pub reads: Region<Reads>,
    name: &'static CStr,
    /// What messages call the secrets.
    noun: &'static str,
    /// The section of SECURITY.md about them.
    section: &'static str,
}

shareable! {
    pub struct Reads {
        /// How often the postmaster has read the file again.
        count: AtomicU64,
    }
}

/// What a process knows of a file.
pub struct Known<S: 'static> {
    secrets: Cell<Option<&'static S>>,
    /// The postmaster's count by which they were read.
    reads: Cell<u64>,
    /// Whether this process was told to reload the configuration since then.
    is_told: Cell<bool>,
    /// The count that this process last tried to follow, and when.
    tried: Cell<(u64, i64)>,
    /// The file as it was when it was last read, and when it was last looked at.
    state: Cell<Option<State>>,
    looked_at: Cell<i64>,
}

impl<S> Known<S> {
    pub const fn nothing() -> Known<S> {
        Known {
            secrets: Cell::new(None),
            reads: Cell::new(0),
            is_told: Cell::new(false),
            tried: Cell::new((0, i64::MIN)),
            state: Cell::new(None),
            looked_at: Cell::new(i64::MIN),
        }
    }
}

/// Differs after each change of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> State {
        State {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How often a process looks at most whether a file has changed, in microseconds.
const LOOK_EVERY: i64 = 1_000_000;

/// PostgreSQL checks the settings of its files whenever it reads them, also if none has changed. So
/// each process learns that the configuration was reloaded.
pub struct Watched<S>(PhantomData<fn() -> S>);

impl<S: Secrets> Check for Watched<S> {
    fn problem(_: &CStr) -> Option<SettingProblem> {
        S::FILE.reloaded();
        None
    }
}

/// The texts about a file.
pub struct Texts {
    /// The name of the setting.
    pub name: &'static CStr,
    pub description: &'static CStr,
    pub explanation: &'static CStr,
    pub noun: &'static str,
    pub section: &'static str,
}

impl<S: Secrets> SecretFile<S> {
    pub const fn new(texts: Texts) -> SecretFile<S> {
        let about = About {
            name: texts.name,
            description: texts.description,
            explanation: texts.explanation,
            context: Context::Postmaster,
            flags: pg_sys::GUC_SUPERUSER_ONLY,
        };
        SecretFile {
            setting: Text::new(about, c""),
            reads: Region::new(texts.name, Self::reads_so_far),
            name: texts.name,
            noun: texts.noun,
            section: texts.section,
        }
    }

    pub fn define(&'static self) {
        if is_preloading() {
            self.setting.define();
        }
    }

    /// The secrets in force, if there are any.
    #[inline]
    pub fn secrets(&self) -> Option<&'static S> {
        S::KNOWN.with(|known| {
            let reads = self.reads.get().map_or(0, |reads| reads.count.load(Relaxed));
            if known.is_told.get() || reads != known.reads.get() {
                self.follow(known, reads);
            }
            known.secrets.get()
        })
    }

    /// Reads what the postmaster has read. The file may be gone by now, or changed again: then it is
    /// tried again, once a second, since a secret may have been taken away.
    #[cold]
    fn follow(&self, known: &Known<S>, reads: u64) {
        let (now, (tried, at)) = (clock::monotonic(), known.tried.get());
        let is_told = known.is_told.take();
        if !is_told && tried == reads && now < at.saturating_add(LOOK_EVERY) {
            return;
        }
        known.tried.set((reads, now));
        match self.read_again() {
            Ok(_) => known.reads.set(reads),
            // Otherwise the postmaster could not read it either, and has said so.
            Err(why) if reads != known.reads.get() && reads != tried => notice::log(format!(
                "{} {why}; the server has read {} since, which this session may lack",
                self.name(),
                self.noun
            )),
            Err(_) => {}
        }
    }

    /// Shared memory is made again after a crash.
    fn reads_so_far() -> Result<Reads> {
        Ok(Reads { count: AtomicU64::new(S::KNOWN.with(|known| known.reads.get())) })
    }

    /// Reads the configured file, if there is one.
    pub fn load(&self) -> Result<()> {
        let Some(path) = self.path() else { return Ok(()) };
        let secrets = self.read(&path).map_err(|why| {
            Error::new(Code::Pepper, format!("{} {why}", self.name()))
                .hint(format!("See {:?} in SECURITY.md.", self.section))
        })?;
        self.put_in_force(secrets);
        Ok(())
    }

    /// What is wrong with the file now, if anything.
    pub fn complaint(&self) -> Option<String> {
        let path = self.path()?;
        let (known, found) = (self.secrets(), self.read(&path));
        match found.and_then(|found| usable(known, found)) {
            Err(why) => Some(why),
            Ok(found) if !known.is_some_and(|known| found.is_same(known)) => {
                Some("was changed since it was read: reload the configuration".into())
            }
            Ok(_) => None,
        }
    }

    fn name(&self) -> Cow<'static, str> {
        self.name.to_string_lossy()
    }

    /// The configured path, if there is one.
    fn path(&self) -> Option<String> {
        Some(self.setting.get()).filter(|path| !path.is_empty())
    }

    /// The configuration is reloaded. The postmaster reads the file now, and only it logs what is
    /// wrong: the processes that it starts from now on need not read it.
    fn reloaded(&self) {
        let Some(before) = S::KNOWN.with(|known| known.secrets.get()) else { return };
        if !server::is_postmaster() {
            S::KNOWN.with(|known| known.is_told.set(true));
            return;
        }
        let (name, noun) = (self.name(), self.noun);
        let now = match self.read_again() {
            Ok(now) => now,
            Err(why) => {
                notice::log(format!(
                    "{name} {why}; the {noun} that were read before stay in force"
                ));
                return;
            }
        };
        // A session may have read the file in between, when it had others.
        S::KNOWN.with(|known| {
            known.reads.set(known.reads.get() + 1);
            if let Some(reads) = self.reads.get() {
                reads.count.store(known.reads.get(), Relaxed);
            }
        });
        if let Some(now) = now.filter(|now| !std::ptr::eq(before, *now)) {
            notice::log(format!("{name} was read again: {}", now.summary()));
        }
    }

    /// Reads the file again, if one was read before. After an error the known secrets stay.
    pub fn read_again(&self) -> StdResult<Option<&'static S>, String> {
        let known = S::KNOWN.with(|known| known.secrets.get());
        let (Some(known), Some(path)) = (known, self.path()) else { return Ok(None) };
        let found = usable(Some(known), self.read(&path)?)?;
        if found.is_same(known) {
            return Ok(Some(known));
        }
        Ok(Some(self.put_in_force(found)))
    }

    /// Reads the file again if it has changed since it was read. It is looked at not more often
    /// than once a second, since anybody can send what makes a session look.
    pub fn look_again(&self) {
        let now = clock::monotonic();
        let is_due = S::KNOWN.with(|known| {
            let is_due = known.looked_at.get().saturating_add(LOOK_EVERY) <= now;
            if is_due {
                known.looked_at.set(now);
            }
            is_due && known.secrets.get().is_some()
        });
        if !is_due {
            return;
        }
        let state = self.path().and_then(|path| Path::new(&path).metadata().ok());
        let state = state.as_ref().map(State::of);
        if state.is_some() && state != S::KNOWN.with(|known| known.state.get()) {
            // The next reload logs what is wrong.
            self.read_again().ok();
        }
    }

    /// The old ones may still be in use somewhere in the transaction, so they are never freed. A
    /// file changes rarely.
    fn put_in_force(&self, secrets: S) -> &'static S {
        let secrets = Box::leak(Box::new(secrets));
        S::KNOWN.with(|known| known.secrets.set(Some(secrets)));
        secrets
    }

    /// Reads a file that only the server's user can read. An error completes a sentence that begins
    /// with the setting's name, and never quotes the file.
    fn read(&self, path: &str) -> StdResult<S, String> {
        let path = Path::new(path);
        let path = path.canonicalize().map_err(|error| format!("can't be opened: {error}"))?;
        let data = server::data_directory();
        if path.starts_with(data.canonicalize().unwrap_or(data)) {
            return Err("must be outside the data directory, or backups would hold both".into());
        }
        let metadata = path.metadata().map_err(|error| format!("can't be read: {error}"))?;
        S::KNOWN.with(|known| known.state.set(Some(State::of(&metadata))));
        let ours = metadata.uid() == server::effective_user();
        // The file may also belong to root, and be readable by a group of the server's user.
        let others = if ours { 0o077 } else { 0o027 };
        let is_owned = ours || metadata.uid() == 0;
        if !metadata.is_file() || !is_owned || metadata.mode() & others != 0 {
            return Err(
                "must be a file that no one but the server's user can read or change".into()
            );
        }
        let text =
            std::fs::read_to_string(&path).map_err(|error| format!("can't be read: {error}"))?;
        S::parse(&text)
    }
}

/// The secrets of the file, if they may come into force without a restart.
fn usable<S: Secrets>(known: Option<&S>, found: S) -> StdResult<S, String> {
    match known.and_then(|known| found.problem_after(known)) {
        Some(problem) => Err(problem.into()),
        None => Ok(found),
    }
}
