//! Values of variable length, read in place: text, arrays, networks.

use crate::scratch::Memory;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use keysmith_core::policy::allowlist::{self, Allowlist};
use pgrx::pg_sys::{self, Datum};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of a plain header. The offsets in an array count from its header; `bytes` leaves the
/// header out.
const HEADER: usize = 4;

#[cfg(not(target_endian = "little"))]
compile_error!("varlena headers are read as little-endian machines write them");

/// The length of a value's content, without detoasting the value.
///
/// # Safety
/// The datum must be a valid varlena.
#[inline]
pub unsafe fn length(datum: Datum) -> usize {
    let pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: a varlena's header says which form it has.
    unsafe {
        if pgrx::varatt_is_1b_e(pointer) || pgrx::varatt_is_4b_c(pointer) {
            pg_sys::toast_raw_datum_size(datum).saturating_sub(HEADER)
        } else {
            pgrx::varsize_any_exhdr(pointer)
        }
    }
}

/// A value's content: borrowed if the value is stored plainly, else detoasted into the current
/// memory context.
///
/// # Safety
/// The datum must be a valid varlena that outlives the result.
#[inline]
pub unsafe fn bytes<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: detoasting returns a plain varlena, whose header has its length.
    unsafe {
        let mut pointer = datum.cast_mut_ptr::<pg_sys::varlena>();
        if pgrx::varatt_is_1b_e(pointer) || pgrx::varatt_is_4b_c(pointer) {
            pointer = pg_sys::pg_detoast_datum_packed(pointer);
        }
        std::slice::from_raw_parts(
            pgrx::vardata_any(pointer).cast::<u8>(),
            pgrx::varsize_any_exhdr(pointer),
        )
    }
}

/// An array whose elements have variable length, read without copying or allocating. All offsets
/// and lengths are checked: elements that do not fit within the bytes are left out.
#[derive(Clone, Copy)]
pub struct ArrayView<'a> {
    content: &'a [u8],
    items: usize,
    data: usize,
    has_nulls: bool,
}

impl<'a> ArrayView<'a> {
    /// `content` is the value without its varlena header.
    #[inline]
    pub fn new(content: &'a [u8]) -> Self {
        Self::read(content).unwrap_or(ArrayView { content, items: 0, data: 0, has_nulls: false })
    }

    fn read(content: &'a [u8]) -> Option<Self> {
        // ArrayType: ndim, dataoffset, elemtype, then dims and lower bounds.
        let dimensions = usize::try_from(int(content, 0)?).ok()?;
        let offset = usize::try_from(int(content, 4)?).ok()?;
        let mut items: usize = usize::from(dimensions > 0);
        for dimension in 0..dimensions {
            items = items.checked_mul(usize::try_from(int(content, 12 + 4 * dimension)?).ok()?)?;
        }
        // Without nulls the offset is 0, and data follows the padded header.
        let plain = (HEADER + 12 + 8 * dimensions).next_multiple_of(8);
        let data = if offset == 0 { plain } else { offset }.checked_sub(HEADER)?;
        Some(ArrayView { content, items, data, has_nulls: offset != 0 })
    }

    pub fn len(&self) -> usize {
        self.items
    }

    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let mut next = self.data;
        (0..self.items).map_while(move |index| {
            if self.has_nulls && !self.is_present(index)? {
                return Some(None);
            }
            let (element, end) = element(self.content, next)?;
            next = end;
            Some(Some(element))
        })
    }

    /// The elements of a `smallint[]`; empty if it has nulls.
    pub fn smallints(self) -> Vec<i16> {
        if self.has_nulls {
            return Vec::new();
        }
        // Elements of fixed width lie one after the other.
        let elements = self.content.get(self.data..).unwrap_or_default().chunks_exact(2);
        elements.take(self.items).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    /// Reads the null bitmap, which ends where the data begins.
    fn is_present(&self, index: usize) -> Option<bool> {
        let dimensions = usize::try_from(int(self.content, 0)?).ok()?;
        let byte = self.content.get(12 + 8 * dimensions + index / 8)?;
        Some(byte & (1 << (index % 8)) != 0)
    }
}

#[inline]
fn int(content: &[u8], at: usize) -> Option<i32> {
    content.get(at..)?.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// The element at an offset, and where the next may begin.
#[inline]
fn element(content: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let first = *content.get(at)?;
    // The first byte of a short header is odd. Before any other header there may be padding.
    let at = if first & 1 == 0 { (at + HEADER).next_multiple_of(4) - HEADER } else { at };
    let first = *content.get(at)?;
    if first & 1 == 1 {
        let size = usize::from(first >> 1);
        return Some((content.get(at + 1..at + size)?, at + size));
    }
    let size = usize::try_from(int(content, at)? >> 2).ok()?;
    Some((content.get(at + HEADER..at + size)?, at + size))
}

/// An array of elements of a type, in the current memory context.
pub fn array(mut elements: Vec<Datum>, element: pg_sys::Oid) -> Datum {
    let (mut length, mut by_value, mut alignment) = (0, false, 0);
    // SAFETY: the elements are of the type, and `count` is their number.
    unsafe {
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut alignment);
        let count = elements.len() as i32;
        let data = elements.as_mut_ptr();
        pg_sys::construct_array(data, count, element, length.into(), by_value, alignment)
    }
    .into()
}

/// A text[], in the current memory context.
pub fn text_array(texts: Vec<Datum>) -> Datum {
    array(texts, pg_sys::TEXTOID)
}

