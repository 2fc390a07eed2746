//! A call of a trigger: its event, its table, its old and new rows.

use crate::error::Result;
use crate::memo;
use crate::relation::RelationView;
use crate::tuple::Tuple;
use crate::user_table::{UserRow, each_row_in_store};
use pgrx::pg_sys::{self, Datum, FmgrInfo, HeapTuple, MemoryContext, TriggerData};
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::rc::Rc;

/// Declares trigger functions: `sql_symbol => path::to::function`, each of them
/// `fn(Option<&TriggerCall>) -> Result<Returned>`. The call is `None` if the function was not
/// called as a trigger.
#[macro_export]
macro_rules! trigger_functions {
    ($($symbol:ident => $function:path;)*) => {$(
        const _: () = {
            $crate::call::finfo!($symbol);

            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $symbol(
                fcinfo: pgrx::pg_sys::FunctionCallInfo,
            ) -> pgrx::pg_sys::Datum {
                // SAFETY: PostgreSQL passes a valid call frame. This frame holds nothing
                // that needs dropping.
                unsafe {
                    $crate::callback::guarded(|| {
                        $crate::memory::Watch::keep(|| {
                            let call = $crate::trigger::TriggerCall::new(fcinfo);
                            $function(call.as_ref()).map($crate::trigger::Returned::into_datum)
                        })
                    })
                }
            }
        };
    )*};
}
pub use trigger_functions;

/// The kind of command that a trigger was fired for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TriggerEvent {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A call of a trigger. What its methods return lives as long as the call.
pub struct TriggerCall<'a> {
    data: &'a TriggerData,
    function: *mut FmgrInfo,
    /// A memory context that lives at least as long as the call.
    memory: MemoryContext,
}

/// One of the transition tables.
#[derive(Clone, Copy)]
pub enum Copies {
    Old,
    New,
}

/// What a trigger function returns.
pub struct Returned(HeapTuple);

impl Returned {
    /// A null pointer, which is not an SQL null. If a BEFORE ROW trigger returns it, PostgreSQL
    /// skips the row. All other triggers must return it.
    pub fn nothing() -> Returned {
        Returned(std::ptr::null_mut())
    }

    pub fn into_datum(self) -> Datum {
        Datum::from(self.0)
    }
}

impl<'a> TriggerCall<'a> {
    /// `None` if the function was not called as a trigger.
    ///
    /// # Safety
    /// The frame must be that of the function of this library that is being called. The result must
    /// not outlive the call.
    pub unsafe fn new(fcinfo: pg_sys::FunctionCallInfo) -> Option<TriggerCall<'a>> {
        // SAFETY: as the caller promises. The frame's context is null or a node, whose tag tells
        // whether it is a `TriggerData`. The memory context that is current when a call begins
        // lives until the call ends.
        unsafe {
            let node = (*fcinfo).context;
            let is_trigger = !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_TriggerData;
            is_trigger.then(|| TriggerCall {
                data: &*node.cast::<TriggerData>(),
                function: (*fcinfo).flinfo,
                memory: pg_sys::CurrentMemoryContext,
            })
        }
    }

    pub fn event(&self) -> TriggerEvent {
        match self.data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => TriggerEvent::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => TriggerEvent::Update,
            pg_sys::TRIGGER_EVENT_DELETE => TriggerEvent::Delete,
            _ => TriggerEvent::Truncate,
        }
    }

    /// Whether it is a row trigger, and not a statement trigger.
    pub fn is_for_row(&self) -> bool {
        self.data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0
    }

    pub fn is_before(&self) -> bool {
        self.data.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    /// The trigger's name, in the database's encoding.
    pub fn name(&self) -> &CStr {
        // SAFETY: the executor has a copy of the trigger, which outlives the call.
        unsafe { CStr::from_ptr((*self.data.tg_trigger).tgname) }
    }

    pub fn arguments(&self) -> Vec<&CStr> {
        // SAFETY: the executor has a copy of the trigger, which outlives the call. It has as
        // many arguments as it says, each a C string.
        unsafe {
            let trigger = &*self.data.tg_trigger;
            let count = usize::try_from(trigger.tgnargs).unwrap_or_default();
            (0..count).map(|n| CStr::from_ptr(*trigger.tgargs.add(n))).collect()
        }
    }

    pub fn relation(&self) -> RelationView<'_> {
        // SAFETY: the trigger manager keeps the table open during the call.
        unsafe { RelationView::new(self.data.tg_relation) }
    }

    /// The old row of an update or a delete.
    pub fn old(&self) -> Option<Tuple<'_>> {
        let has = matches!(self.event(), TriggerEvent::Update | TriggerEvent::Delete);
        self.tuple(has.then_some(self.data.tg_trigtuple)?)
    }

    /// The new row of an insert or an update.
    pub fn new_row(&self) -> Option<Tuple<'_>> {
        self.tuple(match self.event() {
            TriggerEvent::Insert => self.data.tg_trigtuple,
            TriggerEvent::Update => self.data.tg_newtuple,
            TriggerEvent::Delete | TriggerEvent::Truncate => return None,
        })
    }

    fn tuple(&self, tuple: HeapTuple) -> Option<Tuple<'_>> {
        let is_there = self.is_for_row() && !tuple.is_null();
        // SAFETY: the rows of a row trigger have the description of its table. They and the memory
        // context live as long as the call.
        is_there.then(|| unsafe { Tuple::new(tuple, self.relation().description(), self.memory) })
    }

    /// How many rows the statement has changed, if the trigger has a transition table.
    pub fn copied_rows(&self) -> Option<i64> {
        let copies = [self.data.tg_newtable, self.data.tg_oldtable];
        let copies = copies.into_iter().find(|copies| !copies.is_null())?;
        // SAFETY: the statement's transition table, which outlives its triggers.
        Some(unsafe { pg_sys::tuplestore_tuple_count(copies) })
    }

    /// Calls `body` for each old row, or each new row, that the statement's transition table has. The
    /// columns up to `last` are read.
    pub fn each_copied_row(
        &self,
        which: Copies,
        last: i16,
        mut body: impl FnMut(&UserRow) -> Result<()>,
    ) -> Result<()> {
        let copies = match which {
            Copies::Old => self.data.tg_oldtable,
            Copies::New => self.data.tg_newtable,
        };
        if copies.is_null() {
            return Ok(());
        }
        let description = self.relation().description().get();
        // SAFETY: the statement's transition table has rows of the trigger's table, and outlives the
        // call.
        unsafe {
            each_row_in_store(copies, description, last, |row| {
                body(row)?;
                Ok(ControlFlow::Continue(()))
            })
        }
    }

    /// The value that `make` returned earlier in this statement, if it still `fits`; otherwise a
    /// new one.
    pub fn remembered<T: 'static>(
        &self,
        fits: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<Rc<T>> {
        // SAFETY: the `FmgrInfo` is that of the function that is being called.
        unsafe { memo::remembered(self.function, fits, make) }
    }

    /// Returns a row of the trigger's table, for PostgreSQL to write.
    pub fn returned(&self, row: Tuple<'_>) -> Returned {
        Returned(row.get())
    }
}
