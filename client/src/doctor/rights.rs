//! Each right that each way of having an agent needs, asked of the API server one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::ValueEnum;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};

use super::report::{Line, MISSING_RIGHTS, Report};
use crate::{
    agent::{embedded::EMBEDDED, found},
    cli::args::AgentSource,
    cluster::{
        api::{ApiError, Call, made},
        rbac::{AGENT_RULES, EMBEDDED_RULES, Rule, SHARED_RULES, TARGET_RULES},
    },
};

/// So many questions are on their way at once.
const AT_ONCE: usize = 4;
const NONE_RULES: &[Rule] = &[
    Rule { group: "", resource: "pods", verbs: &["get"] },
    Rule { group: "", resource: "pods/portforward", verbs: &["get", "create"] },
];
/// Asked besides: with it, a trial shows what becomes of the agent's pod.
const TRIAL_RULES: &[Rule] = &[Rule { group: "", resource: "pods", verbs: &["create"] }];

/// One way of having an agent, or of doing without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// As `--agent-source` has it.
    pub(super) word: &'static str,
    pub(super) namespace: String,
    pub(super) rules: Vec<Rule>,
}

impl Way {
    /// Those that `--agent-source` offers.
    pub(super) fn all(agent_namespace: Option<&str>, namespace: &str) -> Vec<Self> {
        let offered = |word: &&str| {
            let mut values = AgentSource::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            values.any(|value| value.get_name() == *word)
        };
        let words = ["image", "embedded", "shared", "none"];
        words.into_iter().filter(offered).map(|word| Self::of(word, agent_namespace, namespace)).collect()
    }

    /// `agent_namespace` is `--server.namespace`, `namespace` the targets'.
    fn of(word: &'static str, agent_namespace: Option<&str>, namespace: &str) -> Self {
        let (place, rules) = match word {
            "shared" => (agent_namespace.unwrap_or(found::NAMESPACE), SHARED_RULES.to_vec()),
            "none" => (namespace, NONE_RULES.to_vec()),
            "embedded" => (agent_namespace.unwrap_or(namespace), [AGENT_RULES, EMBEDDED_RULES].concat()),
            _ => (agent_namespace.unwrap_or(namespace), AGENT_RULES.to_vec()),
        };
        Self { word, namespace: place.into(), rules }
    }
}

/// How much depends on a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Nothing works without.
    Must,
    /// One of the two that the upgrade may ask for is enough, with some versions and transports.
    Either,
    /// Something is said less well, or cleaned up later.
    Helps,
}

fn weight(way: &Way, rule: &Rule, verb: &str) -> Weight {
    match (rule.resource, verb) {
        // Whoever may not watch a shared agent looks now and then.
        ("pods", "watch") if way.word == "shared" => Weight::Helps,
        ("pods/portforward", _) => Weight::Either,
        ("events", _) | ("jobs", "list") | ("configmaps", "delete") => Weight::Helps,
        _ => Weight::Must,
    }
}

/// Namespace, group, resource, verb.
type Right = (String, &'static str, &'static str, &'static str);

/// What one may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    /// Empty where nobody could be asked.
    allowed: BTreeMap<Right, bool>,
}

impl Rights {
    /// Whether this is allowed; what could not be asked may be.
    pub(super) fn may(&self, namespace: &str, rule: &Rule, verb: &'static str) -> bool {
        let right = (namespace.to_owned(), rule.group, rule.resource, verb);
        self.allowed.get(&right).copied().unwrap_or(true)
    }

    fn missing(&self, namespace: &str, rules: &[Rule], is: impl Fn(&Rule, &str) -> bool) -> Vec<String> {
        let each = |rule: &Rule| {
            let wanted = rule.verbs.iter().filter(|verb| is(rule, verb));
            let verbs: Vec<&str> = wanted.copied().filter(|verb| !self.may(namespace, rule, verb)).collect();
            (!verbs.is_empty()).then(|| format!("{} {}", verbs.join(", "), named(rule)))
        };
        rules.iter().filter_map(each).collect()
    }

    /// What keeps a way from working at all.
    pub(super) fn obstacles(&self, way: &Way) -> Vec<String> {
        let neither = |rule: &Rule| !rule.verbs.iter().any(|verb| self.may(&way.namespace, rule, verb));
        self.missing(&way.namespace, &way.rules, |rule, verb| match weight(way, rule, verb) {
            Weight::Must => true,
            Weight::Either => neither(rule),
            Weight::Helps => false,
        })
    }

