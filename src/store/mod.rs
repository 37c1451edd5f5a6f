//! What lies on disk (DESIGN section 7): the state directory, one directory a session, the journal, the index, the lock.
//!
//! Readers need nothing but this module: what they show is rebuilt from the journal, and whether a session lives is asked of its
//! lock, never of a process id.

mod atomic;
mod closing;
mod context_file;
mod index;
mod journal;
pub mod kill_file;
mod killing;
mod ledger;
mod leftover;
mod lock;
mod orphans;
pub mod prune;
mod session_dir;
mod spending;
mod state_dir;
pub mod sweep;
mod tail;

pub use atomic::replace;
pub use closing::{Closer, Closing, ClosingError, standing_kill_file};
pub use context_file::ContextFile;
pub use index::{append_to_index, compact_index, read_index};
pub use journal::{ChainError, Journal, JournalError, last_record, read_journal, verify_journal};
pub use killing::Killing;
pub use ledger::{LedgerError, LedgerFile};
pub use lock::SessionLock;
pub use session_dir::SessionDir;
pub use spending::{book_ended, book_session, open_ledger, read_ledger, settle_stale};
pub use state_dir::{FindError, StateDir, StateError};
pub use tail::{Line, Tail};
