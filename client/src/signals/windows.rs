//! The console's events.

use std::io;

use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

pub(super) struct Caught {
    pub(super) interrupt: CtrlC,
    pub(super) terminate: CtrlBreak,
    pub(super) hang_up: CtrlClose,
}

impl Caught {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: ctrl_c()?, terminate: ctrl_break()?, hang_up: ctrl_close()? })
    }
}
