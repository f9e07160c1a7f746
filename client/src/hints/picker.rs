//! The targets that a namespace has, to choose one from: by number, by name, or by typing a part of names until one is left.

use std::time::Duration;

use futures_util::future::join_all;
use kube::{
    Api,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};

use super::{ANNOTATION, HintError};
use crate::cluster::{
    access::Access,
    api::{ApiError, Call, made},
    resolve::ResolveError,
};

/// More would scroll the question away.
const SHOWN: usize = 20;
/// What is forwarded to most, first. Prefix, group, version, kind, plural.
const KINDS: [(&str, &str, &str, &str, &str); 4] = [
    ("svc", "", "v1", "Service", "services"),
    ("deploy", "apps", "v1", "Deployment", "deployments"),
    ("sts", "apps", "v1", "StatefulSet", "statefulsets"),
    ("ds", "apps", "v1", "DaemonSet", "daemonsets"),
];

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is typed: `svc/web`.
    pub target: String,
    /// What its annotation suggests.
    pub suggested: Option<String>,
}

/// The Services and workloads of a namespace. Kinds that may not be listed are left out.
///
/// # Errors
/// None may be listed, or there is nothing.
pub async fn entries(access: &Access, namespace: &str, limit: Duration) -> Result<Vec<Entry>, HintError> {
    let listed = KINDS.map(async |(prefix, group, version, kind, plural)| {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(access.client(), namespace, &resource);
        let call = Call::new("list", group, plural, namespace);
        let listed = made(call, limit, api.list_metadata(&ListParams::default())).await?;
        let entry = |meta: kube::core::PartialObjectMeta<DynamicObject>| {
            let target = format!("{prefix}/{}", meta.metadata.name?);
            let suggested = meta.metadata.annotations.and_then(|mut all| all.remove(ANNOTATION));
            Some(Entry { target, suggested })
        };
        Ok::<Vec<Entry>, ApiError>(listed.items.into_iter().filter_map(entry).collect())
    });
    let (mut all, mut refusal, mut answered) = (Vec::new(), None, false);
    for listed in join_all(listed).await {
        match listed {
            Ok(entries) => {
                answered = true;
                all.extend(entries);
            }
            Err(error @ ApiError::Denied { .. }) => refusal = refusal.or(Some(error)),
            Err(error) => return Err(ResolveError::from(error).into()),
        }
    }
    match refusal {
        Some(error) if !answered => Err(ResolveError::from(error).into()),
        _ if all.is_empty() => Err(HintError::Empty(namespace.to_owned())),
        _ => Ok(all),
    }
}

/// A list that gets shorter with each part of a name that is typed.
pub struct Picker {
    all: Vec<Entry>,
    left: Vec<Entry>,
}

impl Picker {
    /// Begins with all of them.
    pub fn new(all: Vec<Entry>) -> Self {
        Self { left: all.clone(), all }
    }

    /// What is left, numbered, and the line to answer on.
    pub fn question(&self) -> String {
        let mut text = String::from("Forward to:\n");
        for (index, entry) in self.left.iter().take(SHOWN).enumerate() {
            let suggested = entry.suggested.as_deref().map(|ports| format!(" ({})", printable(ports)));
            text += &format!("{:>3}  {}{}\n", index + 1, entry.target, suggested.unwrap_or_default());
        }
        if self.left.len() > SHOWN {
            text += &format!("and {} more\n", self.left.len() - SHOWN);
        }
        text + if self.left.len() == 1 { "Number or name [1]: " } else { "Number or part of a name: " }
    }

