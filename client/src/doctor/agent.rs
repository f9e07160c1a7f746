//! A real agent, started as a run starts one: what is true of it is true of runs.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use relay_transport::{DialError, Mode, PortForward};
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    flows,
    report::{Line, Report, time},
};
use crate::{
    agent::{
        launch::LaunchError,
        spec::AGENT_PORT,
        supervisor::{Current, Place},
    },
    cli::{duration::show_duration, settings::Settings},
    cluster::{
        access::Access,
        api::{Call, made},
        config::ClusterConfig,
    },
    ledger::Ledger,
    network,
    output::Output,
    run::{
        context::Context,
        held::Held,
        way::{Way, start},
    },
};

/// Turns what a run would tell on the terminal into lines of the report.
struct Heard {
    report: Arc<Report>,
    /// The check that is going on.
    check: Arc<Mutex<&'static str>>,
}

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Events come whole, one in each write.
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(event) = serde_json::from_slice::<Value>(line) else { continue };
            let check = *self.check.lock().unwrap_or_else(PoisonError::into_inner);
            let message = event["message"].as_str().unwrap_or_default();
            match event["event"].as_str() {
                Some("note") => self.report.tell(Line::note(check, message)),
                Some("warning" | "error") => {
                    let hint = event["hint"].as_str().unwrap_or("kubectl relay -v=4 shows more");
                    self.report.tell(Line::warning(check, message, hint));
                }
                _ => {}
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a test agent leaves to be undone.
pub(super) struct Left {
    held: Held,
    check: Arc<Mutex<&'static str>>,
}

impl Left {
    /// Says goodbye and removes the Job, as the end of a run does.
    pub(super) async fn clean_up(self, report: &Report) {
        const CHECK: &str = "cleanup";
        *self.check.lock().unwrap_or_else(PoisonError::into_inner) = CHECK;
        let is_shared = self.held.supervised.place.borrow().as_ref().is_some_and(|place| place.is_shared);
        match self.held.clean_up().await {
            Ok(()) if report.has(CHECK) => {}
            Ok(()) if is_shared => report.tell(Line::ok(CHECK, "nothing was made; the shared agent stays")),
            Ok(()) => report.tell(Line::ok(CHECK, "the test agent is removed")),
            Err(error) => report.tell(Line::failed(CHECK, error.to_string(), error.hint())),
        }
    }
}

/// Starts an agent and tries what goes through it. What it holds in the cluster is put into `left` before it is made.
pub(super) async fn examine(
    config: &ClusterConfig,
    access: &Access,
    settings: &Settings,
    report: &Arc<Report>,
    left: &Mutex<Option<Left>>,
) {
    let check = Arc::new(Mutex::new("agent"));
    let heard = Heard { report: Arc::clone(report), check: Arc::clone(&check) };
    let output = Arc::new(Output::to(true, 0, Box::new(heard), Box::new(io::sink())));
    let context = Context::alone(config.clone(), access.clone(), settings, output);
    let since = Instant::now();
    let (tasks, network, ledger) = (TaskTracker::new(), network::changes(), Ledger::new());
    let (supervisor, way) = start(&context, settings, &tasks, &network, &ledger, vec![]);
    // Without an agent there is nothing to try.
    let Some(supervisor) = supervisor else { return };
    *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(Left { held: way.held.clone(), check });
    tokio::select! {
        error = supervisor.run() => {
            let message = match &error {
                // What was in the way is told already.
                LaunchError::TimedOut { waited, trouble: Some(_) } => {
                    format!("its pod does not run after {}, as said above", show_duration(*waited))
                }
                _ => error.to_string(),
            };
            report.tell(Line::failed("agent", message, error.hint()));
        }
        () = try_out(&context, &way, settings, since, report) => {}
    }
}

async fn try_out(context: &Context, way: &Way, settings: &Settings, since: Instant, report: &Report) {
    if way.was_ready.clone().wait_for(|ready| *ready).await.is_err() {
        // The supervisor has ended, and tells why.
        return std::future::pending().await;
    }
    let took = since.elapsed();
    let place = way.held.supervised.place.borrow().clone();
    let Some(place) = place else {
        // Traffic has flowed, so that there is one; without an agent nothing is tried at all.
        return report.tell(Line::ok("agent", format!("reached after {}", time(took))).took(took));
    };
    let pod = pod(&context.access, &place, super::limit(settings)).await;
    report.tell(Line::ok("agent", of_agent(&place, pod.as_ref(), took)).took(took));
    upgrades(&context.access, &place, report).await;
    let session = match &*way.held.supervised.current.borrow() {
        Current::Session { session, .. } => session.clone(),
        // It was lost in this moment: the supervisor starts another, which is no state to measure in.
        Current::Starting => {
            let hint = "run it again; kubectl get events says more";
            return report.tell(Line::failed("session", "the agent was lost while it was looked at", hint));
        }
    };
    flows::examine(&session, report).await;
}

/// The pod of the agent that runs, for whoever may look.
async fn pod(access: &Access, place: &Place, limit: Duration) -> Option<Pod> {
    let pods: Api<Pod> = Api::namespaced(access.client(), &place.namespace);
    // Roles for agents have no `get` on pods.
    let list = ListParams::default().fields(&format!("metadata.name={}", place.pod));
    let found = made(Call::new("list", "", "pods", &place.namespace), limit, pods.list(&list)).await.ok()?;
    found.items.into_iter().next()
}

fn of_agent(place: &Place, pod: Option<&Pod>, took: Duration) -> String {
    let spec = pod.and_then(|pod| pod.spec.as_ref());
    let node = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or("a node");
    let image =
        spec.and_then(|spec| spec.containers.first()).and_then(|container| container.image.as_deref());
    let image = image.map(|image| format!("; image {image}")).unwrap_or_default();
    let took = time(took);
    match place.is_shared {
        true => {
            format!("the shared one in \"{}\" runs on {node}, reached after {took}{image}", place.namespace)
        }
        false => format!("runs on {node}, reached {took} after the start{image}"),
    }
}

/// Tries each way of upgrading to a port-forward, whichever the session has taken.
async fn upgrades(access: &Access, place: &Place, report: &Report) {
    let client = access.client();
    let dial = async |mode| {
        let since = Instant::now();
        let dialled = PortForward::dial(&client, &place.namespace, &place.pod, AGENT_PORT, mode).await;
        dialled.map(|_| since.elapsed())
    };
    let mut websocket = dial(Mode::WebSocket).await;
    let mut name = "WebSocket";
    if websocket.is_err()
        && let Ok(took) = dial(Mode::WebSocketV4).await
    {
        (websocket, name) = (Ok(took), "WebSocket (v4)");
    }
    report.tell(of_upgrades(name, &websocket, &dial(Mode::Spdy).await));
}

fn of_upgrades(
    name: &str,
    websocket: &Result<Duration, DialError>,
    spdy: &Result<Duration, DialError>,
) -> Line {
    match (websocket, spdy) {
        (Ok(websocket), Ok(spdy)) => Line::ok(
            "upgrade",
            format!("{name} works, connected in {}; SPDY works, in {}", time(*websocket), time(*spdy)),
        )
        .took(*websocket),
        (Ok(websocket), Err(error)) => {
            Line::ok("upgrade", format!("{name} works, connected in {}; SPDY does not: {error}", time(*websocket)))
                .took(*websocket)
        }
        (Err(error), Ok(spdy)) => Line::warning(
            "upgrade",
            format!("SPDY works, connected in {}; WebSocket does not: {error}", time(*spdy)),
            "--transport spdy saves the attempt; something on the way may not pass WebSocket, or the Role lacks a verb \
             on pods/portforward",
        )
        .took(*spdy),
        (Err(websocket), Err(spdy)) => Line::failed(
            "upgrade",
            format!("WebSocket does not work: {websocket}; SPDY does not work: {spdy}"),
            "something on the way may not pass upgraded connections: a proxy or a load balancer",
        ),
    }
}

/// The time in which somebody who answers has answered.
pub(super) async fn soon<T>(answer: impl Future<Output = T>) -> Option<T> {
    const PATIENCE: Duration = Duration::from_secs(5);
    timeout(PATIENCE, answer).await.ok()
}

/// Takes what is left, once.
pub(super) fn take(left: &Mutex<Option<Left>>) -> Option<Left> {
    left.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Whether an agent that was started is still there.
pub(super) type Kept = Mutex<Option<Left>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_that_does_not_work_is_told_with_its_reason() {
        let refused = || DialError::Unreachable("no".into());
        let ms = Duration::from_millis;
        let line = |websocket, spdy| of_upgrades("WebSocket", &websocket, &spdy).to_string();
        assert_eq!(
            line(Ok(ms(12)), Ok(ms(9))),
            "ok       upgrade     WebSocket works, connected in 12 ms; SPDY works, in 9.0 ms"
        );
        assert!(line(Ok(ms(12)), Err(refused())).starts_with("ok "));
        assert!(line(Err(refused()), Ok(ms(12))).starts_with("warning "));
        assert!(line(Err(refused()), Err(refused())).starts_with("failed "));
    }

    #[test]
    fn what_a_run_would_say_becomes_lines() {
        let (output, out, _) = crate::output::tests::captured(false);
        let report = Arc::new(Report::new(crate::version::Format::Text, Arc::new(output)));
        let check = Arc::new(Mutex::new("agent"));
        let heard = Heard { report, check: Arc::clone(&check) };
        let run = Output::to(true, 0, Box::new(heard), Box::new(io::sink()));
        run.state(&crate::output::RelayState::Connecting);
        run.note("it goes on");
        *check.lock().unwrap() = "cleanup";
        run.warning("something is left", Some("remove it"));
        assert_eq!(
            out.text(),
            "note     agent       it goes on\nwarning  cleanup     something is left\n                     hint: remove it\n"
        );
    }
}
