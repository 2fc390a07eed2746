//! Procedures that commit between their steps.

use crate::call::Call;
use crate::error::{Code, Error, Result};
use crate::scratch::Scratch;
use pgrx::PgLogLevel;
use pgrx::PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION;
use pgrx::pg_sys;

/// Declares procedures that SQL can call: `sql_symbol => path::to::function`. The function reads
/// the arguments from a `&Call`, and returns a step: `impl Fn(u64) -> Result<bool> + Copy`. The
/// step is called with the numbers from 0 on, each time in a new transaction, until it returns
/// false.
///
/// A step is `Copy`, so that it can't hold anything that ends with a transaction, such as an open
/// table.
#[macro_export]
macro_rules! procedures {
    ($($symbol:ident => $function:path;)*) => {$(
        const _: () = {
            fn run(
                call: &$crate::call::Call,
            ) -> $crate::error::Result<Option<pgrx::pg_sys::Datum>> {
                let step = $function(call)?;
                // SAFETY: the function has returned, so what it opened is closed.
                unsafe { $crate::procedure::run(call, stringify!($symbol), step)? };
                Ok(None)
            }

            $crate::call::sql_functions! {
                $symbol => run;
            }
        };
    )*};
}
pub use procedures;

/// Runs the steps of a procedure.
///
/// # Safety
/// The caller must hold nothing that ends with a transaction, such as an open table or a snapshot.
#[doc(hidden)]
pub unsafe fn run(
    call: &Call,
    symbol: &str,
    step: impl Fn(u64) -> Result<bool> + Copy + 'static,
) -> Result<()> {
    if !may_commit(call) {
        let name = symbol.trim_start_matches("keysmith_");
        pgrx::ereport!(
            PgLogLevel::ERROR,
            ERRCODE_INVALID_TRANSACTION_TERMINATION,
            format!("{name} commits, and can't be called inside a transaction")
        );
    }
    // SAFETY: SPI_finish is called whether the steps fail or not. A PostgreSQL error unwinds to the
    // caller, and the abort ends the SPI session.
    unsafe {
        if pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32) < 0 {
            return Err(Error::new(Code::Installation, "SPI_connect failed"));
        }
        let result = run_steps(step);
        pg_sys::SPI_finish();
        result
    }
}

/// Whether the procedure was called by a `CALL` outside of a transaction block.
fn may_commit(call: &Call) -> bool {
    // SAFETY: the frame is valid. Its context is null, or a node whose tag names its structure.
    unsafe {
        let node = (*call.frame()).context;
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_CallContext
            && !(*node.cast::<pg_sys::CallContext>()).atomic
    }
}

/// # Safety
/// An SPI session that may commit must be open. The caller must hold nothing that ends with a
/// transaction.
unsafe fn run_steps(step: impl Fn(u64) -> Result<bool>) -> Result<()> {
    for number in 0.. {
        let goes_on = in_own_memory(|| step(number))?;
        // SAFETY: as the caller promises. The step has returned, so its tables are closed and its
        // snapshots are released.
        unsafe { pg_sys::SPI_commit() };
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// Runs a step in a memory context that is freed after it, since there may be many steps. The
/// snapshot is for PostgreSQL functions that expect an active one: each commit pops it.
fn in_own_memory<T>(step: impl FnOnce() -> T) -> T {
    // SAFETY: after an error the abort pops the snapshot. The scratch context is dropped before its
    // parent.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = Scratch::new().run(step);
        pg_sys::PopActiveSnapshot();
        result
    }
}
