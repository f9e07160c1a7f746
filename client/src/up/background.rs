//! The background process: detached from every terminal, found by its socket, ended by `kubectl relay down`.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UnixListener,
    time::{interval, sleep},
};

use super::{
    desk::Desk,
    engine::Engine,
    log::Log,
    place::{self, Lock},
    protocol::Answer,
    server::Server,
    told::Told,
};
use crate::{
    error::Error,
    file_limit::FileLimit,
    output::Output,
    signals::{Signal, Signals},
};

/// Between two looks at a file: a rename, a network's file system or a mapped volume tells of no event that could be
/// waited for everywhere.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// Without anything to do it ends after so long.
const IDLE: Duration = Duration::from_secs(10);

/// Runs until `kubectl relay down`. What comes of the start is told on stdout in one line.
///
/// # Errors
/// See [`Error`]; after the start there is none.
pub async fn run(verbosity: u8) -> Result<u8, Error> {
    // A leader of a group has a session already that it cannot leave; nothing depends on it.
    let _ = rustix::process::setsid();
    let (lock, log, listener) = match prepare() {
        Ok(Some(prepared)) => prepared,
        Ok(None) => return Ok(say(&Answer::Ok(0))),
        Err(told) => return Ok(say(&Answer::Error(told))),
    };
    let mut signals = Signals::new().map_err(|error| Error::System("cannot catch signals", error))?;
    // Where it cannot be raised it stays.
    let _limit = FileLimit::raise();
    let output = Arc::new(Output::to(false, verbosity, log.writer(), log.writer()));
    let desk = Desk::new(Engine::new(Arc::clone(&output)), output, verbosity);
    let engine = desk.engine().clone();
    let server = Server::new(desk, log.clone(), super::client::kubeconfigs());
    log.line(&format!("kubectl relay {} begins, process {}", env!("CARGO_PKG_VERSION"), std::process::id()));
    say(&Answer::Ok(1));
    tokio::select! {
        () = server.serve(listener) => {}
        () = server.ended() => log.line("ended by kubectl relay down"),
        () = asked_to_end(&mut signals) => log.line("ended by a signal"),
        () = look(&server) => {}
        () = idle(&server) => log.line("ended: there is nothing to forward"),
    }
    let _ = fs::remove_file(place::socket_path());
    engine.end().await;
    server.answered().await;
    drop(lock);
    Ok(0)
}

/// The lock, the log and the socket; `None` where another process has them.
fn prepare() -> Result<Option<(Lock, Log, UnixListener)>, Told> {
    let folder = place::prepare()?;
    let hint = format!("look at the folder {}", folder.display());
    let cannot = |what: &str, error: &io::Error| Told::new(format!("cannot {what}: {error}"), hint.clone());
    let Some(lock) = Lock::take(&folder).map_err(|error| cannot("take the lock", &error))? else {
        return Ok(None);
    };
    let log = Log::open(&place::log_path()).map_err(|error| cannot("write the log", &error))?;
    let listener =
        listen(&place::socket_path()).map_err(|error| cannot("listen on the control socket", &error))?;
    Ok(Some((lock, log, listener)))
}

/// To be called with the lock: then a socket that is there is nobody's.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody else gets into the folder, so nobody sees it before its mode is set.
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Tells whoever has started this process, and leaves stdout to nobody.
fn say(answer: &Answer) -> u8 {
    let line = serde_json::to_string(answer).unwrap_or_default();
    // Whoever has gone need not know.
    let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    if let Ok(nowhere) = fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(nowhere);
    }
    u8::from(matches!(answer, Answer::Error(_)))
}

/// A terminal that goes is no reason to end.
async fn asked_to_end(signals: &mut Signals) {
    while signals.next().await == Signal::HangUp {}
}

async fn look(server: &Server) {
    let mut every = interval(LOOK);
    loop {
        every.tick().await;
        server.desk().look();
    }
}

/// Waits until nothing has been wanted, and nobody has asked, for some time.
async fn idle(server: &Server) {
    loop {
        sleep(IDLE).await;
        if server.desk().is_empty() && server.answering() == 0 {
            return;
        }
    }
}
