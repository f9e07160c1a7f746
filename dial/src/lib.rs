//! The agent's side towards its targets: from a header's address to a connected socket.
//!
//! [`Dialer`] resolves names as a program in the pod would, asks the policy about each address, races those it may
//! dial, and says in a status code why none was reached; [`Flows`] carries UDP datagrams until nobody has sent any for too long. Nothing here knows who asks.

mod buffers;
mod dialer;
mod error;
mod flow;
mod race;
mod resolve;

pub use buffers::Share;
pub use dialer::{Dialer, Limits};
pub use error::{DialError, status_of};
pub use flow::{FlowPeer, Flows};
pub use resolve::{Found, Resolver};
