//! Changes of this machine's network: another Wi-Fi, a VPN that comes or goes. Whoever holds connections checks them
//! at once then, instead of waiting for a silence to grow long.

use tokio::sync::watch;

/// Counts changes, several close to each other as one, from now on. Where the system tells of none (not Linux, or a
/// sandbox without netlink), it never changes, and pings have to do. To be called within a runtime.
pub fn changes() -> watch::Receiver<u64> {
    let (changes, receiver) = watch::channel(0);
    #[cfg(target_os = "linux")]
    match linux::Events::open() {
        Ok(events) => drop(tokio::spawn(linux::count(events, changes))),
        Err(error) => tracing::info!(%error, "changes of the network are not noticed"),
    }
    #[cfg(not(target_os = "linux"))]
    drop(changes);
    receiver
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{io, net::UdpSocket as StdSocket, time::Duration};

    use rustix::{
        io::Errno,
        net::{AddressFamily, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, socket_with},
    };
    use tokio::{net::UdpSocket, sync::watch, time::sleep};

    /// Links, addresses and routes of both families: `RTMGRP_*` of linux/rtnetlink.h.
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    /// An address comes with its routes: one change.
    const SETTLE: Duration = Duration::from_millis(100);
    /// However restless the network is, connections are not checked more often.
    const PAUSE: Duration = Duration::from_secs(1);

    /// A netlink socket. Receiving is the same for all datagram sockets, so the runtime's own type serves, without the
    /// unsafe code that it takes to register any other descriptor.
    pub(super) struct Events(UdpSocket);

    impl Events {
        pub(super) fn open() -> io::Result<Self> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // No protocol means NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(Self(UdpSocket::from_std(StdSocket::from(socket))?))
        }

        /// Waits for an event. What it says in detail makes no difference.
        async fn next(&self) -> io::Result<()> {
            anything(self.0.recv(&mut [0; 4096]).await)
        }

        /// Takes the events that are there.
        fn skip(&self) -> io::Result<()> {
            loop {
                match self.0.try_recv(&mut [0; 4096]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    received => anything(received)?,
                }
            }
        }
    }

    fn anything(received: io::Result<usize>) -> io::Result<()> {
        match received {
            Ok(_) => Ok(()),
            // More has happened than the socket could hold.
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Runs until nobody wants to know any more.
    pub(super) async fn count(events: Events, changes: watch::Sender<u64>) {
        let counting = async {
            loop {
                events.next().await?;
                sleep(SETTLE).await;
                events.skip()?;
                changes.send_modify(|count| *count += 1);
                tracing::debug!("the network has changed");
                sleep(PAUSE).await;
            }
        };
        let outcome: io::Result<()> = tokio::select! {
            outcome = counting => outcome,
            () = changes.closed() => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::info!(%error, "changes of the network are noticed no longer");
        }
    }
}
