//! A `kube::Config` from a kubeconfig's entries, whatever the environment says about proxies.
//!
//! kube's own constructor reads `HTTPS_PROXY` and `NO_PROXY` and fails on lists that every other program
//! accepts, such as one that ends with a comma. The proxy is [`super::Proxy::choose`]'s business here.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::ConnectError;

/// The configuration for a cluster and user of a kubeconfig, as `kube::Config::from_custom_kubeconfig`
/// makes it, without a proxy.
///
/// # Errors
/// The server's address or the certificate authority is unusable.
pub fn config(cluster: &Cluster, mut user: AuthInfo, namespace: &str) -> Result<kube::Config, ConnectError> {
    let wrong = |what: &str, cause: &dyn std::fmt::Display| ConnectError::Cluster(format!("{what}: {cause}"));
    let server = cluster.server.as_deref().unwrap_or_default();
    let mut config = kube::Config::new(
        server.parse().map_err(|error| wrong(&format!("server {server:?} is no address"), &error))?,
    );
    let pem = match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => Some(
            STANDARD
                .decode(data)
                .map_err(|error| wrong("certificate-authority-data is no base64", &error))?,
        ),
        (None, Some(path)) => {
            Some(fs::read(path).map_err(|error| wrong(&format!("certificate-authority {path}"), &error))?)
        }
        (None, None) => None,
    };
    if let Some(pem) = pem {
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .map(|certificate| certificate.map(|der| der.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong("the certificate authority cannot be read", &error))?;
        config.root_cert = Some(certificates);
    }
    if let Some(exec) = user.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some(cluster.try_into().map_err(|error| wrong("cluster", &error))?);
    }
    config.auth_info = user;
    config.default_namespace = namespace.to_owned();
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name.clone_from(&cluster.tls_server_name);
    Ok(config)
}
