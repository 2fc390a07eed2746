//! The answers of a decision, and their HTTP status and code.

/// The exact reason of an answer, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Ok,
    /// No key was given, and the route needs none.
    Public,
    Missing,
    MalformedHeader,
    MalformedKey,
    /// A token that the server did not make, or that is for another keyspace.
    TokenInvalid,
    ReplicaBehind,
    NotFound,
    WrongKeyspace,
    WrongEnvironment,
    Revoked,
    Expired,
    /// The token has expired, but not its key.
    TokenExpired,
    Disabled,
    /// The worker disabled it, because it was not used.
    Idle,
    TenantSuspended,
    OwnerGone,
    /// Too many requests of the address had no valid key. It replaces a reason before it.
    TooManyFailures,
    IpNotAllowed,
    IpUnknown,
    KindNotAllowed,
    ScopesNull,
    InsufficientScope,
    RateLimited,
    LimitsUnavailable,
    CreditsExhausted,
    CreditsUnavailable,
}

impl Reason {
    /// All reasons, in the order of the rules that give them.
    pub const ALL: [Reason; 27] = [
        Reason::Ok,
        Reason::Public,
        Reason::Missing,
        Reason::MalformedHeader,
        Reason::MalformedKey,
        Reason::TokenInvalid,
        Reason::ReplicaBehind,
        Reason::NotFound,
        Reason::WrongKeyspace,
        Reason::WrongEnvironment,
        Reason::Revoked,
        Reason::Expired,
        Reason::TokenExpired,
        Reason::Disabled,
        Reason::Idle,
        Reason::TenantSuspended,
        Reason::OwnerGone,
        Reason::TooManyFailures,
        Reason::IpNotAllowed,
        Reason::IpUnknown,
        Reason::KindNotAllowed,
        Reason::ScopesNull,
        Reason::InsufficientScope,
        Reason::RateLimited,
        Reason::LimitsUnavailable,
        Reason::CreditsExhausted,
        Reason::CreditsUnavailable,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Reason::Ok => "ok",
            Reason::Public => "public",
            Reason::Missing => "missing",
            Reason::MalformedHeader => "malformed_header",
            Reason::MalformedKey => "malformed_key",
            Reason::TokenInvalid => "token_invalid",
            Reason::ReplicaBehind => "replica_behind",
            Reason::NotFound => "not_found",
            Reason::WrongKeyspace => "wrong_keyspace",
            Reason::WrongEnvironment => "wrong_environment",
            Reason::Revoked => "revoked",
            Reason::Expired => "expired",
            Reason::TokenExpired => "token_expired",
            Reason::Disabled => "disabled",
            Reason::Idle => "idle",
            Reason::TenantSuspended => "tenant_suspended",
            Reason::OwnerGone => "owner_gone",
            Reason::TooManyFailures => "too_many_failures",
            Reason::IpNotAllowed => "ip_not_allowed",
            Reason::IpUnknown => "ip_unknown",
            Reason::KindNotAllowed => "kind_not_allowed",
            Reason::ScopesNull => "scopes_null",
            Reason::InsufficientScope => "insufficient_scope",
            Reason::RateLimited => "rate_limited",
            Reason::LimitsUnavailable => "limits_unavailable",
            Reason::CreditsExhausted => "credits_exhausted",
            Reason::CreditsUnavailable => "credits_unavailable",
        }
    }

    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Whether the request may go on.
    #[inline]
    pub fn is_good(self) -> bool {
        matches!(self, Reason::Ok | Reason::Public)
    }

    /// Whether the request presented something in place of a valid key. A token that has expired
    /// was valid, and its client is about to get another one.
    pub const fn is_failed_attempt(self) -> bool {
        !matches!(self, Reason::Missing | Reason::TokenExpired) && self.answer().status() == 401
    }

    /// The answer for the client. Several reasons have the same answer, so that a client without
    /// a good key learns nothing about the existing keys.
    pub const fn answer(self) -> Answer {
        match self {
            Reason::Ok | Reason::Public => Answer::Ok,
            Reason::Missing => Answer::MissingAuthorization,
            Reason::MalformedHeader => Answer::InvalidAuthorization,
            Reason::MalformedKey
            | Reason::NotFound
            | Reason::WrongKeyspace
            | Reason::WrongEnvironment
            | Reason::Revoked
            | Reason::Expired
            | Reason::Disabled
            | Reason::Idle
            | Reason::TenantSuspended
            | Reason::OwnerGone => Answer::InvalidApiKey,
            Reason::TokenInvalid => Answer::TokenInvalid,
            Reason::TokenExpired => Answer::TokenExpired,
            Reason::ReplicaBehind => Answer::Unavailable,
            Reason::TooManyFailures => Answer::TooManyFailures,
            Reason::IpNotAllowed | Reason::IpUnknown => Answer::IpNotAllowed,
            Reason::KindNotAllowed => Answer::InsufficientKind,
            Reason::ScopesNull | Reason::InsufficientScope => Answer::InsufficientScope,
            Reason::RateLimited | Reason::LimitsUnavailable => Answer::RateLimited,
            Reason::CreditsExhausted | Reason::CreditsUnavailable => Answer::CreditsExhausted,
        }
    }
}

