//! `kubectl relay up --foreground`: the same in a terminal, until Ctrl-C.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::interval;

use super::{background::LOOK, desk::Desk, engine::Engine, protocol::UpRequest};
use crate::{error::Error, file_limit::FileLimit, output::Output, signals::Signals};

/// Runs until a signal.
///
/// # Errors
/// A file that makes no sense.
pub(super) async fn run(request: UpRequest, output: &Arc<Output>) -> Result<u8, Error> {
    let mut signals = Signals::new().map_err(|error| Error::System("cannot catch signals", error))?;
    let _limit = FileLimit::raise();
    let engine = Engine::new(Arc::clone(output));
    let mut desk = Desk::new(engine.clone(), Arc::clone(output), output.verbosity());
    desk.up(&UpRequest { groups: BTreeSet::from_iter(request.groups), ..request })?;
    let looking = async {
        let mut every = interval(LOOK);
        loop {
            every.tick().await;
            desk.look();
        }
    };
    tokio::select! {
        _ = signals.next() => {}
        () = looking => {}
    }
    output.waiting_is_over();
    tokio::select! {
        () = engine.end() => {}
        // Nothing is waited for.
        _ = signals.next() => {}
    }
    Ok(0)
}
