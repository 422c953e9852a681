//! The `sms-merge` command line.
fn main() {}
