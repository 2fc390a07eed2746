//! Checks that a function was called by the kind of trigger that it is for.

use pg::error::{Code, Error, Result};
use pg::trigger::{TriggerCall, TriggerEvent};
use pg::tuple::Tuple;

/// The call of a row trigger before an insert or an update, with the new row.
pub fn new_row<'a>(
    call: Option<&'a TriggerCall>,
    function: &str,
    made_by: &str,
) -> Result<(&'a TriggerCall<'a>, Tuple<'a>)> {
    let fits = |call: &&TriggerCall| {
        call.is_before() && matches!(call.event(), TriggerEvent::Insert | TriggerEvent::Update)
    };
    let found = call.filter(fits).and_then(|call| Some((call, call.new_row()?)));
    found.ok_or_else(|| {
        let rule = "can be called only by row triggers before INSERT or UPDATE";
        Error::new(Code::InvalidArgument, format!("{function} {rule}"))
            .hint(format!("keysmith.{made_by} makes them."))
    })
}
