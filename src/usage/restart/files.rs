//! The files of incarnations, beside PostgreSQL's statistics: one for each database that an
//! incarnation has had records of. `keysmith_core::shutdown_file` has their form. The name says
//! what a file means, since a file can be renamed where there is no room for another.

use pg::server;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The name is `keysmith_KIND.DATABASE.INCARNATION`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of the incarnation that runs, or of one that has ended suddenly.
    Running,
    /// Of one that was shut down while records waited. A file that is not whole is a loss.
    Backlog,
    /// Of one that has lost records, until a worker has noted that. The name ends with `.END`, the
    /// incarnation after it.
    Lost { end: i64 },
}

pub struct IncarnationFile {
    pub kind: Kind,
    pub database: u32,
    pub incarnation: i64,
    pub path: PathBuf,
}

impl IncarnationFile {
    pub fn new(kind: Kind, database: u32, incarnation: i64) -> IncarnationFile {
        let name = match kind {
            Kind::Running => format!("keysmith_incarnation.{database}.{incarnation}"),
            Kind::Backlog => format!("keysmith_usage.{database}.{incarnation}"),
            Kind::Lost { end } => format!("keysmith_lost.{database}.{incarnation}.{end}"),
        };
        IncarnationFile { kind, database, incarnation, path: directory().join(name) }
    }

    fn at(path: PathBuf) -> Option<IncarnationFile> {
        let mut parts = path.file_name()?.to_str()?.split('.');
        let kind = parts.next()?;
        let database = parts.next()?.parse().ok()?;
        let incarnation = parts.next()?.parse().ok()?;
        let kind = match (kind, parts.next(), parts.next()) {
            ("keysmith_incarnation", None, None) => Kind::Running,
            ("keysmith_usage", None, None) => Kind::Backlog,
            ("keysmith_lost", Some(end), None) => Kind::Lost { end: end.parse().ok()? },
            _ => return None,
        };
        Some(IncarnationFile { kind, database, incarnation, path })
    }

    /// All files, the oldest incarnation first.
    pub fn all() -> Vec<IncarnationFile> {
        let Ok(entries) = fs::read_dir(directory()) else { return Vec::new() };
        let file = |entry: fs::DirEntry| IncarnationFile::at(entry.path());
        let mut files: Vec<_> = entries.flatten().filter_map(file).collect();
        files.sort_by_key(|file| file.incarnation);
        files
    }

    /// The backlogs of the session's database, the oldest first.
    pub fn backlogs() -> Vec<IncarnationFile> {
        let database = server::my_database().to_u32();
        let is_ours =
            |file: &IncarnationFile| file.kind == Kind::Backlog && file.database == database;
        IncarnationFile::all().into_iter().filter(is_ours).collect()
    }

    pub fn rename(&self, kind: Kind) -> io::Result<()> {
        let to = IncarnationFile::new(kind, self.database, self.incarnation);
        fs::rename(&self.path, &to.path)
    }

    /// Keeps a file that is not whole under another name, for somebody to look at.
    pub fn keep_as_unreadable(&self) -> io::Result<()> {
        let name = format!("unreadable_keysmith_usage.{}.{}", self.database, self.incarnation);
        fs::rename(&self.path, directory().join(name))
    }
}

/// Writes a file that no other user may read. An existing file is written over, and not cut off
/// first. So its head stays whole if there is no room for the rest.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Has the names of files outlast a power cut.
pub fn sync_names() -> io::Result<()> {
    File::open(directory())?.sync_all()
}

/// Whether the server starts from a backup, which has the files of the server that it was taken of.
/// For the postmaster: recovery renames the label.
pub fn are_of_backup() -> bool {
    server::data_directory().join("backup_label").exists()
}

/// The folder of these files.
pub fn directory() -> PathBuf {
    server::data_directory().join("pg_stat")
}
