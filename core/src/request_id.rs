//! Request ids: uuids of version 7 (RFC 9562), which begin with the time. Requests are stored in
//! about the order in which they come, so the index of ids grows at its end. With random ids it
//! would be read and written everywhere.

/// Milliseconds from 1970-01-01, where Unix counts from, to 2000-01-01, where PostgreSQL does.
const POSTGRES_EPOCH: i64 = 946_684_800_000;

/// An id made of a moment, in microseconds as PostgreSQL counts, and of random bytes. It holds
/// 62 bits of these. Its time is exact to a quarter of a microsecond.
pub fn at(moment: i64, random: [u8; 16]) -> [u8; 16] {
    let milliseconds = moment.div_euclid(1000).saturating_add(POSTGRES_EPOCH);
    let milliseconds = u64::try_from(milliseconds).unwrap_or(0) & 0xffff_ffff_ffff;
    let fraction = moment.rem_euclid(1000).unsigned_abs() * 4096 / 1000;
    let time = (milliseconds << 16) | 0x7000 | fraction;
    let random = (u128::from_be_bytes(random) as u64) >> 2;
    ((u128::from(time) << 64) | (0b10 << 62) | u128::from(random)).to_be_bytes()
}

/// The moment in such an id, to a millisecond. `None` for a uuid of another version.
pub fn moment(name: &[u8; 16]) -> Option<i64> {
    let bits = u128::from_be_bytes(*name);
    let is_version_7 = (bits >> 76) & 0xf == 7 && (bits >> 62) & 0b11 == 0b10;
    let milliseconds = i64::try_from(bits >> 80).ok()?;
    is_version_7.then_some((milliseconds - POSTGRES_EPOCH) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn form_is_that_of_version_7() {
        // The example of RFC 9562: 2022-02-22 19:22:22 UTC.
        let moment = (0x017f_22e2_79b0 - POSTGRES_EPOCH) * 1000;
        let name = u128::from_be_bytes(at(moment, [0xff; 16]));
        assert_eq!(name, 0x017f_22e2_79b0_7000_bfff_ffff_ffff_ffff);
        let name = u128::from_be_bytes(at(moment + 999, [0; 16]));
        assert_eq!(name, 0x017f_22e2_79b0_7ffb_8000_0000_0000_0000);
    }

    proptest! {
        #[test]
        fn later_names_sort_behind(
            earlier in 0i64..1 << 60, later in 1i64..1 << 40, random in any::<[[u8; 16]; 2]>()
        ) {
            prop_assert!(at(earlier, random[0]) < at(earlier + later, random[1]));
        }

        #[test]
        fn the_moment_can_be_read(at_moment in 0i64..1 << 56, random in any::<[u8; 16]>()) {
            prop_assert_eq!(moment(&at(at_moment, random)), Some(at_moment - at_moment % 1000));
        }

        #[test]
        fn other_uuids_have_no_moment(
            bits in any::<u128>(), version in (0u128..16).prop_filter("another", |v| *v != 7),
        ) {
            let other = bits & !(0xf << 76) | version << 76;
            prop_assert_eq!(moment(&other.to_be_bytes()), None);
            let variant = bits & !(0xf << 76 | 0b11 << 62) | 7 << 76;
            prop_assert_eq!(moment(&variant.to_be_bytes()), None);
        }

        #[test]
        fn any_moment_has_a_form(moment in any::<i64>(), random in any::<[u8; 16]>()) {
            let name = at(moment, random);
            prop_assert_eq!((name[6] >> 4, name[8] >> 6), (7, 0b10));
        }
    }
}
