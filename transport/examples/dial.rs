//! Connects standard input and output to a port of a pod, as netcat would.
//!
//! ```text
//! cargo run -p relay-transport --example dial -- NAMESPACE POD PORT [auto|websocket|websocket-v4|spdy]
//! ```

use std::env::{self, args};

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use relay_transport::connect::{self, Proxy};
use relay_transport::{Mode, Negotiated, PortForward};
use tokio::io::{AsyncWriteExt as _, copy_buf, stdin, stdout};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = args().skip(1).collect();
    let [namespace, pod, port, rest @ ..] = args.as_slice() else {
        bail!("usage: dial NAMESPACE POD PORT [auto|websocket|websocket-v4|spdy]");
    };
    let mode = match rest.first().map(String::as_str) {
        None | Some("auto") => Mode::Auto,
        Some("websocket") => Mode::WebSocket,
        Some("websocket-v4") => Mode::WebSocketV4,
        Some("spdy") => Mode::Spdy,
        Some(other) => bail!("{other:?} is no transport"),
    };
    let kubeconfig = Kubeconfig::read().context("reading the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let proxy = Proxy::choose(None, &config.cluster_url, |name| env::var(name).ok())?;
    let client = connect::client(config, proxy.as_ref())?;

    let (connection, negotiated) = PortForward::dial(&client, namespace, pod, port.parse()?, mode).await?;
    eprintln!("connected over {negotiated}");
    let (reader, mut writer) = connection.into_split();
    let upload = tokio::spawn(async move {
        let mut input = tokio::io::BufReader::with_capacity(64 * 1024, stdin());
        copy_buf(&mut input, &mut writer).await?;
        writer.flush().await?;
        if negotiated != Negotiated::WebSocketV4 {
            // The node tears everything down about a second after this; the older WebSocket at once.
            writer.shutdown().await?;
        }
        Ok::<_, std::io::Error>(writer)
    });
    let mut reader = tokio::io::BufReader::with_capacity(64 * 1024, reader);
    let received = copy_buf(&mut reader, &mut stdout()).await;
    upload.abort();
    eprintln!("received {} bytes", received?);
    Ok(())
}
