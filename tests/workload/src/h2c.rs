//! A small HTTP/2 server without TLS, which answers as gRPC does.

use anyhow::Result;
use h2::server::SendResponse;
use relay_workload::Pattern;
use tokio::net::TcpStream;

/// The largest answer, in bytes.
const LARGEST: usize = 1 << 20;

/// Serves one connection: `/bytes/N` has N bytes of the pattern, `/grpc/N` ends with that status of gRPC.
pub(crate) async fn serve(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let path = request.uri().path().to_owned();
        answer(&path, respond)?;
    }
    Ok(())
}

fn answer(path: &str, mut respond: SendResponse<bytes::Bytes>) -> Result<()> {
    let mut send = respond.send_response(http::Response::new(()), false)?;
    let count = path.strip_prefix("/bytes/").and_then(|count| count.parse::<usize>().ok());
    let mut body = vec![0; count.unwrap_or(4).min(LARGEST)];
    Pattern::new().fill(&mut body);
    send.send_data(body.into(), false)?;
    let status = path.strip_prefix("/grpc/").unwrap_or("0").parse()?;
    send.send_trailers(http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), status)]))?;
    Ok(())
}
