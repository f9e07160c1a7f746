//! The options themselves.

use std::io;
use std::time::Duration;

use socket2::SockRef;

/// Sets how many bytes make the socket readable (`SO_RCVLOWAT`).
///
/// # Errors
/// The system has no such option, or does not take the number.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn set_receive_low_water(socket: &SockRef<'_>, bytes: usize) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// Elsewhere the option is missing, or does not change what wakes a reader.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn set_receive_low_water(_: &SockRef<'_>, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets a TCP socket offer its peer a window of up to `bytes` (`TCP_WINDOW_CLAMP`), as far as its receive buffer has room.
///
/// A connection that was made while `SO_RCVBUF` was small never offers more than that buffer had room for, however large
/// it is made afterwards, unless this is raised too. 64 KiB is the most for one whose buffer was smaller than that: windows
/// beyond are agreed upon when it is made.
///
/// # Errors
/// The system has no such option, or does not take the number.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn set_window_clamp(socket: &SockRef<'_>, bytes: usize) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, bytes)
}

/// Elsewhere a window follows its buffer, or can't be told to.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn set_window_clamp(_: &SockRef<'_>, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Lets TCP spread what it sends over each round trip, at the pace of its own window, where a round trip takes at least `from`:
/// a window that is sent at once overflows a queue on the way that would have room for it (`SO_MAX_PACING_RATE`, tcp(7); the
/// limit that has to be given is 2 GiB/s). A shorter way is left as it is: there the timers cost more than they save. True
/// where it spreads.
///
/// # Errors
/// The socket is no TCP socket, or the system has no such option.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn pace(socket: &SockRef<'_>, from: Duration) -> io::Result<bool> {
    if round_trip(socket)? < from {
        return Ok(false);
    }
    set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, PACE_LIMIT)?;
    Ok(true)
}

/// Elsewhere TCP paces itself, or can't be told to.
///
/// # Errors
/// Never.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn pace(_: &SockRef<'_>, _: Duration) -> io::Result<bool> {
    Ok(false)
}

/// In bytes per second. All bits set, which means none, would turn pacing off.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PACE_LIMIT: usize = libc::c_int::MAX as usize;

/// TCP's smoothed round trip; of a new connection, that of its handshake (`TCP_INFO`, tcp(7)).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn round_trip(socket: &SockRef<'_>) -> io::Result<Duration> {
    /// The words of `struct tcp_info` (linux/tcp.h) up to `tcpi_rtt`, which is in microseconds.
    const WORDS: usize = 18;

    let info: [u32; WORDS] = get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(Duration::from_micros(info[WORDS - 1].into()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code, reason = "no well-kept crate reads these options")]
fn get<const WORDS: usize>(
    socket: &SockRef<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<[u32; WORDS]> {
    use std::os::fd::AsRawFd as _;

    let mut words = [0; WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel writes no more than `len` bytes, which is
    // the size of the words; any bits are an integer.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, words.as_mut_ptr().cast(), &raw mut len) };
    match result {
        0 if len as usize == size_of_val(&words) => Ok(words),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code, reason = "no well-kept crate sets these options")]
fn set(socket: &SockRef<'_>, level: libc::c_int, name: libc::c_int, value: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads no more than the integer, whose size
    // is what it is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[cfg(any(target_os = "linux", target_os = "android"))]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// Whether a rate is set; by default there is no limit.
    fn is_paced(socket: &SockRef<'_>) -> bool {
        let [limit] = get(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE).unwrap();
        limit != u32::MAX
    }

    #[test]
    fn only_a_long_way_is_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = SockRef::from(&stream);
        let took = round_trip(&socket).unwrap();
        assert!(!took.is_zero() && took < Duration::from_secs(1), "{took:?}");
        assert!(!pace(&socket, Duration::from_secs(1)).unwrap());
        assert!(!is_paced(&socket));
        assert!(pace(&socket, took).unwrap());
        assert!(is_paced(&socket));
    }

    #[test]
    fn a_socket_that_is_none_of_tcp_is_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(pace(&SockRef::from(&socket), Duration::ZERO).is_err());
    }
}
