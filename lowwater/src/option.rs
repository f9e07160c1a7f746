//! The option itself.

use std::io;

use tokio::net::TcpStream;

/// Sets how many bytes make the socket readable.
///
/// # Errors
/// The system has no such option, or does not take the number.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code, reason = "no well-kept crate sets this option")]
pub(crate) fn set_receive_low_water(socket: &TcpStream, bytes: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;

    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open while `socket` is borrowed, and the kernel reads no more than the integer, whose size
    // is what it is told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Elsewhere the option is missing, or does not change what wakes a reader.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn set_receive_low_water(_: &TcpStream, _: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
