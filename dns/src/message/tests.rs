use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{Name, RecordType},
};
use proptest::prelude::*;

use super::*;

fn message(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

fn query(name: &str, payload: Option<u16>) -> Query {
    Query::read(message(name, RecordType::A, payload).to_vec().unwrap().into()).unwrap()
}

/// A query for addresses.
pub(crate) fn a_query(name: &str, id: u16) -> Query {
    Query::read(with_id(&query(name, Some(1232)).bytes, id)).unwrap()
}

fn answered(unfit: Unfit) -> Message {
    match unfit {
        Unfit::Answered(bytes) => Message::from_vec(&bytes).unwrap(),
        Unfit::Ignored => panic!("ignored"),
    }
}

#[test]
fn a_query_is_read_as_far_as_it_matters() {
    let query = query("Web.default.svc.cluster.local.", Some(1232));
    assert_eq!((query.id(), query.kind(), query.labels(), query.payload), (7, 1, 5, Some(1232)));
    assert_eq!(&query.with_id(0x1234)[..2], [0x12, 0x34]);
    assert_eq!(query.with_id(7), query.bytes);
}

#[test]
fn an_answer_is_never_answered() {
    let mut answer = message("a.", RecordType::A, None);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(Query::read(answer.to_vec().unwrap().into()), Err(Unfit::Ignored));
    assert_eq!(Query::read(Bytes::from_static(b"short")), Err(Unfit::Ignored));
}

#[test]
fn what_is_no_query_is_told_so() {
    let mut update = message("a.", RecordType::A, None);
    update.metadata.op_code = OpCode::Update;
    let told = answered(Query::read(update.to_vec().unwrap().into()).unwrap_err());
    assert_eq!((told.metadata.response_code, told.metadata.id), (ResponseCode::NotImp, 7));

    let transfer = message("a.", RecordType::AXFR, Some(4096)).to_vec().unwrap();
    let told = answered(Query::read(transfer.into()).unwrap_err());
    assert_eq!(told.metadata.response_code, ResponseCode::Refused);
    assert_eq!(told.queries[0].query_type(), RecordType::AXFR);
    assert!(told.edns.is_some());

    let mut two = message("a.", RecordType::A, None);
    two.add_query(Question::query(Name::root(), RecordType::A));
    let told = answered(Query::read(two.to_vec().unwrap().into()).unwrap_err());
    assert_eq!(told.metadata.response_code, ResponseCode::FormErr);

    let mut pointer = message("a.", RecordType::A, None).to_vec().unwrap();
    pointer[HEADER] = 0xc0;
    let told = answered(Query::read(pointer.into()).unwrap_err());
    assert_eq!(told.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn two_ednss_are_an_error_of_form() {
    let mut twice = message("a.", RecordType::A, Some(512)).to_vec().unwrap();
    let opt = twice[twice.len() - 11..].to_vec();
    twice.extend(opt);
    twice[11] = 2;
    let told = answered(Query::read(twice.into()).unwrap_err());
    assert_eq!(told.metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn only_the_same_question_is_an_answer() {
    let query = query("web.default.", None);
    let mut answer = query.bytes.to_vec();
    assert!(!query.is_answered_by(&answer));
    answer[2] |= 0x80;
    assert!(query.is_answered_by(&answer));
    answer[HEADER + 1] = b'W';
    assert!(query.is_answered_by(&answer));
    answer[HEADER + 1] = b'x';
    assert!(!query.is_answered_by(&answer));
    answer[HEADER + 1] = b'w';
    let end = answer.len();
    answer[end - 3] = 28;
    assert!(!query.is_answered_by(&answer));

    let header_only = [0, 7, 0x80, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(query.is_answered_by(&header_only));
    assert!(!query.is_answered_by(&[0, 7, 0x80, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]));
}

#[test]
fn an_answer_that_is_too_large_is_cut_to_its_question() {
    for (payload, fits) in [(None, 512), (Some(0), 512), (Some(1232), 1232)] {
        let query = query("web.", payload);
        let mut answer = query.bytes.to_vec();
        answer[2] |= 0x80;
        answer.resize(fits, 0);
        assert_eq!(query.fitted(answer.clone().into()), answer);
        answer.push(0);
        let cut = Message::from_vec(&query.fitted(answer.into())).unwrap();
        assert!(cut.metadata.truncation);
        assert_eq!(cut.queries, message("web.", RecordType::A, None).queries);
        assert_eq!(cut.edns.is_some(), payload.is_some());
    }
}

#[test]
fn a_failure_has_the_querys_id_and_question() {
    let query = query("web.", Some(4096));
    let failed = Message::from_vec(&query.fail(Rcode::ServFail)).unwrap();
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(failed.metadata.message_type, MessageType::Response);
    assert!(failed.metadata.recursion_desired && failed.metadata.recursion_available);
    assert_eq!((failed.metadata.id, failed.queries.len()), (7, 1));
    assert!(query.is_answered_by(&query.fail(Rcode::ServFail)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        match Query::read(bytes.clone().into()) {
            Ok(query) => {
                prop_assert!(query.labels() <= 127);
                prop_assert!(query.is_answered_by(&query.fail(Rcode::ServFail)));
                prop_assert!(query.fitted(vec![0x80; 70_000].into()).len() <= CLASSIC_PAYLOAD);
            }
            Err(Unfit::Answered(answer)) => prop_assert_eq!(&answer[..2], &bytes[..2]),
            Err(Unfit::Ignored) => prop_assert!(bytes.len() < HEADER || bytes[2] & 0x80 != 0),
        }
    }

    #[test]
    fn a_query_with_some_bytes_changed_is_read_or_refused(
        labels in prop::collection::vec("[a-zA-Z0-9][a-zA-Z0-9_]{0,19}", 0..8),
        payload in any::<Option<u16>>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let name = format!("{}.", labels.join("."));
        let whole = message(&name, RecordType::TXT, payload).to_vec().unwrap();
        let query = Query::read(whole.clone().into()).unwrap();
        prop_assert_eq!(query.labels(), labels.len());
        prop_assert_eq!(query.payload, payload.map(|payload| payload.max(512)), "hickory writes no less");

        let mut bytes = whole;
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        // What hickory can read as one question is no error of form here, but for a name that points into the header.
        let points = |bytes: &[u8]| bytes[HEADER..].iter().any(|byte| *byte >= 0xc0);
        prop_assume!(bytes.len() < HEADER || !points(&bytes));
        let theirs = Message::from_vec(&bytes);
        let ours = Query::read(bytes.into());
        if let Ok(theirs) = theirs
            && theirs.metadata.message_type == MessageType::Query
            && theirs.metadata.op_code == OpCode::Query
            && let [question] = &theirs.queries[..]
            && !matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
        {
            prop_assert_eq!(ours.unwrap().kind(), u16::from(question.query_type()));
        }
    }

    #[test]
    fn any_bytes_may_come_as_an_answer(answer in prop::collection::vec(any::<u8>(), 0..600)) {
        let query = query("web.default.", Some(1232));
        let _ = query.is_answered_by(&answer);
    }
}
