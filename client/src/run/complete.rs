//! Before anything else of a run: what the command line leaves open is asked of the cluster, and of whoever sits there.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::context::{Context, Contexts};
use crate::{
    cli::{
        settings::{Settings, UsageError},
        wanted::{Wanted, check_each_address},
    },
    cluster::{
        api::ApiError,
        resolve::{ResolveError, Resolver},
    },
    error::Error,
    hints::{
        HintError, Keyboard, answer,
        offer::{self, Offer},
        picker::{self, Picker},
    },
    output::Output,
    port::PortSpec,
    target::{TargetError, TargetSpec, parse_typed},
};

/// Where nobody can be asked, the cluster has so long to tell which ports there are.
const ANSWER: Duration = Duration::from_secs(15);

/// Opens the contexts, and gives the targets with all their ports.
///
/// # Errors
/// What is left open and cannot be asked for; and those of opening.
pub(super) async fn open(
    settings: &Settings,
    output: &Arc<Output>,
) -> Result<(Vec<Wanted>, Contexts), Error> {
    output.waiting("looking the targets up");
    let lacking = |wanted: &&Wanted| wanted.spec.ports.is_empty();
    let nothing = settings.targets.is_empty() && settings.proxy.is_none();
    let open = nothing || settings.targets.iter().any(|wanted| lacking(&wanted));
    if !open {
        return Ok((settings.targets.clone(), Contexts::open(settings, output).await?));
    }
    let keyboard = Keyboard::of_process().filter(|_| !settings.json);
    match (keyboard, settings.targets.iter().find(lacking)) {
        (Some(keyboard), _) => {
            let contexts = Contexts::open(settings, output).await?;
            let targets = match settings.targets.as_slice() {
                [] => vec![pick(settings, &contexts, keyboard, output).await?],
                typed => typed.to_vec(),
            };
            let targets = complete(settings, &contexts, targets, Some(keyboard)).await?;
            Ok((targets, contexts))
        }
        (None, None) => Err(UsageError::from(TargetError::Nothing).into()),
        (None, Some(first)) => {
            let told = async {
                let contexts = Contexts::open(settings, output).await?;
                let targets = complete(settings, &contexts, settings.targets.clone(), None).await?;
                Ok((targets, contexts))
            };
            // Whatever keeps the cluster from telling, the ports are missing first.
            let plain = || UsageError::from(TargetError::NoPorts(first.spec.typed.clone()));
            match timeout(ANSWER, told).await {
                Ok(Err(error)) if is_in_the_way(&error) => Err(plain().into()),
                Ok(told) => told,
                Err(_) => Err(plain().into()),
            }
        }
    }
}

/// Whether the cluster could not be asked, rather than having answered.
fn is_in_the_way(error: &Error) -> bool {
    match error {
        Error::InContext { error, .. } | Error::At { error, .. } => is_in_the_way(error),
        Error::Config(_) | Error::Connect(_) => true,
        Error::Hint(HintError::Resolve(ResolveError::Api(error))) => {
            !matches!(error, ApiError::NotFound { .. } | ApiError::NoNamespace(_))
        }
        _ => false,
    }
}

/// One of the targets that the namespace has.
async fn pick(
    settings: &Settings,
    contexts: &Contexts,
    keyboard: Keyboard,
    output: &Output,
) -> Result<Wanted, Error> {
    let Some(Context { access, config, .. }) = contexts.all.first() else {
        return Err(UsageError::from(TargetError::Nothing).into());
    };
    let limit = settings.cluster.request_timeout;
    let mut picker = Picker::new(picker::entries(access, &config.namespace, limit).await?);
    let target = keyboard.ask(output, picker.question(), |typed| picker.understood(typed)).await?;
    let spec = parse_typed(&[target]).map_err(UsageError::from)?.remove(0);
    Ok(Wanted { spec, namespace: None, context: None, addresses: settings.addresses.clone() })
}

/// Gives each target its ports, in the order of the command line: those that are suggested, else those that are asked for.
async fn complete(
    settings: &Settings,
    contexts: &Contexts,
    targets: Vec<Wanted>,
    keyboard: Option<Keyboard>,
) -> Result<Vec<Wanted>, Error> {
    let mut complete = Vec::new();
    for (wanted, context) in targets.into_iter().zip(&contexts.of_target) {
        if !wanted.spec.ports.is_empty() {
            complete.push(wanted);
            continue;
        }
        let context = &contexts.all[*context];
        let resolver = context.resolver(wanted.namespace.as_deref(), settings);
        let ports = ports(&resolver, &wanted.spec, &command(settings), keyboard, &context.output).await;
        let ports = ports.map_err(|error| context.named(error.into()).at(wanted.spec.place.as_ref()))?;
        complete.push(Wanted { spec: TargetSpec { ports, ..wanted.spec }, ..wanted });
    }
    check_each_address(&complete)?;
    Ok(complete)
}

async fn ports(
    resolver: &Resolver,
    spec: &TargetSpec,
    command: &str,
    keyboard: Option<Keyboard>,
    output: &Output,
) -> Result<Vec<PortSpec>, HintError> {
    let Offer { ports: known, suggested } = offer::of(resolver, spec).await?;
    let target = &spec.typed;
    if let Some(ports) = suggested {
        output.note(&format!("{target} suggests {}, so that is forwarded", typed(&ports)));
        return Ok(ports);
    }
    let Some(keyboard) = keyboard.filter(|_| offer::forwardable(&known).next().is_some()) else {
        return Err(HintError::NoPorts { target: target.clone(), known, command: command.into() });
    };
    let again = |word: String| format!("\"{word}\" is none of them.\nNumber or name [1]: ");
    let understood = |typed: &str| answer::understood(typed, &known).map_err(again);
    let ports = keyboard.ask(output, answer::question(target, &known), understood).await?;
    output.note(&format!("to be asked no more: {command} {target} {}", typed(&ports)));
    Ok(ports)
}

fn typed(ports: &[PortSpec]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// How the command line begins.
fn command(settings: &Settings) -> String {
    match &settings.cluster.namespace {
        Some(namespace) => format!("kubectl relay -n {namespace}"),
        None => "kubectl relay".into(),
    }
}
