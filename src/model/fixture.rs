//! A session to begin with, for unit tests of every layer.

use jiff::Timestamp;

use super::{DeveloperSource, Event, Record, SessionId, SessionView, Workspace};

/// The first event of a session without a workspace.
pub(crate) fn created(id: SessionId) -> Event {
    Event::SessionCreated {
        id,
        developer: "ana".into(),
        developer_source: DeveloperSource::SelfDeclared,
        project: "shop".into(),
        workspace: Workspace::None,
        directory: "/".into(),
        checkout: None,
        branch: None,
        base: None,
        base_commit: None,
    }
}

/// An event as it stands in a journal.
pub(crate) fn record(event: Event) -> Record {
    Record { v: 1, seq: 1, at: Timestamp::UNIX_EPOCH, prev: String::new(), event }
}

/// What is known of a session that has just begun.
pub(crate) fn session() -> SessionView {
    SessionView::begin(&record(created(SessionId::new()))).unwrap()
}
