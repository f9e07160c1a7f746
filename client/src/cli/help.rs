//! The texts of `--help` that are too long to stand beside a flag.

/// Shown under the flags by `--help`.
pub const EXAMPLES: &str = "\
Targets:
  svc/NAME  pod/NAME (or a bare pod name, first)  deploy/NAME  sts/NAME  ds/NAME  rs/NAME  job/NAME
  TYPE/NAME or TYPE.GROUP/NAME   any kind whose objects have a pod selector
  node/NAME  ip/ADDR  host/NAME  a host name is resolved inside the cluster, by the agent

Ports:
  REMOTE         the same number on both sides
  LOCAL:REMOTE   listen on LOCAL
  :REMOTE        listen on a free port; the Forwarding line tells which
  REMOTE is a number or a port's name. @tcp or @udp at the end picks the protocol; without it the
  Service's or container's own is used, and TCP where a number exists as both.
  Without any port the target's own are offered, or what its annotation kubectl-relay/forward suggests.

Examples:
  # A Service's port named http on local port 8080
  kubectl relay svc/web 8080:http

  # UDP and TCP DNS of the cluster
  kubectl relay -n kube-system svc/kube-dns 5353:53@udp 5353:53@tcp

  # Several targets in one run: a database outside the cluster, and every ready pod of a deployment
  kubectl relay host/db.internal.example.com 5432 deploy/api :8080

  # Targets from a file, one with its ports on each line; -n, -l and --context may stand there too
  kubectl relay -f targets.txt

  # Everything in relay.yaml of this folder, in the background
  kubectl relay up

  # Run a program with a forward: it starts when traffic can flow, and the run ends when it does
  kubectl relay svc/db 5432 -- psql -h 127.0.0.1

  # A free local port, told to the program: RELAY_ADDR and RELAY_PORT of the first forward, RELAY_<NAME>_<PORT> of each
  kubectl relay svc/web :http -- sh -c 'curl http://$RELAY_WEB_HTTP/'

  # See what all forwards of a file do, on the whole terminal
  kubectl relay --tui -f targets.txt

  # Metrics for Prometheus, on a free port that is told on stderr
  kubectl relay --metrics 127.0.0.1:0 svc/web 8080:http

  # Listen on all IPv4 addresses of this machine
  kubectl relay -l 0.0.0.0 svc/web 8080:80

  # An agent image from your own registry, in a namespace of its own
  kubectl relay --server.image registry.example.com/relay-server:0.1.0 --server.namespace tools svc/web 8080:80

  # No registry: the agent that this plugin carries, under the image that the target runs
  kubectl relay --agent-source embedded svc/web 8080:http

  # The agent that a team shares, installed once by an administrator; its users create nothing
  kubectl relay agent install --user-group developers
  kubectl relay --agent-source shared svc/web 8080:http

  # An agent on nodes with a taint
  kubectl relay -p '{\"spec\":{\"tolerations\":[{\"key\":\"spot\",\"operator\":\"Exists\"}]}}' svc/web 8080:80

Exit codes: 0 after SIGINT, SIGTERM or SIGHUP; 1 for a failure; 2 for a wrong command line.
With a command: its own, or 128 and the number of the signal that ended it; 127 if it is not there, 126 if it cannot
be executed; 1 when the tunnel is lost for good.";

/// Shown above the flags.
pub const ABOUT: &str = "\
Forward local TCP and UDP ports to anything a Kubernetes cluster can reach.

Starts a small unprivileged agent in your namespace, reaches it over a port-forward through the API server, and \
carries every connection inside. Connections outlive the loss of the connection to the API server. The agent is \
removed when the command ends.";
