//! keysmith: API keys inside PostgreSQL.

#![forbid(unsafe_code)]

mod audit;
mod calls;
mod catalog;
mod decide;
mod identity;
mod install;
mod lag;
mod ledger;
mod limit;
mod manage;
mod pepper;
mod random;
mod request_id;
mod rows;
mod secret_file;
mod serve;
mod settings;
mod signing;
mod tracking;
mod transaction;
mod usage;
mod verdict;

#[cfg(not(panic = "unwind"))]
compile_error!("PostgreSQL's errors are panics on their way through Rust, so panic must be unwind");

pgrx::pg_module_magic!();

pg::callback::on_load!(load);

fn load() -> pg::error::Result<()> {
    pg::error::without_backtraces();
    settings::define();
    pepper::FILE.define();
    signing::FILE.define();
    usage::settings::define();
    calls::pre_request_settings::define();
    transaction::register();
    identity::watch();
    if pg::settings::is_preloading() {
        lag::install();
        usage::restart::startup::install();
        pg::shmem::install(&REGIONS);
    }
    pg::settings::reserve_prefix(c"keysmith");
    // A server that can't read its peppers would refuse every key: it must
    // say so when it is started, not to each caller.
    pepper::FILE.load()?;
    signing::FILE.load()
}

/// What is kept in shared memory.
static REGIONS: [&dyn pg::shmem::Section; 10] = [
    &catalog::directory::REGION,
    &limit::REGION,
    &limit::FAILURES,
    &limit::slots::REGION,
    &limit::unsettled::REGION,
    &usage::queue::REGION,
    &usage::queue::decisions::REGION,
    &audit::event::REGION,
    &pepper::FILE.reads,
    &signing::FILE.reads,
];
