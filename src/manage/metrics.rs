//! The views of monitoring: `metrics`, `alarms` and `usage_nodes`, for callers who see everything.

use super::level::functions;
use super::listing::put_all;
use pg::call::Call;
use pg::error::Result;
use pgrx::pg_sys::Datum;

functions! {
    keysmith_metrics => metrics: Oversight;
    keysmith_alarms => alarms: Oversight;
    keysmith_usage_nodes => usage_nodes: Oversight;
}

fn metrics(call: &Call) -> Result<Option<Datum>> {
    put_all(call, needs::metrics, "SELECT * FROM keysmith_private.metrics()", &[])
}

fn alarms(call: &Call) -> Result<Option<Datum>> {
    put_all(call, needs::alarms, "SELECT * FROM keysmith_private.alarms()", &[])
}

fn usage_nodes(call: &Call) -> Result<Option<Datum>> {
    put_all(call, needs::usage_nodes, "SELECT * FROM keysmith_private.nodes()", &[])
}
