//! keysmith: API keys inside PostgreSQL.

mod audit;
mod calls;
mod catalog;
mod decide;
mod identity;
mod lag;
mod limit;
mod manage;
mod pepper;
mod request_id;
mod rows;
mod settings;
mod tracking;
mod transaction;
mod usage;
mod verdict;

#[cfg(not(panic = "unwind"))]
compile_error!("PostgreSQL's errors are panics on their way through Rust, so panic must be unwind");

pgrx::pg_module_magic!();

// Each requires the one before it: the order in which pgrx writes pieces that don't
// depend on one another changes from build to build.
pgrx::extension_sql_file!("../sql/install/10_schema.sql", name = "schema", bootstrap);
pgrx::extension_sql_file!("../sql/install/20_tables.sql", name = "tables", requires = ["schema"]);
pgrx::extension_sql_file!("../sql/install/25_usage.sql", name = "usage", requires = ["tables"]);
pgrx::extension_sql_file!(
    "../sql/install/26_usage_rollups.sql",
    name = "usage_rollups",
    requires = ["usage"]
);
pgrx::extension_sql_file!(
    "../sql/install/27_usage_maintain.sql",
    name = "usage_maintain",
    requires = ["usage_rollups"]
);
pgrx::extension_sql_file!(
    "../sql/install/30_policy_triggers.sql",
    name = "policy_triggers",
    requires = ["usage_maintain"]
);
pgrx::extension_sql_file!(
    "../sql/install/40_keys_view.sql",
    name = "keys_view",
    requires = ["policy_triggers"]
);
pgrx::extension_sql_file!(
    "../sql/install/50_manage.sql",
    name = "manage",
    requires = ["keys_view"]
);
pgrx::extension_sql_file!("../sql/install/60_decide.sql", name = "decide", requires = ["manage"]);
pgrx::extension_sql_file!(
    "../sql/install/61_pre_request.sql",
    name = "pre_request",
    requires = ["decide"]
);
pgrx::extension_sql_file!(
    "../sql/install/62_usage_functions.sql",
    name = "usage_functions",
    requires = ["pre_request"]
);
pgrx::extension_sql_file!(
    "../sql/install/63_usage_collect.sql",
    name = "usage_collect",
    requires = ["usage_functions"]
);
pgrx::extension_sql_file!(
    "../sql/install/65_identity.sql",
    name = "identity",
    requires = ["usage_collect"]
);
pgrx::extension_sql_file!("../sql/install/66_audit.sql", name = "audit", requires = ["identity"]);
pgrx::extension_sql_file!(
    "../sql/install/67_isolation.sql",
    name = "isolation",
    requires = ["audit"]
);
pgrx::extension_sql_file!(
    "../sql/install/68_restore.sql",
    name = "restore",
    requires = ["isolation"]
);
pgrx::extension_sql_file!(
    "../sql/install/70_usage_views.sql",
    name = "usage_views",
    requires = ["restore"]
);
pgrx::extension_sql_file!(
    "../sql/install/71_tracking.sql",
    name = "tracking",
    requires = ["usage_views"]
);
pgrx::extension_sql_file!(
    "../sql/install/72_row_hashing.sql",
    name = "row_hashing",
    requires = ["tracking"]
);
pgrx::extension_sql_file!(
    "../sql/install/73_row_seals.sql",
    name = "row_seals",
    requires = ["row_hashing"]
);
pgrx::extension_sql_file!(
    "../sql/install/80_status.sql",
    name = "status",
    requires = ["row_seals"]
);
pgrx::extension_sql_file!(
    "../sql/install/82_admin_views.sql",
    name = "admin_views",
    requires = ["status"]
);
pgrx::extension_sql_file!(
    "../sql/install/84_scanner.sql",
    name = "scanner",
    requires = ["admin_views"]
);
pgrx::extension_sql_file!(
    "../sql/install/85_doctor_isolation.sql",
    name = "doctor_isolation",
    requires = ["scanner"]
);
pgrx::extension_sql_file!(
    "../sql/install/86_doctor.sql",
    name = "doctor",
    requires = ["doctor_isolation"]
);
pgrx::extension_sql_file!("../sql/install/90_privileges.sql", name = "privileges", finalize);

/// Called when the library is loaded: by the postmaster where it is preloaded, else
/// by the first session of a backend that calls one of its functions.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn _PG_init() {
    // SAFETY: nothing else is on this frame.
    unsafe {
        pg::callback::guarded(|| {
            pg::error::without_backtraces();
            settings::define();
            usage::settings::define();
            calls::pre_request_settings::define();
            transaction::register();
            if pg::settings::is_preloading() {
                lag::install();
                usage::restart::startup::install();
                pg::shmem::install(&REGIONS);
            }
            pg::settings::reserve_prefix(c"keysmith");
            // A server that can't read its peppers would refuse every key: it must
            // say so when it is started, not to each caller.
            pepper::load()
        })
    }
}

/// What is kept in shared memory.
static REGIONS: [&dyn pg::shmem::Section; 4] =
    [&catalog::directory::REGION, &limit::REGION, &usage::queue::REGION, &audit::event::REGION];
