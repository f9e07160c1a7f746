//! Short names: which full names they may stand for, and the messages of those who asked for them.
//!
//! A resolver that asks for `web.` expects an answer about `web.`: it is given an alias to the name that was found, and
//! that one's records.

use bytes::Bytes;
use hickory_proto::{
    op::Message,
    rr::{Name, RData, Record, rdata::CNAME},
};

use crate::message::Query;

/// An alias whose answer says nothing about how long it holds: seconds.
const UNKNOWN_TTL: u32 = 5;

/// A domain or namespace that can't be part of a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no domain name")]
pub struct BadDomain(pub String);

impl BadDomain {
    /// What to type instead.
    pub fn hint(&self) -> String {
        "a domain has labels of letters, digits and -, with dots between them, for example cluster.local"
            .into()
    }
}

/// The full names of short ones.
#[derive(Debug, Clone)]
pub struct Search {
    /// Namespaces, in the order in which they are searched.
    namespaces: Vec<String>,
    /// The cluster's domain, complete.
    domain: Name,
}

impl Search {
    /// Searches these namespaces of a cluster with this domain.
    ///
    /// # Errors
    /// What can't be part of a name.
    pub fn new(namespaces: &[String], domain: &str) -> Result<Self, BadDomain> {
        let bad = |text: &str| BadDomain(text.to_owned());
        let is_label = |text: &str| {
            (1..=63).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if let Some(namespace) = namespaces.iter().find(|namespace| !is_label(namespace)) {
            return Err(bad(namespace));
        }
        let labels = domain.strip_suffix('.').unwrap_or(domain);
        if !labels.split('.').all(is_label) {
            return Err(bad(domain));
        }
        let domain = Name::from_ascii(format!("{labels}.")).map_err(|_| bad(domain))?;
        Ok(Self { namespaces: namespaces.iter().map(|name| name.to_ascii_lowercase()).collect(), domain })
    }

    /// The names that a short one may stand for; none for others. `NAME` is looked for in every namespace,
    /// `NAME.NAMESPACE` and what ends in `.svc` in the cluster's domain. With two labels of which the second is no
    /// namespace that is searched, that is done only when there is no such name, and then `POD.SERVICE` is looked for
    /// in every namespace too.
    pub fn candidates(&self, name: &Name) -> Candidates {
        let labels: Vec<String> =
            name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let in_domain = |tail: &[&str]| -> Option<Name> {
            let full = tail.iter().try_fold(relative(name), |name, label| name.append_label(*label).ok())?;
            full.append_domain(&self.domain).ok()
        };
        let searched = || self.namespaces.iter().filter_map(|namespace| in_domain(&[namespace, "svc"]));
        let whole = || in_domain(&["svc"]).into_iter();
        let is_searched = |label: &str| self.namespaces.iter().any(|namespace| namespace == label);
        match labels[..] {
            [] | ["localhost"] => Candidates::default(),
            [_] => Candidates { first: searched().collect(), instead: Vec::new() },
            [.., "svc"] => Candidates { first: in_domain(&[]).into_iter().collect(), instead: Vec::new() },
            [_, namespace] if is_searched(namespace) => {
                Candidates { first: whole().collect(), instead: searched().collect() }
            }
            [_, _] => Candidates { first: Vec::new(), instead: whole().chain(searched()).collect() },
            _ => Candidates::default(),
        }
    }
}

/// Full names, in the order in which they are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidates {
    /// Before the name itself.
    pub first: Vec<Name>,
    /// When the name itself does not exist.
    pub instead: Vec<Name>,
}

fn relative(name: &Name) -> Name {
    let mut name = name.clone();
    name.set_fqdn(false);
    name
}

/// A query whose name is completed.
pub struct Short {
    message: Message,
    candidates: Candidates,
}

impl Short {
    /// Reads a query; nothing when its name is not short, or it is signed: a signature covers the name.
    pub fn read(query: &Query, search: &Search) -> Option<Self> {
        if query.labels() == 0 {
            return None;
        }
        let message = Message::from_vec(&query.bytes).ok().filter(|message| message.signature.is_none())?;
        let candidates = search.candidates(message.queries.first()?.name());
        (candidates != Candidates::default()).then_some(Self { message, candidates })
    }

    /// The queries to pass on before the query itself, one after the other until a name is found.
    pub fn first(&self) -> impl Iterator<Item = (&Name, Query)> {
        self.queries(&self.candidates.first)
    }

    /// Those to pass on when the name does not exist as it is.
    pub fn instead(&self) -> impl Iterator<Item = (&Name, Query)> {
        self.queries(&self.candidates.instead)
    }

