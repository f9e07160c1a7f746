//! The bad inputs, and the files that some of them name.

/// One on each line.
pub(crate) const TYPED: &str = "\
kubectl relay
kubectl relay svc/web
kubectl relay web
kubectl relay node/n1
kubectl relay host/db.example.com
kubectl relay ip/10.0.0.1
kubectl relay svc/web pod/x 80
kubectl relay svc/ 80
kubectl relay /web 80
kubectl relay svc/a/b 80
kubectl relay svc/.. 80
kubectl relay svc/we%b 80
kubectl relay 'svc/a b' 80
kubectl relay '' 80
kubectl relay ip/10.0.0 80
kubectl relay ip/ 80
kubectl relay host/http://example.com 80
kubectl relay host/example.com:443 443
kubectl relay host/a_b..c 80
kubectl relay a..b/x 80
kubectl relay 8080:80 svc/web
kubectl relay 80@udp
kubectl relay -- true
kubectl relay svc/web 80 --
kubectl relay svc/web ''
kubectl relay svc/web 0
kubectl relay svc/web 70000
kubectl relay svc/web 70000:80
kubectl relay svc/web x:80
kubectl relay svc/web 1:2:3
kubectl relay svc/web :
kubectl relay svc/web 8080:
kubectl relay svc/web 80@
kubectl relay svc/web 80@sctp
kubectl relay svc/web 80@UDP
kubectl relay svc/web 80@tcp@udp
kubectl relay svc/web 8080:ht_tp
kubectl relay svc/a 53:53@udp svc/b 53:1@udp
kubectl relay svc/web 80 --no-such-flag
kubectl relay svc/web -80
kubectl relay svc/web 80 --laness 2
kubectl relay svc/web 80 --lanes 0
kubectl relay svc/web 80 --lanes many
kubectl relay svc/web 80 --ping soon
kubectl relay svc/web 80 --ping -1
kubectl relay svc/web 80 --dead-after 5s
kubectl relay svc/web 80 --dead-after 0
kubectl relay svc/web 80 --connect-wait 99999999999999999999h
kubectl relay svc/web 80 -o yaml
kubectl relay svc/web 80 --transport quic
kubectl relay svc/web 80 -l example.com
kubectl relay svc/web 80 -l 127.0.0.1:8080
kubectl relay svc/web 80 -l ''
kubectl relay svc/web 80 --metrics 127.0.0.1
kubectl relay svc/web 80 --plain
kubectl relay svc/web 80 --tui -o json
kubectl relay svc/web 80 --tui -- true
kubectl relay svc/web 80 --metrics example.com:9100
kubectl relay svc/web 80 --server.node-selector zone
kubectl relay svc/web 80 --server.toleration a:Maybe
kubectl relay svc/web 80 --server.requests cpu
kubectl relay svc/web 80 --server.limits =1
kubectl relay svc/web 80 -p '{'
kubectl relay svc/web 80 -p '[]'
kubectl relay svc/web 80 -p ''
kubectl relay svc/web 80 --patch-file nowhere.yaml
kubectl relay svc/web 80 -p '{}' --patch-file nowhere.yaml
kubectl relay svc/web 80 -v=300
kubectl relay svc/web 80 --request-timeout soon
kubectl relay svc/web 80 --insecure-skip-tls-verify=maybe
kubectl relay svc/web 80 -n
kubectl relay svc/web 80 --ports-file /dev/null
kubectl relay svc/web 80 --ports-file nowhere/ports
kubectl relay --lanes 2 version
kubectl relay version svc/web
kubectl relay -f nowhere.txt
kubectl relay -f .
kubectl relay -f empty.txt
kubectl relay -f without-port.txt
kubectl relay -f other-flag.txt
kubectl relay -f bad-port.txt
kubectl relay -f bad-address.txt
kubectl relay -f twice.txt
kubectl relay -f -
kubectl relay svc/web 80 -- no-such-command
kubectl relay svc/web 80 -- /etc/passwd
kubectl relay svc/web 80 -- ''
kubectl relay svc/web 80
kubectl relay svc/web 80 --kubeconfig nowhere
kubectl relay svc/web 80 --kubeconfig empty.txt
kubectl relay svc/web 80 --kubeconfig not-yaml
kubectl relay svc/web 80 --kubeconfig config --context other
kubectl relay svc/web 80 --kubeconfig config --cluster other
kubectl relay svc/web 80 --kubeconfig config --user other
kubectl relay svc/web 80 --kubeconfig config --context without-cluster
kubectl relay svc/web 80 --kubeconfig config --context bad-server
kubectl relay svc/web 80 --kubeconfig config --context bad-authority
kubectl relay svc/web 80 --kubeconfig config --context missing-authority
kubectl relay svc/web 80 --kubeconfig config --context missing-plugin
kubectl relay svc/web 80 --kubeconfig config --context failing-plugin
kubectl relay svc/web 80 --kubeconfig config --context missing-token
kubectl relay svc/web 80 --kubeconfig config
kubectl relay svc/web 80 --server ftp://example.com
kubectl relay svc/web 80 --server 'not an address'
kubectl relay svc/web 80 --server http://127.0.0.1:1
kubectl relay deploy/web --server http://127.0.0.1:1
kubectl relay -f not.yaml
kubectl relay -f unknown-key.yaml
kubectl relay -f twice.yaml
kubectl relay -f only-up.yaml
kubectl relay -f empty.yaml
kubectl relay up -f /nowhere/relay.yaml
kubectl relay up --foreground --no-wait
kubectl relay up --timeout soon
kubectl relay add svc/web
kubectl relay add svc/web 80 -l here
kubectl relay rm
kubectl relay rm web
kubectl relay logs
kubectl relay ls -o xml
";