impl Reason {
    /// The answer to a client whose key was good once, if the keyspace has words for it.
    pub const fn own_answer(self) -> Option<Answer> {
        match self {
            Reason::Revoked => Some(Answer::Revoked),
            Reason::Expired => Some(Answer::Expired),
            Reason::Disabled => Some(Answer::Disabled),
            Reason::Idle => Some(Answer::Idle),
            _ => None,
        }
    }
}

/// An answer in our own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    Ok,
    MissingAuthorization,
    InvalidAuthorization,
    InvalidApiKey,
    TokenInvalid,
    TokenExpired,
    TooManyFailures,
    IpNotAllowed,
    InsufficientKind,
    InsufficientScope,
    RateLimited,
    CreditsExhausted,
    Unavailable,
    // Answers that only keyspaces with words for them give, in place of `InvalidApiKey`.
    Revoked,
    Expired,
    Disabled,
    Idle,
    // Errors of operations.
    InvalidRequest,
    Forbidden,
    NotFound,
    CrossSiteRequest,
    MethodNotAllowed,
    Conflict,
    ContentTooLarge,
    UnsupportedMediaType,
    InternalError,
}

impl Answer {
    /// All answers. A keyspace may replace their codes and messages.
    pub const ALL: [Answer; 26] = [
        Answer::Ok,
        Answer::MissingAuthorization,
        Answer::InvalidAuthorization,
        Answer::InvalidApiKey,
        Answer::TokenInvalid,
        Answer::TokenExpired,
        Answer::TooManyFailures,
        Answer::IpNotAllowed,
        Answer::InsufficientKind,
        Answer::InsufficientScope,
        Answer::RateLimited,
        Answer::CreditsExhausted,
        Answer::Unavailable,
        Answer::Revoked,
        Answer::Expired,
        Answer::Disabled,
        Answer::Idle,
        Answer::InvalidRequest,
        Answer::Forbidden,
        Answer::NotFound,
        Answer::CrossSiteRequest,
        Answer::MethodNotAllowed,
        Answer::Conflict,
        Answer::ContentTooLarge,
        Answer::UnsupportedMediaType,
        Answer::InternalError,
    ];

    /// The answer with one of our own codes.
    pub fn from_code(code: &str) -> Option<Answer> {
        Answer::ALL.into_iter().find(|answer| answer.code() == code)
    }

    /// The HTTP status that fits.
    pub const fn status(self) -> i32 {
        match self {
            Answer::Ok => 200,
            Answer::MissingAuthorization
            | Answer::InvalidAuthorization
            | Answer::InvalidApiKey
            | Answer::TokenInvalid
            | Answer::TokenExpired
            | Answer::Revoked
            | Answer::Expired
            | Answer::Disabled
            | Answer::Idle => 401,
            Answer::IpNotAllowed
            | Answer::InsufficientKind
            | Answer::InsufficientScope
            | Answer::Forbidden
            | Answer::CrossSiteRequest => 403,
            Answer::TooManyFailures | Answer::RateLimited | Answer::CreditsExhausted => 429,
            Answer::Unavailable => 503,
            Answer::InvalidRequest => 400,
            Answer::NotFound => 404,
            Answer::MethodNotAllowed => 405,
            Answer::Conflict => 409,
            Answer::ContentTooLarge => 413,
            Answer::UnsupportedMediaType => 415,
            Answer::InternalError => 500,
        }
    }