    /// What it works without, and not as well.
    fn shortcomings(&self, way: &Way) -> Vec<String> {
        self.missing(&way.namespace, &way.rules, |rule, verb| weight(way, rule, verb) != Weight::Must)
    }

    /// Whether the trial of a pod may be made.
    pub(super) fn may_try_pods(&self, namespace: &str) -> bool {
        !self.allowed.is_empty() && self.may(namespace, &TRIAL_RULES[0], "create")
    }
}

fn named(rule: &Rule) -> String {
    match rule.group {
        "" => rule.resource.into(),
        group => format!("{}.{group}", rule.resource),
    }
}

/// Asks for every right and tells which ways there are; gives the rights, and the words of the ways that are open.
pub(super) async fn examine(
    client: &Client,
    ways: &[Way],
    source: &str,
    namespace: &str,
    limit: Duration,
    report: &Report,
) -> (Rights, Vec<&'static str>) {
    let mut wanted: BTreeSet<Right> = BTreeSet::new();
    let of_ways = ways.iter().flat_map(|way| way.rules.iter().map(|rule| (&*way.namespace, *rule)));
    let of_targets = TARGET_RULES.iter().map(|rule| (namespace, *rule));
    let of_trials = ways.iter().flat_map(|way| TRIAL_RULES.iter().map(|rule| (&*way.namespace, *rule)));
    for (place, rule) in of_ways.chain(of_targets).chain(of_trials) {
        wanted.extend(rule.verbs.iter().map(|&verb| (place.to_owned(), rule.group, rule.resource, verb)));
    }
    let asked = stream::iter(wanted)
        .map(async |right| {
            let allowed = is_allowed(client, &right, limit).await?;
            Ok::<_, ApiError>((right, allowed))
        })
        .buffered(AT_ONCE)
        .try_collect();
    let rights = match asked.await {
        Ok(allowed) => Rights { allowed },
        Err(error) => {
            report.tell(Line::warning("rights", format!("they cannot be asked for: {error}"), error.hint()));
            return (Rights::default(), ways.iter().map(|way| way.word).collect());
        }
    };
    let carries = !EMBEDDED.is_empty();
    let open = tell(&rights, ways, source, carries, report);
    targets(&rights, namespace, report);
    (rights, open)
}

