use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{cli::args::ClusterArgs, cli::settings::UsageError, target::TargetError};

fn parsed(text: &str) -> Result<RelayFile, UsageError> {
    RelayFile::parse("relay.yaml", text, &[ListenAddress::Localhost])
}

/// Each forward on a line: where it is, its group and name, and what it is.
fn summary(text: &str) -> Vec<String> {
    let line = |listed: Listed| {
        let Wanted { spec, namespace, context, addresses } = listed.wanted;
        let ports: Vec<_> = spec.ports.iter().map(ToString::to_string).collect();
        let group = listed.group.map(|group| format!("{group}/")).unwrap_or_default();
        let namespace = namespace.map(|name| format!(" -n {name}")).unwrap_or_default();
        let context = context.map(|name| format!(" --context {name}")).unwrap_or_default();
        let line = spec.place.unwrap().line;
        let addresses = addresses.len();
        format!(
            "{line}: {group}{} = {} {}{namespace}{context} on {addresses}",
            listed.name,
            spec.typed,
            ports.join(" ")
        )
    };
    parsed(text).unwrap().forwards.into_iter().map(line).collect()
}

const WHOLE: &str = "\
version: 1
defaults:
  namespace: shop
  agentSource: image
  connectWait: 30s
  serverToleration: [spot, a=b:NoSchedule]
groups:
  data:
    context: prod
    forwards:
      - name: db
        target: svc/postgres
        ports: 5432
        address: [127.0.0.1, '::1']
      - host/db.example.com 6379 :22
  empty:
  web:
    namespace: front
    address: 127.0.0.1
    forwards:
    - {target: deploy/web, ports: [8080:http, 9090], namespace: other}
    - target: bare
      ports: 53@udp 5353:53@tcp
forwards:
  - svc/top 1
";

