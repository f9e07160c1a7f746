//! A terminal and its foreground process group.

use std::os::fd::AsFd;

use rustix::{
    process::getpgrp,
    termios::{tcgetpgrp, tcgetwinsize},
};

pub(super) fn is_ours(terminal: impl AsFd) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

pub(super) fn width(terminal: impl AsFd) -> Option<usize> {
    tcgetwinsize(terminal).ok().map(|size| usize::from(size.ws_col))
}
