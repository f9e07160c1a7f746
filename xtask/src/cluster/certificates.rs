//! Keys and certificates: one authority, and a certificate for each part and each user.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::plan::Plan;

/// The cluster's authority.
pub(crate) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, both PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    /// Opens the cluster's authority, making it the first time.
    pub(crate) fn open(plan: &Plan) -> Result<Self> {
        let (certificate_file, key_file) = (plan.path("pki/ca.crt"), plan.path("pki/ca.key"));
        let params = authority_params(&plan.name)?;
        if certificate_file.exists() && key_file.exists() {
            let key =
                KeyPair::from_pem(&fs::read_to_string(&key_file)?).context("read the authority's key")?;
            let certificate = fs::read_to_string(&certificate_file)?;
            return Ok(Self { certificate, issuer: Issuer::new(params, key) });
        }
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        write_private(&key_file, &key.serialize_pem())?;
        write_private(&certificate_file, &certificate)?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Signs a certificate for a server at `names` (host names and addresses).
    pub(crate) fn server(&self, name: &str, names: Vec<String>) -> Result<Identity> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = subject(name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// Signs a certificate by which Kubernetes knows its holder as user `name` of `group`.
    pub(crate) fn client(&self, name: &str, group: Option<&str>) -> Result<Identity> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = subject(name, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A kubeconfig for the holder of `identity`; JSON, which is YAML.
    pub(crate) fn kubeconfig(
        &self,
        plan: &Plan,
        user: &str,
        identity: &Identity,
        namespace: Option<&str>,
    ) -> String {
        let mut context = json!({ "cluster": plan.name, "user": user });
        if let Some(namespace) = namespace {
            context["namespace"] = namespace.into();
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": plan.name,
            "clusters": [{ "name": plan.name, "cluster": {
                "server": plan.api_url(),
                "certificate-authority-data": BASE64.encode(&self.certificate),
            }}],
            "users": [{ "name": user, "user": {
                "client-certificate-data": BASE64.encode(&identity.certificate),
                "client-key-data": BASE64.encode(&identity.key),
            }}],
            "contexts": [{ "name": plan.name, "context": context }],
        });
        format!("{config:#}\n")
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Makes every key and certificate that the cluster's parts need and do not have yet.
pub(crate) fn ensure(plan: &Plan) -> Result<()> {
    fs::create_dir_all(plan.path("pki"))?;
    let authority = Authority::open(plan)?;
    if !plan.path("pki/apiserver.crt").exists() {
        renew_api_server(plan)?;
    }
    let kubelet_names = vec![plan.node(), plan.node_ip(), plan.node_ip6(), "127.0.0.1".to_owned()];
    store(plan, "kubelet", || authority.server(&plan.node(), kubelet_names))?;
    store(plan, "apiserver-kubelet", || authority.client("kube-apiserver", Some("system:masters")))?;
    if !plan.path("pki/service-account.key").exists() {
        let key = KeyPair::generate()?;
        write_private(&plan.path("pki/service-account.pub"), &key.public_key_pem())?;
        write_private(&plan.path("pki/service-account.key"), &key.serialize_pem())?;
    }
    let node = format!("system:node:{}", plan.node());
    let users: [(&str, &str, Option<&str>); 5] = [
        ("kubeconfig", "admin", Some("system:masters")),
        ("controller-manager.kubeconfig", "system:kube-controller-manager", None),
        ("scheduler.kubeconfig", "system:kube-scheduler", None),
        ("proxy.kubeconfig", "system:kube-proxy", None),
        ("kubelet.kubeconfig", &node, Some("system:nodes")),
    ];
    for (file, user, group) in users {
        let file = plan.path(file);
        if !file.exists() {
            let identity = authority.client(user, group)?;
            write_private(&file, &authority.kubeconfig(plan, user, &identity, None))?;
        }
    }
    Ok(())
}

/// Makes another certificate for the API server, of the same authority.
pub(crate) fn renew_api_server(plan: &Plan) -> Result<()> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend([plan.node(), plan.node_ip(), plan.node_ip6(), plan.host_ip(), plan.host_ip6()]);
    names.push(plan.api_service_ip().to_owned());
    names.extend(
        [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned),
    );
    let identity = Authority::open(plan)?.server("kube-apiserver", names)?;
    write_private(&plan.path("pki/apiserver.crt"), &identity.certificate)?;
    write_private(&plan.path("pki/apiserver.key"), &identity.key)
}

fn store(plan: &Plan, name: &str, make: impl FnOnce() -> Result<Identity>) -> Result<()> {
    let certificate = plan.path(&format!("pki/{name}.crt"));
    if certificate.exists() {
        return Ok(());
    }
    let identity = make()?;
    write_private(&plan.path(&format!("pki/{name}.key")), &identity.key)?;
    write_private(&certificate, &identity.certificate)
}

fn authority_params(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = subject(&format!("kubectl-relay test cluster {name}"), None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn subject(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    subject
}

/// Writes a file that only its owner can read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&unfinished, path).with_context(|| format!("write {}", path.display()))
}
