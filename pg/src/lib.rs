//! Safe types over PostgreSQL's functions and structures: everything that the extension needs from
//! PostgreSQL.

pub mod attempt;
pub mod bulk;
pub mod call;
pub mod callback;
pub mod cell;
pub mod clock;
pub mod column;
pub mod composite;
pub mod context;
pub mod datum;
pub mod direct;
pub mod error;
pub mod exit;
pub mod function_start;
pub mod index_condition;
pub mod input;
pub mod invalidation;
pub mod json_record;
pub mod jsonb;
pub mod latch;
pub mod lock;
pub mod locked;
pub mod lookup;
pub mod major;
pub mod memo;
pub mod memory;
pub mod notice;
pub mod notify;
pub mod output;
pub mod planner;
pub mod procedure;
pub mod record;
pub mod relation;
pub mod replication_slot;
pub mod result_set;
pub mod role;
pub mod row;
pub mod row_lock;
pub mod saved_plan;
pub mod scan;
pub mod scratch;
pub mod server;
pub mod settings;
pub mod shmem;
pub mod snapshot;
pub mod spi;
pub mod subscription;
pub mod table;
pub mod table_trigger;
pub mod text;
pub mod transaction;
pub mod trigger;
pub mod tuple;
pub mod tuptable;
pub mod types;
pub mod user_table;
pub mod value;
pub mod varlena;
pub mod wal_receiver;
pub mod worker;

use std::ffi::CStr;

/// The schema of the extension's own tables; only its owner can name them.
pub const PRIVATE: &CStr = c"keysmith_private";
