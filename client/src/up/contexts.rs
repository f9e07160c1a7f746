//! The contexts that forwards ask for: each is opened when the first one needs it, and stays.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{told::Told, wish::Wish};
use crate::{
    cli::args::ClusterArgs,
    cluster::{access::Access, config::ClusterConfig},
    error::Error,
};

/// Who asks again this soon gets the same error: a credential plugin is not run for each forward.
const SAME_ERROR: Duration = Duration::from_secs(1);

/// A context as it was opened.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) config: ClusterConfig,
    pub(super) access: Access,
}

/// What came of opening, and when.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Result<Opened, Told>)>>>;

/// A context's name, and the means.
type Key = (Option<String>, Arc<str>);

/// All of them.
#[derive(Default)]
pub(super) struct Contexts(Mutex<HashMap<Key, Slot>>);

impl Contexts {
    /// That of a forward.
    pub(super) async fn open(&self, wish: &Wish) -> Result<Opened, Told> {
        let key = (wish.wanted.context.clone(), Arc::clone(&wish.means.key));
        let slot = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key).or_default())
        };
        let mut slot = slot.lock().await;
        match &*slot {
            Some((_, Ok(opened))) => return Ok(opened.clone()),
            Some((when, Err(told))) if when.elapsed() < SAME_ERROR => return Err(told.clone()),
            _ => {}
        }
        let outcome = open(wish).await.map_err(Told::from);
        *slot = Some((Instant::now(), outcome.clone()));
        outcome
    }
}

async fn open(wish: &Wish) -> Result<Opened, Error> {
    let cluster = &wish.means.settings.cluster;
    let args = ClusterArgs { context: wish.wanted.context.clone(), ..cluster.clone() };
    let config = ClusterConfig::load(&args).await?;
    let access = Access::open(&args, config.clone()).await?;
    Ok(Opened { config, access })
}
