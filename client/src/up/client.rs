//! The verbs as they are typed: each asks the background process, which `up` and `add` start if there is none.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{UnixStream, unix::OwnedReadHalf},
    process::Command,
    time::{Instant, sleep, timeout},
};

use super::{
    args::{AddArgs, DownArgs, LogsArgs, LsArgs, RmArgs, UpArgs, WaitArgs},
    desk, foreground,
    place::{self, Lock},
    protocol::{AddRequest, Answer, Request, UpRequest, Which},
    render::Listing,
    told::Told,
};
use crate::{cli::args::ClusterArgs, cli::duration::show_duration, error::Error, output::Output};

/// The hidden verb that is the background process.
pub const BACKGROUND: &str = "up-background";
/// A process that starts or ends is done within this time.
const STARTING: Duration = Duration::from_secs(20);
/// Between two tries to reach one that is starting or ending.
const AGAIN: Duration = Duration::from_millis(100);
/// Removing what there is in clusters takes no longer.
const ENDING: Duration = Duration::from_secs(30);

/// Why there is no answer.
enum Unanswered {
    /// No process listens.
    Nobody,
    /// It ended before it had answered.
    Gone,
    /// It cannot be asked.
    Cannot(Told),
}

/// An answer as it comes.
struct Answering(Lines<BufReader<OwnedReadHalf>>);

impl Answering {
    async fn next_line(&mut self) -> Result<String, Unanswered> {
        match self.0.next_line().await {
            Ok(Some(line)) => Ok(line),
            _ => Err(Unanswered::Gone),
        }
    }

    async fn next(&mut self) -> Result<Answer, Unanswered> {
        let line = self.next_line().await?;
        understood(&line)
    }
}

fn understood<T: serde::de::DeserializeOwned>(line: &str) -> Result<T, Unanswered> {
    if let Ok(Answer::Error(told)) = serde_json::from_str(line) {
        return Err(Unanswered::Cannot(told));
    }
    serde_json::from_str(line).map_err(|_| {
        Unanswered::Cannot(Told::new(
            "the background process answers what this kubectl relay does not understand",
            "it may be of another version: end it with kubectl relay down, and begin anew with kubectl relay up",
        ))
    })
}

async fn ask(request: &Request) -> Result<Answering, Unanswered> {
    let path = place::socket_path();
    let stream = UnixStream::connect(&path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Unanswered::Nobody,
        _ => {
            let message = format!("cannot reach the background process at {}: {error}", path.display());
            Unanswered::Cannot(Told::new(message, "is it another user's? each user has one of their own"))
        }
    })?;
    let (read, mut write) = stream.into_split();
    let line = format!("{}\n", request.line());
    write.write_all(line.as_bytes()).await.map_err(|_| Unanswered::Gone)?;
    // It goes on reading, to notice when nobody waits any more.
    tokio::spawn(async move {
        let _open = write;
        std::future::pending::<()>().await;
    });
    Ok(Answering(BufReader::new(read).lines()))
}

/// Asks a process that is there, and gives its first line too.
async fn ask_there(request: &Request) -> Result<Option<(String, Answering)>, Error> {
    match first(request).await {
        Ok(first) => Ok(Some(first)),
        Err(Unanswered::Nobody | Unanswered::Gone) => Ok(None),
        Err(Unanswered::Cannot(told)) => Err(told.into()),
    }
}

async fn first(request: &Request) -> Result<(String, Answering), Unanswered> {
    let mut answering = ask(request).await?;
    Ok((answering.next_line().await?, answering))
}

/// Asks the process, which is started if there is none. `--no-wait` aside the first line may take long, so it is not
/// waited for here.
async fn ask_or_start(request: &Request, verbosity: u8) -> Result<Answering, Error> {
    let deadline = Instant::now() + STARTING;
    loop {
        match ask(request).await {
            Ok(answering) => return Ok(answering),
            Err(Unanswered::Cannot(told)) => return Err(told.into()),
            Err(Unanswered::Nobody | Unanswered::Gone) => {}
        }
        if Instant::now() > deadline {
            let message =
                format!("the background process does not come to answer within {}", show_duration(STARTING));
            return Err(Told::new(message, format!("its log is {}", place::log_path().display())).into());
        }
        if !start(verbosity).await? {
            // Another one is starting, or has not quite ended.
            sleep(AGAIN).await;
        }
    }
}

