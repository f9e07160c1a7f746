//! Credential plugins that give a client certificate.
//!
//! kube runs such a plugin three times for one client and tells nobody when the certificate expires unless
//! its own connector is used. Here it runs once more than for a token (kube asks first which of the two it
//! gives), and the expiry is known.

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use kube::config::{AuthInfo, ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;

use super::ConnectError;

/// What a plugin prints, as far as certificates are concerned.
#[derive(Deserialize)]
struct Credential {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<Timestamp>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// The configuration without what kube would run to get a certificate.
pub(super) fn without_plugin(mut config: kube::Config) -> kube::Config {
    config.auth_info.exec = None;
    config.auth_info.auth_provider = None;
    config
}

/// The configuration with the certificate that its plugin gives, and when that expires. Without a plugin
/// the configuration as it is.
pub(super) fn with_certificate(
    config: kube::Config,
) -> Result<(kube::Config, Option<Timestamp>), ConnectError> {
    let Some(exec) = &config.auth_info.exec else { return Ok((config, None)) };
    // A plugin may print YAML, which kube can read: leave it to kube then.
    let Some(status) = run(exec)? else { return Ok((config, None)) };
    let (Some(certificate), Some(key)) = (status.client_certificate_data, status.client_key_data) else {
        return Ok((without_plugin(config), None));
    };
    let identity = json!({
        "client-certificate-data": STANDARD.encode(format!("{certificate}\n")),
        "client-key-data": STANDARD.encode(format!("{key}\n")),
    });
    let identity: AuthInfo = serde_json::from_value(identity).map_err(|error| failed(exec, &error))?;
    let mut config = without_plugin(config);
    config.auth_info.client_certificate_data = identity.client_certificate_data;
    config.auth_info.client_key_data = identity.client_key_data;
    Ok((config, status.expiration_timestamp))
}

fn failed(exec: &ExecConfig, cause: &dyn std::fmt::Display) -> ConnectError {
    let command = exec.command.clone().unwrap_or_default();
    ConnectError::Plugin { command, cause: cause.to_string() }
}

/// Runs the plugin as the kubeconfig says. `None` if its output is not JSON.
fn run(exec: &ExecConfig) -> Result<Option<Status>, ConnectError> {
    let interactive = exec.interactive_mode != Some(ExecInteractiveMode::Never);
    let mut spec = json!({ "interactive": interactive });
    if exec.provide_cluster_info {
        spec["cluster"] = serde_json::to_value(&exec.cluster).map_err(|error| failed(exec, &error))?;
    }
    let info = json!({ "apiVersion": exec.api_version, "kind": "ExecCredential", "spec": spec });
    let mut command = Command::new(exec.command.as_deref().unwrap_or_default());
    command.args(exec.args.iter().flatten()).env("KUBERNETES_EXEC_INFO", info.to_string());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            command.env(name, value);
        }
    }
    for name in exec.drop_env.iter().flatten() {
        command.env_remove(name);
    }
    command.stdin(if interactive { Stdio::inherit() } else { Stdio::null() }).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| failed(exec, &error))?;
    if !output.status.success() {
        return Err(failed(exec, &output.status));
    }
    Ok(serde_json::from_slice::<Credential>(&output.stdout).ok().and_then(|credential| credential.status))
}
