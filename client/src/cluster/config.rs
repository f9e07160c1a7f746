//! The kubeconfig with kubectl's flags laid over it.

use std::path::PathBuf;

use kube::config::{
    AuthInfo, Cluster, Config, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo,
    NamedCluster, NamedContext,
};
use sha2::{Digest, Sha256};

use super::api::chain;
use crate::cli::args::ClusterArgs;

/// How to reach one cluster as one user.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// For building a client.
    pub kube: Config,
    /// The kubeconfig's own `proxy-url`.
    pub proxy_url: Option<String>,
    /// The namespace of the targets.
    pub namespace: String,
    /// The kubeconfig's name for the user (and whom they act as): only to tell users apart.
    pub user: String,
    /// The kubeconfig's context: a later load must not follow `kubectl config use-context`.
    pub context: Option<String>,
    /// The kubeconfigs and every file that they name for this cluster and user.
    pub files: Vec<PathBuf>,
    /// Differs whenever another client would be made of it; of the files' contents too.
    pub fingerprint: [u8; 32],
}

/// A kubeconfig that leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none, or it names something it does not hold.
    #[error("cannot use the kubeconfig: {0}")]
    Kubeconfig(String),
    /// A certificate file that cannot be read.
    #[error("cannot read the certificate authority {path}: {source}")]
    CertificateAuthority {
        /// `--certificate-authority`.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// `--context`, `--cluster` or `--user` names nothing.
    #[error("the kubeconfig has no {what} \"{name}\"")]
    Unknown {
        /// Context, cluster or user.
        what: &'static str,
        /// What was typed.
        name: String,
    },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown { what, .. } => format!("kubectl config get-{what}s lists them"),
            Self::CertificateAuthority { .. } => "name a PEM file that you may read".into(),
            Self::Kubeconfig(_) => {
                "name a kubeconfig with --kubeconfig or KUBECONFIG; kubectl config view shows the one in use"
                    .into()
            }
        }
    }
}

impl From<KubeconfigError> for ConfigError {
    fn from(error: KubeconfigError) -> Self {
        let text = chain(&error);
        // A parser's picture of the place is none any more on one line; paths come with quotes around quotes.
        let sentence = text.split(" --> ").next().unwrap_or_default();
        Self::Kubeconfig(
            sentence.replace("'\"", "\"").replace("\"'", "\"").replace("YAML: error: ", "YAML: "),
        )
    }
}

/// The context's name when there is no kubeconfig, only flags.
const FLAGS_ONLY: &str = "flags";

impl ClusterConfig {
    /// Reads the kubeconfig as kubectl does (flag, `KUBECONFIG`, `~/.kube/config`, a pod's own credentials).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub async fn load(args: &ClusterArgs) -> Result<Self, ConfigError> {
        let kubeconfig = match read(args) {
            Ok(kubeconfig) => kubeconfig,
            Err(error) if args.kubeconfig.is_some() || std::env::var_os("KUBECONFIG").is_some() => {
                return Err(error.into());
            }
            Err(_) if args.server.is_some() => Kubeconfig::default(),
            Err(error) => return Self::in_cluster(args).ok_or_else(|| error.into()),
        };
        Self::from_kubeconfig(kubeconfig, args).await
    }

    fn in_cluster(args: &ClusterArgs) -> Option<Self> {
        let mut kube = Config::incluster().ok()?;
        impersonate(&mut kube.auth_info, args);
        let namespace = args.namespace.clone().unwrap_or_else(|| kube.default_namespace.clone());
        let files: Vec<PathBuf> = kube.auth_info.token_file.iter().map(PathBuf::from).collect();
        let fingerprint = fingerprint(&Cluster::default(), &kube.auth_info, &files);
        let user = "in-cluster".into();
        Some(Self { kube, proxy_url: None, namespace, user, context: None, files, fingerprint })
    }

    async fn from_kubeconfig(mut kubeconfig: Kubeconfig, args: &ClusterArgs) -> Result<Self, ConfigError> {
        let chosen = Chosen::select(&mut kubeconfig, args)?;
        let cluster = find_cluster(&mut kubeconfig, &chosen.cluster)?;
        override_cluster(cluster, args)?;
        let cluster = cluster.clone();
        if let Some(user) = find_user(&mut kubeconfig, &chosen.user) {
            override_user(user, args);
        }
        let options = KubeConfigOptions {
            context: Some(chosen.context.clone()),
            cluster: Some(chosen.cluster),
            user: Some(chosen.user.clone()),
        };
        let mut kube = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        // A watch holds its connection open; what bounds a silent peer is TCP keep-alive.
        kube.read_timeout = None;
        let mut namespace = args.namespace.clone().unwrap_or_else(|| kube.default_namespace.clone());
        if namespace.is_empty() {
            namespace = "default".into();
        }
        let user = match &args.impersonate {
            Some(other) => format!("{} as {other}", chosen.user),
            None => chosen.user,
        };
        let mut files = named_files(&cluster, &kube.auth_info);
        let fingerprint = fingerprint(&cluster, &kube.auth_info, &files);
        files.extend(kubeconfig_paths(args));
        let (proxy_url, context) = (cluster.proxy_url, Some(chosen.context));
        Ok(Self { kube, proxy_url, namespace, user, context, files, fingerprint })
    }
}

