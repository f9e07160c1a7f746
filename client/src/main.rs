//! client

fn main() {}
