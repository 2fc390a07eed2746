//! A procedure that commits.

use crate::call::Call;
use crate::error::{Code, Error, Result};
use crate::scratch::Scratch;
use pgrx::PgLogLevel;
use pgrx::PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_TERMINATION;
use pgrx::pg_sys;

/// Declares procedures that SQL can call: `sql_symbol => path::to::function`. Each of these
/// reads the arguments of a `&Call`, and gives a step: `impl Fn(u64) -> Result<bool> + Copy`.
/// Steps are run with the numbers from 0 on, each in a transaction of its own, until one returns
/// false.
///
/// A step is `Copy`, so that nothing that ends with a transaction, such as an open table, gets
/// from one to the next.
#[macro_export]
macro_rules! procedures {
    ($($symbol:ident => $function:path;)*) => {$(
        const _: () = {
            fn run(
                call: &$crate::call::Call,
            ) -> $crate::error::Result<Option<pgrx::pg_sys::Datum>> {
                let step = $function(call)?;
                // SAFETY: all that the function opened is closed.
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

/// # Safety
/// The caller may hold nothing that ends with a transaction.
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
    // SAFETY: a session that may commit is ended whether the work fails or not. An error that
    // PostgreSQL raises unwinds to the caller's abort, which ends it.
    unsafe {
        if pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32) < 0 {
            return Err(Error::new(Code::Installation, "SPI_connect failed"));
        }
        let result = run_steps(step);
        pg_sys::SPI_finish();
        result
    }
}

/// Whether this is a `CALL` outside of a transaction.
fn may_commit(call: &Call) -> bool {
    // SAFETY: the frame is valid; its context is null or a node, whose tag tells what it is.
    unsafe {
        let node = (*call.frame()).context;
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_CallContext
            && !(*node.cast::<pg_sys::CallContext>()).atomic
    }
}

/// # Safety
/// In a session that may commit. The caller may hold nothing that ends with a transaction.
unsafe fn run_steps(step: impl Fn(u64) -> Result<bool>) -> Result<()> {
    for number in 0.. {
        let goes_on = in_own_memory(|| step(number))?;
        // SAFETY: as the caller promises. The step has closed its tables and let go of its
        // snapshots.
        unsafe { pg_sys::SPI_commit() };
        if !goes_on {
            break;
        }
    }
    Ok(())
}

/// There may be many steps, so the memory of each is freed after it. Some of PostgreSQL's
/// functions expect an active snapshot, and a commit pops it.
fn in_own_memory<T>(step: impl FnOnce() -> T) -> T {
    // SAFETY: after an error the abort pops the snapshot. The memory goes before that around it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = Scratch::new().run(step);
        pg_sys::PopActiveSnapshot();
        result
    }
}
