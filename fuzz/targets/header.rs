//! Headers: each line of the input is one, `name: value`; a value of one byte below 2 is not a
//! text. The order of headers must not change the result.

#![no_main]

use keysmith_core::policy::header::{Credential, Finder, HeaderValue, Own, Schemes};
use libfuzzer_sys::fuzz_target;
use std::borrow::Cow;

fuzz_target!(|data: &[u8]| {
    let Some((&which, rest)) = data.split_first() else { return };
    let own = [Own::Scheme("Token".into()), Own::Header("X-My-Key".into())];
    let schemes = &Schemes {
        bearer: which & 1 != 0,
        key: which & 2 != 0,
        x_api_key: which & 4 != 0,
        basic: which & 8 != 0,
        own: if which & 16 != 0 { own.into() } else { Vec::new() },
    };
    let headers: Vec<(&[u8], HeaderValue)> = rest
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let (name, value) = line.split_at(colon);
            let value = match value.strip_prefix(b":").unwrap_or_default() {
                [0] => HeaderValue::Null,
                [1] => HeaderValue::Other,
                text => HeaderValue::Text(text),
            };
            (name, value)
        })
        .collect();
    let forwards = found(schemes, headers.iter());
    let backwards = found(schemes, headers.iter().rev());
    assert!(forwards == backwards, "the order of headers matters");
    if let Credential::Key(key) = forwards {
        assert!(!key.is_empty() && key.iter().all(u8::is_ascii_graphic));
        // The scheme Basic encodes it.
        let Cow::Borrowed(key) = key else { return };
        let is_in_one = headers.iter().any(|(name, value)| match value {
            HeaderValue::Text(text) => {
                Finder::new(schemes).is_relevant(name) && text.windows(key.len()).any(|w| w == key)
            }
            _ => false,
        });
        assert!(is_in_one, "a key that no header has");
    }
});

fn found<'a, 'h>(
    schemes: &Schemes,
    headers: impl Iterator<Item = &'h (&'a [u8], HeaderValue<'a>)>,
) -> Credential<'a>
where
    'a: 'h,
{
    let mut finder = Finder::new(schemes);
    headers.for_each(|(name, value)| finder.add(name, *value));
    finder.credential()
}
