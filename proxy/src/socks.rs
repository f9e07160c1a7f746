//! A SOCKS client from its first byte to its end.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use relay_protocol::Status;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    Dial, Target, associate,
    connections::Spoken,
    server::{Client, Shared},
    socket::{Socket, end_after_reply, reset},
    socks4, socks5,
    step::Step,
};

/// Why a client's handshake led to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed<E> {
    /// Its connection ended, or it took too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It does not speak the protocol.
    #[error("{0}")]
    Bad(E),
}

/// Reads one message and not a byte more: what follows belongs to the target.
async fn read<T, E>(
    socket: &mut TcpStream,
    deadline: Instant,
    parse: impl Fn(&[u8]) -> Result<Step<T>, E>,
) -> Result<T, Failed<E>> {
    let mut bytes = Vec::with_capacity(64);
    loop {
        match parse(&bytes).map_err(Failed::Bad)? {
            Step::Complete(value, _) => return Ok(value),
            Step::Need(len) => {
                let mut more = (&mut *socket).take(len as u64);
                let read = timeout_at(deadline, more.read_buf(&mut bytes)).await;
                if read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
}

/// SOCKS4 and SOCKS4a.
pub(crate) async fn serve4<D: Dial>(mut client: Client, shared: &Shared<D>) -> io::Result<()> {
    let socket = &mut client.socket;
    let target = match read(socket, client.deadline, socks4::request).await {
        Ok(target) => target,
        Err(Failed::Io(error)) => return Err(error),
        Err(Failed::Bad(error)) => {
            tracing::debug!(peer = %client.peer, %error, "no SOCKS4 request");
            return reject4(client.socket, socks4::Reply::Rejected).await;
        }
    };
    if shared.settings.credentials.is_some() {
        return reject4(client.socket, socks4::Reply::WrongUser).await;
    }
    let answers = Answers {
        reached: socks4::reply(socks4::Reply::Granted).to_vec(),
        refused: |_| socks4::reply(socks4::Reply::Rejected).to_vec(),
    };
    connect(client, shared, Spoken::Socks4, &target, answers).await
}

async fn reject4(mut socket: TcpStream, reply: socks4::Reply) -> io::Result<()> {
    socket.write_all(&socks4::reply(reply)).await?;
    end(socket).await;
    Ok(())
}

async fn end(socket: TcpStream) {
    end_after_reply(Socket::new(socket)).await;
}

/// SOCKS5.
pub(crate) async fn serve5<D: Dial>(mut client: Client, shared: &Shared<D>) -> io::Result<()> {
    if !greet(&mut client, shared).await? {
        end(client.socket).await;
        return Ok(());
    }
    match read(&mut client.socket, client.deadline, socks5::request).await {
        Ok(socks5::Request::Connect(target)) => {
            let answers = Answers {
                reached: socks5::reply(socks5::Reply::Succeeded, NOWHERE),
                refused: |status| socks5::reply(status.into(), NOWHERE),
            };
            connect(client, shared, Spoken::Socks5, &target, answers).await
        }
        Ok(socks5::Request::Associate(from)) => associate::serve(client, shared, &from).await,
        Err(Failed::Io(error)) => Err(error),
        Err(Failed::Bad(error)) => {
            tracing::debug!(peer = %client.peer, %error, "no SOCKS5 request");
            reject5(client.socket, error.reply()).await
        }
    }
}

/// Agrees on a method and logs in; false where the client is to be let go.
async fn greet<D: Dial>(client: &mut Client, shared: &Shared<D>) -> io::Result<bool> {
    let socket = &mut client.socket;
    let methods = match read(socket, client.deadline, socks5::greeting).await {
        Ok(methods) => methods,
        Err(Failed::Io(error)) => return Err(error),
        Err(Failed::Bad(_)) => return Ok(false),
    };
    let credentials = shared.settings.credentials.as_ref();
    let method = match credentials {
        Some(_) if methods.login => socks5::LOGIN,
        Some(_) => socks5::NO_METHOD,
        None if methods.no_login => socks5::NO_LOGIN,
        // A client that insists on a login may have any.
        None if methods.login => socks5::LOGIN,
        None => socks5::NO_METHOD,
    };
    socket.write_all(&[socks5::VERSION, method]).await?;
    if method != socks5::LOGIN {
        return Ok(method == socks5::NO_LOGIN);
    }
    let login = match read(socket, client.deadline, socks5::login).await {
        Ok(login) => login,
        Err(Failed::Io(error)) => return Err(error),
        Err(Failed::Bad(_)) => return Ok(false),
    };
    let accepted = credentials.is_none_or(|credentials| credentials.accepts_login(&login));
    socket.write_all(&[socks5::LOGIN_VERSION, u8::from(!accepted)]).await?;
    Ok(accepted)
}

/// What a protocol says after the dial.
struct Answers {
    reached: Vec<u8>,
    refused: fn(Status) -> Vec<u8>,
}

/// Dials, says what came of it, and carries.
async fn connect<D: Dial>(
    mut client: Client,
    shared: &Shared<D>,
    spoken: Spoken,
    target: &Target,
    answers: Answers,
) -> io::Result<()> {
    let tracked = shared.connections.begin(spoken, client.peer, target);
    let dialled = tokio::select! {
        dialled = shared.reach.tcp(target) => dialled,
        error = reset(&client.socket) => return Err(error),
    };
    match dialled {
        Ok((stream, origin)) => {
            tracked.opened(origin);
            client.socket.write_all(&answers.reached).await?;
            tracked.ended(stream.carry(client.socket, Bytes::new(), tracked.moved()).await);
        }
        Err(refused) => {
            tracked.refused(&refused);
            drop(tracked);
            client.socket.write_all(&(answers.refused)(refused.status)).await?;
            end(client.socket).await;
        }
    }
    Ok(())
}

/// The address that the target sees is the cluster's affair.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(crate) async fn reject5(mut socket: TcpStream, reply: socks5::Reply) -> io::Result<()> {
    socket.write_all(&socks5::reply(reply, NOWHERE)).await?;
    end(socket).await;
    Ok(())
}
