//! The integration tests: one binary, a module a subject.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod aws;
mod branches;
mod budget;
mod claude;
mod clearing;
mod config;
mod crash;
mod defaults;
mod demo;
mod drill;
mod e2e;
mod git;
mod jobs;
mod killing;
mod ladder;
mod ledger;
mod process;
mod proxy;
mod pull_request;
mod readers;
mod routing;
mod serve;
mod session;
mod talk;
mod triggers;
mod wall;
