//! The control socket: reads requests of its owner, and answers them.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustix::process::geteuid;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast::error::RecvError, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    Progress,
    desk::Desk,
    engine::Engine,
    log::Log,
    protocol::{Answer, LONGEST, Request},
    render,
    told::Told,
};
use crate::view::{InProcess, Source};

/// A request takes this long to be written at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// Whoever does not read an answer for so long is left alone.
const UNREAD: Duration = Duration::from_secs(30);
/// Connections at once; more wait.
const CONNECTIONS: usize = 64;

/// What answers need. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    desk: Arc<Mutex<Desk>>,
    engine: Engine,
    log: Log,
    /// True once everything is to end.
    ending: watch::Sender<bool>,
    /// `KUBECONFIG` where it is several files.
    kubeconfigs: Option<String>,
    /// Of connections that are being answered.
    answering: TaskTracker,
}

impl Server {
    /// Answers for this desk.
    pub fn new(desk: Desk, log: Log, kubeconfigs: Option<String>) -> Self {
        let engine = desk.engine().clone();
        let (ending, answering) = (watch::Sender::new(false), TaskTracker::new());
        Self { desk: Arc::new(Mutex::new(desk)), engine, log, ending, kubeconfigs, answering }
    }

    /// What is wanted.
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything is to end.
    pub async fn ended(&self) {
        let mut ending = self.ending.subscribe();
        // It has its sender itself.
        let _ = ending.wait_for(|ending| *ending).await;
    }

    /// How many are being answered.
    pub fn answering(&self) -> usize {
        self.answering.len()
    }

    /// Waits for the last answers.
    pub async fn answered(&self) {
        self.ending.send_replace(true);
        self.answering.close();
        let _ = timeout(PATIENCE, self.answering.wait()).await;
    }

