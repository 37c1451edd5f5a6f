//! The moment in which the command begins: the wall goes up, the time limit starts to count, the agent is spawned.

use std::collections::VecDeque;
use std::ffi::OsString;

use tokio::task::JoinHandle;

use super::super::chronicle::Chronicle;
use super::super::clock::Deadline;
use super::super::environment::Env;
use super::super::lifecycle::{Input, StopCall};
use super::super::network::Cut;
use super::super::prepare::Prepared;
use super::super::wall::{self, Raised};
use super::super::workplace::Workplace;
use super::super::{RunError, familiar};
use super::record;
use crate::config::Hidden;
use crate::model::{Event, StopReason};
use crate::process::{Agent, AgentRequest, Cgroup};

/// Starts the command with these arguments and this environment.
pub(super) fn begin(
    prepared: &Prepared,
    workplace: &mut Workplace,
    args: Vec<OsString>,
    env: Env,
    cut: Option<Cut>,
    tasks: &mut Vec<JoinHandle<()>>,
) -> Result<(Agent, Deadline), RunError> {
    let chronicle = workplace.chronicle.clone();
    let wall = wall::raise(prepared, workplace, cut.as_ref().map(Cut::doors).as_deref())?;
    note_wall(&chronicle, prepared, &wall)?;
    if let Some(layer) = &wall.layer {
        familiar::seed_state(prepared, workplace, layer)
            .map_err(|error| RunError::io(error, "write the session's copy of Claude Code's state file"))?;
    }
    workplace.layer = wall.layer;
    // Before there is anything to stop: a supervisor that is stopped in between has no time to give away.
    let deadline = Deadline::starts(prepared.time_limit, prepared.time_used);
    let command = wall.launcher.into_iter().chain([prepared.request.program.path.clone().into()]).chain(args);
    let mut command = command.collect::<VecDeque<OsString>>();
    let (program, args) = (command.pop_front().unwrap_or_default().into(), command.into());
    let agent = Agent::spawn(AgentRequest {
        program,
        args,
        env: env.into_iter().collect(),
        cwd: workplace.cwd.clone(),
        cgroup: if Hidden::here().cgroups { None } else { Cgroup::make(&prepared.id.short()) },
        pre_exec: wall.hook,
        successor: wall.successor,
    })
    .map_err(|error| {
        let (hint, code) = (error.hint(), error.exit_code());
        RunError { error: error.into(), hint, code }
    })?;
    if let (Some(cut), Some(arriving)) = (cut, wall.doors) {
        match cut.open(arriving, chronicle.clone()) {
            Ok(mut doors) => tasks.append(&mut doors),
            // It reaches nothing then, and is ended.
            Err(error) => {
                let note = Some(format!("the doors of its network could not be opened: {error}"));
                let _ = workplace.inputs.send(Input::Stop(StopCall::own(StopReason::Terminated, "the wall", note)));
            }
        }
    }
    Ok((agent, deadline))
}

/// What is hidden and what stays open, for `show` and `log`.
fn note_wall(chronicle: &Chronicle, prepared: &Prepared, wall: &Raised) -> Result<(), RunError> {
    if !wall.hidden.is_empty() {
        let hidden: Vec<String> = wall.hidden.iter().map(|path| path.display().to_string()).collect();
        record(chronicle, Event::Notice { what: format!("wall: hidden: {}", hidden.join(", ")) })?;
    }
    record(chronicle, Event::Notice { what: format!("wall: {}", prepared.wall.open) })
}
