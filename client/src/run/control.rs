//! What whoever watches a run asks for: a forward stops, and starts again where it was.

use std::convert::Infallible;

use tokio::sync::mpsc;

use super::serving::{Planned, Serving};
use crate::{output::Output, view::Command};

/// Obeys until nobody can ask any more, and then waits for ever.
pub(super) async fn obey(
    mut asked: mpsc::Receiver<Command>,
    planned: &[Planned<'_>],
    serving: &[Serving],
    output: &Output,
) -> Infallible {
    while let Some(command) = asked.recv().await {
        let (Command::Stop(id) | Command::Start(id) | Command::Restart(id)) = command;
        let Some((planned, serving)) =
            planned.iter().zip(serving).find(|(planned, _)| planned.account.id() == id)
        else {
            continue;
        };
        if !matches!(command, Command::Start(_)) {
            serving.stop(planned).await;
        }
        if !matches!(command, Command::Stop(_))
            && let Err(error) = serving.start(planned)
        {
            output.warning(&format!("{}: {error}", planned.forward.target), Some(&error.hint()));
        }
    }
    std::future::pending().await
}