/// Names and contents.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("not.yaml", "forwards: [svc/web 80\n"),
    ("unknown-key.yaml", "forwards:\n- target: svc/web\n  port: 80\n"),
    (
        "twice.yaml",
        "forwards:\n- {target: svc/a, ports: 80, name: x}\n- {target: svc/b, ports: 81, name: x}\n",
    ),
    ("only-up.yaml", "defaults:\n  lanes: 2\nforwards: [svc/web 80]\n"),
    ("empty.yaml", "groups:\n  x:\n"),
    ("empty.txt", "# nothing yet\n"),
    ("without-port.txt", "svc/a 1\nsvc/b\n"),
    ("other-flag.txt", "svc/a 1 --lanes 2\n"),
    ("bad-port.txt", "svc/a 1\n\nsvc/b 99999\n"),
    ("bad-address.txt", "svc/a 1 -l here\n"),
    ("twice.txt", "svc/a 53:53@udp\nsvc/b 53:53@udp\n"),
    ("not-yaml", "apiVersion: v1\n\tkind: [\n"),
    ("config", CONFIG),
];

const CONFIG: &str = "\
apiVersion: v1
kind: Config
current-context: refused
clusters:
- {name: refused, cluster: {server: 'http://127.0.0.1:1'}}
- {name: bad-server, cluster: {server: 'not an address'}}
- {name: bad-authority, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: 'bm90aGluZw=='}}
- {name: missing-authority, cluster: {server: 'https://127.0.0.1:1', certificate-authority: nowhere.pem}}
users:
- {name: nobody, user: {}}
- {name: missing-plugin, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin, interactiveMode: Never}}}
- {name: failing-plugin, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, 'echo secret-of-mine; echo log in first >&2; exit 3'], interactiveMode: Never}}}
- {name: missing-token, user: {tokenFile: nowhere-token}}
contexts:
- {name: refused, context: {cluster: refused, user: nobody}}
- {name: without-cluster, context: {cluster: nowhere, user: nobody}}
- {name: bad-server, context: {cluster: bad-server, user: nobody}}
- {name: bad-authority, context: {cluster: bad-authority, user: nobody}}
- {name: missing-authority, context: {cluster: missing-authority, user: nobody}}
- {name: missing-plugin, context: {cluster: refused, user: missing-plugin}}
- {name: failing-plugin, context: {cluster: refused, user: failing-plugin}}
- {name: missing-token, context: {cluster: refused, user: missing-token}}
";