    fn queries<'a>(&self, names: &'a [Name]) -> impl Iterator<Item = (&'a Name, Query)> {
        names.iter().filter_map(|name| {
            let mut message = self.message.clone();
            message.queries.first_mut()?.set_name(name.clone());
            Some((name, Query::read(message.to_vec().ok()?.into()).ok()?))
        })
    }

    /// The answer about the name that was found, for whoever asked for the short one; nothing when it can't be read.
    pub fn answer(&self, found: &Name, answer: &[u8]) -> Option<Bytes> {
        let mut answer = Message::from_vec(answer).ok()?;
        let asked = self.message.queries.first()?;
        let lives = answer.answers.iter().chain(&answer.authorities).map(|record| record.ttl).min();
        let alias = RData::CNAME(CNAME(found.clone()));
        let mut alias = Record::from_rdata(asked.name().clone(), lives.unwrap_or(UNKNOWN_TTL), alias);
        alias.dns_class = asked.query_class();
        answer.answers.insert(0, alias);
        answer.queries = vec![asked.clone()];
        answer.metadata.id = self.message.metadata.id;
        answer.to_vec().ok().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{MessageType, ResponseCode},
        rr::{RecordType, rdata::A},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::message::{HEADER, tests::a_query};

    fn search() -> Search {
        Search::new(&["Default".into(), "dev".into()], "cluster.local").unwrap()
    }

    fn candidates(name: &str) -> [Vec<String>; 2] {
        let found = search().candidates(&Name::from_ascii(name).unwrap());
        [found.first, found.instead].map(|names| names.iter().map(Name::to_ascii).collect())
    }

    #[test]
    fn short_names_have_full_ones_in_their_order() {
        let cases: [(_, &[&str], &[&str]); 4] = [
            ("Web.", &["Web.default.svc.cluster.local.", "Web.dev.svc.cluster.local."], &[]),
            ("sts-0.sts.other.svc.", &["sts-0.sts.other.svc.cluster.local."], &[]),
            (
                "web.DEV.",
                &["web.DEV.svc.cluster.local."],
                &["web.DEV.default.svc.cluster.local.", "web.DEV.dev.svc.cluster.local."],
            ),
            (
                "sts-0.sts.",
                &[],
                &[
                    "sts-0.sts.svc.cluster.local.",
                    "sts-0.sts.default.svc.cluster.local.",
                    "sts-0.sts.dev.svc.cluster.local.",
                ],
            ),
        ];
        for (name, first, instead) in cases {
            assert_eq!(candidates(name), [first, instead], "{name}");
        }
    }

    #[test]
    fn other_names_are_what_they_are() {
        for name in [".", "localhost.", "www.example.com.", "web.default.svc.cluster.local.", "a.b.dev."] {
            assert_eq!(candidates(name), [[""; 0]; 2], "{name}");
        }
    }

    #[test]
    fn a_domain_that_is_none_is_refused_with_a_hint() {
        for (namespace, domain) in [("a b", "cluster.local"), ("", "x"), ("dev", ""), ("dev", "a..b")] {
            let error = Search::new(&[namespace.into()], domain).unwrap_err();
            assert!(!error.hint().is_empty(), "{error}");
        }
        assert!(Search::new(&[], "cluster.local.").is_ok());
    }

    #[test]
    fn whoever_asks_for_a_short_name_is_told_about_it() {
        let short = Short::read(&a_query("web.", 7), &search()).unwrap();
        let (found, query) = short.first().nth(1).unwrap();
        let mut answer = Message::from_vec(&query.with_id(99)).unwrap();
        answer.metadata.message_type = MessageType::Response;
        answer.add_answer(Record::from_rdata(found.clone(), 30, RData::A(A::new(10, 0, 0, 1))));

        let told = Message::from_vec(&short.answer(found, &answer.to_vec().unwrap()).unwrap()).unwrap();

        assert_eq!((told.metadata.id, told.metadata.response_code), (7, ResponseCode::NoError));
        assert_eq!(told.queries[0].name().to_ascii(), "web.");
        let said: Vec<_> = told
            .answers
            .iter()
            .map(|record| (record.name.to_ascii(), record.ttl, record.data.to_string()))
            .collect();
        assert_eq!(
            said,
            [
                ("web.".to_owned(), 30, "web.dev.svc.cluster.local.".to_owned()),
                ("web.dev.svc.cluster.local.".to_owned(), 30, "10.0.0.1".to_owned()),
            ]
        );
        assert_eq!(told.edns.is_some(), answer.edns.is_some());
        assert_eq!(told.queries[0].query_type(), RecordType::A);
    }

    proptest! {
        #[test]
        fn whatever_comes_as_an_answer_is_rewritten_or_refused(
            mut answer in prop::collection::vec(any::<u8>(), 0..200)
        ) {
            let short = Short::read(&a_query("web.", 7), &search()).unwrap();
            let (found, query) = short.first().next().unwrap();
            let _ = short.answer(found, &answer);
            // With a head that is right, more of the rest is looked at.
            let mut whole = query.bytes.to_vec();
            whole[2] |= 0x80;
            whole[7] = 1;
            whole.append(&mut answer);
            let _ = short.answer(found, &whole);
        }

        #[test]
        fn the_name_that_is_asked_for_comes_back_letter_by_letter(name in "[a-zA-Z0-9][a-zA-Z0-9_]{0,62}") {
            prop_assume!(!name.eq_ignore_ascii_case("localhost"));
            let query = a_query(&format!("{name}."), 7);
            let short = Short::read(&query, &search()).unwrap();
            for (found, passed) in short.first() {
                let mut answer = passed.bytes.to_vec();
                answer[2] |= 0x80;
                let told = short.answer(found, &answer).unwrap();
                prop_assert!(query.is_answered_by(&told));
                prop_assert_eq!(&told[HEADER..HEADER + query.question().len()], query.question());
            }
        }
    }
}
