//! One connection to a pod that is dialled and upgraded before it is needed. Nothing in the pod notices it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use relay_transport::{Connection, DialError};
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What nobody has needed for so long is let go: something on the way may have forgotten it.
const IDLE: Duration = Duration::from_secs(60);

/// The connections in reserve, by their pods' uids.
#[derive(Default)]
pub(super) struct Reserve(Mutex<HashMap<String, Kept>>);

/// One connection, dialled or about to be.
struct Kept {
    wanted: CancellationToken,
    task: AbortOnDropHandle<Option<Connection>>,
}

impl Reserve {
    /// Dials one more connection to a pod, if there is none yet. To be called within a runtime.
    pub(super) fn fill(
        &self,
        uid: &str,
        dial: impl Future<Output = Result<Connection, DialError>> + Send + 'static,
    ) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that were lost or let go, of pods that may be gone.
        kept.retain(|_, kept| !kept.task.is_finished());
        kept.entry(uid.into()).or_insert_with(|| {
            let wanted = CancellationToken::new();
            let task = tokio::spawn(keep(dial, wanted.clone()));
            Kept { wanted, task: AbortOnDropHandle::new(task) }
        });
    }

    /// Takes the connection to a pod, if there is one that is good as far as anybody knows.
    pub(super) async fn take(&self, uid: &str) -> Option<Connection> {
        let Kept { wanted, task } = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid)?;
        wanted.cancel();
        task.await.ok().flatten()
    }
}

async fn keep(
    dial: impl Future<Output = Result<Connection, DialError>>,
    wanted: CancellationToken,
) -> Option<Connection> {
    let mut connection = match dial.await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "no connection in reserve");
            return None;
        }
    };
    tokio::select! {
        biased;
        () = connection.closed() => None,
        () = wanted.cancelled() => Some(connection),
        () = sleep(IDLE) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_dialled_leaves_nothing_and_the_next_may() {
        let reserve = Reserve::default();
        reserve.fill("uid", async { Err(DialError::Unreachable("no".into())) });
        assert!(reserve.take("uid").await.is_none());
        assert!(reserve.take("other").await.is_none());
    }
}
