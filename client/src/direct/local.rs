//! Whether the program at the other end of a local socket is still there after it has ended its direction. Half of a
//! connection and a program that has left look the same on the socket; the system's table of sockets tells them apart.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::Path,
};

use tokio::{net::TcpStream, task::spawn_blocking};

/// The tables that a program's end of a connection may be in: an IPv6 socket can have IPv4 peers.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Whether the program has closed its socket. `None` where that can't be seen: on another machine or another system.
pub(super) async fn has_left(socket: &TcpStream) -> Option<bool> {
    let (ours, theirs) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
    spawn_blocking(move || {
        let mut readable = false;
        for table in TABLES.map(Path::new) {
            let Ok(text) = std::fs::read_to_string(table) else { continue };
            readable = true;
            if let Some(has_owner) = has_owner(&text, theirs, ours) {
                return Some(!has_owner);
            }
        }
        // What nobody owns is forgotten after a while.
        (readable && theirs.ip().to_canonical().is_loopback()).then_some(true)
    })
    .await
    .ok()
    .flatten()
}

/// Whether some program has the socket between these addresses open; `None` where there is none in the table.
fn has_owner(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<bool> {
    let same = |text: &str, address: SocketAddr| {
        parse(text).is_some_and(|(ip, port)| ip == address.ip().to_canonical() && port == address.port())
    };
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let found = same(fields.next()?, local) && same(fields.next()?, remote);
        // The inode is the seventh field behind the addresses; without an owner it is 0.
        let inode = fields.nth(6).filter(|_| found)?;
        Some(inode != "0")
    })
}

/// `0100007F:1F90`: the address in words of the machine's own byte order, and the port.
fn parse(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|word| u32::from_str_radix(ip.get(word * 8..word * 8 + 8)?, 16).ok())
        .flat_map(|word| match word {
            Some(word) => word.to_ne_bytes().map(Some),
            None => [None; 4],
        })
        .collect();
    let words = words?;
    let ip = match (<[u8; 4]>::try_from(&*words), <[u8; 16]>::try_from(&*words)) {
        (Ok(four), _) => IpAddr::from(four),
        (_, Ok(sixteen)) => Ipv6Addr::from(sixteen).to_canonical(),
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpListener};

    use super::*;

    async fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let connect = TcpStream::connect(listener.local_addr().unwrap());
        let (program, accepted) = tokio::join!(connect, listener.accept());
        (program.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn a_program_that_only_ended_its_direction_is_still_there() {
        for address in ["127.0.0.1", "::1"] {
            let (mut program, mut socket) = pair(address).await;
            assert_eq!(has_left(&socket).await, Some(false));
            program.shutdown().await.unwrap();
            assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
            assert_eq!(has_left(&socket).await, Some(false));
        }
    }

    #[tokio::test]
    async fn a_program_that_closed_its_socket_has_left() {
        for address in ["127.0.0.1", "::1"] {
            let (program, mut socket) = pair(address).await;
            drop(program);
            assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0);
            assert_eq!(has_left(&socket).await, Some(true));
        }
    }

    #[test]
    fn addresses_are_read_as_the_table_writes_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 34567 1\n   \
                     1: 0100007F:D432 0100007F:1F90 05 00000000:00000000 03:00001770 00000000     0        0 0 3\n";
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        if cfg!(target_endian = "little") {
            assert_eq!(has_owner(table, address(8080), address(0xd431)), Some(true));
            assert_eq!(has_owner(table, address(0xd432), address(8080)), Some(false));
        }
        assert_eq!(has_owner(table, address(1), address(2)), None);
        assert_eq!(has_owner("", address(1), address(2)), None);
    }
}
