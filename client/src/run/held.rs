//! What a run holds in a cluster, and how it is let go at the end.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{
    agent::{
        jobs::Jobs,
        supervisor::{Current, Supervised},
    },
    error::Error,
    output::Output,
};

/// The agent is told goodbye within this time.
const GOODBYE: Duration = Duration::from_millis(500);
/// Local connections are reset within this time.
const LAST_RESETS: Duration = Duration::from_millis(300);
/// The Job is removed within this time, or left to end by itself.
const REMOVAL: Duration = Duration::from_secs(5);

/// What has to be undone at the end of a run.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) jobs: Jobs,
    pub(crate) supervised: Supervised,
    pub(crate) tasks: TaskTracker,
    pub(crate) output: Arc<Output>,
}

impl Held {
    /// Says goodbye, resets what is open, removes the Job.
    pub(crate) async fn clean_up(self) -> Result<(), Error> {
        let current = self.supervised.current.borrow().clone();
        let goodbye = async {
            let session = async {
                if let Current::Session { session, .. } = current {
                    session.close(GOODBYE).await;
                }
            };
            let all = async { tokio::join!(session, self.supervised.leaving.close(GOODBYE)) };
            let _ = timeout(GOODBYE * 2, all).await;
            self.tasks.close();
            let _ = timeout(LAST_RESETS, self.tasks.wait()).await;
        };
        let output = &self.output;
        let ((), removed) = tokio::join!(goodbye, timeout(REMOVAL, self.jobs.remove_all()));
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.is_transient() => {
                let message = format!("the agent's Job is left behind: {error}");
                output.warning(
                    &message,
                    Some("the agent ends by itself when it is idle, and its Job is removed then"),
                );
                Ok(())
            }
            Ok(Err(error)) => Err(Error::LeftBehind(error)),
            Err(_) => {
                output.warning(
                    "the agent's Job is left behind: the API server does not answer",
                    Some("the agent ends by itself when it is idle, and its Job is removed then"),
                );
                Ok(())
            }
        }
    }
}
