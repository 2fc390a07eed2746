//! Statements that run often. Each is parsed once in a session, and PostgreSQL keeps its plan
//! until the session ends.
//!
//! PostgreSQL checks such a plan before each use, as it does for PL/pgSQL and for foreign keys. It
//! makes the plan again if an object that the plan uses was altered or replaced, if the search path
//! is another one, or if row security applies in another way. Privileges are checked at each use,
//! for the user of that use. So a plan does not depend on the user who made it: names have schemas,
//! and the search path is the one of `role`.
//!
//! The plans are generic: they look up a few rows by unique keys, whatever the values are. The
//! setting `plan_cache_mode` can choose otherwise.

use crate::error::{Code, Error, Result};
use pgrx::pg_sys::{self, Oid, SPIPlanPtr};
use std::ffi::{CString, c_int};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// A statement whose plan is saved. Make it with `saved!`.
pub struct Saved {
    text: &'static str,
    /// Null until the statement is first run.
    plan: AtomicPtr<Plan>,
}

/// A plan that PostgreSQL keeps, and the types of its parameters.
struct Plan {
    plan: SPIPlanPtr,
    kinds: Box<[Oid]>,
}

/// A statement with this text, whose plan is saved. Each use of this macro in the code has a
/// separate plan.
#[macro_export]
macro_rules! saved {
    ($text:expr) => {{
        static SAVED: $crate::saved_plan::Saved = $crate::saved_plan::Saved::new($text);
        &SAVED
    }};
}
pub use saved;

impl Saved {
    #[doc(hidden)]
    pub const fn new(text: &'static str) -> Saved {
        // ASCII text is the same in all encodings of databases.
        assert!(text.is_ascii(), "a statement must be ASCII");
        Saved { text, plan: AtomicPtr::new(null_mut()) }
    }

    /// The plan for parameters of these types. The first call makes it. PostgreSQL never frees it.
    pub(crate) fn plan(&self, kinds: &mut [Oid]) -> Result<SPIPlanPtr> {
        // SAFETY: null, or made below and never freed.
        if let Some(known) = unsafe { self.plan.load(Relaxed).as_ref() } {
            // PostgreSQL reads each value as the type that the plan was made for.
            if *known.kinds != *kinds {
                pgrx::error!("a statement has parameters of other types than before");
            }
            return Ok(known.plan);
        }
        let text = CString::new(self.text).unwrap_or_default();
        let mut made = Box::new(Plan { plan: null_mut(), kinds: Box::from(&*kinds) });
        let (count, options) = (kinds.len() as c_int, pg_sys::CURSOR_OPT_GENERIC_PLAN as c_int);
        // SAFETY: `count` is the number of types. Without an SPI session PostgreSQL returns null.
        // After an error it frees what it made, and nothing was stored here. After SPI_keepplan
        // nothing fails.
        unsafe {
            made.plan =
                pg_sys::SPI_prepare_cursor(text.as_ptr(), count, kinds.as_mut_ptr(), options);
            if made.plan.is_null() || pg_sys::SPI_keepplan(made.plan) != 0 {
                return Err(Error::new(Code::Installation, "SPI_prepare failed"));
            }
        }
        let plan = made.plan;
        self.plan.store(Box::into_raw(made), Relaxed);
        Ok(plan)
    }
}