    pub const fn code(self) -> &'static str {
        match self {
            Answer::Ok => "ok",
            Answer::MissingAuthorization => "missing_authorization",
            Answer::InvalidAuthorization => "invalid_authorization",
            Answer::InvalidApiKey => "invalid_api_key",
            Answer::TokenInvalid => "token_invalid",
            Answer::TokenExpired => "token_expired",
            Answer::TooManyFailures => "too_many_failures",
            Answer::IpNotAllowed => "ip_not_allowed",
            Answer::InsufficientKind => "insufficient_kind",
            Answer::InsufficientScope => "insufficient_scope",
            Answer::RateLimited => "rate_limited",
            Answer::CreditsExhausted => "credits_exhausted",
            Answer::Unavailable => "unavailable",
            Answer::Revoked => "revoked",
            Answer::Expired => "expired",
            Answer::Disabled => "disabled",
            Answer::Idle => "idle",
            Answer::InvalidRequest => "invalid_request",
            Answer::Forbidden => "forbidden",
            Answer::NotFound => "not_found",
            Answer::CrossSiteRequest => "cross_site_request",
            Answer::MethodNotAllowed => "method_not_allowed",
            Answer::Conflict => "conflict",
            Answer::ContentTooLarge => "content_too_large",
            Answer::UnsupportedMediaType => "unsupported_media_type",
            Answer::InternalError => "internal_error",
        }
    }

    pub const fn message(self) -> &'static str {
        match self {
            Answer::Ok => "The API key is valid.",
            Answer::MissingAuthorization => "No API key was given.",
            Answer::InvalidAuthorization => "The header with the API key is not well-formed.",
            Answer::InvalidApiKey => "The API key is not valid.",
            Answer::TokenInvalid => "The token is not valid.",
            Answer::TokenExpired => "The token has expired.",
            Answer::TooManyFailures => {
                "Too many requests without a valid API key: try again later."
            }
            Answer::IpNotAllowed => "The API key may not be used from this address.",
            Answer::InsufficientKind => "This request needs a secret API key.",
            Answer::InsufficientScope => "A scope that this request needs is missing.",
            Answer::RateLimited => "Too many requests: try again later.",
            Answer::CreditsExhausted => "The credits are used up.",
            Answer::Unavailable => "API keys can't be checked here at the moment: try again.",
            Answer::Revoked => "The API key was revoked.",
            Answer::Expired => "The API key has expired.",
            Answer::Disabled => "The API key is disabled.",
            Answer::Idle => "The API key was disabled, because it was not used.",
            Answer::InvalidRequest => "The request is not valid.",
            Answer::Forbidden => "This is not allowed.",
            Answer::NotFound => "There is no such thing.",
            Answer::CrossSiteRequest => "A page of another site sent this request.",
            Answer::MethodNotAllowed => "This path does not take this method.",
            Answer::Conflict => "The request conflicts with the present state.",
            Answer::ContentTooLarge => "The content of the request is too large.",
            Answer::UnsupportedMediaType => {
                "The content of the request has a type that is not taken."
            }
            Answer::InternalError => "An internal error occurred.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_is_a_success() {
        for reason in Reason::ALL {
            assert_eq!(reason.answer().status() == 200, reason.is_good(), "{reason:?}");
        }
    }

    #[test]
    fn a_failed_attempt_presents_something_that_is_refused_with_401() {
        let attempts: Vec<&str> =
            Reason::ALL.into_iter().filter(|r| r.is_failed_attempt()).map(Reason::name).collect();
        assert_eq!(
            attempts,
            [
                "malformed_header",
                "malformed_key",
                "token_invalid",
                "not_found",
                "wrong_keyspace",
                "wrong_environment",
                "revoked",
                "expired",
                "disabled",
                "idle",
                "tenant_suspended",
                "owner_gone",
            ]
        );
    }

    #[test]
    fn every_reason_is_listed_once() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{reason:?}");
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
        for (index, answer) in Answer::ALL.into_iter().enumerate() {
            assert_eq!(answer as usize, index, "{answer:?}");
            assert_eq!(Answer::from_code(answer.code()), Some(answer));
        }
    }
}
