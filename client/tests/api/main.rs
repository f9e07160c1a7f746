//! The plugin's dealings with the API server, against one that answers as told.

mod denied;
mod fake;
mod launch;
mod resolve;