async fn is_allowed(client: &Client, right: &Right, limit: Duration) -> Result<bool, ApiError> {
    let (namespace, group, resource, verb) = right;
    let (resource, subresource) =
        resource.split_once('/').map_or((*resource, None), |(resource, sub)| (resource, Some(sub)));
    let attributes = ResourceAttributes {
        namespace: Some(namespace.clone()),
        group: Some((*group).into()),
        resource: Some(resource.into()),
        subresource: subresource.map(Into::into),
        verb: Some((*verb).into()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let call = Call::cluster_wide("create", "authorization.k8s.io", "selfsubjectaccessreviews");
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = made(call, limit, reviews.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

fn tell(
    rights: &Rights,
    ways: &[Way],
    source: &str,
    carries_agents: bool,
    report: &Report,
) -> Vec<&'static str> {
    let is_missing = |way: &Way| way.word == "embedded" && !carries_agents;
    let closed = |way: &Way| -> Option<String> {
        if is_missing(way) {
            return Some("this plugin carries no agent".into());
        }
        let obstacles = rights.obstacles(way);
        let place = &way.namespace;
        (!obstacles.is_empty()).then(|| format!("not allowed in \"{place}\": {}", obstacles.join("; ")))
    };
    let open: Vec<&'static str> =
        ways.iter().filter(|way| closed(way).is_none()).map(|way| way.word).collect();
    for way in ways {
        // With "auto" one way is enough.
        let is_wanted = way.word == source || (source == "auto" && open.is_empty() && !is_missing(way));
        let may_be_taken = is_wanted || source == "auto";
        report.tell(match (closed(way), rights.shortcomings(way)) {
            (Some(why), _) if is_wanted && is_missing(way) => Line::failed(
                way.word,
                why,
                "build one that does with `cargo xtask plugin`, or use another --agent-source",
            ),
            (Some(why), _) if is_wanted => Line::failed(way.word, why, MISSING_RIGHTS),
            (Some(why), _) => Line::note(way.word, why),
            (None, missing) if missing.is_empty() => {
                Line::ok(way.word, format!("allowed in \"{}\", all of it", way.namespace))
            }
            (None, missing) => {
                let message = format!("allowed in \"{}\", but for: {}", way.namespace, missing.join("; "));
                if may_be_taken {
                    Line::warning(way.word, message, MISSING_RIGHTS)
                } else {
                    Line::note(way.word, message)
                }
            }
        });
    }
    open
}

/// Targets by name; `ip/` and `host/` need no right.
fn targets(rights: &Rights, namespace: &str, report: &Report) {
    let missing = rights.missing(namespace, TARGET_RULES, |_, _| true);
    report.tell(match missing.is_empty() {
        true => Line::ok("targets", format!("those of \"{namespace}\" may be looked up by name")),
        false => Line::note("targets", format!("not allowed in \"{namespace}\": {}", missing.join("; "))),
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{output::tests::captured, version::Format};

    const WORDS: [&str; 4] = ["image", "embedded", "shared", "none"];

    /// Everything but these.
    fn rights(refused: &[(&str, &str)]) -> Rights {
        let all = WORDS.map(|word| Way::of(word, None, "dev"));
        let rules = all.iter().flat_map(|way| way.rules.iter().map(|rule| (way.namespace.clone(), *rule)));
        let each = rules.flat_map(|(namespace, rule)| {
            rule.verbs.iter().map(move |&verb| (namespace.clone(), rule.group, rule.resource, verb))
        });
        Rights {
            allowed: each
                .map(|right| {
                    let ok = !refused.contains(&(right.3, right.2));
                    (right, ok)
                })
                .collect(),
        }
    }

    fn told(source: &str, refused: &[(&str, &str)], carries: bool) -> (String, Vec<&'static str>) {
        let (output, out, _) = captured(false);
        let report = Report::new(Format::Text, Arc::new(output));
        let ways = WORDS.map(|word| Way::of(word, None, "dev"));
        let open = tell(&rights(refused), &ways, source, carries, &report);
        (out.text(), open)
    }

    #[test]
    fn all_rights_open_every_way() {
        let (text, open) = told("auto", &[], true);
        assert_eq!(
            text,
            "ok       image       allowed in \"dev\", all of it\n\
             ok       embedded    allowed in \"dev\", all of it\n\
             ok       shared      allowed in \"kubectl-relay\", all of it\n\
             ok       none        allowed in \"dev\", all of it\n"
        );
        assert_eq!(open, WORDS);
    }

    #[test]
    fn a_missing_right_is_named_and_counts_where_it_was_asked_for() {
        let refused = [("create", "jobs"), ("get", "pods")];
        let (text, open) = told("image", &refused, true);
        assert!(
            text.starts_with(
                "failed   image       not allowed in \"dev\": create jobs.batch\n                     hint: kubectl relay doctor --print-role"
            ),
            "{text}"
        );
        assert!(text.contains("note     embedded    not allowed in \"dev\": create jobs.batch\n"), "{text}");
        assert!(text.contains("note     none        not allowed in \"dev\": get pods\n"), "{text}");
        assert_eq!(open, ["shared"]);
        let (text, _) = told("auto", &refused, true);
        assert!(!text.contains("failed"), "one way is open:\n{text}");
    }

    #[test]
    fn without_any_way_every_one_has_failed() {
        let refused = [("create", "jobs"), ("get", "pods"), ("list", "pods")];
        let (text, open) = told("auto", &refused, true);
        assert_eq!(text.matches("failed").count(), 4, "{text}");
        assert!(open.is_empty());
    }

    #[test]
    fn a_right_that_only_helps_is_a_warning() {
        let (text, open) = told("image", &[("watch", "events"), ("get", "pods/portforward")], true);
        let expected = "warning  image       allowed in \"dev\", but for: get pods/portforward; watch\n                     events\n";
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(open, WORDS);
    }

    #[test]
    fn nobody_is_blamed_for_an_agent_that_is_not_carried() {
        let (text, _) = told("auto", &[("create", "jobs"), ("list", "pods"), ("get", "pods")], false);
        assert!(text.contains("note     embedded    this plugin carries no agent\n"), "{text}");
        assert_eq!(text.matches("failed").count(), 3, "{text}");
    }

    #[test]
    fn a_plugin_without_agents_cannot_bring_one() {
        let (text, open) = told("embedded", &[], false);
        assert!(text.contains("failed   embedded    this plugin carries no agent\n"), "{text}");
        assert_eq!(open, ["image", "shared", "none"]);
    }
}