    /// The target that an answer means.
    ///
    /// # Errors
    /// What to ask next.
    pub fn understood(&mut self, answer: &str) -> Result<String, String> {
        if answer.is_empty() {
            return match self.left.as_slice() {
                [only] => Ok(only.target.clone()),
                // Back to the whole list, for whoever typed the wrong part.
                _ => {
                    self.left.clone_from(&self.all);
                    Err(self.question())
                }
            };
        }
        let numbered = answer.parse::<usize>().ok().and_then(|number| self.left.get(number.checked_sub(1)?));
        let named = || self.all.iter().find(|entry| entry.target == answer);
        if let Some(entry) = numbered.or_else(named) {
            return Ok(entry.target.clone());
        }
        let part = answer.to_lowercase();
        let of_all = |all: &[Entry]| -> Vec<Entry> {
            all.iter().filter(|entry| entry.target.contains(&part)).cloned().collect()
        };
        let left = Some(of_all(&self.left)).filter(|left| !left.is_empty());
        let left = left.unwrap_or_else(|| of_all(&self.all));
        match left.as_slice() {
            [only] => Ok(only.target.clone()),
            [] => Err(format!("Nothing is named so.\n{}", self.question())),
            _ => {
                self.left = left;
                Err(self.question())
            }
        }
    }
}

/// An annotation's text is anybody's: nothing of it may move the cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_graphic() || *letter == ' ').take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picker(targets: &[&str]) -> Picker {
        let entry = |target: &&str| Entry { target: (*target).into(), suggested: None };
        Picker::new(targets.iter().map(entry).collect())
    }

    #[test]
    fn a_number_or_a_name_chooses() {
        let mut few = picker(&["svc/web", "svc/web-admin", "deploy/web"]);
        assert_eq!(few.understood("2"), Ok("svc/web-admin".into()));
        // A whole name is itself, though others contain it.
        assert_eq!(few.understood("svc/web"), Ok("svc/web".into()));
        assert_eq!(few.understood("ADMIN"), Ok("svc/web-admin".into()));
    }

    #[test]
    fn parts_of_names_make_the_list_shorter_until_one_is_left() {
        let mut many = picker(&["svc/web", "svc/web-admin", "deploy/web", "svc/db"]);
        let asked = many.understood("web").unwrap_err();
        assert_eq!(
            asked,
            "Forward to:\n  1  svc/web\n  2  svc/web-admin\n  3  deploy/web\nNumber or part of a name: "
        );
        assert_eq!(many.understood("deploy"), Ok("deploy/web".into()));
        // What is not among those left may be among all.
        assert_eq!(many.understood("db"), Ok("svc/db".into()));
        assert!(many.understood("redis").unwrap_err().starts_with("Nothing is named so.\nForward to:\n"));
        assert!(many.understood("").unwrap_err().contains("svc/db"));
        assert!(many.understood("9").is_err());
    }

    #[test]
    fn enter_takes_the_only_one() {
        assert_eq!(picker(&["svc/web"]).understood(""), Ok("svc/web".into()));
        assert!(picker(&["svc/web", "svc/db"]).understood("").is_err());
    }

    #[test]
    fn a_long_list_is_cut_and_suggestions_are_harmless() {
        let mut all: Vec<Entry> =
            (0..30).map(|number| Entry { target: format!("svc/s{number}"), suggested: None }).collect();
        all[0].suggested = Some("8080:http\x1b[2J\n".into());
        let question = Picker::new(all).question();
        assert!(question.contains("  1  svc/s0 (8080:http[2J)\n"), "{question}");
        assert!(question.contains(" 20  svc/s19\nand 10 more\n"), "{question}");
    }

    proptest! {
        #[test]
        fn any_answer_chooses_one_of_them_or_asks_again(answers in prop::collection::vec("[a-z/0-9]{0,4}|.{0,4}", 0..6)) {
            let mut few = picker(&["svc/web", "svc/db", "deploy/web"]);
            for answer in answers {
                match few.understood(answer.trim()) {
                    Ok(target) => prop_assert!(few.all.iter().any(|entry| entry.target == target)),
                    Err(question) => prop_assert!(question.contains("Forward to:")),
                }
            }
        }
    }
}
