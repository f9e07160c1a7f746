//! The options themselves.

use std::io;

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