/// A uuid[], in the current memory context.
pub fn uuid_array(uuids: &[[u8; 16]]) -> Datum {
    let mut elements: Vec<Datum> = uuids.iter().map(|uuid| Datum::from(uuid.as_ptr())).collect();
    // SAFETY: the elements point to uuids, which are copied, and `count` is their number.
    unsafe {
        pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            pg_sys::UUIDOID,
            16,
            false,
            pg_sys::TYPALIGN_CHAR as std::ffi::c_char,
        )
    }
    .into()
}

/// An inet or cidr: family, prefix length and address.
#[inline]
pub fn network(content: &[u8]) -> Option<(IpAddr, u8)> {
    let (&[family, bits], address) = content.split_first_chunk()?;
    let address = match family {
        PGSQL_AF_INET => IpAddr::V4(Ipv4Addr::from(*address.first_chunk()?)),
        PGSQL_AF_INET6 => IpAddr::V6(Ipv6Addr::from(*address.first_chunk()?)),
        _ => return None,
    };
    Some((address, bits))
}

/// The families as PostgreSQL's inet.h has them: AF_INET and the number after it.
const PGSQL_AF_INET: u8 = 2;
const PGSQL_AF_INET6: u8 = PGSQL_AF_INET + 1;

/// A value of variable length as it is stored in a row, or a copy of it.
#[derive(Clone, Copy)]
pub struct StoredValue<'a>(Datum, PhantomData<&'a ()>);

impl<'a> StoredValue<'a> {
    /// # Safety
    /// The datum must be a valid varlena that outlives the result.
    #[inline]
    pub unsafe fn new(datum: Datum) -> StoredValue<'a> {
        StoredValue(datum, PhantomData)
    }

    pub(crate) fn datum(self) -> Datum {
        self.0
    }

    fn pointer(self) -> *mut pg_sys::varlena {
        self.0.cast_mut_ptr()
    }

    /// Whether it is stored out of line, in a TOAST table.
    #[inline]
    fn is_apart(self) -> bool {
        // SAFETY: a varlena's header says which form it has.
        unsafe { pgrx::varatt_is_1b_e(self.pointer()) }
    }

    /// Whether it has a short header, before which there is no padding.
    #[inline]
    pub fn is_short(self) -> bool {
        // SAFETY: as above.
        unsafe { pgrx::varatt_is_1b(self.pointer()) }
    }

    /// The value as it is stored, including its header.
    #[inline]
    pub fn image(self) -> &'a [u8] {
        // SAFETY: as above; the header has the length.
        unsafe {
            let length = pgrx::varsize_any(self.pointer());
            std::slice::from_raw_parts(self.pointer().cast::<u8>(), length)
        }
    }

    /// The content without the header, detoasted into the current memory context if necessary.
    #[inline]
    pub fn content(self) -> &'a [u8] {
        // SAFETY: a varlena that outlives the result.
        unsafe { bytes(self.0) }
    }

    /// The value itself if it is stored in its row. A value that is stored out of line is copied
    /// into the memory context, since it may be removed together with its row.
    #[inline]
    pub fn fetched<'m>(self, memory: Memory<'m>) -> StoredValue<'m>
    where
        'a: 'm,
    {
        if !self.is_apart() {
            return self;
        }
        // SAFETY: a varlena; the copy lives as long as the memory context.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(memory.get());
            let copy = pg_sys::pg_detoast_datum_packed(self.pointer());
            pg_sys::MemoryContextSwitchTo(before);
            StoredValue::new(Datum::from(copy))
        }
    }

    /// The identity of a value that is stored out of line. Such a value is never changed, only
    /// replaced by another one.
    #[inline]
    pub fn id(self) -> Option<StoredId> {
        if !self.is_apart() {
            return None;
        }
        // SAFETY: the tag says which form it is. In an on-disk TOAST pointer the structure follows
        // the two bytes of the header, unaligned.
        unsafe {
            let external = self.pointer().cast::<pg_sys::varattrib_1b_e>();
            if u32::from((*external).va_tag) != pg_sys::vartag_external::VARTAG_ONDISK {
                return None;
            }
            let place = (&raw const (*external).va_data).cast::<pg_sys::varatt_external>();
            let place = place.read_unaligned();
            Some((place.va_toastrelid.to_u32(), place.va_valueid.to_u32()))
        }
    }
}

/// The OID of the TOAST table, and the value's id in it.
pub type StoredId = (u32, u32);

/// The networks of a cidr[].
pub fn networks(array: ArrayView<'_>) -> impl Iterator<Item = IpNet> {
    array.iter().flatten().filter_map(network).filter_map(|(address, bits)| match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, bits).ok().map(IpNet::V4),
        IpAddr::V6(v6) => Ipv6Net::new(v6, bits).ok().map(IpNet::V6),
    })
}

/// A cidr[] that is searched in place. This is for short lists.
pub struct StoredAllowlist<'a>(pub ArrayView<'a>);

impl Allowlist for StoredAllowlist<'_> {
    fn admits(&self, address: IpAddr) -> bool {
        networks(self.0).any(|network| allowlist::contains(network, address))
    }
}

/// The content of a varlena, unless it is longer than a limit.
#[derive(Clone, Copy)]
pub enum Bytes<'a> {
    Read(&'a [u8]),
    TooLong,
}

impl Bytes<'_> {
    /// # Safety
    /// The datum must be a varlena that outlives the result.
    #[inline]
    pub unsafe fn new(datum: Datum, most: usize) -> Self {
        // SAFETY: as the caller promises.
        unsafe { if length(datum) > most { Bytes::TooLong } else { Bytes::Read(bytes(datum)) } }
    }
}
