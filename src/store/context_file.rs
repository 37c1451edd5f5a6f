//! `context.json`: what filled the main conversation's context at its last request. Kinds, names, paths and sizes only (invariant I6).

use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{SessionDir, replace};
use crate::meter::anatomy::Anatomy;
use crate::model::RequestId;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextFile {
    /// 1.
    pub schema_version: u32,
    /// The request; what its prompt had in tokens stands in the journal.
    pub request: RequestId,
    /// When its body was looked at.
    pub at: Timestamp,
    /// Its parts; absent where the body could not be taken apart.
    pub anatomy: Option<Anatomy>,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

impl SessionDir {
    /// Replaces the file.
    pub fn write_context(&self, context: &ContextFile) -> io::Result<()> {
        replace(&self.path().join("context.json"), &serde_json::to_vec(context)?)
    }

    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// It is there and cannot be read or understood.
    pub fn read_context(&self) -> io::Result<Option<ContextFile>> {
        match std::fs::read(self.path().join("context.json")) {
            Ok(content) => Ok(Some(serde_json::from_slice(&content)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
