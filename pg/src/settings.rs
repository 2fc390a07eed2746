//! Settings (GUCs): those of the extension, and changes of others for the time of a call.

use pgrx::pg_sys::{self, GucContext, config_enum_entry};
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering::Relaxed};

/// Who may change a setting, and when.
#[derive(Clone, Copy)]
pub enum Context {
    /// Only when the server starts.
    Postmaster = GucContext::PGC_POSTMASTER as isize,
    /// In the server's configuration files, which are read again on reload.
    Reload = GucContext::PGC_SIGHUP as isize,
    /// By superusers, in any session.
    Superuser = GucContext::PGC_SUSET as isize,
}

/// The name, description, context and flags of a setting.
pub struct About {
    pub name: &'static CStr,
    pub description: &'static CStr,
    pub explanation: &'static CStr,
    pub context: Context,
    /// The unit and the visibility: `GUC_UNIT_MS`, `GUC_SUPERUSER_ONLY` and so on.
    pub flags: u32,
}

/// An integer setting.
pub struct Integer {
    about: About,
    value: AtomicI32,
    least: i32,
    most: i32,
}

impl Integer {
    pub const fn new(about: About, default: i32, least: i32, most: i32) -> Integer {
        Integer { about, value: AtomicI32::new(default), least, most }
    }

    #[inline]
    pub fn get(&self) -> i32 {
        self.value.load(Relaxed)
    }

    /// To be called from `_PG_init`.
    pub fn define(&'static self) {
        // SAFETY: all that is pointed to is static.
        unsafe {
            pg_sys::DefineCustomIntVariable(
                self.about.name.as_ptr(),
                self.about.description.as_ptr(),
                self.about.explanation.as_ptr(),
                self.value.as_ptr(),
                self.get(),
                self.least,
                self.most,
                self.about.context as GucContext::Type,
                self.about.flags as i32,
                None,
                None,
                None,
            );
        }
    }
}

/// A boolean setting.
pub struct Boolean {
    about: About,
    value: AtomicBool,
}

impl Boolean {
    pub const fn new(about: About, default: bool) -> Boolean {
        Boolean { about, value: AtomicBool::new(default) }
    }

    #[inline]
    pub fn get(&self) -> bool {
        self.value.load(Relaxed)
    }

    /// To be called from `_PG_init`.
    pub fn define(&'static self) {
        // SAFETY: all that is pointed to is static.
        unsafe {
            pg_sys::DefineCustomBoolVariable(
                self.about.name.as_ptr(),
                self.about.description.as_ptr(),
                self.about.explanation.as_ptr(),
                self.value.as_ptr(),
                self.get(),
                self.about.context as GucContext::Type,
                self.about.flags as i32,
                None,
                None,
                None,
            );
        }
    }
}

/// Why a new value of a setting is rejected.
pub struct SettingProblem {
    /// Replaces PostgreSQL's message, which quotes the value.
    pub message: Option<&'static CStr>,
    pub detail: Option<&'static CStr>,
    pub hint: Option<&'static CStr>,
}

/// The check of a text setting's new value. It must not allocate with palloc, and must not raise an
/// error.
pub trait Check {
    fn problem(value: &CStr) -> Option<SettingProblem>;
}

/// Accepts any text.
pub struct Anything;

impl Check for Anything {
    fn problem(_: &CStr) -> Option<SettingProblem> {
        None
    }
}

/// A text setting.
pub struct Text<C: Check = Anything> {
    about: About,
    value: AtomicPtr<c_char>,
    default: &'static CStr,
    check: PhantomData<fn() -> C>,
}

impl<C: Check + 'static> Text<C> {
    pub const fn new(about: About, default: &'static CStr) -> Text<C> {
        Text { about, value: AtomicPtr::new(null_mut()), default, check: PhantomData }
    }

    /// Passes the current value to `body`; an empty one if the setting is not defined.
    pub fn with<T>(&self, body: impl FnOnce(&CStr) -> T) -> T {
        let value = self.value.load(Relaxed);
        // SAFETY: PostgreSQL keeps a C string there, and replaces it only between statements.
        body(if value.is_null() { c"" } else { unsafe { CStr::from_ptr(value) } })
    }

    pub fn get(&self) -> String {
        self.with(|value| value.to_string_lossy().into_owned())
    }

    /// To be called from `_PG_init`.
    pub fn define(&'static self) {
        // SAFETY: all that is pointed to is static.
        unsafe {
            pg_sys::DefineCustomStringVariable(
                self.about.name.as_ptr(),
                self.about.description.as_ptr(),
                self.about.explanation.as_ptr(),
                self.value.as_ptr(),
                self.default.as_ptr(),
                self.about.context as GucContext::Type,
                self.about.flags as i32,
                Some(is_fit::<C>),
                None,
                None,
            );
        }
    }
}

