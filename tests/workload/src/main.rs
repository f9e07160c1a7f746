//! tests/workload

fn main() {}