fn read(args: &ClusterArgs) -> Result<Kubeconfig, KubeconfigError> {
    match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    }
}

/// What a kubeconfig has names for, for whoever chooses among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// `--context`.
    pub contexts: Vec<String>,
    /// `--cluster`.
    pub clusters: Vec<String>,
    /// `--user`.
    pub users: Vec<String>,
    /// The namespaces that its contexts name, each once.
    pub namespaces: Vec<String>,
}

impl Names {
    /// Those of the kubeconfig in use; `None` where there is none that can be read.
    pub fn read(args: &ClusterArgs) -> Option<Self> {
        let kubeconfig = read(args).ok()?;
        let of_contexts = kubeconfig.contexts.iter().filter_map(|named| named.context.as_ref());
        let mut namespaces: Vec<String> =
            of_contexts.filter_map(|context| context.namespace.clone()).collect();
        namespaces.sort();
        namespaces.dedup();
        Some(Self {
            contexts: kubeconfig.contexts.into_iter().map(|named| named.name).collect(),
            clusters: kubeconfig.clusters.into_iter().map(|named| named.name).collect(),
            users: kubeconfig.auth_infos.into_iter().map(|named| named.name).collect(),
            namespaces,
        })
    }
}

/// Where the kubeconfig is looked for, as kubectl does.
fn kubeconfig_paths(args: &ClusterArgs) -> Vec<PathBuf> {
    if let Some(path) = &args.kubeconfig {
        return vec![path.clone()];
    }
    match std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty()) {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// The files whose contents are part of a cluster and a user.
fn named_files(cluster: &Cluster, user: &AuthInfo) -> Vec<PathBuf> {
    [&cluster.certificate_authority, &user.client_certificate, &user.client_key, &user.token_file]
        .into_iter()
        .flatten()
        .map(PathBuf::from)
        .collect()
}

fn fingerprint(cluster: &Cluster, user: &AuthInfo, files: &[PathBuf]) -> [u8; 32] {
    let mut digest = Sha256::new();
    // What cannot be written as JSON was not read from a kubeconfig either.
    digest.update(serde_json::to_vec(&(cluster, user)).unwrap_or_default());
    for file in files {
        let content = std::fs::read(file).unwrap_or_default();
        digest.update(content.len().to_be_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

/// The names that the flags and the kubeconfig agree on.
struct Chosen {
    context: String,
    cluster: String,
    user: String,
}

impl Chosen {
    fn select(kubeconfig: &mut Kubeconfig, args: &ClusterArgs) -> Result<Self, ConfigError> {
        if kubeconfig.contexts.is_empty() && args.server.is_some() {
            kubeconfig.contexts.push(NamedContext {
                name: FLAGS_ONLY.into(),
                context: Some(Context { cluster: FLAGS_ONLY.into(), ..Context::default() }),
                ..NamedContext::default()
            });
            kubeconfig.current_context = Some(FLAGS_ONLY.into());
            kubeconfig.clusters.push(NamedCluster {
                name: FLAGS_ONLY.into(),
                cluster: Some(Cluster::default()),
                ..NamedCluster::default()
            });
        }
        let name = args
            .context
            .clone()
            .or_else(|| kubeconfig.current_context.clone().filter(|name| !name.is_empty()))
            .ok_or_else(|| ConfigError::Kubeconfig("it has no current context".into()))?;
        let context = kubeconfig
            .contexts
            .iter()
            .find(|context| context.name == name)
            .and_then(|context| context.context.clone())
            .ok_or_else(|| ConfigError::Unknown { what: "context", name: name.clone() })?;
        if let Some(user) = &args.user
            && !kubeconfig.auth_infos.iter().any(|info| info.name == *user)
        {
            return Err(ConfigError::Unknown { what: "user", name: user.clone() });
        }
        let user = args.user.clone().or(context.user).unwrap_or_default();
        // A context may name no user; flags can still say who it is.
        if !kubeconfig.auth_infos.iter().any(|info| info.name == user) {
            kubeconfig.auth_infos.push(NamedAuthInfo {
                name: user.clone(),
                auth_info: Some(AuthInfo::default()),
                ..NamedAuthInfo::default()
            });
        }
        Ok(Self { context: name, cluster: args.cluster.clone().unwrap_or(context.cluster), user })
    }
}

fn find_cluster<'a>(kubeconfig: &'a mut Kubeconfig, name: &str) -> Result<&'a mut Cluster, ConfigError> {
    kubeconfig
        .clusters
        .iter_mut()
        .find(|cluster| cluster.name == name)
        .and_then(|cluster| cluster.cluster.as_mut())
        .ok_or_else(|| ConfigError::Unknown { what: "cluster", name: name.into() })
}

fn find_user<'a>(kubeconfig: &'a mut Kubeconfig, name: &str) -> Option<&'a mut AuthInfo> {
    kubeconfig.auth_infos.iter_mut().find(|info| info.name == name).and_then(|info| info.auth_info.as_mut())
}

