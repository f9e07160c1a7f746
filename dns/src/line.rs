//! One way to the name server with many queries under way: each has an id of its own there, and is given the answer
//! that has this id and repeats its question.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::{
    codec::{FramedRead, FramedWrite, LengthDelimitedCodec},
    task::AbortOnDropHandle,
};

use crate::{
    message::{Query, id, with_id},
    upstream::Datagrams,
};

/// Queries that wait for being sent.
const QUEUE: usize = 256;
/// The most queries under way on one line: no more than a sixteenth of all ids, so that a free one is found at once.
const MAX_PENDING: usize = 4096;

/// A line, as those who ask see it. The last one to drop it closes it.
pub(crate) struct Line {
    /// To the line's task. Full: whoever asks waits. Closed: the line is.
    questions: mpsc::Sender<Question>,
    ear: Arc<Ear>,
    /// The task goes with the line.
    _task: AbortOnDropHandle<()>,
}

struct Question {
    query: Query,
    answer: oneshot::Sender<Bytes>,
}

/// Whether anybody speaks on the other end.
#[derive(Default)]
struct Ear {
    /// When something was asked first since the last answer.
    unheard: Mutex<Option<Instant>>,
    closed: AtomicBool,
}

impl Ear {
    fn asked(&self) {
        self.unheard().get_or_insert_with(Instant::now);
    }

    fn heard(&self) {
        *self.unheard() = None;
    }

    fn unheard(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // A single value can't be half changed.
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// A line over datagrams.
    pub(crate) fn over_datagrams(mut datagrams: impl Datagrams) -> Self {
        Self::start(|mut questions, ear| async move {
            let mut pending = Pending::default();
            loop {
                tokio::select! {
                    question = questions.recv() => {
                        let Some(message) = question.and_then(|question| pending.enter(question)) else {
                            if questions.is_closed() { return }
                            continue;
                        };
                        if datagrams.send(message).is_err() { return }
                        ear.asked();
                    }
                    message = datagrams.recv() => {
                        let Ok(message) = message else { return };
                        if pending.answer(&message) { ear.heard() }
                    }
                }
            }
        })
    }

    /// A line over a connection.
    pub(crate) fn over_stream(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self::start(|mut questions, ear| async move {
            let (read, write) = tokio::io::split(stream);
            let (mut answers, mut out) =
                (FramedRead::new(read, framing()), FramedWrite::new(write, framing()));
            let pending = Mutex::new(Pending::default());
            let lock = || pending.lock().unwrap_or_else(PoisonError::into_inner);
            // Each direction goes on while the other waits.
            let sending = async {
                while let Some(question) = questions.recv().await {
                    let Some(message) = lock().enter(question) else { continue };
                    ear.asked();
                    if out.send(message).await.is_err() {
                        return;
                    }
                }
            };
            let receiving = async {
                while let Some(Ok(message)) = answers.next().await {
                    if lock().answer(&message.freeze()) {
                        ear.heard();
                    }
                }
            };
            tokio::select! {
                () = sending => {}
                () = receiving => {}
            }
        })
    }

    fn start<F>(carry: impl FnOnce(mpsc::Receiver<Question>, Arc<Ear>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (questions, asked) = mpsc::channel(QUEUE);
        let ear = Arc::new(Ear::default());
        let (work, closed) = (carry(asked, Arc::clone(&ear)), Arc::clone(&ear));
        let task = tokio::spawn(async move {
            work.await;
            closed.closed.store(true, Ordering::Relaxed);
        });
        Self { questions, ear, _task: AbortOnDropHandle::new(task) }
    }

    /// The answer to a query, with the query's own id. Never, if none comes.
    ///
    /// # Errors
    /// The line is closed, or has too much under way.
    pub(crate) async fn ask(&self, query: Query) -> io::Result<Bytes> {
        let (answer, answered) = oneshot::channel();
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.questions.send(Question { query, answer }).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())
    }

    /// Whether there is no use in asking here: it is closed, or was asked `patience` ago and says nothing at all.
    pub(crate) fn is_useless(&self, patience: Duration) -> bool {
        self.ear.closed.load(Ordering::Relaxed)
            || self.ear.unheard().is_some_and(|since| since.elapsed() >= patience)
    }
}

/// Each message is preceded by its length, two bytes.
pub(crate) fn framing() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_type::<u16>().new_codec()
}

