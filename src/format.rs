//! Files and bytes of every format that is read or written.

pub mod replace;
