//! A row trigger's call: the row as it was, and as it is to be.

use super::table;
use pg::call::Call;
use pg::error::{Code, Error, Result};
use pg::user_table::arguments;
use pgrx::pg_sys::{self, Datum, HeapTuple, Relation, TriggerData, TupleDesc};
use std::ffi::CStr;

pub struct RowTrigger<'a>(&'a TriggerData);

impl<'a> RowTrigger<'a> {
    /// Refuses to be anything but a row trigger before an insert or an update.
    pub fn of(call: &'a Call, function: &str, made_by: &str) -> Result<Self> {
        // SAFETY: the frame is valid, and its context is null or a node, whose tag tells
        // whether it is a trigger's; that lives as long as the call.
        let trigger = unsafe {
            let node = (*call.frame()).context;
            let is_trigger = !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_TriggerData;
            is_trigger.then(|| &*node.cast::<TriggerData>())
        };
        let fits = |trigger: &&TriggerData| {
            let operation = trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
            trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
                && trigger.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK
                    == pg_sys::TRIGGER_EVENT_BEFORE
                && (operation == pg_sys::TRIGGER_EVENT_INSERT
                    || operation == pg_sys::TRIGGER_EVENT_UPDATE)
        };
        trigger.filter(fits).map(RowTrigger).ok_or_else(|| {
            let rule = "can be called only by row triggers before INSERT or UPDATE";
            Error::new(Code::InvalidArgument, format!("{function} {rule}"))
                .hint(format!("keysmith.{made_by} makes them."))
        })
    }

    pub fn arguments(&self) -> Vec<&'a CStr> {
        // SAFETY: the trigger has as many arguments as it says; it and they live as long
        // as its relation is open.
        unsafe { arguments(&*self.0.tg_trigger) }
    }

    pub fn relation(&self) -> Relation {
        self.0.tg_relation
    }

    pub fn description(&self) -> TupleDesc {
        // SAFETY: the trigger manager has the relation open.
        unsafe { (*self.0.tg_relation).rd_att }
    }

    fn is_update(&self) -> bool {
        self.0.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE
    }

    /// The row before an update.
    pub fn before(&self) -> Option<HeapTuple> {
        self.is_update().then_some(self.0.tg_trigtuple)
    }

    pub fn after(&self) -> HeapTuple {
        if self.is_update() { self.0.tg_newtuple } else { self.0.tg_trigtuple }
    }

    /// A value of one of the two rows.
    pub fn value(&self, row: HeapTuple, column: i16) -> Option<Datum> {
        // SAFETY: both rows are of the relation.
        unsafe { table::value(row, column, self.description()) }
    }

    /// What the trigger returns: the new row with these values.
    pub fn result(&self, changes: &[(i16, Datum)]) -> Datum {
        // SAFETY: the new row is of the relation.
        let row = unsafe { table::with_values(self.after(), self.description(), changes) };
        Datum::from(row)
    }
}