/// # Safety
/// `value` must point to null or to a C string.
unsafe extern "C-unwind" fn is_fit<C: Check>(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as the caller promises. PostgreSQL only reads the static texts, and does not free
    // them.
    unsafe {
        let value = if (*value).is_null() { c"" } else { CStr::from_ptr(*value) };
        let Some(problem) = C::problem(value) else { return true };
        let text = |text: Option<&'static CStr>| text.map(|text| text.as_ptr().cast_mut());
        if let Some(message) = text(problem.message) {
            pg_sys::GUC_check_errmsg_string = message;
        }
        if let Some(detail) = text(problem.detail) {
            pg_sys::GUC_check_errdetail_string = detail;
        }
        if let Some(hint) = text(problem.hint) {
            pg_sys::GUC_check_errhint_string = hint;
        }
        false
    }
}

/// A setting with two allowed values.
pub struct Choice {
    about: About,
    value: AtomicI32,
    names: [config_enum_entry; 3],
}

// SAFETY: the names are static, and never changed; the value is atomic.
unsafe impl Sync for Choice {}

impl Choice {
    /// The first name is the default.
    pub const fn new(about: About, names: [&'static CStr; 2]) -> Choice {
        const fn entry(name: *const c_char, val: i32) -> config_enum_entry {
            config_enum_entry { name, val, hidden: false }
        }
        let [first, second] = names;
        // The list ends with an entry without a name.
        let names = [entry(first.as_ptr(), 0), entry(second.as_ptr(), 1), entry(null(), 0)];
        Choice { about, value: AtomicI32::new(0), names }
    }

    /// Whether the value is the first of the two.
    #[inline]
    pub fn is_the_first(&self) -> bool {
        self.value.load(Relaxed) == 0
    }

    /// To be called from `_PG_init`.
    pub fn define(&'static self) {
        // SAFETY: all that is pointed to is static.
        unsafe {
            pg_sys::DefineCustomEnumVariable(
                self.about.name.as_ptr(),
                self.about.description.as_ptr(),
                self.about.explanation.as_ptr(),
                self.value.as_ptr(),
                0,
                self.names.as_ptr(),
                self.about.context as GucContext::Type,
                self.about.flags as i32,
                None,
                None,
                None,
            );
        }
    }
}

/// Reserves a prefix: SET can't create further settings with it.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: the prefix is static.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// Whether the library is being preloaded. Settings of context `Postmaster` can be defined only
/// then.
pub fn is_preloading() -> bool {
    // SAFETY: reads a flag of the process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// The value of a setting that any session can create, since its name has a dot; `None` if it does
/// not exist.
pub fn custom(name: &CStr) -> Option<CString> {
    // SAFETY: returns null, or a C string that is valid until the setting changes. It is copied.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())
    }
}

/// The setting `lock_timeout`, in milliseconds; 0 if there is no timeout.
pub fn lock_timeout() -> i32 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::LockTimeout }
}

/// Times become text in UTC, until the work as a user ends.
pub fn in_utc() {
    set_for_now(c"TimeZone", c"UTC");
}

/// Changes a setting that every user may change, until the GUC nest level ends (see
/// `NewGUCNestLevel`), or at the latest the transaction.
pub fn set_for_now(name: &CStr, value: &CStr) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_SAVE);
}

/// As `SET LOCAL` does: changes a setting that every user may change, until the transaction ends.
pub fn set_local(name: &CStr, value: &CStr) {
    set(name, value, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

fn set(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    // SAFETY: both are C strings, which are copied.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// Runs `body` with these settings, and restores the old values. After an error the abort restores
/// them.
pub fn set_while<T>(settings: &[(&CStr, &CStr)], body: impl FnOnce() -> T) -> T {
    // SAFETY: AtEOXact_GUC ends the nest level that is begun here, and with it the changes.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            set_for_now(name, value);
        }
        let result = body();
        pg_sys::AtEOXact_GUC(true, level);
        result
    }
}
