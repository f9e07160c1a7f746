//! The view of what another process forwards: snapshots come from its control socket, line by line, and what is asked for
//! goes there.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Command, Kind, Lines, ViewError, commands, show};
use crate::{error::Error, output::Output, signals::Signals};

/// The number of the protocol that is spoken.
const PROTOCOL: u64 = 1;
/// The longest answer that is read, in bytes.
const LONGEST: u64 = 64 << 10;

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// Nobody is there.
    #[error("nothing forwards in the background: {}: {source}", path.display())]
    Nobody {
        /// The control socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The view itself.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl TopError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Nobody { .. } => {
                "begin with kubectl relay up, or watch a run of your own with --tui".into()
            }
            Self::View(error) => error.hint(),
        }
    }
}

/// `kubectl relay top`.
#[derive(Debug, Clone, clap::Args)]
pub struct TopArgs {
    /// Line by line on a terminal too, as screen readers like it; so it is in a pipe.
    #[arg(long)]
    pub plain: bool,
}

impl TopArgs {
    /// Shows what the process at a control socket forwards; gives the exit code. A signal ends it as `q` does.
    ///
    /// # Errors
    /// Where nobody is there, or nothing can be shown.
    pub async fn run(self, socket: &Path, output: &Output) -> Result<u8, Error> {
        let mut signals = Signals::new().map_err(|error| Error::System("cannot catch signals", error))?;
        tokio::select! {
            shown = top(socket, Kind::of_this_process(self.plain), output) => shown?,
            _ = signals.next() => {}
        }
        Ok(0)
    }
}

/// Shows what the process at a control socket forwards, until it is enough or the process ends.
///
/// # Errors
/// Where nobody is there, or nothing can be shown.
pub async fn top(socket: &Path, kind: Kind, output: &Output) -> Result<(), TopError> {
    let nobody = |source| TopError::Nobody { path: socket.into(), source };
    let mut stream = UnixStream::connect(socket).await.map_err(nobody)?;
    ask(&mut stream, "watch", Value::Null).await.map_err(nobody)?;
    let (sender, asked) = commands();
    let (said, mut messages) = mpsc::channel(1);
    let _asking = AbortOnDropHandle::new(tokio::spawn(pass_on(socket.into(), asked, said)));
    let source = Lines::new(BufReader::new(stream));
    let showing = show(kind, source, sender, output);
    let telling = async {
        while let Some(message) = messages.recv().await {
            output.warning(&message, None);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        shown = showing => Ok(shown?),
        () = telling => Ok(()),
    }
}

async fn ask(stream: &mut UnixStream, verb: &str, value: Value) -> io::Result<()> {
    let mut line = json!({ "protocol": PROTOCOL, verb: value }).to_string();
    line.push('\n');
    stream.write_all(line.as_bytes()).await
}

/// Asks for each command on a connection of its own, and tells what was refused.
async fn pass_on(socket: PathBuf, mut asked: mpsc::Receiver<Command>, said: mpsc::Sender<String>) {
    while let Some(command) = asked.recv().await {
        let refused = match answered(&socket, command).await {
            Ok(None) => continue,
            Ok(Some(why)) => why,
            Err(error) => error.to_string(),
        };
        if said.send(refused).await.is_err() {
            return;
        }
    }
}

/// Why a command is refused, if it is.
async fn answered(socket: &Path, command: Command) -> io::Result<Option<String>> {
    let mut stream = UnixStream::connect(socket).await?;
    let (verb, id) = match command {
        Command::Stop(id) => ("stop", id),
        Command::Start(id) => ("start", id),
        Command::Restart(id) => ("restart", id),
    };
    ask(&mut stream, verb, id.into()).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut answer).await?;
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    let why = answer.get("error").map(|told| told["message"].as_str().unwrap_or("it is refused").to_owned());
    Ok(why)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use relay_protocol::header::Protocol;
    use tokio::net::UnixListener;

    use super::*;
    use crate::{
        ledger::{About, Ledger},
        output::tests::captured,
    };

    /// As the background process does it.
    async fn serve(listener: UnixListener, ledger: Ledger, requests: Arc<Mutex<Vec<Value>>>) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let request: Value = serde_json::from_str(&line).unwrap();
            let answer = match &request {
                request if request.get("watch").is_some() => {
                    serde_json::to_string(&ledger.snapshot()).unwrap()
                }
                request if request["stop"] == 1 => json!({"ok": 1}).to_string(),
                _ => json!({"error": {"message": "there is no forward 2", "hint": ""}}).to_string(),
            };
            requests.lock().unwrap().push(request);
            stream.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_the_background_forwards_is_shown_and_commands_reach_it() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let (output, out, _) = captured(false);
        let error = top(&socket, Kind::Plain, &output).await.unwrap_err();
        assert!(error.to_string().starts_with("nothing forwards in the background: "), "{error}");
        assert!(error.hint().contains("kubectl relay up"));

        let ledger = Ledger::new();
        let about = About {
            name: Some("web".into()),
            group: None,
            context: None,
            namespace: "dev".into(),
            target: "svc/web".into(),
            remote_port: 80,
            protocol: Protocol::Tcp,
        };
        ledger.add_forward(about, &ledger.add_agent(None, "dev"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, ledger, Arc::clone(&requests))));
        // It ends when the process does.
        top(&socket, Kind::Plain, &output).await.unwrap();
        assert!(out.text().contains("web (svc/web:80): starting for "), "{}", out.text());

        assert_eq!(answered(&socket, Command::Stop(1)).await.unwrap(), None);
        let refused = answered(&socket, Command::Restart(2)).await.unwrap();
        assert_eq!(refused.as_deref(), Some("there is no forward 2"));
        let asked = requests.lock().unwrap().clone();
        assert_eq!(
            asked,
            [
                json!({"protocol": 1, "watch": null}),
                json!({"protocol": 1, "stop": 1}),
                json!({"protocol": 1, "restart": 2})
            ]
        );
        drop(serving);
    }
}
