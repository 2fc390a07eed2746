//! Whether a page of another site made a browser send a request.

/// The values of the headers by which browsers tell where a request comes from.
pub struct Origin<'a> {
    /// Of `Sec-Fetch-Site`, which newer browsers send to sites with TLS and to localhost.
    pub site: Vec<&'a [u8]>,
    /// Of `Origin`.
    pub origin: Vec<&'a [u8]>,
    /// Of `Host`.
    pub host: Vec<&'a [u8]>,
}

impl Origin<'_> {
    /// Whether a browser says that the request comes from another site. Without `Sec-Fetch-Site` this
    /// is so if it comes from another host. What is not a browser sends neither header.
    pub fn is_another_site(&self) -> bool {
        if !self.site.is_empty() {
            return !self.site.iter().all(|site| {
                [&b"same-origin"[..], b"same-site", b"none"]
                    .iter()
                    .any(|own| site.eq_ignore_ascii_case(own))
            });
        }
        !self.origin.iter().all(|origin| self.is_own(origin))
    }

    fn is_own(&self, origin: &[u8]) -> bool {
        const SEPARATOR: &[u8] = b"://";
        let start = origin.windows(SEPARATOR.len()).position(|part| part == SEPARATOR);
        let host = start.map(|start| &origin[start + SEPARATOR.len()..]);
        let [own] = self.host[..] else { return false };
        host.is_some_and(|host| host.eq_ignore_ascii_case(own))
    }
}

/// The headers of a handshake for a WebSocket. All versions of HTTP send the first. A browser lets any
/// site open a WebSocket, and then both sides write.
pub const HANDSHAKE: [&[u8]; 2] = [b"sec-websocket-version", b"sec-websocket-key"];

/// Whether a method only reads (RFC 9110), so that other sites may link to it.
pub fn only_reads(method: &[u8]) -> bool {
    [&b"GET"[..], b"HEAD", b"OPTIONS", b"TRACE"].iter().any(|one| method.eq_ignore_ascii_case(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(site: &[&'static str], origin: &[&'static str], host: &[&'static str]) -> bool {
        let values = |texts: &[&'static str]| texts.iter().map(|text| text.as_bytes()).collect();
        let [site, origin, host] = [site, origin, host].map(values);
        Origin { site, origin, host }.is_another_site()
    }

    #[test]
    fn the_browser_says_where_a_request_comes_from() {
        for site in ["same-origin", "same-site", "none", "Same-Origin"] {
            assert!(!from(&[site], &["https://evil.example"], &["keys.example"]));
        }
        for sites in [&["cross-site"][..], &[""], &["?"], &["same-origin", "cross-site"]] {
            assert!(from(sites, &["https://keys.example"], &["keys.example"]), "{sites:?}");
        }
    }

    #[test]
    fn an_older_browser_says_its_origin() {
        assert!(!from(&[], &["https://Keys.example"], &["keys.example"]));
        assert!(!from(&[], &["http://localhost:8000"], &["localhost:8000"]));
        for origin in
            ["https://evil.example", "https://keys.example:444", "null", "", "keys.example", "://"]
        {
            assert!(from(&[], &[origin], &["keys.example"]), "{origin}");
        }
        assert!(from(&[], &["https://keys.example", "https://evil.example"], &["keys.example"]));
        assert!(from(&[], &["https://keys.example"], &[]));
        assert!(from(&[], &["https://keys.example"], &["keys.example", "evil.example"]));
    }

    #[test]
    fn a_program_says_nothing() {
        assert!(!from(&[], &[], &["keys.example"]));
        assert!(!from(&[], &[], &[]));
    }

    #[test]
    fn some_methods_only_read() {
        assert!(["GET", "head", "OPTIONS", "TRACE"].iter().all(|one| only_reads(one.as_bytes())));
        assert!(
            !["POST", "DELETE", "PATCH", "PUT", "GETS", "", "QUERY"]
                .iter()
                .any(|one| only_reads(one.as_bytes()))
        );
    }
}
