//! Times as RFC 3339 writes them.

/// Whether a text is a time with a date and a zone, such as `2030-01-31T12:00:00Z`. Whether the
/// day exists is not checked.
pub fn is_rfc3339(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(10) else { return false };
    let Some((clock, rest)) = rest.split_at_checked(9) else { return false };
    let fraction =
        rest.strip_prefix('.').map(|digits| digits.bytes().take_while(u8::is_ascii_digit).count());
    let zone = match fraction {
        Some(0) => return false,
        Some(digits) => &rest[digits + 1..],
        None => rest,
    };
    has_form(date, "0000-00-00")
        && (has_form(clock, "T00:00:00") || has_form(clock, "t00:00:00"))
        && (matches!(zone, "Z" | "z") || has_form(zone, "+00:00") || has_form(zone, "-00:00"))
}

/// Whether a text has digits where the form has a 0, and the form's other characters.
fn has_form(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, of)| match of {
            b'0' => byte.is_ascii_digit(),
            _ => byte == of,
        })
}

/// A time that PostgreSQL wrote in UTC, such as `2030-01-31T12:00:00.5+00:00`, in whole seconds with
/// `Z`. Others, such as `infinity`, stay as they are.
pub fn in_seconds(text: &str) -> String {
    let plain = text.strip_suffix("+00:00").and_then(|time| time.get(..19));
    plain
        .filter(|time| has_form(&time[10..], "T00:00:00"))
        .map_or(text.into(), |time| format!("{time}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_a_date_and_a_zone() {
        for good in [
            "2030-01-31T12:00:00Z",
            "2030-01-31t12:00:00z",
            "2030-01-31T12:00:00.123456Z",
            "2030-01-31T12:00:00+02:00",
            "2030-01-31T12:00:00.5-11:30",
        ] {
            assert!(is_rfc3339(good), "{good}");
        }
        for bad in [
            "",
            "now",
            "infinity",
            "2030-01-31",
            "2030-01-31T12:00:00",
            "2030-01-31 12:00:00Z",
            "2030-01-31T12:00:00.Z",
            "2030-01-31T12:00:00+02",
            "2030-01-31T12:00:00 UTC",
            "2030-01-31T12:00Z",
            "éééééééééé",
            "2030-01-31T12:00:0éZ",
        ] {
            assert!(!is_rfc3339(bad), "{bad}");
        }
    }

    #[test]
    fn times_are_shown_in_whole_seconds() {
        assert_eq!(in_seconds("2030-01-31T12:00:00.999999+00:00"), "2030-01-31T12:00:00Z");
        assert_eq!(in_seconds("2030-01-31T12:00:00+00:00"), "2030-01-31T12:00:00Z");
        for other in ["infinity", "12030-01-31T12:00:00+00:00", "", "é+00:00"] {
            assert_eq!(in_seconds(other), other);
        }
    }
}