/// Starts the process and waits until it listens; false where another one has the lock.
async fn start(verbosity: u8) -> Result<bool, Error> {
    place::prepare()?;
    let cannot = |error| Error::System("cannot start the background process", error);
    let log = super::log::append(&place::log_path()).map_err(cannot)?;
    let program = std::env::current_exe().map_err(cannot)?;
    let mut child = Command::new(program)
        .args([BACKGROUND, &format!("-v={verbosity}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(cannot)?;
    let Some(stdout) = child.stdout.take() else { return Ok(false) };
    let mut lines = BufReader::new(stdout).lines();
    let line = timeout(STARTING, lines.next_line()).await;
    let line = line.ok().and_then(Result::ok).flatten().unwrap_or_default();
    match serde_json::from_str(&line) {
        Ok(Answer::Ok(started)) => Ok(started > 0),
        Ok(Answer::Error(told)) => Err(told.into()),
        _ => {
            let log = place::log_path();
            Err(Told::new("the background process does not start", format!("its log is {}", log.display()))
                .into())
        }
    }
}

/// `KUBECONFIG`, where it is more than one file.
pub(super) fn kubeconfigs() -> Option<String> {
    let paths = std::env::var("KUBECONFIG").ok()?;
    (std::env::split_paths(&paths).count() > 1).then_some(paths)
}

/// kubectl's flags with what the process cannot know: this folder, and `KUBECONFIG`.
fn whole(cluster: ClusterArgs) -> ClusterArgs {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let of_environment = || {
        let paths = std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty())?;
        let mut paths = std::env::split_paths(&paths);
        let first = paths.next()?;
        paths.next().is_none().then_some(first)
    };
    ClusterArgs {
        kubeconfig: cluster.kubeconfig.or_else(of_environment).map(absolute),
        certificate_authority: cluster.certificate_authority.map(absolute),
        ..cluster
    }
}

/// `kubectl relay up`.
///
/// # Errors
/// See [`Error`].
pub async fn up(args: UpArgs, cluster: ClusterArgs, output: &Arc<Output>) -> Result<u8, Error> {
    let file = std::path::absolute(&args.file).unwrap_or(args.file);
    let request = UpRequest {
        file,
        groups: args.groups.into_iter().collect(),
        cluster: whole(cluster),
        kubeconfigs: kubeconfigs(),
        wait: !args.waiting.no_wait,
    };
    // What is wrong costs no process.
    desk::check(&request)?;
    if args.foreground {
        return foreground::run(request, output).await;
    }
    forward(&Request::Up(request), &args.waiting, output).await
}

/// `kubectl relay add`.
///
/// # Errors
/// See [`Error`].
pub async fn add(args: AddArgs, cluster: ClusterArgs, output: &Arc<Output>) -> Result<u8, Error> {
    let request = AddRequest {
        words: args.arguments,
        name: args.name,
        addresses: args.address,
        cluster: whole(cluster),
        kubeconfigs: kubeconfigs(),
        wait: !args.waiting.no_wait,
    };
    desk::check_words(&request)?;
    forward(&Request::Add(request), &args.waiting, output).await
}

/// Asks for forwards, and tells of each.
async fn forward(request: &Request, waiting: &WaitArgs, output: &Output) -> Result<u8, Error> {
    output.waiting("waiting for the forwards to be ready");
    let mut settled = 0;
    let telling = async {
        let mut has_failed = false;
        loop {
            let mut answering = ask_or_start(request, output.verbosity()).await?;
            loop {
                match answering.next().await {
                    Ok(Answer::Ready { lines, .. }) => lines.iter().for_each(|line| output.answer(line)),
                    Ok(Answer::Failed { name, told, .. }) => {
                        has_failed = true;
                        output.error(&format!("{name}: {}", told.message), Some(&told.hint));
                    }
                    Ok(Answer::Ok(_)) => return Ok(u8::from(has_failed)),
                    Ok(Answer::Line(_) | Answer::Error(_)) => continue,
                    Err(Unanswered::Cannot(told)) => return Err(told.into()),
                    // It was about to end when it was asked.
                    Err(Unanswered::Nobody | Unanswered::Gone) if settled == 0 => break,
                    Err(Unanswered::Nobody | Unanswered::Gone) => return Err(ended().into()),
                }
                settled += 1;
            }
        }
    };
    let told = timeout(waiting.timeout, telling).await;
    output.waiting_is_over();
    if let Ok(told) = told {
        return told;
    }
    let message = format!("not every forward is ready after {}", show_duration(waiting.timeout));
    let hint = "they are still tried; kubectl relay ls tells how they get on, --timeout waits longer";
    Err(Told::new(message, hint).into())
}

fn ended() -> Told {
    let hint = format!("kubectl relay up starts it again; its log is {}", place::log_path().display());
    Told::new("the background process has ended", hint)
}

/// `kubectl relay down`.
///
/// # Errors
/// See [`Error`].
pub async fn down(args: DownArgs, output: &Output) -> Result<u8, Error> {
    end(&Request::Down(Which(args.which)), output).await
}

/// `kubectl relay rm`.
///
/// # Errors
/// See [`Error`].
pub async fn rm(args: RmArgs, output: &Output) -> Result<u8, Error> {
    end(&Request::Remove(Which(args.which)), output).await
}

async fn end(request: &Request, output: &Output) -> Result<u8, Error> {
    output.waiting("ending");
    let Some((line, _)) = ask_there(request).await? else {
        let is_for_all = matches!(request, Request::Down(which) if which.0.is_empty());
        if !is_for_all {
            return Err(nobody().into());
        }
        note(output);
        return Ok(0);
    };
    let count = match understood(&line) {
        Ok(Answer::Ok(count)) => count,
        Err(Unanswered::Cannot(told)) => return Err(told.into()),
        _ => 0,
    };
    // Where that was the last, whoever asks next must not meet a process that is about to go.
    if matches!(ask(&Request::List).await, Err(Unanswered::Nobody | Unanswered::Gone)) {
        let folder = place::folder();
        let waiting = tokio::task::spawn_blocking(move || Lock::wait(&folder));
        if timeout(ENDING, waiting).await.is_err() {
            return Err(
                Told::new("the background process does not end", "kubectl relay logs tells why").into()
            );
        }
    }
    output.waiting_is_over();
    let plural = if count == 1 { "" } else { "s" };
    output.answer(&format!("Ended {count} forward{plural}"));
    Ok(0)
}

fn note(output: &Output) {
    output.waiting_is_over();
    output.note("nothing is forwarded in the background");
}

fn nobody() -> Told {
    Told::new("nothing is forwarded in the background", "kubectl relay up begins")
}

/// `kubectl relay ls`.
///
/// # Errors
/// See [`Error`].
pub async fn ls(args: LsArgs, output: &Output) -> Result<u8, Error> {
    let empty = || {
        let snapshot = crate::ledger::Ledger::new().snapshot();
        Listing::new(crate::ledger::Snapshot { pid: 0, ..snapshot }, Vec::new())
    };
    let listing = match ask_there(&Request::List).await? {
        Some((line, _)) => match understood(&line) {
            Ok(listing) => listing,
            Err(Unanswered::Cannot(told)) => return Err(told.into()),
            Err(_) => empty(),
        },
        None => empty(),
    };
    let text = listing.show(args.output);
    let is_table = matches!(args.output, super::args::ListFormat::Text | super::args::ListFormat::Wide);
    if is_table && listing.snapshot.forwards.is_empty() {
        note(output);
    } else if !text.is_empty() {
        output.answer(&text);
    }
    for (message, hint) in listing.troubles().iter().filter(|_| is_table) {
        output.warning(message, Some(hint));
    }
    Ok(0)
}

/// `kubectl relay logs`.
///
/// # Errors
/// See [`Error`].
pub async fn logs(args: LogsArgs, output: &Output) -> Result<u8, Error> {
    let Some((mut line, mut answering)) = ask_there(&Request::Logs { follow: args.follow }).await? else {
        last_log(&place::log_path(), output)?;
        return Ok(0);
    };
    loop {
        match understood(&line) {
            Ok(Answer::Line(text)) => output.answer(&text),
            Err(Unanswered::Cannot(told)) => return Err(told.into()),
            _ => return Ok(0),
        }
        match answering.next_line().await {
            Ok(next) => line = next,
            Err(_) => return Ok(0),
        }
    }
}

/// What the last process has left behind.
fn last_log(path: &Path, output: &Output) -> Result<(), Told> {
    let text = std::fs::read_to_string(path).map_err(|_| nobody())?;
    output.answer(text.trim_end());
    output.note("nothing is forwarded in the background; this is the log of the last time");
    Ok(())
}

/// A line of `watch`, as the process writes it: for whoever shows it.
///
/// # Errors
/// When there is no process, or it does not answer.
pub async fn watch(mut show: impl FnMut(Value)) -> Result<(), Error> {
    let Some((mut line, mut answering)) = ask_there(&Request::Watch).await? else {
        return Err(nobody().into());
    };
    loop {
        match understood(&line) {
            Ok(value) => show(value),
            Err(Unanswered::Cannot(told)) => return Err(told.into()),
            Err(_) => return Ok(()),
        }
        match answering.next_line().await {
            Ok(next) => line = next,
            Err(_) => return Ok(()),
        }
    }
}
