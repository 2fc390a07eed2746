//! The statuses of HTTP (RFC 9110).

/// Whether a number is a status.
pub fn is_status(number: i32) -> bool {
    (100..600).contains(&number)
}

/// The phrase of a status. An unknown one is understood as the first of its hundred.
pub fn title(status: i32) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        300 => "Multiple Choices",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        other if is_status(other) && other % 100 != 0 => title(other - other % 100),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_phrase() {
        assert_eq!(
            [401, 429, 499, 599, 302].map(title),
            [
                "Unauthorized",
                "Too Many Requests",
                "Bad Request",
                "Internal Server Error",
                "Multiple Choices"
            ]
        );
        assert!((100..600).all(|status| !title(status).is_empty()));
        assert!([i32::MIN, -1, 0, 99, 600, i32::MAX].into_iter().all(|n| !is_status(n)));
        assert!([i32::MIN, -1, 0, 99, 600, i32::MAX].into_iter().all(|n| title(n).is_empty()));
    }
}