    /// Accepts for ever.
    pub async fn serve(&self, listener: UnixListener) {
        let free = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // It is never closed.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let this = self.clone();
                    self.answering.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = this.connection(stream).await {
                            tracing::debug!(%error, "a request was left");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred().map(|peer| peer.uid());
        if !peer.is_ok_and(is_owner) {
            // Whoever it is learns nothing.
            return Ok(());
        }
        let (read, write) = stream.into_split();
        let mut read = BufReader::new(read);
        let mut writer = Writer(write);
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(LONGEST as u64 + 1);
        match timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await {
            Ok(read) => read?,
            Err(_) => return Ok(()),
        };
        if line.len() > LONGEST {
            let told = Told::new("the request is too long", "one line of at most 64 KiB is read");
            return writer.answer(&Answer::Error(told)).await;
        }
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        let request = match Request::parse(&line) {
            Ok(request) => request,
            Err(told) => return writer.answer(&Answer::Error(told)).await,
        };
        let (mut behind, mut rest) = (read.take(1), Vec::new());
        tokio::select! {
            answered = self.answer(request, &mut writer) => answered,
            // Whoever has gone needs no answer. What is sent behind a request is nothing that is understood.
            _ = behind.read_to_end(&mut rest), if !self.is_ending() => Ok(()),
        }
    }

    fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    async fn answer(&self, request: Request, writer: &mut Writer) -> io::Result<()> {
        let answer = match request {
            Request::Up(request) => {
                let ids = self.same_kubeconfigs(request.kubeconfigs.as_ref());
                let ids = {
                    let mut desk = self.desk();
                    // Whoever asks a process that is about to go starts another one.
                    if self.is_ending() {
                        return Ok(());
                    }
                    ids.and_then(|()| desk.up(&request))
                };
                return self.forwarded(ids, request.wait, writer).await;
            }
            Request::Add(request) => {
                let ids = self.same_kubeconfigs(request.kubeconfigs.as_ref());
                let ids = {
                    let mut desk = self.desk();
                    if self.is_ending() {
                        return Ok(());
                    }
                    ids.and_then(|()| desk.add(&request))
                };
                return self.forwarded(ids, request.wait, writer).await;
            }
            Request::Down(which) | Request::Remove(which) => {
                let (ended, is_empty) = {
                    let mut desk = self.desk();
                    let ended = desk.down(&which);
                    let is_empty = ended.is_ok() && desk.is_empty();
                    if is_empty {
                        self.ending.send_replace(true);
                    }
                    (ended, is_empty)
                };
                if is_empty {
                    self.engine.end().await;
                }
                ended.map(Answer::Ok)
            }
            Request::List => {
                let listing = self.listing();
                return writer.line(&serde_json::to_string(&listing)?).await;
            }
            Request::Watch => return self.watch(writer).await,
            Request::Logs { follow } => return self.logs(follow, writer).await,
            Request::Stop(id) => self.one(id, Engine::stop),
            Request::Start(id) => self.one(id, Engine::start),
            Request::Restart(id) => self.one(id, Engine::restart),
        };
        writer.answer(&answer.unwrap_or_else(Answer::Error)).await
    }

    fn same_kubeconfigs(&self, of_request: Option<&String>) -> Result<(), Told> {
        if of_request.is_none_or(|_| of_request == self.kubeconfigs.as_ref()) {
            return Ok(());
        }
        Err(Told::new(
            "the background process was started with another KUBECONFIG",
            "name one file with --kubeconfig, or end it first with kubectl relay down",
        ))
    }

    fn one(&self, id: u64, what: impl Fn(&Engine, u64) -> bool) -> Result<Answer, Told> {
        if what(&self.engine, id) {
            return Ok(Answer::Ok(1));
        }
        Err(Told {
            message: format!("there is no forward {id}"),
            hint: "kubectl relay ls lists them with their numbers".into(),
            code: 2,
        })
    }

    /// Everything, for `ls`.
    fn listing(&self) -> render::Listing {
        let files = self.desk().files();
        render::Listing::new(self.engine.snapshot(), files)
    }

    /// Tells of each forward as soon as it is ready or has failed, if that is waited for.
    async fn forwarded(
        &self,
        ids: Result<Vec<u64>, Told>,
        wait: bool,
        writer: &mut Writer,
    ) -> io::Result<()> {
        let ids = match ids {
            Ok(ids) => ids,
            Err(told) => return writer.answer(&Answer::Error(told)).await,
        };
        let count = ids.len();
        if wait {
            let settled = ids.into_iter().filter_map(|id| Some((id, self.engine.progress(id)?)));
            let settled = settled.map(async |(id, mut progress)| {
                let settled = progress
                    .wait_for(|progress| !matches!(progress, Progress::Starting))
                    .await
                    .map(|progress| progress.clone());
                (id, settled)
            });
            let mut settled: FuturesUnordered<_> = settled.collect();
            while let Some((id, progress)) = settled.next().await {
                let forward = self.engine.ledger().forward(id);
                let Some((forward, progress)) = forward.zip(progress.ok()) else { continue };
                let name = forward.about().name.clone().unwrap_or_default();
                let answer = match progress {
                    Progress::Failed(told) => Answer::Failed { id, name, told },
                    Progress::Ready(_) => {
                        let lines = render::forwarding(&forward.snapshot());
                        Answer::Ready { id, name, lines }
                    }
                    Progress::Starting | Progress::Stopped => continue,
                };
                writer.answer(&answer).await?;
            }
        }
        writer.answer(&Answer::Ok(count)).await
    }

    async fn watch(&self, writer: &mut Writer) -> io::Result<()> {
        let mut source = InProcess::new(self.engine.ledger().clone());
        loop {
            let snapshot = tokio::select! {
                biased;
                snapshot = source.next() => snapshot.map_err(io::Error::other)?,
                () = self.ended() => return Ok(()),
            };
            let Some(snapshot) = snapshot else { return Ok(()) };
            writer.line(&serde_json::to_string(&snapshot)?).await?;
        }
    }

    async fn logs(&self, follow: bool, writer: &mut Writer) -> io::Result<()> {
        let (lines, mut new) = self.log.read();
        for line in lines {
            writer.answer(&Answer::Line(line.to_string())).await?;
        }
        if !follow {
            return writer.answer(&Answer::Ok(0)).await;
        }
        loop {
            let line = tokio::select! {
                biased;
                line = new.recv() => line,
                () = self.ended() => break,
            };
            match line {
                Ok(line) => writer.answer(&Answer::Line(line.to_string())).await?,
                Err(RecvError::Lagged(missed)) => {
                    writer.answer(&Answer::Line(format!("({missed} lines are left out)"))).await?;
                }
                Err(RecvError::Closed) => break,
            }
        }
        writer.answer(&Answer::Ok(0)).await
    }
}

/// Nobody but who this process belongs to, not even root: what root wants, it can do as its owner.
fn is_owner(uid: u32) -> bool {
    uid == geteuid().as_raw()
}

/// The way back.
struct Writer(tokio::net::unix::OwnedWriteHalf);

impl Writer {
    async fn line(&mut self, text: &str) -> io::Result<()> {
        let line = format!("{text}\n");
        let written = timeout(UNREAD, self.0.write_all(line.as_bytes())).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        self.line(&serde_json::to_string(answer)?).await
    }
}

#[cfg(test)]
mod tests;