fn override_cluster(cluster: &mut Cluster, args: &ClusterArgs) -> Result<(), ConfigError> {
    if let Some(server) = &args.server {
        cluster.server =
            Some(if server.contains("://") { server.clone() } else { format!("https://{server}") });
    }
    if let Some(path) = &args.certificate_authority {
        std::fs::metadata(path).map_err(|source| ConfigError::CertificateAuthority {
            path: path.display().to_string(),
            source,
        })?;
        cluster.certificate_authority = Some(path.display().to_string());
        cluster.certificate_authority_data = None;
    }
    if let Some(name) = &args.tls_server_name {
        cluster.tls_server_name = Some(name.clone());
    }
    if args.insecure_skip_tls_verify {
        cluster.insecure_skip_tls_verify = Some(true);
        cluster.certificate_authority = None;
        cluster.certificate_authority_data = None;
    }
    Ok(())
}

fn override_user(user: &mut AuthInfo, args: &ClusterArgs) {
    if let Some(token) = &args.token {
        user.token = Some(token.clone().into());
        user.token_file = None;
        user.exec = None;
        user.auth_provider = None;
        user.username = None;
        user.password = None;
    }
    impersonate(user, args);
}

fn impersonate(user: &mut AuthInfo, args: &ClusterArgs) {
    if args.impersonate.is_some() {
        user.impersonate.clone_from(&args.impersonate);
    }
    if !args.impersonate_groups.is_empty() {
        user.impersonate_groups = Some(args.impersonate_groups.clone());
    }
    if args.impersonate_uid.is_some() {
        user.impersonate_uid.clone_from(&args.impersonate_uid);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TWO_CLUSTERS: &str = r"
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: one
  cluster: {server: 'https://one:6443'}
- name: two
  cluster: {server: 'https://two:6443', tls-server-name: two.example}
users:
- name: jane
  user: {token: t1}
- name: joe
  user: {token: t2}
contexts:
- name: one
  context: {cluster: one, user: jane, namespace: dev}
- name: two
  context: {cluster: two, user: joe}
";

    async fn load(args: ClusterArgs) -> Result<ClusterConfig, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(TWO_CLUSTERS.as_bytes()).unwrap();
        ClusterConfig::load(&ClusterArgs { kubeconfig: Some(file.path().into()), ..args }).await
    }

    #[tokio::test]
    async fn the_current_context_is_used_without_flags() {
        let config = load(ClusterArgs::default()).await.unwrap();
        assert_eq!(config.kube.cluster_url.to_string(), "https://one:6443/");
        assert_eq!(config.namespace, "dev");
        assert_eq!(config.user, "jane");
    }

    #[tokio::test]
    async fn flags_win_over_the_kubeconfig() {
        let config = load(ClusterArgs {
            context: Some("two".into()),
            user: Some("jane".into()),
            namespace: Some("prod".into()),
            server: Some("other:8443".into()),
            tls_server_name: Some("x.example".into()),
            insecure_skip_tls_verify: true,
            impersonate: Some("root".into()),
            impersonate_groups: vec!["ops".into()],
            impersonate_uid: Some("7".into()),
            ..ClusterArgs::default()
        })
        .await
        .unwrap();
        assert_eq!(config.kube.cluster_url.to_string(), "https://other:8443/");
        assert_eq!(config.namespace, "prod");
        assert_eq!(config.kube.tls_server_name.as_deref(), Some("x.example"));
        assert!(config.kube.accept_invalid_certs);
        assert_eq!(config.kube.auth_info.impersonate.as_deref(), Some("root"));
        assert_eq!(config.kube.auth_info.impersonate_groups, Some(vec!["ops".to_owned()]));
        assert_eq!(config.kube.auth_info.impersonate_uid.as_deref(), Some("7"));
        assert_eq!(config.user, "jane as root");
    }

    #[tokio::test]
    async fn a_context_without_a_namespace_means_default() {
        let config =
            load(ClusterArgs { context: Some("two".into()), ..ClusterArgs::default() }).await.unwrap();
        assert_eq!(config.namespace, "default");
    }

    #[tokio::test]
    async fn unknown_names_are_named() {
        let context = load(ClusterArgs { context: Some("nine".into()), ..ClusterArgs::default() }).await;
        assert_eq!(context.unwrap_err().to_string(), "the kubeconfig has no context \"nine\"");
        let cluster = load(ClusterArgs { cluster: Some("nine".into()), ..ClusterArgs::default() }).await;
        assert_eq!(cluster.unwrap_err().to_string(), "the kubeconfig has no cluster \"nine\"");
        let user = load(ClusterArgs { user: Some("nine".into()), ..ClusterArgs::default() }).await;
        assert_eq!(user.unwrap_err().to_string(), "the kubeconfig has no user \"nine\"");
    }

    #[tokio::test]
    async fn a_missing_kubeconfig_is_an_error_with_its_path() {
        let args = ClusterArgs { kubeconfig: Some("/nowhere/config".into()), ..ClusterArgs::default() };
        let error = ClusterConfig::load(&args).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/config"), "{error}");
    }
}
