//! Protected branches, attacked from inside a session: over remotes that are folders, and over every transport.

mod far;
mod folders;
mod force;
mod known;
mod rest;
mod server;
mod terminal;
mod ways;
