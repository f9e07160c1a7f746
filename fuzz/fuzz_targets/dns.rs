//! What comes from local programs as a query, and from the cluster as an answer to one.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use relay_dns::Search;
use relay_dns::message::{HEADER, Query, Rcode, Unfit};
use relay_dns::search::Short;

fuzz_target!(|data: (&[u8], &[u8])| {
    let (asked, answered) = data;
    let query = match Query::read(Bytes::copy_from_slice(asked)) {
        Ok(query) => query,
        Err(Unfit::Ignored) => return,
        Err(Unfit::Answered(answer)) => {
            assert_eq!(answer[..2], asked[..2]);
            assert!(answer[2] & 0x80 != 0 && answer.len() <= asked.len() + 11);
            return;
        }
    };
    let failed = query.fail(Rcode::ServFail);
    assert!(query.is_answered_by(&failed));
    assert_eq!(query.fitted(failed.clone()), failed);
    assert!(query.fitted(vec![0x80; usize::from(u16::MAX) + 1].into()).len() < 512);
    let _ = query.is_answered_by(answered);

    let search = Search::new(&["default".into(), "dev".into()], "cluster.local").expect("good names");
    let Some(short) = Short::read(&query, &search) else { return };
    for (found, full) in short.first().chain(short.instead()) {
        assert_eq!(full.kind(), query.kind());
        let _ = short.answer(found, answered);
        // Behind a head that is right, more of it is looked at.
        let mut whole = full.bytes[..HEADER + full.question().len()].to_vec();
        whole[2] |= 0x80;
        whole[6..HEADER].copy_from_slice(&[0, 1, 0, 1, 0, 1]);
        whole.extend_from_slice(answered);
        if let Some(told) = short.answer(found, &whole) {
            assert!(query.is_answered_by(&told));
        }
    }
});