/// The queries under way, by their ids on this line.
#[derive(Default)]
struct Pending(HashMap<u16, Question>);

impl Pending {
    /// Gives a query its id here, and the message to send; nothing where there is no room.
    fn enter(&mut self, question: Question) -> Option<Bytes> {
        if self.0.len() >= MAX_PENDING {
            self.0.retain(|_, question| !question.answer.is_closed());
        }
        if self.0.len() >= MAX_PENDING {
            return None;
        }
        let id = self.free_id()?;
        let message = question.query.with_id(id);
        self.0.insert(id, question);
        Some(message)
    }

    /// One that nobody can guess.
    fn free_id(&self) -> Option<u16> {
        loop {
            let id = getrandom::u32().ok()? as u16;
            if !self.0.contains_key(&id) {
                return Some(id);
            }
        }
    }

    /// Hands an answer to whoever waits for it; whether anybody did.
    fn answer(&mut self, message: &[u8]) -> bool {
        let Some(id) = id(message) else { return false };
        let Some(question) = self.0.get(&id).filter(|question| question.query.is_answered_by(message)) else {
            tracing::debug!(id, "an answer that nobody waits for");
            return false;
        };
        let message = with_id(message, question.query.id());
        if let Some(question) = self.0.remove(&id) {
            // Whoever gave up has no use for it.
            let _ = question.answer.send(message);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::tests::a_query;

    fn entered(pending: &mut Pending, name: &str) -> (Bytes, oneshot::Receiver<Bytes>) {
        let (answer, answered) = oneshot::channel();
        let message = pending.enter(Question { query: a_query(name, 7), answer }).unwrap();
        (message, answered)
    }

    fn as_answer(message: &[u8]) -> Vec<u8> {
        let mut answer = message.to_vec();
        answer[2] |= 0x80;
        answer
    }

    #[test]
    fn each_query_has_an_id_of_its_own_and_its_own_answer() {
        let mut pending = Pending::default();
        let mut under_way: Vec<_> =
            (0..500).map(|number| entered(&mut pending, &format!("name-{number}."))).collect();
        let ids: std::collections::HashSet<_> = under_way.iter().map(|(message, _)| id(message)).collect();
        assert_eq!(ids.len(), 500);
        under_way.reverse();
        for (message, mut answered) in under_way {
            assert!(pending.answer(&as_answer(&message)));
            let answer = answered.try_recv().unwrap();
            assert_eq!((id(&answer), &answer[12..]), (Some(7), &message[12..]));
            assert!(!pending.answer(&as_answer(&message)), "twice");
        }
        assert!(pending.0.is_empty());
    }

    #[test]
    fn an_answer_to_another_question_is_nobodys() {
        let mut pending = Pending::default();
        let (first, mut answered) = entered(&mut pending, "a.");
        let other = with_id(&a_query("b.", 7).bytes, id(&first).unwrap());
        assert!(!pending.answer(&as_answer(&other)));
        assert!(answered.try_recv().is_err());
        assert!(pending.answer(&as_answer(&first)));
    }

    #[test]
    fn those_who_gave_up_make_room() {
        let mut pending = Pending::default();
        let mut waiting: Vec<_> = (0..MAX_PENDING).map(|_| entered(&mut pending, "a.")).collect();
        let (answer, _answered) = oneshot::channel();
        assert!(pending.enter(Question { query: a_query("a.", 7), answer }).is_none());
        waiting.pop();
        entered(&mut pending, "a.");
    }

    proptest! {
        #[test]
        fn whatever_comes_as_an_answer_is_taken_or_dropped(
            mut messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20)
        ) {
            let mut pending = Pending::default();
            let (question, mut answered) = entered(&mut pending, "a.");
            for message in &mut messages {
                if message.len() >= 2 { message[..2].copy_from_slice(&question[..2]) }
                let taken = pending.answer(message);
                prop_assert_eq!(taken, pending.0.is_empty());
                if taken { break }
            }
            prop_assert_eq!(answered.try_recv().is_ok(), pending.0.is_empty());
        }
    }
}
