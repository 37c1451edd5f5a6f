//! Protected branches, attacked from inside a session: over remotes that are folders, and over every transport.

mod folders;
mod known;
mod server;
mod terminal;
mod ways;
