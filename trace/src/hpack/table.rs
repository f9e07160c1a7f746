//! The static table (RFC 7541, appendix A) and the dynamic one (section 2.3).

use std::collections::VecDeque;

use super::{Broken, Value};

/// The largest dynamic table that is kept, in bytes as HPACK counts them: browsers ask for this much.
const LARGEST: u32 = 64 << 10;
/// Before anything is said about it.
const AT_FIRST: u32 = 4096;
/// What an entry costs beside its text.
const OVERHEAD: u32 = 32;

/// The names that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    Method,
    Path,
    Authority,
    Status,
    GrpcStatus,
    Other,
}

impl Name {
    pub(super) fn of(bytes: &[u8]) -> Self {
        match bytes {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":authority" => Self::Authority,
            b":status" => Self::Status,
            b"grpc-status" => Self::GrpcStatus,
            _ => Self::Other,
        }
    }
}

/// The values of the first entries, whose names matter.
const VALUES: [(Name, &str); 14] = [
    (Name::Authority, ""),
    (Name::Method, "GET"),
    (Name::Method, "POST"),
    (Name::Path, "/"),
    (Name::Path, "/index.html"),
    (Name::Other, ""),
    (Name::Other, ""),
    (Name::Status, "200"),
    (Name::Status, "204"),
    (Name::Status, "206"),
    (Name::Status, "304"),
    (Name::Status, "400"),
    (Name::Status, "404"),
    (Name::Status, "500"),
];

/// How long the names of all entries are.
const LENGTHS: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];

#[derive(Debug)]
pub(super) struct Entry {
    name: Name,
    name_len: u32,
    value: Value,
    size: u32,
}

impl Entry {
    /// With the lengths of the whole name and the whole value.
    pub(super) fn new(name: Name, name_len: u32, value: Value, value_len: u32) -> Self {
        Self { name, name_len, value, size: name_len + value_len + OVERHEAD }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    /// What the static entries hold.
    fixed: Vec<(Name, Value)>,
    /// The latest first.
    entries: VecDeque<Entry>,
    size: u32,
    most: u32,
}

impl Default for Table {
    fn default() -> Self {
        let value = |(name, text): (Name, &str)| (name, Value { bytes: text.into(), is_cut: false });
        let fixed = VALUES.into_iter().map(value).collect();
        Self { fixed, entries: VecDeque::new(), size: 0, most: AT_FIRST }
    }
}

impl Table {
    /// The field at an index, static or not.
    pub(super) fn field(&self, index: u32) -> Result<(Name, &Value), Broken> {
        const NOTHING: &Value = &Value { bytes: Vec::new(), is_cut: false };
        let at = index.checked_sub(1).ok_or(Broken)? as usize;
        if at < LENGTHS.len() {
            return Ok(self.fixed.get(at).map_or((Name::Other, NOTHING), |(name, value)| (*name, value)));
        }
        let entry = self.entries.get(at - LENGTHS.len()).ok_or(Broken)?;
        Ok((entry.name, &entry.value))
    }

    /// The name at an index, and its length.
    pub(super) fn name(&self, index: u32) -> Result<(Name, u32), Broken> {
        let at = index.checked_sub(1).ok_or(Broken)? as usize;
        match LENGTHS.get(at) {
            Some(len) => Ok((self.field(index)?.0, u32::from(*len))),
            None => {
                let entry = self.entries.get(at - LENGTHS.len()).ok_or(Broken)?;
                Ok((entry.name, entry.name_len))
            }
        }
    }

    pub(super) fn insert(&mut self, entry: Entry) {
        self.shrink(self.most.saturating_sub(entry.size));
        if entry.size <= self.most {
            self.size += entry.size;
            self.entries.push_front(entry);
        }
    }

    /// The sender says how large its table is from now on.
    pub(super) fn resize(&mut self, most: u32) -> Result<(), Broken> {
        if most > LARGEST {
            return Err(Broken);
        }
        self.most = most;
        self.shrink(most);
        Ok(())
    }

    fn shrink(&mut self, most: u32) {
        while self.size > most
            && let Some(last) = self.entries.pop_back()
        {
            self.size -= last.size;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> u32 {
        self.size
    }
}
