//! The identity of a server among those that share its tables. Names of servers are for display:
//! nodes of one cluster often have the same `cluster_name`.
//!
//! The identity is in a file of the data directory, which a copy of the directory has too. So the
//! file also says which directory it was written for. In another one, or in a backup, the server
//! draws a new identity: directories of two machines may have the same numbers.
//!
//! An identity ends with the place of the data directory: a hash of the machine and the path. By it
//! the primary knows which server was there before. `pg_rewind` deletes all other traces of it.

use crate::usage::restart::files;
use keysmith_core::siphash::SipHasher;
use pg::server;
use std::fmt::{self, Display};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

/// The longest name, in characters. The rest of a longer one is cut off.
const MOST_NAME: usize = 100;

/// The drawn part of an identity, and the place.
const DRAWN: usize = 16;
const PLACE: usize = 8;
pub type Identity = [u8; DRAWN + PLACE];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: String,
    /// For display.
    pub name: String,
}

impl Node {
    /// This server, by its identity.
    pub fn own(id: Identity) -> Node {
        let cluster = server::cluster_name();
        let name = match cluster.as_str() {
            "" => format!("{}:{}", server::host_name(), server::port()),
            _ => cluster,
        };
        let name = name.chars().take(MOST_NAME).collect();
        Node { id: hex::encode(id), name }
    }

    /// Whether it is the server of this identity.
    pub fn is(&self, id: Identity) -> bool {
        self.id == hex::encode(id)
    }

    /// As `Display` writes it. A text without a space is both.
    pub fn parse(text: &str) -> Node {
        let (id, name) = text.split_once(' ').unwrap_or((text, text));
        Node { id: id.into(), name: name.into() }
    }
}

impl Display for Node {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        write!(to, "{} {}", self.id, self.name)
    }
}

/// The identity of this server. It is drawn when the data directory is first used. To be called by
/// the postmaster.
pub fn identity() -> Identity {
    let mut identity = Identity::default();
    let (drawn, place) = identity.split_at_mut(DRAWN);
    drawn.copy_from_slice(&drawn_for_directory());
    place.copy_from_slice(&self::place());
    identity
}

fn place() -> [u8; PLACE] {
    let mut hasher = SipHasher::new([0; 2]);
    hasher.sized(&fs::read("/etc/machine-id").unwrap_or_default());
    hasher.sized(server::host_name().as_bytes());
    hasher.sized(server::data_directory().as_os_str().as_bytes());
    (hasher.finish() as u64).to_be_bytes()
}

fn drawn_for_directory() -> [u8; DRAWN] {
    let file = files::directory().join("keysmith_node");
    let directory = directory();
    let known = directory.as_deref().and_then(|directory| known(&file, directory));
    let known = known.filter(|_| !files::are_of_backup());
    known.unwrap_or_else(|| {
        let mut id = [0; DRAWN];
        let drawn = getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()));
        let content = format!("{} {}\n", hex::encode(id), directory.unwrap_or_default());
        if let Err(error) = drawn.and_then(|()| files::write(&file, content.as_bytes())) {
            pgrx::log!("keysmith: {} can't be written: {error}", file.display());
        }
        id
    })
}

/// The data directory as the operating system tells it from others.
fn directory() -> Option<String> {
    let found = fs::metadata(server::data_directory()).ok()?;
    Some(format!("{}:{}", found.dev(), found.ino()))
}

/// The identity in the file, if the file was written for this directory.
fn known(file: &Path, directory: &str) -> Option<[u8; DRAWN]> {
    let content = fs::read_to_string(file).ok()?;
    let (id, of) = content.trim_end().split_once(' ')?;
    let mut bytes = [0; DRAWN];
    hex::decode_to_slice(id, &mut bytes).ok()?;
    (of == directory).then_some(bytes)
}