#[test]
fn a_whole_file_is_understood() {
    assert_eq!(
        summary(WHOLE),
        [
            "25: top = svc/top 1 -n shop on 1",
            "11: data/db = svc/postgres 5432 -n shop --context prod on 2",
            "15: data/db.example.com = host/db.example.com 6379 :22 -n shop --context prod on 1",
            "21: web/web = deploy/web 8080:http 9090 -n other on 1",
            "22: web/bare = pod/bare 53@udp 5353:53@tcp -n front on 1",
        ]
    );
    let file = parsed(WHOLE).unwrap();
    assert_eq!(file.groups, ["data", "empty", "web"]);
    let words: Vec<_> = file.defaults.words().collect();
    assert_eq!(
        words,
        [
            "--agent-source=image",
            "--connect-wait=30s",
            "--server.toleration=spot",
            "--server.toleration=a=b:NoSchedule"
        ]
    );
    let settings = file.defaults.settings(ClusterArgs::default(), 0).unwrap();
    assert_eq!(settings.connect_wait.as_secs(), 30);
    assert_eq!(settings.agent.pod.tolerations.len(), 2);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_to_write() {
    let cases = [
        ("", "relay.yaml holds no forward", "write at least one"),
        ("- svc/a 1", "relay.yaml:1: the file must be a map, not a list", "docs/up.md"),
        ("forward: []", "relay.yaml:1: the file has no \"forward\"", "did you mean forwards?"),
        ("zzz: []", "relay.yaml:1: the file has no \"zzz\"", "it may have version, defaults"),
        ("version: 2", "relay.yaml:1: version 2 is not known here", "version: 1"),
        ("forwards: svc/a 1", "relay.yaml:1: forwards must be a list, not a text", ""),
        ("forwards:\n- target: svc/a", "relay.yaml:2: a forward has no ports", "ports: 8080:http"),
        ("forwards:\n- ports: 1", "relay.yaml:2: a forward has no target", "target: svc/web"),
        (
            "forwards:\n- target: svc/a\n  port: 1",
            "relay.yaml:3: a forward has no \"port\"",
            "did you mean ports?",
        ),
        (
            "forwards:\n- target: svc/a\n  ports: [1, 70000]",
            "relay.yaml:2: port \"70000\": the remote port 70000 is not in 1 to 65535",
            "LOCAL:REMOTE",
        ),
        ("forwards:\n\n- svc/a", "relay.yaml:3: target \"svc/a\" has no port", "name at least one port"),
        ("forwards: [svc/a 1 svc/b 2]", "relay.yaml:1: \"svc/a 1 svc/b 2\" is more than one target", ""),
        ("forwards: [svc/a 1 -n x]", "relay.yaml:1: port \"-n\": \"-n\" is neither a port number", ""),
        (
            "forwards:\n- {target: svc/a, ports: 1.5}",
            "relay.yaml:2: ports must be a text or a list of them, not a fraction",
            "ports: [",
        ),
        (
            "forwards:\n- {target: svc/a, ports: []}",
            "relay.yaml:2: ports must be a text or a list of them, not an empty one",
            "",
        ),
        (
            "forwards:\n- {target: true, ports: 1}",
            "relay.yaml:2: target must be a text, not true or false",
            "",
        ),
        ("forwards:\n- {target: svc/a, ports: 1, name: 7}", "relay.yaml:2: \"7\" is no name", "a name has"),
        (
            "forwards:\n- {target: svc/a, ports: 1, address: here}",
            "relay.yaml:2: \"here\" is no address to listen on",
            "",
        ),
        (
            "forwards:\n- {target: svc/a, ports: 1, name: x}\n- {target: svc/b, ports: 2, name: x}",
            "relay.yaml:3: the name \"x\" is taken by line 2",
            "a name of its own",
        ),
        (
            "groups:\n  x:\n    forwards:\n    - {target: svc/a, ports: 1, name: x}",
            "relay.yaml:4: the name \"x\" is taken by line 2",
            "a name of its own",
        ),
        (
            "groups:\n  x: {namespaces: a}",
            "relay.yaml:2: a group has no \"namespaces\"",
            "did you mean namespace?",
        ),
        (
            "forwards:\n- svc/a 53:53@udp\n- svc/b 53:53@udp",
            "relay.yaml:3: local port 53 is asked for twice",
            "",
        ),
        (
            "defaults:\n  connect-wait: 1s",
            "relay.yaml:2: defaults has no \"connect-wait\"",
            "did you mean connectWait?",
        ),
        (
            "defaults: {lanes: 99}",
            "relay.yaml:1: lanes: invalid value '99' for '--lanes <N>': 99 is not in 1..=16",
            "the flag of the same name",
        ),
        (
            "defaults:\n  ping: 20s",
            "relay.yaml:2: --dead-after 15s leaves no time for a ping every 20s",
            "--dead-after",
        ),
        ("forwards: [", "relay.yaml:1: ", "YAML"),
        ("a: 1\na: 2", "relay.yaml:2: ", "YAML"),
        ("forwards: *nowhere", "relay.yaml:1: ", "YAML"),
    ];
    for (text, message, hint) in cases {
        let error = parsed(text).unwrap_err();
        assert!(error.to_string().starts_with(message), "{text:?}: {error}");
        assert!(!error.hint().is_empty() && error.hint().contains(hint), "{text:?}: {}", error.hint());
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn two_groups_may_have_one_port_but_not_with_what_stands_beside_both() {
    let groups = "groups:\n  a: {forwards: [svc/a 53:53@udp]}\n  b: {forwards: [svc/a 53:53@udp]}\n";
    assert_eq!(parsed(groups).unwrap().forwards.len(), 2);
    let error = parsed(&format!("{groups}forwards: [svc/c 53:1@udp]")).unwrap_err();
    assert!(error.to_string().contains("local port 53 is asked for twice"), "{error}");
}

#[test]
fn a_run_takes_its_flags_from_the_command_line() {
    let run = |text| RelayFile::parse_for_run("relay.yaml", text, &[ListenAddress::Localhost]);
    assert_eq!(run("defaults: {namespace: x}\nforwards: [svc/a 1]").unwrap().len(), 1);
    let error = run("defaults:\n  lanes: 2\nforwards: [svc/a 1]").unwrap_err();
    assert_eq!(error.to_string(), "relay.yaml:2: defaults has lanes, which is for kubectl relay up");
}

static VALIDATOR: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap());

/// What no schema can say.
fn is_beyond_schemas(error: &UsageError) -> bool {
    match error {
        UsageError::At { error, .. } => is_beyond_schemas(error),
        UsageError::Target(error) => matches!(error, TargetError::Twice { .. }),
        UsageError::RelayFile(mistake) => matches!(mistake, Mistake::NameTwice { .. }),
        UsageError::NoForwards(_)
        | UsageError::DeadBeforePing { .. }
        | UsageError::Form { .. }
        | UsageError::Patch(_) => true,
        _ => false,
    }
}

/// The file, as the schema sees it and as it is read.
fn check(value: &Value) -> Result<(), String> {
    // JSON is YAML.
    let text = serde_json::to_string(value).unwrap();
    let told: Vec<_> = VALIDATOR.iter_errors(value).map(|error| error.to_string()).collect();
    match parsed(&text) {
        Ok(_) if told.is_empty() => Ok(()),
        Ok(_) => Err(format!("only the schema refuses {text}: {told:?}")),
        Err(error) if told.is_empty() && !is_beyond_schemas(&error) => {
            Err(format!("only the reader refuses {text}: {error}"))
        }
        Err(_) => Ok(()),
    }
}

#[test]
fn every_key_of_the_reader_is_in_the_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let keys = |path: &str| {
        let map = schema.pointer(path).and_then(Value::as_object).unwrap();
        let mut keys: Vec<_> = map.keys().cloned().collect();
        keys.sort();
        keys
    };
    let sorted = |keys: &[&str]| {
        let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys("/properties"), sorted(read::TOP));
    assert_eq!(keys("/$defs/group/properties"), sorted(read::GROUP));
    assert_eq!(keys("/$defs/forward/properties"), sorted(read::FORWARD));
    assert_eq!(keys("/$defs/defaults/properties"), sorted(&Defaults::keys()));
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let mut differ = Vec::new();
    let mut check = |value: &Value| differ.extend(check(value).err());
    let forwards = [
        "svc/a 1",
        "svc/a",
        "svc/a 1 svc/b 2",
        "a 1",
        "a:b 1",
        "ip/1.2.3.4 :5@udp",
        "ip/::1 1",
        "ip/x 1",
        "host/a.b 1",
        "host/a..b 1",
        "host/a/b 1",
        "a..b/x 1",
        "A/x 1",
        "svc/a 1:2:3",
        "svc/a 65535",
        "svc/a 65536",
        "svc/a 0:1",
        "svc/a 00:1",
        "svc/a 0",
        "svc/a x-",
        "svc/a 8-",
        "svc/a 8-a",
        "svc/a 1@sctp",
        "svc/-a 1",
        " svc/a  1 ",
        "",
        "svc/a 007",
        "svc/a HTTP",
        "node/n1.example 1",
        "deployments.apps/web http",
        "po/a :x",
    ];
    for forward in forwards {
        check(&json!({"forwards": [forward]}));
        let (target, ports) = forward.trim().split_once(' ').unwrap_or((forward, ""));
        check(&json!({"forwards": [{"target": target, "ports": ports}]}));
        check(&json!({"groups": {"g": {"forwards": [{"target": target, "ports": [ports]}]}}}));
    }
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(16),
        json!(17),
        json!(-1),
        json!(1.5),
        json!(""),
        json!("1"),
        json!("10s"),
        json!("1m30s"),
        json!("s"),
        json!("1.5h"),
        json!("auto"),
        json!("none"),
        json!("spdy"),
        json!("x=y"),
        json!("127.0.0.1"),
        json!("localhost"),
        json!([]),
        json!(["x=y"]),
        json!(["127.0.0.1", "::1"]),
        json!({}),
        json!("a-b"),
        json!("a b"),
        json!("7"),
        json!("-a"),
        json!("svc/a"),
    ];
    for value in &values {
        for key in Defaults::keys() {
            check(&json!({"defaults": {key: value}, "forwards": ["svc/a 1"]}));
        }
        for key in read::FORWARD {
            let mut forward = json!({"target": "svc/a", "ports": 1});
            forward[key] = value.clone();
            check(&json!({"forwards": [forward]}));
        }
        for key in read::GROUP {
            check(&json!({"groups": {"g": {*key: value}}, "forwards": ["svc/a 1"]}));
        }
        for key in read::TOP {
            let mut file = json!({"forwards": ["svc/a 1"]});
            file[key] = value.clone();
            check(&file);
        }
        if let Some(name) = value.as_str() {
            check(&json!({"groups": {name: null}, "forwards": ["svc/a 1"]}));
        }
    }
    check(&json!({"forwards": ["svc/a 1"], "more": 1}));
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

proptest! {
    #[test]
    fn the_schema_and_the_reader_agree_on_any_forward(
        target in "(svc|ip|host|po|a\\.b|)/?[a-z0-9.:-]{0,6}",
        ports in prop::collection::vec("[0-9]{0,5}:?[a-z0-9-]{0,6}(@(tcp|udp|x))?", 0..3),
    ) {
        let is_address = target.starts_with("ip/");
        let outcome = check(&json!({"forwards": [{"target": target, "ports": ports}]}));
        // Which digits are an address is beyond a schema.
        prop_assert!(is_address || outcome.is_ok(), "{:?}", outcome);
    }

    #[test]
    fn any_text_gives_a_file_or_an_error(text in "((forwards|groups|defaults|a|- |  |\\* |&a|: |svc/a 1|\\{|\\[|\"|\n){1,12}|.{0,60})") {
        if let Ok(file) = parsed(&text) {
            prop_assert!(file.forwards.iter().all(|listed| !listed.wanted.spec.ports.is_empty()));
        }
    }
}
