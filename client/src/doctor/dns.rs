//! One DNS question and its answer, enough to tell whether a name server is reached.

/// A query for the IPv4 address of `name`, which has no empty label and none of more than 63 bytes.
pub(super) fn query(id: u16, name: &str) -> Vec<u8> {
    // Recursion is wanted; one question.
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(63).min(63));
        bytes.extend(label.bytes().take(63));
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Whether a datagram is the answer to the query with this id, whatever it says: that somebody answers is all that matters.
pub(super) fn is_answer(id: u16, datagram: &[u8]) -> bool {
    datagram.len() >= 12 && datagram[..2] == id.to_be_bytes() && datagram[2] & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_written_as_rfc_1035_has_it() {
        assert_eq!(
            query(0x1234, "a.bc"),
            b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01"
        );
    }

    #[test]
    fn only_an_answer_to_the_query_counts() {
        let mut answer = query(7, "a");
        assert!(!is_answer(7, &answer));
        answer[2] |= 0x80;
        assert!(is_answer(7, &answer));
        assert!(!is_answer(8, &answer));
        assert!(!is_answer(7, &answer[..11]));
    }
}
