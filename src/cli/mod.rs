<<<<<<< HEAD
//! The commands, one file each.

pub mod mint;
=======
//! The commands, one file each, and what they share.

pub mod log;
>>>>>>> audit
