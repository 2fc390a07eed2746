//! Access levels, and what each allows.
//!
//! A function of management says once what it needs, in `functions!`. Both halves of its
//! privilege come from there: which levels `grant_access` grants EXECUTE to, and what the function
//! checks when it is called.

/// What a function needs, besides EXECUTE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: the arguments are authority enough, or there is nothing to guard.
    Nothing,
    /// To administer: keyspaces, catalogues, tenants, access.
    Admin,
    /// To say who acts: to sign in persons, and to make tenants and members.
    Host,
    /// To manage keys: all keys, or those of some tenants.
    Keys,
    /// To see what happened to keys.
    Sight,
    /// To see everything, of every tenant.
    Oversight,
}

impl Needs {
    /// The levels that allow it, for messages.
    pub fn levels(self) -> &'static str {
        match self {
            Needs::Nothing => "any level",
            Needs::Admin => "'admin'",
            Needs::Host => "'host' or 'admin'",
            Needs::Keys => "'admin', or 'issuer' of a tenant",
            Needs::Sight => "'admin', 'auditor', or 'issuer' of a tenant",
            Needs::Oversight => "'admin' or 'auditor'",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Verifier,
    Host,
    Issuer,
    Auditor,
    Admin,
}

impl Level {
    pub const ALL: [Level; 5] =
        [Level::Verifier, Level::Host, Level::Issuer, Level::Auditor, Level::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Level::Verifier => "verifier",
            Level::Host => "host",
            Level::Issuer => "issuer",
            Level::Auditor => "auditor",
            Level::Admin => "admin",
        }
    }

    pub fn named(name: &[u8]) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name().as_bytes() == name)
    }

    /// Whether the level is enough for functions that need this. Functions that need nothing are
    /// granted by name.
    pub fn allows(self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => false,
            Needs::Admin => self == Level::Admin,
            Needs::Host => matches!(self, Level::Admin | Level::Host),
            Needs::Keys => matches!(self, Level::Admin | Level::Issuer | Level::Host),
            Needs::Sight => {
                matches!(self, Level::Admin | Level::Auditor | Level::Issuer | Level::Host)
            }
            Needs::Oversight => matches!(self, Level::Admin | Level::Auditor),
        }
    }
}

/// Functions of a file with what they need.
pub type Functions = &'static [(&'static str, Needs)];

/// Declares functions that SQL can call: `sql_symbol => function: Needs`. The function hands
/// `needs::function` to `authority`; the compiler warns if nothing does.
macro_rules! functions {
    ($($symbol:ident => $function:ident: $needs:ident;)*) => {
        pg::call::sql_functions! { $($symbol => $function;)* }

        #[allow(non_upper_case_globals)]
        mod needs {
            use crate::manage::level::Needs;
            $(pub const $function: Needs = Needs::$needs;)*
        }

        pub const FUNCTIONS: crate::manage::level::Functions =
            &[$((stringify!($symbol), crate::manage::level::Needs::$needs)),*];
    };
}
pub(super) use functions;
