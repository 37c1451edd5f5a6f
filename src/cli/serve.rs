//! `sentrely serve`: the sessions and their kill switch over HTTP, for programs on this machine.

use super::failure::Failure;
use super::words::clean;
use super::{inside_session, open_state, ui};
use crate::dashboard::Dashboard;

/// Serve the sessions and their kill switch over HTTP on this machine
///
/// On 127.0.0.1 only, for whoever has the token of the file that it names. GET /openapi.json describes it. It runs until it is ended;
/// the sessions do not depend on it. Its URL goes to stdout.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The port [default: a free one]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
}

/// Serves until a signal ends it.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    if inside_session().is_some() {
        return Err(Failure::inside("serve"));
    }
    let state = open_state()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::command(anyhow::Error::new(error).context("start the runtime"), None))?;
    runtime.block_on(async {
        let dashboard = Dashboard::bind(state, args.port).await.map_err(|error| {
            let hint = error.hint();
            Failure::command(error, hint)
        })?;
        let (url, token) = (dashboard.url(), clean(&dashboard.token_file().display().to_string()));
        ui::say("sentrely serves the sessions of this account, on this machine only");
        ui::say(&format!("  token   {token}"));
        ui::say(&format!("  try     curl -H \"Authorization: Bearer $(cat {token})\" {url}/sessions"));
        // Last, and alone on stdout: who reads it can connect.
        ui::print(&format!("{url}\n"))?;
        match dashboard.serve().await {}
    })
}
