//! sentrely runs Claude Code on something real: `sentrely run -- claude`.
//!
//! Everything that happens is an [`session::lifecycle::Input`]; one pure state machine turns inputs into actions; one
//! supervisor carries them out and alone writes an append-only journal; everything else only reads that journal.
//!
//! # Layers
//!
//! A module imports only from lines below its own (`tests/layering.rs` enforces it); no part imports another part.
//!
//! ```text
//! 6  main -> cli                                        words in, words out: clap, tables, exit codes
//! 5  session                                            one run; the only place where the parts meet
//! 4  process  proxy  aws  git  wall  forge  simulated  dashboard  alerts   parts; none imports another part
//! 3  store  config                                      what lies on disk
//! 2  system                                             what the kernel tells of processes: a room for each system
//! 1  meter                                              budgets, prices, context, ledger. Pure
//! 0  model                                              vocabulary. Pure data
//! ```
//!
//! Layers 0 and 1 do no I/O, are not async and read no clock: "now" is an argument.
//!
//! # A run
//!
//! ```text
//! shell ── guardian ── supervisor ── the command and everything below it
//!          [process]   [session]      │ model:  proxy   -> upstream, with the real credential; asks the meter
//!                                     │ git:    gate    -> the remote, with the developer's own git
//!                                     │ AWS:    endpoint of the lease, refreshed by STS
//! ```
//!
//! # Invariants
//!
//! - I1 No byte of a request body or an answer is changed (`tests/integration/proxy.rs`).
//! - I2 No request passes the proxy without a permit from admission (`tests/integration/proxy.rs`).
//! - I3 What we lost sight of is charged at its ceiling, never at zero (`meter::tests`, `model::view`), in the ledger of shared limits too
//!   (`meter::ledger`, `tests/integration/ledger.rs`).
//! - I4 Spending stops before processes are signalled (`session::lifecycle`, property test; `sentrely demo --check`).
//! - I5 The journal has one writer: the holder of the lock. It is hash-chained (`store::journal`, property test).
//! - I6 Prompts and answers are never stored, only counts, names, digests and sizes ([`model::Event`] has no place for them).
//! - I7 Of the Anthropic, AWS and git credentials that sentrely manages the child holds none that outlives the session or works
//!   outside it; the user's own claude login file is the exception (`tests/integration/session.rs`, `claude`).
//! - I8 If the supervisor dies, by SIGKILL too, the guardian ends the tree; if both die at once the child can no longer spend
//!   through us and the next sentrely command sweeps it (`tests/process`, `tests/integration/session.rs`).
//! - I9 The agent cannot raise its own limits: project file, environment, `sentrely` called from inside, control socket
//!   (`tests/integration/config.rs`, property test; `session::control`).
//! - I10 "killed" is said only when nothing of the session is left; otherwise what is left is named and the exit is non-zero
//!   (`tests/process`, `tests/integration/readers.rs`).

pub mod alerts;
pub mod aws;
pub mod cli;
pub mod config;
pub mod dashboard;
pub mod forge;
pub mod git;
pub mod meter;
pub mod model;
pub mod process;
pub mod proxy;
pub mod session;
pub mod simulated;
pub mod store;
pub mod system;
pub mod wall;
